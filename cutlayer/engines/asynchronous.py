"""The local engine without rounds that anybody waits for: batches and updates in the order in which they come.

A client that has gone through its samples sends its parts and begins again with what is there by then; the backbone
steps on every K arrivals.  What is called a round ends when as many updates were mixed in as clients are at work.  A
virtual clock says who comes next; whoever knows another order calls ``begin``, ``arrival``, ``mix`` and ``end_round``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import Any

import torch

from cutlayer.engines.clock import Clock
from cutlayer.engines.local import LocalEngine
from cutlayer.engines.setup import Setup
from cutlayer.roles.client import Progress, Turn
from cutlayer.roles.coordinator import plan
from cutlayer.roles.mixing import Mixing, mixed
from cutlayer.roles.settings import Settings
from cutlayer.seeds import shuffled


@dataclass
class Standing:
    """A client at work: which pass over its samples this is, what it began with, and how many batches are done."""

    number: int
    base: int
    done: int
    turns: Iterator[Turn]


class AsynchronousEngine(LocalEngine):
    """Runs the roles of an experiment whose clients wait for nobody."""

    overlaps = True

    def __init__(self, setup: Setup, settings: Settings) -> None:
        super().__init__(setup, settings)
        samples = {number: len(share.train) for number, share in enumerate(self.shares)}
        self._first = plan(self.recipe, settings.seed, 1, len(samples), setup.fraction).clients
        self.mixing = Mixing(self.recipe, samples, len(self._first))
        self.clock = Clock(setup.paces)
        self.mixes = 0
        """Updates that were mixed in so far, or came too late to be."""
        self._passes = dict.fromkeys(samples, 0)
        self._at_work: dict[int, Standing] = {}
        self._ended: dict[int, Progress] = {}
        self._lags: list[int] = []
        self._begun = False

    def round(self) -> dict[str, Any]:
        """Train until as many more updates are in as clients are at work, and return the metrics.

        Raises TrainingError when a loss or an update is not finite.
        """
        start = perf_counter()
        self._seconds = dict.fromkeys(self._seconds, 0.0)
        self._ended, self._lags = {}, []
        if not self._at_work:
            for number in self._first:
                self._go_on(number)
        while self.mixes < (self.done + 1) * self.mixing.working:
            number = self.clock.next()
            if self.arrival(number):
                self.mix(number)
                self._go_on(self._following(number))
            else:
                self._work_on(number)
        self.end_round()
        metrics = self._metrics(self.done, self._ended, perf_counter() - start)
        lags = self._lags
        return metrics | {
            "virtual_seconds": self.clock.now,
            "staleness": {
                "mean": sum(lags) / len(lags),
                "max": max(lags),
                "refused": sum(lag > self.mixing.bound for lag in lags),
            },
        }

    # --- what happens -------------------------------------------------------------------------------------------

    def begin(self, number: int) -> None:
        """Let a client begin a pass over its samples with the parts that are there now."""
        client = self.client(number)
        self.exchange.send_version(number, client.parts, self.federated.parts, self.mixes)
        client.begin_round(self.done + 1)
        self._passes[number] += 1
        turns = client.turns(self._passes[number])
        self._at_work[number] = Standing(self._passes[number], self.mixes, 0, turns)

    def arrival(self, number: int) -> bool:
        """Train on the batch that comes from a client; returns whether it was the last one of its pass."""
        assert self.server is not None
        if not self._begun:
            self.server.begin_round(self.done + 1)
            self._begun = True
        standing = self._at_work[number]
        self._run(next(standing.turns))
        standing.done += 1
        return standing.done == self.client(number).turn_count

    def mix(self, number: int) -> None:
        """Mix in the parts of a client that has gone through its samples."""
        standing = self._at_work.pop(number)
        self._timed("federated", lambda: self._mix(number, standing))

    def end_round(self) -> None:
        """Step the backbone on the arrivals that are left over; what comes now belongs to the next round."""
        assert self.server is not None
        self._timed("server", self.server.update)
        self.done += 1
        self._begun = False

    def _go_on(self, number: int) -> None:
        self.begin(number)
        self._work_on(number)

    def _work_on(self, number: int) -> None:
        client, standing = self.client(number), self._at_work[number]
        self.clock.work(number, client.sizes[standing.done % len(client.sizes)])

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
            at_work[str(number)] = [s.number, s.base, s.done, progress.samples, progress.batches, loss]
        passes = {str(number): count for number, count in self._passes.items()}
        return {"mixes": self.mixes, "passes": passes, "at_work": at_work, "clock": self.clock.state()}

    def stand(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`standing` returned, weights being in their places."""
        self.mixes = state["mixes"]
        self._passes = {int(number): count for number, count in state["passes"].items()}
        self.clock.load_state(state["clock"])
        for text, (number, base, done, samples, batches, loss) in state["at_work"].items():
            client = self.client(int(text))
            client.progress = Progress(samples, batches, None if loss is None else torch.tensor(loss))
            turns = islice(client.turns(number), done, None)
            self._at_work[int(text)] = Standing(number, base, done, turns)


def _sum(one: Progress | None, other: Progress) -> Progress:
    if one is None or one.loss is None or other.loss is None:
        return other
    return Progress(one.samples + other.samples, one.batches + other.batches, one.loss + other.loss)
