"""A backend that says what a test wants it to say: the agreed JSON, without a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx

from cutlayer.services.dashboard.source import Source
from services.dashboard import figures

RUN = "digits-1a2b3c4d"


class Answers:
    """What the backend answers, by path; ``asked`` are the requests, ``tell`` puts an event into the stream."""

    def __init__(self) -> None:
        self.asked: list[httpx.Request] = []
        self.away = False
        self.rounds = 2
        self.clients = 3
        self.view = figures.view()
        self.role = "operator"
        self.told: list[dict[str, Any]] = [figures.event(7, "round", round=2)]
        self._rung = asyncio.Event()

    def source(self, refused: Callable[[], None] = lambda: None) -> Source:
        """Return a source of this backend."""
        transport = httpx.MockTransport(self.answer)
        return Source(httpx.AsyncClient(base_url="http://backend", transport=transport), refused)

    def tell(self, kind: str, **more: Any) -> None:
        """Let something happen."""
        self.told.append(figures.event(self.told[-1]["id"] + 1, kind, **more))
        self._rung.set()

    def finish_round(self) -> None:
        """Let a round be done."""
        self.rounds += 1
        self.view = {**self.view, "round": self.rounds}
        self.tell("round", round=self.rounds, data={"loss": 1.0})

    def leave(self) -> None:
        """Go away, with all connections."""
        self.away = True
        self._rung.set()

    def paths(self, part: str) -> list[str]:
        """Return what was asked for, whose path holds ``part``."""
        return [str(request.url.raw_path.decode()) for request in self.asked if part in request.url.path]

    async def answer(self, request: httpx.Request) -> httpx.Response:
        """Answer a request."""
        self.asked.append(request)
        if self.away:
            raise httpx.ConnectError("refused")
        path = request.url.path.removeprefix("/v1")
        if path == "/events":
            after = int(request.headers["Last-Event-ID"])
            return httpx.Response(200, content=self._stream(after))
        if path == "/audit" and self.role != "operator":
            return self._refused(403, "this takes an operator")
        if self.role == "none":
            return self._refused(401, "this token is not known here")
        found = self._found(path, request.url.params)
        if found is None:
            return self._refused(404, f"there is nothing at {path}")
        return httpx.Response(200, json=found)

    def _found(self, path: str, query: httpx.QueryParams) -> Any:
        if path == f"/runs/{RUN}/history":
            after = int(query.get("after", 0))
            asked = tuple(int(n) for n in query.get("clients", "").split(",") if n)
            return figures.history(self.rounds - after, self.clients, first=after + 1, asked=asked)
        if path == "/events/newest":
            kinds = query.get("kinds")
            found = [event for event in reversed(self.told) if event["run"] == query.get("run", event["run"])]
            found = [event for event in found if not kinds or event["kind"] in kinds.split(",")]
            return found[: int(query["limit"])]
        return {
            f"/runs/{RUN}": self.view,
            "/runs": {"runs": [self.view], "next": None},
            "/system": figures.system(),
            "/clients": [],
            "/audit": [],
        }.get(path)

    def _refused(self, status: int, sentence: str) -> httpx.Response:
        return httpx.Response(status, json={"error": sentence, "code": "no"})

    async def _stream(self, after: int) -> AsyncIterator[bytes]:
        yield b": events\n\n"
        while not self.away:
            self._rung.clear()
            for event in self.told:
                if event["id"] > after:
                    after = event["id"]
                    yield f"id: {after}\nevent: {event['kind']}\ndata: {json.dumps(event)}\n\n".encode()
            await self._rung.wait()


async def until(what: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(seconds):
        while not what():
            await asyncio.sleep(0.01)
