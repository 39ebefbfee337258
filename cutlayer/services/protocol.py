"""What crosses the control plane: requests, replies, task payloads and results, as they stand in JSON.

Requests and clients' results refuse unknown fields; replies ignore them, so that an older reader follows a newer
backend.  Every number is finite, every text free of NUL and lone surrogates (a database cannot keep them), times are
seconds since 1970.  Nothing here imports torch.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

Role = Literal["operator", "viewer", "service", "enrol", "client"]
GivenRole = Literal["operator", "viewer", "service", "enrol"]
"""Roles whose tokens an operator makes; a client's key comes with its enrolment."""

RunState = Literal["queued", "preparing", "running", "finishing", "done", "failed", "cancelled"]
ENDED: tuple[RunState, ...] = ("done", "failed", "cancelled")
RoundState = Literal["selected", "training", "closing", "evaluating", "done"]
TaskState = Literal["waiting", "leased", "done", "failed", "cancelled", "dropped"]
TaskKind = Literal["prepare", "setup", "train", "end", "finish", "aggregate", "evaluate", "score", "conclude"]
CLIENT_KINDS: tuple[TaskKind, ...] = ("prepare", "train", "evaluate")
WorkerKind = Literal["split", "fed"]
Cause = Literal["operator", "quorum", "failure"]
"""Why a run is paused: on request, because too few clients are left, or because a task failed again and again."""

PREFIXES: dict[Role, str] = {
    "operator": "cl_op_",
    "viewer": "cl_view_",
    "service": "cl_svc_",
    "enrol": "cl_enrol_",
    "client": "cl_key_",
}
"""How a token of each role begins."""

NAME = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$"
DEPTH = 24
WIDEST = 2**63


def _text(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not contain the character NUL")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must be text that UTF-8 can encode") from None
    return value


def _plain(value: Any, depth: int = 0) -> Any:
    """Return ``value`` if it is JSON that every database keeps: finite, not too deep, integers of 64 bits."""
    if depth > DEPTH:
        raise ValueError(f"must not be nested deeper than {DEPTH} levels")
    if isinstance(value, str):
        _text(value)
    elif isinstance(value, bool) or value is None:
        pass
    elif isinstance(value, int):
        if not -WIDEST <= value < WIDEST:
            raise ValueError("must not contain integers of more than 64 bits")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("must contain finite numbers only")
    elif isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ValueError("must have text for keys")
            _text(key)
            _plain(inner, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            _plain(inner, depth + 1)
    else:
        raise ValueError(f"must be JSON, not {type(value).__name__}")
    return value


Json = Annotated[dict[str, Any], AfterValidator(_plain)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_text)]
Sentence = Annotated[str, StringConstraints(max_length=4000), AfterValidator(_text)]
Name = Annotated[str, StringConstraints(pattern=NAME, max_length=100)]
Count = Annotated[int, Field(ge=0, lt=2**53, strict=True)]
Number = Annotated[float, Field(ge=-1e290, le=1e290, allow_inf_nan=False, strict=True)]
"""Bounded, so that the sums over all clients are finite too."""
Seconds = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False, strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Labels = Annotated[dict[Text, Text], Field(max_length=100)]


class Request(BaseModel):
    """Comes from outside: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Reply(BaseModel):
    """Goes out: a reader ignores what it does not know."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ErrorReply(Reply):
    """Every answer that is not a success: a sentence for people, a word for programs, and the request's id."""

    error: str
    code: str
    request_id: str | None = None


# --- runs ---------------------------------------------------------------------------------------------------------


class SubmitRun(Request):
    """An experiment to train on the connected clients.  The same ``submission`` again is the same run."""

    experiment: Json
    name: Name | None = None
    submission: UUID | None = None


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


class RunList(Reply):
    """Runs, the newest first; ``next`` is the ``after`` of the following page."""

    runs: tuple[RunView, ...]
    next: str | None = None


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


# --- tasks --------------------------------------------------------------------------------------------------------


class NextTask(Request):
    """Asks for work, and waits for it up to ``wait`` seconds.

    A client is known by its key; a service names its ``target`` and itself (``owner``, one per task at a time).  A task
    that the owner holds already is handed out again, unless it is among those it is ``holding`` knowingly.
    """

    owner: Text | None = None
    target: WorkerKind | None = None
    kinds: Annotated[tuple[TaskKind, ...], Field(max_length=20)] | None = None
    wait: Annotated[float, Field(ge=0, le=30, allow_inf_nan=False, strict=True)] = 0.0
    holding: Annotated[tuple[UUID, ...], Field(max_length=100)] = ()


class Task(Reply):
    """Work handed out: report within ``lease_seconds``, by a heartbeat or the result."""

    id: str
    run: str
    round: int
    kind: TaskKind
    payload: dict[str, Any]
    ticket: str | None = None
    lease_seconds: float


class TaskReply(Reply):
    """The answer to NextTask when there is work (without any, the status is 204)."""

    task: Task


class Progress(Request):
    """How far a task is."""

    batches: Count
    of: Count | None = None


class Heartbeat(Request):
    """Still at work; extends the lease."""

    progress: Progress | None = None
    owner: Text | None = None


class HeartbeatReply(Reply):
    """``cancelled``: stop, nobody waits for it any more.  ``paused``: finish this task, no other will come.

    ``evaluate``: the others of the run wait for a score of this client, which a long pass need not hold up.
    """

    cancelled: bool = False
    paused: bool = False
    evaluate: bool = False


class ResultBody(Request):
    """The outcome of a task, in the shape that belongs to its kind (RESULTS)."""

    result: Json
    owner: Text | None = None


class TaskFailure(Request):
    """A task did not work out: why, and whether another attempt may."""

    message: Sentence
    retryable: Flag = False
    owner: Text | None = None


class Accepted(Reply):
    """The backend has it."""

    ok: bool = True


class TaskView(Reply):
    """A task as operators see it."""

    id: str
    run: str
    round: int
    kind: TaskKind
    target: str
    client: int | None = None
    state: TaskState
    attempts: int
    owner: str | None = None
    lease_until: float | None = None
    progress: dict[str, Any] | None = None
    error: str | None = None
    created: float
    updated: float


# --- payloads: what a task tells ----------------------------------------------------------------------------------


class PreparePayload(Reply):
    """prepare (client): load the data, say what it looks like."""

    run: str
    client: int
    clients: int


class SetupPayload(Reply):
    """setup (split, fed): write what the run begins with.  ``samples`` of each client, by number."""

    run: str
    clients: int
    samples: tuple[int, ...]


class TrainPayload(Reply):
    """train (client): one round.  ``giver`` trained before in a relay, None where nobody else has the parts."""

    run: str
    round: int
    client: int
    turn: int
    giver: int | None = None
    evaluate: bool = False


class EndPayload(Reply):
    """end (split): write the end mark of a client that was dropped."""

    run: str
    round: int
    client: int


class FinishPayload(Reply):
    """finish (split): bring the round's update to its end, with exactly these clients, in the plan's order."""

    run: str
    round: int
    clients: tuple[int, ...]


class AggregatePayload(Reply):
    """aggregate (fed): average the parts of exactly these clients, in the plan's order.  ``holder``: of a relay."""

    run: str
    round: int
    clients: tuple[int, ...]
    samples: tuple[int, ...]
    holder: int | None = None


class EvaluatePayload(Reply):
    """evaluate (client): score the model on its own test split.  ``holder``: who has the parts of a relay."""

    run: str
    round: int
    client: int
    holder: int | None = None


class ScorePayload(Reply):
    """score (split, or fed without a split server): score the model on the global test set, if there is one."""

    run: str
    round: int
    holder: int | None = None


class ConcludePayload(Reply):
    """conclude (split, or fed without a split server): join the model and put it among the artifacts."""

    run: str
    round: int
    holder: int | None = None


PAYLOADS: dict[TaskKind, type[Reply]] = {
    "prepare": PreparePayload,
    "setup": SetupPayload,
    "train": TrainPayload,
    "end": EndPayload,
    "finish": FinishPayload,
    "aggregate": AggregatePayload,
    "evaluate": EvaluatePayload,
    "score": ScorePayload,
    "conclude": ConcludePayload,
}


# --- results: what a task brings ----------------------------------------------------------------------------------


class PrepareResult(Request):
    """A client's data: how many samples of which kind."""

    samples: Count
    test_samples: Count = 0
    classes: Count
    class_names: Annotated[tuple[Text, ...], Field(max_length=100_000)] | None = None
    inputs: Annotated[tuple[InputSpec, ...], Field(min_length=1, max_length=64)]
    own: Flag = False
    """The client's operator gave the data; else it is a share of what the experiment names."""
    counts: Annotated[tuple[Count, ...], Field(max_length=100_000)] | None = None
    """Training samples of each class; not told where labels are to stay at the client."""


class TrainResult(Request):
    """A client's round: sums and bytes.  ``loss_sum`` is None where no loss was computed."""

    samples: Count
    batches: Count
    loss_sum: Number | None = None
    bytes_up: Count = 0
    bytes_down: Count = 0
    bytes: Annotated[dict[Text, Count], Field(max_length=100)] = {}
    seconds: Seconds = 0.0
    seconds_by: Annotated[dict[Text, Seconds], Field(max_length=100)] = {}
    """Of those seconds, how many were spent waiting for ``server`` and ``federated``."""


Confusion = Annotated[list[Annotated[list[Count], Field(max_length=1000)]], Field(max_length=1000)]
"""Counts, true class × predicted class."""


class EvaluateResult(Request):
    """Sums over a client's own test split."""

    count: Count
    correct: Count
    loss: Number | None = 0.0
    confusion: Confusion | None = None
    seconds: Seconds = 0.0
    bytes_up: Count = 0
    bytes_down: Count = 0
    bytes: Annotated[dict[Text, Count], Field(max_length=100)] = {}

    @model_validator(mode="after")
    def _no_more_correct_than_counted(self) -> EvaluateResult:
        if self.correct > self.count:
            raise ValueError(f"correct must be at most count, {self.count}, got {self.correct}")
        return self


class WorkerResult(BaseModel):
    """What a split or federated server reports: known fields, and whatever else it wants to keep."""

    model_config = ConfigDict(extra="allow", frozen=True)

    seconds: Seconds = 0.0
    bytes_up: Count = 0
    bytes_down: Count = 0
    bytes: Annotated[dict[Text, Count], Field(max_length=100)] = {}


class ScoreResult(WorkerResult):
    """Sums over the global test set, or ``available`` false where there is none.

    ``accuracy`` stands for correct / count where clients keep parts of their own (a mean weighted by samples).
    """

    available: Flag = True
    count: Count = 0
    correct: Count = 0
    loss: Number | None = 0.0
    accuracy: Annotated[float, Field(ge=0, le=1, strict=True)] | None = None
    confusion: Confusion | None = None


class ConcludeResult(WorkerResult):
    """The run's artifacts by name, and what belongs into its summary."""

    artifacts: Json = {}
    parameters: Json = {}
    versions: Json = {}
    device: Text | None = None
    threads: Count | None = None
    data_note: Sentence | None = None


RESULTS: dict[TaskKind, type[BaseModel]] = {
    "prepare": PrepareResult,
    "setup": WorkerResult,
    "train": TrainResult,
    "end": WorkerResult,
    "finish": WorkerResult,
    "aggregate": WorkerResult,
    "evaluate": EvaluateResult,
    "score": ScoreResult,
    "conclude": ConcludeResult,
}


# --- clients, services, tokens ------------------------------------------------------------------------------------


class Capabilities(Request):
    """What a client says of itself; ``labels`` are matched against ``clients.require`` of an experiment."""

    labels: Labels = {}
    info: Json = {}


class Enrol(Request):
    """Joins, or tells new capabilities.

    ``key`` is the client's own: one it has from before, or one it has just made (``cl_key_`` and 43 characters), so
    that a lost answer loses nothing.  Without it the backend makes one.
    """

    name: Name
    capabilities: Capabilities = Capabilities()
    key: Annotated[str, StringConstraints(pattern=r"^cl_key_[A-Za-z0-9_-]{43}$")] | None = None


class Enrolled(Reply):
    """A client's id and its key, which is shown now and never again (None where the client has it already)."""

    client_id: str
    key: str | None = None


class ClientView(Reply):
    """A client as operators see it."""

    id: str
    name: str
    connected: bool
    revoked: bool
    capabilities: Capabilities
    last_seen: float | None = None
    created: float


class MakeToken(Request):
    """A token for a role; it ends after ``seconds``, or never."""

    role: GivenRole
    name: Name
    seconds: Annotated[float, Field(gt=0, le=10 * 365 * 86400, allow_inf_nan=False, strict=True)] | None = None


class TokenMade(Reply):
    """A token, shown now and never again."""

    id: str
    role: GivenRole
    name: str
    token: str


class TokenView(Reply):
    """A token without what makes it one."""

    id: str
    role: Role
    name: str
    created: float
    expires: float | None = None


class ServiceHeartbeat(Request):
    """A split or federated server is alive, at ``url``."""

    kind: WorkerKind
    id: Text
    url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s\x00]+$", max_length=1000)]
    stats: Json = {}


class Peers(Reply):
    """How many replicas of the same kind are alive."""

    peers: int


class ServiceView(Reply):
    """A split or federated server."""

    kind: WorkerKind
    id: str
    url: str
    live: bool
    stats: dict[str, Any]
    last_seen: float


class Endpoints(Reply):
    """Where the split and federated servers are, for a client."""

    split: tuple[str, ...]
    fed: tuple[str, ...]


class Health(Reply):
    """Alive, or ready."""

    status: str
