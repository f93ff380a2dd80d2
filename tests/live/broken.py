"""The service with flows that have bugs."""

from genkit import ActionRunContext
from starlette.types import ASGIApp

from src import asgi, service
from testing.small_service import ChatRequest, ChatResponse, Flows, StoryRequest, StoryResponse


class BrokenFlows(Flows):
    """One fails at once, one in mid-stream."""

    async def pirate_chat(self, input: ChatRequest) -> ChatResponse:
        raise LookupError(f"canary: {input.question}")

    async def tell_story(self, input: StoryRequest, ctx: ActionRunContext[str]) -> StoryResponse:
        ctx.send_chunk("once")
        raise LookupError(f"canary: {input.topic}")


def create_app() -> ASGIApp:
    """As the real one."""
    service.Flows = BrokenFlows  # type: ignore[assignment,attr-defined]
    return asgi.create_app()
