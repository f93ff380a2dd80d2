"""Inputs and outputs of the flows, with all defaults and limits.

Both protocols use these models. Every input field has a default, so `{}` and an empty protobuf message are valid.
"""

import base64
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

# The smallest valid PNG (1x1, transparent): a default image that needs no network.
_DOT_PNG = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010804000000b51c0c020000000b4944415478da6364f8ff1f00"
        "030301014b7a3a200000000049454e44ae426082"
    )
).decode()


def _not_blank(text: str) -> str:
    """Reject blank text, because the flows strip free text and the model needs some."""
    if text.strip():
        return text
    raise PydanticCustomError("string_blank", "String should not be blank")


# Free text that the LLM can't do without.
NonBlankText = Annotated[str, AfterValidator(_not_blank), Field(min_length=1, json_schema_extra={"pattern": r"\S"})]
Ability = Annotated[str, StringConstraints(max_length=200)]


class Schema(BaseModel):
    """Base of all models: names in JSON may be given as declared or by alias."""

    model_config = ConfigDict(populate_by_name=True)


class HealthResponse(Schema):
    status: str = "ok"


class Problem(Schema):
    """Problem details of a failure over REST (RFC 9457)."""

    type: str = Field(description="Names the kind of failure: `urn:problem:...`, or `about:blank`.")
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    request_id: str


class ValidationFailure(Schema):
    """One thing that is wrong with a request."""

    type: str
    loc: list[str | int] = Field(description="Where, from `body` inwards.")
    msg: str


class ValidationFailures(Schema):
    """The body of a 422: every violation, in FastAPI's shape."""

    detail: list[ValidationFailure]


class JokeRequest(Schema):
    name: str = Field("Mittens", max_length=200, description="Who the joke is about.")
    username: str | None = Field(None, max_length=200, description="Whom the joke is told to.")


class JokeResponse(Schema):
    joke: str
    username: str | None = None


class StoryRequest(Schema):
    topic: NonBlankText = Field("a brave cat", max_length=1000, description="What the story is about.")


class StoryResponse(Schema):
    story: str


class TranslateRequest(Schema):
    text: NonBlankText = Field(
        "Hello, how are you?",
        max_length=10_000,
        description="Text to translate; the model gets its first 2,000 characters.",
    )
    target_language: str = Field("French", max_length=100, description="Language to translate into.")


class Translation(Schema):
    """The part of the output that the LLM generates."""

    translated_text: str = Field(description="The translation.")
    confidence: Literal["high", "medium", "low"] = Field(description="How sure the translation is.")


class TranslationResponse(Translation):
    original_text: str
    target_language: str


class ImageRequest(Schema):
    image_url: str = Field(
        f"data:image/png;base64,{_DOT_PNG}",
        max_length=2048,
        description="An `https:`, `http:` or `data:image/...` URL.",
        json_schema_extra={"pattern": "^([hH][tT][tT][pP][sS]?://|[dD][aA][tT][aA]:)"},  # the flow looks closer
    )


class ImageResponse(Schema):
    description: str
    image_url: str


class CharacterRequest(Schema):
    name: str = Field("Luna", max_length=200, description="Name of the character.")


class Skills(Schema):
    strength: int = Field(ge=0, le=100)
    charisma: int = Field(ge=0, le=100)
    endurance: int = Field(ge=0, le=100)


class RpgCharacter(Schema):
    name: str = Field(description="Name of the character.")
    back_story: str = Field(alias="backStory", description="The character's back story.")
    abilities: list[Ability] = Field(max_length=10, description="What the character can do.")
    skills: Skills


class ChatRequest(Schema):
    question: NonBlankText = Field(
        "What is the best treasure?",
        max_length=5000,
        description="What to ask the captain; the model gets its first 2,000 characters.",
    )


class ChatResponse(Schema):
    answer: str
    persona: str = "pirate captain"


class CodeRequest(Schema):
    description: NonBlankText = Field(
        "a function that reverses a string",
        max_length=10_000,
        description="What the code should do; the model gets its first 2,000 characters.",
    )
    language: str = Field(
        "python", max_length=50, pattern=r"^[a-zA-Z#+]+$", description="Programming language to write it in."
    )


class CodeResponse(Schema):
    code: str = Field(description="The source code, without Markdown fences.")
    language: str = Field(description="The programming language.")
    explanation: str = Field(description="How the code works, in short.")
    filename: str = Field(description="A fitting file name.")


class CodeReviewRequest(Schema):
    code: NonBlankText = Field(
        "def add(a, b):\n    return a + b\n",
        max_length=50_000,
        description="Source code to review; it goes whole to the model.",
    )
    language: str | None = Field(
        None, max_length=50, pattern=r"^[a-zA-Z#+]+$", description="Its language; guessed when absent."
    )


class CodeIssue(Schema):
    severity: Literal["info", "minor", "major", "critical"]
    line: int | None = Field(None, ge=1, description="Line the finding is about, from 1.")
    message: str = Field(description="What is wrong.")
    suggestion: str = Field(description="What to do about it.")


class CodeReviewResponse(Schema):
    summary: str = Field(description="The verdict in one or two sentences.")
    issues: list[CodeIssue] = Field(max_length=50, description="What was found, the worst first.")
