"""The states of backbones between steps and rounds, where the backbone steps batch by batch.

    runs/<run>/states/<copy>/<round>-<position>     before unit <position> of a round
    runs/<run>/states/<copy>/<round>-end            after the last
    runs/<run>/states/mean/<round>                  the mean of all copies, with the aggregator's moments
    runs/<run>/states/auxiliary-<client>/<round>    FSL-SAGE: an auxiliary after its alignment
    runs/<run>/states/rounds/<round>                the round is over; which batches count

Every object follows from the requests in the step log, so whoever writes one first has written what all others would.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from cutlayer.errors import MissingObject, ObjectExists
from cutlayer.store.base import Meta, Tensors, TensorStore

State = tuple[Tensors, Meta]
END = "end"


class States:
    """The states of one run.  A copy is called by its client's number, the shared one by -1."""

    def __init__(self, store: TensorStore, run: str) -> None:
        self._store = store
        self.folder = f"runs/{run}/states"
        self._over: set[int] = set()

    # --- copies -------------------------------------------------------------------------------------------------

    def save_within(self, round_number: int, copy: int, position: int, tensors: Tensors, meta: Meta) -> None:
        """Write a copy as it is before unit ``position``; the one before it in the round goes."""
        older = [path for path, at in self._positions(round_number, copy) if at < position]
        self._store.put(f"{self._copy(copy)}/{round_number:06d}-{position:08d}", tensors, meta)
        for path in older:
            self._store.delete(path)

    def within(self, round_number: int, copy: int, position: int) -> tuple[int, Tensors, Meta] | None:
        """Return the newest state of a copy within a round that is not after ``position``, with its position."""
        for path, at in reversed(self._positions(round_number, copy)):
            if at <= position:
                try:
                    return at, *self._store.get(path)
                except MissingObject:
                    continue  # another replica has written a newer one
        return None

    def save_end(self, round_number: int, copy: int, tensors: Tensors, meta: Meta) -> None:
        """Write a copy as it is after the round's last unit, unless that is done."""
        self._put(f"{self._copy(copy)}/{round_number:06d}-{END}", tensors, meta)

    def before(self, round_number: int, copy: int) -> State | None:
        """Return a copy as it was after the last round before ``round_number`` that it took part in, if any."""
        ends = [p for p in self._store.list(self._copy(copy)) if p.endswith(END) and _round(p) < round_number]
        return self._store.get(ends[-1]) if ends else None

    def ends(self, copy: int) -> list[int]:
        """Return the rounds after which a copy is kept."""
        return [_round(p) for p in self._store.list(self._copy(copy)) if p.endswith(END)]

    def end(self, round_number: int, copy: int) -> State:
        """Return a copy as it was after a round.  Raises MissingObject where it is not kept."""
        return self._store.get(f"{self._copy(copy)}/{round_number:06d}-{END}")

    def collect_ends(self, copy: int, round_number: int) -> None:
        """Delete a copy as it was after rounds before ``round_number``."""
        for number in self.ends(copy):
            if number < round_number:
                self._store.delete(f"{self._copy(copy)}/{number:06d}-{END}")

    # --- means, auxiliaries, rounds -----------------------------------------------------------------------------

    def save_mean(self, round_number: int, weights: Mapping[str, Tensor], rules: Mapping[str, Tensor]) -> None:
        """Write the mean of all copies after a round, and what the aggregator remembers, unless that is done."""
        tensors = {f"mean/{k}": t for k, t in weights.items()} | {f"rules/{k}": t for k, t in rules.items()}
        self._put(f"{self.folder}/mean/{round_number:06d}", tensors, {})

    def mean(self, round_number: int) -> dict[str, Tensor] | None:
        """Return the mean of all copies after a round; None before the first."""
        return self._mean(round_number, "mean/")

    def rules(self, round_number: int) -> dict[str, Tensor] | None:
        """Return what the aggregator remembered after a round; None before the first."""
        return self._mean(round_number, "rules/")

    def save_auxiliary(self, round_number: int, client: int, tensors: Tensors, meta: Meta) -> None:
        """Write the auxiliary of a client as aligned after a round, unless that is done."""
        self._put(f"{self.folder}/auxiliary-{client}/{round_number:06d}", tensors, meta)

    def aligned(self, round_number: int, client: int) -> bool:
        """Say whether the auxiliary of a client was aligned after a round."""
        return self._store.exists(f"{self.folder}/auxiliary-{client}/{round_number:06d}")

    def alignments(self, client: int) -> list[int]:
        """Return the rounds after which the auxiliary of a client was aligned."""
        return [_round(path) for path in self._store.list(f"{self.folder}/auxiliary-{client}")]

    def auxiliary(self, round_number: int, client: int) -> State | None:
        """Return the auxiliary of a client as aligned before round ``round_number``, if it was."""
        earlier = [p for p in self._store.list(f"{self.folder}/auxiliary-{client}") if _round(p) < round_number]
        return self._store.get(earlier[-1]) if earlier else None

    def finish(self, round_number: int, meta: Meta) -> None:
        """Say that a round is over: all its states are written."""
        self._put(f"{self.folder}/rounds/{round_number:06d}", {}, meta)

    def finished(self, round_number: int) -> bool:
        """Say whether a round is over."""
        if round_number not in self._over and self._store.exists(f"{self.folder}/rounds/{round_number:06d}"):
            self._over.add(round_number)
        return round_number in self._over

    def round(self, round_number: int) -> Meta:
        """Return what was said when the round was finished.  Raises MissingObject where it is not over."""
        return self._store.meta(f"{self.folder}/rounds/{round_number:06d}")

    def collect(self, round_number: int) -> None:
        """Delete what nobody asks for once ``round_number`` is over: older rounds, and what was written within it."""
        by_folder: dict[str, list[str]] = {}
        for path in self._store.list(self.folder):
            by_folder.setdefault(path.rpartition("/")[0].removeprefix(f"{self.folder}/"), []).append(path)
        for folder, paths in by_folder.items():
            if folder == "rounds":
                continue
            ends = [p for p in paths if p.endswith(END) or "-" not in p.rpartition("/")[2]]
            newest = 2 if folder.startswith("auxiliary-") else 1
            keep = {p for p in ends if _round(p) >= round_number} | set(ends[-newest:])
            for path in paths:
                if path not in keep and _round(path) <= round_number:
                    self._store.delete(path)

    def _put(self, path: str, tensors: Tensors, meta: Meta) -> None:
        try:
            self._store.put(path, tensors, meta, if_absent=True)
        except ObjectExists:
            return

    def _mean(self, round_number: int, prefix: str) -> dict[str, Tensor] | None:
        try:
            tensors, _ = self._store.get(f"{self.folder}/mean/{round_number:06d}")
        except MissingObject:
            return None
        return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}

    def _copy(self, copy: int) -> str:
        return f"{self.folder}/{'shared' if copy < 0 else copy}"

    def _positions(self, round_number: int, copy: int) -> list[tuple[str, int]]:
        prefix = f"{self._copy(copy)}/{round_number:06d}-"
        found = [p for p in self._store.list(self._copy(copy)) if p.startswith(prefix) and not p.endswith(END)]
        return [(p, int(p.removeprefix(prefix))) for p in found]


def _round(path: str) -> int:
    return int(path.rpartition("/")[2].partition("-")[0])
