"""Made-up answers of the backend, in the shapes that it gives them."""

from __future__ import annotations

from typing import Any

SERIES = (
    *("time", "loss", "test_accuracy", "test_loss", "own_accuracy", "own_loss", "clients", "dropped", "samples"),
    *("bytes_up", "bytes_down", "seconds", "client_seconds", "server_seconds", "federated_seconds"),
    *("evaluation_seconds", "total_samples", "total_bytes_up", "total_bytes_down", "total_seconds"),
)


def history(rounds: int, clients: int = 3, *, first: int = 1, asked: tuple[int, ...] | None = None) -> dict[str, Any]:
    """Return an answer of ``/runs/RUN/history`` for ``rounds`` rounds from ``first`` on."""
    numbers = list(range(first, first + rounds))
    made: dict[str, list[float | None]] = {
        "time": [1000.0 + 2 * r for r in numbers],
        "loss": [2.0 / r for r in numbers],
        "test_accuracy": [1 - 1 / (r + 1) for r in numbers],
        "test_loss": [2.1 / r for r in numbers],
        "own_accuracy": [0.9 - 0.9 / (r + 1) for r in numbers],
        "own_loss": [2.2 / r for r in numbers],
        "clients": [float(clients)] * rounds,
        "dropped": [0.0] * rounds,
        "samples": [300.0] * rounds,
        "bytes_up": [3_000_000.0] * rounds,
        "bytes_down": [1_000_000.0] * rounds,
        "seconds": [1.5] * rounds,
        "client_seconds": [1.0] * rounds,
        "server_seconds": [0.4] * rounds,
        "federated_seconds": [0.1] * rounds,
        "evaluation_seconds": [0.5] * rounds,
        "total_samples": [300.0 * r for r in numbers],
        "total_bytes_up": [3_000_000.0 * r for r in numbers],
        "total_bytes_down": [1_000_000.0 * r for r in numbers],
        "total_seconds": [1.5 * r for r in numbers],
    }
    spread = {
        name: {
            quantile: [value + shift if value is not None else None for value in made[key]]
            for quantile, shift in (("min", -0.2), ("q25", -0.1), ("median", 0.0), ("q75", 0.1), ("max", 0.2))
        }
        for name, key in (("client_accuracy", "own_accuracy"), ("client_loss", "loss"))
    }
    own = range(clients) if asked is None else asked
    return {
        "rounds": numbers,
        "series": made,
        "bands": spread,
        "clients": {str(n): {"accuracy": [0.1 * n] * rounds, "loss": [1.0 + n] * rounds} for n in own},
        "total_rounds": first + rounds - 1,
        "thinned": False,
        "best_round": numbers[-1] if numbers else None,
        "event": 7,
    }


def members(count: int = 3) -> list[dict[str, Any]]:
    """Return the members of a run."""
    return [
        {
            "number": n,
            "client_id": f"id-{n}",
            "name": f"hospital-{n}",
            "connected": True,
            "samples": 100 * (n + 1),
            "test_samples": 10,
        }
        for n in range(count)
    ]


def view(**changes: Any) -> dict[str, Any]:
    """Return an answer of ``/runs/RUN``."""
    return {
        "id": "digits-1a2b3c4d",
        "state": "running",
        "paused": False,
        "cause": None,
        "reason": None,
        "algorithm": "splitfed_v1",
        "experiment": {
            "algorithm": {"name": "splitfed_v1"},
            "model": {"name": "mlp"},
            "data": {"name": "digits"},
            "batch_size": 32,
            "rounds": 10,
        },
        "clients": 3,
        "round": 2,
        "rounds": 10,
        "members": members(),
        "evaluation": None,
        "created": 900.0,
        "started": 1000.0,
        "ended": None,
        "progress": 0.2,
        "test_accuracy": 0.6,
        "bytes": 8_000_000,
        "seconds": 3.0,
        **changes,
    }


def spans(*clients: tuple[str, list[tuple[str, str, int, float, float]]]) -> list[dict[str, Any]]:
    """Return the clients of an answer of ``/runs/RUN/timeline``: name, then (kind, state, round, from, to)."""
    return [
        {
            "number": n,
            "name": name,
            "spans": [
                {"kind": kind, "state": state, "round": number, "from": begin, "to": end, "tasks": 1}
                for kind, state, number, begin, end in found
            ],
        }
        for n, (name, found) in enumerate(clients)
    ]


def system(**changes: Any) -> dict[str, Any]:
    """Return an answer of ``/system``."""
    stats = {"steps_per_second": 12.5, "bytes_in_per_second": 2048.0, "bytes_out_per_second": 1024.0, "queue_depth": 0}
    return {
        "version": "1.0",
        "started": 900.0,
        "now": 1000.0,
        "database": {"kind": "sqlite", "bytes": 1 << 20},
        "services": [
            server("split-1", stats={**stats, "store_bytes": 5000, "ledger_bytes": 100}),
            server("split-2", stats=stats),
            server("fed", kind="fed", stats={}),
        ],
        "clients": {"connected": 3, "total": 3},
        "runs": {"running": 1},
        "event": 7,
        **changes,
    }


def server(name: str, **changes: Any) -> dict[str, Any]:
    """Return a service in an answer of ``/system``."""
    found = {"kind": "split", "id": name, "url": "http://127.0.0.1:1", "live": True, "silent": 0.2, "stats": {}}
    return {**found, "last_seen": 999.8, **changes}


def event(id: int, kind: str, run: str | None = "digits-1a2b3c4d", **more: Any) -> dict[str, Any]:
    """Return an event."""
    found = {"id": id, "time": 1000.0 + id, "kind": kind, "run": run, "round": None, "client": None, "data": {}}
    return {**found, **more}
