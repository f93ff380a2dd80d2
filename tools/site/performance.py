"""The figures and plots of the benchmarks, from `docs/performance/`."""

from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent.parent / "docs" / "performance"


def results(folder: Path = FOLDER) -> str:
    """Return the tables of the last benchmark run, or an empty text if there are none."""
    file = folder / "results.md"
    return file.read_text(encoding="utf-8") if file.exists() else ""


def plots(folder: Path = FOLDER) -> str:
    """Return all plots, each with its name."""
    files = sorted(folder.glob("*.svg"))
    return "\n\n".join(f"![{file.stem.replace('-', ' ')}]({folder.name}/{file.name})" for file in files)
