"""The federated server hands a client its own parts and those that the plan hands to it, and nobody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from starlette.applications import Starlette

from cutlayer import wire
from cutlayer.config import load
from cutlayer.engines.prepare import prepare
from cutlayer.roles.assembly import Assembly
from cutlayer.roles.federation import Federation
from cutlayer.roles.weights import handover
from cutlayer.services import tickets, web
from cutlayer.services.federated.app import FederatedService
from cutlayer.services.settings import FedSettings
from cutlayer.services.tickets import Ticket
from cutlayer.store import MemoryStore

SECRET = "a secret of the tests that is long enough"

Ask = Callable[..., httpx.Response]


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Ask]:
    """Sends a request to a federated server that knows one relay of three clients."""
    settings = FedSettings(folder=tmp_path, backend="http://127.0.0.1:9", token="cl_svc_x", secret=SECRET)
    service = FederatedService(settings)
    app = Starlette(routes=service.routes())
    web.install(app, "fed", service.metrics, web.Limits.of(settings))
    prepared = prepare(load(None, (), algorithm="vanilla", clients=3))
    assembly = Assembly(prepared.setup, prepared.settings)
    run = SimpleNamespace(recipe=assembly.recipe, schedule=lambda number: SimpleNamespace(samples={0: 9, 1: 9, 2: 9}))
    federation = Federation(assembly, MemoryStore(), "run")
    service.tasks.of = lambda name: (run, federation)  # type: ignore[method-assign]
    part = wire.encode(handover(assembly.first["encoder"].copy()))

    def asked(client: int, method: str, path: str, *, kind: str = "train", giver: int | None = None) -> httpx.Response:
        ticket = tickets.issue(SECRET, Ticket("run", 1, client, "t", kind, "c", giver=giver), 60)

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://fed") as there:
                headers = {"Authorization": f"Bearer {ticket}"}
                content = part if method == "PUT" else None
                return await there.request(method, f"/v1/runs/run/rounds/1/{path}", headers=headers, content=content)

        return asyncio.run(send())

    yield asked
    service.close()


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_client_reads_the_parts_of_its_giver_and_of_nobody_else(ask: Ask, kind: str) -> None:
    for client in (0, 2):
        assert ask(client, "PUT", "handovers/encoder").status_code == 200
    found = ask(1, "GET", "handovers/0/encoder", kind=kind, giver=0)
    assert found.status_code == 200
    assert wire.decode(found.content).kind == "handover"
    for giver in (0, None):
        refused = ask(1, "GET", "handovers/2/encoder", kind=kind, giver=giver)
        assert refused.status_code == 403
        assert refused.json()["error"] == "the plan of round 1 hands client 1 no parts of 2"


def test_a_client_reads_what_it_left_itself(ask: Ask) -> None:
    assert ask(2, "PUT", "handovers/encoder").status_code == 200
    assert ask(2, "GET", "handovers/2/encoder").status_code == 200
