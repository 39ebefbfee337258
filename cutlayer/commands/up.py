"""``cutlayer up``, ``down``, ``status`` and ``logs``: the services on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cutlayer.commands import options
from cutlayer.commands.live import wanted

if TYPE_CHECKING:
    from cutlayer.commands.connecting import Place
    from cutlayer.services.local.deployment import Deployment, Process
    from cutlayer.services.local.status import Status
    from cutlayer.services.protocol import ClientView, Member, RunView

Here = Annotated[Path, typer.Option(help="Folder of the services: processes, logs, tokens, database, store.")]


def up(
    folder: Here = Path(".cutlayer"),
    split: Annotated[int | None, typer.Option(help="Split servers (default: 2).", min=0)] = None,
    clients: Annotated[
        int | None, typer.Option(help="Clients on this machine, with the experiment's data (default: 0).", min=0)
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (default: 127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the backend (default: any).", min=0, max=65535)] = None,
    tls: Annotated[
        bool | None, typer.Option("--tls", help="With certificates, made in FOLDER/certs where there are none.")
    ] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Listen without TLS where others can connect.")
    ] = None,
    dashboard: Annotated[bool | None, typer.Option("--dashboard/--no-dashboard", help="With a live page.")] = None,
    as_json: options.Json = False,
) -> None:
    """Start backend, federated server, split servers and dashboard as processes, or what is missing of them.

    They stay when this command ends.  Variables such as CUTLAYER_DATABASE reach them.
    """
    from cutlayer.services.local.deployment import Deployment
    from cutlayer.services.local.up import up as start

    there = Deployment(folder)
    wanted: dict[str, Any] = {"split": split, "clients": clients, "host": host, "port": port, "dashboard": dashboard}
    told = (lambda _: None) if as_json else options.note
    found = start(there, told, **wanted, tls=tls, insecure=insecure)
    url, page = found.backend.url, found.dashboard
    if as_json:
        options.show_json(
            {
                "folder": str(folder),
                "url": url,
                "dashboard": None if page is None else page.url,
                "operator_token_file": str(there.token("operator")),
                "enrol_token_file": str(there.token("enrol")),
                "processes": [_process(there, p) for p in found.processes],
                "started": found.started,
            }
        )
        return
    typer.echo(f"backend   {url}  (API: {url}/docs)")
    if page is not None:
        typer.echo(f"dashboard {page.url}  (sign in with what is in {there.token('operator')})")
    join = f"cutlayer client --server {url} --token-file {there.token('enrol')}"
    typer.echo(f"join      {join} --data package.module:function")
    typer.echo("train     cutlayer submit exp.yaml --watch")
    typer.echo("stop      cutlayer down")


def down(folder: options.Folder = None, as_json: options.Json = False) -> None:
    """Stop the services that `cutlayer up` started here; runs go on when they are started again."""
    from cutlayer.commands.connecting import nearby
    from cutlayer.services.local.deployment import FOLDER, Deployment
    from cutlayer.services.local.down import down as stop

    local = nearby(folder) or (Deployment(FOLDER) if FOLDER.is_dir() else None)
    stopped = stop(local, (lambda _: None) if as_json else options.note) if local is not None else []
    if as_json:
        options.show_json({"stopped": stopped})
    elif not stopped:
        options.note("nothing runs here")


def logs(
    services: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SERVICE ...]", help="backend, fed, split, split-1, dashboard, client-3, ..."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written from now on.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="Last lines of each log.", min=0)] = 20,
    folder: options.Folder = None,
    as_json: options.Json = False,
) -> None:
    """Show the logs of the services on this machine."""
    from cutlayer.commands.connecting import nearby
    from cutlayer.services.local import logs as reading
    from cutlayer.services.local.deployment import FOLDER, Deployment

    files = reading.files(nearby(folder) or Deployment(FOLDER), services or [])
    width = max((len(file.stem) for file in files), default=0)

    def show(file: Path, line: str) -> None:
        if as_json:
            import json

            print(json.dumps({"service": file.stem, "line": line}), flush=True)
        else:
            print(f"{file.stem:<{width}} | {line}" if len(files) > 1 else line, flush=True)

    for file, line in reading.read(files, lines, follow):
        show(file, line)


@options.taking(place=options.PLACE)
def status(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run, to see more of it.")] = None,
    *,
    place: options.Given,
    as_json: options.Json = False,
) -> None:
    """Say which services, clients and runs there are, and how they are."""
    from cutlayer.commands.connecting import connect, deployment

    if run is not None:
        _show_run(connect(**place), run, as_json)
    elif "server" in place or ("folder" not in place and os.environ.get("CUTLAYER_SERVER")):
        _show_remote(connect(**place), as_json)
    else:
        from cutlayer.services.local.status import status as look

        there = deployment(place.get("folder"))
        _show_local(there, look(there), as_json)


def _show_local(there: Deployment, found: Status, as_json: bool) -> None:
    if as_json:
        options.show_json(
            {
                "folder": str(there.folder),
                "healthy": found.healthy,
                "services": [
                    {**_process(there, h.process), "state": h.condition, "reason": h.reason} for h in found.processes
                ],
                "clients": [c.model_dump(mode="json") for c in found.clients],
                "runs": [_brief(r) for r in found.runs],
            }
        )
    else:
        rows = [
            (h.process.name, h.condition, str(h.process.pid), h.process.url or "", h.reason) for h in found.processes
        ]
        options.show_table(("service", "state", "pid", "url", ""), rows)
        _show_clients_and_runs(found.clients, found.runs)
    if not found.healthy:
        from cutlayer.services.errors import ServiceError

        ill = ", ".join(f"{h.process.name} is {h.condition}" for h in found.processes if h.condition not in _WELL)
        raise ServiceError(f"{ill}; start what is missing with: cutlayer up")


_WELL = ("ready", "running")


def _show_remote(place: Place, as_json: bool) -> None:
    backend = place.backend()
    services, clients, runs = backend.services(), backend.clients(), backend.runs(limit=10).runs
    if as_json:
        options.show_json(
            {
                "server": place.server,
                "services": [s.model_dump(mode="json") for s in services],
                "clients": [c.model_dump(mode="json") for c in clients],
                "runs": [_brief(r) for r in runs],
            }
        )
        return
    rows = [("backend", "", "ready", place.server)]
    rows += [(s.kind, s.id, "ready" if s.live else "away", s.url) for s in services]
    options.show_table(("service", "id", "state", "url"), rows)
    _show_clients_and_runs(clients, runs)


def _show_clients_and_runs(clients: Any, runs: Any) -> None:
    there = [c for c in clients if not c.revoked]
    if there:
        typer.echo()
        options.show_table(
            ("client", "state", "labels"),
            [
                (c.name, _presence(c),
                 ", ".join(f"{k}={v}" for k, v in c.capabilities.labels.items()))
                for c in there
            ],
        )  # fmt: skip
    if runs:
        typer.echo()
        options.show_table(("run", "state", "round", "algorithm", ""), [_row(r) for r in runs])


def _show_run(place: Place, run: str, as_json: bool) -> None:
    backend = place.backend()
    found, rounds, tasks = backend.run(run), backend.rounds(run), backend.tasks(run)
    if as_json:
        options.show_json(
            {
                **found.model_dump(mode="json"),
                "rounds_done": [r.model_dump(mode="json") for r in rounds],
                "open_tasks": [t.model_dump(mode="json") for t in tasks if t.state in ("waiting", "leased")],
            }
        )
        return
    options.show_table(("run", "state", "round", "algorithm", ""), [_row(found)])
    if found.members:
        typer.echo()
        options.show_table(
            ("client", "name", "state", "samples"),
            [(str(m.number), m.name, _presence(m), "" if m.samples is None else str(m.samples)) for m in found.members],
        )
    if rounds:
        last = rounds[-1]
        dropped = f", without client {', '.join(map(str, last.dropped))}" if last.dropped else ""
        finished = f"{len(last.finished)} of {len(last.participants)} clients have finished"
        typer.echo(f"\nround {last.round}: {last.state}, {finished}{dropped}")
    open_tasks = [t for t in tasks if t.state in ("waiting", "leased")]
    if open_tasks:
        typer.echo()
        options.show_table(
            ("task", "for", "state", ""),
            [
                (t.kind, f"client {t.client}" if t.client is not None else t.target, t.state, t.error or "")
                for t in open_tasks
            ],
        )


def _presence(client: ClientView | Member) -> str:
    return "connected" if client.connected else "away"


def _row(run: RunView) -> tuple[str, ...]:
    state = f"{run.state}, paused" if run.paused else run.state
    accuracy = (run.summary or {}).get("test_accuracy")
    end = run.reason or ("" if accuracy is None else f"accuracy {accuracy:.2%}")
    if run.state == "queued" and not run.reason:
        end = f"waits for {wanted(run.experiment)}"
    return run.id, state, f"{run.round}/{run.rounds}", run.algorithm, end


def _brief(run: RunView) -> dict[str, Any]:
    return run.model_dump(mode="json", exclude={"experiment", "members", "example"})


def _process(there: Deployment, process: Process) -> dict[str, Any]:
    return {
        "name": process.name,
        "kind": process.kind,
        "pid": process.pid,
        "url": process.url,
        "log": str(there.log(process.name)),
    }
