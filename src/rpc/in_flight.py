"""Count RPCs in flight, so that the drain also waits until their responses are sent."""

from src.drain import Drain
from src.rpc.hooks import Rpc, RpcHook


class RpcsInFlight(RpcHook):
    """The outermost hook."""

    def __init__(self, drain: Drain) -> None:
        self._drain = drain

    async def on_start(self, _rpc: Rpc) -> None:
        """Count it in."""
        self._drain.enter("grpc")

    def on_end(self, _token: None, _rpc: Rpc) -> None:
        """Count it out."""
        self._drain.leave("grpc")
