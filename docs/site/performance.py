"""The figures and plots of the benchmarks, from `docs/performance/`."""

from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "performance"


def results(folder: Path = FOLDER) -> str:
    """The figures of the last run, as the benchmark wrote them; nothing where none has been kept."""
    file = folder / "results.md"
    return file.read_text(encoding="utf-8") if file.exists() else ""


def plots(folder: Path = FOLDER) -> str:
    """All plots, each under its name."""
    files = sorted(folder.glob("*.svg"))
    return "\n\n".join(f"![{file.stem.replace('-', ' ')}]({folder.name}/{file.name})" for file in files)
