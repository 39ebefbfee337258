"""Random processes killed at random moments: every run completes with the weights of one process."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from system.nursery import Nursery
from system.proxy import Manners, Proxy
from system.supervised import Supervised, Undisturbed, supervised

SAGE = {"name": "fsl_sage", "upload_every": 2, "align_every": 1, "align_epochs": 1, "align_batch": 50, "buffer": 100}
RUNS: list[dict[str, Any]] = [
    *({"algorithm": name} for name in ("file_sync", "ushaped", "splitfed_v2", "splitfed_v1", "vanilla", "splitfed_u")),
    {"algorithm": "fedavg"},
    {"algorithm": "psl"},
    {"algorithm": "sglr"},
    {"algorithm": {"name": "cse_fsl", "upload_every": 2}},
    {"algorithm": SAGE},
    {"algorithm": "file_sync", "update": {"every": 2}, "local_epochs": 2},
    {"algorithm": "file_sync", "codec": "int8"},
    {"algorithm": "splitfed_u", "update": {"every": "round"}},
    {"algorithm": "splitfed_v1", "aggregator": "fedadam"},
    {"algorithm": "splitfed_v1", "aggregator": {"name": "fedprox", "mu": 0.1}, "local_epochs": 2},
    {"algorithm": "ushaped", "codec": "bf16", "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}},
    {"algorithm": SAGE, "codec": "int8"},
    {"algorithm": "splitfed_async", "rounds": 4},
    {"algorithm": "splitfed_async", "update": 1, "batch_size": 16, "codec": "int8"},
    {"algorithm": "fedavg", "codec": "bf16", "aggregator": "fedyogi"},
]


@pytest.fixture
def services(tmp_path: Path, nursery: Nursery) -> Iterator[Supervised]:
    with supervised(tmp_path / "services", nursery, split=2) as found:
        yield found


LONGEST = 1.5
"""Seconds between two kills, at most."""


class Killer(threading.Thread):
    """Kills a random process every now and then, ``most`` times."""

    def __init__(self, services: Supervised, chance: random.Random, most: int) -> None:
        super().__init__(daemon=True)
        self._services, self._chance, self._most = services, chance, most
        self.kills = 0
        self._ended = threading.Event()

    def run(self) -> None:
        while self.kills < self._most and not self._ended.wait(self._chance.uniform(0.0, LONGEST)):
            self.kills += self._services.kill(self._chance.choice(self._services.names()))

    def stop(self) -> int:
        self._ended.set()
        self.join()
        return self.kills


def trained_under_fire(
    services: Supervised, undisturbed: Undisturbed, folder: Path, chance: random.Random,
    most: int, **keys: Any,
) -> int:  # fmt: skip
    """Train while processes are killed, check what came out, and return how many were killed."""
    killer = Killer(services, chance, most)
    run, experiment = services.submit(**keys)
    killer.start()
    try:
        view = services.ended(run)
    finally:
        kills = killer.stop()
    assert view.state == "done", f"{view.reason}\n{services.said(40)}"
    services.settle()
    services.check(run, experiment, folder, undisturbed(experiment))
    return kills


def test_random_kills_change_nothing(services: Supervised, undisturbed: Undisturbed, tmp_path: Path) -> None:
    chance, kills = random.Random(4), 0
    while kills < 8:
        kills += trained_under_fire(services, undisturbed, tmp_path, chance, 8 - kills, algorithm="file_sync", rounds=4)


@pytest.mark.chaos
def test_two_hundred_random_kills_change_nothing(
    services: Supervised, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    chance = random.Random(11)
    kills = 0
    for keys in itertools.cycle(RUNS):
        kills += trained_under_fire(services, undisturbed, tmp_path, chance, 20, rounds=4, **keys)
        print(f"{kills} kills after {keys}")
        if kills >= 200:
            return


@pytest.mark.chaos
def test_random_kills_and_disorder_together_change_nothing(
    nursery: Nursery, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    chance, kills = random.Random(5), 0
    network = {kind: Proxy(Manners(0.3, 0.2, 0.3)) for kind in ("split", "fed", "backend")}
    with supervised(tmp_path / "services", nursery, split=3, network=network) as services:
        for keys in itertools.cycle(RUNS):
            kills += trained_under_fire(services, undisturbed, tmp_path, chance, 10, rounds=3, **keys)
            print(f"{kills} kills in disorder after {keys}")
            if kills >= 60:
                break
    assert [proxy.wrong for proxy in network.values()] == [[], [], []]
    for proxy in network.values():
        proxy.close()
