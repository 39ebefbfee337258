"""What somebody who looks on reads of the control plane: figures, spans of time, services, experiments as text.

Every reply is bounded, whatever the size of the run: rounds are thinned, and clients come in bands or a few at a time.
Like ``cutlayer.services.protocol`` in all else.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from cutlayer.services.protocol import LONGEST_TEXT, Reply, Request, RunState, ServiceView

MOST_POINTS = 2000
MOST_CLIENTS = 20
"""Clients whose own series can be had at once."""
MOST_ROWS = 100
"""Clients whose spans can be had at once."""
MOST_SPANS = 400
"""Spans of one client."""
SILENT = 2.5
"""Seconds without a heartbeat after which a service is not live."""

Values = tuple[float | None, ...]
Series = dict[str, Values]
SpanKind = Literal["train", "evaluate"]
SpanState = Literal["training", "waiting", "sending", "idle", "dropped", "late", "failed"]


class Band(Reply):
    """How the values of all clients are spread, round by round; None where no client has one."""

    min: Values = ()
    q25: Values = ()
    median: Values = ()
    q75: Values = ()
    max: Values = ()


class ClientSeries(Reply):
    """A client's own values, round by round."""

    accuracy: Values = ()
    loss: Values = ()


class HistoryView(Reply):
    """The figures of the ``rounds`` that are done: one value of each series for each of them.

    ``series`` has, for each round, ``time`` (when it ended), ``loss``, ``test_accuracy``, ``test_loss``,
    ``own_accuracy``, ``own_loss``, ``clients``, ``dropped``, ``samples``, ``bytes_up``, ``bytes_down``, ``seconds``
    (without evaluation, and shared out: ``client_seconds``, ``server_seconds``, ``federated_seconds``),
    ``evaluation_seconds``; and of all rounds up to it, those that are left out here too, ``total_samples``,
    ``total_bytes_up``, ``total_bytes_down`` and ``total_seconds``.
    """

    rounds: list[int]
    series: Series
    bands: dict[str, Band]
    """``client_accuracy`` and ``client_loss``, over all clients."""
    clients: dict[str, ClientSeries]
    """By number; those that were asked for."""
    total_rounds: int
    """How many are done."""
    thinned: bool
    """Whether rounds were left out."""
    best_round: int | None
    event: int
    """The id of the run's last event when this was read: what follows it is not in here."""


class Span(Reply):
    """What a client did for a while."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    kind: SpanKind
    state: SpanState
    round: int
    """Asynchronous: the client's pass, for ``train``."""
    since: float = Field(alias="from")
    to: float
    tasks: int = 1
    """How many tasks are merged into it; ``round`` is the last one's."""


class ClientSpans(Reply):
    """A client of the run with what it did, the oldest first."""

    number: int
    name: str
    spans: list[Span]


class TimelineView(Reply):
    """What clients did between two moments."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    since: float = Field(alias="from")
    to: float
    clients: list[ClientSpans]
    total: int
    """How many clients the run has."""
    event: int
    """The id of the run's last event when this was read."""


class DatabaseView(Reply):
    """What the backend keeps everything in."""

    kind: Literal["sqlite", "postgresql"]
    bytes: int


class Beating(ServiceView):
    """A service and how long it has been silent; ``live`` while that is less than SILENT."""

    silent: float


class ClientCount(Reply):
    """How many clients are here, of how many that may be."""

    connected: int
    total: int


class SystemView(Reply):
    """The whole system at one moment; ``started`` is when this backend began."""

    version: str
    started: float
    now: float
    database: DatabaseView
    services: list[Beating]
    clients: ClientCount
    runs: dict[RunState, int]
    event: int
    """The id of the last event of all when this was read."""


class ExperimentText(Request):
    """An experiment as it stands in a file."""

    yaml: Annotated[str, StringConstraints(max_length=LONGEST_TEXT)]


class ExperimentRead(Reply):
    """The experiment with all its defaults."""

    experiment: dict[str, Any]


class ExperimentWrong(Reply):
    """What is wrong with an experiment, and where: the line (from 1) of the text, and the key."""

    error: str
    code: str
    request_id: str | None = None
    line: int | None = None
    key: str | None = None
