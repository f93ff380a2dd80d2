"""Tables of the metrics, alerts and panels, from the files that define them."""

import ast
import json
from pathlib import Path
from typing import Any

import yaml

from tools.site.markdown_table import code, table

ROOT = Path(__file__).resolve().parent.parent.parent
GRAFANA = ROOT / "deploy/grafana"
KINDS = ("Counter", "Gauge", "Histogram")


def metrics_table(source: Path = ROOT / "src/telemetry/metrics.py") -> str:
    """Return a table with a row per metric, read from the source."""
    found = [
        (node.lineno, _metric(node.func.id, node.args))
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS
    ]
    return table(("Metric", "Labels", "Meaning"), (row for _, row in sorted(found)))


def _metric(kind: str, arguments: list[ast.expr]) -> tuple[str, ...]:
    name, told, *labels = map(ast.literal_eval, arguments)
    full_name = f"{name}_total" if kind == "Counter" else name
    return f"{code(full_name)}<br>{kind.lower()}", ", ".join(map(code, labels[0])) if labels else "", told


def alerts() -> list[dict[str, Any]]:
    """Return the alert rules."""
    groups = yaml.safe_load((GRAFANA / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts_table() -> str:
    """Return a table with a row per alert."""
    rows = (
        (
            f"[{code(rule['alert'])}](#{rule['alert'].lower()})",
            rule["labels"]["severity"],
            rule["for"],
            rule["annotations"]["summary"],
            rule["annotations"]["action"],
        )
        for rule in alerts()
    )
    return table(("Alert", "Severity", "After", "Meaning", "First action"), rows)


def panels() -> str:
    """Return a list of the dashboard's panel titles."""
    dashboard = json.loads((GRAFANA / "dashboard.json").read_text(encoding="utf-8"))
    return "\n".join(f"- {panel['title']}" for panel in dashboard["panels"])
