"""Options that several commands have, and what an interruption says."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

SERVICES = "Services"
"""The panel of these commands in the help."""

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Server = Annotated[
    str | None, typer.Option(help="URL of the backend, or CUTLAYER_SERVER; by default that of `cutlayer up`.")
]
Token = Annotated[str | None, typer.Option(help="Your token, or CUTLAYER_TOKEN; --token-file keeps it out of sight.")]
TokenFile = Annotated[Path | None, typer.Option(help="A file with your token.")]
Ca = Annotated[Path | None, typer.Option(help="Trust certificates that this CA signed.")]
Insecure = Annotated[bool | None, typer.Option("--insecure", help="Speak without TLS to other machines too.")]
Folder = Annotated[Path | None, typer.Option(help="Folder of the services on this machine (default: .cutlayer).")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, as `cutlayer submit` printed it.")]

LogLevel = Annotated[str | None, typer.Option(help="debug, info, warning or error.")]
LogFormat = Annotated[str | None, typer.Option(help="console or json.")]
Trace = Annotated[str | None, typer.Option(help="OTLP endpoint for traces (extra otel).")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")]
Threads = Annotated[int | None, typer.Option(help="Threads of torch.")]

Group = Mapping[str, Any]
"""Options that belong together: the annotation of each, by the name that it has in the command."""
Given = dict[str, Any]
"""Which options of a group were given, and with what."""

STYLES = {
    **dict.fromkeys(("ready", "running", "connected", "done", "leased"), "green"),
    **dict.fromkeys(("queued", "preparing", "finishing", "waiting", "not ready"), "yellow"),
    **dict.fromkeys(("away", "dead", "failed", "cancelled"), "red"),
    **{f"{state}, paused": "yellow" for state in ("queued", "preparing", "running", "finishing")},
}
"""How states look."""

PLACE: Group = {
    "server": Server,
    "token": Token,
    "token_file": TokenFile,
    "ca": Ca,
    "insecure": Insecure,
    "folder": Folder,
}
"""Where the backend is."""

_after_interrupt: list[str] = []


def taking(**groups: Group) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of some groups: its parameter of a group's name gets those that were given."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        found: list[inspect.Parameter] = []
        for name, own in inspect.signature(command).parameters.items():
            options = groups.get(name, {name: hints[name]})
            default = None if name in groups else own.default
            found += [
                inspect.Parameter(each, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
                for each, annotation in options.items()
            ]

        @wraps(command)
        def called(**said: Any) -> None:
            for name, options in groups.items():
                said[name] = {each: value for each in options if (value := said.pop(each)) not in (None, [])}
            command(**said)

        del called.__wrapped__
        called.__signature__ = inspect.Signature(found)  # type: ignore[attr-defined]
        called.__annotations__ = {each.name: each.annotation for each in found}
        return called

    return decorate


def going_on(sentence: str) -> None:
    """Say from now on, when Ctrl-C ends the command, how it goes on."""
    _after_interrupt.append(sentence)


def after_interrupt() -> str | None:
    """Return how it goes on after Ctrl-C, None where nothing was said."""
    return _after_interrupt[-1] if _after_interrupt else None


def note(line: str) -> None:
    """Say what happens, on standard error."""
    typer.echo(line, err=True)


def show_json(value: Any) -> None:
    """Print ``value`` as JSON on standard output."""
    import json

    typer.echo(json.dumps(value, indent=1, default=str))


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a plain table on standard output; on a terminal the column "state" has colours."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(
            *(
                Text(cell, STYLES.get(cell, "") if column == "state" else "")
                for column, cell in zip(columns, row, strict=True)
            )
        )
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:  # a pipe has no width: nothing is folded
        console.width = 10_000
    console.print(table, soft_wrap=True)
