"""A split server that keeps nothing: any replica answers any request of a run, and what it holds is a cache of files.

Where the backbone steps batch by batch, its weights are a function of the run's beginning and of the requests in their
order.  A request is therefore written into the step log before it is answered, and a replica that stands elsewhere (a
new one, or one whose neighbour took the last batch) loads the newest state at or before the batch and goes through the
log from there.  States are written at the end of every round, and within it whenever that costs little beside the work
that it saves.

Law: the weights depend on the batches alone, whatever is killed, repeated, or sent to which replica.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from time import perf_counter
from typing import Any

from torch import Tensor

from cutlayer.errors import CutlayerError, MissingObject, WireError
from cutlayer.faults import point
from cutlayer.roles.assembly import BACKBONE, Assembly
from cutlayer.roles.closing import Closing
from cutlayer.roles.part import Part
from cutlayer.roles.schedule import SHARED, Schedule
from cutlayer.roles.split_server import key_of, samples_of
from cutlayer.roles.weights import under
from cutlayer.store import BatchKey, TensorStore
from cutlayer.store.states import States
from cutlayer.store.steps import END, Closed, StepLog
from cutlayer.wire import Message

WORTH = 50
"""A state is written within a round once the work since the last one is so many times what writing it takes."""


KEPT = 8
"""Answers that are kept for a request that comes again."""


class NotYet(CutlayerError):
    """What a request needs is still on its way from other clients: ask again."""


class Replica:
    """Answers the requests of one run in which the backbone steps batch by batch, or on uploads.

    ``schedule`` gives the plan of a round.  Not to be shared among threads, except that ``io`` writes to the store.
    """

    def __init__(
        self,
        assembly: Assembly,
        store: TensorStore,
        run: str,
        schedule: Callable[[int], Schedule],
        io: Executor | None = None,
    ) -> None:
        self.assembly, self.settings, self.recipe = assembly, assembly.settings, assembly.recipe
        self.server = assembly.server(store, run)
        self.server.retain = True
        self.log = StepLog(store, run)
        self.states = States(store, run)
        self.closing = Closing(assembly, self.server, self.log, self.states)
        self._schedule = schedule
        self._io = io
        self._at: dict[int, tuple[int, int]] = {}
        self._replies: OrderedDict[BatchKey, Message] = OrderedDict()
        self._begun: set[int] = set()
        self._over: dict[int, int] = {}
        self._work: dict[int, float] = {}
        self._saving: dict[int, float] = {}

    # --- requests -----------------------------------------------------------------------------------------------

    def answer(self, request: Message) -> Message:
        """Answer one request.

        Raises:
            NotYet: batches that come before it, or belong to it, are not there yet.
            Closed: its client was dropped from the round, or the round is over.
            WireError: it is not of the protocol, or not in the round's plan.
        """
        key = key_of(request)
        schedule = self._schedule(key.round)
        schedule.check(key, samples_of(request))
        turn = schedule.turn(key)
        if request.kind == "upload":
            return self._upload(request, key, schedule, turn)
        expected = ("forward", "backward") if self.recipe.labels == "client" else ("train",)
        if self.recipe.local_loss or request.kind not in expected:
            raise WireError(f"algorithm {self.recipe.name} has no request of kind {request.kind!r}")
        self._open(key.round)
        if request.kind == "forward":
            return self._forward(request, key, schedule)
        if request.kind == "backward":
            self.server.records.check(key, request.meta.get("forward"))
        return self._step(request, key, schedule, turn)

    def _upload(self, request: Message, key: BatchKey, schedule: Schedule, turn: int) -> Message:
        if not self.recipe.local_loss or not schedule.sent(turn):
            raise WireError(f"algorithm {self.recipe.name} does not upload batch {turn} of a round")
        self._open(key.round)
        point("split.upload.before_record")
        self.log.put(key.round, key.client, turn, request)
        point("split.upload.before_answer")
        return Message("upload", {}, {})

    def _forward(self, request: Message, key: BatchKey, schedule: Schedule) -> Message:
        self._reach(schedule, schedule.copy_of(key.client), schedule.position[key])
        point("split.forward.before_record")
        reply = self.server.handle(request)
        point("split.forward.before_answer")
        return reply

    def _step(self, request: Message, key: BatchKey, schedule: Schedule, turn: int) -> Message:
        known = self._replies.get(key)
        if known is not None:
            return known
        copy = schedule.copy_of(key.client)
        position = schedule.position[key]
        unit = schedule.units[copy][position]
        if len(unit) > 1:
            self.log.put(key.round, key.client, turn, request)
            self._wait_for(schedule, unit)
            self._reach(schedule, copy, position)
            replies = self._apply(schedule, copy, position)
        else:
            self._reach(schedule, copy, position)
            self._refuse_dropped(key, turn)
            replies = {key: self._write_and_apply(request, schedule, copy, position)}
        self._remember(replies)
        self._save_if_worth(schedule, copy)
        point("split.step.before_answer")
        return replies[key]

    def _refuse_dropped(self, key: BatchKey, turn: int) -> None:
        """Raise Closed where the end of the batch's client is in a slot before it."""
        if turn >= self._over.get(key.client, turn + 1):
            raise Closed(
                f"client {key.client} was dropped from round {key.round} before batch {turn}; wait for the next"
            )

    def _write_and_apply(self, request: Message, schedule: Schedule, copy: int, position: int) -> Message:
        """Write the request while the step is computed: it counts, and is answered, when both are done."""
        key = key_of(request)
        point("split.step.before_record")
        slot = key.round, key.client, schedule.turn(key)
        writing = self._io.submit(self.log.put, *slot, request) if self._io is not None else None
        try:
            if writing is None:
                request = self.log.put(*slot, request)
            reply = self._handle(request, copy)
        except BaseException:
            self._forget(copy)
            if writing is not None:
                writing.exception()
            raise
        if writing is not None:
            try:
                writing.result()
            except BaseException:
                self._forget(copy)
                raise
        point("split.step.after_record")
        self._at[copy] = key.round, position + 1
        return reply

    def _handle(self, request: Message, copy: int) -> Message:
        start = perf_counter()
        reply = self.server.handle(request)
        self._work[copy] = self._work.get(copy, 0.0) + perf_counter() - start
        return reply

    def _remember(self, replies: Mapping[BatchKey, Message]) -> None:
        """Keep the newest answers at hand for a repeated request; else they are computed again."""
        self._replies.update(replies)
        while len(self._replies) > max(KEPT, len(replies)):
            self._replies.popitem(last=False)

    def _wait_for(self, schedule: Schedule, unit: Iterable[BatchKey]) -> None:
        missing = [k for k in unit if not self.log.exists(k.round, k.client, schedule.turn(k))]
        ended = self.log.ended(schedule.round) if missing else {}
        for key in missing:
            if key.client not in ended:
                raise NotYet(f"the batch of client {key.client} that belongs to this step has not come yet")

    # --- the state ----------------------------------------------------------------------------------------------

    def _open(self, round_number: int) -> None:
        """Raise Closed where a round is over, NotYet where the one before it is not."""
        if round_number in self._begun:
            return
        if self.states.finished(round_number):
            raise _over(round_number)
        if round_number > 1 and not self.states.finished(round_number - 1):
            raise NotYet(f"round {round_number - 1} is not over yet")
        self._begun, self._over = {round_number}, {}

    def _forget(self, copy: int) -> None:
        """Drop what is in memory of a copy: it is loaded again when needed."""
        self._at.pop(copy, None)

    def _reach(self, schedule: Schedule, copy: int, position: int) -> None:
        """Bring a copy to where it is before unit ``position`` of the round."""
        at = self._at.get(copy)
        if at is None or at[0] != schedule.round or at[1] > position:
            self._load(schedule, copy, position)
        while self._at[copy][1] < position:
            self._apply(schedule, copy, self._at[copy][1])
            self._save_if_worth(schedule, copy)

    def _apply(self, schedule: Schedule, copy: int, position: int) -> dict[BatchKey, Message]:
        """Go through the unit at ``position`` as the log has it; returns the answers."""
        requests = self._logged(schedule, schedule.units[copy][position])
        try:
            if self.recipe.grouped:
                replies = self.server.handle_together(list(requests.values())) if requests else []
                answers = dict(zip(requests, replies, strict=True))
            else:
                answers = {key: self._handle(request, copy) for key, request in requests.items()}
        except BaseException:
            self._forget(copy)
            raise
        self._at[copy] = schedule.round, position + 1
        return answers

    def _logged(self, schedule: Schedule, unit: Iterable[BatchKey]) -> dict[BatchKey, Message]:
        """Return the requests of a unit, without those of clients that were dropped before it."""
        found = {}
        for key in unit:
            turn = schedule.turn(key)
            if turn >= self._over.get(key.client, turn + 1):
                continue
            request = self.log.get(key.round, key.client, turn)
            if request is None and key.client not in self.log.ended(schedule.round):
                raise NotYet(f"batch {key.text}, which comes before this one, has not come yet")
            if request is not None and request.kind == END:
                self._over[key.client] = turn
            elif request is not None:
                found[key] = request
        return found

    def _load(self, schedule: Schedule, copy: int, position: int) -> None:
        """Load the newest state at or before ``position``; its copy stands there then.

        Raises Closed where the round is over: what it began with may be gone.
        """
        self._forget(copy)
        self.server.graphs.clear()  # they hold on to the weights that are replaced here
        if self.states.finished(schedule.round):
            raise _over(schedule.round)
        found = None if self.settings.proximal else self.states.within(schedule.round, copy, position)
        if found is None:
            self._begin(schedule, copy)
            self._at[copy] = schedule.round, 0
            return
        at, tensors, meta = found
        self._over |= self.log.ended(schedule.round)
        for number in self._numbers(schedule, copy):
            if number != SHARED:
                self.server.copies[number] = self.assembly.first[BACKBONE].copy()
            self._restore(number, tensors, meta)
        self._at[copy] = schedule.round, at

    def _numbers(self, schedule: Schedule, copy: int) -> list[int]:
        """Return the copies that move together: all that clients have, where the recipe groups them."""
        if copy == SHARED and self.recipe.server == "per_client":
            return list(schedule.turns)
        return [copy]

    def _begin(self, schedule: Schedule, copy: int) -> None:
        """Put a copy where it is at the beginning of a round.  Raises MissingObject where that is not in the store."""
        for number in self._numbers(schedule, copy):
            part = self.assembly.first[BACKBONE].copy()
            if number == SHARED:
                self.server.backbone = part
            else:
                self.server.copies[number] = part
            self.server.load_versions(self.server.versions() | {number: 0})
            found = self.states.before(schedule.round, number)
            if found is not None:
                self._restore(number, *found)
            mean = self.states.mean(schedule.round - 1) if self.assembly.averages_backbones else None
            if mean is not None:
                part.write(mean)
            self._check_complete(schedule.round, number, found is not None, mean is not None)
            part.begin_round(schedule.round)
            self.server.anchor(number)
        self._work[copy] = 0.0

    def _check_complete(self, round_number: int, number: int, left: bool, averaged: bool) -> None:
        """Raise MissingObject where a later round would begin from the first weights because the store is away."""
        if round_number == 1:
            return
        self.states.round(round_number - 1)
        if (number == SHARED and not left) or (self.assembly.averages_backbones and not averaged):
            raise MissingObject(f"what round {round_number} begins with is not in the store, or not any more")

    def _restore(self, number: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        self._part(number).load_state(under(f"{number}/", tensors), meta["parts"][str(number)])
        self.server.load_versions(self.server.versions() | {number: meta["versions"][str(number)]})
        if number == SHARED:
            self.assembly.channel.load_state_dict({**under("channel/", tensors), **meta["channel"]})

    def _part(self, number: int) -> Part:
        return self.server.backbone if number == SHARED else self.server.part(number)

    def _state(self, numbers: Iterable[int]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors: dict[str, Tensor] = {}
        meta: dict[str, Any] = {"parts": {}, "versions": {}, "channel": {}}
        for number in numbers:
            held, meta["parts"][str(number)] = self._part(number).state()
            tensors |= {f"{number}/{k}": t for k, t in held.items()}
            meta["versions"][str(number)] = self.server.versions().get(number, 0)
        for key, value in self.assembly.channel.state_dict().items():
            if isinstance(value, Tensor):
                tensors[f"channel/{key}"] = value
            else:
                meta["channel"][key] = value
        return tensors, meta

    def _worth(self, copy: int) -> bool:
        return self._work.get(copy, 0.0) >= WORTH * self._saving.get(copy, 0.02)

    def _save_if_worth(self, schedule: Schedule, copy: int) -> None:
        if self.recipe.local_loss or not self._worth(copy):
            return
        start = perf_counter()
        point("split.state.before_save")
        self.states.save_within(schedule.round, copy, self._at[copy][1], *self._state(self._numbers(schedule, copy)))
        point("split.state.after_save")
        self._saving[copy] = perf_counter() - start
        self._work[copy] = 0.0

    # --- the end of a round -------------------------------------------------------------------------------------

    def end(self, round_number: int, client: int) -> int:
        """Write the end of a client that is dropped from the round; returns how many of its batches count."""
        schedule = self._schedule(round_number)
        turns = [turn for turn in range(schedule.turns[client]) if schedule.sent(turn)]
        return self.log.end(round_number, client, turns)

    def finish(self, round_number: int) -> dict[str, Any]:
        """Bring the round's updates to their end and write what the next one begins with; again: nothing changes."""
        schedule = self._schedule(round_number)
        try:
            self._complete(schedule)
        except Closed:  # another replica was first
            if not self.states.finished(round_number):
                raise
        self._begun.discard(round_number)
        point("split.finish.before_collect")
        self.closing.collect(round_number)
        point("split.finish.before_answer")
        return {"steps": sum(len(units) for units in schedule.units.values())}

    def _complete(self, schedule: Schedule) -> None:
        self._open(schedule.round)
        for copy, units in schedule.units.items():
            self._reach(schedule, copy, len(units))
            point("split.state.before_save")
            for number in self._numbers(schedule, copy):
                self.states.save_end(schedule.round, number, *self._state([number]))
                if number != SHARED:  # the next round loads it: memory holds as few models as there are threads
                    self.server.copies.pop(number, None)
            self._forget(copy)
            point("split.state.after_save")
        self.closing.average(schedule)
        self.closing.align(schedule)
        self.states.finish(schedule.round, {"members": self.closing.members(schedule)})

    # --- evaluation ---------------------------------------------------------------------------------------------

    def part_after(self, round_number: int, client: int) -> Part:
        """Return the backbone that serves ``client`` as it is after a round, for evaluation.

        Raises MissingObject where the round is not over, or too long over.
        """
        part = self.assembly.first[BACKBONE].copy()
        number = client if self.recipe.server == "per_client" else SHARED
        found = self.states.before(round_number + 1, number)
        if found is None and number == SHARED:
            raise MissingObject(f"the backbone after round {round_number} is not in the store, or not any more")
        if found is not None:
            part.load_state(under(f"{number}/", found[0]), found[1]["parts"][str(number)])
        mean = self.states.mean(round_number) if self.assembly.averages_backbones else None
        if mean is not None:
            part.write(mean)
        return part


def _over(round_number: int) -> Closed:
    return Closed(f"round {round_number} is over; ask for the next task")
