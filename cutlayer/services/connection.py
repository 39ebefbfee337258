"""One HTTP service as a client sees it: its kept connections, and what their failures mean."""

from __future__ import annotations

import errno
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast
from urllib.parse import urlsplit

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.response import BaseHTTPResponse

from cutlayer.services.errors import ServiceError, of_status
from cutlayer.services.line import Content, Line

RETRIED = frozenset({429, 502, 503, 504})
CONNECT_TIMEOUT = 10.0
LONGEST_RETRY_AFTER = 60.0
"""Seconds: a service that asks for more is asked again nevertheless."""
SMALL = 1 << 16
"""Bytes up to which the buffers of a body are joined: one system call is cheaper than several."""
PIECE = 1 << 20
FAILURES = (OSError, HTTPException, HTTPError)
"""What a connection raises when it breaks."""
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)

T = TypeVar("T")


class Interrupted(ServiceError):
    """The link was told to stop."""

    code = "interrupted"


class Failed(Exception):
    """An attempt that may be repeated: why, and after how many seconds at least.

    ``throttled``: the service asks for fewer requests.  ``stale``: the connection was kept from a request before.
    """

    def __init__(self, reason: str, after: float = 0.0, throttled: bool = False, stale: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.after, self.throttled, self.stale = reason, after, throttled, stale


class Endpoint:
    """One service: its idle connections, and those in use."""

    def __init__(self, url: str, secure: ssl.SSLContext | None, timeout: float, stop: threading.Event) -> None:
        parts = urlsplit(url)
        self.url = url
        self._host, self._prefix = parts.hostname or "", parts.path.rstrip("/")
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._secure = secure if parts.scheme == "https" else None
        self._timeout, self._stop = timeout, stop
        self._idle: list[HTTPConnection] = []
        self._lines: list[Line] = []
        self._busy: set[HTTPConnection | Line] = set()

    def ask(self, method: str, path: str, headers: Mapping[str, str], body: Body) -> Content:
        """Send one request and return the answer's content, held in memory.

        Raises Failed where the request may be repeated, and what the service raised where not.
        """
        line, kept = self._line()
        self._busy.add(line)
        with self._failing(line, kept):
            if self._stop.is_set():  # set while this was connecting, when nobody could shut it
                raise Interrupted("interrupted")
            answer = line.ask(method, f"{self._prefix}{path}", headers, body.pieces() or (), body.size)
        if line.kept:
            self._busy.discard(line)
            self._lines.append(line)
        else:
            self.drop(line)
        if answer.status < 300:
            return answer.content
        after = answer.fields.get(b"retry-after")
        raise self._refusal(answer.status, None if after is None else after.decode("latin-1"), answer.content)

    def _line(self) -> tuple[Line, bool]:
        """Return a line, and whether it was kept from a request before."""
        while self._lines:
            try:
                line = self._lines.pop()
            except IndexError:  # another thread was faster
                break
            if line.usable():
                return line, True
            line.close()
        try:
            first = min(CONNECT_TIMEOUT, self._timeout)
            return Line(self._host, self._port, self._secure, first, self._timeout), False
        except FAILURES as error:
            raise Failed(f"{self.url} {_words(error)}") from None

    def read(
        self, method: str, path: str, headers: Mapping[str, str], body: Body, read: Callable[[BaseHTTPResponse], T]
    ) -> T:
        """Send one request and return what ``read`` makes of the answer, piece by piece.  Raises as :meth:`ask`."""
        response, connection = self.open(method, path, headers, body)
        with self._failing(connection):
            found = read(response)
        self._keep(connection)
        return found

    def open(
        self, method: str, path: str, headers: Mapping[str, str], body: Body
    ) -> tuple[BaseHTTPResponse, HTTPConnection]:
        """Send one request and return the answer, not read yet, and its connection, which is the caller's to drop.

        Raises Failed where the request may be repeated, and what the service raised where not.
        """
        connection, kept = self._connect()
        self._busy.add(connection)
        with self._failing(connection, kept):
            if self._stop.is_set():  # set while this was connecting, when nobody could shut it
                raise Interrupted("interrupted")
            response = self._send(connection, method, f"{self._prefix}{path}", headers, body)
            if response.status < 300:
                return response, connection
            content = response.read()
        self._keep(connection)
        raise self._refusal(response.status, response.headers.get("Retry-After"), content)

    @contextmanager
    def _failing(self, connection: HTTPConnection | Line, kept: bool = False) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.drop(connection)
            if not isinstance(error, FAILURES) or _local(error):
                raise
            stale = kept and not isinstance(error, TimeoutError | ReadTimeoutError)
            raise Failed(f"{self.url} {_words(error)}", stale=stale) from None

    def _keep(self, connection: HTTPConnection) -> None:
        self._busy.discard(connection)
        self._idle.append(connection)

    def drop(self, connection: HTTPConnection | Line) -> None:
        """Close a connection that is not to be used again."""
        self._busy.discard(connection)
        connection.close()

    def shut(self) -> None:
        """End what is under way: the thread that reads sees the connection closed."""
        for connection in list(self._busy):
            if isinstance(connection.sock, socket.socket):
                with suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the idle connections."""
        for idle in (self._idle, self._lines):
            while idle:
                idle.pop().close()

    def _connect(self) -> tuple[HTTPConnection, bool]:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if connection.is_connected:
                return connection, True
            connection.close()
        first = min(CONNECT_TIMEOUT, self._timeout)
        if self._secure is not None:
            connection = HTTPSConnection(self._host, self._port, timeout=first, ssl_context=self._secure)
        else:
            connection = HTTPConnection(self._host, self._port, timeout=first)
        try:
            connection.connect()
        except FAILURES as error:
            connection.close()
            raise Failed(f"{self.url} {_words(error)}") from None
        connection.timeout = self._timeout
        return connection, False

    def _send(
        self, connection: HTTPConnection, method: str, path: str, headers: Mapping[str, str], body: Body
    ) -> BaseHTTPResponse:
        length = {"Content-Length": str(body.size)} if body.size or method in ("POST", "PUT") else {}
        try:
            connection.request(method, path, body.pieces(), {**headers, **length}, preload_content=False)
        except (BrokenPipeError, ConnectionResetError):  # an answer may be there already: the body is too large, say
            if connection.sock is None:
                raise
        return connection.getresponse()

    def _refusal(self, status: int, retry_after: str | None, content: Content) -> Exception:
        said, code = _sentence(content)
        after = _retry_after(retry_after)
        if status in RETRIED:
            return Failed(f"{self.url} answers {status}{f' ({said})' if said else ''}", after, status == 429)
        if not said:
            said = f"{self.url} refuses the request with status {status} and no reason; is it a cutlayer service?"
        return of_status(status, said, code=code or None, about=_about(content))


class Body(Protocol):
    """What is sent with a request, for every attempt again."""

    size: int

    def pieces(self) -> Iterable[bytes] | None: ...


class Buffers:
    """A body that is in memory: sent piece by piece, small ones joined."""

    def __init__(self, buffers: Sequence[bytes | memoryview]) -> None:
        views = [b if isinstance(b, bytes) else memoryview(b).cast("B") for b in buffers if memoryview(b).nbytes]
        self.size = sum(len(v) for v in views)
        self._pieces = [b"".join(views)] if len(views) > 1 and self.size <= SMALL else views

    def pieces(self) -> Sequence[bytes] | None:
        """Return what is sent, again for every attempt."""
        return cast(Sequence[bytes], self._pieces) or None  # a socket sends any buffer


class File:
    """A body that is a file: read again for every attempt."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size = path.stat().st_size

    def pieces(self) -> Iterator[bytes]:
        """Yield the file's bytes."""
        with open(self._path, "rb") as file:
            while piece := file.read(PIECE):
                yield piece


EMPTY = Buffers(())


def _about(content: Content) -> dict[str, Any]:
    """Return what a refusal says beyond its sentence."""
    try:
        found = json.loads(bytes(content))
    except ValueError:
        return {}
    known = ("error", "code", "request_id")
    return {key: value for key, value in found.items() if key not in known} if isinstance(found, dict) else {}


def _sentence(content: Content) -> tuple[str, str]:
    """Return the sentence and the machine word of an error's body, empty where it has none."""
    try:
        found = json.loads(content)
    except ValueError:
        return "", ""
    if not isinstance(found, dict):
        return "", ""
    said = found.get("error", found.get("detail", ""))
    return str(said) if said else "", str(found.get("code") or "")


def _retry_after(value: str | None) -> float:
    """Return the seconds of a Retry-After header: a number, or a date."""
    if value is None:
        return 0.0
    try:
        return min(max(0.0, float(value)), LONGEST_RETRY_AFTER)
    except ValueError:
        pass
    try:
        return min(max(0.0, parsedate_to_datetime(value).timestamp() - time.time()), LONGEST_RETRY_AFTER)
    except ValueError:
        return 0.0


def _local(error: BaseException) -> bool:
    """Whether an error is about a file here, not about the connection."""
    return isinstance(error, OSError) and (error.filename is not None or error.errno in _DISK)


def _words(error: BaseException) -> str:
    """Say in words what is wrong with a connection: never with what was sent on it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return f"cannot be trusted ({getattr(cause, 'verify_message', '') or cause.reason or 'TLS failed'})"
        if isinstance(cause, ConnectionRefusedError):
            return "refuses connections"
        if isinstance(cause, socket.gaierror):
            return "has a host name that is not known"
        if isinstance(cause, ConnectionError):
            return "closed the connection"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, TimeoutError) or "timed out" in str(error):
        return "does not answer in time"
    return f"cannot be reached ({type(error).__name__})"
