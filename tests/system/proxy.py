"""A network that misbehaves: an HTTP proxy that delays, repeats and redirects requests, or lets nothing through."""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True)
class Manners:
    """How likely a request is delayed, sent twice at once, or sent again long after its answer; the delays' length."""

    delay: float = 0.0
    twice: float = 0.0
    again: float = 0.0
    seconds: float = 0.05


class Proxy:
    """Passes requests on to ``targets``, to the next one every time."""

    def __init__(self, manners: Manners | None = None, seed: int = 0) -> None:
        self.targets: list[str] = []
        self.manners = manners or Manners()
        self.requests, self.repeated = 0, 0
        self.wrong: list[str] = []
        """What must not be: answers that differ, and failures of a service."""
        self._random = random.Random(seed)
        self._open: set[asyncio.StreamWriter] = set()
        self._later: set[asyncio.Task[None]] = set()
        self._cut, self._turn = False, 0
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), name="proxy", daemon=True)
        self._thread.start()
        started.wait()

    def cut(self) -> None:
        """Break all connections, and let no new ones through."""
        self._cut = True
        self._loop.call_soon_threadsafe(self._break)

    def mend(self) -> None:
        """Let requests through again."""
        self._cut = False

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 16))
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set()
        self._loop.run_forever()
        server.close()
        self._break()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _break(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            writer.transport.abort()
            return
        self._open.add(writer)
        try:
            while (request := await _message(reader)) is not None:
                writer.write(await self._passed_on(request))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _passed_on(self, request: bytes) -> bytes:
        self.requests += 1
        chance, manners = self._random, self.manners
        if chance.random() < manners.delay:
            await asyncio.sleep(chance.uniform(0.0, manners.seconds))
        if chance.random() < manners.again:
            later = self._loop.create_task(self._again(request, chance.uniform(0.0, 20 * manners.seconds)))
            self._later.add(later)
            later.add_done_callback(self._later.discard)
        if chance.random() >= manners.twice:
            return await self._asked(request)
        self.repeated += 1
        first, second = await asyncio.gather(self._asked(request), self._asked(request))
        if b"/rounds/" in request[:200] and _status(first) == _status(second) == 200 and _body(first) != _body(second):
            self.wrong.append(f"two answers to {_line(request)}")
        return chance.choice([first, second])

    async def _again(self, request: bytes, seconds: float) -> None:
        self.repeated += 1
        await asyncio.sleep(seconds)
        with suppress(OSError):
            await self._asked(request)

    async def _asked(self, request: bytes) -> bytes:
        self._turn += 1
        target = urlsplit(self.targets[self._turn % len(self.targets)])
        reader, writer = await asyncio.open_connection(target.hostname, target.port, limit=1 << 16)
        self._open.add(writer)
        try:
            writer.write(request)
            answer = await _message(reader)
        finally:
            self._open.discard(writer)
            writer.close()
        if answer is None or self._cut:
            raise ConnectionResetError
        if _status(answer) not in (200, 201, 204, 409, 429, 503):
            self.wrong.append(f"{_status(answer)} for {_line(request)}: {_body(answer)[:300]!r}")
        return answer


async def _message(reader: asyncio.StreamReader) -> bytes | None:
    """Return a request or answer, None where the connection ends before one."""
    try:
        head = await reader.readuntil(HEAD_END)
    except asyncio.IncompleteReadError as end:
        if not end.partial:
            return None
        raise
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return head + await reader.readexactly(length)


def _status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def _line(request: bytes) -> str:
    return request.partition(b"\r\n")[0].decode()


def _body(answer: bytes) -> bytes:
    return answer.partition(HEAD_END)[2]
