"""One row per flow. Both protocols are generated from these rows.

To add a flow, add its models to `schemas.py`, its method to `flows.py`, its messages and RPC to the proto file, and a
row here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from src import schemas
from src.flows import Flows


@dataclass(frozen=True, slots=True)
class Operation:
    """A flow and its endpoints.

    Attributes:
        flow: The method of `Flows` that runs it.
        input, output: Its models.
        path: Path over REST, for POST.
        rpc: The method's name in `GenkitService`.
        cached: True if equal inputs may get the cached result.
        text_field: For a streamed flow, the output field that its chunks add up to; None for a unary one.
        json_field: The field of the RPC's response that holds the whole output as JSON text, if there is one.
    """

    flow: Callable[..., Any]
    input: type[BaseModel]
    output: type[BaseModel]
    path: str
    rpc: str
    cached: bool = False
    text_field: str | None = None
    json_field: str | None = None

    @property
    def name(self) -> str:
        """The flow's name in Genkit, in logs and in the API docs."""
        return self.flow.__name__

    @property
    def streamed(self) -> bool:
        """True if the response is streamed: server-sent events over REST, a server stream over gRPC."""
        return self.text_field is not None


OPERATIONS: tuple[Operation, ...] = (
    Operation(Flows.tell_joke, schemas.JokeRequest, schemas.JokeResponse, "/tell-joke", "TellJoke"),
    Operation(
        Flows.tell_joke_stream,
        schemas.JokeRequest,
        schemas.JokeResponse,
        "/tell-joke/stream",
        "TellJokeStream",
        text_field="joke",
    ),
    Operation(
        Flows.tell_story,
        schemas.StoryRequest,
        schemas.StoryResponse,
        "/tell-story/stream",
        "TellStory",
        text_field="story",
    ),
    Operation(
        Flows.translate_text,
        schemas.TranslateRequest,
        schemas.TranslationResponse,
        "/translate",
        "TranslateText",
        cached=True,
    ),
    Operation(
        Flows.describe_image,
        schemas.ImageRequest,
        schemas.ImageResponse,
        "/describe-image",
        "DescribeImage",
        cached=True,
    ),
    Operation(
        Flows.generate_character,
        schemas.CharacterRequest,
        schemas.RpgCharacter,
        "/generate-character",
        "GenerateCharacter",
        cached=True,
    ),
    Operation(Flows.pirate_chat, schemas.ChatRequest, schemas.ChatResponse, "/chat", "PirateChat"),
    Operation(
        Flows.generate_code, schemas.CodeRequest, schemas.CodeResponse, "/generate-code", "GenerateCode", cached=True
    ),
    Operation(
        Flows.review_code,
        schemas.CodeReviewRequest,
        schemas.CodeReviewResponse,
        "/review-code",
        "ReviewCode",
        cached=True,
        json_field="review",
    ),
)
