"""Ids, headers, probes, counts and logs of every request."""

from __future__ import annotations

import asyncio
import io
import json
import logging

import pytest
from fastapi import FastAPI

from cutlayer.services import logs
from cutlayer.services.errors import Unavailable
from cutlayer.services.metrics import Metrics
from cutlayer.services.web import install
from cutlayer.services.web import operations as module

from .apps import TOKEN, application, ask


def test_a_sane_request_id_is_kept_and_everything_else_replaced() -> None:
    app = application()
    kept = ask(app, "GET", "/echo/a", headers={"x-request-id": "abc-1.2:3"})
    assert kept.headers["x-request-id"] == kept.json()["request"] == "abc-1.2:3"
    for bad in ("", "a b", "x" * 65, "ä", 'a"b', "a{b}"):
        found = ask(app, "GET", "/echo/a", headers={b"x-request-id": bad.encode()})  # type: ignore[arg-type]
        assert found.headers["x-request-id"] == found.json()["request"]
        assert len(found.headers["x-request-id"]) == 32
    first, second = ask(app, "GET", "/echo/a"), ask(app, "GET", "/echo/a")
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


def test_security_headers_are_on_answers_and_errors() -> None:
    app = application()
    for path in ("/echo/a", "/nowhere", "/private", "/healthz"):
        headers = ask(app, "GET", path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "server" not in headers


def test_probes() -> None:
    app = application()
    assert ask(app, "GET", "/healthz").json()["status"] == "ok"
    assert ask(app, "GET", "/readyz").json()["status"] == "ready"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Unavailable("the database is away"), "the database is away"),
        (OSError("secret host"), "what this service needs"),
    ],
)
def test_a_service_that_cannot_work_is_alive_and_not_ready(error: Exception, said: str) -> None:
    async def ready() -> None:
        raise error

    app = application(ready=ready)
    assert ask(app, "GET", "/healthz").status_code == 200
    found = ask(app, "GET", "/readyz")
    assert found.status_code == 503
    assert said in found.json()["error"]
    assert "secret host" not in found.text


def test_a_check_that_hangs_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ready() -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr(module, "READY_WITHIN", 0.05)
    assert ask(application(ready=ready), "GET", "/readyz").status_code == 503


def test_a_service_that_is_stopping_is_not_ready() -> None:
    app = application()
    app.state.stopping.set()
    assert ask(app, "GET", "/readyz").json()["code"] == "stopping"


def test_requests_are_counted_by_route() -> None:
    metrics = Metrics.make("split")
    app = application(metrics=metrics)
    for path in ("/echo/a", "/echo/b", "/nowhere", "/elsewhere", "/private"):
        ask(app, "GET", path)
    assert _count(metrics, "/echo/{name}", "200") == 2
    assert _count(metrics, "none", "404") == 2
    assert _count(metrics, "/private", "401") == 1
    assert b"cutlayer_request_seconds_bucket" in ask(app, "GET", "/metrics").content


def test_routes_of_fastapi_are_counted_too() -> None:
    app = FastAPI()

    @app.get("/v1/runs/{run}")
    def run(run: str) -> str:
        return run

    metrics = Metrics.make("backend")
    install(app, "backend", metrics)
    ask(app, "GET", "/v1/runs/a")
    assert _count(metrics, "/v1/runs/{run}", "200") == 1


def test_a_request_is_one_line_with_its_ids_and_without_its_token_or_query() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonLines())
    logger = logging.getLogger("cutlayer")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel("INFO")
    try:
        headers = {"authorization": f"Bearer {TOKEN}", "x-request-id": "r-1"}
        ask(application(), "GET", f"/private?token={TOKEN}", headers=headers)
        ask(application(), "GET", "/healthz")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    (line,) = [json.loads(each) for each in stream.getvalue().splitlines()]
    assert (line["path"], line["status"], line["caller"]) == ("/private", 200, "operator:me")
    assert (line["request"], line["address"]) == ("r-1", "10.1.2.3")
    assert TOKEN not in stream.getvalue()


def _count(metrics: Metrics, route: str, status: str) -> float | None:
    labels = {"route": route, "method": "GET", "status": status}
    return metrics.registry.get_sample_value("cutlayer_requests_total", labels)
