"""Nobody waits, and still every run is a function of its seed and of who is how fast."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import toys
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import cutlayer as cl
from cutlayer.engines.clock import Clock, paces
from cutlayer.errors import ConfigError
from cutlayer.recipes import get
from cutlayer.roles.mixing import Mixing, mixed

OPTIONS: dict[str, Any] = {"rounds": 4, "batch_size": 8, "partition": "iid", "optimizer": {"name": "sgd", "lr": 0.05}}


def _run(algorithm: Any = "splitfed_async", **keys: Any) -> cl.Result:
    data = toys.dataset(toys.rows(60), toys.rows(20, 1))
    split = toys.cut(toys.made(toys.Dense, width=20), ["drop1"], data.train)
    return cl.run(algorithm, split, data, **(OPTIONS | {"clients": {"count": 4, "pace": 0.5}} | keys))


def test_one_client_trains_as_if_it_were_not_asynchronous() -> None:
    alone: dict[str, Any] = {"clients": 1}
    algorithm = {"name": "splitfed_async", "mixing": 1.0}
    assert toys.same(_run(algorithm, update=1, **alone).model, _run("vanilla", **alone).model)


def test_the_same_clients_give_the_same_run_and_others_another() -> None:
    one, again = _run(), _run()
    assert toys.same(one.model, again.model)
    assert [m["virtual_seconds"] for m in one.metrics] == [m["virtual_seconds"] for m in again.metrics]
    other = _run(clients={"count": 4, "pace": [1.0, 1.0, 1.0, 10.0]})
    assert not toys.same(one.model, other.model)


def test_nobody_waits_for_a_straggler() -> None:
    """Of two equal shares of 27 samples one is worked on a hundred times as slowly."""
    found = _run(clients={"count": 2, "pace": [0.01, 1.0], "test_fraction": 0.1}, rounds=5)
    assert found.metrics[-1]["virtual_seconds"] == pytest.approx(10 * 27 * 0.01)
    assert all(m["client_samples"].keys() == {"0"} for m in found.metrics)


def test_the_straggler_is_stale_when_it_comes() -> None:
    """Within the time of its one pass the other client sends eight encoders."""
    pace = {"count": 2, "pace": [0.1, 0.85], "test_fraction": 0.1}
    found = _run({"name": "splitfed_async", "staleness": 8}, clients=pace, rounds=5)
    staleness = [m["staleness"] for m in found.metrics]
    assert [s["max"] for s in staleness] == [0, 0, 0, 0, 8]
    assert not any(s["refused"] for s in staleness)
    bound = _run({"name": "splitfed_async", "staleness": 3}, clients=pace, rounds=5)
    assert [m["staleness"]["refused"] for m in bound.metrics] == [0, 0, 0, 0, 1]
    assert not toys.same(found.model, bound.model)


def test_a_refused_encoder_changes_nothing() -> None:
    """The last update of all comes too late in one run, and weighs nothing in the other."""
    pace = {"count": 2, "pace": [0.1, 0.95], "test_fraction": 0.1}
    bound = _run({"name": "splitfed_async", "staleness": 4}, clients=pace, rounds=5)
    unmixed = _run({"name": "splitfed_async", "staleness": 9, "staleness_power": 2000.0}, clients=pace, rounds=5)
    assert [run.metrics[-1]["staleness"]["refused"] for run in (bound, unmixed)] == [1, 0]
    assert toys.same(bound.model, unmixed.model)


def test_only_a_fraction_works_at_once() -> None:
    found = _run(clients={"count": 6, "fraction": 0.34, "pace": 0.0}, rounds=12)
    assert all(sum(m["client_samples"].values()) == m["samples"] for m in found.metrics)
    seen = {client for m in found.metrics for client in m["client_samples"]}
    assert all(m["clients"] <= 2 for m in found.metrics)
    assert seen == set("012345")


def test_a_round_counts_the_samples_of_the_passes_that_ended_in_it() -> None:
    found = _run(clients={"count": 3, "pace": [0.1, 0.1, 0.3], "test_fraction": 0.1}, rounds=6)
    for m in found.metrics:
        assert m["staleness"]["mean"] <= m["staleness"]["max"]
        assert m["samples"] == sum(m["client_samples"].values())
    assert sum(m["samples"] for m in found.metrics) == 6 * 3 * 18


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"aggregator": "median"}, "mixes updates in one by one"),
        ({"clients": {"count": 4, "pace": [1.0]}}, "one number for each of 4 clients"),
        ({"clients": {"count": 2, "pace": [1.0, 0.0]}}, "pace"),
        ({"clients": {"count": 2, "pace": -1}}, "pace"),
    ],
)
def test_what_does_not_go_together_is_refused(keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        _run(**keys)


@pytest.mark.parametrize(
    "options",
    [
        {"labels": "client"},
        {"step": "batch"},
        {"averaged": ()},
        {"feedback": "none"},
        {"mixing": 1.5},
        {"mixing": True},
        {"staleness": -1},
        {"staleness_power": "much"},
    ],
)
def test_options_that_contradict_it_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="splitfed_async"):
        get({"name": "splitfed_async", **options})


# --- the rule -----------------------------------------------------------------------------------------------------


@given(st.floats(0, 1), st.floats(0, 3), st.integers(0, 50), st.integers(1, 1000), st.integers(1, 1000))
def test_the_share_falls_with_the_lag_and_grows_with_the_samples(
    mixing: float, power: float, lag: int, few: int, more: int
) -> None:
    recipe = get({"name": "splitfed_async", "mixing": mixing, "staleness_power": power, "staleness": 10})
    rule = Mixing(recipe, {0: min(few, more), 1: max(few, more)}, 2)
    assert 0.0 <= rule.share(0, lag) <= rule.share(1, lag) <= 1.0
    assert rule.share(1, lag + 1) <= rule.share(1, lag)
    assert (rule.share(0, 21), rule.share(1, 21)) == (0.0, 0.0)


def test_with_equal_shares_it_is_fedasync() -> None:
    recipe = get({"name": "splitfed_async", "mixing": 0.6, "staleness_power": 0.5})
    rule = Mixing(recipe, dict.fromkeys(range(4), 10), 4)
    assert rule.share(2, 0) == pytest.approx(0.6)
    assert rule.share(2, 3) == pytest.approx(0.6 / 2)


def test_a_client_with_twice_the_samples_counts_as_two_that_come_one_after_the_other() -> None:
    recipe = get("splitfed_async")
    one, two = Mixing(recipe, {0: 10, 1: 20, 2: 0}, 1), Mixing(recipe, {0: 10, 1: 10, 2: 10}, 1)
    now, update = _part(1.0, 2.0), _part(3.0, -1.0)
    twice = mixed(mixed(now, update, two.share(1, 0)), update, two.share(1, 0))
    assert torch.allclose(mixed(now, update, one.share(1, 0))["encoder"]["w"], twice["encoder"]["w"])


def test_all_or_nothing_is_exact() -> None:
    now, update = _part(0.1, 1e-30), _part(0.3, 7e20)
    assert toys.same(mixed(now, update, 1.0)["encoder"], update["encoder"])
    assert toys.same(mixed(now, update, 0.0)["encoder"], now["encoder"])


def test_counters_are_rounded() -> None:
    now = {"encoder": {"seen": torch.tensor(10)}}
    assert mixed(now, {"encoder": {"seen": torch.tensor(21)}}, 0.5)["encoder"]["seen"] == torch.tensor(16)


def _part(*values: float) -> dict[str, dict[str, Tensor]]:
    return {"encoder": {"w": torch.tensor(values)}}


# --- the clock ----------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=6), st.integers(1, 60))
def test_time_never_goes_back_and_the_fast_come_more_often(pace: list[float], events: int) -> None:
    clock = Clock(dict(enumerate(pace)))
    for client in range(len(pace)):
        clock.work(client, 10)
    came, before = dict.fromkeys(range(len(pace)), 0), 0.0
    for _ in range(events):
        client = clock.next()
        assert clock.now >= before
        before = clock.now
        came[client] += 1
        clock.work(client, 10)
    ordered = sorted(came, key=lambda client: pace[client])
    assert [came[c] for c in ordered] == sorted(came.values(), reverse=True)


def test_a_clock_goes_on_where_it_stood() -> None:
    clock, other = Clock({0: 1.0, 1: 0.7}), Clock({0: 1.0, 1: 0.7})
    for each in (0, 1):
        clock.work(each, 3)
    clock.next()
    other.load_state(clock.state())
    assert (clock.next(), clock.now) == (other.next(), other.now)


def test_paces_have_their_spread() -> None:
    assert paces([2.0, 3.0], 2, 0) == {0: 2.0, 1: 3.0}
    assert set(paces(0.0, 5, 0).values()) == {1e-3}
    drawn = paces(1.0, 50, 0)
    assert drawn == paces(1.0, 50, 0) != paces(1.0, 50, 1)
    assert max(drawn.values()) > 3e-3 > 3e-4 > min(drawn.values())
