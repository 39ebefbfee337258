"""The backend's HTTP interface as typed methods, for operators, services and clients alike.

    backend = Backend(Link(url, token=token))
    run = backend.submit(experiment.as_dict())
    for event in backend.events(run): ...

Every method raises what the backend raised (``cutlayer.services.errors``), or ``Unreachable`` when the link's patience
ends.  What a token may do is the backend's to decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import UUID, uuid4

from pydantic import BaseModel, ValidationError

from cutlayer.services.errors import ServiceError
from cutlayer.services.http import Link
from cutlayer.services.observed import ExperimentRead, HistoryView, SystemView, TimelineView
from cutlayer.services.protocol import (
    ArtifactView,
    Capabilities,
    ClientView,
    Endpoints,
    Enrolled,
    EventView,
    GivenRole,
    HeartbeatReply,
    Peers,
    PlanView,
    RoundView,
    RunCreated,
    RunList,
    RunState,
    RunView,
    ServiceView,
    Task,
    TaskKind,
    TaskReply,
    TaskView,
    TokenMade,
    TokenView,
    WorkerKind,
)

M = TypeVar("M", bound=BaseModel)


class Backend:
    """The backend behind ``link``."""

    def __init__(self, link: Link) -> None:
        self.link = link

    # --- runs ---------------------------------------------------------------------------------------------------------

    def submit(self, experiment: Mapping[str, Any], name: str | None = None, submission: UUID | None = None) -> str:
        """Submit a resolved experiment and return the run's id; the same ``submission`` again is the same run."""
        body = {"experiment": dict(experiment), "name": name, "submission": str(submission or uuid4())}
        return _one(RunCreated, self.link.json("POST", "/v1/runs", body)).id

    def submit_text(self, text: str, name: str | None = None, submission: UUID | None = None) -> str:
        """Submit an experiment as it stands in a YAML file and return the run's id.

        Raises Unprocessable, whose ``about`` has the ``line`` and the ``key`` that are wrong.
        """
        body = {"yaml": text, "name": name, "submission": str(submission or uuid4())}
        return _one(RunCreated, self.link.json("POST", "/v1/runs", body)).id

    def validate(self, text: str) -> dict[str, Any]:
        """Return the experiment that a YAML text describes, with all its defaults; raises as `submit_text` does."""
        return _one(ExperimentRead, self.link.json("POST", "/v1/runs/validate", {"yaml": text})).experiment

    def runs(
        self, state: RunState | None = None, limit: int | None = None, after: str | None = None, **which: str | None
    ) -> RunList:
        """Return runs, the newest first; ``which``: algorithm, text, sort and order, as the backend takes them."""
        query: dict[str, str | int | None] = {"state": state, "limit": limit, "after": after, **which}
        return _one(RunList, self.link.json("GET", "/v1/runs", query=query))

    def history(self, run: str, points: int = 500, clients: Sequence[int] = (), after: int = 0) -> HistoryView:
        """Return the figures of a run's rounds after number ``after``, thinned to so many points."""
        query: dict[str, str | int] = {"points": points, "clients": ",".join(map(str, clients)), "after": after}
        return _one(HistoryView, self.link.json("GET", _path("runs", run, "history"), query=query))

    def timeline(
        self, run: str, since: float | None = None, until: float | None = None, first: int = 0, count: int = 50
    ) -> TimelineView:
        """Return what ``count`` clients from number ``first`` did between two moments."""
        query: dict[str, float | None] = {"since": since, "until": until, "first": first, "count": count}
        return _one(TimelineView, self.link.json("GET", _path("runs", run, "timeline"), query=query))

    def system(self) -> SystemView:
        """Return services, clients, runs and database as they are now."""
        return _one(SystemView, self.link.json("GET", "/v1/system"))

    def run(self, run: str) -> RunView:
        """Return a run."""
        return _one(RunView, self.link.json("GET", _path("runs", run)))

    def cancel(self, run: str) -> None:
        """End a run for good."""
        self.link.json("POST", _path("runs", run, "cancel"))

    def pause(self, run: str) -> None:
        """Hand out no more tasks of a run; what is under way is finished."""
        self.link.json("POST", _path("runs", run, "pause"))

    def resume(self, run: str) -> None:
        """Hand out a paused run's tasks again."""
        self.link.json("POST", _path("runs", run, "resume"))

    def rounds(self, run: str) -> list[RoundView]:
        """Return the rounds of a run so far."""
        return _many(RoundView, self.link.json("GET", _path("runs", run, "rounds")))

    def plan(self, run: str, round_number: int) -> PlanView:
        """Return who takes part in a round, in which order."""
        return _one(PlanView, self.link.json("GET", _path("runs", run, "rounds", str(round_number), "plan")))

    def metrics(self, run: str, after: int = 0) -> list[dict[str, Any]]:
        """Return the metrics of the rounds after number ``after``, one mapping per round as in ``metrics.jsonl``."""
        return _rows(self.link.json("GET", _path("runs", run, "metrics"), query={"after": after}))

    def events(self, run: str | None = None, after: int | None = None) -> Iterator[EventView]:
        """Yield events, of one run or of all, after number ``after`` and for ever: leave the loop when it is enough."""
        path = _path("events") if run is None else _path("runs", run, "events")
        for event in self.link.events(path, after):
            yield _one(EventView, event.data)

    def tasks(self, run: str) -> list[TaskView]:
        """Return the newest tasks of a run."""
        return _many(TaskView, self.link.json("GET", _path("runs", run, "tasks")))

    # --- artifacts ----------------------------------------------------------------------------------------------------

    def artifacts(self, run: str) -> list[ArtifactView]:
        """Return what a run left behind."""
        return _many(ArtifactView, self.link.json("GET", _path("runs", run, "artifacts")))

    def download(self, run: str, name: str, target: Path) -> int:
        """Write an artifact into the file ``target`` and return its size in bytes."""
        return self.link.download(_path("runs", run, "artifacts", name), target)

    def upload(self, run: str, name: str, source: Path) -> None:
        """Put the file ``source`` among the artifacts of a run."""
        self.link.upload("PUT", _path("runs", run, "artifacts", name), source)

    # --- work ---------------------------------------------------------------------------------------------------------

    def next_task(
        self,
        target: WorkerKind | None = None,
        owner: str | None = None,
        *,
        kinds: Sequence[TaskKind] | None = None,
        wait: float = 25.0,
        holding: Sequence[str] = (),
    ) -> Task | None:
        """Wait up to ``wait`` seconds for work and return it, None if none came.

        A client is known by its key; a service names its ``target`` and itself, the ``owner``.
        """
        body = {"target": target, "owner": owner, "kinds": kinds, "wait": wait, "holding": list(holding)}
        found = self.link.json("POST", "/v1/tasks/next", body)
        return None if found is None else _one(TaskReply, found).task

    def heartbeat(
        self, task: str, batches: int | None = None, of: int | None = None, owner: str | None = None
    ) -> HeartbeatReply:
        """Say that a task is worked on, and how far it is; learn whether anybody still waits for it."""
        progress = None if batches is None else {"batches": batches, "of": of}
        body = {"progress": progress, "owner": owner}
        return _one(HeartbeatReply, self.link.json("POST", _path("tasks", task, "heartbeat"), body))

    def result(self, task: str, result: Mapping[str, Any], owner: str | None = None) -> None:
        """Report the outcome of a task.  Raises Conflict if nobody waits for it any more."""
        self.link.json("POST", _path("tasks", task, "result"), {"result": dict(result), "owner": owner})

    def error(self, task: str, message: str, retryable: bool = False, owner: str | None = None) -> None:
        """Report that a task did not work out."""
        body = {"message": message[:4000], "retryable": retryable, "owner": owner}
        self.link.json("POST", _path("tasks", task, "error"), body)

    # --- clients, tokens, services ------------------------------------------------------------------------------------

    def clients(self) -> list[ClientView]:
        """Return the clients that ever enrolled."""
        return _many(ClientView, self.link.json("GET", "/v1/clients"))

    def enrol(self, name: str, capabilities: Capabilities | None = None, key: str | None = None) -> Enrolled:
        """Join as a client, or tell new capabilities with the ``key`` that is its own."""
        body = {"name": name, "capabilities": (capabilities or Capabilities()).model_dump(mode="json"), "key": key}
        return _one(Enrolled, self.link.json("POST", "/v1/clients", body))

    def revoke(self, client_id: str) -> None:
        """Let a client in no more."""
        self.link.json("DELETE", _path("clients", client_id))

    def make_token(self, role: GivenRole, name: str, seconds: float | None = None) -> TokenMade:
        """Make a token for ``role``; it is shown in the answer and never again."""
        return _one(TokenMade, self.link.json("POST", "/v1/tokens", {"role": role, "name": name, "seconds": seconds}))

    def tokens(self) -> list[TokenView]:
        """Return the tokens that are valid, without what makes them so."""
        return _many(TokenView, self.link.json("GET", "/v1/tokens"))

    def delete_token(self, token_id: str) -> None:
        """Make a token worthless."""
        self.link.json("DELETE", _path("tokens", token_id))

    def audit(self, after: int = 0, limit: int = 100) -> list[EventView]:
        """Return privileged acts after number ``after``, the oldest first."""
        return _many(EventView, self.link.json("GET", "/v1/audit", query={"after": after, "limit": limit}))

    def service_heartbeat(self, kind: WorkerKind, name: str, url: str, stats: Mapping[str, Any] | None = None) -> Peers:
        """Say that a split or federated server is alive at ``url``."""
        body = {"kind": kind, "id": name, "url": url, "stats": dict(stats or {})}
        return _one(Peers, self.link.json("POST", "/v1/services/heartbeat", body))

    def services(self) -> list[ServiceView]:
        """Return the split and federated servers."""
        return _many(ServiceView, self.link.json("GET", "/v1/services"))

    def endpoints(self) -> Endpoints:
        """Return where the split and federated servers are, for a client."""
        return _one(Endpoints, self.link.json("GET", "/v1/endpoints"))

    def ready(self) -> None:
        """Return if the backend can work.  Raises Unreachable if not."""
        self.link.json("GET", "/readyz")


def _path(*parts: str) -> str:
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def _one(kind: type[M], found: Any) -> M:
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "form"
        raise ServiceError(
            f"expected a {kind.__name__} from the backend, and its {where} is wrong ({first['msg']}); see that both "
            "sides have the same version of cutlayer"
        ) from None


def _many(kind: type[M], found: Any) -> list[M]:
    return [_one(kind, each) for each in _rows(found)]


def _rows(found: Any) -> list[Any]:
    if not isinstance(found, list):
        raise ServiceError(
            f"expected a list from the backend, and a {type(found).__name__} came; see that both sides have the same "
            "version of cutlayer"
        )
    return found
