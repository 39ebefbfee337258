"""Figures are sums first and rates afterwards."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cutlayer.services.backend.figures import line, summary


def trained(samples: int, loss: float | None, **keys: Any) -> dict[str, Any]:
    return {"samples": samples, "loss_sum": loss, "bytes_up": 3, "bytes_down": 2, "bytes": {"a": 5}, **keys}


def test_a_line_has_the_keys_of_a_local_run() -> None:
    keys = {
        "round", "loss", "clients", "samples", "bytes_up", "bytes_down", "bytes", "client_loss", "client_samples",
        "seconds", "test_accuracy", "test_loss", "client_accuracy", "time",
    }  # fmt: skip
    found = line(1, {0: trained(10, 5.0)}, {}, None).metrics
    assert keys <= found.keys()
    assert found.keys() - keys == {"own_accuracy", "own_loss", "dropped"}
    assert found["time"].keys() == {"client", "server", "federated", "evaluation"}


def test_losses_are_weighted_by_samples() -> None:
    found = line(3, {2: trained(30, 30.0), 0: trained(10, 30.0)}, {}, None).metrics
    assert found["loss"] == 60 / 40
    assert found["client_loss"] == {"2": 1.0, "0": 3.0}
    assert list(found["client_samples"]) == ["2", "0"], "in the order of the plan"
    assert (found["bytes_up"], found["bytes_down"], found["bytes"]) == (6, 4, {"a": 10})


counts = st.tuples(st.integers(0, 50), st.integers(0, 50), st.floats(0, 100)).map(
    lambda t: {"count": t[0] + t[1], "correct": t[0], "loss": t[2]}
)


@given(st.dictionaries(st.integers(0, 9), counts, max_size=5))
def test_the_accuracy_of_all_clients_is_that_of_all_their_samples(results: dict[int, Any]) -> None:
    found = line(1, {0: trained(1, 1.0)}, results, None).metrics
    count = sum(r["count"] for r in results.values())
    correct = sum(r["correct"] for r in results.values())
    assert found["own_accuracy"] == (correct / count if count else None)
    assert set(found["client_accuracy"]) == {str(n) for n, r in results.items() if r["count"]}


def test_a_test_set_of_everyone_counts_where_there_is_one() -> None:
    score = {"available": True, "count": 4, "correct": 3, "loss": 2.0, "confusion": [[2, 0], [1, 1]]}
    own = {0: {"count": 2, "correct": 1, "loss": 1.0, "confusion": [[1, 0], [1, 0]]}}
    found = line(1, {0: trained(1, 1.0)}, own, score)
    assert (found.metrics["test_accuracy"], found.metrics["test_loss"]) == (0.75, 0.5)
    assert found.evaluation == {"round": 1, "confusion": [[2, 0], [1, 1]]}
    without = line(1, {0: trained(1, 1.0)}, own, {"available": False})
    assert without.metrics["test_accuracy"] is None
    assert without.evaluation == {"round": 1, "confusion": [[1, 0], [1, 0]]}
    personal = line(1, {0: trained(1, 1.0)}, own, {**score, "accuracy": 0.6}).metrics
    assert personal["test_accuracy"] == 0.6


def test_confusions_are_added_if_they_fit() -> None:
    one, two = {"count": 1, "correct": 1, "loss": 1.0, "confusion": [[1]]}, {"count": 1, "correct": 0, "loss": None}
    assert line(1, {}, {0: one, 1: one, 2: two}, None).evaluation == {"round": 1, "confusion": [[2]]}
    assert line(1, {}, {0: one, 1: {**one, "confusion": [[1, 0], [0, 0]]}}, None).evaluation is None
    assert line(1, {}, {0: one, 2: two}, None).metrics["own_loss"] is None, "a loss that is unknown makes no mean"


def test_without_samples_or_losses_nothing_is_divided() -> None:
    found = line(1, {0: trained(0, 0.0), 1: trained(5, None)}, {0: {"count": 0, "correct": 0, "loss": 0.0}}, None)
    assert found.metrics["loss"] == 0.0
    assert found.metrics["client_loss"] == {}
    assert found.metrics["own_accuracy"] is None


def test_a_summary_has_the_keys_of_a_local_run() -> None:
    lines = [
        line(
            n, {0: trained(10, 5.0)}, {}, {"available": True, "count": 2, "correct": n, "loss": 1.0}, seconds=2.0
        ).metrics
        for n in (2, 1)
    ]
    found = summary("vanilla", 7, 1, lines, {"versions": {"torch": "2"}, "device": "cpu"})
    assert found["test_accuracy"] == 0.5
    assert found["best_accuracy"] == 1.0
    assert (found["rounds"], found["seconds"], found["samples"], found["samples_per_second"]) == (2, 4.0, 20, 5.0)
    assert found["seed"] == 7
    assert found["versions"] == {"torch": "2"}
    keys = {
        "algorithm", "engine", "test_accuracy", "best_accuracy", "loss", "rounds", "bytes_up", "bytes_down", "seconds",
        "samples", "samples_per_second", "seed", "command", "clients", "device", "threads", "parameters", "data_note",
        "versions",
    }  # fmt: skip
    assert found.keys() - keys == {"artifacts"}


def test_without_a_test_set_of_everyone_the_clients_own_counts() -> None:
    own = {0: {"count": 4, "correct": 3, "loss": 2.0}}
    found = summary("vanilla", 0, 1, [line(1, {0: trained(1, 1.0)}, own, None).metrics], {})
    assert found["test_accuracy"] == 0.75
    assert summary("vanilla", 0, 0, [], {})["test_accuracy"] is None
