"""The last check of a request before it goes to the provider.

SDKs download or open media URLs, and models obey system prompts and earlier turns. If text from outside ever becomes
more than the text of a user part, the call ends here.
"""

from collections.abc import Sequence

import structlog
from genkit import Message, Part, Role

from src.errors import AnswerUnusable, ServiceError

MAX_REQUEST_CHARS = 200_000  # without images; fits the longest input, Genkit's instructions and five tool rounds

log = structlog.get_logger(__name__)


def check_request(sent: Sequence[Message], made: Sequence[Message]) -> None:
    """Compare the messages of a request with those that `src.llm` made for this call.

    Genkit may add its instructions for the output format, and tool rounds: a model's turn and its tools' results,
    without media.

    Raises:
        ServiceError: It has other content, which is a bug.
        AnswerUnusable: Tool rounds made it longer than `MAX_REQUEST_CHARS`.
    """
    ours, rounds = sent[: len(made)], sent[len(made) :]
    if not _are_as_made(ours, made) or not _are_tool_rounds(rounds):
        log.error("blocked an LLM request with content from elsewhere", roles=[each.role for each in sent])
        raise ServiceError
    length = sum(_length(part) for message in sent for part in message.content)
    if length > MAX_REQUEST_CHARS:
        log.error("blocked an LLM request that is too long", characters=length, tool_rounds=len(rounds) // 2)
        raise AnswerUnusable if rounds else ServiceError


def _are_as_made(sent: Sequence[Message], made: Sequence[Message]) -> bool:
    return [(each.role, _without_format(each)) for each in sent] == [(each.role, each.content) for each in made]


def _without_format(message: Message) -> list[Part]:
    return [part for part in message.content if (part.metadata or {}).get("purpose") != "output"]


def _are_tool_rounds(messages: Sequence[Message]) -> bool:
    roles = [message.role for message in messages]
    return roles == [Role.MODEL, Role.TOOL] * (len(roles) // 2) and not any(
        _has_media(part) for message in messages for part in message.content
    )


def _has_media(part: Part) -> bool:
    return (
        part.media is not None or part.resource is not None or bool(part.tool_response and part.tool_response.content)
    )


def _length(part: Part) -> int:
    if part.text is not None:
        return len(part.text)
    return 0 if part.media is not None else len(part.model_dump_json())
