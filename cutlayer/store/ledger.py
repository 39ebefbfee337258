"""The gradient ledger: the sum over the batches of one weight version, each of them exactly once.

A batch of b samples with mean gradient g adds b·g, and the update's gradient is Σ b·g / Σ b: a mean over samples.  The
sum is folded in one canonical order, whatever the order of arrival and whoever computed what:

    per client, in the order of its batches:   P_1 = b_1·g_1,   P_k = P_{k-1} + b_k·g_k
    over clients, in their order:              S = P(client 1) + P(client 2) + ...

so the total has the same bits after any number of kills, retries and replicas.  Products and sums are rounded one by
one (never fused), so that they don't depend on threads or vector width either.  A sum of a single batch is its gradient
itself, neither multiplied nor divided.

A replica keeps the running prefix P_k of a client in memory as long as that client's batches reach it in order, and
writes it with `flush`.  Any other batch is written as it comes.  A file holds a prefix or a single batch, never another
piece, so any set of files folds to the same bits, and what was only in the memory of a dead replica is recomputed.

    runs/<run>/gradients/<version>/prefix-<client>-<length>-<digest>
    runs/<run>/gradients/<version>/single-<batch key>

Why this fold, measured with `benchmarks/ledger.py` on 32 gradients of 11 M parameters from 4 clients, one core: a file
per batch takes 5 times as long and writes 8 times the bytes.  Fixed-point int64 accumulation, which is associative and
needs no order, takes 1.1 to 1.2 times as long (3 times with one client, as the arithmetic is dearer and the files are
fewer) and half the bytes; it also has to fix the range of a gradient beforehand, and rounds what float32 does not.  The
price of the fold is one model's memory per client with a running prefix, which ``resident`` bounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

import torch
from torch import Tensor

from cutlayer import wire
from cutlayer.errors import DamagedObject, MissingObject, ObjectExists, StoreError
from cutlayer.store.base import Meta, Tensors, TensorStore
from cutlayer.store.keys import BatchKey, version_text

_SMALL = 1 << 15  # values of a product that fit into a cache, where a scratch tensor gains nothing


class Member(NamedTuple):
    """A batch in a sum."""

    key: BatchKey
    uuid: str
    samples: int


@dataclass(frozen=True, slots=True)
class Total:
    """The mean gradient over the samples of all members.

    ``members`` are in canonical order; ``buffers`` are the buffer updates of each (BatchNorm statistics), in the same
    order, empty where a batch had none.  The tensors may share memory with the store: don't change them in place.
    """

    gradients: Tensors
    samples: int
    members: tuple[Member, ...]
    buffers: tuple[Tensors, ...]


@dataclass(slots=True)
class _Fold:
    """P_k of one client: with one member the gradient itself, with more the weighted sum."""

    members: list[Member] = field(default_factory=list)
    sums: Tensors = field(default_factory=dict)
    buffers: list[Tensors] = field(default_factory=list)
    owned: bool = False
    """Whether ``sums`` may be changed in place: nobody else refers to its memory."""
    path: str | None = None
    """Where this very prefix, or a shorter one, is written."""

    def own(self) -> Tensors:
        """Return Σ b·g of the members in memory of its own."""
        if len(self.members) == 1:
            return {name: tensor * self.members[0].samples for name, tensor in self.sums.items()}
        return {name: tensor.clone() for name, tensor in self.sums.items()}

    def extend(self, member: Member, gradients: Tensors, buffers: Tensors) -> None:
        """Go from P_k to P_{k+1}."""
        if not self.members:
            self.sums, self.owned = dict(gradients), False
        else:
            if not self.owned or len(self.members) == 1:
                self.sums, self.owned = self.own(), True
            _accumulate(self.sums, gradients, member.samples)
        self.members.append(member)
        self.buffers.append(buffers)


class GradientLedger:
    """The sum of the gradients of one weight version, as one replica sees and adds to it.

    Not to be shared among threads.

    Args:
        resident: of how many clients to keep the running prefix in memory, each as large as the model; those least
            recently added to are written and read back when needed.  None: of all.
    """

    def __init__(self, store: TensorStore, run: str, version: int, *, resident: int | None = None) -> None:
        self.version = version
        self.folder = f"runs/{run}/gradients/{version_text(version)}"
        self._store = store
        self._resident = resident
        self._resting: dict[int, str] = {}
        self._running: dict[int, _Fold] = {}
        self._singles: dict[BatchKey, str] = {}

    def add(
        self,
        key: BatchKey,
        uuid: str,
        samples: int,
        gradients: Tensors,
        *,
        buffers: Tensors | None = None,
        position: int | None = None,
    ) -> bool:
        """Count a batch; return False, and change nothing, if it is known to be counted already.

        Args:
            samples: how many samples ``gradients`` is the mean over.
            gradients: by parameter; kept by reference, so not to be changed in place afterwards.
            buffers: the batch's buffer updates, handed to whoever does the update.
            position: how many batches this client had in this version before.  None: as many as were added here, which
                is right with one replica.  -1: not known, so that the batch is kept apart.

        Raises:
            StoreError: the batch is known with another uuid, ``samples`` is below 1, or the store failed.
        """
        if samples < 1:
            raise StoreError(f"batch {key.text} expected at least 1 sample, got {samples}; don't count empty batches")
        fold = self._wake(key.client)
        known = self._singles.get(key)
        if fold is not None and known is None:
            known = next((member.uuid for member in fold.members if member.key == key), None)
        if known is not None:
            _same(key, known, uuid)
            return False
        member = Member(key, uuid, samples)
        gradients = {name: wire.dense(tensor) for name, tensor in gradients.items()}
        buffers = {name: wire.dense(tensor) for name, tensor in (buffers or {}).items()}
        length = len(fold.members) if fold else 0
        in_order = not fold or fold.members[-1].key < key
        if in_order and (position is None or position == length):
            if fold is None:
                fold = self._running[key.client] = _Fold()
            fold.extend(member, gradients, buffers)
            self._rest()
            return True
        return self._put_single(member, gradients, buffers)

    def _put_single(self, member: Member, gradients: Tensors, buffers: Tensors) -> bool:
        path = f"{self.folder}/single-{member.key.text}"
        new = True
        try:
            self._store.put(path, *_pack(_Fold([member], gradients, [buffers])), if_absent=True)
        except ObjectExists:
            _same(member.key, _members(path, self._store.meta(path))[0].uuid, member.uuid)
            new = False
        self._singles[member.key] = member.uuid
        return new

    def flush(self) -> None:
        """Write the running prefixes, so that other processes see them; each replaces the shorter one written before.

        Raises:
            StoreError: the store failed (`NoSpace`: it is full).
        """
        for client, fold in self._running.items():
            self._write(client, fold)

    def _path(self, client: int, fold: _Fold) -> str:
        digest = blake2b("".join(member.uuid for member in fold.members).encode(), digest_size=8).hexdigest()
        return f"{self.folder}/prefix-{client}-{len(fold.members)}-{digest}"

    def _write(self, client: int, fold: _Fold) -> str:
        path = self._path(client, fold)
        if fold.path != path:
            self._store.put(path, *_pack(fold))
            if fold.path is not None:
                self._store.recycle(fold.path)
            fold.path, fold.owned = path, False
        return path

    def _wake(self, client: int) -> _Fold | None:
        """Return the running prefix of a client, from its file if it rests there, as the most recently used one."""
        path = self._resting.pop(client, None)
        fold = self._running.pop(client, None) if path is None else self._load(path)
        if fold is not None:
            fold.path = path or fold.path
            self._running[client] = fold
        return fold

    def _rest(self) -> None:
        while self._resident is not None and len(self._running) > self._resident:
            client = next(iter(self._running))
            self._resting[client] = self._write(client, self._running.pop(client))

    def missing(self, expected: Iterable[BatchKey]) -> list[BatchKey]:
        """Return the batches out of ``expected`` whose gradients nobody has kept; add them again.

        Raises:
            StoreError: a batch is counted with two uuids.
        """
        clients, pieces = _by_client(expected), self._pieces()
        lost = []
        for client, keys in clients.items():
            prefix = _longest(pieces.prefixes.get(client, []), keys)
            lost += [key for key in keys[len(prefix.members) if prefix else 0 :] if key not in pieces.singles]
            fold = self._running.get(client)
            if fold and [m.key for m in fold.members] != keys[: len(fold.members)]:
                del self._running[client]  # no true prefix, so of no use; its batches may be added again
        return lost

    def members(self) -> dict[BatchKey, Member]:
        """Return every batch that is counted, here or in a file, by key and in canonical order.

        Raises:
            StoreError: a batch is counted with two uuids.
        """
        return dict(sorted(self._pieces().members.items()))

    def total(self, expected: Mapping[BatchKey, str] | Iterable[BatchKey] | None = None) -> Total:
        """Return the mean gradient over exactly the batches in ``expected``, or over all that are counted.

        Args:
            expected: the keys, or keys with the uuids they must have (`ForwardRecords.counted`).

        Raises:
            StoreError: batches are missing, none is counted, or one is counted with two uuids.
        """
        pieces = self._pieces()
        if isinstance(expected, Mapping):
            for key, uuid in expected.items():
                if key in pieces.members:
                    _same(key, pieces.members[key].uuid, uuid)
        clients = _by_client(pieces.members if expected is None else expected)
        if not clients:
            raise StoreError(f"no gradient is counted for weight version {self.version}; run a batch before the update")
        members: list[Member] = []
        buffers: list[Tensors] = []
        single: Tensors | None = None
        whole: Tensors = {}
        for client, keys in clients.items():
            fold = self._fold(client, keys, pieces)
            members += fold.members
            buffers += fold.buffers
            if len(clients) == 1 and len(keys) == 1:
                single = fold.sums
            elif not whole:
                whole = fold.own()
            else:
                _accumulate(whole, fold.sums, fold.members[0].samples if len(fold.members) == 1 else None)
        samples = sum(member.samples for member in members)
        if single is None:
            for tensor in whole.values():
                tensor.div_(samples)
        return Total(whole if single is None else single, samples, tuple(members), tuple(buffers))

    def discard(self) -> None:
        """Remove all files of this version: its update is published."""
        for path in self._store.list(self.folder):
            self._store.recycle(path)
        self._running.clear()
        self._resting.clear()
        self._singles.clear()

    def _fold(self, client: int, keys: list[BatchKey], pieces: _Pieces) -> _Fold:
        """Return P_k over all ``keys`` of a client, from the longest prefix and the single batches after it."""
        prefix = _longest(pieces.prefixes.get(client, []), keys)
        if prefix is None:
            fold = _Fold()
        elif prefix.fold is not None:
            running = prefix.fold
            fold = _Fold(list(running.members), running.sums, list(running.buffers))
        else:
            fold = self._load(prefix.path)
        for key in keys[len(fold.members) :]:
            if key not in pieces.singles:
                raise StoreError(
                    f"the gradient of batch {key.text} is missing from the ledger of weight version {self.version}; "
                    "recompute what `missing` names before the update"
                )
            one = self._load(pieces.singles[key])
            fold.extend(one.members[0], one.sums, one.buffers[0])
        return fold

    def _load(self, path: str) -> _Fold:
        tensors, meta = self._store.get(path)
        members = _members(path, meta)
        fold = _Fold(members, {}, [{} for _ in members])
        for full, tensor in tensors.items():
            what, _, name = full.partition("/")
            if what == "sum":
                fold.sums[name] = tensor
            else:
                index, _, name = name.partition("/")
                fold.buffers[int(index)][name] = tensor
        return fold

    def _pieces(self) -> _Pieces:
        pieces = _Pieces()
        for fold in self._running.values():
            pieces.take(_Prefix(tuple(fold.members), "", fold))
        own = {fold.path for client, fold in self._running.items() if fold.path == self._path(client, fold)}
        for path in self._store.list(self.folder):
            if path in own:
                continue  # the very prefix that is in memory
            try:
                members = _members(path, self._store.meta(path))
            except MissingObject:
                continue  # replaced by a longer prefix meanwhile, or discarded
            if path.rpartition("/")[2].startswith("single-"):
                pieces.singles[members[0].key] = path
            pieces.take(_Prefix(tuple(members), path, None))
        return pieces


class _Prefix(NamedTuple):
    members: tuple[Member, ...]
    path: str
    fold: _Fold | None


@dataclass(slots=True)
class _Pieces:
    """What there is to fold: in memory and in files."""

    prefixes: dict[int, list[_Prefix]] = field(default_factory=dict)
    singles: dict[BatchKey, str] = field(default_factory=dict)
    members: dict[BatchKey, Member] = field(default_factory=dict)

    def take(self, prefix: _Prefix) -> None:
        self.prefixes.setdefault(prefix.members[0].key.client, []).append(prefix)
        for member in prefix.members:
            known = self.members.setdefault(member.key, member)
            if known != member:
                _same(member.key, known.uuid, member.uuid)
                raise StoreError(
                    f"batch {member.key.text} is counted with {known.samples} and {member.samples} samples"
                )


def _longest(prefixes: list[_Prefix], keys: list[BatchKey]) -> _Prefix | None:
    true = [prefix for prefix in prefixes if [m.key for m in prefix.members] == keys[: len(prefix.members)]]
    return max(true, key=lambda prefix: (len(prefix.members), prefix.fold is not None), default=None)


def _by_client(keys: Iterable[BatchKey]) -> dict[int, list[BatchKey]]:
    clients: dict[int, list[BatchKey]] = {}
    for key in sorted(set(keys)):
        clients.setdefault(key.client, []).append(key)
    return clients


def _same(key: BatchKey, known: str, uuid: str) -> None:
    if known != uuid:
        raise StoreError(
            f"batch {key.text} is counted as {known} and came again as {uuid}; a batch has one forward, so something "
            "made a second one"
        )


def _accumulate(sums: Tensors, more: Tensors, samples: int | None) -> None:
    """Add b·g by name to ``sums`` in place, or ``more`` itself where ``samples`` is None; a name lacking counts as 0.

    Large products pass through one scratch tensor, as large as the largest of them: fresh memory for each would cost
    more than the arithmetic.
    """
    largest = max((tensor.numel() for tensor in more.values()), default=0)
    scratch: dict[torch.dtype, Tensor] = {}
    for name, tensor in more.items():
        if name not in sums:
            sums[name] = tensor.clone() if samples is None else tensor * samples
        elif samples is None:
            sums[name].add_(tensor)
        elif tensor.numel() < _SMALL:
            sums[name].add_(tensor * samples)
        else:
            if tensor.dtype not in scratch:
                scratch[tensor.dtype] = tensor.new_empty(largest)
            product = scratch[tensor.dtype][: tensor.numel()].view(tensor.shape)
            sums[name].add_(torch.mul(tensor, samples, out=product))


def _pack(fold: _Fold) -> tuple[Tensors, Meta]:
    tensors = {f"sum/{name}": tensor for name, tensor in fold.sums.items()}
    for index, buffers in enumerate(fold.buffers):
        tensors.update((f"buffers/{index}/{name}", tensor) for name, tensor in buffers.items())
    return tensors, {"members": [[*m.key, m.uuid, m.samples] for m in fold.members]}


def _members(path: str, meta: Meta) -> list[Member]:
    try:
        members = [Member(BatchKey(*said[:4]), said[4], said[5]) for said in meta["members"]]
        members[0]
    except (KeyError, TypeError, IndexError) as error:
        raise DamagedObject(f"{path} is not a partial sum; remove what cutlayer did not write") from error
    return members
