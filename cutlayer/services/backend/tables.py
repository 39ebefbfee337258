"""The tables.  Times are seconds since 1970; states and kinds are the words of ``cutlayer.services.protocol``."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

EVERYONE = -1
"""The client number of a task that is not about one client."""


TIMES = ("created", "started", "updated", "server_seconds", "federated_seconds")
"""What the timeline reads of a task, all of it in one index."""


class Table(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        float: Double,
        dict[str, Any]: JSON(none_as_null=True),
        list[Any]: JSON(none_as_null=True),
        str: Text,
    }


class TokenRow(Table):
    """A token: only the SHA-256 of it is kept."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[str]
    name: Mapped[str]
    client: Mapped[str | None] = mapped_column(ForeignKey("clients.id"), index=True)
    created: Mapped[float]
    expires: Mapped[float | None]
    revoked: Mapped[float | None]


class ClientRow(Table):
    """A client, known by its name for ever; ``connected`` says whether it was seen lately."""

    __tablename__ = "clients"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    capabilities: Mapped[dict[str, Any]]
    connected: Mapped[bool]
    last_seen: Mapped[float]
    created: Mapped[float]
    revoked: Mapped[float | None]


class RunRow(Table):
    """A run.  ``cause`` is set while it is paused; ``due`` is when it must be looked at again at the latest."""

    __tablename__ = "runs"
    __table_args__ = (Index(None, "created", "id"),)

    id: Mapped[str] = mapped_column(String(140), primary_key=True)
    submission: Mapped[str | None] = mapped_column(String(36), unique=True)
    algorithm: Mapped[str]
    experiment: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(index=True)
    cause: Mapped[str | None]
    reason: Mapped[str | None]
    clients: Mapped[int | None]
    round: Mapped[int]
    rounds: Mapped[int]
    holder: Mapped[int | None]
    example: Mapped[dict[str, Any] | None]
    evaluation: Mapped[dict[str, Any] | None]
    summary: Mapped[dict[str, Any] | None]
    due: Mapped[float | None] = mapped_column(index=True)
    created: Mapped[float]
    started: Mapped[float | None]
    ended: Mapped[float | None]
    accuracy: Mapped[float | None]
    """The last that was measured."""
    bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    """Up and down, of all rounds that are done."""
    seconds: Mapped[float] = mapped_column(default=0.0)
    """Of all rounds that are done, without their evaluation."""


class MemberRow(Table):
    """A client of a run, under its number."""

    __tablename__ = "participants"
    __table_args__ = (UniqueConstraint("run", "client"),)

    run: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    client: Mapped[str] = mapped_column(ForeignKey("clients.id"), index=True)
    samples: Mapped[int | None] = mapped_column(BigInteger)
    test_samples: Mapped[int | None] = mapped_column(BigInteger)


class RoundRow(Table):
    """A round; ``plan`` never changes once it is there."""

    __tablename__ = "rounds"

    run: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str]
    plan: Mapped[list[Any]]
    due: Mapped[float | None]
    started: Mapped[float]
    trained: Mapped[float | None]
    ended: Mapped[float | None]
    metrics: Mapped[dict[str, Any] | None]


class FigureRow(Table):
    """The figures of a round that is done, in a size that does not grow with its clients, and those of all up to it.

    ``client_accuracy`` and ``client_loss`` hold 8 bytes for each client number (a little-endian double, NaN where there
    is no value), so that those of a few clients can be read without the others.
    """

    __tablename__ = "figures"

    run: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    round: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    time: Mapped[float]
    loss: Mapped[float | None]
    test_accuracy: Mapped[float | None]
    test_loss: Mapped[float | None]
    own_accuracy: Mapped[float | None]
    own_loss: Mapped[float | None]
    clients: Mapped[int]
    dropped: Mapped[int]
    samples: Mapped[int] = mapped_column(BigInteger)
    bytes_up: Mapped[int] = mapped_column(BigInteger)
    bytes_down: Mapped[int] = mapped_column(BigInteger)
    seconds: Mapped[float]
    client_seconds: Mapped[float]
    server_seconds: Mapped[float]
    federated_seconds: Mapped[float]
    evaluation_seconds: Mapped[float]
    total_samples: Mapped[int] = mapped_column(BigInteger)
    total_bytes_up: Mapped[int] = mapped_column(BigInteger)
    total_bytes_down: Mapped[int] = mapped_column(BigInteger)
    total_seconds: Mapped[float]
    accuracy: Mapped[float | None]
    """The last that was measured, in this round or before."""
    best_accuracy: Mapped[float | None]
    best_round: Mapped[int | None]
    bands: Mapped[dict[str, Any]]
    """Minimum, quartiles and maximum over all clients, by figure."""
    client_accuracy: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)
    client_loss: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)


class TaskRow(Table):
    """A task.  The unique key makes it impossible to create the same one twice."""

    __tablename__ = "tasks"
    __table_args__ = (
        UniqueConstraint("run", "round", "kind", "target", "number"),
        Index(None, "target", "state", "created"),
        Index(None, "state", "lease_until"),
        Index("ix_tasks_timeline", *("run", "number", "round", "kind", "state", *TIMES)),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    run: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    round: Mapped[int]
    kind: Mapped[str]
    target: Mapped[str]
    number: Mapped[int]
    payload: Mapped[dict[str, Any]]
    state: Mapped[str]
    attempts: Mapped[int]
    """How often it was handed out."""
    failures: Mapped[int]
    losses: Mapped[int]
    """How often its lease ended without a word."""
    retryable: Mapped[bool]
    not_before: Mapped[float]
    lease_owner: Mapped[str | None]
    lease_until: Mapped[float | None]
    progress: Mapped[dict[str, Any] | None]
    progress_told: Mapped[float]
    result: Mapped[dict[str, Any] | None]
    error: Mapped[str | None]
    created: Mapped[float]
    updated: Mapped[float]
    """When it was created, handed out last, or ended."""
    started: Mapped[float | None]
    """When it was handed out first."""
    server_seconds: Mapped[float | None]
    federated_seconds: Mapped[float | None]
    """How long its client waited for a split server and for the federated server."""


class EventRow(Table):
    """Something that happened.  Ids are given in the order of commits."""

    __tablename__ = "events"
    __table_args__ = (Index(None, "run", "id"), Index(None, "kind", "id"))

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    run: Mapped[str | None]
    round: Mapped[int | None]
    client: Mapped[str | None]
    kind: Mapped[str]
    data: Mapped[dict[str, Any]]
    time: Mapped[float]


class ArtifactRow(Table):
    """A file of a run in the artifacts folder, under ``<run>/<sha256>``."""

    __tablename__ = "artifacts"

    run: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    created: Mapped[float]


class ServiceRow(Table):
    """A split or federated server that tells it is alive."""

    __tablename__ = "services"

    kind: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    url: Mapped[str]
    stats: Mapped[dict[str, Any]]
    last_seen: Mapped[float]
    live: Mapped[bool] = mapped_column(default=True)
    """Whether it was heard of a moment ago, as far as was told."""
