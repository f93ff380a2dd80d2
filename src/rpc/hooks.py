"""The record of an RPC, and the hooks around it. Imports no gRPC, so that observers don't need it."""

import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from src.callers.caller import share_key_at

if TYPE_CHECKING:
    from src.util.deadlines import Deadline

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]

# Exempt from the rate limit, and bounded by `rpc.health` and `PROBE_SECONDS` instead.
PROBE_METHODS = frozenset(
    {
        "/genkit.sample.v1.GenkitService/Health",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/List",
        "/grpc.health.v1.Health/Watch",
    }
)
UNKNOWN_OPERATION = "unknown"  # of a method that the service does not have
PROBE_SECONDS = 5.0  # for a whole probe; a watch, once it has begun, has a limit of its own


@dataclass(slots=True)
class Rpc:
    """One RPC.

    Attributes:
        method: Full name, as the client sent it.
        operation: Name in failure logs: the flow's name, or the method's if there is no flow.
        metadata: As the client sent it.
        request_id: The client's, if valid, otherwise a new one.
        client: Address; empty until the RPC's handler runs.
        began: On the performance counter, in seconds.
        sent_bytes: Size of the messages sent to the client so far.
        trailers: Trailing metadata of the RPC, whatever its status.
        code: Name of the RPC's final status; set when the hooks' `on_end` runs.
        deadline: The time limit of all RPCs, while it applies to this one.
    """

    method: str
    operation: str
    metadata: Metadata
    request_id: str
    client: str = ""
    began: float = field(default_factory=time.perf_counter)
    sent_bytes: int = 0
    trailers: list[tuple[str, str | bytes]] = field(default_factory=list)
    code: str = "OK"
    deadline: "Deadline | None" = None

    def lift_deadline(self) -> None:
        """Remove the time limit of all RPCs from this one. The caller must set another."""
        if self.deadline is not None:
            self.deadline.lift()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began


class RpcHook:
    """Runs before and after the handler of every RPC, unary or streaming, in the RPC's own task.

    Hooks start in the order in which they are listed, and end in reverse.
    """

    skips_probes: ClassVar[bool] = False

    async def on_start(self, rpc: Rpc) -> Any:
        """Run before the handler. An exception ends the RPC with its status in the table of errors.

        Returns:
            A token for `on_end`.
        """

    def on_end(self, token: Any, rpc: Rpc) -> None:
        """Run after an RPC that this hook has started. Never awaits, so it can't be cancelled."""


_current_rpc: ContextVar[Rpc] = ContextVar("current_rpc")


def begin_rpc(rpc: Rpc) -> None:
    """Set the RPC of this task. The task handles no other, so there is no reset."""
    _current_rpc.set(rpc)


def current_rpc() -> Rpc:
    """Return the RPC of this task. Raises LookupError in other tasks."""
    return _current_rpc.get()


def caller_key(rpc: Rpc) -> str:
    """Return the key of the client whose limits apply to an RPC."""
    return share_key_at(rpc.client)
