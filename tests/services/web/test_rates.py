"""Nobody asks faster than allowed, and nobody suffers for another."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from starlette.middleware import Middleware

from cutlayer.services.web import Limits
from cutlayer.services.web.rates import Buckets, RateLimit

from .apps import TOKEN, application, ask

FEW = Limits(rate=0.001, burst=3)


@given(
    rate=st.floats(0.1, 100),
    burst=st.integers(1, 20),
    pauses=st.lists(st.floats(0, 2), min_size=1, max_size=200),
)
def test_in_any_stretch_of_time_no_more_is_granted_than_burst_and_rate(
    rate: float, burst: int, pauses: list[float]
) -> None:
    now = 0.0
    buckets = Buckets(rate, burst, clock=lambda: now)
    granted: list[float] = []
    for pause in pauses:
        now += pause
        if buckets.take("a") == 0:
            granted.append(now)
    for first, start in enumerate(granted):
        assert len(granted) - first <= burst + (now - start) * rate + 1e-6


def test_who_waits_as_long_as_told_is_let_in() -> None:
    now = 0.0
    buckets = Buckets(2.0, 1, clock=lambda: now)
    assert buckets.take("a") == 0
    wait = buckets.take("a")
    assert wait == 0.5
    now += wait
    assert buckets.take("a") == 0


def test_memory_is_bounded() -> None:
    buckets = Buckets(1.0, 1, most=10)
    for each in range(1000):
        buckets.take(str(each))
    assert len(buckets) == 10


def test_an_address_has_its_burst_and_then_waits() -> None:
    app = application(limits=FEW)
    assert [ask(app, "GET", "/echo/a").status_code for _ in range(5)] == [200, 200, 200, 429, 429]
    refused = ask(app, "GET", "/echo/a")
    assert int(refused.headers["retry-after"]) > 1
    assert refused.json()["code"] == "too_many"
    assert ask(app, "GET", "/echo/a", address="10.9.9.9").status_code == 200


def test_new_tokens_do_not_buy_new_guesses() -> None:
    app = application(limits=FEW)
    codes = [
        ask(app, "GET", "/private", headers={"authorization": f"Bearer cl_op_{n:043}"}).status_code for n in range(6)
    ]
    assert codes == [401, 401, 401, 429, 429, 429]


def test_a_token_that_was_recognised_does_not_share_with_its_neighbours() -> None:
    app = application(limits=FEW)
    good = {"authorization": f"Bearer {TOKEN}"}
    assert ask(app, "GET", "/private", headers=good).status_code == 200
    while ask(app, "GET", "/echo/a").status_code == 200:
        pass
    assert [ask(app, "GET", "/private", headers=good).status_code for _ in range(4)] == [200, 200, 200, 429]


def test_probes_are_free_and_no_rate_is_no_limit() -> None:
    app = application(limits=FEW)
    assert {ask(app, "GET", "/healthz").status_code for _ in range(10)} == {200}
    app = application(limits=Limits(rate=0, burst=1))
    assert {ask(app, "GET", "/echo/a").status_code for _ in range(10)} == {200}


def test_the_limit_is_part_of_what_is_installed() -> None:
    assert any(isinstance(each, Middleware) and each.cls is RateLimit for each in application().user_middleware)
