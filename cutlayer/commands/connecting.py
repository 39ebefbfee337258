"""How a command finds the backend: flags, then CUTLAYER_* variables, then the services of the nearest folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cutlayer.commands.options import note
from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from cutlayer.services.api import Backend
    from cutlayer.services.local.deployment import Deployment

SILENT = 1.0
"""Seconds of waiting that are not worth a line."""


@dataclass(frozen=True)
class Place:
    """Where the backend is, and how to speak to it."""

    server: str
    token: str
    ca: Path | None
    insecure: bool

    def backend(self, patience: float | None = 10.0) -> Backend:
        """Return the backend; ``patience`` is how many seconds it may be away (None: for ever)."""
        from cutlayer.services.api import Backend
        from cutlayer.services.http import Link, Tls

        return Backend(
            Link(
                self.server, token=self.token, tls=Tls(ca=self.ca), patience=patience, on_wait=_Waits(),
                insecure=self.insecure,
            )
        )  # fmt: skip


def connect(
    server: str | None = None,
    token: str | None = None,
    token_file: Path | None = None,
    ca: Path | None = None,
    insecure: bool | None = None,
    folder: Path | None = None,
) -> Place:
    """Return where the backend is.  Raises ConfigError where nothing says so, or there is no token."""
    from cutlayer.services.secrets import read_secret

    said = os.environ.get
    server = server or (said("CUTLAYER_SERVER") if folder is None else None)
    local = None if server else deployment(folder)
    path = token_file or (Path(p) if (p := said("CUTLAYER_TOKEN_FILE")) and local is None else None)
    if token is None and path is None:
        token = said("CUTLAYER_TOKEN") if local is None or folder is None else None
    if token is None:
        if path is None and local is not None:
            path = local.token("operator")
        if path is None:
            raise ConfigError("expected your token for the backend: give --token-file, or set CUTLAYER_TOKEN")
        token = read_secret(path, "your token for the backend")
    ca = ca or (Path(p) if (p := said("CUTLAYER_CA")) else None)
    insecure = bool(insecure) or said("CUTLAYER_INSECURE", "").lower() in ("1", "true", "yes", "on")
    if local is None:
        assert server is not None
        return Place(server, token, ca, insecure)
    state = local.read()
    backend = state.of("backend")
    if backend is None or backend.url is None:
        raise ConfigError(f"the services of {local.folder} have no backend; start it with: cutlayer up")
    trusted = local.ca if state.options.tls else None
    return Place(backend.url, token, ca or trusted, insecure or state.options.insecure)


def deployment(folder: Path | None = None) -> Deployment:
    """Return the services in ``folder``, or of the nearest one.  Raises ConfigError where there are none."""
    found = nearby(folder)
    if found is None or not found.record.exists():
        where = f"in {folder}" if folder is not None else "here or in a folder above"
        raise ConfigError(
            f"expected services {where}, and there are none; start them with `cutlayer up`, or give --server, or set "
            "CUTLAYER_SERVER"
        )
    return found


def nearby(folder: Path | None = None) -> Deployment | None:
    """Return the services in ``folder``, or of the nearest one if it is None; None where nothing is recorded."""
    from cutlayer.services.local.deployment import Deployment, nearest

    return Deployment(folder) if folder is not None else nearest()


class _Waits:
    """Says once per cause that something is away, unless that is over at once."""

    def __init__(self) -> None:
        self._waited = 0.0
        self._said = ""

    def __call__(self, reason: str, seconds: float) -> None:
        self._waited += seconds
        if self._waited >= SILENT and reason != self._said:
            self._said, self._waited = reason, 0.0
            note(f"waiting: {reason}")
