"""Laws of the gradient ledger: each batch once, and the same bits whatever happens on the way."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cutlayer.errors import DamagedObject, StoreError
from cutlayer.store import BatchKey, GradientLedger, MemoryStore, ObjectStore, TensorStore, Total

law = settings(deadline=None, max_examples=120)

Tensors = dict[str, Tensor]


def gradients(key: BatchKey) -> Tensors:
    """The gradients of a batch: always the same bits for the same key; every third batch lacks a parameter."""
    generator = torch.Generator().manual_seed(hash(key) % 2**31)
    made = {"weight": torch.randn(5, 7, generator=generator), "bias": torch.randn(3, generator=generator)}
    if key.batch % 3 == 2:
        del made["bias"]
    return made


def buffers(key: BatchKey) -> Tensors:
    return {"running_mean": torch.tensor([float(key.client), float(key.batch)])}


def samples(key: BatchKey) -> int:
    return 1 + (key.client * 7 + key.batch * 3) % 64


def uuid(key: BatchKey) -> str:
    return f"uuid-{key.text}"


def add(ledger: GradientLedger, key: BatchKey, position: int | None = None) -> bool:
    return ledger.add(key, uuid(key), samples(key), gradients(key), buffers=buffers(key), position=position)


def keys_of(counts: list[int]) -> list[BatchKey]:
    """Clients with so many batches each, over two epochs."""
    return [BatchKey(c, 3, batch // 2, batch) for c, count in enumerate(counts) for batch in range(count)]


def folded(keys: list[BatchKey]) -> Tensors:
    """The canonical fold, written down once more as plainly as can be."""
    if len(keys) == 1:
        return gradients(keys[0])
    total: Tensors = {}
    for client in sorted({key.client for key in keys}):
        one: Tensors = {}
        for key in sorted(key for key in keys if key.client == client):
            for name, gradient in gradients(key).items():
                weighted = gradient * samples(key)
                one[name] = one[name] + weighted if name in one else weighted
        for name, tensor in one.items():
            total[name] = total[name] + tensor if name in total else tensor
    count = sum(samples(key) for key in keys)
    return {name: tensor / count for name, tensor in total.items()}


def assert_canonical(total: Total, keys: list[BatchKey]) -> None:
    expected = folded(keys)
    assert total.gradients.keys() == expected.keys()
    assert all(torch.equal(total.gradients[name], expected[name]) for name in expected)
    assert [member.key for member in total.members] == sorted(keys)
    assert [member.uuid for member in total.members] == [uuid(key) for key in sorted(keys)]
    assert total.samples == sum(samples(key) for key in keys)
    assert [b["running_mean"].tolist() for b in total.buffers] == [
        buffers(key)["running_mean"].tolist() for key in sorted(keys)
    ]


def reduce(ledger: GradientLedger, keys: list[BatchKey]) -> Total:
    """What a reducer does: have recomputed what is missing, then fold."""
    expected = {key: uuid(key) for key in keys}
    for key in ledger.missing(expected):
        assert add(ledger, key, position=-1)
    assert ledger.missing(expected) == []
    return ledger.total(expected)


counts_of_clients = st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any)


@pytest.mark.parametrize("kind", ["references", "objects"])
@law
@given(data=st.data(), counts=counts_of_clients, replicas=st.integers(1, 3))
def test_the_total_has_the_same_bits_whatever_happens(
    kind: str, data: st.DataObject, counts: list[int], replicas: int
) -> None:
    """Any order of arrival, any replica, retries elsewhere, flushes, kills, unknown positions."""
    store: TensorStore = MemoryStore() if kind == "references" else ObjectStore("memory://")
    keys = keys_of(counts)
    resident = data.draw(st.sampled_from([None, 1, 2]))

    def fresh() -> GradientLedger:
        return GradientLedger(store, "r", 4, resident=resident)

    ledgers = [fresh() for _ in range(replicas)]
    ordered = data.draw(st.booleans())
    arrivals = keys if ordered else data.draw(st.permutations(keys))
    for key in arrivals:
        for _ in range(data.draw(st.integers(1, 2))):
            place = data.draw(st.integers(0, replicas - 1))
            position = sum(other.client == key.client and other < key for other in keys)
            add(ledgers[place], key, data.draw(st.sampled_from([position, -1])))
        match data.draw(st.sampled_from(["go on", "go on", "flush", "kill"])):
            case "flush":
                ledgers[place].flush()
            case "kill":
                ledgers[place] = fresh()
    assert_canonical(reduce(ledgers[0], keys), keys)
    for ledger in ledgers:
        ledger.flush()
    assert_canonical(reduce(fresh(), keys), keys)


@law
@given(data=st.data(), counts=counts_of_clients)
def test_one_replica_needs_no_positions(data: st.DataObject, counts: list[int]) -> None:
    """With batches in the order of their clients nothing is missing; in any other order what is missing is named."""
    keys, ledger = keys_of(counts), GradientLedger(MemoryStore(), "r", 0)
    if data.draw(st.booleans()):
        interleaved = sorted(keys, key=lambda key: (key.batch, key.client))
        for key in interleaved:
            assert add(ledger, key)
            assert not add(ledger, key)
        assert ledger.missing(keys) == []
    else:
        for key in data.draw(st.permutations(keys)):
            assert add(ledger, key)
    assert_canonical(reduce(ledger, keys), keys)


def test_a_single_batch_is_its_gradient_itself(store: TensorStore) -> None:
    key = BatchKey(1, 0, 0, 0)
    ledger = GradientLedger(store, "r", 0)
    add(ledger, key)
    ledger.flush()
    for reader in (ledger, GradientLedger(store, "r", 0)):
        total = reader.total()
        assert all(torch.equal(total.gradients[name], tensor) for name, tensor in gradients(key).items())


def test_the_mean_is_over_samples(store: TensorStore) -> None:
    ledger = GradientLedger(store, "r", 0)
    ledger.add(BatchKey(0, 0, 0, 0), "a", 1, {"w": torch.tensor([4.0])})
    ledger.add(BatchKey(1, 0, 0, 0), "b", 3, {"w": torch.tensor([0.0])})
    assert ledger.total().gradients["w"].tolist() == [1.0]


def test_all_replicas_see_what_was_flushed(store: TensorStore) -> None:
    keys = keys_of([3, 2])
    one, two = GradientLedger(store, "r", 0), GradientLedger(store, "r", 0)
    for key in keys[:2]:
        add(one, key)
    one.flush()
    assert two.missing(keys) == keys[2:]
    add(one, keys[2])
    one.flush()
    for key in keys[3:]:
        add(two, key)
    assert list(two.members()) == list({member.key: None for member in two.total(keys).members})
    assert_canonical(two.total(keys), keys)
    assert len(store.list("runs/r/gradients")) == 1  # the longer prefix replaced the shorter one


def test_a_batch_that_is_not_expected_is_not_counted(store: TensorStore) -> None:
    keys = keys_of([3])
    ledger = GradientLedger(store, "r", 0)
    for key in keys:
        add(ledger, key, position=-1)
    assert_canonical(ledger.total(keys[:2]), keys[:2])


def test_adding_goes_on_after_a_total_and_a_flush() -> None:
    """What the store or a caller holds by reference is not changed by later batches."""
    store, keys = MemoryStore(), keys_of([4])
    ledger = GradientLedger(store, "r", 0)
    for count, key in enumerate(keys):
        add(ledger, key)
        ledger.flush()
        held = [(ledger.total(), keys[: count + 1]), (GradientLedger(store, "r", 0).total(), keys[: count + 1])]
        for total, members in held:
            assert_canonical(total, members)
    add(ledger := GradientLedger(store, "r", 1), keys[0])
    for count in (1, 2, 3):
        ledger.flush()
        add(ledger, keys[count])
        assert_canonical(GradientLedger(store, "r", 1).total(), keys[:count])
    given_ = {"w": torch.ones(3)}
    ledger = GradientLedger(MemoryStore(), "r", 0)
    for batch in range(3):
        ledger.add(BatchKey(0, 0, 0, batch), str(batch), 2, given_)
    assert given_["w"].tolist() == [1.0, 1.0, 1.0]


def test_two_forwards_of_one_batch_are_an_error(store: TensorStore) -> None:
    key = BatchKey(0, 0, 0, 0)
    one, two = GradientLedger(store, "r", 0), GradientLedger(store, "r", 0)
    add(one, key, position=-1)
    with pytest.raises(StoreError, match="counted as uuid-0-0-0-0 and came again as other"):
        one.add(key, "other", 1, gradients(key))
    with pytest.raises(StoreError, match="other"):
        two.add(key, "other", 1, gradients(key), position=-1)
    two.add(key, "other", samples(key), gradients(key))
    with pytest.raises(StoreError, match="other"):
        two.total()
    with pytest.raises(StoreError, match="third"):
        one.total({key: "third"})


def test_what_cannot_be_summed_is_refused(store: TensorStore) -> None:
    ledger = GradientLedger(store, "r", 7)
    with pytest.raises(StoreError, match="version 7"):
        ledger.total()
    with pytest.raises(StoreError, match="sample"):
        ledger.add(BatchKey(0, 0, 0, 0), "a", 0, {})
    add(ledger, BatchKey(0, 3, 0, 0))
    with pytest.raises(StoreError, match="0-3-0-1 is missing"):
        ledger.total(keys_of([2]))


def test_a_foreign_file_among_the_sums_is_named(folder: ObjectStore) -> None:
    ledger = GradientLedger(folder, "r", 0)
    folder.put(f"{ledger.folder}/single-0-0-0-0", {"x": torch.zeros(1)}, {"no": "members"})
    with pytest.raises(DamagedObject, match="single-0-0-0-0"):
        ledger.total()


def test_discarding_removes_this_version_only(store: TensorStore) -> None:
    for version in (1, 2):
        ledger = GradientLedger(store, "r", version)
        add(ledger, BatchKey(0, 0, 0, 0))
        ledger.flush()
    ledger.discard()
    assert GradientLedger(store, "r", 2).members() == {}
    assert len(GradientLedger(store, "r", 1).members()) == 1


def test_threads_of_arithmetic_do_not_change_the_bits() -> None:
    keys = keys_of([3])
    totals = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            ledger = GradientLedger(MemoryStore(), "r", 0)
            for key in keys:
                generator = torch.Generator().manual_seed(key.batch)
                ledger.add(key, uuid(key), samples(key), {"w": torch.randn(300_001, generator=generator)})
            totals.append(ledger.total().gradients["w"])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(totals[0], totals[1])
    assert torch.equal(totals[0], totals[2])
