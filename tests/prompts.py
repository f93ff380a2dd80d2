"""Prompts for tests that are not about them."""

from pathlib import Path

from src.prompt import CallerText, Instruction, UserPart

FILES = Path(__file__).parent / "prompt_files"


class Say(Instruction):
    """System prompts."""

    BRIEF = "Be brief."
    PIRATE = "You are a pirate. Be kind."


def saying(text: str) -> tuple[Instruction, UserPart]:
    """A prompt of which this is the caller's part."""
    return Say.BRIEF, CallerText(text)


HELLO = saying("hello")
