"""Traces cost nothing until they are sent, no service cuts one in two, and a request is one trace over all of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from cutlayer.errors import MissingExtra
from cutlayer.services import tracing
from cutlayer.services.http import Link
from cutlayer.services.settings import ServerSettings
from cutlayer.services.traced_store import TracedStore
from cutlayer.store import MemoryStore

from .web.apps import application, ask, served

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def onwards(request: Request) -> Response:
    with tracing.span("step", kind="forward"):
        return JSONResponse(tracing.outgoing())


@pytest.fixture
def spans() -> Iterator[Any]:
    """What was sent, while traces are."""
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(provider)
    try:
        yield exporter.get_finished_spans
    finally:
        tracing.use(None)
        provider.shutdown()


def handed_on(headers: dict[str, str]) -> Any:
    return ask(application(Route("/onwards", onwards)), "GET", "/onwards", headers=headers).json()


def test_the_callers_trace_is_handed_on_by_who_sends_none() -> None:
    assert handed_on({"traceparent": PARENT}) == {"traceparent": PARENT}


def test_and_continued_by_who_does(spans: Any) -> None:
    found = handed_on({"traceparent": PARENT})["traceparent"].split("-")
    step, request = spans()
    assert found[1] == PARENT.split("-")[1] == f"{request.context.trace_id:032x}"
    assert found[2] == f"{step.context.span_id:016x}"
    assert (step.name, request.name) == ("step", "GET /onwards")


@pytest.mark.parametrize("parent", ["", "nonsense", PARENT + "x", "00-" + "g" * 32 + "-" + "0" * 16 + "-01"])
def test_what_is_no_trace_is_not(parent: str) -> None:
    assert handed_on({"traceparent": parent}) == {}
    assert tracing.outgoing() == {}


def test_until_traces_are_sent_nothing_is_made() -> None:
    pytest.importorskip("opentelemetry.trace", reason="its interface alone changes nothing")
    assert tracing.span("step") is tracing.span("another")
    with tracing.span("step"), tracing.Threads(1) as threads:
        assert threads.submit(tracing.outgoing).result() == {}


def test_a_request_is_one_trace_from_the_client_to_the_store_and_the_backend(spans: Any) -> None:
    threads, store = tracing.Threads(1), TracedStore(MemoryStore())

    async def plan(request: Request) -> Response:
        return PlainTextResponse("plan")

    async def train(request: Request) -> Response:
        import asyncio

        def work() -> None:
            store.put("runs/a/forwards/1", {"h": torch.ones(1)})
            with Link(there.url) as link:
                link.binary("GET", "/plan", [])

        await asyncio.get_running_loop().run_in_executor(threads, work)
        return PlainTextResponse("answer")

    with ExitStack() as stack:
        there = stack.enter_context(served(application(Route("/plan", plan)), ServerSettings()))
        split = stack.enter_context(served(application(Route("/train", train, methods=["POST"])), ServerSettings()))
        with tracing.span("train"), Link(split.url) as link:
            assert link.binary("POST", "/train", [b"x"]) == b"answer"
    threads.shutdown()
    found = {f"{each.name} {each.kind.name}": each for each in spans()}
    chain = {
        "train INTERNAL": None,
        "POST INTERNAL": "train INTERNAL",
        "POST /train SERVER": "POST INTERNAL",
        "store put INTERNAL": "POST /train SERVER",
        "GET INTERNAL": "POST /train SERVER",
        "GET /plan SERVER": "GET INTERNAL",
    }
    assert found.keys() == chain.keys()
    assert len({each.context.trace_id for each in found.values()}) == 1
    parents = {name: None if each.parent is None else each.parent.span_id for name, each in found.items()}
    assert parents == {n: None if above is None else found[above].context.span_id for n, above in chain.items()}


def test_sending_traces_without_the_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(MissingExtra, match=r"cutlayer\[otel\]"):
        tracing.start("split", "http://collector:4318")
