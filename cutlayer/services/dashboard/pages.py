"""Which page stands at which address."""

from __future__ import annotations

from fastapi import FastAPI
from nicegui import core, ui
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from cutlayer.services.dashboard.gate import SCOPE
from cutlayer.services.dashboard.hub import Hubs
from cutlayer.services.dashboard.views import compare, run, runs, submit, system
from cutlayer.services.dashboard.views.frame import shown
from cutlayer.services.errors import NotFound

RECONNECT = 15.0
"""Seconds that a page may be without its connection before it begins anew."""


def install(app: FastAPI, hubs: Hubs, version: str) -> None:
    """Put the pages, and the charts' data, into the application."""

    @ui.page("/runs")
    async def _(request: Request) -> Response | None:
        query = dict(request.query_params)
        return await shown(request, hubs, version, "Runs", "/runs", lambda frame: runs.build(frame, query))

    @ui.page("/runs/{name}")
    async def _(request: Request, name: str) -> Response | None:
        return await shown(request, hubs, version, name, "/runs", lambda frame: run.build(frame, name))

    @ui.page("/system")
    async def _(request: Request) -> Response | None:
        return await shown(request, hubs, version, "System", "/system", system.build)

    @ui.page("/compare")
    async def _(request: Request) -> Response | None:
        asked = request.query_params.get("runs", "")
        return await shown(request, hubs, version, "Compare", "/runs", lambda frame: compare.build(frame, asked))

    @ui.page("/submit")
    async def _(request: Request) -> Response | None:
        repeated = request.query_params.get("from")
        return await shown(request, hubs, version, "New run", "/submit", lambda frame: submit.build(frame, repeated))

    @ui.page("/{path:path}")
    async def _(request: Request, path: str) -> None:
        async def missing(_: object) -> None:
            raise NotFound(f"the dashboard has no page /{path}")

        await shown(request, hubs, version, "Not found", "", missing)

    async def run_csv(request: Request) -> Response:
        chart = await run.chart_of(hubs.of(request.scope[SCOPE]), **request.path_params)
        return _csv(chart.csv())

    async def steps_csv(request: Request) -> Response:
        return _csv(await system.steps_of(hubs.of(request.scope[SCOPE])))

    async def compared_csv(request: Request) -> Response:
        asked, chart = request.query_params.get("runs", ""), request.path_params["chart"]
        return _csv(await compare.csv_of(hubs.of(request.scope[SCOPE]), asked, chart))

    async def alive(request: Request) -> Response:
        return Response(status_code=204)

    app.router.routes.append(Route("/alive", alive, methods=["GET"]))
    app.router.routes.append(Route("/compare/{chart}.csv", compared_csv, methods=["GET"]))
    app.router.routes.append(Route("/system/steps.csv", steps_csv, methods=["GET"]))
    app.router.routes.append(Route("/runs/{name}/{chart}.csv", run_csv, methods=["GET"]))
    ui.run_with(
        app,
        title="cutlayer",
        favicon=MARK,
        language="en-US",
        tailwind=False,
        reconnect_timeout=RECONNECT,
        show_welcome_message=False,
        binding_refresh_interval=None,
        message_history_length=200,
    )
    core.sio.eio.cors_allowed_origins = None  # pages of this host only


def _csv(text: str) -> Response:
    return PlainTextResponse(text, media_type="text/csv", headers={"Content-Disposition": "attachment"})


MARK = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><rect width="24" height="24" rx="6" fill="#0072b2"/>'
    '<path d="M7 5v14M17 5v14" stroke="#fff" stroke-width="2.6"/>'
    '<path d="M12 3v18" stroke="#f5b942" stroke-width="2" stroke-dasharray="2.5 2.6"/></svg>'
)
