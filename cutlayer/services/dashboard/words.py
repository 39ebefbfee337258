"""Events and states in plain sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from cutlayer.report.units import format_bytes, format_number, format_seconds, format_share

Mood = Literal["good", "bad", "warn", ""]

GROUPS: dict[str, tuple[str, ...]] = {
    "everything": (),
    "rounds and states": ("round", "round.state", "run.state", "run.submitted", "quorum", "artifact"),
    "problems": ("client.dropped", "client.lost", "service.lost", "task.failed", "quorum"),
    "clients": ("client.joined", "client.seated", "client.lost", "client.dropped", "progress"),
    "tasks": ("task.started", "task.done", "task.failed"),
    "services": ("service.joined", "service.lost"),
}
"""What the events of a run can be narrowed down to."""

TASKS = {
    "prepare": "prepares its data",
    "setup": "writes what the run begins with",
    "train": "trains",
    "end": "ends a client's part",
    "finish": "finishes the update of the backbone",
    "aggregate": "averages the clients' parts",
    "evaluate": "scores the model on its own test data",
    "score": "scores the model on the global test set",
    "conclude": "joins the model",
}
DONE = {
    "prepare": "has prepared its data",
    "setup": "has written what the run begins with",
    "train": "has trained",
    "end": "has ended a client's part",
    "finish": "has finished the update of the backbone",
    "aggregate": "has averaged the clients' parts",
    "evaluate": "has scored the model on its own test data",
    "score": "has scored the model on the global test set",
    "conclude": "has joined the model",
}
ROUND = {
    "selected": "clients are chosen",
    "training": "clients train",
    "closing": "servers average and update",
    "evaluating": "the model is scored",
}
PHASES = (("selected", "selected"), ("training", "training"), ("closing", "averaging"), ("evaluating", "scoring"))
STATES = {
    "queued": "waits for clients",
    "preparing": "is being prepared",
    "running": "is running",
    "finishing": "is being finished",
    "done": "is done",
    "failed": "has failed",
    "cancelled": "was cancelled",
}


def state_of(view: Mapping[str, Any]) -> str:
    """Return a run's state as it is shown: paused is one too."""
    return "paused" if view.get("paused") else str(view["state"])


def sentence(event: Mapping[str, Any], names: Mapping[str, str] | None = None) -> tuple[str, Mood]:
    """Return what happened, and whether it is good or bad; ``names`` of clients by their id.

    A kind that this version does not know is shown as it is.
    """
    kind, data = str(event["kind"]), event.get("data") or {}
    client = (names or {}).get(event.get("client") or "") or data.get("name") or "a client"
    round_ = event.get("round")
    told = _SAID.get(kind)
    if told is None:
        return f"{kind}: {', '.join(f'{k} {v}' for k, v in list(data.items())[:4])}", ""
    return told(data, client, round_)


def _round(data: Mapping[str, Any], client: str, round_: int | None) -> tuple[str, Mood]:
    accuracy = data.get("test_accuracy") if data.get("test_accuracy") is not None else data.get("own_accuracy")
    parts = [f"loss {format_number(data.get('loss'))}"]
    if accuracy is not None:
        parts.append(f"accuracy {format_share(accuracy)}")
    if "bytes_up" in data and "bytes_down" in data:
        parts.append(f"{format_bytes(data['bytes_up'] + data['bytes_down'])} sent")
    if data.get("seconds") is not None:
        parts.append(f"took {format_seconds(data['seconds'])}")
    return f"Round {round_} is done: {', '.join(parts)}.", "good"


def _round_state(data: Mapping[str, Any], client: str, round_: int | None) -> tuple[str, Mood]:
    state = data.get("state", "")
    chosen = data.get("participants")
    if state == "selected" and chosen is not None:
        count = len(chosen) if isinstance(chosen, list) else chosen
        return f"Round {round_} begins with {count} client{'' if count == 1 else 's'}.", ""
    if state == "done":
        return f"Round {round_} is over.", ""
    return f"Round {round_}: {ROUND.get(state, state)}.", ""


def _run_state(data: Mapping[str, Any], client: str, round_: int | None) -> tuple[str, Mood]:
    reason = f": {data['reason']}" if data.get("reason") else ""
    if data.get("paused"):
        return f"The run is paused{reason}.", "warn"
    state = str(data.get("state", ""))
    mood: Mood = {"done": "good", "failed": "bad", "cancelled": "warn"}.get(state, "")  # type: ignore[assignment]
    return f"The run {STATES.get(state, state)}{reason}.", mood


def _task_done(data: Mapping[str, Any], client: str, round_: int | None) -> tuple[str, Mood]:
    after = f", after {format_seconds(data['seconds'])}" if data.get("seconds") is not None else ""
    return f"{_worker(data, client)} {DONE.get(data.get('kind', ''), 'is done')}{after}.", ""


def _task_failed(data: Mapping[str, Any], client: str, round_: int | None) -> tuple[str, Mood]:
    why = data.get("message") or data.get("error") or data.get("reason") or "no reason was given"
    again = " It is tried again." if data.get("retried") else ""
    return f"{_worker(data, client)} could not do its task ({data.get('kind', '?')}): {why}.{again}", "bad"


def _worker(data: Mapping[str, Any], client: str) -> str:
    target = str(data.get("target", ""))
    if target.startswith("client") or data.get("kind") in ("prepare", "train", "evaluate"):
        return client[:1].upper() + client[1:] if client == "a client" else client
    return {"split": "A split server", "fed": "The federated server"}.get(target, target or "A service")


def _progress(data: Mapping[str, Any], client: str, round_: int | None) -> tuple[str, Mood]:
    of = f" of {data['of']}" if data.get("of") else ""
    return f"{client}: batch {data.get('batches', '?')}{of} of round {round_}.", ""


_SAID: dict[str, Callable[[Mapping[str, Any], str, int | None], tuple[str, Mood]]] = {
    "round": _round,
    "round.state": _round_state,
    "run.state": _run_state,
    "run.submitted": lambda d, c, r: (f"Submitted by {d.get('by', 'somebody')}: {d.get('algorithm', '')}.", ""),
    "task.started": lambda d, c, r: (f"{_worker(d, c)} {TASKS.get(d.get('kind', ''), d.get('kind', ''))}.", ""),
    "task.done": _task_done,
    "task.failed": _task_failed,
    "progress": _progress,
    "client.joined": lambda d, c, r: (f"{c} is here.", "good"),
    "client.lost": lambda d, c, r: (f"{c} is away{': its key was taken back' if d.get('revoked') else ''}.", "warn"),
    "client.dropped": lambda d, c, r: (f"Round {r} goes on without {c}: {_why(d)}.", "bad"),
    "client.seated": lambda d, c, r: (f"{c} takes part as number {d.get('number', '?')}.", "good"),
    "service.joined": lambda d, c, r: (f"{_service(d)} is here.", "good"),
    "service.lost": lambda d, c, r: (f"{_service(d)} is silent; others answer, or requests wait.", "bad"),
    "quorum": lambda d, c, r: (f"Too few clients are left: {d.get('reason', '')}.", "warn"),
    "artifact": lambda d, c, r: (
        f"{d.get('name', 'a file')} is kept with the run: {format_bytes(d.get('bytes'))}.",
        "",
    ),
}


def _why(data: Mapping[str, Any]) -> str:
    return str(data.get("reason") or "no reason was given")


def _service(data: Mapping[str, Any]) -> str:
    kind = {"split": "Split server", "fed": "Federated server"}.get(str(data.get("kind")), "Service")
    return f"{kind} {data.get('id', '')}"


def health(view: Mapping[str, Any], dark: int = 0, slow: str | None = None) -> tuple[str, Mood]:
    """Return in one sentence how a run is doing; ``dark`` services are silent, ``slow`` names a straggler."""
    state = str(view["state"])
    members = view.get("members") or ()
    away = [m["name"] for m in members if not m.get("connected", True)]
    reason = f": {view['reason']}" if view.get("reason") else ""
    if state == "failed":
        return f"This run has failed{reason}. Its metrics stay; repeat it with changes when the cause is gone.", "bad"
    if state == "cancelled":
        return f"This run was cancelled{reason}. Its metrics stay.", "warn"
    if view.get("paused"):
        cause = view.get("cause")
        then = {
            "operator": "Resume lets it go on.",
            "quorum": "It goes on by itself when enough clients are back.",
            "failure": "Resume lets it try again when the cause is gone.",
        }.get(str(cause), "")
        return f"This run is paused{reason}. {then}", "warn"
    if state == "done":
        return f"This run is done: {view.get('rounds')} rounds.", "good"
    if state == "queued":
        wanted = (view.get("experiment") or {}).get("clients") or {}
        count = wanted.get("minimum") or wanted.get("count") or "enough"
        return f"Waiting until {count} clients are connected that fit this experiment.", ""
    if state == "preparing":
        return "Clients prepare their data; round 1 begins when all are ready.", ""
    trouble = []
    if away:
        shown = ", ".join(away[:3]) + (f" and {len(away) - 3} more" if len(away) > 3 else "")
        trouble.append(f"{shown} {'is' if len(away) == 1 else 'are'} away")
    if dark:
        trouble.append(f"{dark} service{'' if dark == 1 else 's'} {'is' if dark == 1 else 'are'} silent")
    if trouble:
        return f"The run goes on, but {' and '.join(trouble)}.", "warn"
    here = f"all {len(members)} clients are here" if members else "all is well"
    return f"Healthy: {here}{f'; {slow}' if slow else ''}.", "good"
