"""Runs: submit, look, steer."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from cutlayer.services.backend import listing, runs, written
from cutlayer.services.backend.api.shared import After, Backend, Limit, Operator, Reader, RoundNumber, RunId, allow
from cutlayer.services.backend.tokens import Who
from cutlayer.services.observed import ExperimentRead, ExperimentText, ExperimentWrong
from cutlayer.services.protocol import (
    Accepted,
    PlanView,
    RoundView,
    RunCreated,
    RunList,
    RunState,
    RunView,
    SubmitRun,
    TaskView,
)

routes = APIRouter(tags=["runs"])


@routes.post("/runs", status_code=201)
async def submit(request: SubmitRun, who: Operator, state: Backend) -> RunCreated:
    """Train an experiment on the connected clients that satisfy it, as soon as enough are there."""
    return RunCreated(id=await runs.submit(state.database, who, request))


@routes.post("/runs/validate", responses={422: {"model": ExperimentWrong}})
async def validate(request: ExperimentText, who: Reader, state: Backend) -> ExperimentRead:
    """Read an experiment's text without keeping it; what is wrong is said with its line and key."""
    found = await asyncio.to_thread(written.read, request.yaml)
    return ExperimentRead(experiment=found.as_dict())


@routes.get("/runs")
async def listed(
    who: Reader,
    state: Backend,
    limit: Limit = 50,
    only: Annotated[list[RunState] | None, Query(alias="state", max_length=7)] = None,
    algorithm: Annotated[str | None, Query(max_length=200)] = None,
    text: Annotated[str | None, Query(max_length=200)] = None,
    sort: listing.Sort = "created",
    order: listing.Order = "desc",
    after: Annotated[str | None, Query(pattern=r"^[A-Za-z0-9._-]{1,140}$")] = None,
) -> RunList:
    """List runs, the newest first or in another order, without their members; only some of them if wanted."""
    wanted = listing.Wanted(only or (), algorithm, text)
    async with state.database.read() as session:
        return await listing.page(session, wanted, sort, order, limit, after)


@routes.get("/runs/{run}")
async def view(
    run: RunId, who: Annotated[Who, Depends(allow("viewer", "service", "client"))], state: Backend
) -> RunView:
    """Look at a run; a client may look at those that it takes part in."""
    async with state.database.read() as session:
        return await runs.view(session, who, run)


@routes.post("/runs/{run}/cancel")
async def cancel(run: RunId, who: Operator, state: Backend) -> Accepted:
    """End a run for good."""
    await runs.steer(state.database, who, run, "cancel")
    return Accepted()


@routes.post("/runs/{run}/pause")
async def pause(run: RunId, who: Operator, state: Backend) -> Accepted:
    """Let a run wait: what is in flight is accepted, nothing else is handed out."""
    await runs.steer(state.database, who, run, "pause")
    return Accepted()


@routes.post("/runs/{run}/resume")
async def resume(run: RunId, who: Operator, state: Backend) -> Accepted:
    """Let a run go on; tasks that failed may try again."""
    await runs.steer(state.database, who, run, "resume")
    return Accepted()


@routes.get("/runs/{run}/rounds")
async def rounds(run: RunId, who: Reader, state: Backend) -> list[RoundView]:
    """List the rounds of a run."""
    async with state.database.read() as session:
        return await runs.rounds(session, run)


@routes.get("/runs/{run}/rounds/{number}/plan")
async def plan(run: RunId, number: RoundNumber, who: Reader, state: Backend) -> PlanView:
    """Who takes part in a round, in which order; it never changes."""
    async with state.database.read() as session:
        return await runs.plan(session, run, number)


@routes.get("/runs/{run}/metrics")
async def metrics(run: RunId, who: Reader, state: Backend, after: After = 0) -> list[dict[str, Any]]:
    """The lines of the rounds after a round."""
    async with state.database.read() as session:
        return await runs.lines(session, run, after)


@routes.get("/runs/{run}/tasks")
async def tasks(run: RunId, who: Reader, state: Backend, limit: Limit = 100) -> list[TaskView]:
    """The newest tasks of a run."""
    async with state.database.read() as session:
        return await runs.tasks(session, run, limit)
