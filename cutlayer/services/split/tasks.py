"""What the backend asks of a split server: the end of a round, a dropped client, a score, the joined model."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from cutlayer.services import joining
from cutlayer.services.errors import Unprocessable
from cutlayer.services.protocol import Task
from cutlayer.services.split.hosting import Hosting
from cutlayer.services.worker import Connection


class SplitTasks:
    """Does one task after the other, in the thread that computes."""

    def __init__(self, hosting: Hosting, connection: Connection) -> None:
        self._hosting, self._connection = hosting, connection

    def do(self, task: Task) -> dict[str, Any]:
        """Do a task and return its result.

        Raises NotYet while another replica must write something first, and what the work raises.
        """
        start = perf_counter()
        hosted = self._hosting.hosted(task.run)
        hosted.run.use_threads()
        if task.kind == "setup":
            found: dict[str, Any] = {}
            joining.show_cut(self._connection, hosted.run)
        elif task.kind == "end":
            found = {"batches": hosted.replica.end(task.round, int(task.payload["client"]))}
        elif task.kind == "finish":
            found = hosted.replica.finish(task.round)
        elif task.kind in ("score", "conclude"):
            work = joining.score if task.kind == "score" else joining.conclude
            federation = hosted.run.federation(self._connection.store)
            holder = task.payload.get("holder")
            found = work(self._connection, hosted.run, federation, hosted.part_after, task.round, holder)
        else:
            raise Unprocessable(f"a split server has no task of kind {task.kind!r}")
        return {**found, "seconds": perf_counter() - start}
