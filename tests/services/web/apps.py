"""Applications to try the middlewares on, and a client that speaks ASGI to them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cutlayer.services.metrics import Metrics
from cutlayer.services.settings import ServerSettings
from cutlayer.services.web import Limits, Listening, Server, bearer, install, recognise, request_id
from cutlayer.services.web.operations import Ready

TOKEN = "cl_op_" + "t" * 43


async def echo(request: Request) -> Response:
    return JSONResponse({"bytes": len(await request.body()), "request": request_id()})


async def private(request: Request) -> Response:
    from cutlayer.services.errors import Unauthorized

    if bearer(request) != TOKEN:
        raise Unauthorized("unknown token")
    recognise(request.scope, "operator:me")
    return JSONResponse({})


def failing(error: Exception) -> Route:
    async def fail(request: Request) -> Response:
        raise error

    return Route("/fail", fail)


def application(
    *routes: Route, limits: Limits | None = None, metrics: Metrics | None = None, ready: Ready | None = None
) -> Starlette:
    app = Starlette(
        routes=[
            Route("/echo/{name}", echo, methods=["GET", "POST"]),
            Route("/private", private),
            *routes,
        ]
    )
    install(app, "split", metrics or Metrics.make("split"), limits, ready=ready)
    return app


def ask(
    app: Any,
    method: str,
    path: str,
    *,
    headers: Mapping[str, str] | None = None,
    content: bytes | AsyncIterator[bytes] | None = None,
    address: str = "10.1.2.3",
) -> httpx.Response:
    """Send one request; what the application lets out is raised."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=app, client=(address, 5))
        async with httpx.AsyncClient(transport=transport, base_url="http://split.test") as client:
            return await client.request(method, path, headers=headers, content=content)

    return asyncio.run(send())


async def pieces(count: int, size: int, sent: list[int]) -> AsyncIterator[bytes]:
    """Yield ``count`` pieces and note in ``sent`` how many were asked for."""
    for _ in range(count):
        sent.append(size)
        yield bytes(size)


@contextmanager
def served(app: Starlette, settings: ServerSettings) -> Iterator[Listening]:
    """Serve in a thread; yields where."""
    ready = threading.Event()
    found: list[Listening] = []

    def announce(listening: Listening) -> None:
        found.append(listening)
        ready.set()

    server = Server(app, settings, announce)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [server.socket]})
    thread.start()
    try:
        assert ready.wait(20)
        yield found[0]
    finally:
        server.stop()
        thread.join(30)
        server.socket.close()
    assert not thread.is_alive()
