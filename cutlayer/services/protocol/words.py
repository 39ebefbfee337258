"""The words that both sides use: states, kinds, roles, and how a token of each role begins."""

from __future__ import annotations

from typing import Literal

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
