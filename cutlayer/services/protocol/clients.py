"""Clients: what they say of themselves, and how operators see them."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from cutlayer.services.protocol.forms import Json, Labels, Name, Reply, Request


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
