"""The local engine without rounds that anybody waits for: batches and updates in the order in which they come.

A client that has gone through its samples sends its parts and begins again with what is there by then; the backbone
steps on every K arrivals.  What is called a round ends when as many updates were mixed in as clients are at work.
``agenda`` says whose batch comes next: a virtual clock, or the order in which they came elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import Any, Protocol

import torch

from cutlayer.engines.clock import Clock
from cutlayer.engines.local import LocalEngine
from cutlayer.engines.setup import Setup
from cutlayer.roles.client import Progress, Turn
from cutlayer.roles.coordinator import plan
from cutlayer.roles.mixing import Mixing, mixed
from cutlayer.roles.settings import Settings
from cutlayer.seeds import shuffled


class Agenda(Protocol):
    """Whose batch reaches the server next."""

    now: float

    def work(self, client: int, samples: int) -> None:
        """From now on ``client`` works on a batch of ``samples``."""
        ...

    def next(self) -> int:
        """Return whose batch arrives next."""
        ...

    def state(self) -> dict[str, Any]:
        """Return where it stands, as JSON."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state` returned."""
        ...


@dataclass
class Standing:
    """A client at work: which pass over its samples this is, what it began with, and how many batches are done."""

    number: int
    base: int
    round: int
    done: int
    turns: Iterator[Turn]


class AsynchronousEngine(LocalEngine):
    """Runs the roles of an experiment whose clients wait for nobody."""

    overlaps = True

    def __init__(self, setup: Setup, settings: Settings, agenda: Agenda | None = None) -> None:
        super().__init__(setup, settings)
        samples = {number: len(share.train) for number, share in enumerate(self.shares)}
        self._first = plan(self.recipe, settings.seed, 1, len(samples), setup.fraction).clients
        self.mixing = Mixing(self.recipe, samples, len(self._first))
        self.agenda: Agenda = agenda if agenda is not None else Clock(setup.paces)
        self.mixes = 0
        """Updates that were mixed in so far, or came too late to be."""
        self._passes = dict.fromkeys(samples, 0)
        self._at_work: dict[int, Standing] = {}
        self._ended: dict[int, Progress] = {}
        self._lags: list[int] = []

    def round(self) -> dict[str, Any]:
        """Train until as many more updates are in as clients are at work, and return the metrics.

        Raises TrainingError when a loss or an update is not finite.
        """
        start = perf_counter()
        self._seconds = dict.fromkeys(self._seconds, 0.0)
        self._ended, self._lags = {}, []
        assert self.server is not None
        self.server.begin_round(self.done + 1)
        if not self._at_work:
            for number in self._first:
                self._begin(number)
        while self.mixes < (self.done + 1) * self.mixing.working:
            self._arrival(self.agenda.next())
        self._timed("server", self.server.update)
        self.done += 1
        metrics = self._metrics(self.done, self._ended, perf_counter() - start)
        lags = self._lags
        return metrics | {
            "virtual_seconds": self.agenda.now,
            "staleness": {
                "mean": sum(lags) / len(lags),
                "max": max(lags),
                "refused": sum(lag > self.mixing.bound for lag in lags),
            },
        }

    def _begin(self, number: int) -> None:
        """Let a client begin a pass over its samples with the parts that are there now."""
        client = self.client(number)
        self.exchange.send_version(number, client.parts, self.federated.parts, self.mixes)
        client.begin_round(self.done + 1)
        self._passes[number] += 1
        turns = client.turns(self._passes[number])
        self._at_work[number] = Standing(self._passes[number], self.mixes, self.done + 1, 0, turns)
        self._work_on(number)

    def _work_on(self, number: int) -> None:
        client, standing = self.client(number), self._at_work[number]
        self.agenda.work(number, client.sizes[standing.done % len(client.sizes)])

    def _arrival(self, number: int) -> None:
        """Train on the batch that comes from a client; after its last one its parts are mixed in."""
        standing = self._at_work[number]
        self._run(next(standing.turns))
        standing.done += 1
        if standing.done < self.client(number).turn_count:
            self._work_on(number)
        else:
            del self._at_work[number]
            self._timed("federated", lambda: self._mix(number, standing))
            self._begin(self._following(number))

    def _mix(self, number: int, standing: Standing) -> None:
        client = self.client(number)
        samples = len(client.samples)
        update = self.exchange.send_back(number, client.parts, self.shared_parts, samples)
        self.federated.check(number, samples, update)
        lag = self.mixes - standing.base
        self.federated.parts = mixed(self.federated.parts, update, self.mixing.share(number, lag))
        self.mixes += 1
        self._lags.append(lag)
        self._ended[number] = _sum(self._ended.get(number), client.report())

    def _following(self, number: int) -> int:
        """Return who goes to work in place of a client that is done: itself, unless only a fraction works at once."""
        idle = [n for n in self._passes if n not in self._at_work]
        return number if len(idle) == 1 else idle[shuffled(len(idle), self.settings.seed, "next", self.mixes)[0]]

    # --- interruptions ------------------------------------------------------------------------------------------

    def standing(self) -> dict[str, Any]:
        """Return who is at work on what, as JSON: what a checkpoint holds beside weights."""
        at_work = {}
        for number, s in self._at_work.items():
            progress = self.clients[number].progress
            loss = None if progress.loss is None else float(progress.loss)
            at_work[str(number)] = [s.number, s.base, s.round, s.done, progress.samples, progress.batches, loss]
        passes = {str(number): count for number, count in self._passes.items()}
        return {"mixes": self.mixes, "passes": passes, "at_work": at_work, "agenda": self.agenda.state()}

    def stand(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`standing` returned, weights being in their places."""
        self.mixes = state["mixes"]
        self._passes = {int(number): count for number, count in state["passes"].items()}
        self.agenda.load_state(state["agenda"])
        for text, (number, base, round_number, done, samples, batches, loss) in state["at_work"].items():
            client = self.client(int(text))
            client.progress = Progress(samples, batches, None if loss is None else torch.tensor(loss))
            turns = islice(client.turns(number), done, None)
            self._at_work[int(text)] = Standing(number, base, round_number, done, turns)


def _sum(one: Progress | None, other: Progress) -> Progress:
    if one is None or one.loss is None or other.loss is None:
        return other
    return Progress(one.samples + other.samples, one.batches + other.batches, one.loss + other.loss)
