"""The replicas of all runs that one split server holds, and what it answers for them.  One thread at a time."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Executor
from typing import Any

import torch

from cutlayer import step
from cutlayer.errors import MissingObject, WireError
from cutlayer.faults import point
from cutlayer.roles import crossing
from cutlayer.roles.admission import Admission
from cutlayer.roles.asynchronous_replica import AsynchronousReplica
from cutlayer.roles.part import Part
from cutlayer.roles.replica import Replica
from cutlayer.roles.schedule import SHARED, window_limit
from cutlayer.roles.split_server import key_of
from cutlayer.roles.window_replica import WindowReplica
from cutlayer.services.errors import Conflict, Forbidden
from cutlayer.services.runs import Runs, ServedRun
from cutlayer.services.tickets import Ticket
from cutlayer.store import TensorStore
from cutlayer.wire import Message

EVALUATED = 4
"""Backbones kept for evaluation."""


class Hosted:
    """A run with its replica."""

    def __init__(self, run: ServedRun, store: TensorStore, io: Executor, graphs: int) -> None:
        self.run = run
        self.admission = Admission(run.assembly, run.outline.classes)
        self.replica: Replica | WindowReplica
        if run.recipe.server == "none":
            raise Conflict(f"algorithm {run.recipe.name} has no split server: the whole model is at the client")
        update = run.experiment.update.model_dump()
        limit = window_limit(update, run.experiment.clients.fraction, run.clients)
        if run.recipe.asynchronous:
            self.replica = AsynchronousReplica(
                run.assembly, store, run.id, run.schedule, io, limit=limit, unit=str(update["unit"])
            )
        elif run.recipe.step == "window":
            self.replica = WindowReplica(
                run.assembly, store, run.id, run.schedule, limit=limit, unit=str(update["unit"])
            )
        else:
            self.replica = Replica(run.assembly, store, run.id, run.schedule, io)
        self.replica.server.graphs.capacity = graphs
        self._evaluated: OrderedDict[tuple[int, int], Part] = OrderedDict()

    def part_after(self, round_number: int, client: int) -> Part:
        """Return the backbone after a round, in evaluation mode.

        Raises Conflict where the round is over for too long, MissingObject where what it left is not there.
        """
        key = round_number, client if self.run.recipe.server == "per_client" else SHARED
        if key not in self._evaluated:
            try:
                part = self.replica.part_after(round_number, client)
            except MissingObject:
                if self.replica.states.finished(round_number + 1):
                    raise Conflict(f"round {round_number} is over for too long") from None
                raise
            part.module.eval()
            self._evaluated[key] = part
            while len(self._evaluated) > EVALUATED:
                self._evaluated.popitem(last=False)
        return self._evaluated[key]


class Hosting:
    """All runs of one split server."""

    def __init__(self, runs: Runs, store: TensorStore, io: Executor, *, graphs: int = 64) -> None:
        self._runs, self._store, self._io, self._graphs = runs, store, io, graphs
        self._hosted: dict[str, Hosted] = {}
        self.peers = 1
        runs.on_drop = self.forget

    def hosted(self, run: str) -> Hosted:
        """Return a run with its replica, made of the files where it is not at hand."""
        found = self._hosted.get(run)
        if found is None:
            found = self._hosted[run] = Hosted(self._runs.get(run), self._store, self._io, self._graphs)
        if isinstance(found.replica, WindowReplica):
            found.replica.peers = self.peers
        return found

    def at_hand(self, run: str, round_number: int) -> bool:
        """Say whether a round's requests can be answered without asking the backend for anything."""
        hosted = self._hosted.get(run)
        return hosted is not None and hosted.run.has_schedule(round_number)

    def answer(self, ticket: Ticket, kind: str, request: Message, *, again: bool = False) -> Message:
        """Answer a client's request, after everything about it was checked; ``again``: it was, a moment ago.

        Raises Forbidden for another client's batch, WireError or TrainingError for a request of the wrong form, NotYet,
        Closed.
        """
        hosted = self.hosted(ticket.run)
        hosted.run.use_threads()
        if request.kind != kind:
            raise WireError(f"expected a message of kind {kind!r} at this address, got {request.kind!r}")
        if kind == "evaluate":
            return self._evaluate(hosted, ticket, request)
        key = key_of(request)
        if key.client != ticket.client or key.round != ticket.round:
            raise Forbidden(
                f"the ticket is client {ticket.client}'s for round {ticket.round}, and batch {key.text} is not its"
            )
        if not again:
            hosted.admission.check(request)
        return hosted.replica.answer(request)

    def settle(self, run: str) -> None:
        """After an answer: let others see what was summed here."""
        hosted = self._hosted.get(run)
        if hosted is not None and isinstance(hosted.replica, WindowReplica):
            hosted.replica.settle()

    def forget(self, run: str) -> None:
        """Drop what is in memory of a run, after a failure that may have left it half done."""
        self._hosted.pop(run, None)

    def _evaluate(self, hosted: Hosted, ticket: Ticket, request: Message) -> Message:
        samples = request.meta.get("samples")
        others = request.meta.get("values", {})
        if type(samples) is not int or samples < 1 or not isinstance(others, dict):
            raise WireError("expected 'samples' and 'values' of the activations to score")
        h = crossing.placed("h", {**request.tensors, **others})
        hosted.admission.check_evaluation(h, samples)
        part = hosted.part_after(ticket.round, ticket.client)
        with torch.no_grad(), step.autocast_of(hosted.run.settings.autocast, h):
            z = step.as_values(part.module(*h))
        tensors, numbers = crossing.named("z", z)
        point("split.evaluate.before_answer")
        return Message("answer", tensors, {"values": numbers} if numbers else {})

    def runs(self) -> list[str]:
        """Return the runs that are in memory."""
        return list(self._hosted)

    def stats(self) -> dict[str, Any]:
        """Return what the heartbeat tells."""
        graphs = [h.replica.server.graphs for h in self._hosted.values()]
        return {
            "runs": len(self._hosted),
            "graph_hits": sum(g.hits for g in graphs),
            "graph_misses": sum(g.misses for g in graphs),
            "graphs": sum(len(g) for g in graphs),
        }
