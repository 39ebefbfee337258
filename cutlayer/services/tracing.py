"""Traces, if OpenTelemetry is installed (extra `otel`): one span per request, joined across services.

The context travels as W3C ``traceparent``.  Without the package everything here does nothing, and ``traceparent`` is
still handed on (`outgoing`), so that a service without it does not cut a trace in two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cutlayer.errors import MissingExtra

_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_incoming: ContextVar[str | None] = ContextVar("traceparent", default=None)


def start(service: str, endpoint: str) -> None:
    """Send this process's traces to the OTLP/HTTP endpoint, e.g. http://collector:4318.

    Raises MissingExtra when the packages are not installed.
    """
    try:
        sdk = import_module("opentelemetry.sdk.trace")
        export = import_module("opentelemetry.sdk.trace.export")
        resources = import_module("opentelemetry.sdk.resources")
        otlp = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"traces need the package of {error.name!r}: pip install 'cutlayer[otel]', or leave --trace out"
        ) from error
    provider = sdk.TracerProvider(resource=resources.Resource.create({"service.name": f"cutlayer-{service}"}))
    exporter = otlp.OTLPSpanExporter(endpoint=endpoint.rstrip("/") + "/v1/traces")
    provider.add_span_processor(export.BatchSpanProcessor(exporter))
    import_module("opentelemetry.trace").set_tracer_provider(provider)


def available() -> bool:
    """Return whether OpenTelemetry's interface is installed."""
    return find_spec("opentelemetry") is not None and find_spec("opentelemetry.trace") is not None


@contextmanager
def span(name: str, **attributes: str | int | float | bool) -> Iterator[None]:
    """Make what happens inside one span of the trace; nothing without OpenTelemetry."""
    trace = _trace()
    if trace is None:
        yield
        return
    with trace.get_tracer("cutlayer").start_as_current_span(name, attributes=attributes):
        yield


def outgoing() -> dict[str, str]:
    """Return the headers that a request to another service needs to belong to this trace."""
    headers: dict[str, str] = {}
    if _trace() is not None:
        import_module("opentelemetry.propagate").inject(headers)
    if "traceparent" not in headers and (came := _incoming.get()) is not None:
        headers["traceparent"] = came
    return headers


class Tracing:
    """One span per request, the child of the caller's if it sent a ``traceparent``."""

    def __init__(self, app: ASGIApp, service: str) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        came = headers.get("traceparent", "")
        token = _incoming.set(came if _TRACEPARENT.fullmatch(came) else None)
        try:
            trace = _trace()
            if trace is None:
                await self.app(scope, receive, send)
            else:
                await self._in_span(trace, headers, scope, receive, send)
        finally:
            _incoming.reset(token)

    async def _in_span(self, trace: Any, headers: Headers, scope: Scope, receive: Receive, send: Send) -> None:
        context = import_module("opentelemetry.propagate").extract(headers)
        tracer = trace.get_tracer("cutlayer")
        with tracer.start_as_current_span(
            f"{self.service} {scope['method']}", context=context, kind=trace.SpanKind.SERVER
        ) as current:

            async def noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    current.set_attribute("http.response.status_code", message["status"])
                    route = getattr(scope.get("route"), "path", None)
                    if route is not None:
                        current.update_name(f"{scope['method']} {route}")
                await send(message)

            await self.app(scope, receive, noted)


def _trace() -> Any:
    """Return OpenTelemetry's module for traces, or None without it."""
    global _module
    if _module is _UNKNOWN:
        _module = import_module("opentelemetry.trace") if available() else None
    return _module


_UNKNOWN = object()
_module: Any = _UNKNOWN
