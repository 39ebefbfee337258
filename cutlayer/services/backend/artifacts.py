"""Artifacts: files that runs leave behind, in a folder that all backends share."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from cutlayer.services.backend import records, runs, transitions
from cutlayer.services.backend.database import Database
from cutlayer.services.backend.tables import ArtifactRow, RunRow
from cutlayer.services.errors import Conflict, NotFound, Unavailable
from cutlayer.services.protocol import ENDED, ArtifactView

PIECE = 1 << 20


async def put(database: Database, folder: Path, run: str, name: str, body: AsyncIterator[bytes]) -> ArtifactView:
    """Keep the body under ``name``.  The same again is no error.

    Raises NotFound, Conflict when the run has ended with another content, and Unavailable when the disk is full.
    """
    if name in records.NAMES:
        raise Conflict(f"{name} is written by the backend itself: choose another name", code="reserved")
    async with database.read() as session:
        await runs.get(session, run)
    here = folder / run
    part = here / f".{uuid4().hex}"
    try:
        await asyncio.to_thread(here.mkdir, mode=0o700, parents=True, exist_ok=True)
        size, digest = await _receive(part, body)
        await asyncio.to_thread(os.replace, part, here / digest)
    except OSError as error:
        raise Unavailable(f"the artifact cannot be written: {error.strerror}", code="no_space") from error
    finally:
        await asyncio.to_thread(part.unlink, missing_ok=True)
    async with database.write() as unit:
        row = await transitions.locked(database, unit, run)
        if row is None:
            raise NotFound(f"there is no run {run}")
        known = await unit.session.get(ArtifactRow, (run, name))
        if known is None or known.sha256 != digest:
            if row.state in ENDED:
                raise Conflict(f"the run {run} has ended ({row.state}): its artifacts do not change", code="ended")
            if known is None:
                known = ArtifactRow(run=run, name=name)
                unit.session.add(known)
            known.bytes, known.sha256, known.created = size, digest, unit.now
            unit.tell("artifact", {"name": name, "bytes": size, "sha256": digest}, run=run, round=row.round)
        return _view(known)


async def listed(session: AsyncSession, run: str) -> list[ArtifactView]:
    """Return what a run has left behind so far.  Raises NotFound."""
    row = await runs.get(session, run)
    put = await session.execute(select(ArtifactRow).where(ArtifactRow.run == run))
    written = await records.files(session, row)
    found = [_view(each) for each in put.scalars()] + [_written(row, *each) for each in written.items()]
    return sorted(found, key=lambda view: view.name)


async def record(session: AsyncSession, run: str, name: str) -> tuple[bytes, ArtifactView] | None:
    """Return an artifact that the backend writes itself, None for any other.  Raises NotFound."""
    if name not in records.NAMES:
        return None
    row = await runs.get(session, run)
    content = (await records.files(session, row)).get(name)
    if content is None:
        raise NotFound(f"the run {run} has no artifact {name} yet")
    return content, _written(row, name, content)


async def find(session: AsyncSession, folder: Path, run: str, name: str) -> tuple[Path, ArtifactView]:
    """Return an artifact that was put, and its file.  Raises NotFound."""
    row = await session.get(ArtifactRow, (run, name))
    if row is None:
        raise NotFound(f"the run {run} has no artifact {name}")
    path = folder / run / row.sha256
    if not await asyncio.to_thread(path.is_file):
        raise NotFound(f"the file of {name} is not in this backend's artifacts folder: all backends must share one")
    return path, _view(row)


async def _receive(path: Path, body: AsyncIterator[bytes]) -> tuple[int, str]:
    size, digest = 0, hashlib.sha256()
    with await asyncio.to_thread(path.open, "xb") as file:

        def write(piece: bytes) -> None:
            digest.update(piece)
            file.write(piece)

        waiting = bytearray()
        async for chunk in body:
            waiting += chunk
            size += len(chunk)
            if len(waiting) >= PIECE:
                await asyncio.to_thread(write, bytes(waiting))
                waiting.clear()
        await asyncio.to_thread(write, bytes(waiting))
        await asyncio.to_thread(file.flush)
        await asyncio.to_thread(os.fsync, file.fileno())
    return size, digest.hexdigest()


def _written(run: RunRow, name: str, content: bytes) -> ArtifactView:
    digest = hashlib.sha256(content).hexdigest()
    return ArtifactView(name=name, bytes=len(content), sha256=digest, created=run.ended or run.created)


def _view(row: ArtifactRow) -> ArtifactView:
    return ArtifactView(name=row.name, bytes=row.bytes, sha256=row.sha256, created=row.created)
