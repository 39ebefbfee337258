"""Services on this machine for a measurement that looks at their processes, not only at the backend."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from cutlayer.services.api import Backend
from cutlayer.services.http import Link
from cutlayer.services.local.deployment import PROGRAM, Deployment
from cutlayer.services.local.down import down
from cutlayer.services.local.up import up
from cutlayer.services.protocol import RunView
from cutlayer.services.secrets import read_secret

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Running:
    """The services of a temporary folder."""

    there: Deployment

    @property
    def backend(self) -> Backend:
        """The backend, to an operator."""
        return self.api("operator")

    def api(self, role: str) -> Backend:
        """Return the backend to whoever has a role's token."""
        return Backend(Link(self.url("backend"), token=read_secret(self.there.token(role), role)))

    def url(self, name: str) -> str:
        """Return where a service is."""
        found = self.there.read().of(name)
        assert found is not None
        assert found.url is not None
        return found.url

    def process(self, name: str) -> psutil.Process:
        """Return the process of a service."""
        found = self.there.read().of(name)
        assert found is not None
        return psutil.Process(found.pid)

    def done(self, run: str) -> RunView:
        """Wait for the end of a run, and return it."""
        while (view := self.backend.run(run)).state not in ("done", "failed", "cancelled"):
            time.sleep(0.2)
        if view.state != "done":
            raise SystemExit(f"the run has {view.state}: {view.reason}")
        return view


@contextmanager
def running(split: int, clients: int, program: tuple[str, ...] = PROGRAM, **environment: str) -> Iterator[Running]:
    """Start services, each as ``program`` with the words of the command line, and stop them."""
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    known = {"PYTHONPATH": os.pathsep.join(paths), "CUTLAYER_ALLOW": "services", **environment}
    before = {name: os.environ.get(name) for name in known}
    os.environ.update(known)
    with tempfile.TemporaryDirectory() as folder:
        there = Deployment(Path(folder) / "services", program)
        try:
            up(there, split=split, clients=clients, dashboard=False)
            yield Running(there)
        finally:
            down(there)
            for name, value in before.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})
