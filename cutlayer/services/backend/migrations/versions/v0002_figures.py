"""When tasks began, and figures of rounds that can be read without all their clients."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_NUMBERS = ("clients", "dropped")
_COUNTS = ("samples", "bytes_up", "bytes_down", "total_samples", "total_bytes_up", "total_bytes_down")
_SECONDS = ("seconds", "client_seconds", "server_seconds", "federated_seconds", "evaluation_seconds", "total_seconds")
_RATES = ("loss", "test_accuracy", "test_loss", "own_accuracy", "own_loss", "accuracy", "best_accuracy")
_TIMES = ("created", "started", "updated", "server_seconds", "federated_seconds")


def upgrade() -> None:
    """Add them; the figures of rounds that are done already are filled in by the backend."""
    op.create_table(
        "figures",
        sa.Column("run", sa.String(length=140), nullable=False),
        sa.Column("round", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        *(sa.Column(name, sa.Double(), nullable=True) for name in _RATES),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in _NUMBERS),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in _COUNTS),
        *(sa.Column(name, sa.Double(), nullable=False) for name in _SECONDS),
        sa.Column("best_round", sa.Integer(), nullable=True),
        sa.Column("bands", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("client_accuracy", sa.LargeBinary(), nullable=False),
        sa.Column("client_loss", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_figures_run")),
        sa.PrimaryKeyConstraint("run", "round", name=op.f("pk_figures")),
    )
    op.add_column("runs", sa.Column("accuracy", sa.Double(), nullable=True))
    op.add_column("runs", sa.Column("bytes", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("runs", sa.Column("seconds", sa.Double(), nullable=False, server_default="0"))
    op.add_column("services", sa.Column("live", sa.Boolean(), nullable=False, server_default=sa.false()))
    for name in ("started", "server_seconds", "federated_seconds"):
        op.add_column("tasks", sa.Column(name, sa.Double(), nullable=True))
    op.execute("UPDATE tasks SET started = created WHERE attempts > 0")
    op.create_index("ix_tasks_timeline", "tasks", ["run", "number", "round", "kind", "state", *_TIMES], unique=False)


def downgrade() -> None:
    """Take them away again."""
    op.drop_index("ix_tasks_timeline", table_name="tasks")
    with op.batch_alter_table("tasks") as tasks:
        for name in ("started", "server_seconds", "federated_seconds"):
            tasks.drop_column(name)
    with op.batch_alter_table("services") as services:
        services.drop_column("live")
    with op.batch_alter_table("runs") as runs:
        for name in ("accuracy", "bytes", "seconds"):
            runs.drop_column(name)
    op.drop_table("figures")
