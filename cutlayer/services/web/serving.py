"""Run an application as a process: a socket that is known, TLS, an orderly end."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from cutlayer.errors import CutlayerError
from cutlayer.services import logs, tls, tracing
from cutlayer.services.settings import ServerSettings

log = logging.getLogger(__name__)

BACKLOG = 2048
KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: longer than any proxy in front keeps it, and longer than a long-poll."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a process listens: its id, the address it is bound to, and the URL that reaches it."""

    pid: int
    host: str
    port: int
    url: str


Announce = Callable[[Listening], None]


def serve(
    app: Starlette, settings: ServerSettings, announce: Announce | None = None, *, websockets: bool = False
) -> None:
    """Serve ``app`` until SIGTERM or SIGINT (returns then), as the settings say.

    Logs are configured, and traces started, as the settings say.  Once the application has started, ``announce`` is
    called, and ``settings.announce`` is written.  After the first signal nothing new is accepted,
    ``app.state.stopping`` is set, and requests in flight have ``settings.grace`` seconds to end; a second SIGINT does
    not wait.  ``websockets`` is for applications that push.

    Raises:
        ConfigError: the settings would send secrets in the clear, or a certificate is not usable.
        MissingExtra: traces are wanted, and OpenTelemetry is not installed.
        CutlayerError: the address cannot be bound, or the application did not start.
    """
    server = Server(app, settings, announce, websockets)
    logs.configure(settings.log_level, settings.log_format)
    if settings.trace is not None:
        tracing.start(getattr(app.state, "service", "service"), settings.trace)
    try:
        server.run(sockets=[server.socket])
    finally:
        server.socket.close()
        if settings.announce is not None:
            settings.announce.unlink(missing_ok=True)
    if server.failed:
        raise CutlayerError("the service did not start; the lines above say why")


class Server(uvicorn.Server):
    """uvicorn, with its socket bound beforehand and an end that is not a signal's."""

    def __init__(
        self, app: Starlette, settings: ServerSettings, announce: Announce | None = None, websockets: bool = False
    ) -> None:
        settings.check()
        context = None
        if settings.tls_cert is not None and settings.tls_key is not None:
            context = tls.server_context(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            loop="uvloop" if sys.platform != "win32" and find_spec("uvloop") else "asyncio",
            http="httptools" if find_spec("httptools") else "h11",
            ws="websockets-sansio" if websockets else "none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(settings.proxies),
            forwarded_allow_ips=list(settings.proxies) or None,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=max(1, round(settings.grace)),
            ssl_context_factory=None if context is None else (lambda config, default: context),
        )
        super().__init__(config)
        self.socket = _bound(settings.host, settings.port)
        self.failed = False
        self._app = app
        self._settings = settings
        self._announce = announce
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def listening(self) -> Listening:
        """Where this server listens (known before it runs)."""
        host, port = self.socket.getsockname()[:2]
        url = self._settings.public_url or _url(self._settings.host, port, self._settings.tls)
        return Listening(os.getpid(), host, port, url.rstrip("/"))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            await super().startup(sockets=sockets)
        except SystemExit:
            self.failed = self.should_exit = True
            return
        if self._settings.announce is not None:
            _write(self._settings.announce, self.listening)
        if self._announce is not None:
            self._announce(self.listening)
        log.info("listening at %s", self.listening.url)

    def stop(self) -> None:
        """Begin the orderly end; from any thread."""
        self.should_exit = True
        stopping = getattr(self._app.state, "stopping", None)
        if self._loop is not None and stopping is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(stopping.set)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # uvicorn would raise the signal again after the end, and the process would not have ended well.
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.stop()


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise CutlayerError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; choose another by --port, 0 for any"
        ) from error


def _url(host: str, port: int, secure: bool) -> str:
    if host in ("0.0.0.0", "::", ""):
        host = socket.gethostname()
    shown = f"[{host.strip('[]')}]" if ":" in host else host
    return f"{'https' if secure else 'http'}://{shown}:{port}"


def _write(path: Path, listening: Listening) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(asdict(listening)) + "\n")
    part.replace(path)
