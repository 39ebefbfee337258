"""Every error becomes the same kind of answer, and none says more than it should."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from cutlayer import errors
from cutlayer.services import errors as service_errors
from cutlayer.services.metrics import Metrics
from cutlayer.services.web import answer_for, install
from cutlayer.services.web.validation import explain_validation

from .apps import application, ask, failing


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (service_errors.Unauthorized("who?"), 401, "unauthorized"),
        (service_errors.Forbidden("not yours"), 403, "forbidden"),
        (service_errors.NotFound("no such run"), 404, "not_found"),
        (service_errors.Conflict("closed", code="round_closed"), 409, "round_closed"),
        (service_errors.TooLarge("big"), 413, "too_large"),
        (service_errors.Unprocessable("wrong"), 422, "unprocessable"),
        (service_errors.TooMany("slowly", retry_after=2.2), 429, "too_many"),
        (service_errors.Unavailable("away"), 503, "unavailable"),
        (errors.WireError("torn"), 422, "malformed"),
        (errors.ConfigError("no such model"), 422, "configuration"),
        (errors.TrainingError("not finite"), 422, "training"),
        (errors.MissingObject("gone"), 404, "missing"),
        (errors.ObjectExists("twice"), 409, "exists"),
        (errors.NoSpace("full"), 503, "no_space"),
        (errors.DamagedObject("torn"), 503, "damaged"),
        (errors.StoreError("away"), 503, "store"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_errors_on_purpose_say_what_they_say(error: Exception, status: int, code: str) -> None:
    found = ask(application(failing(error)), "GET", "/fail")
    assert found.status_code == status
    assert found.json() == {"error": str(error), "code": code, "request_id": found.headers["x-request-id"]}
    assert ("retry-after" in found.headers) == (status in (429, 503))


def test_retry_after_is_whole_seconds_rounded_up() -> None:
    found = ask(application(failing(service_errors.TooMany("slowly", retry_after=2.2))), "GET", "/fail")
    assert found.headers["retry-after"] == "3"


def test_what_nobody_raised_on_purpose_is_500_without_details(caplog: pytest.LogCaptureFixture) -> None:
    found = ask(application(failing(RuntimeError("password=hunter22"))), "GET", "/fail")
    assert found.status_code == 500
    assert found.json()["code"] == "internal"
    assert "hunter" not in found.text
    assert any(record.exc_info for record in caplog.records)


def test_unknown_paths_and_methods_are_errors_like_all_others() -> None:
    app = application()
    missing = ask(app, "GET", "/nowhere")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    wrong = ask(app, "DELETE", "/echo/a")
    assert (wrong.status_code, wrong.json()["code"]) == (405, "method_not_allowed")
    assert "GET" in wrong.headers["allow"]


def test_401_says_how_to_authenticate() -> None:
    found = ask(application(), "GET", "/private")
    assert found.status_code == 401
    assert found.headers["www-authenticate"] == "Bearer"


def test_half_an_answer_is_never_taken_for_a_whole_one(caplog: pytest.LogCaptureFixture) -> None:
    def half() -> Iterator[bytes]:
        yield b"half"
        raise errors.StoreError("away")

    async def stream(request: Request) -> Response:
        return StreamingResponse(half())

    with pytest.raises(errors.StoreError), caplog.at_level(logging.CRITICAL):
        ask(application(Route("/fail", stream)), "GET", "/fail")


def test_every_error_of_cutlayer_has_an_answer_that_is_no_accident() -> None:
    kinds = [errors.WireError, *errors.StoreError.__subclasses__(), errors.ConfigError, errors.TrainingError]
    assert all(answer_for(kind("x")).status_code != 500 for kind in kinds)


def test_what_was_raised_is_raised_again_on_the_other_side() -> None:
    for kind in service_errors.ServiceError.__subclasses__():
        if kind.__module__ != service_errors.__name__:
            continue
        error = service_errors.of_status(kind.status, "said", code="word", retry_after=2)
        assert type(error) is kind
        assert (str(error), error.code, error.retry_after, error.status) == ("said", "word", 2, kind.status)
    assert service_errors.of_status(502, "x").status == 502
    assert isinstance(service_errors.of_status(504, "x", retry_after=1), service_errors.Unavailable)
    assert isinstance(service_errors.of_status(400, "x"), service_errors.Unprocessable)


class _Body(BaseModel):
    name: str
    token: int = 0


def _fastapi() -> FastAPI:
    app = FastAPI()

    @app.post("/things/{number}")
    def things(number: int, body: _Body) -> dict[str, int]:
        return {"number": number}

    @app.get("/wrong")
    def wrong() -> None:
        raise errors.ConfigError("no such thing")

    explain_validation(app)
    install(app, "backend", Metrics.make("backend"))
    return app


def test_fastapi_speaks_the_same_way() -> None:
    app = _fastapi()
    good = ask(app, "POST", "/things/3", content=b'{"name": "a"}', headers={"content-type": "application/json"})
    assert good.json() == {"number": 3}
    found = ask(
        app,
        "POST",
        "/things/3",
        content=b'{"token": "cl_op_0123456789"}',
        headers={"content-type": "application/json"},
    )
    assert found.status_code == 422
    assert found.json()["error"].startswith("name: ")
    assert found.json()["code"] == "invalid"
    assert "0123456789" not in found.text
    assert ask(app, "POST", "/things/x").status_code == 422
    assert ask(app, "GET", "/wrong").json()["error"] == "no such thing"
    assert ask(app, "GET", "/nowhere").json()["code"] == "not_found"
    assert ask(app, "GET", "/openapi.json").status_code == 200
