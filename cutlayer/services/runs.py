"""What a process knows of a run that it serves: the experiment, the roles made of it, and the plan of every round."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch

from cutlayer import choices, recipes
from cutlayer.config import Experiment, parse
from cutlayer.engines.prepare import Outline, blueprint
from cutlayer.errors import ConfigError
from cutlayer.roles.assembly import Assembly
from cutlayer.roles.asynchronous_federation import AsynchronousFederation
from cutlayer.roles.federation import Federation
from cutlayer.roles.mixing import Mixing
from cutlayer.roles.schedule import Schedule
from cutlayer.services.api import Backend
from cutlayer.services.errors import Conflict
from cutlayer.services.outlines import made_up
from cutlayer.services.protocol import RunView
from cutlayer.store import TensorStore

SCHEDULES = 16
"""Rounds, or passes of clients, whose layout a process has in memory."""
KEPT = 8
"""Runs that a process has in memory at once."""


class ServedRun:
    """One run as a server or a client sees it.  ``clients`` is how many take part."""

    def __init__(self, view: RunView, experiment: Experiment, outline: Outline, backend: Backend, device: str) -> None:
        self.id, self.experiment, self.outline = view.id, experiment, outline
        self.clients = view.clients or experiment.clients.count
        found, settings, self.threads = blueprint(experiment.model_copy(update={"device": device}), outline)
        _refuse_what_services_cannot(found.codec, settings.recipe)
        self.assembly = Assembly(found, settings)
        self.settings, self.recipe = settings, settings.recipe
        self._backend = backend
        self._schedules: OrderedDict[int, Schedule] = OrderedDict()

    def has_schedule(self, round_number: int) -> bool:
        """Say whether the layout of a round is at hand."""
        return round_number in self._schedules

    def schedule(self, round_number: int) -> Schedule:
        """Return the layout of a round.  Its plan never changes, so it is asked for once."""
        if round_number not in self._schedules:
            self._schedules[round_number] = Schedule(self.settings, round_number, self._samples(round_number))
            while len(self._schedules) > SCHEDULES:
                self._schedules.popitem(last=False)
        return self._schedules[round_number]

    def _samples(self, round_number: int) -> Mapping[int, int]:
        """Return who takes part with how many samples.  Asynchronous, a client's pass has the number of no round."""
        if self.recipe.asynchronous and self._schedules:
            return next(iter(self._schedules.values())).samples
        plan = self._backend.plan(self.id, 1 if self.recipe.asynchronous else round_number)
        return {p.client: p.samples for p in plan.participants}

    def federation(self, store: TensorStore) -> Federation:
        """Return what holds the parts of the run between clients."""
        if not self.recipe.asynchronous:
            return Federation(self.assembly, store, self.id)
        rule = lambda: Mixing(self.recipe, self.schedule(1).samples, self.working)  # noqa: E731 (the plan comes later)
        return AsynchronousFederation(self.assembly, store, self.id, rule)

    @property
    def working(self) -> int:
        """How many clients work at the same time."""
        return max(1, round(self.experiment.clients.fraction * self.clients))

    def use_threads(self) -> None:
        """Compute with as many threads as the run does everywhere: their number has a say in rounding."""
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)


class Runs:
    """The runs that a server works for, the most recently used kept in memory."""

    def __init__(self, backend: Backend, device: str, threads: int | None = None) -> None:
        self._backend, self._device, self._threads = backend, device, threads
        self._runs: OrderedDict[str, ServedRun] = OrderedDict()
        self._lock = threading.Lock()
        self.on_drop: Callable[[str], None] = lambda run: None

    def get(self, run: str) -> ServedRun:
        """Return a run.  Raises NotFound where there is none, Conflict where its clients have not prepared."""
        with self._lock:
            found = self._runs.get(run)
            if found is None:
                found = self._runs[run] = self._built(run)
            self._runs.move_to_end(run)
            while len(self._runs) > KEPT:
                self.on_drop(self._runs.popitem(last=False)[0])
            return found

    def _built(self, run: str) -> ServedRun:
        view = self._backend.run(run)
        if view.example is None:
            raise Conflict(f"run {run} is not ready: its clients have not told what their data looks like")
        experiment = parse(view.experiment)
        if self._threads is not None and experiment.threads == "auto":
            experiment = experiment.model_copy(update={"threads": self._threads})
        return ServedRun(view, experiment, made_up(view.example), self._backend, self._device)


def _refuse_what_services_cannot(codec: Any, recipe: recipes.Recipe) -> None:
    """A codec that remembers, at a server that must not: its memory would be a replica's own."""
    from cutlayer.codecs import parse as channel

    chains = channel(codec).chains
    for kind in choices.without_memory(recipe):
        if any(getattr(transform, "feedback", False) for transform in chains[kind]):
            raise ConfigError(choices.FEEDBACK.format(kind=kind, algorithm=recipe.name))
