"""Forward records and deltas: what a split server must remember between the forward and the backward of a batch.

    runs/<run>/forwards/<uuid>                      h, labels if the server has them; version, seed, batch key
    runs/<run>/deltas/<version>/<batch key>.<uuid>  δ, written before it is acknowledged: then the batch counts

The uuid follows from the batch key, so any replica that gets a retry writes to the same place, and the first writer
wins: a key has one record and one δ, whatever is repeated, reordered or sent elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cutlayer.errors import DamagedObject, MissingObject, ObjectExists, WireError
from cutlayer.store.base import Meta, Tensors, TensorStore
from cutlayer.store.keys import BatchKey, forward_uuid, parse_key, version_text


@dataclass(frozen=True, slots=True)
class ForwardRecord:
    """The forward of one batch: enough to run it again with the same bits.

    ``inputs`` is what crossed the cut, ``labels`` what the loss at the server needs (empty in the U-shape), ``version``
    the weights that were used, ``seed`` the stream of the backbone's random numbers, ``meta`` anything else (JSON).
    """

    uuid: str
    key: BatchKey
    version: int
    seed: int
    inputs: Tensors
    labels: Tensors = field(default_factory=dict)
    meta: Meta = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RecordNote:
    """A forward record without its tensors."""

    uuid: str
    key: BatchKey
    version: int


class ForwardRecords:
    """The forward records and deltas of one run.

    Args:
        secret: what makes uuids hard to guess; the same for all replicas of the run.
    """

    def __init__(self, store: TensorStore, run: str, secret: str = "") -> None:
        self._store = store
        self._secret = f"{secret}/{run}"
        self.forwards = f"runs/{run}/forwards"
        self.deltas = f"runs/{run}/deltas"

    def uuid(self, key: BatchKey) -> str:
        """Return the uuid of a batch's forward."""
        return forward_uuid(self._secret, key)

    def check(self, key: BatchKey, uuid: object) -> str:
        """Return ``uuid`` if it is that of the batch's forward.  Raises WireError."""
        found = self.uuid(key)
        if uuid != found:
            raise WireError(
                f"expected the forward id of batch {key.text}, got another; send back what the forward gave"
            )
        return found

    def put(
        self,
        key: BatchKey,
        version: int,
        seed: int,
        inputs: Tensors,
        labels: Tensors | None = None,
        meta: Meta | None = None,
    ) -> ForwardRecord:
        """Write the record of a batch and return it; if the batch has one already, return that one and write nothing.

        Raises:
            StoreError: the store failed (`NoSpace`: it is full).
        """
        record = ForwardRecord(self.uuid(key), key, version, seed, inputs, labels or {}, meta or {})
        tensors = {f"input/{name}": tensor for name, tensor in inputs.items()}
        tensors.update((f"label/{name}", tensor) for name, tensor in record.labels.items())
        said = {"key": list(key), "version": version, "seed": seed, "meta": record.meta}
        try:
            self._store.put(f"{self.forwards}/{record.uuid}", tensors, said, if_absent=True)
        except ObjectExists:
            return self.get(record.uuid)
        return record

    def get(self, uuid: str) -> ForwardRecord:
        """Return a record.

        Raises:
            MissingObject: there is none, or no more.
            DamagedObject: it is torn or foreign.
        """
        path = f"{self.forwards}/{uuid}"
        tensors, said = self._store.get(path)
        note = _note(path, uuid, said)
        inputs = {name.removeprefix("input/"): t for name, t in tensors.items() if name.startswith("input/")}
        labels = {name.removeprefix("label/"): t for name, t in tensors.items() if name.startswith("label/")}
        return ForwardRecord(uuid, note.key, note.version, said["seed"], inputs, labels, said["meta"])

    def find(self, key: BatchKey) -> ForwardRecord | None:
        """Return the record of a batch, if it has one."""
        try:
            return self.get(self.uuid(key))
        except MissingObject:
            return None

    def delete(self, uuid: str) -> None:
        """Remove a record; its δ, if any, stays."""
        self._store.recycle(f"{self.forwards}/{uuid}")

    def notes(self) -> list[RecordNote]:
        """Return all records of the run without their tensors, by key."""
        notes = []
        for path in self._store.list(self.forwards):
            try:
                notes.append(_note(path, path.rpartition("/")[2], self._store.meta(path)))
            except MissingObject:
                continue  # another process deleted it meanwhile
        return sorted(notes, key=lambda note: note.key)

    def put_delta(self, record: ForwardRecord | RecordNote, tensors: Tensors, meta: Meta | None = None) -> bool:
        """Write δ of a batch; return False if it was there already, which leaves the first one in place.

        Raises:
            StoreError: the store failed (`NoSpace`: it is full).
        """
        try:
            self._store.put(self._delta(record), tensors, meta, if_absent=True)
        except ObjectExists:
            return False
        return True

    def end(self, note: RecordNote) -> bool:
        """Write the end of a client that is dropped in the place of a δ; False if the δ is there, and counts."""
        return self.put_delta(note, {}, {"end": True}) or self.ended(note)

    def ended(self, note: RecordNote) -> bool:
        """Say whether the end of its client stands in the place of a δ."""
        try:
            return bool(self._store.meta(self._delta(note)).get("end"))
        except MissingObject:
            return False

    def get_delta(self, record: ForwardRecord | RecordNote) -> tuple[Tensors, Meta]:
        """Return δ of a batch.

        Raises:
            MissingObject: it never came.
            DamagedObject: it is torn or foreign.
        """
        return self._store.get(self._delta(record))

    def delete_delta(self, record: ForwardRecord | RecordNote) -> None:
        """Remove δ of a batch."""
        self._store.recycle(self._delta(record))

    def counted(self, version: int) -> dict[BatchKey, str]:
        """Return the batches that count in the update of ``version``, with their uuids, by key: those with a δ."""
        found: dict[BatchKey, str] = {}
        for path in self._store.list(f"{self.deltas}/{version_text(version)}"):
            key, _, uuid = path.rpartition("/")[2].partition(".")
            try:
                found[parse_key(key)] = uuid
            except ValueError as error:
                raise DamagedObject(f"{path} is not the name of a δ; remove what cutlayer did not write") from error
        return dict(sorted(found.items()))

    def _delta(self, record: ForwardRecord | RecordNote) -> str:
        return f"{self.deltas}/{version_text(record.version)}/{record.key.text}.{record.uuid}"


def _note(path: str, uuid: str, said: Meta) -> RecordNote:
    try:
        return RecordNote(uuid, BatchKey(*said["key"]), int(said["version"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedObject(f"{path} is not a forward record; remove what cutlayer did not write") from error
