"""The federated server's HTTP side: weights out, updates and hand-overs in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cutlayer import wire
from cutlayer.errors import MissingObject
from cutlayer.faults import point
from cutlayer.services import logs, web
from cutlayer.services.errors import Conflict, Forbidden, Unprocessable
from cutlayer.services.federated.tasks import FederatedTasks
from cutlayer.services.metrics import Metrics
from cutlayer.services.settings import FedSettings
from cutlayer.services.tickets import Ticket, verify
from cutlayer.services.tracing import Threads
from cutlayer.services.vitals import Body, Pace, Scale
from cutlayer.services.worker import Pulse, Where, Worker, connect
from cutlayer.store.steps import Closed
from cutlayer.wire import Message

Answer = Callable[[Ticket, Request, bytes], Message | None]


class FederatedService:
    """Everything one process of the federated server holds."""

    def __init__(self, settings: FedSettings) -> None:
        self.settings = settings
        self.secret = settings.signing_secret()
        self.metrics = Metrics.make("fed")
        self.compute = Threads(1, "compute")
        self.connection = connect(settings, "fed")
        self.tasks = FederatedTasks(self.connection)
        self.waiting = 0
        self.pace, self._body = Pace(), Body()
        self.scale = Scale(self.connection.store, self.tasks.runs, self.connection.stop)

    def routes(self) -> list[Route]:
        """Return the routes of the data plane."""
        root = "/v1/runs/{run}/rounds/{round:int}"
        table: list[tuple[str, str, Answer, tuple[str, ...]]] = [
            ("GET", "weights", self._weights, ("train",)),
            ("GET", "first", self._first, ("train",)),
            ("GET", "mean", self._mean, ("evaluate",)),
            ("PUT", "update", self._update, ("train",)),
            ("PUT", "handovers/{part}", self._give, ("train",)),
            ("GET", "handovers/{giver:int}/{part}", self._given, ("train", "evaluate")),
            ("GET", "personal", self._personal, ("train",)),
        ]
        return [
            Route(f"{root}/{path}", self._route(path.partition("/")[0], answer, kinds), methods=[method])
            for method, path, answer, kinds in table
        ]

    def _route(self, name: str, answer: Answer, kinds: tuple[str, ...]) -> Any:
        async def handle(request: Request) -> Response:
            ticket = self._ticket(request, kinds)
            body = await request.body()
            start = perf_counter()
            self.waiting += 1
            self.metrics.queue_depth.set(self.waiting)
            try:
                with self.metrics.step(name):
                    loop = asyncio.get_running_loop()
                    content = await loop.run_in_executor(self.compute, self._compute, answer, ticket, request, body)
            finally:
                self.waiting -= 1
                self.metrics.queue_depth.set(self.waiting)
            self.pace.note(perf_counter() - start, len(body), len(content or b""))
            self.metrics.message_bytes.labels("in", name).inc(len(body))
            if content is None:
                return Response(status_code=204)
            self.metrics.message_bytes.labels("out", name).inc(len(content))
            return Response(content, media_type="application/octet-stream")

        return handle

    def _compute(self, answer: Answer, ticket: Ticket, request: Request, body: bytes) -> bytes | None:
        with logs.about(run=ticket.run, round=ticket.round, client=ticket.client):
            try:
                reply = answer(ticket, request, body)
            except Closed as error:
                raise Conflict(str(error), code="closed") from None
            return None if reply is None else wire.encode(reply)

    def _ticket(self, request: Request, kinds: tuple[str, ...]) -> Ticket:
        ticket = verify(self.secret, web.bearer(request))
        web.recognise(request.scope, f"client:{ticket.subject}")
        if ticket.run != request.path_params["run"] or ticket.round != request.path_params["round"]:
            raise Forbidden("the ticket is for another run or round")
        if ticket.kind not in kinds:
            raise Forbidden(f"the ticket is for a task of kind {ticket.kind}")
        return ticket

    # --- what is asked ------------------------------------------------------------------------------------------

    def _weights(self, ticket: Ticket, request: Request, body: bytes) -> Message | None:
        _, federation = self.tasks.of(ticket.run)
        holds = _number(request, "holds")
        point("fed.weights.before_answer")
        return federation.weights(ticket.round, ticket.client, holds)

    def _first(self, ticket: Ticket, request: Request, body: bytes) -> Message | None:
        return self.tasks.of(ticket.run)[1].first(ticket.client)

    def _mean(self, ticket: Ticket, request: Request, body: bytes) -> Message | None:
        try:
            parts = self.tasks.of(ticket.run)[1].mean(ticket.round)
        except MissingObject:
            raise Conflict(f"round {ticket.round} is not over, or is over for too long") from None
        return Message("weights", {f"{p}/{k}": t for p, weights in parts.items() for k, t in weights.items()})

    def _update(self, ticket: Ticket, request: Request, body: bytes) -> Message | None:
        run, federation = self.tasks.of(ticket.run)
        samples = run.schedule(ticket.round).samples.get(ticket.client)
        if samples is None:
            raise Forbidden(f"client {ticket.client} does not take part in round {ticket.round}")
        message = wire.decode(body)
        if message.kind != "update":
            raise Unprocessable(f"expected a message of kind 'update', got {message.kind!r}")
        federation.update(ticket.round, ticket.client, samples, message)
        return Message("accepted")

    def _give(self, ticket: Ticket, request: Request, body: bytes) -> Message | None:
        message = wire.decode(body)
        if message.kind != "handover":
            raise Unprocessable(f"expected a message of kind 'handover', got {message.kind!r}")
        run, federation = self.tasks.of(ticket.run)
        if run.recipe.schedule != "relay" or ticket.client not in run.schedule(ticket.round).samples:
            raise Forbidden(f"client {ticket.client} has nothing to hand over in round {ticket.round}")
        federation.give(ticket.round, ticket.client, request.path_params["part"], message)
        return Message("accepted")

    def _given(self, ticket: Ticket, request: Request, body: bytes) -> Message | None:
        try:
            run, federation = self.tasks.of(ticket.run)
            if run.recipe.schedule != "relay":
                raise Forbidden(f"algorithm {run.recipe.name} hands nothing over")
            giver, part = int(request.path_params["giver"]), request.path_params["part"]
            if giver not in (ticket.giver, ticket.client):
                raise Forbidden(f"the plan of round {ticket.round} hands client {ticket.client} no parts of {giver}")
            return federation.given(giver, part, ticket.round)
        except MissingObject as error:
            raise Conflict(str(error)) from None

    def _personal(self, ticket: Ticket, request: Request, body: bytes) -> Message | None:
        _, federation = self.tasks.of(ticket.run)
        return federation.personal(ticket.client, _number(request, "after") or 0, ticket.round)

    async def ready(self) -> None:
        """Raise where the store or the backend is away."""
        await asyncio.get_running_loop().run_in_executor(None, self.connection.check)

    def stats(self) -> dict[str, Any]:
        """Return what the heartbeat tells of this process."""
        about = {"queue_depth": self.waiting, "runs": len(self.tasks.runs())}
        return {**about, **self.pace.stats(), **self._body.stats(), **self.scale.stats()}

    def close(self) -> None:
        """End the threads."""
        self.connection.close()
        self.compute.shutdown(wait=True, cancel_futures=True)


def create_app(settings: FedSettings, where: Callable[[], str] = lambda: "") -> Starlette:
    """Return the application; ``where`` gives the URL that reaches it, for the heartbeat."""
    service = FederatedService(settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        Worker(service.connection, service.tasks.do, service.compute).start()
        Pulse(service.connection, where, service.stats).start()
        service.scale.start()
        try:
            yield
        finally:
            service.connection.stop.set()
            await asyncio.get_running_loop().run_in_executor(None, service.close)

    app = Starlette(routes=service.routes(), lifespan=lifespan)
    web.install(app, "fed", service.metrics, web.Limits.of(settings), ready=service.ready, quiet=True)
    return app


def serve(settings: FedSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    where = Where()
    web.serve(create_app(settings, where), settings, where.announce)


def _number(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Unprocessable(f"expected a number as {name!r}, got {text[:20]!r}")
    return int(text)
