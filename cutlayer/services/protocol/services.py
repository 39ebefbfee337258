"""Split and federated servers, and where clients find them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import StringConstraints

from cutlayer.services.protocol.forms import Json, Reply, Request, Text
from cutlayer.services.protocol.words import WorkerKind


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
