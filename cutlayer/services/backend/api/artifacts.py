"""Artifacts: what a run leaves behind."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import FileResponse, Response

from cutlayer.services.backend import artifacts
from cutlayer.services.backend.api.shared import Backend, Reader, RunId, allow
from cutlayer.services.backend.tokens import Who
from cutlayer.services.protocol import NAME, ArtifactView

routes = APIRouter(prefix="/runs/{run}/artifacts", tags=["artifacts"])

ArtifactName = Annotated[str, Path(pattern=NAME, max_length=128)]


@routes.get("")
async def listed(run: RunId, who: Reader, state: Backend) -> list[ArtifactView]:
    """List the artifacts of a run."""
    async with state.database.read() as session:
        return await artifacts.listed(session, run)


@routes.get("/{name}", response_class=FileResponse)
async def get(run: RunId, name: ArtifactName, who: Reader, state: Backend) -> Response:
    """Get an artifact; its ETag is its SHA-256."""
    async with state.database.read() as session:
        written = await artifacts.record(session, run, name)
        if written is not None:
            content, view = written
            return Response(content, media_type="application/octet-stream", headers={"ETag": f'"{view.sha256}"'})
        path, found = await artifacts.find(session, state.settings.artifacts_folder, run, name)
    headers = {"ETag": f'"{found.sha256}"'}
    return FileResponse(path, media_type="application/octet-stream", filename=name, headers=headers)


@routes.put("/{name}")
async def put(
    run: RunId,
    name: ArtifactName,
    who: Annotated[Who, Depends(allow("service", operator=False))],
    state: Backend,
    request: Request,
) -> ArtifactView:
    """Put an artifact: the body is the file."""
    return await artifacts.put(state.database, state.settings.artifacts_folder, run, name, request.stream())
