"""Sentry transactions for RPCs.

The SDK's own interceptor times unary calls only, and breaks streams whose handlers write to their context.
"""

from contextlib import ExitStack

import sentry_sdk
from sentry_sdk.tracing import Span

from src.rpc.hooks import UNKNOWN_OPERATION, Rpc, RpcHook


class RpcTransactions(RpcHook):
    """Makes a transaction of every RPC except health checks, and continues the caller's trace."""

    skips_probes = True

    async def on_start(self, rpc: Rpc) -> tuple[ExitStack, Span]:
        scopes = ExitStack()
        scopes.enter_context(sentry_sdk.isolation_scope())
        ids = {key: value for key, value in rpc.metadata if key == "sentry-trace" and isinstance(value, str)}
        name = UNKNOWN_OPERATION if rpc.operation == UNKNOWN_OPERATION else rpc.method
        transaction = sentry_sdk.continue_trace(ids, op="grpc.server", name=name, source="route")
        return scopes, scopes.enter_context(sentry_sdk.start_transaction(transaction))

    def on_end(self, token: tuple[ExitStack, Span], rpc: Rpc) -> None:
        scopes, transaction = token
        # Sentry uses gRPC's names, with one exception.
        transaction.set_status("internal_error" if rpc.code == "INTERNAL" else rpc.code.lower())
        scopes.close()
