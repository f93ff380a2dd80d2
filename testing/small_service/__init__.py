"""A service of its own for the tests of the platform, so that they do not depend on the sample flows.

It has one row of each kind: a text, a stream, a structured output from the cache, and an image. Processes that tests
start get it by `site/sitecustomize.py`, what runs in the tests' own process by `in_this_process`.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any, Literal
from unittest import mock

from genkit import ActionRunContext
from pydantic import Field

from src.images.fetch import ImageFetcher
from src.llm import Llm
from src.operations import Operation
from src.prompt import CallerText, Image, Instruction, free_text, sanitize
from src.schemas import NonBlankText, Schema
from testing.small_service.messages import Stub, messages_of

# The smallest valid PNG: an image that needs no network.
DOT = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR4"
    "2mNk+P8fAAMDAQEBS3o6IAAAAABJRU5ErkJggg=="
)


class ChatRequest(Schema):
    question: NonBlankText = Field("What is the best treasure?", max_length=5000)


class ChatResponse(Schema):
    answer: str
    persona: str = "pirate captain"


class StoryRequest(Schema):
    topic: NonBlankText = Field("a brave cat", max_length=1000)


class StoryResponse(Schema):
    story: str


class TranslateRequest(Schema):
    text: NonBlankText = Field("Hello, how are you?", max_length=10_000)
    target_language: str = Field("French", max_length=100)


class Translation(Schema):
    """The part of the answer that the LLM has to give."""

    translated_text: str
    confidence: Literal["high", "medium", "low"]


class TranslationResponse(Schema):
    original_text: str
    translated_text: str
    target_language: str
    confidence: Literal["high", "medium", "low"]


class ImageRequest(Schema):
    image_url: str = Field(DOT, max_length=2048)


class ImageResponse(Schema):
    description: str
    image_url: str


class Say(Instruction):
    PERSONA = "You are a pirate captain from the golden age of piracy."
    STORY = "Tell a short story, of about 200 words, about the topic."
    TRANSLATE = "Translate the text into the target language. For the time, use the tool get_current_time."
    DESCRIBE = "You describe images in a few sentences."
    DESCRIBE_THIS = "Describe this image."
    TOPIC = "Topic:"
    TARGET_LANGUAGE = "Target language:"
    TEXT = "Text:"


async def get_current_time() -> str:
    """The current date and time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Flows:
    """The flows of the rows, as `src.flows.Flows` has others."""

    def __init__(self, llm: Llm, images: ImageFetcher) -> None:
        self._llm = llm
        self._images = images
        self._clock = llm.tool(get_current_time)

    async def pirate_chat(self, input: ChatRequest) -> ChatResponse:
        return ChatResponse(answer=await self._llm.text(Say.PERSONA, free_text(input.question)))

    async def tell_story(self, input: StoryRequest, ctx: ActionRunContext[str]) -> StoryResponse:
        story = await self._llm.text(Say.STORY, Say.TOPIC, free_text(input.topic), on_text=ctx.send_chunk)
        return StoryResponse(story=story)

    async def translate_text(self, input: TranslateRequest) -> TranslationResponse:
        async def sanitize_input() -> str:
            return sanitize(input.text)

        text = await self._llm.step("sanitize-input", sanitize_input)
        translation = await self._llm.structured(
            Translation,
            Say.TRANSLATE,
            *(Say.TARGET_LANGUAGE, free_text(input.target_language), Say.TEXT, CallerText(text)),
            tools=[self._clock],
        )
        return TranslationResponse(
            original_text=input.text, target_language=input.target_language, **translation.model_dump()
        )

    async def describe_image(self, input: ImageRequest) -> ImageResponse:
        async with self._images.fetched(input.image_url) as image:
            description = await self._llm.text(Say.DESCRIBE, Say.DESCRIBE_THIS, Image(image))
        return ImageResponse(description=description, image_url=input.image_url)


OPERATIONS = (
    Operation(Flows.pirate_chat, ChatRequest, ChatResponse, "/chat", "PirateChat"),
    Operation(Flows.tell_story, StoryRequest, StoryResponse, "/tell-story/stream", "TellStory", text_field="story"),
    Operation(Flows.translate_text, TranslateRequest, TranslationResponse, "/translate", "TranslateText", cached=True),
    Operation(Flows.describe_image, ImageRequest, ImageResponse, "/describe-image", "DescribeImage", cached=True),
)
pb = messages_of(OPERATIONS)
SERVICE = pb.DESCRIPTOR.services_by_name["GenkitService"]


def stub(channel: Any) -> Stub:
    """Make a client of the RPCs."""
    return Stub(channel, pb)


@contextmanager
def in_this_process() -> Iterator[None]:
    """Put the rows and the flows in the place of the samples, in all modules of `src` that are imported."""
    for name in ("src.service", "src.rpc.server"):
        importlib.import_module(name)
    ours = {"OPERATIONS": OPERATIONS, "Flows": Flows, "SERVICE_DESCRIPTOR": SERVICE, "service_pb2": pb}
    with ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.startswith("src."):
                found = {key: value for key, value in ours.items() if key in vars(module)}
                if found:
                    stack.enter_context(mock.patch.multiple(module, **found))
        yield
