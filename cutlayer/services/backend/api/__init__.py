"""The routes of the backend, under ``/v1``."""

from fastapi import APIRouter

from cutlayer.services.backend.api import artifacts, clients, events, newest, observed, runs, services, tasks, tokens
from cutlayer.services.backend.api.shared import ERRORS


def router() -> APIRouter:
    """Return all routes."""
    found = APIRouter(prefix="/v1", responses=ERRORS)
    for part in (runs, observed, tasks, artifacts, newest, events, clients, services, tokens):
        found.include_router(part.routes)
    return found
