"""The way in: nothing without a token, the token nowhere but in this process's memory."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from cutlayer.services.dashboard import hub, sign_in
from cutlayer.services.dashboard.gate import SCOPE, Gate
from cutlayer.services.dashboard.hub import Hubs
from cutlayer.services.dashboard.session import ATTEMPTS, Attempts, Sessions
from services.dashboard.backend import Answers

TOKEN = "cl_op_a-token-that-nobody-may-see"
HTML = {"accept": "text/html"}


class Door:
    """A dashboard with one page."""

    def __init__(self) -> None:
        self.answers = Answers()
        self.sessions = Sessions()
        hubs = Hubs("http://backend", True, self.sessions)

        async def page(request: Request) -> PlainTextResponse:
            return PlainTextResponse(request.scope[SCOPE].role)

        routes = sign_in.routes(self.sessions, hubs, Attempts(), "v", public=False)
        self.app = Starlette(
            routes=[*routes, Route("/runs", page), Route("/runs/{run}", page)],
            middleware=[Middleware(Gate, self.sessions)],
        )
        self.client = TestClient(self.app, follow_redirects=False)

    def sign_in(self, token: str = TOKEN, **form: str) -> Any:
        return self.client.post("/sign-in", data={"token": token, **form})


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Door:
    found = Door()
    make = httpx.AsyncClient

    def client(**given: Any) -> httpx.AsyncClient:
        given.pop("verify"), given.pop("limits")
        return make(**given, transport=httpx.MockTransport(found.answers.answer))

    monkeypatch.setattr(hub.httpx, "AsyncClient", client)
    return found


def test_without_a_session_there_is_only_the_way_in(door: Door) -> None:
    answer = door.client.get("/runs/x?a=b", headers=HTML)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/sign-in?next=%2Fruns%2Fx%3Fa%3Db"
    assert door.client.get("/runs").status_code == 401
    assert door.client.get("/_nicegui_ws/socket.io/").status_code == 401
    page = door.client.get("/sign-in?next=/runs/x")
    assert page.status_code == 200
    assert 'value="/runs/x"' in page.text
    assert "default-src 'self'" in page.headers["content-security-policy"]


def test_an_operator_gets_in_and_the_token_is_not_seen_again(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    answer = door.sign_in(next="/runs/x")
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs/x")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "expires" not in cookie.lower()
    assert "max-age" not in cookie.lower()
    page = door.client.get("/runs/x")
    assert page.text == "operator"
    for said in (cookie, str(answer.headers), page.text, caplog.text):
        assert TOKEN not in said


def test_a_viewer_is_a_viewer(door: Door) -> None:
    door.answers.role = "viewer"
    door.sign_in()
    assert door.client.get("/runs").text == "viewer"


@pytest.mark.parametrize("token", ["", "cl_svc_service", "cl_enrol_x", "cl_key_x", "ümlaut", "x" * 500, "a\x00b"])
def test_what_is_no_token_for_people_is_refused(door: Door, token: str) -> None:
    answer = door.sign_in(token)
    assert answer.status_code == 401
    assert 'role="alert"' in answer.text
    assert not token or len(token) < 3 or token not in answer.text
    assert "set-cookie" not in answer.headers


def test_a_token_that_the_backend_does_not_know(door: Door) -> None:
    door.answers.role = "none"
    answer = door.sign_in()
    assert answer.status_code == 401
    assert "not known here" in answer.text
    assert TOKEN not in answer.text


def test_a_backend_that_is_away_is_no_wrong_token(door: Door) -> None:
    door.answers.away = True
    for _ in range(ATTEMPTS + 1):
        answer = door.sign_in()
        assert answer.status_code == 503
    assert "does not answer" in answer.text


def test_guessing_is_slow(door: Door) -> None:
    door.answers.role = "none"
    for _ in range(ATTEMPTS):
        assert door.sign_in().status_code == 401
    assert door.sign_in().status_code == 429
    door.answers.role = "operator"
    assert door.sign_in().status_code == 429


@pytest.mark.parametrize(
    "target",
    ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)", "evil", "/sign-in", ""],
)
def test_nobody_is_sent_elsewhere(door: Door, target: str) -> None:
    assert door.sign_in(next=target).headers["location"] == "/runs"


def test_what_stands_in_the_address_is_text(door: Door) -> None:
    page = door.client.get("/sign-in", params={"next": '/runs/"><script>alert(1)</script>'})
    assert "<script>alert" not in page.text


def test_a_form_of_another_site_is_refused(door: Door) -> None:
    for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}):
        answer = door.client.post("/sign-in", data={"token": TOKEN}, headers=headers)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers


def test_signing_out_ends_the_session(door: Door) -> None:
    door.sign_in()
    assert len(door.sessions) == 1
    answer = door.client.post("/sign-out")
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
    assert len(door.sessions) == 0
    assert door.client.get("/runs").status_code == 401


def test_signing_in_again_ends_the_session_before(door: Door) -> None:
    door.sign_in()
    door.sign_in()
    assert len(door.sessions) == 1
