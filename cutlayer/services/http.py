"""A small blocking HTTP client: keep-alive, binary bodies, server-sent events, and patience with services that restart.

Every request of cutlayer's services is idempotent, so any of them may be sent again.  A request is repeated with
jittered exponential back-off when the connection fails and on 429, 502, 503 and 504, until the link's patience ends;
everything else that is not a success becomes the error of ``cutlayer.services.errors`` that the service raised, with
its sentence.  Tokens stand in no message and no log.

    link = Link("http://127.0.0.1:8080", token=token)
    link.json("POST", "/v1/runs", {"experiment": {...}})
"""

from __future__ import annotations

import json as jsonlib
import os
import random
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

from urllib3.response import BaseHTTPResponse

from cutlayer.errors import ConfigError
from cutlayer.services import tracing
from cutlayer.services.addresses import check_url
from cutlayer.services.connection import (
    EMPTY,
    FAILURES,
    PIECE,
    SMALL,
    Body,
    Buffers,
    Endpoint,
    Failed,
    File,
    Interrupted,
)
from cutlayer.services.errors import ServiceError, Unavailable
from cutlayer.services.line import Content
from cutlayer.services.tls import client_context
from cutlayer.version import __version__

__all__ = ["Event", "Interrupted", "Link", "Tls", "Unreachable"]

FIRST_WAIT, LONGEST_WAIT = 0.1, 10.0
"""Seconds: the back-off doubles from the first to the longest, each drawn from its upper half."""
LASTED = 1.0
"""Seconds: an attempt that lasted longer, as a long-poll does, had found its service, and the back-off begins anew."""

Query = Mapping[str, str | int | float | bool | None]
OnWait = Callable[[str, float], None]
T = TypeVar("T")


class Unreachable(Unavailable):
    """No service answered within the patience."""

    code = "unreachable"


class Event(NamedTuple):
    """A server-sent event: its id (None where the service gave none), its kind, and its data, decoded from JSON."""

    id: int | None
    kind: str
    data: Any


@dataclass(frozen=True)
class Tls:
    """Certificates: the authority that is trusted (the system's by default), and the client's own for mutual TLS."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return what a connection needs.  Raises ConfigError for files that are none."""
        return client_context(self.ca, self.cert, self.key)


class Link:
    """Connections to one service, or to several replicas of it: on failure the next one is asked.

    ``patience`` is how many seconds a request is repeated before :class:`Unreachable` (None: for ever; 0: once);
    ``on_wait`` is told the reason and the seconds before every wait.  ``stop`` ends waiting with :class:`Interrupted`;
    :meth:`interrupt` also ends requests that are under way.  ``rotate`` asks a different replica every time.  A link
    may be used by several threads; its idle connections are closed with it, at the latest when nobody has it any more.
    """

    def __init__(
        self,
        base_url: str | Sequence[str],
        *,
        token: str | None = None,
        tls: Tls | None = None,
        timeout: float = 60.0,
        patience: float | None = 60.0,
        on_wait: OnWait | None = None,
        stop: threading.Event | None = None,
        rotate: bool = False,
        insecure: bool = False,
    ) -> None:
        urls = [base_url] if isinstance(base_url, str) else list(base_url)
        if not urls:
            raise ConfigError("expected the URL of a service, and none came")
        secure = (tls or Tls()).context() if any(u.startswith("https:") for u in urls) else None
        self.stop = stop or threading.Event()
        self._ends = [Endpoint(check_url(url, insecure), secure, timeout, self.stop) for url in urls]
        self._headers = {"User-Agent": f"cutlayer/{__version__}"}
        if token is not None:
            if not token.isascii() or not token.isprintable() or " " in token or not token:
                raise ConfigError("expected a token such as cl_op_..., and what came is none: it holds odd characters")
            self._headers["Authorization"] = f"Bearer {token}"
        self._patience, self._on_wait, self._rotate = patience, on_wait, rotate
        self._at = 0
        weakref.finalize(self, _close, self._ends)

    @property
    def urls(self) -> list[str]:
        """The services that are asked, the one that is asked next first."""
        at = self._at % len(self._ends)
        return [end.url for end in self._ends[at:] + self._ends[:at]]

    def json(self, method: str, path: str, body: Any = None, *, query: Query | None = None) -> Any:
        """Send ``body`` as JSON and return the decoded answer, None where it is empty (204)."""
        pieces = [] if body is None else [jsonlib.dumps(body, separators=(",", ":")).encode()]
        headers = {"Accept": "application/json"} | ({"Content-Type": "application/json"} if pieces else {})
        content = self._request(method, _with(path, query), headers, Buffers(pieces))
        if not content:
            return None
        try:
            return jsonlib.loads(content)
        except ValueError:
            raise ServiceError(
                f"expected JSON from {self.urls[0]}{path}, and {_shown(content)} came; is it a cutlayer service?"
            ) from None

    def binary(
        self, method: str, path: str, buffers: Sequence[bytes | memoryview], headers: Mapping[str, str] | None = None
    ) -> Content:
        """Send ``buffers`` one after another as one body, without joining large ones, and return the answer's bytes."""
        sent = {"Content-Type": "application/octet-stream", **(headers or {})}
        return self._request(method, path, sent, Buffers(buffers))

    def upload(self, method: str, path: str, source: Path) -> Content:
        """Send the file ``source`` as the body, in pieces."""
        return self._request(method, path, {"Content-Type": "application/octet-stream"}, File(source))

    def download(self, path: str, target: Path) -> int:
        """Write the answer to ``target``, replaced whole once all has come, and return its size in bytes."""
        part = target.with_name(f".{target.name}.{os.getpid()}.part")

        def write(response: BaseHTTPResponse) -> int:
            with open(part, "wb") as file:
                for piece in response.stream(PIECE):
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
                return file.tell()

        try:
            size = self._until(lambda end, sent: end.read("GET", path, sent, EMPTY, write), {})
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
        return size

    def events(self, path: str, after: int | None = None, *, query: Query | None = None) -> Iterator[Event]:
        """Yield the events after number ``after``, for ever; a broken stream is taken up again where it broke.

        The iterator never ends by itself: leave the loop, or interrupt the link.
        """
        target, last, fruitless = _with(path, query), after, 0
        while True:
            headers = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
            if last is not None:
                headers["Last-Event-ID"] = str(last)
            end, (response, connection) = self._until(
                lambda end, sent: (end, end.open("GET", target, sent, EMPTY)), headers
            )
            try:
                for event in _parsed(response):
                    last, fruitless = last if event.id is None else event.id, 0
                    yield event
            except FAILURES:
                pass  # taken up again below, after the last event
            finally:
                end.drop(connection)
            self._wait(f"the event stream of {end.url} ended", _backoff(fruitless))
            fruitless += 1

    def interrupt(self) -> None:
        """End all waiting and all requests that are under way, in whatever thread, with :class:`Interrupted`."""
        self.stop.set()
        for end in self._ends:
            end.shut()

    def close(self) -> None:
        """Close the connections that are idle."""
        _close(self._ends)

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _request(self, method: str, path: str, headers: Mapping[str, str], body: Body) -> Content:
        with tracing.span(method, path=path):
            return self._until(lambda end, sent: end.ask(method, path, sent, body), headers)

    def _until(self, attempt: Callable[[Endpoint, Mapping[str, str]], T], headers: Mapping[str, str]) -> T:
        """Attempt at one service after the other until there is an answer, and return it."""
        sent = {**self._headers, "X-Request-ID": os.urandom(16).hex(), **tracing.outgoing(), **headers}
        until = None if self._patience is None else time.monotonic() + self._patience
        failures, stale, settled, after = 0, 0, 0, 0.0
        if self._rotate:
            self._at += 1
        while True:
            if self.stop.is_set():
                raise Interrupted("interrupted")
            at, begun = self._at, time.monotonic()
            try:
                return attempt(self._ends[at % len(self._ends)], sent)
            except Failed as failed:
                if self.stop.is_set():
                    raise Interrupted("interrupted") from None
                if failed.stale and stale < 3:  # a kept connection that the service had closed: nothing is wrong
                    stale += 1
                    continue
                failures, after = failures + 1, max(after, failed.after)
                self._at = at + 1
                sweeps, more = divmod(failures, len(self._ends))
                if time.monotonic() - begun > LASTED:
                    settled = sweeps
                if more and not failed.throttled:
                    continue  # the next replica, at once
                seconds = max(after, _backoff(max(0, sweeps - 1 - settled)))
                left = seconds if until is None else until - time.monotonic()
                if left <= 0:
                    raise Unreachable(
                        f"expected an answer within {self._patience:g} s, and {failed.reason}; see that it runs, then "
                        "try again"
                    ) from None
                self._wait(failed.reason, min(seconds, left))
                after = 0.0

    def _wait(self, reason: str, seconds: float) -> None:
        if self._on_wait is not None:
            self._on_wait(reason, seconds)
        if self.stop.wait(seconds):
            raise Interrupted("interrupted")


def _close(ends: Sequence[Endpoint]) -> None:
    for end in ends:
        end.close()


def _with(path: str, query: Query | None) -> str:
    asked = {k: str(v).lower() if isinstance(v, bool) else v for k, v in (query or {}).items() if v is not None}
    return f"{path}?{urlencode(asked, quote_via=quote)}" if asked else path


def _parsed(response: BaseHTTPResponse) -> Iterator[Event]:
    """Yield the events of a stream; one that is torn at the end is left out."""
    rest = b""
    number: int | None = None
    kind, data = "message", list[str]()
    with closing(response):
        while piece := response.read1(SMALL):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                field, _, value = line.decode("utf-8", "replace").rstrip("\r").partition(":")
                value = value.removeprefix(" ")
                if field == "id":
                    number = int(value) if value.isdecimal() else None
                elif field == "event":
                    kind = value
                elif field == "data":
                    data.append(value)
                elif not field and not value and (line in (b"", b"\r")):
                    if data:
                        yield Event(number, kind, _decoded("\n".join(data)))
                    number, kind, data = None, "message", []


def _decoded(text: str) -> Any:
    try:
        return jsonlib.loads(text)
    except ValueError:
        return text


def _backoff(failures: int) -> float:
    return min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(failures, 20)) * random.uniform(0.5, 1.0)


def _shown(content: Content) -> str:
    return repr(content[:40].decode("utf-8", "replace"))
