"""Runs, rounds, events and artifacts, as they are asked for and shown."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from pydantic import Field, StringConstraints, model_validator

from cutlayer.services.protocol.forms import LONGEST_TEXT, Count, Json, Name, Reply, Request, Text
from cutlayer.services.protocol.words import Cause, RoundState, RunState


class SubmitRun(Request):
    """An experiment to train on the connected clients, or the text of its file.  The same ``submission`` again is the
    same run."""

    experiment: Json | None = None
    yaml: Annotated[str, StringConstraints(max_length=LONGEST_TEXT)] | None = None
    name: Name | None = None
    submission: UUID | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> SubmitRun:
        if (self.experiment is None) == (self.yaml is None):
            raise ValueError("expected either experiment or yaml")
        return self


class RunCreated(Reply):
    """The id of a run, which is also its name in the store."""

    id: str


class Member(Reply):
    """A client of a run: its ``number`` in the run, and who it is."""

    number: int
    client_id: str
    name: str
    connected: bool
    samples: int | None = None
    test_samples: int | None = None


class InputSpec(Request):
    """One input of the model, without the batch dimension."""

    shape: Annotated[tuple[Count, ...], Field(max_length=16)]
    dtype: Text


class Example(Reply):
    """What all clients' data look like; known once every client has prepared."""

    inputs: tuple[InputSpec, ...]
    classes: int
    class_names: tuple[str, ...] | None = None


class RunView(Reply):
    """A run.  To a client ``members`` holds itself only, and ``number`` is its own."""

    id: str
    state: RunState
    paused: bool = False
    cause: Cause | None = None
    reason: str | None = None
    """A sentence: why the run is paused or has failed."""
    algorithm: str
    experiment: dict[str, Any]
    clients: int | None = None
    """How many clients take part; None while the run is queued."""
    round: int = 0
    """The round that is running or was the last."""
    rounds: int
    example: Example | None = None
    members: tuple[Member, ...] = ()
    number: int | None = None
    evaluation: dict[str, Any] | None = None
    """``classes`` (names) and ``confusion`` (true × predicted counts) of the last evaluated ``round``."""
    summary: dict[str, Any] | None = None
    created: float
    started: float | None = None
    ended: float | None = None
    progress: float = 0.0
    """The share of its rounds that are done."""
    test_accuracy: float | None = None
    """The last that was measured; that of the clients' own test sets where there is no common one."""
    bytes: int = 0
    seconds: float = 0.0
    """Bytes both ways and seconds (without evaluation) of all rounds that are done."""


class RunList(Reply):
    """Runs, the newest first; ``next`` is the ``after`` of the following page.

    Without members and evaluation.
    """

    runs: tuple[RunView, ...]
    next: str | None = None
    total: int | None = None
    """How many there are on all pages."""


class Planned(Reply):
    """A client of a round and how many samples it trains on."""

    client: int
    samples: int


class PlanView(Reply):
    """Who takes part in a round, in which order: never changes once it is there."""

    run: str
    round: int
    participants: tuple[Planned, ...]


class RoundView(Reply):
    """A round and how far it is; ``metrics`` is its line once it is done."""

    round: int
    state: RoundState
    participants: tuple[Planned, ...]
    finished: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()
    deadline: float | None = None
    started: float
    ended: float | None = None
    metrics: dict[str, Any] | None = None


class EventView(Reply):
    """Something that happened; ``id`` only grows."""

    id: int
    time: float
    kind: str
    run: str | None = None
    round: int | None = None
    client: str | None = None
    data: dict[str, Any] = {}


class ArtifactView(Reply):
    """A file that a run left behind."""

    name: str
    bytes: int
    sha256: str
    created: float
