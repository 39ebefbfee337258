"""What the rows know of a run as the files of a run folder: they stand among its artifacts, and nobody uploads them."""

from __future__ import annotations

import json
from typing import Any

import yaml
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from cutlayer.services.backend.tables import ClientRow, MemberRow, RoundRow, RunRow, TaskRow

NAMES = ("config.yaml", "evaluation.json", "metrics.jsonl", "partition.json", "summary.json")


async def files(session: AsyncSession, run: RunRow) -> dict[str, bytes]:
    """Return those files that there is something to write into, by name."""
    experiment = {**run.experiment, "name": run.id}
    found = {"config.yaml": yaml.safe_dump(experiment, sort_keys=False).encode()}
    done = select(RoundRow.metrics).where(RoundRow.run == run.id, RoundRow.state == "done").order_by(RoundRow.number)
    lines = (await session.execute(done)).scalars().all()
    found["metrics.jsonl"] = "".join(json.dumps(line) + "\n" for line in lines).encode()
    partition = await _partition(session, run)
    for name, record in (("partition", partition), ("evaluation", run.evaluation), ("summary", run.summary)):
        if record is not None:
            found[f"{name}.json"] = (json.dumps(record, indent=1) + "\n").encode()
    return found


async def _partition(session: AsyncSession, run: RunRow) -> dict[str, Any] | None:
    """Return who holds how many samples of which class, as far as the clients told; None before they have prepared."""
    if run.example is None:
        return None
    told = (
        select(MemberRow.number, ClientRow.name, TaskRow.result)
        .join(ClientRow, ClientRow.id == MemberRow.client)
        .join(TaskRow, (TaskRow.run == MemberRow.run) & (TaskRow.number == MemberRow.number))
        .where(MemberRow.run == run.id, TaskRow.kind == "prepare", TaskRow.state == "done")
        .order_by(MemberRow.number)
    )
    rows = [(number, name, result or {}) for number, name, result in await session.execute(told)]
    options = dict(run.experiment["partition"])
    scheme, chosen = options.pop("name"), ", ".join(f"{key}={value}" for key, value in options.items())
    own = any(result.get("own") for _, _, result in rows)
    return {
        "scheme": "data of the clients' own" if own else f"{scheme}({chosen})" if chosen else scheme,
        "classes": run.example.get("class_names") or [str(n) for n in range(run.example["classes"])],
        "clients": [
            {
                "name": str(number),
                "client": name,
                "counts": result.get("counts") or [],
                "samples": result.get("samples"),
                "test": result.get("test_samples"),
            }
            for number, name, result in rows
        ],
    }
