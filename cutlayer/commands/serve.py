"""``cutlayer serve``: one service in this process, until SIGTERM or Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cutlayer.commands import options

app = typer.Typer(no_args_is_help=True, help="Run one service in this process: backend, split, fed or dashboard.")

_LISTEN, _TRUST, _WORK, _LOG = "Listening", "Trust", "Work", "Logs"

Folder = Annotated[Path | None, typer.Option(help="Where everything is kept that has no place of its own.")]
Host = Annotated[str | None, typer.Option(help="Address to listen on (default: 127.0.0.1).", rich_help_panel=_LISTEN)]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0: any.", rich_help_panel=_LISTEN)]
PublicUrl = Annotated[
    str | None, typer.Option(help="How others reach this service: a proxy, a load balancer.", rich_help_panel=_LISTEN)
]
Announce = Annotated[
    Path | None, typer.Option(help="File in which to say where this process listens.", rich_help_panel=_LISTEN)
]
Grace = Annotated[
    float | None, typer.Option(help="Seconds that requests have to end after SIGTERM.", rich_help_panel=_LISTEN)
]
Rate = Annotated[
    float | None, typer.Option(help="Requests per second and token; 0: no limit.", rich_help_panel=_LISTEN)
]
Burst = Annotated[int | None, typer.Option(help="Requests that may come at once.", rich_help_panel=_LISTEN)]
BodyLimit = Annotated[int | None, typer.Option(help="Bytes of a request's body.", rich_help_panel=_LISTEN)]
Proxies = Annotated[
    list[str] | None, typer.Option(help="Address of a proxy whose X-Forwarded-* is believed.", rich_help_panel=_LISTEN)
]
TlsCert = Annotated[Path | None, typer.Option(help="Certificate of this service (PEM).", rich_help_panel=_TRUST)]
TlsKey = Annotated[Path | None, typer.Option(help="Key of that certificate.", rich_help_panel=_TRUST)]
TlsClientCa = Annotated[
    Path | None,
    typer.Option(help="Mutual TLS: who connects shows a certificate that it signed.", rich_help_panel=_TRUST),
]
TlsClientCert = Annotated[
    Path | None, typer.Option(help="Mutual TLS: what to show to the backend.", rich_help_panel=_TRUST)
]
TlsClientKey = Annotated[Path | None, typer.Option(help="Key of that certificate.", rich_help_panel=_TRUST)]
Ca = Annotated[Path | None, typer.Option(help="Trust certificates that this CA signed.", rich_help_panel=_TRUST)]
Insecure = Annotated[
    bool | None,
    typer.Option("--insecure", help="Speak without TLS to and from other machines.", rich_help_panel=_TRUST),
]
SecretFile = Annotated[
    Path | None, typer.Option(help="File with what tickets are signed with.", rich_help_panel=_TRUST)
]
TokenFile = Annotated[Path | None, typer.Option(help="File with a service token.", rich_help_panel=_TRUST)]
LogLevel = Annotated[str | None, typer.Option(help="debug, info, warning or error.", rich_help_panel=_LOG)]
LogFormat = Annotated[str | None, typer.Option(help="console or json.", rich_help_panel=_LOG)]
Trace = Annotated[str | None, typer.Option(help="OTLP endpoint for traces (extra otel).", rich_help_panel=_LOG)]
Url = Annotated[str | None, typer.Option(help="URL of the backend (default: http://127.0.0.1:7400).")]
Store = Annotated[str | None, typer.Option(help="Folder or URL (s3://...) that all split and federated servers share.")]
Sync = Annotated[
    bool | None,
    typer.Option("--sync", help="fsync a folder store: survives a power failure.", rich_help_panel=_WORK),
]
Id = Annotated[str | None, typer.Option("--id", help="Name of this replica.", rich_help_panel=_WORK)]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...", rich_help_panel=_WORK)]
Threads = Annotated[int | None, typer.Option(help="Threads of torch.", rich_help_panel=_WORK)]
Data = Annotated[
    str | None,
    typer.Option(help="The test set of everyone: experiment, none or package.module:function.", rich_help_panel=_WORK),
]
Allow = Annotated[
    list[str] | None, typer.Option(help="A module whose code an experiment may name.", rich_help_panel=_WORK)
]

LISTENING: options.Group = {
    "host": Host,
    "port": Port,
    "public_url": PublicUrl,
    "announce": Announce,
    "grace": Grace,
    "rate": Rate,
    "burst": Burst,
    "body_limit": BodyLimit,
    "proxies": Proxies,
}
TRUST: options.Group = {
    "tls_cert": TlsCert,
    "tls_key": TlsKey,
    "tls_client_ca": TlsClientCa,
    "ca": Ca,
    "insecure": Insecure,
    "secret_file": SecretFile,
}
LOGS: options.Group = {"log_level": LogLevel, "log_format": LogFormat, "trace": Trace}
WORK: options.Group = {
    "tls_client_cert": TlsClientCert,
    "tls_client_key": TlsClientKey,
    "token_file": TokenFile,
    "sync": Sync,
    "id": Id,
    "device": Device,
    "threads": Threads,
    "data": Data,
    "allow": Allow,
}
"""What split and federated servers have in common."""


@app.command()
@options.taking(listening=LISTENING, trust=TRUST, logs=LOGS)
def backend(
    folder: Folder = None,
    *,
    listening: options.Given,
    trust: options.Given,
    logs: options.Given,
    database: Annotated[
        str | None,
        typer.Option(help="sqlite+aiosqlite:///file or postgresql+asyncpg://user@host/name."),
    ] = None,
    database_password_file: Annotated[Path | None, typer.Option(help="File with the database's password.")] = None,
    artifacts: Annotated[Path | None, typer.Option(help="Folder of the runs' models and files.")] = None,
    artifact_limit: Annotated[int | None, typer.Option(help="Bytes of an artifact.", rich_help_panel=_LISTEN)] = None,
    operator_token_file: Annotated[
        Path | None, typer.Option(help="File with the first operator token.", rich_help_panel=_TRUST)
    ] = None,
    service_token_file: Annotated[
        Path | None, typer.Option(help="File with the first service token.", rich_help_panel=_TRUST)
    ] = None,
    enrol_token_file: Annotated[
        Path | None, typer.Option(help="File with the first enrolment token.", rich_help_panel=_TRUST)
    ] = None,
    split_urls: Annotated[
        list[str] | None, typer.Option(help="What clients are told to use as split servers.", rich_help_panel=_WORK)
    ] = None,
    fed_urls: Annotated[
        list[str] | None, typer.Option(help="What clients are told to use as federated server.", rich_help_panel=_WORK)
    ] = None,
    lease_seconds: Annotated[
        float | None, typer.Option(help="Seconds after which a task without a sign is free.", rich_help_panel=_WORK)
    ] = None,
    lost_after: Annotated[
        float | None, typer.Option(help="Seconds after which a silent client is away.", rich_help_panel=_WORK)
    ] = None,
) -> None:
    """Runs, rounds, clients, tasks, metrics and events, in a database."""
    given = _given(locals())
    from cutlayer.services.settings import BackendSettings

    settings = BackendSettings.read(**given)
    settings.check()
    from cutlayer.services.backend.app import serve

    serve(settings)


@app.command()
@options.taking(listening=LISTENING, trust=TRUST, logs=LOGS, work=WORK)
def split(
    folder: Folder = None,
    backend: Url = None,
    store: Store = None,
    *,
    listening: options.Given,
    trust: options.Given,
    logs: options.Given,
    work: options.Given,
    graphs: Annotated[
        int | None, typer.Option(help="Recent graphs that are kept for backward.", rich_help_panel=_WORK)
    ] = None,
    outstanding: Annotated[
        int | None, typer.Option(help="Requests that may wait for the model.", rich_help_panel=_WORK)
    ] = None,
) -> None:
    """A replica of the split server: holds the backbone, keeps nothing that cannot be lost."""
    given = _given(locals())
    from cutlayer.services.settings import SplitSettings

    settings = SplitSettings.read(**given)
    settings.check()
    from cutlayer.services.split.app import serve

    serve(settings)


@app.command()
@options.taking(listening=LISTENING, trust=TRUST, logs=LOGS, work=WORK)
def fed(
    folder: Folder = None,
    backend: Url = None,
    store: Store = None,
    *,
    listening: options.Given,
    trust: options.Given,
    logs: options.Given,
    work: options.Given,
) -> None:
    """The federated server: averages the clients' parts."""
    given = _given(locals())
    from cutlayer.services.settings import FedSettings

    settings = FedSettings.read(**given)
    settings.check()
    from cutlayer.services.federated.app import serve

    serve(settings)


SEEING: options.Group = {
    **{name: kind for name, kind in TRUST.items() if name != "secret_file"},
    "tls_client_cert": TlsClientCert,
    "tls_client_key": TlsClientKey,
}
"""A dashboard signs no tickets."""


@app.command()
@options.taking(listening=LISTENING, trust=SEEING, logs=LOGS)
def dashboard(
    folder: Folder = None,
    backend: Url = None,
    *,
    listening: options.Given,
    trust: options.Given,
    logs: options.Given,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with a viewer's token: anybody may look, nobody signs in.", rich_help_panel=_TRUST),
    ] = None,
) -> None:
    """The live page: runs, clients, services and the model, for whoever signs in with a token."""
    given = _given(locals())
    from cutlayer.services.settings import DashboardSettings

    settings = DashboardSettings.read(**given)
    settings.check()
    from cutlayer.services.dashboard.app import serve

    serve(settings)


def _given(said: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given, those of groups with the others: an empty list is none."""
    groups = [said.pop(name) for name in ("listening", "trust", "logs", "work") if name in said]
    return {name: value for part in (said, *groups) for name, value in part.items() if value not in (None, [])}
