"""Gives a process, by PYTHONPATH, the small service's rows, flows and messages in the place of the samples."""

import importlib
import sys
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent.parent.parent))


class Finder:
    """Finds three modules of `src` as they would be found, and changes them once they have run."""

    @staticmethod
    def find_spec(name: str, path: Any, _target: object = None) -> ModuleSpec | None:
        if name not in CHANGES:
            return None
        spec = PathFinder.find_spec(name, path)
        assert spec is not None
        spec.loader = ChangingLoader(spec.loader)
        return spec


class ChangingLoader(Loader):
    """Runs a module as its own loader does, but for the change."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        CHANGES[module.__name__](self._loader, module)


def operations(loader: Any, module: ModuleType) -> None:
    """The rows, and the flows that they name."""
    loader.exec_module(module)
    small = importlib.import_module("testing.small_service")
    module.OPERATIONS = small.OPERATIONS  # type: ignore[attr-defined]
    sys.modules["src.flows"].Flows = small.Flows  # type: ignore[attr-defined]


def flows(loader: Any, module: ModuleType) -> None:
    """Import the rows at once, which change this module."""
    loader.exec_module(module)
    importlib.import_module("src.operations")


def messages(_loader: Any, module: ModuleType) -> None:
    """In the default pool, where reflection looks: those of `src` are never made."""
    from google.protobuf import descriptor_pool

    rows = importlib.import_module("src.operations").OPERATIONS
    messages_of = importlib.import_module("testing.small_service.messages").messages_of
    vars(module).update(vars(messages_of(rows, descriptor_pool.Default())))


CHANGES = {"src.operations": operations, "src.flows": flows, "src.generated.service_pb2": messages}
sys.meta_path.insert(0, Finder)
