"""What runs on this machine, and how it is."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cutlayer.errors import CutlayerError
from cutlayer.services.api import Backend
from cutlayer.services.local.deployment import Deployment
from cutlayer.services.local.health import Health, link, look
from cutlayer.services.protocol import ClientView, RunView
from cutlayer.services.secrets import read_secret


@dataclass(frozen=True)
class Status:
    """The processes of a deployment; clients and latest runs, where the backend answers."""

    processes: Sequence[Health]
    clients: Sequence[ClientView] = ()
    runs: Sequence[RunView] = ()

    @property
    def healthy(self) -> bool:
        """Whether everything that was started is well."""
        return all(health.condition in ("ready", "running") for health in self.processes)


def status(deployment: Deployment, runs: int = 10) -> Status:
    """Return how the deployment is, with its ``runs`` newest runs."""
    processes = deployment.read().processes
    with ThreadPoolExecutor(max(1, len(processes))) as pool:
        found = list(pool.map(lambda process: look(deployment, process), processes))
    backend = next((h for h in found if h.process.kind == "backend" and h.condition == "ready"), None)
    if backend is None or backend.process.url is None:
        return Status(found)
    try:
        token = read_secret(deployment.token("operator"), "the operator's token")
        with link(deployment, backend.process.url, token, timeout=10.0, patience=0.0) as there:
            asked = Backend(there)
            return Status(found, asked.clients(), asked.runs(limit=runs).runs)
    except CutlayerError:  # it went away in between
        return Status(found)
