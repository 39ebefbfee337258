"""``cutlayer client``: take part with this machine's data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from cutlayer.commands import options


def client(
    server: Annotated[
        str | None, typer.Option(help="URL of the backend, or CUTLAYER_SERVER; by default that of `cutlayer up` here.")
    ] = None,
    token: Annotated[
        str | None, typer.Option(help="Enrolment token, or CUTLAYER_TOKEN; needed once, then the client has a key.")
    ] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with the enrolment token.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="package.module:function, or experiment: this client's share of what the experiment names."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of this client among all (default: the machine's).")] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="Where key and progress are kept, one per client (default: .cutlayer-client)."),
    ] = None,
    allow: Annotated[
        list[str] | None, typer.Option(help="A module whose code an experiment may name; no other code is run.")
    ] = None,
    labels: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="What an experiment may require (clients.require).")
    ] = None,
    device: options.Device = None,
    threads: options.Threads = None,
    rotate: Annotated[
        bool | None, typer.Option("--rotate", help="Ask another replica with every request.", show_default=False)
    ] = None,
    ca: options.Ca = None,
    tls_client_cert: Annotated[Path | None, typer.Option(help="Mutual TLS: what to show to the services.")] = None,
    tls_client_key: Annotated[Path | None, typer.Option(help="Key of that certificate.")] = None,
    insecure: options.Insecure = None,
    log_level: options.LogLevel = None,
    log_format: options.LogFormat = None,
    trace: options.Trace = None,
) -> None:
    """Join with your data, and work for every run that fits, until Ctrl-C.  Only outbound connections are made."""
    given: dict[str, Any] = {key: value for key, value in locals().items() if value is not None and value != []}
    given |= _labels(given.pop("labels", []))
    if server is None and not os.environ.get("CUTLAYER_SERVER"):
        given = _here() | given
    from cutlayer.services.settings import ClientSettings

    settings = ClientSettings.read(**given)
    settings.check()
    from cutlayer.services.client.agent import run

    run(settings)


def _labels(words: list[str]) -> dict[str, Any]:
    """Return the labels as a setting, nothing where none came.  Raises ConfigError for one that is no ``key=value``."""
    found = {}
    for word in (each for text in words for each in text.split(",")):
        key, equals, value = word.partition("=")
        if not equals or not key.strip():
            from cutlayer.errors import ConfigError

            raise ConfigError(f"expected --labels key=value, got {word!r}")
        found[key.strip()] = value.strip()
    return {"labels": found} if found else {}


def _here() -> dict[str, Any]:
    """Return how to reach the services of this folder, nothing where there are none."""
    from cutlayer.commands.connecting import nearby

    local = nearby()
    state = local.read() if local is not None else None
    backend = state.of("backend") if state is not None else None
    if local is None or state is None or backend is None or backend.url is None:
        return {}
    found: dict[str, Any] = {"server": backend.url, "token_file": local.token("enrol")}
    if state.options.tls:
        found["ca"] = local.ca
    return found | ({"insecure": True} if state.options.insecure else {})
