"""Traces with OpenTelemetry: a span per request and per piece of work, sent to a collector.  Needs the extra ``otel``.

The context travels as W3C ``traceparent``, from client to split server to backend, and into the threads that compute
and store (`Threads`).  Until `start` is called everything here does nothing, whatever is installed; a ``traceparent``
that came in is still handed on (`outgoing`), so that a service that sends no traces does not cut one in two.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar, copy_context
from functools import partial
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

from cutlayer.errors import MissingExtra

P = ParamSpec("P")
T = TypeVar("T")

_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_incoming: ContextVar[str | None] = ContextVar("traceparent", default=None)
_tracer: Any = None
"""What makes spans, once traces are sent."""
_NOTHING: AbstractContextManager[Any] = nullcontext()


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
    use(provider)


def use(provider: Any) -> None:
    """Make spans with this provider from now on; None: no more."""
    global _tracer
    _tracer = None if provider is None else provider.get_tracer("cutlayer")


def span(name: str, **attributes: str | int | float | bool) -> AbstractContextManager[Any]:
    """Make what happens inside one span of the trace; nothing where no traces are sent."""
    if _tracer is None:
        return _NOTHING
    made: AbstractContextManager[Any] = _tracer.start_as_current_span(name, attributes=attributes)
    return made


def outgoing() -> dict[str, str]:
    """Return the headers that a request to another service needs to belong to this trace."""
    headers: dict[str, str] = {}
    if _tracer is not None:
        import_module("opentelemetry.propagate").inject(headers)
    if "traceparent" not in headers and (came := _incoming.get()) is not None:
        headers["traceparent"] = came
    return headers


class Threads(ThreadPoolExecutor):
    """Threads in which work belongs to the trace of whoever asked for it."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if _tracer is None:
            return super().submit(fn, *args, **kwargs)
        return super().submit(partial(copy_context().run, partial(fn, *args, **kwargs)))


@contextmanager
def served(name: str, headers: Mapping[str, str]) -> Iterator[Any]:
    """Yield the span of a request that came with ``headers``, None where no traces are sent."""
    came = headers.get("traceparent", "")
    token = _incoming.set(came if _TRACEPARENT.fullmatch(came) else None)
    try:
        if _tracer is None:
            yield None
            return
        context = import_module("opentelemetry.propagate").extract(headers)
        kind = import_module("opentelemetry.trace").SpanKind.SERVER
        with _tracer.start_as_current_span(name, context=context, kind=kind) as current:
            yield current
    finally:
        _incoming.reset(token)
