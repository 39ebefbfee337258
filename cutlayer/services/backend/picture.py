"""A run as its rows say (`Picture`), and the steps that can be made with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cutlayer.recipes import Recipe
from cutlayer.services.backend.tables import EVERYONE
from cutlayer.services.protocol import Cause, RoundState, RunState, TaskKind, TaskState


@dataclass(frozen=True)
class Terms:
    """What an experiment says about the course of its run."""

    recipe: Recipe
    rounds: int
    seed: int = 0
    count: int = 1
    minimum: int = 1
    fraction: float = 1.0
    deadline: float | None = None
    quorum: float = 1.0
    evaluate_every: int = 1
    join: bool = False

    @property
    def turnwise(self) -> bool:
        """Clients train one after another: a relay, or a shared backbone in random order (SplitFed v2)."""
        recipe = self.recipe
        return recipe.schedule == "relay" or (recipe.schedule == "sequential" and recipe.server == "shared")

    @property
    def together(self) -> bool:
        """Clients train at once, and wait for each other's batches at every step of the backbone."""
        recipe = self.recipe
        shared = recipe.server == "shared" and recipe.schedule == "interleaved" and not recipe.local_loss
        return recipe.grouped or shared

    @property
    def scorer(self) -> str:
        """Who scores and joins the model."""
        return "fed" if self.recipe.server == "none" else "split"

    def needed(self, planned: int) -> int:
        """How many of the ``planned`` clients must finish a round."""
        return max(1, math.ceil(self.quorum * planned - 1e-9))


@dataclass(frozen=True)
class Member:
    """A client of the run: its number, and whether it is here."""

    number: int
    client: str
    name: str
    here: bool = True
    samples: int | None = None


@dataclass(frozen=True)
class Job:
    """A task of the current round; asynchronous: also a client's pass that is open, or ended in the round."""

    kind: TaskKind
    target: str
    state: TaskState
    number: int = EVERYONE
    result: Mapping[str, Any] = field(default_factory=dict)
    retryable: bool = False
    error: str | None = None
    batches: int = 0
    """How many its client has done, as far as it has told."""
    since: float = 0.0
    """When it was created."""


@dataclass(frozen=True)
class Round:
    """The current round: its clients in order, and its deadline."""

    number: int
    state: RoundState
    order: tuple[int, ...]
    due: float | None = None
    started: float = 0.0
    trained: float | None = None


@dataclass(frozen=True)
class Picture:
    """A run as its rows say.

    ``candidates``: where a client may come to take part, the ids of those that are connected, fit and do not, by name;
    ``require`` are the labels that they need.
    """

    run: str
    state: RunState
    terms: Terms
    now: float
    cause: Cause | None = None
    members: tuple[Member, ...] = ()
    round: Round | None = None
    jobs: tuple[Job, ...] = ()
    candidates: tuple[str, ...] = ()
    require: Mapping[str, str] = field(default_factory=dict)
    example: Mapping[str, Any] | None = None
    """What the clients' data look like, once they have been compared."""
    holder: int | None = None
    """Who has the parts of a relay since the round before."""
    passed: int = 0
    passes: Mapping[int, int] = field(default_factory=dict)
    """Asynchronous: passes that are done, of all clients; and how many each has begun."""
    lines: tuple[Mapping[str, Any], ...] = ()
    """The metrics of all rounds, once the run is finishing."""

    def of(self, kind: TaskKind) -> list[Job]:
        """The tasks of one kind."""
        return [job for job in self.jobs if job.kind == kind]

    @property
    def known(self) -> bool:
        """Whether the clients' data have been compared."""
        return self.example is not None

    @property
    def seats(self) -> int:
        """How many numbers there are: as many as clients, or as many as there may be at most."""
        return self.terms.count if self.terms.join else len(self.members)

    @property
    def ready(self) -> list[Member]:
        """The clients that have prepared, and so can be part of a round."""
        return [member for member in self.members if member.samples is not None]

    def member(self, number: int) -> Member:
        """The client with that number."""
        return self._by_number[number]

    @cached_property
    def _by_number(self) -> dict[int, Member]:
        return {member.number: member for member in self.members}


# --- steps --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Enter:
    """The run changes its state; ``reason`` says why it failed."""

    state: RunState
    reason: str | None = None


@dataclass(frozen=True)
class Choose:
    """These clients take part, under the numbers 0, 1, ..."""

    clients: tuple[str, ...]


@dataclass(frozen=True)
class Seat:
    """This client takes part under a number that is free, or that of another; ``reason`` says why that one does not."""

    number: int
    client: str
    reason: str | None = None


@dataclass(frozen=True)
class Welcome:
    """A client that came while the run goes on has prepared: it may be part of the next round."""

    number: int
    samples: int
    test_samples: int


@dataclass(frozen=True)
class Refuse:
    """A client that came while the run goes on cannot take part: its number is free again."""

    number: int
    reason: str


@dataclass(frozen=True)
class Requeue:
    """The run waits for clients again, as if none had been chosen."""

    reason: str


@dataclass(frozen=True)
class Learn:
    """What the clients' data look like: the example, and (samples, test samples) of each number."""

    example: Mapping[str, Any]
    samples: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Create:
    """A new task."""

    kind: TaskKind
    target: str
    payload: Mapping[str, Any]
    number: int = EVERYONE
    round: int | None = None
    """None: the run's."""


@dataclass(frozen=True)
class Cancel:
    """Nobody waits for the tasks of this kind any more."""

    kind: TaskKind


@dataclass(frozen=True)
class Drop:
    """A client's task is over without a result: the round goes on without that client."""

    kind: TaskKind
    number: int
    reason: str


@dataclass(frozen=True)
class Open:
    """A new round with its plan."""

    number: int
    order: tuple[int, ...]


@dataclass(frozen=True)
class Move:
    """The round changes its state; ``due`` is the deadline from now on."""

    state: RoundState
    due: float | None = None
    holder: int | None = None


@dataclass(frozen=True)
class Close:
    """The round is done, and this is its line."""

    metrics: Mapping[str, Any]
    evaluation: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Pause:
    """The run waits; the sentence says for what."""

    cause: Cause
    reason: str


@dataclass(frozen=True)
class Resume:
    """The run goes on; a round gets its whole time again."""


@dataclass(frozen=True)
class Finish:
    """The run is done, and this is its summary."""

    summary: Mapping[str, Any]


Step = (
    Enter
    | Choose
    | Seat
    | Welcome
    | Refuse
    | Requeue
    | Learn
    | Create
    | Cancel
    | Drop
    | Open
    | Move
    | Close
    | Pause
    | Resume
    | Finish
)
