"""Transactions of RPCs for Sentry.

The SDK's own interceptor times unary calls alone, and breaks streams whose handlers write to their context.
"""

from contextlib import ExitStack

import sentry_sdk
from sentry_sdk.tracing import Span

from src.grpc_hooks import UNKNOWN_OPERATION, Rpc, RpcHook


class RpcTransactions(RpcHook):
    """Makes a transaction of every RPC but health checks; it continues the trace of a caller that sends one."""

    skips_probes = True

    async def on_start(self, rpc: Rpc) -> tuple[ExitStack, Span]:
        """Start the transaction."""
        scopes = ExitStack()
        scopes.enter_context(sentry_sdk.isolation_scope())
        ids = {key: value for key, value in rpc.metadata if key == "sentry-trace" and isinstance(value, str)}
        name = UNKNOWN_OPERATION if rpc.operation == UNKNOWN_OPERATION else rpc.method
        transaction = sentry_sdk.continue_trace(ids, op="grpc.server", name=name, source="route")
        return scopes, scopes.enter_context(sentry_sdk.start_transaction(transaction))

    def on_end(self, token: tuple[ExitStack, Span], rpc: Rpc) -> None:
        """Finish it with the RPC's status."""
        scopes, transaction = token
        # Sentry's names are gRPC's but for one.
        transaction.set_status("internal_error" if rpc.code == "INTERNAL" else rpc.code.lower())
        scopes.close()
