"""What is sent when a chart changes: only what is new, and with it the page has the next chart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cutlayer.services.dashboard.charts.chart import Chart, change

POINTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=6)
DATA = st.dictionaries(st.sampled_from("abc"), POINTS, max_size=3)


def fed(before: Chart, changed: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the points that a page has after it was fed, as elements/chart.js does it."""
    points = {name: list(found) for name, found in before.data.items()}
    for name, found in changed.get("replace", {}).items():
        points[name] = list(found)
    for name, found in changed.get("append", {}).items():
        points[name] = points.get(name, []) + list(found)
    return points


def chart(data: dict[str, Any]) -> Chart:
    return Chart("c", "a chart", {"series": []}, data)


@given(before=DATA, after=DATA)
def test_the_page_has_the_next_chart(before: dict[str, Any], after: dict[str, Any]) -> None:
    found = fed(chart(before), change(chart(before), chart(after)))
    assert {name: found[name] for name in after} == after


def test_new_points_are_appended_and_old_ones_not_sent() -> None:
    changed = change(chart({"a": [1, 2], "b": [1]}), chart({"a": [1, 2, 3], "b": [1]}))
    assert changed == {"append": {"a": [3]}}


def test_nothing_is_sent_for_nothing() -> None:
    assert change(chart({"a": [1]}), chart({"a": [1]})) == {}


def test_options_and_sentences_are_sent_when_they_change() -> None:
    one = chart({"a": [1]})
    assert change(one, replace(one, summary="now")) == {"summary": "now"}
    assert change(one, replace(one, empty="nothing")) == {"empty": "nothing"}
    assert change(one, replace(one, options={"series": [1]})) == {"options": {"series": [1]}}


def test_csv_holds_no_formula_and_no_broken_line() -> None:
    table = Chart("c", "", {}, {}, ("round", "=cmd"), [[1, "=1+1"], [2, 'a "quoted", cell'], [3, None], [-4, "@x"]])
    lines = table.csv().split("\r\n")
    assert lines == ["round,'=cmd", "1,'=1+1", '2,"a ""quoted"", cell"', "3,", "-4,'@x", ""]
