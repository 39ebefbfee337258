"""No request makes a service read, or hold, more than its limit."""

from __future__ import annotations

import pytest
from fastapi import FastAPI, Request

from cutlayer.services.metrics import Metrics
from cutlayer.services.web import Limits, install

from .apps import application, ask, pieces

LIMITS = Limits(body=1000, bodies=((r"/echo/large", 5000),))


@pytest.mark.parametrize(
    ("path", "size", "status"),
    [
        ("/echo/a", 1000, 200),
        ("/echo/a", 1001, 413),
        ("/echo/large", 5000, 200),
        ("/echo/large", 5001, 413),
        ("/echo/large/not", 0, 404),
    ],
)
def test_the_limit_is_exact_whether_announced_or_not(path: str, size: int, status: int) -> None:
    app = application(limits=LIMITS)
    announced = ask(app, "POST", path, content=bytes(size))
    counted = ask(app, "POST", path, content=pieces(size, 1, []))
    assert announced.status_code == counted.status_code == status
    if status == 413:
        assert announced.headers["connection"] == counted.headers["connection"] == "close"
        assert announced.json()["code"] == "too_large"


def test_a_path_without_end_leads_nowhere() -> None:
    found = ask(application(limits=LIMITS), "GET", "/echo/" + "9" * 5000)
    assert found.status_code == 404
    assert len(found.text) < 500


def test_an_announced_excess_is_not_read() -> None:
    sent: list[int] = []
    found = ask(
        application(limits=LIMITS),
        "POST",
        "/echo/a",
        content=pieces(10, 100, sent),
        headers={"content-length": str(10 * 1024**3)},
    )
    assert found.status_code == 413
    assert sent == []


def test_an_excess_that_was_not_announced_is_read_no_further() -> None:
    sent: list[int] = []
    found = ask(application(limits=LIMITS), "POST", "/echo/a", content=pieces(10_000, 100, sent))
    assert found.status_code == 413
    assert len(sent) <= 12


@pytest.mark.parametrize("length", ["-1", "1e3", "0x10", "9" * 30, "١"])
def test_a_length_that_is_no_number_is_refused(length: str) -> None:
    headers = {b"content-length": length.encode()}
    found = ask(application(limits=LIMITS), "POST", "/echo/a", headers=headers)  # type: ignore[arg-type]
    assert found.status_code == 422


def test_a_framework_that_hides_what_it_met_while_reading_does_not_hide_the_limit() -> None:
    app = FastAPI()

    @app.post("/echo")
    async def body(request: Request, value: dict[str, str]) -> None:
        pass

    install(app, "backend", Metrics.make("backend"), LIMITS)
    found = ask(app, "POST", "/echo", content=pieces(100, 100, []), headers={"content-type": "application/json"})
    assert found.status_code == 413
