"""What a run keeps in the store, and removing what nothing can refer to any more.

Kept are: the newest ``keep`` versions of every part and all that belongs to them; versions that are pinned; and, of
every client, the forward record of its newest batch while its δ has not come, with the version it names.  A client
goes through its batches one after the other, so an older record without δ is one that it has given up.  Disk use is
therefore bounded by ``keep`` versions and one record and one version per client.
"""

from __future__ import annotations

from dataclasses import dataclass

from cutlayer.errors import StoreError
from cutlayer.store.base import TensorStore
from cutlayer.store.keys import version_text
from cutlayer.store.records import ForwardRecords, RecordNote
from cutlayer.store.versions import WeightVersions

FOLDERS = (
    "weights", "optimizers", "forwards", "deltas", "gradients", "updates", "pins", "steps", "ends", "states",
    "federated", "handovers", "personal",
)  # fmt: skip


def usage(store: TensorStore, run: str) -> dict[str, int]:
    """Return the bytes that a run takes in the store, by folder and in ``total``."""
    used = {folder: store.size_bytes(f"runs/{run}/{folder}") for folder in FOLDERS}
    return used | {"total": sum(used.values())}


@dataclass(frozen=True, slots=True)
class Collected:
    """How many objects of each kind `collect` has deleted."""

    versions: int = 0
    records: int = 0
    deltas: int = 0
    gradients: int = 0


def collect(store: TensorStore, run: str, *, keep: int = 2, part: str = "backbone") -> Collected:
    """Delete what nothing in a run can refer to any more; see the module's text.

    Any process may do this at any time, several at once too, but not for a version whose update is not published.

    Args:
        keep: how many versions of every part to keep, 1 or more.  With 1 a client whose backward was counted but not
            answered cannot ask again once the update is published; with 2 it can until the update after.
        part: the part whose versions forward records name.

    Raises:
        StoreError: ``keep`` is below 1, or the store failed.
    """
    if keep < 1:
        raise StoreError(f"expected to keep at least 1 version, got {keep}")
    versions, records = WeightVersions(store, run), ForwardRecords(store, run)
    existing = versions.versions(part)
    if not existing:
        return Collected()
    oldest = existing[-keep:][0]
    outstanding, gone = _sorted_out(records, oldest)
    for note in gone:
        records.delete(note.uuid)
    deltas = _old(store, records.deltas, oldest)
    gradients = _old(store, f"runs/{run}/gradients", oldest)
    for path in (*deltas, *gradients):
        store.delete(path)
    removed = versions.collect(part, set(existing[-keep:]) | {note.version for note in outstanding})
    for other in versions.parts():
        if other != part:
            removed += versions.collect(other, set(versions.versions(other)[-keep:]))
    return Collected(len(removed), len(gone), len(deltas), len(gradients))


def _sorted_out(records: ForwardRecords, oldest: int) -> tuple[list[RecordNote], list[RecordNote]]:
    """Return the records that wait for their δ on versions before ``oldest``, and those that can go."""
    newest: dict[int, RecordNote] = {}
    notes = records.notes()
    for note in notes:  # sorted by key, so the last one of a client is its newest
        newest[note.key.client] = note
    waiting: list[RecordNote] = []
    gone: list[RecordNote] = []
    counted: dict[int, set[str]] = {}
    for note in notes:
        if note.version >= oldest:
            continue
        uuids = counted.setdefault(note.version, set(records.counted(note.version).values()))
        lives = newest[note.key.client] is note and note.uuid not in uuids
        (waiting if lives else gone).append(note)
    return waiting, gone


def _old(store: TensorStore, folder: str, oldest: int) -> list[str]:
    """Return the paths in ``folder`` that belong to a version before ``oldest``."""
    limit = f"{folder}/{version_text(oldest)}"
    return [path for path in store.list(folder) if path < limit]
