"""The step log: every request that moves a backbone, in a slot of its own, before it is answered.

    runs/<run>/steps/<round>/<client>/<turn>      the request as it came; turn counts the client's batches in the round
    runs/<run>/ends/<round>/<client>              turns of the client that count, where it was dropped from the round

A slot is written once (a conditional put), so a batch counts once, whatever is repeated or sent to another replica.
The end of a client that is dropped is written into its first free slot: either its next batch comes first and counts,
or the end does and the batch is refused; never both.
"""

from __future__ import annotations

import torch

from cutlayer.errors import MissingObject, ObjectExists, WireError
from cutlayer.store.base import TensorStore
from cutlayer.wire import Message

END = "end"


class Closed(WireError):
    """The batch cannot count any more: its client was dropped from the round, or the round is over."""


class StepLog:
    """The steps of one run."""

    def __init__(self, store: TensorStore, run: str) -> None:
        self._store = store
        self.steps = f"runs/{run}/steps"
        self.ends = f"runs/{run}/ends"

    def put(self, round_number: int, client: int, turn: int, request: Message) -> Message:
        """Write a request into its slot and return it; if the slot is taken, return what is there.

        Raises:
            Closed: the client's end is there.
            WireError: another request is there.
            StoreError: the store failed.
        """
        path = self._slot(round_number, client, turn)
        try:
            self._store.put(path, request.tensors, {"kind": request.kind, "meta": request.meta}, if_absent=True)
        except ObjectExists:
            there = self.get(round_number, client, turn)
            if there is None or there.kind == END:
                raise Closed(
                    f"client {client} is no longer in round {round_number}: it was dropped before batch {turn}; wait "
                    "for the next round"
                ) from None
            if not same(there, request):
                raise WireError(
                    f"batch {turn} of client {client} in round {round_number} came again with other contents; a batch "
                    "is sent once, and repeated unchanged"
                ) from None
            return there
        return request

    def get(self, round_number: int, client: int, turn: int) -> Message | None:
        """Return the request in a slot, a message of kind ``end`` for the client's end, None if it is free."""
        try:
            tensors, said = self._store.get(self._slot(round_number, client, turn))
        except MissingObject:
            return None
        return Message(said["kind"], tensors, said["meta"])

    def exists(self, round_number: int, client: int, turn: int) -> bool:
        """Say whether a slot is taken."""
        return self._store.exists(self._slot(round_number, client, turn))

    def end(self, round_number: int, client: int, turns: list[int]) -> int:
        """Write the end of ``client`` into the first free slot of ``turns``; returns how many came before it."""
        for count, turn in enumerate(turns):
            path = self._slot(round_number, client, turn)
            try:
                self._store.put(path, {}, {"kind": END, "meta": {}}, if_absent=True)
            except ObjectExists:
                there = self.get(round_number, client, turn)
                if there is None or there.kind != END:
                    continue
            return self.mark(round_number, client, count)
        return self.mark(round_number, client, len(turns))

    def mark(self, round_number: int, client: int, count: int) -> int:
        """Remember how many turns of a dropped client count."""
        self._store.put(f"{self.ends}/{round_number:06d}/{client}", {}, {"count": count})
        return count

    def ended(self, round_number: int) -> dict[int, int]:
        """Return how many turns count of every client that was dropped from a round."""
        folder = f"{self.ends}/{round_number:06d}"
        return {int(p.rpartition("/")[2]): int(self._store.meta(p)["count"]) for p in self._store.list(folder)}

    def turns(self, round_number: int, client: int) -> list[int]:
        """Return the turns of a client whose slots are taken, by a batch or by its end."""
        return [int(p.rpartition("/")[2]) for p in self._store.list(f"{self.steps}/{round_number:06d}/{client}")]

    def clients(self, round_number: int) -> list[int]:
        """Return the clients of whose round something is kept."""
        folder = f"{self.steps}/{round_number:06d}"
        return sorted({int(path.split("/")[4]) for path in self._store.list(folder)})

    def rounds(self) -> list[int]:
        """Return the rounds of which something is kept."""
        return sorted({int(path.split("/")[3]) for path in self._store.list(self.steps)})

    def delete(self, round_number: int, client: int | None = None, turn: int | None = None) -> None:
        """Delete a round, a client's share of it, or a slot."""
        if client is not None and turn is not None:
            self._store.recycle(self._slot(round_number, client, turn))
            return
        folder = f"{self.steps}/{round_number:06d}" + ("" if client is None else f"/{client}")
        for path in self._store.list(folder):
            self._store.recycle(path)

    def _slot(self, round_number: int, client: int, turn: int) -> str:
        return f"{self.steps}/{round_number:06d}/{client}/{turn:06d}"


def same(left: Message, right: Message) -> bool:
    """Say whether two messages have the same contents, NaN and all."""
    return (
        left.kind == right.kind
        and left.meta == right.meta
        and left.tensors.keys() == right.tensors.keys()
        and all(_bits_equal(t, right.tensors[name]) for name, t in left.tensors.items())
    )


def _bits_equal(left: torch.Tensor, right: torch.Tensor) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    one, other = (t.contiguous().reshape(-1).view(torch.uint8) for t in (left, right))
    return torch.equal(one, other)
