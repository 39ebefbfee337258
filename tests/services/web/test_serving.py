"""A process that is told to end finishes what it began, and says where it listens."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from cutlayer.errors import ConfigError, CutlayerError
from cutlayer.services import certs, tls
from cutlayer.services.settings import ServerSettings
from cutlayer.services.web import serve

from .apps import application, served


def test_any_free_port_is_announced_by_call_and_by_file(tmp_path: Path) -> None:
    settings = ServerSettings(announce=tmp_path / "new" / "split.json")
    with served(application(), settings) as listening:
        assert httpx.get(f"{listening.url}/healthz").json()["service"] == "split"
        assert settings.announce is not None
        said = json.loads(settings.announce.read_text())
        assert said == {"pid": os.getpid(), "host": "127.0.0.1", "port": listening.port, "url": listening.url}


def test_a_public_url_is_what_is_announced() -> None:
    with served(application(), ServerSettings(public_url="https://split.example/")) as listening:
        assert listening.url == "https://split.example"


def test_a_taken_port_and_an_open_address_are_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CutlayerError, match=f"port {port}"):
            serve(application(), ServerSettings(port=port))
    with pytest.raises(ConfigError, match="--insecure"):
        serve(application(), ServerSettings(host="0.0.0.0"))


@pytest.mark.usefixtures("logging_restored")
def test_an_application_that_does_not_start_is_an_error() -> None:
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def lifespan(app: Starlette) -> Iterator[None]:  # type: ignore[misc]
        raise RuntimeError("no database")
        yield

    app = Starlette(lifespan=lifespan)  # type: ignore[arg-type]
    with pytest.raises(CutlayerError, match="did not start"):
        serve(app, ServerSettings())


def test_tls_and_mutual_tls(tmp_path: Path) -> None:
    ca = certs.make_ca(tmp_path)
    own = certs.issue_server(tmp_path, ["localhost", "127.0.0.1"])
    client = certs.issue_client(tmp_path, "hospital-a")
    settings = ServerSettings(tls_cert=own.cert, tls_key=own.key)
    with served(application(), settings) as listening:
        assert listening.url.startswith("https://127.0.0.1:")
        found = httpx.get(f"{listening.url}/healthz", verify=tls.client_context(ca.cert))
        assert "max-age" in found.headers["strict-transport-security"]
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            httpx.get(f"{listening.url}/healthz", verify=tls.client_context())
    with served(application(), settings.model_copy(update={"tls_client_ca": ca.cert})) as listening:
        shown = tls.client_context(ca.cert, client.cert, client.key)
        assert httpx.get(f"{listening.url}/healthz", verify=shown).status_code == 200
        with pytest.raises((httpx.TransportError, ssl.SSLError)):
            httpx.get(f"{listening.url}/healthz", verify=tls.client_context(ca.cert))


def test_the_end_waits_for_requests_and_wakes_those_that_wait() -> None:
    begun = threading.Event()

    async def poll(request: Request) -> Response:
        begun.set()
        await request.app.state.stopping.wait()
        return PlainTextResponse("woken")

    answers: list[str] = []
    with served(application(Route("/poll", poll)), ServerSettings()) as listening:
        thread = threading.Thread(target=lambda: answers.append(httpx.get(f"{listening.url}/poll", timeout=30).text))
        thread.start()
        assert begun.wait(20)
    thread.join(30)
    assert answers == ["woken"]


def test_a_body_above_the_limit_gets_its_answer_over_a_real_connection() -> None:
    from cutlayer.services.web import Limits

    with (
        served(application(limits=Limits(body=1000)), ServerSettings()) as listening,
        socket.create_connection((listening.host, listening.port)) as connection,
    ):
        connection.settimeout(20)
        connection.sendall(b"POST /echo/a HTTP/1.1\r\nHost: x\r\nContent-Length: 10737418240\r\n\r\n")
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        assert answer.startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_well(tmp_path: Path, number: signal.Signals) -> None:
    code = (
        "import sys; from starlette.applications import Starlette\n"
        "from cutlayer.services.web import install, serve; from cutlayer.services.metrics import Metrics\n"
        "from cutlayer.services.settings import ServerSettings\n"
        "app = Starlette(); install(app, 'fed', Metrics.make('fed'))\n"
        f"settings = ServerSettings(announce={str(tmp_path / 'fed.json')!r})\n"
        "serve(app, settings, lambda listening: print(listening.url, flush=True)); print('ended')\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert httpx.get(f"{url}/readyz").status_code == 200
        process.send_signal(number)
        rest = process.stdout.read()
        assert process.wait(30) == 0
    assert rest == "ended\n"
    assert not (tmp_path / "fed.json").exists()
