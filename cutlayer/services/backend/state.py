"""What the routes of one application share."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from cutlayer.services.backend.database import Database
from cutlayer.services.backend.tasks import Tasks
from cutlayer.services.backend.timer import Timer
from cutlayer.services.settings import BackendSettings


@dataclass(frozen=True)
class State:
    """Settings, database, tasks and timer of this backend, and when it began."""

    settings: BackendSettings
    database: Database
    tasks: Tasks
    timer: Timer
    started: float


def state_of(request: Request) -> State:
    """Return the state of the application that answers this request."""
    found: State = request.app.state.backend
    return found
