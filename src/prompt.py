"""A prompt in typed parts: the service's own instructions, callers' texts, and images.

Genkit compiles a string as a Handlebars template and searches it for Dotprompt's markers. So `src.llm` accepts the
parts below, never a string, and passes each to the provider as a part of its own.
"""

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from src.images.fetch import FetchedImage
from src.util.surrogates import replace_lone_surrogates

PROMPTS = Path(__file__).resolve().parent.parent / "prompts"

MAX_FREE_TEXT = 2000  # characters

_EXPRESSION = re.compile(r"\{\{[^}]*\}?\}?")
_ROLE = re.compile(r'\{\{role "(?:system|user)"\}\}')
_FRONT_MATTER_KEY = re.compile(r"^(\w+):", re.MULTILINE)


class Instruction(Enum):
    """Base of enums with the service's own texts: system prompts, and labels before callers' texts.

    Members are defined at import, so text that is known only at run time, such as a caller's, can't become one.
    """


@dataclass(frozen=True, slots=True)
class CallerText:
    """Text from outside. It reaches the model unchanged, as one user part."""

    text: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", replace_lone_surrogates(self.text))


@dataclass(frozen=True, slots=True)
class Image:
    """An image for the model. Raises ValueError unless it is a `data:` URL of an image."""

    url: FetchedImage

    def __post_init__(self) -> None:
        if not self.url.startswith("data:image/"):
            raise ValueError("an image reaches the model only as a data: URL")

    @property
    def media_type(self) -> str:
        return self.url[5:64].partition(";")[0]


UserPart = Instruction | CallerText | Image


def sanitize(text: str) -> str:
    """Strip free text and cut it to 2,000 characters."""
    return text.strip()[:MAX_FREE_TEXT]


def free_text(text: str | None) -> CallerText:
    """Return a caller's free text, sanitized. Source code must not be cut: use `CallerText(code)`."""
    return CallerText(sanitize(text or ""))


@dataclass(frozen=True, slots=True)
class PromptFile:
    """The Dotprompt file `prompts/<name>.prompt`, which contains instructions only.

    Dotprompt searches the *rendered* text for its markers, so a value in a file could forge system prompts, other turns
    and media. Callers' texts are therefore passed beside the file.

    Raises:
        ValueError: The file is missing, has a template expression other than `{{role "system"}}` and `{{role "user"}}`,
            or sets more than its description.
    """

    name: str

    def __post_init__(self) -> None:
        path = PROMPTS / f"{self.name}.prompt"
        if not path.is_file():
            raise ValueError(f"{path.name}: no such file in {PROMPTS}")
        source = path.read_text(encoding="utf-8")
        for expression in _EXPRESSION.findall(source):
            if not _ROLE.fullmatch(expression):
                raise ValueError(f"{path.name}: {expression} is not allowed: pass callers' texts beside the file")
        front_matter = source.split("---\n")[1] if source.startswith("---\n") else ""
        if set(_FRONT_MATTER_KEY.findall(front_matter)) - {"description"}:
            raise ValueError(f"{path.name}: only a description may stand in the front matter; the call sets the rest")
