"""A window: the batches whose gradients make one step of the backbone.

Gradients are kept in the ledger of the weight version that they were computed with.  The window closes after so many
batches or samples, or when the round does; the step that follows publishes the next version, and what only the old one
needed is deleted.  A gradient that arrives for a version already left counts in the version that is open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from torch import Tensor

from cutlayer.roles.part import Part
from cutlayer.store import BatchKey, ForwardRecords, GradientLedger, Member, RecordNote, TensorStore, WeightVersions

BACKBONE = "backbone"


@dataclass(frozen=True)
class Mean:
    """The mean gradient over a window's samples, one a trainable parameter, and every batch's buffers, in order."""

    gradients: list[Tensor | None]
    buffers: list[list[Tensor]]
    members: tuple[Member, ...]


def counting(before: str, keys: Iterable[BatchKey]) -> str:
    """Return the digest of what was counted ``before`` and the batches ``keys``."""
    return blake2b("\n".join([before, *(key.text for key in sorted(keys))]).encode(), digest_size=16).hexdigest()


class Window:
    """Collects gradients until ``limit`` ``unit`` ("batches" or "samples") are in; None is until the round ends."""

    def __init__(
        self,
        store: TensorStore,
        run: str,
        part: Part,
        records: ForwardRecords,
        *,
        limit: int | None = None,
        unit: str = "batches",
    ) -> None:
        self.limit, self.unit = limit, unit
        self.versions = WeightVersions(store, run)
        self._store, self._run, self._records = store, run, records
        self._count = 0
        self._names = [name for name, p in part.module.named_parameters() if p.requires_grad]
        self.counted = ""
        """A digest of all members since it was last emptied, written with every version: a round can be audited."""
        self.position: Callable[[BatchKey], int] | None = None
        """How many batches of its client come before a batch in its window; None: as many as came here."""

    def begin(self, version: int, part: Part) -> None:
        """Start from ``part`` as weight ``version``; whatever the run has in the store from before is removed.

        For a run's first start and for a resume from a checkpoint, behind which the store may have got ahead.
        """
        for path in self._store.list(f"runs/{self._run}"):
            self._store.delete(path)
        self.enter(version)
        self._publish(version, part)

    def enter(self, version: int) -> None:
        """Collect gradients of weight ``version``, which is published already."""
        self._count = 0
        self.ledger = GradientLedger(self._store, self._run, version)
        self._waiting: list[RecordNote] = []

    @property
    def empty(self) -> bool:
        """Nothing is in since the last step."""
        return self._count == 0

    @property
    def full(self) -> bool:
        """Enough is in for a step."""
        return self.limit is not None and self._count >= self.limit

    def add(
        self,
        key: BatchKey,
        forward: str,
        samples: int,
        gradients: Sequence[Tensor | None],
        after: Sequence[Tensor],
        *,
        version: int | None = None,
    ) -> None:
        """Count the mean gradient over the ``samples`` of a batch, once, with the buffers that the batch left.

        ``version`` is the weight version that the batch's forward record names, None if it has no record.
        """
        named = {name: g for name, g in zip(self._names, gradients, strict=True) if g is not None}
        buffers = {f"{i:04d}": tensor for i, tensor in enumerate(after)}
        position = None if self.position is None else self.position(key)
        if self.ledger.add(key, forward, samples, named, buffers=buffers, position=position):
            self._count += 1 if self.unit == "batches" else samples
            if version is not None:
                self._waiting.append(RecordNote(forward, key, version))

    def mean(self, expected: Mapping[BatchKey, str] | None = None) -> Mean | None:
        """Return the mean over what is in, or over the batches ``expected``; None if there are none.

        Raises StoreError where one of the expected is not in.
        """
        if not self._count if expected is None else not expected:
            return None
        if expected is None:
            self.ledger.flush()
        total = self.ledger.total(expected)
        return Mean(
            [total.gradients.get(name) for name in self._names],
            [[batch[k] for k in sorted(batch)] for batch in total.buffers],
            total.members,
        )

    def close(self, part: Part, members: Sequence[Member]) -> None:
        """Publish ``part``, stepped on the window's mean, as the next version; delete what only the old one needed."""
        version = self.ledger.version + 1
        self._publish(version, part, members)
        counted = {member.uuid for member in members}
        for note in self._waiting:
            if note.uuid in counted:
                self._records.delete_delta(note)
                self._records.delete(note.uuid)
        self._waiting = []
        self.ledger.discard()
        self.enter(version)
        self.versions.collect(BACKBONE, {note.version for note in self._records.notes()})

    def load(self, part: Part, version: int) -> None:
        """Make ``part`` what it was at ``version``: weights, buffers, optimizer and schedule.

        Raises MissingObject where the version is not there (any more).
        """
        weights, said = self.versions.load(BACKBONE, version)
        self.counted = said.get("counted", "")
        state = self.versions.load_optimizer(BACKBONE, version)
        part.load_state({f"weights/{k}": t for k, t in weights.items()} | state["tensors"], state["meta"])

    def pinned(self, version: int, part: Part) -> Part:
        """Return a copy of ``part`` with the weights and buffers of an earlier version that a forward refers to."""
        twin = part.copy()
        twin.write(self.versions.load(BACKBONE, version)[0])
        return twin

    def publish(self, part: Part, members: Sequence[Member]) -> None:
        """Publish ``part`` as the next version, made of ``members``.  Raises ObjectExists where another was first."""
        self._publish(self.ledger.version + 1, part, members)

    def _publish(self, version: int, part: Part, members: Sequence[Member] = ()) -> None:
        tensors, meta = part.state()
        weights = {k.removeprefix("weights/"): t for k, t in tensors.items() if k.startswith("weights/")}
        rest = {k: t for k, t in tensors.items() if not k.startswith("weights/")}
        self.counted = counting(self.counted, (m.key for m in members))
        said = {"members": [[*m.key, m.uuid, m.samples] for m in members], "counted": self.counted}
        self.versions.publish(BACKBONE, version, weights, {"tensors": rest, "meta": meta}, said)
