"""Hooks of MkDocs: `<!-- from the code: settings -->` becomes a table made from the code."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from tools.site import diagrams, watching
from tools.site.bounds import bounds_tables
from tools.site.errors_table import errors_table
from tools.site.performance import plots, results
from tools.site.reference import operations_reference, operations_table
from tools.site.settings_table import settings_table

ROOT = Path(__file__).resolve().parent.parent.parent

PARTS: dict[str, Callable[[], str]] = {
    "settings": settings_table,
    "operations": operations_table,
    "reference": operations_reference,
    "errors": errors_table,
    "bounds": bounds_tables,
    "metrics": watching.metrics_table,
    "alerts": watching.alerts_table,
    "panels": watching.panels,
    "benchmark results": results,
    "benchmark plots": plots,
    "diagram: rooms": lambda: diagrams.drawn(diagrams.rooms_graph(), "The rooms of src and what imports what"),
    "diagram: chain": lambda: diagrams.drawn(diagrams.chain_graph(), "The layers around the app, outermost first"),
    "diagram: breaker": lambda: diagrams.drawn(diagrams.breaker_graph(), "The circuit breaker's states"),
}
_MARKER = re.compile(r"^<!-- from the code: (.+?) -->$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add SECURITY.md, which stands at the top of the repository, where hosting sites look for it."""
    files.append(File.generated(config, "reporting.md", abs_src_path=str(ROOT / "SECURITY.md")))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return the page with its markers replaced."""
    return _MARKER.sub(lambda marker: part(marker[1]), markdown)


def part(name: str) -> str:
    """Return a generated part. Raises PluginError if the name is unknown or the part can't be generated."""
    try:
        return PARTS[name]()
    except KeyError:
        raise PluginError(f"<!-- {name} --> is none of: {', '.join(PARTS)}") from None
    except diagrams.NoGraphviz as error:
        raise PluginError(str(error)) from None
