"""A split server of an asynchronous run that keeps nothing: the order of arrival is written down, and is the truth.

    runs/<run>/steps/<pass>/<client>/<turn>     the request as it came
    runs/<run>/arrivals/<number>                which batch came as number 0, 1, 2, ..., or which round ended there
    runs/<run>/states/...                       the backbone between two steps, and at the end of every round

A request is written, takes the next number, and only then moves the backbone.  So the backbone is a function of the
files, and a replica that stands elsewhere goes through them from the newest state.  Clients come in any order, but each
one's batches one after another: a batch that is not after the newest of its client counts no more, so one that took two
numbers counts once.

Law: the weights depend on the numbers taken alone, whatever is killed, repeated, or sent to which replica; the local
engine makes the same of the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from time import perf_counter
from typing import Any

from torch import Tensor

from cutlayer.errors import MissingObject, StoreError, WireError
from cutlayer.faults import point
from cutlayer.roles.assembly import BACKBONE, Assembly
from cutlayer.roles.replica import Replica
from cutlayer.roles.schedule import SHARED, Schedule
from cutlayer.roles.split_server import key_of, samples_of
from cutlayer.roles.window import Window
from cutlayer.store import BatchKey, ForwardRecords, MemoryStore, TensorStore
from cutlayer.store.arrivals import Arrivals
from cutlayer.wire import Message

ROLLING = 0
"""The "round" under which states between rounds' ends are kept."""
ANSWERS = 64
"""Answers at hand for clients that ask again: to make one again means to go back to where it was made."""
Place = tuple[int, int]
"""A client's pass over its samples, and the turn in it."""


class AsynchronousReplica(Replica):
    """Answers the requests of one asynchronous run.  What is called a round in a batch key is its client's pass."""

    def __init__(
        self,
        assembly: Assembly,
        store: TensorStore,
        run: str,
        schedule: Callable[[int], Schedule],
        io: Executor | None = None,
        *,
        limit: int | None = None,
        unit: str = "batches",
    ) -> None:
        super().__init__(assembly, store, run, schedule, io)
        self.arrivals = Arrivals(store, f"runs/{run}/arrivals")
        self._limit, self._unit = limit, unit
        self._stand: int | None = None
        self._newest: dict[int, Place] = {}
        self._rounds = 0
        self._counted: list[BatchKey] = []
        self._ended: list[BatchKey] = []
        """The batches of the round that is going on, and of the one that ended last."""

    # --- requests -----------------------------------------------------------------------------------------------

    def answer(self, request: Message) -> Message:
        """Answer one request.

        Raises WireError where it is not of the protocol, or has not the form that the client's data gives it.
        """
        key = key_of(request)
        schedule = self._schedule(key.round)
        schedule.check(key, samples_of(request))
        if request.kind != "train":
            raise WireError(f"algorithm {self.recipe.name} has no request of kind {request.kind!r}")
        known = self._replies.get(key)
        if known is not None:
            return known
        self._catch_up()
        if not self._stand and key.round > 1:
            raise MissingObject("what came before this batch is not in the store, or not any more")
        place = key.round, schedule.turn(key)
        if place <= self._newest.get(key.client, (0, -1)):
            return self._again(key)
        point("split.step.before_record")
        request = self.log.put(*_slot(key, schedule), request)
        point("split.step.after_record")
        while key not in self._replies:
            assert self._stand is not None
            if self.arrivals.take(self._stand, {"batch": list(key)}):
                point("split.step.after_arrival")
            self._advance(request)
        self._save_if_stands()
        point("split.step.before_answer")
        return self._replies[key]

    def _again(self, key: BatchKey) -> Message:
        """Return the answer to a batch that has counted: made again, where the files for it are still there."""
        number, counted = self._stand or 0, None
        while number > 0 and (what := self.arrivals.get(number - 1)) is not None:
            number -= 1
            if what.get("batch") == list(key):
                counted = number  # the first of the numbers that it took
        if counted is not None:
            try:
                self._go_to(counted + 1)
                return self._replies[key]
            except MissingObject:
                self._stand = None
        return Message("answer", {}, {"key": list(key), "stale": True})

    # --- the state ----------------------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        """Stand after everything that has come."""
        while True:
            if self._stand is None:
                self._load(None)
            while self._advance():
                pass
            if not self.states.finished(self._rounds + 1):
                return
            self._stand = None  # others went on, and have tidied up

    def _go_to(self, stand: int) -> None:
        """Stand before what came as number ``stand``.  Raises MissingObject where that is not kept any more."""
        self._load(stand - 1)
        while self._stand is not None and self._stand < stand:
            self._advance()

    def _advance(self, request: Message | None = None) -> bool:
        """Go through what came as the next number; False if nothing has.

        ``request`` is at hand, and need not be read from the log if it is the one.
        """
        assert self._stand is not None
        what = self.arrivals.get(self._stand)
        if what is None:
            return False
        try:
            if "end" in what:
                self._end_round(int(what["end"]))
            else:
                self._take(BatchKey(*what["batch"]), request)
        except BaseException:
            self._stand = None
            raise
        self._stand += 1
        return True

    def _take(self, key: BatchKey, request: Message | None) -> None:
        schedule = self._schedule(key.round)
        place = key.round, schedule.turn(key)
        if place <= self._newest.get(key.client, (0, -1)):
            return  # took two numbers
        found = request if request is not None and key_of(request) == key else self.log.get(*_slot(key, schedule))
        if found is None:
            raise StoreError(f"batch {key.text} has come, and is not in the step log (any more)")
        self._newest[key.client] = place
        self._counted.append(key)
        reply = self._handle(found, SHARED)
        window = self.server.window
        assert window is not None
        if window.full:
            self.server.update()
        self._replies[key] = reply
        while len(self._replies) > ANSWERS:
            self._replies.popitem(last=False)

    def _end_round(self, number: int) -> None:
        if number <= self._rounds:
            return
        self.server.update()
        self._rounds, self._ended, self._counted = number, self._counted, []
        self.server.backbone.begin_round(number + 1)

    @property
    def _between_steps(self) -> bool:
        window = self.server.window
        return window is not None and window.empty

    def _load(self, number: int | None) -> None:  # type: ignore[override]
        """Load the newest state from which what came as ``number`` can be reached; None: the newest.

        Raises MissingObject where it is not kept any more.
        """
        self._stand = None
        self.server.graphs.clear()
        found = self._newest_state(number)
        self.server.backbone = self.assembly.first[BACKBONE].copy()
        self.server.load_versions({SHARED: 0})
        if found is None:
            self.server.backbone.begin_round(1)
            self._newest, self._rounds, self._counted, stand = {}, 0, [], 0
            if self.arrivals.get(0) is None and self.states.finished(1):
                raise MissingObject("what the run began with is long over")
        else:
            tensors, meta = found
            self._restore(SHARED, tensors, meta)
            said = meta["arrivals"]
            self._newest = {int(client): (place[0], place[1]) for client, place in said["newest"].items()}
            self._rounds, stand = said["rounds"], said["stand"]
            self._counted = [BatchKey(*key) for key in said["counted"]]
        memory = MemoryStore()  # what is in a window follows from the files, as everything does
        records = ForwardRecords(memory, "run")
        window = Window(memory, "run", self.server.backbone, records, limit=self._limit, unit=self._unit)
        window.enter(self.server.version(SHARED))
        self.server.window = window
        self._work[SHARED] = 0.0
        self._stand = stand

    def _newest_state(self, number: int | None) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        limit = 2**62 if number is None else number
        rolling = self.states.within(ROLLING, SHARED, limit)
        ended = self.states.ends(SHARED)
        for round_number in reversed(ended):
            tensors, meta = self.states.end(round_number, SHARED)
            stand = int(meta["arrivals"]["stand"])
            if rolling is not None and rolling[0] >= stand:
                break
            if stand <= limit:
                return tensors, meta
        return None if rolling is None else rolling[1:]

    def _state(self, numbers: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, meta = super()._state(numbers)
        meta["arrivals"] = {
            "stand": self._stand,
            "newest": {str(client): list(place) for client, place in self._newest.items()},
            "rounds": self._rounds,
            "counted": [list(key) for key in self._counted],
        }
        return tensors, meta

    def _save_if_stands(self) -> None:
        """Write a state where that is worth it; in a window there is none, for gradients are not part of it."""
        if not self._between_steps or not self._worth(SHARED):
            return
        assert self._stand is not None
        start = perf_counter()
        point("split.state.before_save")
        self.states.save_within(ROLLING, SHARED, self._stand, *self._state([SHARED]))
        point("split.state.after_save")
        self._saving[SHARED] = perf_counter() - start
        self._work[SHARED] = 0.0

    # --- the end of a round -------------------------------------------------------------------------------------

    def end(self, round_number: int, client: int) -> int:
        """Nothing waits for a client that is gone: what came of it counts."""
        return 0

    def finish(self, round_number: int) -> dict[str, Any]:
        """Let the round end here; again: nothing changes."""
        if not self.states.finished(round_number):
            self._stand_after(round_number)
            point("split.state.before_save")
            self.states.save_end(round_number, SHARED, *self._state([SHARED]))
            point("split.state.after_save")
            members = [list(key) for key in self._ended]
            self.states.finish(round_number, {"members": members, "stand": self._stand})
        point("split.finish.before_collect")
        self._collect(round_number)
        point("split.finish.before_answer")
        return {"steps": len(self.states.round(round_number)["members"])}

    def _stand_after(self, round_number: int) -> None:
        """Stand right after the end of a round, which takes the next number unless it has one."""
        self._catch_up()
        number = self._stand
        assert number is not None
        if self._rounds >= round_number:
            while self.arrivals.get(number - 1) != {"end": round_number}:
                number -= 1
            self._go_to(number)
        while self._rounds < round_number:
            assert self._stand is not None
            self.arrivals.take(self._stand, {"end": round_number})
            self._advance()

    def _collect(self, round_number: int) -> None:
        """Delete what came before the end of the round before: a batch is not asked for again so long after."""
        if round_number < 2:
            return
        limit = int(self.states.round(round_number - 1)["stand"])
        number = limit
        while number > 0 and (what := self.arrivals.get(number - 1)) is not None:
            number -= 1
            if "batch" in what:
                key = BatchKey(*what["batch"])
                self.log.delete(*_slot(key, self._schedule(key.round)))
        self.arrivals.collect(limit)
        self.states.collect_ends(SHARED, round_number - 1)


def _slot(key: BatchKey, schedule: Schedule) -> tuple[int, int, int]:
    return key.round, key.client, schedule.turn(key)
