"""A split server that keeps nothing, where the backbone steps on many batches at once.

The batches of a window share one weight version, so replicas need not agree on an order within it: each computes the
gradients of what reaches it, and whoever sees that a window is complete makes the step.  What a replica had summed in
its memory alone is computed again from the records and δs, and of several that make the step at once one publishes it.
The windows of a round follow from its plan, so that the weights do not depend on who came first.

Law: the weights depend on the batches alone, whatever is killed, repeated, or sent to which replica.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from cutlayer import step
from cutlayer.errors import MissingObject, ObjectExists, StoreError, WireError
from cutlayer.faults import point
from cutlayer.roles import crossing
from cutlayer.roles.assembly import BACKBONE, Assembly
from cutlayer.roles.part import Part
from cutlayer.roles.replica import NotYet
from cutlayer.roles.schedule import SHARED, Schedule
from cutlayer.roles.split_server import key_of, samples_of
from cutlayer.roles.window import Window, counting
from cutlayer.store import BatchKey, GradientLedger, RecordNote, TensorStore
from cutlayer.store.keys import version_text
from cutlayer.store.states import States
from cutlayer.store.steps import Closed, StepLog
from cutlayer.wire import Message


class WindowReplica:
    """Answers the requests of one run in which the backbone steps once in a window.  Not to be shared among threads.

    ``limit`` and ``unit`` say when a window closes, ``schedule`` gives the plan of a round.
    """

    def __init__(
        self,
        assembly: Assembly,
        store: TensorStore,
        run: str,
        schedule: Callable[[int], Schedule],
        *,
        limit: int | None,
        unit: str = "batches",
    ) -> None:
        self.assembly, self.settings, self.recipe = assembly, assembly.settings, assembly.recipe
        self.server = assembly.server(store, run)
        self.records = self.server.records
        self.window = Window(store, run, self.server.backbone, self.records)
        self.window.position = self._position
        self.server.window = self.window
        self.states = States(store, run)
        self.log = StepLog(store, run)
        self.peers = 1
        """Replicas of the run: with others, what was summed here is written for them to find."""
        self._store, self._run = store, run
        self._schedule, self._limit, self._unit = schedule, limit, unit
        self._bases: dict[int, int] = {1: 0}
        self._places: dict[int, dict[BatchKey, tuple[int, int]]] = {}
        self._version = -1

    # --- requests -----------------------------------------------------------------------------------------------

    def answer(self, request: Message) -> Message:
        """Answer one request.

        Raises:
            NotYet: the weights that its batch needs are still being made of other clients' batches.
            Closed: its client was dropped from the round, or the batch is over.
            WireError: it is not of the protocol, or not in the round's plan.
        """
        key = key_of(request)
        schedule = self._schedule(key.round)
        schedule.check(key, samples_of(request))
        if request.kind not in (("forward", "backward") if self.recipe.labels == "client" else ("train",)):
            raise WireError(f"algorithm {self.recipe.name} has no request of kind {request.kind!r}")
        version = self._version_of(schedule, key)
        if request.kind == "backward":
            return self._backward(request, key, version)
        if request.kind == "train":
            return self._train(request, schedule, RecordNote(self.records.uuid(key), key, version))
        self._reach(schedule, version)
        if self._version > version and self.records.find(key) is None:
            raise Closed(f"batch {key.text} is over; ask for the next task")
        point("split.forward.before_record")
        reply = self.server.handle(request)
        point("split.forward.before_answer")
        return reply

    def _backward(self, request: Message, key: BatchKey, version: int) -> Message:
        note = RecordNote(self.records.check(key, request.meta.get("forward")), key, version)
        if self._version < version:
            self._load(version)
        if self._version > version:
            return self._again(request, note)
        self._refuse_ended(note)
        point("split.backward.before_delta")
        reply = self.server.handle(request)
        point("split.backward.after_delta")
        self._refuse_ended(note)
        point("split.backward.before_answer")
        return reply

    def _train(self, request: Message, schedule: Schedule, note: RecordNote) -> Message:
        """Answer a batch with labels: its record is a forward's, and an empty δ says that it counts."""
        self._reach(schedule, note.version)
        if self._version > note.version:
            return self._again(request, note)
        self._refuse_ended(note)
        point("split.forward.before_record")
        record = self.server.record_labelled(request, note.key)
        point("split.backward.before_delta")
        self.records.put_delta(record, {}, {})
        point("split.backward.after_delta")
        self._refuse_ended(note)
        answer, gradients, after = self.server.train_record(self.server.backbone, record)
        self.window.add(note.key, note.uuid, record.meta["samples"], gradients, after, version=note.version)
        point("split.backward.before_answer")
        return answer

    def _again(self, request: Message, note: RecordNote) -> Message:
        """Answer a batch whose window is closed: the same as the first time, and it counts nothing."""
        try:
            record, (δ, said) = self.records.get(note.uuid), self.records.get_delta(note)
        except MissingObject:
            raise Closed(f"batch {note.key.text} is over; ask for the next task") from None
        if said.get("end"):
            raise _dropped(note.key)
        part = self.window.pinned(note.version, self.server.backbone)
        if record.labels:
            return self.server.train_record(part, record)[0]
        graph = self.server.run_record(part, record)
        _, gradients = step.pull(part.module, graph.done, crossing.placed("d", δ), part.weights)
        return self.server.answer(note.key, {}, "cut_gradients", "g", gradients if self._sends else ())

    @property
    def _sends(self) -> bool:
        return self.recipe.feedback != "none"

    def _refuse_ended(self, note: RecordNote) -> None:
        """Raise Closed where the end of the batch's client stands in the place of its δ."""
        if note.key.client not in self.log.ended(note.key.round):
            return
        if self.records.ended(note):
            raise _dropped(note.key)

    def settle(self) -> None:
        """After an answer: write what is summed here, where there are others who may need it."""
        if self.peers > 1:
            self.window.ledger.flush()

    # --- versions -----------------------------------------------------------------------------------------------

    def _base(self, round_number: int) -> int:
        """Return the weight version with which a round begins.  Raises NotYet while the one before is not over."""
        if round_number not in self._bases:
            try:
                self._bases[round_number] = int(self.states.round(round_number - 1)["version"])
            except MissingObject:
                raise NotYet(f"round {round_number - 1} is not over yet") from None
        return self._bases[round_number]

    def _placed(self, schedule: Schedule) -> dict[BatchKey, tuple[int, int]]:
        """Return window and place among its client's batches there, of every batch of a round."""
        if schedule.round not in self._places:
            places: dict[BatchKey, tuple[int, int]] = {}
            for index, keys in enumerate(self.windows(schedule)):
                seen: dict[int, int] = {}
                for key in keys:
                    places[key] = index, seen.get(key.client, 0)
                    seen[key.client] = seen.get(key.client, 0) + 1
            self._places = {schedule.round: places}
        return self._places[schedule.round]

    def windows(self, schedule: Schedule) -> list[list[BatchKey]]:
        """Return the batches of every window of a round."""
        return schedule.windows(self._limit, self._unit)

    def _position(self, key: BatchKey) -> int:
        return self._placed(self._schedule(key.round))[key][1]

    def _version_of(self, schedule: Schedule, key: BatchKey) -> int:
        return self._base(schedule.round) + self._placed(schedule)[key][0]

    def _reach(self, schedule: Schedule, version: int) -> None:
        """Hold weight version ``version`` or a later one, making the steps that can be made."""
        while self._version < version:
            latest = self._latest()
            if latest < version:
                self._step(schedule, latest)
            else:
                self._load(version)

    def _latest(self) -> int:
        """Return the newest version; the first one is written by whoever comes first."""
        latest = self.window.versions.latest(BACKBONE)
        if latest is None:
            if self.states.finished(1):
                raise MissingObject("there are no weights of the run in the store (any more)")
            self._version = -1
            self.server.backbone = self.assembly.first[BACKBONE].copy()
            self.server.graphs.clear()
            self.window.enter(-1)
            with contextlib.suppress(ObjectExists):
                self.window.publish(self.server.backbone, [])
            return 0
        return latest

    def _load(self, version: int) -> None:
        if self._version == version:
            return
        self.server.graphs.clear()  # they hold on to the weights that are replaced here
        self._version = -1
        try:
            self.window.load(self.server.backbone, version)
        except MissingObject:
            raise Closed(f"weight version {version} is no longer kept: its batches are over") from None
        self._stand_at(version)

    def _stand_at(self, version: int) -> None:
        self._version = version
        self.server.load_versions({SHARED: version})
        self.window.enter(version)

    def _step(self, schedule: Schedule, version: int) -> None:
        """Make the step from ``version`` to the next, if all its batches are in.  Raises NotYet if not."""
        keys = self.windows(schedule)[version - self._base(schedule.round)]
        try:
            self._make_step(schedule, keys, version)
        except StoreError:
            self._version = -1
            if self._latest() <= version:
                raise
            return  # another replica was first: its step is the same, and it may have tidied up meanwhile
        except NotYet:
            raise
        except BaseException:
            self._version = -1  # the step may be made here and not published: it is made again
            raise
        point("split.update.after_publish")
        self._stand_at(version + 1)
        self._collect(version)
        point("split.update.after_collect")

    def _make_step(self, schedule: Schedule, keys: list[BatchKey], version: int) -> None:
        counted = self._counted(schedule, keys, version)
        self._load(version)
        for key in self.window.ledger.missing(counted):
            self._count_again(RecordNote(counted[key], key, version))
        self.server.backbone.begin_round(schedule.round)
        if version == self._base(schedule.round):
            self.window.counted = ""
        point("split.update.before_publish")
        if not self.server.update(counted, keep=True):
            self.window.publish(self.server.backbone, [])

    def _counted(self, schedule: Schedule, keys: Iterable[BatchKey], version: int) -> dict[BatchKey, str]:
        """Return the batches of a window that count, with their uuids.  Raises NotYet while one is missing."""
        here = self.records.counted(version)
        missing = [key for key in keys if key not in here]
        ended = self.log.ended(schedule.round)
        if missing and any(key.client not in ended for key in missing):
            left = next(key for key in missing if key.client not in ended)
            raise NotYet(f"the step from version {version} waits for batch {left.text}")
        return {k: here[k] for k in keys if k in here and schedule.turn(k) < ended.get(k.client, schedule.turn(k) + 1)}

    def _count_again(self, note: RecordNote) -> None:
        """Compute a gradient again that nobody has kept."""
        record = self.records.get(note.uuid)
        if record.labels:
            _, gradients, after = self.server.train_record(self.server.backbone, record)
            self.window.add(note.key, note.uuid, record.meta["samples"], gradients, after, version=note.version)
            return
        δ = crossing.placed("d", self.records.get_delta(note)[0])
        graph = self.server.run_record(self.server.backbone, record)
        gradients, _ = step.pull(self.server.backbone.module, graph.done, δ, self.server.backbone.weights)
        self.window.add(note.key, note.uuid, record.meta["samples"], gradients, graph.after, version=note.version)

    # --- the end of a round -------------------------------------------------------------------------------------

    def end(self, round_number: int, client: int) -> int:
        """Write the end of a client that is dropped from the round; returns how many of its batches count."""
        schedule = self._schedule(round_number)
        for turn in range(schedule.turns[client]):
            key = schedule.key(client, turn)
            note = RecordNote(self.records.uuid(key), key, self._version_of(schedule, key))
            if self.records.end(note):
                return self.log.mark(round_number, client, turn)
        return self.log.mark(round_number, client, schedule.turns[client])

    def finish(self, round_number: int) -> dict[str, Any]:
        """Make the round's last step and say that it is over; again: nothing changes."""
        schedule = self._schedule(round_number)
        if not self.states.finished(round_number):
            version = self._base(round_number) + len(self.windows(schedule))
            self._reach(schedule, version)
            self.states.finish(round_number, {"version": version, "members": self.members(schedule, version)})
            self._collect_late(version)
        point("split.finish.before_answer")
        return {"version": self.states.round(round_number)["version"]}

    def members(self, schedule: Schedule, version: int) -> list[list[int]]:
        """Return the batches of the round that count.

        Raises StoreError where the steps that led to ``version`` were not made of exactly these.
        """
        ended = self.log.ended(schedule.round)
        counted = [k for k in schedule.order if schedule.turn(k) < ended.get(k.client, schedule.turn(k) + 1)]
        wanted, digest = set(counted), ""
        for keys in self.windows(schedule):
            digest = counting(digest, (key for key in keys if key in wanted))
        if self.window.versions.load(BACKBONE, version)[1].get("counted") != digest:
            raise StoreError(
                f"weight version {version} was made of other batches than those of round {schedule.round}: a gradient "
                "is missing, or counted twice"
            )
        return [list(key) for key in counted]

    def _collect(self, version: int) -> None:
        """Delete what nobody can ask for once ``version`` was left: clients have had the answers of the one before."""
        for key, uuid in self.records.counted(version - 1).items():
            note = RecordNote(uuid, key, version - 1)
            self.records.delete(uuid)
            self.records.delete_delta(note)
        GradientLedger(self._store, self._run, version).discard()
        self.window.versions.collect(BACKBONE, {version, version + 1})

    def _collect_late(self, version: int) -> None:
        """Delete the δs that came after their window had closed: nobody asks for those before ``version`` - 1."""
        for path in self._store.list(f"runs/{self._run}/deltas"):
            if path.split("/")[3] < version_text(version - 1):
                self._store.recycle(path)

    # --- evaluation ---------------------------------------------------------------------------------------------

    def part_after(self, round_number: int, client: int) -> Part:
        """Return the backbone as it is after a round, for evaluation."""
        part = self.assembly.first[BACKBONE].copy()
        version = int(self.states.round(round_number)["version"]) if round_number else 0
        part.write(self.window.versions.load(BACKBONE, version)[0])
        return part


def _dropped(key: BatchKey) -> Closed:
    return Closed(f"client {key.client} was dropped from round {key.round} before batch {key.text}; wait for the next")
