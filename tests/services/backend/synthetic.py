"""A history that nobody trained: rows of a run with many clients and rounds, written in bulk.

As a program it makes one in a database: ``python -m tests.services.backend.synthetic URL [CLIENTS ROUNDS]``.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Iterator
from typing import Any

from sqlalchemy import insert

from cutlayer import config
from cutlayer.services.backend.bell import Bell
from cutlayer.services.backend.condensed import compact
from cutlayer.services.backend.database import Database
from cutlayer.services.backend.tables import ClientRow, EventRow, FigureRow, MemberRow, RoundRow, RunRow, TaskRow

BEGAN = 1_700_000_000.0
SLOW = 7
"""The number of the client that takes three times as long as the others, where there are so many."""
PAUSE = 2.0
"""Seconds between the end of the training of a round and its end."""


async def synthetic(
    database: Database,
    clients: int = 500,
    rounds: int = 500,
    *,
    run: str = "synthetic-00000000",
    state: str = "running",
    began: float = BEGAN,
    seed: int = 0,
) -> str:
    """Write a run with that many clients, of which so many rounds are done, and return its id.

    The same seed writes the same run.  Every fortieth task of a client was dropped; client SLOW is slow.
    """
    draw = random.Random(f"{seed}/{run}")
    names = [f"{run}-client-{n:04d}" for n in range(clients)]
    experiment = config.parse({"algorithm": "splitfed_v1", "clients": clients, "rounds": max(rounds, 1)}).as_dict()
    totals = {"samples": 0, "bytes_up": 0, "bytes_down": 0, "seconds": 0.0}
    best: tuple[float, int] | None = None
    now = began
    example = {"inputs": [{"shape": [64], "dtype": "float32"}], "classes": 10, "class_names": None}
    confusion = [[90 if a == b else 1 for b in range(10)] for a in range(10)]
    async with database.write() as unit:
        session = unit.session
        people = [
            {"id": name, "name": name, "capabilities": {}, "connected": False, "last_seen": began, "created": began}
            for name in names
        ]
        await session.execute(insert(ClientRow), people)
        row = RunRow(
            id=run, algorithm="splitfed_v1", experiment=experiment, state=state, clients=clients, round=rounds,
            rounds=rounds, example=example, created=began - 5, started=began,
            evaluation={"classes": None, "round": rounds, "confusion": confusion},
        )  # fmt: skip
        session.add(row)
        await session.flush()
        members = [
            {"run": run, "number": n, "client": name, "samples": 100, "test_samples": 20}
            for n, name in enumerate(names)
        ]
        await session.execute(insert(MemberRow), members)
        for number in range(1, rounds + 1):
            tasks = list(_tasks(draw, run, number, names, now))
            trained = max((t["updated"] for t in tasks if t["kind"] == "train"), default=now)
            ended = max((t["updated"] for t in tasks), default=now) + PAUSE
            line = _line(draw, number, rounds, tasks, trained - now)
            for key in totals:
                totals[key] += line[key]
            if best is None or line["test_accuracy"] > best[0]:
                best = line["test_accuracy"], number
            plan = [{"client": n, "samples": 100} for n in range(clients)]
            about = {"state": "done", "plan": plan, "started": now, "trained": trained, "ended": ended}
            await session.execute(insert(RoundRow), [{"run": run, "number": number, **about, "metrics": line}])
            figures = {
                **compact(line),
                **{f"total_{key}": value for key, value in totals.items()},
                "accuracy": line["test_accuracy"],
                "best_accuracy": best[0],
                "best_round": best[1],
            }
            await session.execute(insert(FigureRow), [{"run": run, "round": number, "time": ended, **figures}])
            await session.execute(insert(TaskRow), tasks)
            event = {"run": run, "round": number, "kind": "round.state", "data": {"state": "done"}, "time": ended}
            await session.execute(insert(EventRow), [event])
            now = ended
        row.accuracy, row.seconds = (None if best is None else figures["accuracy"]), totals["seconds"]
        row.bytes = totals["bytes_up"] + totals["bytes_down"]
        row.ended = now if state == "done" else None
    return run


def _tasks(draw: random.Random, run: str, number: int, names: list[str], now: float) -> Iterator[dict[str, Any]]:
    for n, name in enumerate(names):
        seconds = draw.uniform(2.0, 4.0) * (3.0 if n == SLOW else 1.0)
        dropped = (number + n) % 40 == 39
        server, federated = 0.3 * seconds, 0.1 * seconds
        result = {
            "samples": 100, "batches": 4, "loss_sum": 100 * (0.1 + 2.0 / number + 0.1 * draw.random()),
            "bytes_up": 40_000, "bytes_down": 30_000, "bytes": {"activations": 40_000, "cut_gradients": 30_000},
            "seconds": seconds, "seconds_by": {"server": server, "federated": federated},
        }  # fmt: skip
        common = {
            "run": run, "round": number, "target": f"client:{name}", "number": n, "attempts": 1, "failures": 0,
            "losses": 0, "retryable": False, "not_before": 0.0, "progress_told": 0.0,
            "payload": {"run": run, "round": number, "client": n},
        }  # fmt: skip
        end = now + 0.05 + seconds
        yield {
            **common, "id": f"{run[-8:]}t{number}-{n}", "kind": "train", "created": now, "started": now + 0.05,
            "updated": end, "state": "dropped" if dropped else "done", "result": None if dropped else result,
            "server_seconds": None if dropped else server, "federated_seconds": None if dropped else federated,
            "error": f"{name} is away" if dropped else None,
        }  # fmt: skip
        if not dropped:
            right = min(20, int(20 * (0.95 - 0.85 / (1 + number / 20)) + draw.uniform(0, 2)))
            yield {
                **common, "id": f"{run[-8:]}e{number}-{n}", "kind": "evaluate", "created": end, "started": end + 0.05,
                "updated": end + 0.3, "state": "done", "result": {"count": 20, "correct": right, "loss": 5.0},
                "server_seconds": None, "federated_seconds": None, "error": None,
            }  # fmt: skip


def _line(draw: random.Random, number: int, rounds: int, tasks: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    trained = {t["number"]: t["result"] for t in tasks if t["kind"] == "train" and t["result"]}
    scored = {t["number"]: t["result"] for t in tasks if t["kind"] == "evaluate"}
    accuracy = 0.95 - 0.85 / (1 + number / 20) + draw.uniform(-0.01, 0.01)
    return {
        "round": number,
        "loss": sum(r["loss_sum"] for r in trained.values()) / max(1, 100 * len(trained)),
        "clients": len(trained),
        "samples": 100 * len(trained),
        "bytes_up": 40_000 * len(trained),
        "bytes_down": 30_000 * len(trained),
        "bytes": {"activations": 40_000 * len(trained), "cut_gradients": 30_000 * len(trained)},
        "client_loss": {str(n): r["loss_sum"] / 100 for n, r in trained.items()},
        "client_samples": {str(n): 100 for n in trained},
        "seconds": seconds,
        "test_accuracy": accuracy,
        "test_loss": 2.0 / number,
        "client_accuracy": {str(n): r["correct"] / r["count"] for n, r in scored.items()},
        "own_accuracy": sum(r["correct"] for r in scored.values()) / max(1, 20 * len(scored)),
        "own_loss": 2.1 / number,
        "dropped": [t["number"] for t in tasks if t["state"] == "dropped"],
        "time": {"client": 0.6 * seconds, "server": 0.3 * seconds, "federated": 0.1 * seconds, "evaluation": 0.5},
    }


async def _main(url: str, clients: int, rounds: int) -> None:
    database = Database(url, Bell())
    await database.open()
    print(await synthetic(database, clients, rounds))
    await database.close()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], *(int(n) for n in sys.argv[2:4] or ("500", "500"))))
