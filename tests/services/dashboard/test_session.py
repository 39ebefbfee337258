"""Sessions: random cookies, which end; tokens are nowhere else."""

from __future__ import annotations

from cutlayer.services.dashboard.session import ATTEMPTS, ATTEMPTS_WITHIN, IDLE, MOST, Attempts, Sessions


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_cookie_is_random_and_says_nothing() -> None:
    sessions = Sessions()
    one, _ = sessions.open("cl_op_secret", "operator")
    other, session = sessions.open("cl_op_secret", "operator")
    assert one != other
    assert len(one) > 40
    assert "secret" not in one
    assert "secret" not in repr(session)
    assert sessions.find(one) is not None
    assert sessions.find("guessed") is None


def test_a_session_ends_when_it_was_idle_too_long() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    cookie, session = sessions.open("t", "viewer")
    told: list[str] = []
    session.ended.add(lambda: told.append("ended"))
    clock.now += IDLE - 1
    assert sessions.find(cookie) is session
    clock.now += IDLE - 1
    assert sessions.find(cookie) is session
    clock.now += IDLE + 1
    assert sessions.find(cookie) is None
    assert told == ["ended"]
    assert not session.alive


def test_sweeping_ends_those_that_nobody_asks_for() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    sessions.open("a", "viewer")
    clock.now += IDLE + 1
    sessions.open("b", "viewer")
    sessions.sweep()
    assert sessions.tokens() == {"b"}


def test_signing_out_and_a_token_that_was_taken_back() -> None:
    sessions = Sessions()
    one, _ = sessions.open("a", "operator")
    other, _ = sessions.open("a", "operator")
    third, _ = sessions.open("b", "viewer")
    sessions.close(one)
    assert sessions.find(one) is None
    assert sessions.find(other) is not None
    sessions.refuse("a")
    assert sessions.find(other) is None
    assert sessions.find(third) is not None


def test_memory_has_an_end() -> None:
    sessions = Sessions()
    first, _ = sessions.open("t", "viewer")
    for _ in range(MOST):
        sessions.open("t", "viewer")
    assert len(sessions) == MOST
    assert sessions.find(first) is None


def test_a_viewer_does_not_act() -> None:
    sessions = Sessions()
    assert sessions.open("t", "operator")[1].acts
    assert not sessions.open("t", "viewer")[1].acts


def test_guessing_is_slow_for_an_address() -> None:
    clock = Clock()
    attempts = Attempts(clock)
    for _ in range(ATTEMPTS):
        assert attempts.wait("10.0.0.1") == 0
        attempts.note("10.0.0.1")
    assert 0 < attempts.wait("10.0.0.1") <= ATTEMPTS_WITHIN
    assert attempts.wait("10.0.0.2") == 0
    clock.now += ATTEMPTS_WITHIN + 1
    assert attempts.wait("10.0.0.1") == 0
