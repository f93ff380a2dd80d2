"""Reads the imports between modules of `src` from their source; lists the rooms that modules belong to."""

import ast
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

# Modules of no folder, by room. A folder is a room of its own name, unless `FOLDERS` gives it another.
MODULES: Mapping[str, tuple[str, ...]] = {
    "Start-up": ("__main__", "main", "asgi", "service", "app_init"),
    "Middleware chain": ("security",),
    "Rate limit": ("rate_limit",),
    "Running a flow": ("runner", "cache", "drain"),
    "Your code": ("operations", "flows", "schemas"),
    "LLM guards": ("llm", "prompt", "request_guard", "bulkhead", "circuit_breaker"),
    "Providers": ("connection",),
    "Settings": ("config", "config_checks", "settings_loader"),
    "Errors": ("errors",),
    "Utilities": ("marks",),
}
FOLDERS: Mapping[str, str] = {
    "lifecycle": "Start-up",
    "telemetry": "Telemetry",
    "middleware": "Middleware chain",
    "rest": "REST",
    "rpc": "gRPC",
    "generated": "gRPC",
    "images": "LLM guards",
    "providers": "Providers",
    "logs": "Logs",
    "callers": "Utilities",
    "util": "Utilities",
}
ROOMS: Mapping[str, tuple[str, ...]] = {
    room: (*MODULES.get(room, ()), *(folder for folder, of in FOLDERS.items() if of == room))
    for room in dict.fromkeys((*MODULES, *FOLDERS.values()))
}
# Arrows from these to all others, and from all others to those, would hide the rest.
ALL_SEEING = ("Telemetry",)
SHARED = ("Logs", "Settings", "Errors", "Utilities")


def modules(package: Path = ROOT / "src") -> dict[str, Path]:
    """All modules by dotted name, without the package's own name: `rest`, `util.hash`."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        name = ".".join(path.relative_to(package).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        if name:
            found[name] = path
    return found


def imports(package: Path = ROOT / "src") -> set[tuple[str, str]]:
    """Pairs of modules of which the first imports the second, wherever in its source."""
    known = modules(package)
    pairs = set()
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            pairs |= {(name, target) for target in _targets(node, package.name) if target in known and target != name}
    return pairs


def _targets(node: ast.AST, package: str) -> list[str]:
    prefix = f"{package}."
    if isinstance(node, ast.Import):
        return [alias.name.removeprefix(prefix) for alias in node.names if alias.name.startswith(prefix)]
    if isinstance(node, ast.ImportFrom) and node.module == package:
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(prefix):
        module = node.module.removeprefix(prefix)
        return [module, *(f"{module}.{alias.name}" for alias in node.names)]
    return []


def room_of(module: str) -> str:
    """The room of a module. Raises LookupError for one that has none."""
    folder = module.partition(".")[0]
    room = next((room for room, members in ROOMS.items() if module in members or folder in members), None)
    if room is None:
        raise LookupError(f"src/{module.replace('.', '/')}.py is in no room: add it to tools/site/imports.py")
    return room


def room_imports(package: Path = ROOT / "src") -> set[tuple[str, str]]:
    """Pairs of rooms of which the first imports something of the second."""
    pairs = {(room_of(importing), room_of(imported)) for importing, imported in imports(package)}
    return {(importing, imported) for importing, imported in pairs if importing != imported}
