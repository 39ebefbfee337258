"""How a server is: rates over the last seconds, percentiles, and the store weighed in the background."""

from __future__ import annotations

import threading

import pytest
import torch

from cutlayer.services.vitals import MOST, Body, Pace, Scale
from cutlayer.store import MemoryStore


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_rates_are_those_of_the_last_seconds() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert pace.stats()["steps_per_second"] == 0
    assert pace.stats()["p99_ms"] is None
    clock.now += 100.0
    for n in range(100):
        pace.note((n + 1) / 1000, 10, 20)
    found = pace.stats()
    assert found["steps_per_second"] == 10.0
    assert (found["p50_ms"], found["p95_ms"], found["p99_ms"]) == pytest.approx((50, 95, 99))
    assert (found["bytes_in_per_second"], found["bytes_out_per_second"]) == (100.0, 200.0)
    clock.now += 11.0
    assert pace.stats()["steps_per_second"] == 0


def test_a_young_process_divides_by_its_age() -> None:
    clock = Clock()
    pace = Pace(clock)
    clock.now += 4.0
    for _ in range(8):
        pace.note(0.001, 0, 0)
    assert pace.stats()["steps_per_second"] == 2.0


def test_more_than_is_remembered_is_still_a_rate() -> None:
    clock = Clock()
    pace = Pace(clock)
    for n in range(2 * MOST):
        clock.now = 100.0 + n / 10_000
        pace.note(0.001, 0, 0)
    assert pace.stats()["steps_per_second"] == pytest.approx(10_000, rel=0.01)


def test_the_process_says_what_it_takes() -> None:
    found = Body().stats()
    assert found["rss_bytes"] > 1_000_000
    assert found["cpu_percent"] >= 0


def test_the_store_is_weighed_by_what_it_is_for() -> None:
    store = MemoryStore()
    scale = Scale(store, lambda: ["a", "b"], threading.Event())
    assert scale.stats() == {"ledger_bytes": 0, "store_bytes": 0}
    for path in ("a/forwards/1", "b/deltas/1", "b/weights/x", "c/weights/x"):
        store.put(f"runs/{path}", {"x": torch.zeros(3)})
    scale.weigh()
    ledger = store.size_bytes("runs/a") + store.size_bytes("runs/b/deltas")
    assert ledger > 0
    assert scale.stats() == {"ledger_bytes": ledger, "store_bytes": ledger + store.size_bytes("runs/b/weights")}
