"""The federated server: order of arrival, duplicates, and what it refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cutlayer.errors import TrainingError, WireError
from cutlayer.roles.aggregators import AGGREGATORS
from cutlayer.roles.federated import FederatedServer

Parts = dict[str, dict[str, Tensor]]


def _parts(seed: int) -> Parts:
    g = torch.Generator().manual_seed(seed)
    return {
        "encoder": {"fc.weight": torch.randn(3, 2, generator=g), "norm.num_batches_tracked": torch.tensor(seed)},
        "head": {"fc.bias": torch.randn(4, generator=g)},
    }


def _server(rule: str = "fedavg") -> FederatedServer:
    server = FederatedServer(_parts(100), {"name": rule})
    server.open(1)
    return server


def _equal(left: Any, right: Any) -> bool:
    return all(torch.equal(left[p][k], right[p][k]) for p in left for k in left[p])


@settings(max_examples=25, deadline=None)
@given(
    order=st.permutations(range(5)),
    samples=st.lists(st.integers(1, 500), min_size=5, max_size=5),
    rule=st.sampled_from(sorted(AGGREGATORS)),
)
def test_the_order_of_arrival_does_not_matter(order: list[int], samples: list[int], rule: str) -> None:
    straight, shuffled = _server(rule), _server(rule)
    for client in range(5):
        straight.receive(1, client, samples[client], _parts(client))
    for client in order:
        shuffled.receive(1, client, samples[client], _parts(client))
    assert _equal(straight.close(), shuffled.close())


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_not_even_where_rounding_depends_on_it(order: tuple[int, ...]) -> None:
    """(1e20 + 1) - 1e20 is not (1e20 - 1e20) + 1: the sum is folded in one order, whoever comes first."""
    values = (1e20, 1.0, -1e20, 3.0)
    server = FederatedServer({"head": {"b": torch.zeros(1)}}, {"name": "fedavg"})
    server.open(1)
    for client in order:
        server.receive(1, client, 1, {"head": {"b": torch.tensor([values[client]])}})
    expected = torch.tensor([((values[0] + values[1]) + values[2] + values[3]) / 4])
    assert torch.equal(server.close()["head"]["b"], expected)


def test_duplicates_are_refused_and_change_nothing() -> None:
    once, twice = _server(), _server()
    for server in (once, twice):
        server.receive(1, 0, 10, _parts(0))
        server.receive(1, 1, 20, _parts(1))
    with pytest.raises(WireError, match="client 1 sent a second update for round 1; the first one counts"):
        twice.receive(1, 1, 20, _parts(2))
    assert _equal(once.close(), twice.close())


def _without(parts: Parts) -> Parts:
    del parts["head"]["fc.bias"]
    return parts


def _extra(parts: Parts) -> Parts:
    parts["encoder"]["fc.extra"] = torch.zeros(1)
    return parts


def _shaped(parts: Parts) -> Parts:
    parts["encoder"]["fc.weight"] = torch.zeros(2, 3)
    return parts


def _typed(parts: Parts) -> Parts:
    parts["encoder"]["fc.weight"] = parts["encoder"]["fc.weight"].double()
    return parts


def _missing(parts: Parts) -> Parts:
    del parts["head"]
    return parts


def _spoilt(value: float) -> Callable[[Parts], Parts]:
    def spoil(parts: Parts) -> Parts:
        parts["head"]["fc.bias"][2] = value
        return parts

    return spoil


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (_without, WireError, "client 7 sent a head .*; they differ in fc.bias"),
        (_missing, WireError, "they differ in fc.bias"),
        (_extra, WireError, "they differ in fc.extra"),
        (_shaped, WireError, r"fc.weight as torch.float32 \(2, 3\); expected torch.float32 \(3, 2\)"),
        (_typed, WireError, r"fc.weight as torch.float64 \(3, 2\); expected torch.float32"),
        (_spoilt(float("nan")), TrainingError, "client 7 sent an update whose head tensor fc.bias is not finite"),
        (_spoilt(float("-inf")), TrainingError, "not finite"),
    ],
)
def test_updates_that_do_not_fit_are_refused(
    change: Callable[[Parts], Parts], error: type[Exception], message: str
) -> None:
    server, clean = _server(), _server()
    for each in (server, clean):
        each.receive(1, 0, 10, _parts(0))
    with pytest.raises(error, match=message):
        server.receive(1, 7, 10, change(_parts(7)))
    assert _equal(server.close(), clean.close()), "a refused update leaves no trace"


@pytest.mark.parametrize("number", [0, 2])
def test_updates_of_another_round_are_refused(number: int) -> None:
    with pytest.raises(WireError, match=f"sent an update of round {number}, but round 1 is open"):
        _server().receive(number, 0, 10, _parts(0))


def test_a_late_update_does_not_count_in_the_next_round() -> None:
    server = _server()
    server.receive(1, 0, 10, _parts(0))
    server.close()
    server.open(2)
    with pytest.raises(WireError, match="round 1, but round 2 is open"):
        server.receive(1, 1, 10, _parts(1))


@pytest.mark.parametrize("samples", [0, -3])
def test_updates_without_samples_are_refused(samples: int) -> None:
    with pytest.raises(WireError, match="expected at least 1"):
        _server().receive(1, 0, samples, _parts(0))


def test_absent_clients_do_not_enter_the_average() -> None:
    """The published file-based scheme averaged in the old models of clients that had not come."""
    server = _server()
    server.receive(1, 0, 10, _parts(0))
    server.close()
    server.open(2)
    server.receive(2, 3, 99, _parts(3))
    assert _equal(server.close(), _parts(3))


def test_a_round_in_which_nobody_comes_changes_nothing() -> None:
    server = _server()
    assert _equal(server.close(), _parts(100))


def test_buffers_are_averaged_whatever_the_rule_does_to_weights() -> None:
    server = FederatedServer(_parts(100), {"name": "fedadam"}, {"head": {"fc.bias"}})
    server.open(1)
    server.receive(1, 0, 10, _parts(0))
    found = server.close()
    assert torch.equal(found["head"]["fc.bias"], _parts(0)["head"]["fc.bias"])
    assert not torch.equal(found["encoder"]["fc.weight"], _parts(0)["encoder"]["fc.weight"])


def test_state_is_all_that_later_rounds_depend_on() -> None:
    server = _server("fedadam")
    server.receive(1, 0, 10, _parts(0))
    server.close()
    state = copy.deepcopy(server.state())

    resumed = FederatedServer(_parts(55), {"name": "fedadam"})
    resumed.load_state(state)
    for each in (server, resumed):
        each.open(2)
        each.receive(2, 1, 10, _parts(1))
    assert _equal(server.close(), resumed.close())
