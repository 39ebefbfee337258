"""What the backend asks of the federated server: the first parts, an average, and, without split servers, the rest."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from cutlayer.roles.federation import Federation
from cutlayer.services import joining
from cutlayer.services.errors import Unprocessable
from cutlayer.services.protocol import Task
from cutlayer.services.runs import ServedRun
from cutlayer.services.worker import Connection


class FederatedTasks:
    """Does one task after the other, in the thread that computes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._federations: dict[str, Federation] = {}
        connection.runs.on_drop = self._forget

    def _forget(self, run: str) -> None:
        self._federations.pop(run, None)

    def of(self, run: str) -> tuple[ServedRun, Federation]:
        """Return a run and its federation."""
        served = self._connection.runs.get(run)
        if run not in self._federations:
            self._federations[run] = served.federation(self._connection.store)
        served.use_threads()
        return served, self._federations[run]

    def runs(self) -> list[str]:
        """Return the runs that are in memory."""
        return list(self._federations)

    def do(self, task: Task) -> dict[str, Any]:
        """Do a task and return its result; raises what the work raises."""
        start = perf_counter()
        run, federation = self.of(task.run)
        found: dict[str, Any] = {}
        if task.kind == "setup":
            federation.setup()
            if run.recipe.server == "none":
                joining.show_cut(self._connection, run)
        elif task.kind == "aggregate":
            clients, samples = task.payload["clients"], task.payload["samples"]
            federation.aggregate(task.round, dict(zip(clients, samples, strict=True)))
        elif task.kind in ("score", "conclude"):
            work = joining.score if task.kind == "score" else joining.conclude
            found = work(self._connection, run, federation, None, task.round, task.payload.get("holder"))
        else:
            raise Unprocessable(f"a federated server has no task of kind {task.kind!r}")
        return {**found, "seconds": perf_counter() - start}
