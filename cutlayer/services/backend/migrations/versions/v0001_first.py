"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make all tables."""
    op.create_table(
        "clients",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("capabilities", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("connected", sa.Boolean(), nullable=False),
        sa.Column("last_seen", sa.Double(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("revoked", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_clients")),
        sa.UniqueConstraint("name", name=op.f("uq_clients_name")),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("run", sa.Text(), nullable=True),
        sa.Column("round", sa.Integer(), nullable=True),
        sa.Column("client", sa.Text(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("data", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_index(op.f("ix_events_kind_id"), "events", ["kind", "id"], unique=False)
    op.create_index(op.f("ix_events_run_id"), "events", ["run", "id"], unique=False)
    op.create_table(
        "runs",
        sa.Column("id", sa.String(length=140), nullable=False),
        sa.Column("submission", sa.String(length=36), nullable=True),
        sa.Column("algorithm", sa.Text(), nullable=False),
        sa.Column("experiment", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("clients", sa.Integer(), nullable=True),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("rounds", sa.Integer(), nullable=False),
        sa.Column("holder", sa.Integer(), nullable=True),
        sa.Column("example", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("evaluation", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("summary", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("due", sa.Double(), nullable=True),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("started", sa.Double(), nullable=True),
        sa.Column("ended", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
        sa.UniqueConstraint("submission", name=op.f("uq_runs_submission")),
    )
    op.create_index(op.f("ix_runs_created_id"), "runs", ["created", "id"], unique=False)
    op.create_index(op.f("ix_runs_due"), "runs", ["due"], unique=False)
    op.create_index(op.f("ix_runs_state"), "runs", ["state"], unique=False)
    op.create_table(
        "services",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("stats", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("last_seen", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "id", name=op.f("pk_services")),
    )
    op.create_table(
        "artifacts",
        sa.Column("run", sa.String(length=140), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_artifacts_run")),
        sa.PrimaryKeyConstraint("run", "name", name=op.f("pk_artifacts")),
    )
    op.create_table(
        "participants",
        sa.Column("run", sa.String(length=140), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("client", sa.String(length=36), nullable=False),
        sa.Column("samples", sa.BigInteger(), nullable=True),
        sa.Column("test_samples", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["client"], ["clients.id"], name=op.f("fk_participants_client")),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_participants_run")),
        sa.PrimaryKeyConstraint("run", "number", name=op.f("pk_participants")),
        sa.UniqueConstraint("run", "client", name=op.f("uq_participants_run_client")),
    )
    op.create_index(op.f("ix_participants_client"), "participants", ["client"], unique=False)
    op.create_table(
        "rounds",
        sa.Column("run", sa.String(length=140), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("plan", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("due", sa.Double(), nullable=True),
        sa.Column("started", sa.Double(), nullable=False),
        sa.Column("trained", sa.Double(), nullable=True),
        sa.Column("ended", sa.Double(), nullable=True),
        sa.Column("metrics", sa.JSON(none_as_null=True), nullable=True),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_rounds_run")),
        sa.PrimaryKeyConstraint("run", "number", name=op.f("pk_rounds")),
    )
    op.create_table(
        "tasks",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("run", sa.String(length=140), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("payload", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False),
        sa.Column("retryable", sa.Boolean(), nullable=False),
        sa.Column("not_before", sa.Double(), nullable=False),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("progress", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("progress_told", sa.Double(), nullable=False),
        sa.Column("result", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("updated", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_tasks_run")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
        sa.UniqueConstraint(
            "run", "round", "kind", "target", "number", name=op.f("uq_tasks_run_round_kind_target_number")
        ),
    )
    op.create_index(op.f("ix_tasks_state_lease_until"), "tasks", ["state", "lease_until"], unique=False)
    op.create_index(op.f("ix_tasks_target_state_created"), "tasks", ["target", "state", "created"], unique=False)
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("client", sa.String(length=36), nullable=True),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=True),
        sa.Column("revoked", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["client"], ["clients.id"], name=op.f("fk_tokens_client")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("hash", name=op.f("uq_tokens_hash")),
    )
    op.create_index(op.f("ix_tokens_client"), "tokens", ["client"], unique=False)


def downgrade() -> None:
    """Drop all tables."""
    op.drop_index(op.f("ix_tokens_client"), table_name="tokens")
    op.drop_table("tokens")
    op.drop_index(op.f("ix_tasks_target_state_created"), table_name="tasks")
    op.drop_index(op.f("ix_tasks_state_lease_until"), table_name="tasks")
    op.drop_table("tasks")
    op.drop_table("rounds")
    op.drop_index(op.f("ix_participants_client"), table_name="participants")
    op.drop_table("participants")
    op.drop_table("artifacts")
    op.drop_table("services")
    op.drop_index(op.f("ix_runs_state"), table_name="runs")
    op.drop_index(op.f("ix_runs_due"), table_name="runs")
    op.drop_index(op.f("ix_runs_created_id"), table_name="runs")
    op.drop_table("runs")
    op.drop_index(op.f("ix_events_run_id"), table_name="events")
    op.drop_index(op.f("ix_events_kind_id"), table_name="events")
    op.drop_table("events")
    op.drop_table("clients")
