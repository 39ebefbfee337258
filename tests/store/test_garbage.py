"""Collecting: what can still be referred to stays, disk use is bounded, and usage adds up."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cutlayer.errors import StoreError
from cutlayer.store import (
    BatchKey,
    ForwardRecords,
    GradientLedger,
    MemoryStore,
    TensorStore,
    WeightVersions,
    collect,
    usage,
)

law = settings(deadline=None, max_examples=60)
TENSOR = torch.zeros(256)


def forward(store: TensorStore, client: int, batch: int, version: int, *, answered: bool) -> None:
    records = ForwardRecords(store, "r")
    record = records.put(BatchKey(client, 0, 0, batch), version, 0, {"h": TENSOR})
    if answered:
        records.put_delta(record, {"d": TENSOR})
        ledger = GradientLedger(store, "r", version)
        ledger.add(record.key, record.uuid, 1, {"w": TENSOR}, position=-1)


def publish(store: TensorStore, version: int) -> None:
    WeightVersions(store, "r").publish("backbone", version, {"w": TENSOR}, {"s": TENSOR})


def test_a_forward_that_waits_for_its_delta_keeps_its_version(store: TensorStore) -> None:
    publish(store, 0)
    forward(store, 0, 0, 0, answered=False)
    for version in range(1, 6):
        forward(store, 1, version, version - 1, answered=True)
        publish(store, version)
        collect(store, "r", keep=2)
    assert WeightVersions(store, "r").versions("backbone") == [0, 4, 5]
    assert ForwardRecords(store, "r").find(BatchKey(0, 0, 0, 0)) is not None
    assert list(ForwardRecords(store, "r").counted(4)) == [BatchKey(1, 0, 0, 5)]
    assert [len(ForwardRecords(store, "r").counted(version)) for version in range(4)] == [0, 0, 0, 0]
    forward(store, 0, 1, 5, answered=False)  # the client has moved on
    collect(store, "r", keep=2)
    assert WeightVersions(store, "r").versions("backbone") == [4, 5]
    assert ForwardRecords(store, "r").find(BatchKey(0, 0, 0, 0)) is None


@law
@given(st.data(), st.integers(1, 3))
def test_nothing_that_can_be_asked_for_is_lost_and_use_is_bounded(data: st.DataObject, keep: int) -> None:
    store, clients = MemoryStore(), 3
    batches, waiting = [0] * clients, dict[int, tuple[int, int]]()
    publish(store, 0)
    for version in range(12):
        for client in range(clients):
            for _ in range(data.draw(st.integers(0, 2))):
                answered = data.draw(st.booleans())
                forward(store, client, batches[client], version, answered=answered)
                waiting.pop(client, None)
                if not answered:
                    waiting[client] = (batches[client], version)
                batches[client] += 1
        publish(store, version + 1)
        collect(store, "r", keep=keep)
        existing = WeightVersions(store, "r").versions("backbone")
        assert existing[-keep:] == list(range(max(0, version + 2 - keep), version + 2))
        for client, (batch, of) in waiting.items():
            record = ForwardRecords(store, "r").find(BatchKey(client, 0, 0, batch))
            assert record is not None
            assert record.version == of
            assert of in existing
        assert len(existing) <= keep + clients
        assert len(store.list("runs/r/forwards")) <= clients * (1 + 2 * keep)
        assert usage(store, "r")["total"] <= (keep + clients) * 4000 + clients * (1 + 6 * keep) * 2000


def test_other_parts_are_kept_by_their_own_numbers(store: TensorStore) -> None:
    publish(store, 7)
    versions = WeightVersions(store, "r")
    for version in range(4):
        versions.publish("auxiliary/0", version, {"w": TENSOR})
    collect(store, "r", keep=2)
    assert versions.versions("auxiliary/0") == [2, 3]
    assert versions.versions("backbone") == [7]


def test_usage_adds_up_by_folder(store: TensorStore) -> None:
    assert usage(store, "r")["total"] == 0
    publish(store, 0)
    forward(store, 0, 0, 0, answered=True)
    store.put("runs/other/weights/backbone/00000000", {"w": TENSOR})
    used = usage(store, "r")
    assert all(used[folder] > 1024 for folder in ("weights", "optimizers", "forwards", "deltas", "gradients"))
    assert used["total"] == store.size_bytes("runs/r")


def test_collecting_an_empty_run_or_nothing_is_harmless(store: TensorStore) -> None:
    assert collect(store, "r").versions == 0
    with pytest.raises(StoreError, match="at least 1"):
        collect(store, "r", keep=0)
