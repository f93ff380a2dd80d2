"""Transactions of RPCs for Sentry.

The SDK's own interceptor times unary calls alone, and breaks streams whose handlers write to their context.
"""

from contextlib import AbstractAsyncContextManager, ExitStack

import sentry_sdk

from src.grpc_errors import Context
from src.grpc_interceptors import PROBE_METHODS, AroundRpcs, code_of


class GrpcSentryInterceptor(AroundRpcs):
    """A transaction around every RPC but health checks; it goes on with the trace of a caller that sends one."""

    exempt = PROBE_METHODS

    def enclose(self, method: str, context: Context) -> AbstractAsyncContextManager[None]:
        return _Transaction(method, context)


class _Transaction(AbstractAsyncContextManager[None]):
    """Around one RPC."""

    def __init__(self, method: str, context: Context) -> None:
        self._method = method
        self._context = context

    async def __aenter__(self) -> None:
        said = {key: value for key, value in self._context.invocation_metadata() or () if isinstance(value, str)}
        self._open = ExitStack()
        self._open.enter_context(sentry_sdk.isolation_scope())
        transaction = sentry_sdk.continue_trace(said, op="grpc.server", name=self._method, source="route")
        self._transaction = self._open.enter_context(sentry_sdk.start_transaction(transaction))

    async def __aexit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        code = "OK" if error is None else code_of(error, self._context)
        # Sentry's names are gRPC's but for one.
        self._transaction.set_status("internal_error" if code == "INTERNAL" else code.lower())
        self._open.close()
