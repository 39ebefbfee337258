"""Traces cost nothing without OpenTelemetry, and no service cuts one in two."""

from __future__ import annotations

import sys

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cutlayer.errors import MissingExtra
from cutlayer.services import tracing

from .web.apps import application, ask

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def onwards(request: Request) -> Response:
    with tracing.span("step", kind="forward"):
        return JSONResponse(tracing.outgoing())


@pytest.fixture(params=["with", "without"])
def package(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "with" and not tracing.available():
        pytest.skip("opentelemetry is not installed")
    monkeypatch.setattr(tracing, "_module", tracing._UNKNOWN)
    if request.param == "without":
        monkeypatch.setattr(tracing, "available", lambda: False)


@pytest.mark.usefixtures("package")
def test_the_callers_trace_is_handed_on() -> None:
    found = ask(application(Route("/onwards", onwards)), "GET", "/onwards", headers={"traceparent": PARENT}).json()
    assert found["traceparent"].split("-")[1] == PARENT.split("-")[1]


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("parent", ["", "nonsense", PARENT + "x", "00-" + "g" * 32 + "-" + "0" * 16 + "-01"])
def test_what_is_no_trace_is_not(parent: str) -> None:
    found = ask(application(Route("/onwards", onwards)), "GET", "/onwards", headers={"traceparent": parent})
    assert found.json() == {}
    assert tracing.outgoing() == {}


def test_sending_traces_without_the_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(MissingExtra, match=r"cutlayer\[otel\]"):
        tracing.start("split", "http://collector:4318")
