"""`python -m tools.env_example`: writes `.local.env.example` from `Settings`."""

from pathlib import Path

from src.config import Settings, default_of

_FILE = Path(__file__).parent.parent / ".local.env.example"
_HEADER = (
    "# Copy to `.local.env`, which `./run.sh` reads (other starts: `--env local`); every line is optional. "
    "Flags and the environment win over it."
)
_NOT_IN_A_FILE = {"app_env"}  # it chooses the file


def text() -> str:
    """The file's text: each setting's description, and its name with the default that holds in production."""
    settings = (
        f"# {field.description}\n# {name.upper()}={default_of(field)}"
        for name, field in Settings.model_fields.items()
        if name not in _NOT_IN_A_FILE
    )
    return "\n\n".join([_HEADER, *settings]) + "\n"


if __name__ == "__main__":
    _FILE.write_text(text(), encoding="utf-8")
