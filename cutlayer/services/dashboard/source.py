"""The backend as one token sees it: requests, and the stream of events, which is taken up again where it broke."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from cutlayer.services.errors import ServiceError, Unauthorized, Unavailable, of_status
from cutlayer.services.protocol import EventView

log = logging.getLogger(__name__)

PATIENT = 10.0
"""Seconds that an answer may take."""
SILENT = 35.0
"""Seconds without a word (the backend says something every 15 s) after which a stream is broken."""
FIRST_WAIT, LONGEST_WAIT = 0.1, 1.5
"""Seconds between attempts to reach a backend that is away: people are looking at the page."""

Heard = Callable[[EventView], None]
Told = Callable[[], None]


class Away(Unavailable):
    """The backend did not answer."""

    code = "away"


@dataclass(frozen=True)
class Absence:
    """Since when (seconds since 1970) the backend is away, and what was seen of it."""

    since: float
    reason: str


class Source:
    """Requests of one token, and the events of all runs for whoever listens.

    ``heard`` get every event, ``told`` are called when the backend goes away or is back, ``refused`` when it does not
    know the token (any more).
    """

    def __init__(self, client: httpx.AsyncClient, refused: Told = lambda: None) -> None:
        self.heard: set[Heard] = set()
        self.told: set[Told] = set()
        self.absence: Absence | None = None
        self.last: int | None = None
        self._client, self._refused = client, refused
        self._task: asyncio.Task[None] | None = None

    # --- requests -----------------------------------------------------------------------------------------------------

    async def get(self, *parts: str, **query: Any) -> Any:
        """Return the decoded answer of ``/v1/part/part``.  Raises Away, or what the backend raised."""
        return _decoded(await self._ask("GET", parts, query))

    async def text(self, *parts: str) -> str:
        """Return an answer that is text, as an artifact is."""
        return (await self._ask("GET", parts, {})).text

    async def post(self, *parts: str, body: Mapping[str, Any] | None = None) -> Any:
        """Send ``body`` and return the decoded answer.  Raises Away, or what the backend raised."""
        return _decoded(await self._ask("POST", parts, {}, body))

    async def _ask(
        self, method: str, parts: tuple[str, ...], query: Mapping[str, Any], body: Mapping[str, Any] | None = None
    ) -> httpx.Response:
        path = "/v1/" + "/".join(quote(part, safe="") for part in parts)
        asked = {key: value for key, value in query.items() if value is not None}
        try:
            answer = await self._client.request(method, path, params=asked, json=body, timeout=PATIENT)
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise Away(f"the backend at {self._client.base_url} does not answer ({_named(error)})") from None
        if answer.is_success:
            return answer
        error_ = _refusal(answer)
        if isinstance(error_, Unauthorized):
            self._refused()
        raise error_

    # --- events -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Follow the events, from now on, until `close`."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow(), name="events of the backend")

    async def close(self) -> None:
        """End the stream and the connections."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._client.aclose()

    async def _follow(self) -> None:
        fruitless = 0
        while True:
            try:
                if self.last is None:
                    newest = await self.get("events", "newest", limit=1)
                    self.last = newest[0]["id"] if newest else 0
                async for event in self._stream():
                    fruitless = 0
                    for hear in list(self.heard):
                        hear(event)
                reason = "its stream of events ended"
            except Unauthorized:
                return
            except (ServiceError, httpx.TransportError) as error:
                reason = str(error) if isinstance(error, ServiceError) else _named(error)
            except Exception:
                log.exception("an event of the backend could not be used")
                reason = "an event could not be read"
            if fruitless:  # a stream that ended once, as when a backend restarts quickly, is not worth a word
                self._missed(reason)
            await asyncio.sleep(min(LONGEST_WAIT, FIRST_WAIT * 2**fruitless) * random.uniform(0.5, 1.0))
            fruitless = min(fruitless + 1, 10)

    async def _stream(self) -> AsyncIterator[EventView]:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(self.last)}
        timeout = httpx.Timeout(PATIENT, read=SILENT)
        async with self._client.stream("GET", "/v1/events", headers=headers, timeout=timeout) as answer:
            if not answer.is_success:
                await answer.aread()
                error = _refusal(answer)
                if isinstance(error, Unauthorized):
                    self._refused()
                raise error
            self._back()
            data: list[str] = []
            async for line in answer.aiter_lines():
                if line.startswith("data:"):
                    data.append(line[5:].lstrip(" "))
                elif not line and data:
                    event = EventView.model_validate(json.loads("\n".join(data)))
                    data.clear()
                    self.last = event.id
                    yield event

    def _missed(self, reason: str) -> None:
        if self.absence is None:
            self.absence = Absence(time.time(), reason)
            self._tell()

    def _back(self) -> None:
        if self.absence is not None:
            self.absence = None
            self._tell()

    def _tell(self) -> None:
        for tell in list(self.told):
            tell()


def _decoded(answer: httpx.Response) -> Any:
    if not answer.content:
        return None
    try:
        return answer.json()
    except ValueError:
        raise ServiceError(
            "expected JSON from the backend, and something else came; is it a cutlayer backend?"
        ) from None


def _refusal(answer: httpx.Response) -> ServiceError:
    try:
        said = answer.json()
        sentence, code = str(said["error"]), said.get("code")
    except (ValueError, KeyError, TypeError, AttributeError):
        said, sentence, code = {}, f"the backend answered {answer.status_code}", None
    error = of_status(answer.status_code, sentence, code=code)
    error.details = said  # type: ignore[attr-defined]
    return error


def _named(error: Exception) -> str:
    if isinstance(error, httpx.ConnectError):
        return "connection refused"
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    return str(error) or type(error).__name__
