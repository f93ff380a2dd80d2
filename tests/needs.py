"""Skips tests whose tools, other than Python, are missing, and says how to get these. In CI a skip is a failure."""

import re
import shutil
import subprocess
from functools import cache

import pytest

from testing.service import ROOT

# Command -> Debian's package.
_PACKAGES = {
    "bash": "bash",
    "chromium": "chromium",
    "curl": "curl",
    "dot": "graphviz",
    "git": "git",
    "nginx": "nginx",
    "node": "nodejs",
    "npx": "npm",
    "openssl": "openssl",
    "prometheus": "prometheus",
    "promtool": "prometheus",
}
# Older versions lack curl's `--json` and `%header{}`, and can't run playwright.
_MIN_VERSIONS = {"curl": (7, 84), "node": (18,)}
# Name -> package of package.json; each needs node as well.
_NODE_PACKAGES = {"buf": "@bufbuild/buf", "playwright": "playwright-core", "swagger-ui": "swagger-ui-dist"}


def needs(*tools: str) -> pytest.MarkDecorator:
    """Skip a test where one of these tools is missing."""
    reason = missing(*tools)
    return pytest.mark.skipif(bool(reason), reason=reason)


def require(*tools: str) -> None:
    """Do the same from within a fixture."""
    if reason := missing(*tools):
        pytest.skip(reason)


def missing(*tools: str) -> str:
    """Name those of these tools that are missing, with how to get each; empty if all are there."""
    reasons = dict.fromkeys(reason for tool in tools if (reason := _missing(tool)))
    return f"needs {', '.join(reasons)}" if reasons else ""


@cache
def _missing(tool: str) -> str:
    if tool in _NODE_PACKAGES:
        is_there = (ROOT / "node_modules" / _NODE_PACKAGES[tool]).is_dir()
        return _missing("node") or ("" if is_there else f"{_NODE_PACKAGES[tool]} (npm install)")
    how = f"Debian: apt install {_PACKAGES[tool]}" if tool in _PACKAGES else "no package of Debian"
    if shutil.which(tool) is None:
        return f"{tool} ({how})"
    least = _MIN_VERSIONS.get(tool, ())
    if least and _version(tool) < least:
        return f"{tool} {'.'.join(map(str, least))} or newer ({how})"
    return ""


def _version(tool: str) -> tuple[int, ...]:
    printed = subprocess.run([tool, "--version"], capture_output=True, text=True, timeout=30).stdout
    found = re.search(r"(\d+)\.(\d+)", printed)
    return (int(found[1]), int(found[2])) if found else ()
