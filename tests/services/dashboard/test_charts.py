"""Charts show the backend's figures, all of them, and say in a sentence what is to be seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from cutlayer.services.dashboard.charts import comparison, costs, curves, matrix, pace, partition
from cutlayer.services.dashboard.charts.chart import Chart
from cutlayer.services.dashboard.charts.comparison import Compared
from cutlayer.services.dashboard.charts.curves import Scene
from cutlayer.services.dashboard.history import History
from services.dashboard import figures

OF_HISTORY: list[Callable[[Scene], Chart]] = [
    curves.accuracy,
    curves.loss,
    curves.accuracy_against_bytes,
    curves.throughput,
    costs.traffic,
    costs.phases,
]


def scene(rounds: int, clients: int = 3, *, asked: tuple[int, ...] | None = None, **more: Any) -> Scene:
    found = History.of(figures.history(rounds, clients, asked=asked))
    return Scene(found, {n: f"hospital-{n}" for n in range(clients)}, **more)


@pytest.mark.parametrize("draw", OF_HISTORY)
@pytest.mark.parametrize("rounds", [0, 1, 30])
def test_every_series_has_points_and_a_table_of_the_same(draw: Callable[[Scene], Chart], rounds: int) -> None:
    chart = draw(scene(rounds))
    drawn = {each["id"] for each in chart.options["series"]}
    assert set(chart.data) <= drawn
    assert len(chart.rows) == rounds
    assert all(len(row) == len(chart.columns) for row in chart.rows)
    assert (chart.empty is None) == (rounds > 0)
    assert chart.summary.endswith((".", "!"))
    json.dumps(chart.as_props(), allow_nan=False)


@pytest.mark.parametrize("draw", OF_HISTORY)
def test_a_later_round_only_adds_points(draw: Callable[[Scene], Chart]) -> None:
    before, after = draw(scene(30)), draw(scene(31))
    for name, points in before.data.items():
        assert list(after.data[name])[:30] == list(points)
    assert before.options == after.options


def test_values_are_those_of_the_backend() -> None:
    answer = figures.history(5)
    chart = curves.accuracy(scene(5))
    expected = [[r, v] for r, v in zip(answer["rounds"], answer["series"]["test_accuracy"], strict=True)]
    assert chart.data["test_accuracy"] == expected


def test_few_clients_have_a_line_each_and_many_are_a_band() -> None:
    few = curves.accuracy(scene(4, 3))
    assert {"client-0", "client-1", "client-2"} <= set(few.data)
    assert "half-low" not in few.data
    many = curves.accuracy(scene(4, 500, asked=(7,), highlighted=(7,)))
    assert "client-7" in many.data
    assert not {"client-0", "client-1"} & set(many.data)
    low, high = many.data["half-low"], many.data["half-high"]
    band = figures.history(4)["bands"]["client_accuracy"]
    assert [y for _, y in low] == band["q25"]
    assert [round(a[1] + b[1], 9) for a, b in zip(low, high, strict=True)] == [round(v, 9) for v in band["q75"]]
    assert "hospital-7" in many.options["legend"]["data"]


def test_bytes_are_in_one_unit_and_the_table_in_bytes() -> None:
    chart = costs.traffic(scene(2))
    assert chart.options["yAxis"]["name"] == "MiB"
    assert chart.data["up"][0][1] == pytest.approx(3_000_000 / 2**20)
    assert chart.rows[0] == [1, 3_000_000, 1_000_000]


def test_phases_say_where_the_time_went() -> None:
    assert costs.phases(scene(2)).summary == "Round 2 took 2.00 s, most of it: clients compute."


def confused(counts: list[list[int]], names: list[str] | None = None) -> dict[str, Any]:
    return {"classes": names, "confusion": counts, "round": 1}


def test_the_matrix_names_what_is_mistaken_most_often() -> None:
    chart = matrix.confusion(confused([[8, 2, 0], [0, 9, 1], [0, 0, 0]], ["cat", "dog", "owl"]))
    assert "17 of 20" in chart.summary
    assert "cat for dog, 2 times" in chart.summary
    assert len(chart.data["cells"]) == 9
    assert chart.rows[0] == ["cat", 8, 2, 0]


def test_classes_stand_worst_first_and_those_without_samples_are_left_out() -> None:
    chart = matrix.per_class(confused([[8, 2, 0], [0, 9, 1], [0, 0, 0]], ["cat", "dog", "owl"]))
    assert chart.options["yAxis"]["data"] == ["cat", "dog"]
    assert list(chart.data["classes"]) == [0.8, 0.9]
    assert chart.rows[2] == ["owl", None, 0, 0]


def test_of_many_classes_those_are_shown_that_are_mistaken() -> None:
    counts = [[5 if a == b else 0 for b in range(100)] for a in range(100)]
    counts[77][3] = 4
    chart = matrix.confusion(confused(counts))
    assert "77" in chart.options["yAxis"]["data"]
    assert len(chart.options["yAxis"]["data"]) == matrix.MOST
    assert len(chart.rows) == 100


def test_the_partition_names_few_clients_and_orders_many() -> None:
    few = partition.partition(figures.members(3))
    assert few.options["yAxis"]["data"] == ["hospital-0", "hospital-1", "hospital-2"]
    many = partition.partition(figures.members(100))
    assert list(many.data["train"]) == sorted(many.data["train"], reverse=True)
    assert "100 clients" in many.summary
    assert partition.partition([{**figures.members(1)[0], "samples": None}]).empty is not None


def test_paces_of_servers_that_come_and_go() -> None:
    chart = pace.steps([(1.0, {"split-1": 5.0}), (2.0, {"split-1": 6.0, "split-2": 1.0})])
    assert chart.data == {"split-1": [[1000.0, 5.0], [2000.0, 6.0]], "split-2": [[1000.0, None], [2000.0, 1.0]]}


# --- comparison ---------------------------------------------------------------------------------------------------


def compared(id: str, accuracies: list[float], megabytes: float, **experiment: Any) -> Compared:
    n = len(accuracies)
    series = {
        "test_accuracy": accuracies,
        "loss": [1.0] * n,
        "total_bytes_up": [megabytes * 1e6 * (k + 1) for k in range(n)],
        "total_bytes_down": [0.0] * n,
        "total_seconds": [2.0 * (k + 1) for k in range(n)],
    }
    view = figures.view(id=id, experiment={"algorithm": {"name": id}, "rounds": 3, **experiment})
    return Compared(id, view, History.of({"rounds": list(range(1, n + 1)), "series": series}))


def test_runs_are_compared_at_the_accuracy_that_all_reach() -> None:
    runs = [compared("a", [0.5, 0.8, 0.9], 1.0), compared("b", [0.7, 0.75, 0.78], 4.0)]
    assert comparison.target_of(runs) == 0.78
    rows = {row.name: row for row in comparison.results(runs)}
    assert rows["Rounds to 78.0\u202f%"].cells == ("2", "3")
    assert rows["Rounds to 78.0\u202f%"].best == {0}
    assert rows["Accuracy, best"].best == {0}
    assert rows["Bytes"].best == {0}
    assert rows["Training time"].best == set()


def test_differences_are_the_keys_that_are_not_the_same() -> None:
    runs = [compared("a", [0.5], 1.0, batch_size=16, codec={"name": "int8"}), compared("b", [0.5], 1.0, batch_size=32)]
    assert {row.name: row.cells for row in comparison.differences(runs)} == {
        "algorithm": ("a", "b"),
        "batch_size": ("16", "32"),
        "codec": ("int8", "–"),
    }


@pytest.mark.parametrize("name", list(comparison.CHARTS))
def test_compared_charts_hold_every_run(name: str) -> None:
    chart = comparison.CHARTS[name]([compared("a", [0.5, 0.8], 1.0), compared("b", [], 1.0)])
    assert list(chart.data) == ["a", "b"]
    assert len(chart.data["a"]) == 2
    assert chart.data["b"] == []
    assert {row[0] for row in chart.rows} == {"a"}
    assert chart.empty is None


def test_a_comparison_of_nothing_says_so() -> None:
    runs = [compared("a", [], 1.0), compared("b", [], 1.0)]
    assert comparison.accuracy(runs).empty is not None
    assert comparison.target_of(runs) is None
