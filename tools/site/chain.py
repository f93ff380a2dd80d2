"""The layers around the app, from the list in `src.security` that builds them."""

from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from src.config import Settings
from src.rate_limit import MemoryBuckets, RateLimit
from src.security import EdgeMiddleware, header_policy, layers
from tools.site.docstrings import summary


@dataclass(frozen=True)
class Layer:
    """A layer, with its docstring's summary."""

    name: str
    summary: str


def chain() -> list[Layer]:
    """The layers as a production service has them, outermost first."""
    settings = Settings(_env_file=None, model="offline/demo")
    made: list[type] = [
        type(layer(_app))
        for layer in layers(settings, RateLimit(MemoryBuckets(), settings.rate_limit), header_policy(settings))
    ]
    return [Layer(kind.__name__, summary(kind)) for kind in (EdgeMiddleware, *made)]


async def _app(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """Stand in for the app."""
