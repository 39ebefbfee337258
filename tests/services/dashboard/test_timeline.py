"""Who is slow is seen at once, and stands on top."""

from __future__ import annotations

import pytest

from cutlayer.services.dashboard.charts import timeline
from services.dashboard.figures import spans

SLOW = spans(
    (
        "quick",
        [("train", "training", 1, 0.0, 1.0), ("train", "waiting", 1, 1.0, 4.0), ("evaluate", "training", 1, 4, 5)],
    ),
    ("slow", [("train", "training", 1, 0.0, 3.0), ("train", "waiting", 1, 3.0, 4.0)]),
    ("other", [("train", "training", 1, 0.0, 1.2), ("train", "idle", 1, 1.2, 4.0)]),
)


def test_the_straggler_is_named_with_how_slow_it_is() -> None:
    found = timeline.paces(SLOW)
    assert found[1].seconds == 3.0
    assert found[1].times == pytest.approx(2.5)
    assert [number for number, pace in found.items() if pace.straggles] == [1]
    assert timeline.slowest(SLOW, found) == "slow is slow: 3.00 s of work a round, 2.5 times the median."


def test_waiting_for_servers_makes_nobody_slow() -> None:
    found = timeline.paces(spans(("a", [("train", "waiting", 1, 0, 9)]), ("b", [("train", "training", 1, 0, 1)])))
    assert not any(pace.straggles for pace in found.values())


def test_a_merged_span_counts_by_its_tasks() -> None:
    clients = spans(("a", [("train", "training", 9, 0.0, 10.0)]), ("b", [("train", "training", 9, 0.0, 1.0)]))
    clients[0]["spans"][0]["tasks"] = 10
    assert timeline.paces(clients)[0].seconds == 1.0


def test_orders() -> None:
    pace = timeline.paces(SLOW)
    names = lambda by: [c["name"] for c in timeline.ordered(SLOW, pace, by)]  # noqa: E731
    assert names("slowest") == ["slow", "other", "quick"]
    assert names("name") == ["other", "quick", "slow"]
    assert names("number") == ["quick", "slow", "other"]


def test_who_was_dropped_stands_below_stragglers_and_above_all_others() -> None:
    clients = [*SLOW, *spans(*[("x", [])] * 3, ("lost", [("train", "dropped", 1, 0.0, 0.1)]))[3:]]
    names = [c["name"] for c in timeline.ordered(clients, timeline.paces(clients), "slowest")]
    assert names == ["slow", "lost", "other", "quick"]


def test_rows_are_spans_in_the_window() -> None:
    chart = timeline.timeline(SLOW, 0.5, 4.5, timeline.paces(SLOW), "")
    assert chart.options["yAxis"]["data"] == ["quick", "slow  2.5×", "other"]
    assert len(chart.data["spans"]) == 7
    place, begin, end, state, number = chart.data["spans"][0]
    assert (place, begin, end, number) == (0, 0.0, 1000.0, 1)
    assert timeline.STATES[state][0] == "training"
    assert chart.rows[2] == [0, "quick", "evaluating", 1, 4, 5]
    assert timeline.timeline(SLOW, 100.0, 101.0, {}, "").empty is not None


def test_every_state_of_the_backend_has_a_colour() -> None:
    from typing import get_args

    from cutlayer.services.observed import SpanState

    assert set(get_args(SpanState)) <= set(timeline.PLACES)


def test_nobody_at_work() -> None:
    idle = spans(("a", []), ("b", []))
    assert timeline.slowest(idle, timeline.paces(idle)) == "Nobody has worked in this span of time."


def test_the_window_holds_the_last_rounds() -> None:
    assert timeline.window([1.0, None, 30.0, 40.0], 2) == 70.0
    assert timeline.window([], 5) == 5.0
