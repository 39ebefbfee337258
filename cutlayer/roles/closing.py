"""The end of a round in which the backbone steps batch by batch: what counted, averages, alignments, and tidying up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cutlayer.errors import StoreError
from cutlayer.roles.assembly import AUXILIARY, BACKBONE, Assembly
from cutlayer.roles.federated import Update
from cutlayer.roles.schedule import Schedule
from cutlayer.roles.split_server import SplitServer, key_of, samples_of
from cutlayer.roles.weights import under
from cutlayer.store.states import States
from cutlayer.store.steps import END, StepLog


class Closing:
    """What a replica does with the log and the states of a round once all its batches are in.

    All of it may be done again: what is written is a function of the log.
    """

    def __init__(self, assembly: Assembly, server: SplitServer, log: StepLog, states: States) -> None:
        self.assembly, self.server, self.log, self.states = assembly, server, log, states
        self.recipe = assembly.recipe

    def members(self, schedule: Schedule) -> list[list[int]]:
        """Return the batches of the round that count: those in the log.

        Raises StoreError where one is missing that its client has had an answer to.
        """
        ended = self.log.ended(schedule.round)
        taken = {client: set(self.log.turns(schedule.round, client)) for client in schedule.turns}
        for client in ended:
            slots = {turn: self.log.get(schedule.round, client, turn) for turn in taken[client]}
            taken[client] = {turn for turn, found in slots.items() if found is not None and found.kind != END}
        keys = [key for units in schedule.units.values() for unit in units for key in unit]
        counted = [key for key in keys if schedule.turn(key) in taken[key.client]]
        lost = [key for key in keys if key.client not in ended and schedule.turn(key) not in taken[key.client]]
        if lost:
            raise StoreError(f"batch {lost[0].text} was answered, and is not in the step log: the store has lost it")
        return [list(key) for key in counted]

    def average(self, schedule: Schedule) -> None:
        """Make one backbone of those of the clients that went through the round."""
        if not self.assembly.averages_backbones:
            return
        ended = self.log.ended(schedule.round)
        copies = _Copies(self.states, schedule.round, {c: n for c, n in schedule.samples.items() if c not in ended})
        server = self.assembly.federated((BACKBONE,), copies)
        found = self.states.rules(schedule.round - 1)
        if found is not None:
            server.load_state(found)
        server.close()
        self.states.save_mean(schedule.round, server.parts[BACKBONE], server.state())

    def align(self, schedule: Schedule) -> None:
        """FSL-SAGE: align the auxiliaries of the clients that went through the round, from what they uploaded."""
        aligner = self.server.aligner
        if aligner is None or (schedule.round - 1) % self.recipe.align_every:
            return
        ended = self.log.ended(schedule.round)
        for client in schedule.samples:
            if client in ended or self.states.aligned(schedule.round, client):
                continue
            self._gather(client, schedule.round)
            part = aligner.auxiliaries[client] = self.assembly.first[AUXILIARY].copy()
            found = self.states.auxiliary(schedule.round, client)
            if found is not None:
                part.load_state(*found)
            part.begin_round(schedule.round)
            if aligner.align(client, self.server.backbone.module, schedule.round) is not None:
                self.states.save_auxiliary(schedule.round, client, *part.state())

    def _gather(self, client: int, round_number: int) -> None:
        """Keep the newest uploads of a client for an alignment, read from the log."""
        aligner = self.server.aligner
        assert aligner is not None
        aligner.kept.pop(client, None)
        needed, slots = self.recipe.buffer, []
        for number in reversed([r for r in self.log.rounds() if r <= round_number]):
            for turn in reversed(self.log.turns(number, client)):
                found = self.log.get(number, client, turn)
                if found is not None and found.kind != END and needed > 0:
                    slots.append(found)
                    needed -= samples_of(found)
        for request in reversed(slots):
            key = key_of(request)
            h, y = self.server.activations(request, key)
            aligner.keep(client, h, y)

    def collect(self, round_number: int) -> None:
        """Delete what no later round can ask for."""
        for number in self.log.rounds():
            if number < round_number and self.server.aligner is None:
                self.log.delete(number)
        if self.server.aligner is not None:
            self._collect_uploads(round_number)
        for note in self.server.records.notes():
            if note.key.round < round_number:
                self.server.records.delete(note.uuid)
        self.states.collect(round_number)

    def _collect_uploads(self, round_number: int) -> None:
        """Delete uploads that are too old for any alignment to come."""
        rounds = [r for r in self.log.rounds() if r <= round_number]
        for client in {c for r in rounds for c in self.log.clients(r)}:
            needed = self.recipe.buffer
            for number in reversed(rounds):
                for turn in reversed(self.log.turns(number, client)):
                    if needed <= 0 and number < round_number:
                        self.log.delete(number, client, turn)
                    else:
                        found = self.log.get(number, client, turn)
                        needed -= samples_of(found) if found is not None and found.kind != END else 0


class _Copies:
    """The clients' backbones at the end of a round as an inbox, read one by one."""

    def __init__(self, states: States, round_number: int, samples: Mapping[int, int]) -> None:
        self._states, self._round, self._samples = states, round_number, samples

    def add(self, client: int, samples: int, update: Update) -> bool:
        raise AssertionError("the copies of a round are what the round left")

    def clients(self) -> Iterable[int]:
        return list(self._samples)

    def get(self, client: int) -> tuple[int, Update]:
        found = self._states.before(self._round + 1, client)
        assert found is not None
        return self._samples[client], {BACKBONE: under(f"{client}/weights/", found[0])}

    def clear(self) -> None:
        return None
