"""Forward records: one per batch whatever is repeated, and δ that makes it count."""

from __future__ import annotations

import threading
import uuid

import pytest
import torch

from cutlayer.errors import DamagedObject, MissingObject
from cutlayer.store import BatchKey, ForwardRecords, ObjectStore, TensorStore

KEY = BatchKey(3, 1, 0, 7)


def test_a_record_comes_back_whole(store: TensorStore) -> None:
    records = ForwardRecords(store, "r")
    inputs = {"0": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last), "1": torch.tensor([True])}
    labels = {"y": torch.arange(4)}
    written = records.put(KEY, 5, 2**62, inputs, labels, {"autocast": None})
    for read in (records.get(written.uuid), records.find(KEY)):
        assert read is not None
        assert (read.uuid, read.key, read.version, read.seed, read.meta) == (
            written.uuid,
            KEY,
            5,
            2**62,
            {"autocast": None},
        )
        assert read.inputs.keys() == inputs.keys()
        assert torch.equal(read.inputs["0"], inputs["0"])
        assert read.inputs["0"].stride() == inputs["0"].stride()
        assert torch.equal(read.labels["y"], labels["y"])


def test_a_retry_gets_the_first_record_and_writes_nothing(store: TensorStore) -> None:
    one, two = ForwardRecords(store, "r", "secret"), ForwardRecords(store, "r", "secret")
    first = one.put(KEY, 5, 1, {"h": torch.zeros(2)})
    again = two.put(KEY, 6, 2, {"h": torch.ones(2)})
    assert (again.uuid, again.version, again.seed) == (first.uuid, 5, 1)
    assert again.inputs["h"].tolist() == [0.0, 0.0]
    assert len(store.list("")) == 1


def test_racing_replicas_agree_on_one_record(store: TensorStore) -> None:
    got: list[tuple[str, float]] = []

    def replica(number: int) -> None:
        record = ForwardRecords(store, "r").put(KEY, 0, number, {"h": torch.tensor([float(number)])})
        got.append((record.uuid, float(record.inputs["h"])))

    threads = [threading.Thread(target=replica, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 6
    assert len(set(got)) == 1


def test_uuids_look_random_and_need_the_secret(store: TensorStore) -> None:
    records = ForwardRecords(store, "r", "secret")
    assert uuid.UUID(records.uuid(KEY)).version == 4
    others = {
        records.uuid(KEY._replace(batch=8)),
        ForwardRecords(store, "r", "other").uuid(KEY),
        ForwardRecords(store, "s", "secret").uuid(KEY),
    }
    assert records.uuid(KEY) not in others
    assert len(others) == 3


def test_the_first_delta_counts(store: TensorStore) -> None:
    records = ForwardRecords(store, "r")
    record = records.put(KEY, 5, 1, {"h": torch.zeros(2)})
    other = records.put(KEY._replace(batch=6), 5, 1, {"h": torch.zeros(2)})
    records.put(KEY._replace(batch=8), 5, 1, {"h": torch.zeros(2)})
    assert records.counted(5) == {}
    assert records.put_delta(record, {"d": torch.ones(2)}, {"n": 1})
    assert not records.put_delta(record, {"d": torch.zeros(2)})
    assert records.put_delta(other, {"d": torch.zeros(2)})
    tensors, meta = records.get_delta(record)
    assert tensors["d"].tolist() == [1.0, 1.0]
    assert meta == {"n": 1}
    assert list(records.counted(5).items()) == [(other.key, other.uuid), (record.key, record.uuid)]
    assert records.counted(4) == {}
    assert [note.key.batch for note in records.notes()] == [6, 7, 8]


def test_what_is_deleted_is_missing(store: TensorStore) -> None:
    records = ForwardRecords(store, "r")
    record = records.put(KEY, 5, 1, {"h": torch.zeros(2)})
    records.put_delta(record, {})
    records.delete(record.uuid)
    records.delete_delta(record)
    assert records.find(KEY) is None
    for read in (lambda: records.get(record.uuid), lambda: records.get_delta(record)):
        with pytest.raises(MissingObject):
            read()


def test_what_is_no_record_is_named(folder: ObjectStore) -> None:
    records = ForwardRecords(folder, "r")
    folder.put(f"{records.forwards}/{records.uuid(KEY)}", {}, {"version": 1})
    folder.put(f"{records.deltas}/00000001/strange", {})
    with pytest.raises(DamagedObject, match="forward record"):
        records.find(KEY)
    with pytest.raises(DamagedObject, match="strange"):
        records.counted(1)
