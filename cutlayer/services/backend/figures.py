"""The figures of rounds and runs: sums over clients first, rates afterwards; never an average of averages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Sums = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """A round's line, and the confusion behind it (None where nobody scored)."""

    metrics: dict[str, Any]
    evaluation: dict[str, Any] | None


def line(
    number: int,
    trained: Mapping[int, Sums],
    evaluated: Mapping[int, Sums],
    scored: Sums | None,
    *,
    dropped: Sequence[int] = (),
    seconds: float = 0.0,
    servers: Mapping[str, float] | None = None,
    evaluation_seconds: float = 0.0,
) -> Line:
    """Return a round's line, with the keys of ``metrics.jsonl`` and a few that only services have.

    Args:
        number: the round.
        trained: results of ``train`` by client, in the order of the plan.
        evaluated: results of ``evaluate`` by client.
        scored: result of ``score``.
        dropped: clients that the round went on without.
        seconds: of the round, without its evaluation.
        servers: seconds that ``finish`` and ``aggregate`` took.
        evaluation_seconds: of the evaluation.

    ``own_accuracy`` and ``own_loss`` are over all clients' own test splits together.  ``time`` shares ``seconds`` out
    in the proportions in which clients spent theirs: at work, waiting for a split server, for the federated server.
    """
    samples = sum(r["samples"] for r in trained.values())
    losses = {
        n: r["loss_sum"] / r["samples"] for n, r in trained.items() if r.get("loss_sum") is not None and r["samples"]
    }
    kinds: Counter[str] = Counter()
    by: Counter[str] = Counter()
    for r in trained.values():
        kinds.update(r.get("bytes", {}))
        by.update(r.get("seconds_by", {}))
    servers = servers or {}
    server, federated = by["server"], by["federated"]
    busy = sum(r.get("seconds", 0.0) for r in trained.values())
    spent = {
        "client": max(busy - server - federated, 0.0),
        "server": server + servers.get("finish", 0.0),
        "federated": federated + servers.get("aggregate", 0.0),
    }
    scores = scored if scored is not None and scored.get("available", True) and scored.get("count") else None
    own = _added(evaluated)
    metrics = {
        "round": number,
        "loss": sum(losses[n] * trained[n]["samples"] for n in losses) / max(samples, 1),
        "clients": len(trained),
        "samples": samples,
        "bytes_up": sum(r.get("bytes_up", 0) for r in trained.values()),
        "bytes_down": sum(r.get("bytes_down", 0) for r in trained.values()),
        "bytes": dict(kinds),
        "client_loss": {str(n): value for n, value in losses.items()},
        "client_samples": {str(n): r["samples"] for n, r in trained.items()},
        "seconds": seconds,
        "test_accuracy": _accuracy(scores),
        "test_loss": _mean_loss(scores),
        "client_accuracy": {str(n): r["correct"] / r["count"] for n, r in sorted(evaluated.items()) if r["count"]},
        "own_accuracy": _accuracy(own),
        "own_loss": _mean_loss(own),
        "dropped": sorted(dropped),
        "time": {**_shared(seconds, spent), "evaluation": evaluation_seconds},
    }
    confusion = (scores or {}).get("confusion") or own.get("confusion")
    return Line(metrics, None if confusion is None else {"round": number, "confusion": confusion})


def merged(passes: Iterable[tuple[int, Sums]]) -> dict[int, Sums]:
    """Return one result for each client of all that it did in a round, with the keys of ``train``."""
    found: dict[int, Sums] = {}
    for number, result in passes:
        before = found.get(number)
        found[number] = result if before is None else _sum(before, result)
    return found


def _sum(one: Sums, other: Sums) -> Sums:
    total = dict(one)
    for key, value in other.items():
        if isinstance(value, Mapping):
            total[key] = dict(Counter(one.get(key) or {}) + Counter(value))
        elif value is not None:
            total[key] = value + (one.get(key) or 0)
    return total


def summary(algorithm: str, seed: int, clients: int, lines: Sequence[Sums], said: Sums) -> dict[str, Any]:
    """Return the figures of a finished run, with the keys of ``summary.json``; ``said`` is the result of ``conclude``.

    Without a global test set the accuracies are those on the clients' own test splits.
    """
    key = "test_accuracy" if any(m["test_accuracy"] is not None for m in lines) else "own_accuracy"
    accuracies = [m[key] for m in lines if m[key] is not None]
    seconds = sum(m["seconds"] for m in lines)
    samples = sum(m["samples"] for m in lines)
    return {
        "algorithm": algorithm,
        "engine": "services",
        "test_accuracy": accuracies[-1] if accuracies else None,
        "best_accuracy": max(accuracies, default=None),
        "loss": lines[-1]["loss"] if lines else None,
        "rounds": len(lines),
        "bytes_up": sum(m["bytes_up"] for m in lines),
        "bytes_down": sum(m["bytes_down"] for m in lines),
        "seconds": seconds,
        "samples": samples,
        "samples_per_second": samples / seconds if seconds else None,
        "seed": seed,
        "command": None,
        "clients": clients,
        "device": said.get("device"),
        "threads": said.get("threads"),
        "parameters": said.get("parameters", {}),
        "data_note": said.get("data_note"),
        "versions": said.get("versions", {}),
        "artifacts": said.get("artifacts", {}),
    }


def _shared(seconds: float, spent: Mapping[str, float]) -> dict[str, float]:
    """Return ``seconds`` shared out in the proportions of ``spent``."""
    total = sum(spent.values())
    return {what: seconds * value / total if total else 0.0 for what, value in spent.items()}


def _added(results: Mapping[int, Sums]) -> dict[str, Any]:
    losses = [r["loss"] for r in results.values() if r["count"]]
    found: dict[str, Any] = {
        "count": sum(r["count"] for r in results.values()),
        "correct": sum(r["correct"] for r in results.values()),
        "loss": None if None in losses else sum(losses),
    }
    tables = [r["confusion"] for r in results.values() if r.get("confusion")]
    shapes = {(len(t), *map(len, t)) for t in tables}
    if len(shapes) == 1:
        found["confusion"] = [[sum(cells) for cells in zip(*rows, strict=True)] for rows in zip(*tables, strict=True)]
    return found


def _accuracy(sums: Sums | None) -> float | None:
    if not sums or not sums["count"]:
        return None
    given: float | None = sums.get("accuracy")
    return sums["correct"] / sums["count"] if given is None else given


def _mean_loss(sums: Sums | None) -> float | None:
    return sums["loss"] / sums["count"] if sums and sums["count"] and sums["loss"] is not None else None
