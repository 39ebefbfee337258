"""The split server's HTTP side: tickets in, messages in, messages out; one thread computes, others read and write."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import perf_counter, time
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cutlayer import wire
from cutlayer.errors import CutlayerError, MissingObject
from cutlayer.roles.replica import NotYet
from cutlayer.services import logs, web
from cutlayer.services.errors import Conflict, Forbidden, NotFound, Unavailable
from cutlayer.services.metrics import Metrics
from cutlayer.services.protocol import Task
from cutlayer.services.settings import SplitSettings
from cutlayer.services.split.hosting import Hosting
from cutlayer.services.split.lane import FastLane
from cutlayer.services.split.tasks import SplitTasks
from cutlayer.services.tickets import Ticket, verify
from cutlayer.services.tracing import Threads
from cutlayer.services.vitals import Body, Pace, Scale
from cutlayer.services.worker import Pulse, Worker, connect
from cutlayer.store.steps import Closed
from cutlayer.wire import Message

log = logging.getLogger(__name__)

KINDS = {"forward": "train", "backward": "train", "train": "train", "upload": "train", "evaluate": "evaluate"}
"""Requests, and the kind of task whose ticket they need."""
PATIENCE = 20.0
"""Seconds that a request waits here for what is still on its way; then its client asks again."""
FIRST_LOOK, LAST_LOOK = 0.001, 0.1
"""Seconds between looks at files that another replica may have written."""
CLOSELY, NOW_AND_THEN = 1.25, 2.0
"""By what they grow: for the one request of a run that looks for all that wait, and for the others."""


QUICK, SLOW = 0.004, 1.0
"""Seconds: where an answer takes less than the first on the average, it is made in the thread that reads requests,
which saves handing it to another and back."""
TICKETS = 4096
"""Tickets remembered as verified."""


class SplitService:
    """Everything one process of the split server holds."""

    def __init__(self, settings: SplitSettings) -> None:
        self.settings = settings
        self.secret = settings.signing_secret()
        self.metrics = Metrics.make("split")
        self._counters = {  # looked up once: by kind, the seconds of a step, and the bytes that came and went
            kind: (
                self.metrics.step_seconds.labels(kind),
                self.metrics.message_bytes.labels("in", kind),
                self.metrics.message_bytes.labels("out", kind),
            )
            for kind in KINDS
        }
        self.compute = Threads(1, "compute")
        self.io = Threads(4, "store")
        self.connection = connect(settings, "split")
        self.hosting = Hosting(self.connection.runs, self.connection.store, self.io, graphs=settings.graphs)
        self.tasks = SplitTasks(self.hosting, self.connection)
        self.waiting = 0
        self._changed: asyncio.Event | None = None
        self._looking: set[str] = set()
        self._tickets: OrderedDict[str, Ticket] = OrderedDict()
        self._model = threading.Lock()
        """Held by whoever computes."""
        self._cost = SLOW
        self._told: dict[str, int] = {}
        self.pace, self._body = Pace(), Body()
        self.scale = Scale(self.connection.store, self.hosting.runs, self.connection.stop)
        self._stopping = False

    async def end(self, stopping: asyncio.Event) -> None:
        """Send away whoever waits here, as soon as the process is told to stop."""
        await stopping.wait()
        self._stopping = True
        self._change().set()

    async def request(self, request: Request) -> Response:
        """Answer one message of a client, all layers around it."""
        where = request.path_params
        about = web.bearer(request), where["run"], where["round"], where["kind"]
        self.admit(*about)
        content = await self.answered(*about, await request.body())
        return Response(content, media_type="application/octet-stream")

    async def answered(self, token: str, run: str, round_number: int, kind: str, body: bytes) -> bytes:
        """Return the answer to one message of a client.

        Raises Unauthorized, Forbidden or NotFound for what the ticket is not for, Unavailable where the client is to
        come back, and what the message deserves.
        """
        ticket = self.admit(token, run, round_number, kind)
        if self.waiting >= self.settings.outstanding:
            raise Unavailable("too many requests wait for the model; come back", code="busy", retry_after=0.5)
        seconds, came, went = self._counters[kind]
        self.waiting += 1
        self.metrics.queue_depth.set(self.waiting)
        start = perf_counter()
        try:
            content = await self._answered(ticket, kind, body)
        finally:
            seconds.observe(perf_counter() - start)
            self.waiting -= 1
            self.metrics.queue_depth.set(self.waiting)
        self.pace.note(perf_counter() - start, len(body), len(content))
        came.inc(len(body))
        went.inc(len(content))
        return content

    async def _answered(self, ticket: Ticket, kind: str, body: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + PATIENCE, FIRST_LOOK
        message: Message | None = None
        waited = False
        while True:
            changed = self._change()
            try:
                if message is None:
                    message = wire.decode(body)
                if not self._quick(ticket):
                    content = await loop.run_in_executor(self.compute, self._in_turn, ticket, kind, message, waited)
                elif self._model.acquire(blocking=False):
                    content = self._at_once(ticket, kind, message, waited)
                else:  # what is at work goes on in its thread, but this answer need not, nor those that come meanwhile
                    await loop.run_in_executor(self.compute, _nothing)
                    continue
            except NotYet as reason:
                waited = True  # which says that the request itself is in order
                if self._stopping:
                    raise Unavailable("this server is about to end; ask another one, or come back") from None
                if loop.time() >= until:
                    raise Unavailable(str(reason), code="not_yet", retry_after=0.0) from None
                pause = await self._look_later(ticket.run, changed, pause)
                continue
            if self._changed is changed and kind != "evaluate":
                self._changed = None
                changed.set()
            if self.hosting.peers > 1 and kind == "backward":
                self.compute.submit(self._settle, ticket.run)
            return content

    async def _look_later(self, run: str, changed: asyncio.Event, pause: float) -> float:
        """Wait until something has changed here, or for ``pause`` seconds; returns how long to wait the next time."""
        first = run not in self._looking
        if first:
            self._looking.add(run)
        try:
            await asyncio.wait_for(changed.wait(), pause)
        except TimeoutError:
            return min((CLOSELY if first else NOW_AND_THEN) * pause, LAST_LOOK)
        finally:
            if first:
                self._looking.discard(run)
        return pause

    def _quick(self, ticket: Ticket) -> bool:
        """Say whether an answer is worth no thread of its own."""
        return self._cost < QUICK and self.hosting.at_hand(ticket.run, ticket.round)

    def _settle(self, run: str) -> None:
        with self._model:
            self.hosting.settle(run)

    def do(self, task: Task) -> dict[str, Any]:
        """Do one of the backend's tasks, alone with the model."""
        with self._model:
            return self.tasks.do(task)

    def _change(self) -> asyncio.Event:
        if self._changed is None:
            self._changed = asyncio.Event()
        return self._changed

    def _in_turn(self, ticket: Ticket, kind: str, message: Message, again: bool) -> bytes:
        with self._model:
            return self._at_once(ticket, kind, message, again, held=True)

    def _at_once(self, ticket: Ticket, kind: str, message: Message, again: bool, *, held: bool = False) -> bytes:
        """Answer here and now, and keep account of how long that takes; the model's lock is held, and let go."""
        start = perf_counter()
        try:
            return self._compute(ticket, kind, message, again)
        finally:
            self._cost += 0.1 * (perf_counter() - start - self._cost)
            if not held:
                self._model.release()

    def _compute(self, ticket: Ticket, kind: str, message: Message, again: bool) -> bytes:
        with logs.about(run=ticket.run, round=ticket.round, client=ticket.client):
            try:
                return wire.encode(self.hosting.answer(ticket, kind, message, again=again))
            except Closed as error:
                raise Conflict(str(error), code="closed") from None
            except MissingObject as error:  # another replica tidies up while this one looks
                raise Unavailable(str(error), code="not_yet", retry_after=0.0) from None
            except CutlayerError:
                raise
            except Exception:
                self.hosting.forget(ticket.run)
                raise

    def admit(self, token: str, run: str, round_number: int, kind: str) -> Ticket:
        """Return the ticket of a request.  Raises Unauthorized, Forbidden or NotFound: before its body is read."""
        ticket = self._verified(token)
        if kind not in KINDS:
            raise NotFound(f"expected one of {', '.join(KINDS)}, got {kind!r}")
        if ticket.run != run or ticket.round != round_number:
            raise Forbidden("the ticket is for another run or round")
        if ticket.kind != KINDS[kind]:
            raise Forbidden(f"the ticket is for a task of kind {ticket.kind}")
        return ticket

    def _verified(self, token: str) -> Ticket:
        """Return a ticket, without checking its signature again if that was done a moment ago."""
        known = self._tickets.get(token)
        if known is not None and known.expires > time():
            return known
        known = self._tickets[token] = verify(self.secret, token)
        while len(self._tickets) > TICKETS:
            self._tickets.popitem(last=False)
        return known

    async def ready(self) -> None:
        """Raise where the store or the backend is away."""
        await asyncio.get_running_loop().run_in_executor(self.io, self.connection.check)

    def stats(self) -> dict[str, Any]:
        """Return what the heartbeat tells of this replica, and show it in the metrics too."""
        found = {
            "queue_depth": self.waiting,
            **self.hosting.stats(),
            **self.pace.stats(),
            **self._body.stats(),
            **self.scale.stats(),
        }
        for name, counter in (("graph_hits", self.metrics.graph_hits), ("graph_misses", self.metrics.graph_misses)):
            counter.inc(max(0, found[name] - self._told.get(name, 0)))
            self._told[name] = found[name]
        self.metrics.ledger_bytes.set(found["ledger_bytes"])
        return found

    def close(self) -> None:
        """End the threads."""
        self.connection.close()
        self.compute.shutdown(wait=True, cancel_futures=True)
        self.io.shutdown(wait=True)


def _nothing() -> None:
    """Be done once all is done that the thread was given before."""


def create_app(settings: SplitSettings, where: Callable[[], str] = lambda: "") -> Starlette:
    """Return the application; ``where`` gives the URL that reaches it, for the heartbeat."""
    service = SplitService(settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        worker = Worker(service.connection, service.do, service.compute)
        pulse = Pulse(service.connection, where, service.stats, service.hosting)
        for thread in (worker, pulse, service.scale):
            thread.start()
        ending = asyncio.create_task(service.end(app.state.stopping))
        try:
            yield
        finally:
            ending.cancel()
            service.connection.stop.set()
            await asyncio.get_running_loop().run_in_executor(None, service.close)

    routes = [Route("/v1/runs/{run}/rounds/{round:int}/{kind}", service.request, methods=["POST"])]
    app = Starlette(routes=routes, lifespan=lifespan)
    web.install(app, "split", service.metrics, web.Limits.of(settings), ready=service.ready, quiet=True)
    if not settings.rate and settings.trace is None:
        stack, limit = app.build_middleware_stack(), settings.body_limit
        app.middleware_stack = FastLane(stack, service.admit, service.answered, service.metrics, limit)
    return app


def serve(settings: SplitSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    from cutlayer.services.worker import Where

    where = Where()
    web.serve(create_app(settings, where), settings, where.announce)
