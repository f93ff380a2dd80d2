"""Delay the import of modules that libraries import but this service does not need."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any


@contextmanager
def lazy_imports(*modules: str) -> Iterator[None]:
    """Within the block, importing one of these modules gives stand-ins for its names and imports nothing.

    Use it for names that a library imports but does not use at once, as in `from module import Name`. A stand-in
    imports its module when it is called, iterated over, indexed, asked for an attribute, or used in a type check. It
    can't be a base class or the type of a pydantic field. After the block, imports get the real module. Modules that
    are already imported are not affected.
    """
    stand_ins = {name: _LazyModule(name) for name in modules if name not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, stand_in in stand_ins.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]


class _LazyModule(ModuleType):
    """A module that has every name, except those that Python itself looks for."""

    def __getattr__(self, name: str) -> "_LazyName":
        if name.startswith("__"):
            raise AttributeError(name)
        return _LazyName(name, (), {"_module": self.__name__})


class _LazyName(type):
    """A stand-in for a name of a module. It is a class, because annotations and unions accept nothing else."""

    _module: str

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> "_LazyName":
        if bases:
            raise TypeError(f"{name}: {bases[0].__name__} is imported lazily and can't be a base class")
        return super().__new__(cls, name, bases, namespace)

    def _get(cls) -> Any:
        if isinstance(sys.modules.get(cls._module), _LazyModule):
            del sys.modules[cls._module]
        return getattr(import_module(cls._module), cls.__name__)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(cls._get(), name)

    def __call__(cls, *arguments: Any, **options: Any) -> Any:
        return cls._get()(*arguments, **options)

    def __iter__(cls) -> Iterator[Any]:
        return iter(cls._get())

    def __getitem__(cls, key: Any) -> Any:
        return cls._get()[key]

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls._get())

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, cls._get())
