"""The command line.  Heavy imports happen inside the commands, so that help and version come at once.

Exit codes: 0 done; 1 to 10 as in ``cutlayer.errors`` (2 also for wrong usage); 130 after Ctrl-C.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cutlayer.commands import certs, client, demo, options, runs, serve, up
from cutlayer.commands.options import Json, Quiet
from cutlayer.version import __version__

app = typer.Typer(
    name="cutlayer",
    help="Split federated learning: cut any PyTorch model, train it exactly, see what it costs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done, 1 other, 2 usage or configuration, 3 cut, 4 data, 5 run folder, 6 training, 7 wire, "
    "8 store, 9 missing extra, 10 service, 130 interrupted.",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"cutlayer {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE.yaml] [key=value ...]", help="An experiment file, and keys that override it."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train one experiment.  Without any key: digits, 5 clients, Dirichlet 0.5, file-based synchronization."""
    from cutlayer import config

    arguments = list(arguments or [])
    files = [a for a in arguments if "=" not in a]
    if len(files) > 1:
        from cutlayer.errors import ConfigError

        raise ConfigError(f"expected one experiment file and key=value pairs, got the files {', '.join(files)}")
    experiment = config.load(files[0] if files else None, [a for a in arguments if "=" in a])

    from cutlayer.api import default_out, run_experiment
    from cutlayer.terminal import observer

    if experiment.out is None:
        experiment = experiment.model_copy(update={"out": default_out(experiment)})
    assert experiment.out is not None
    _interruptible(experiment.out)
    run_experiment(experiment, observer(quiet or as_json))
    _show(Path(experiment.out), as_json)


@app.command()
@options.taking(place=options.PLACE)
def resume(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or the id of a paused run on services.")],
    rounds: Annotated[int | None, typer.Option(help="Go on to this many rounds, also if the run is finished.")] = None,
    *,
    place: options.Given,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Go on with an interrupted run, to the same bits as if it had never stopped; or with a paused one on services."""
    if runs.remote(run, place.get("server"), place.get("folder")):
        runs.resume(run, as_json, place)
        return
    folder = Path(run)
    from cutlayer import api
    from cutlayer.terminal import observer

    _interruptible(str(folder))
    api.resume(folder, observer(quiet or as_json), rounds=rounds)
    _show(folder, as_json)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN ...", help="Run folders.")],
    target: Annotated[float | None, typer.Option(help="Accuracy (0 to 1) for bytes, rounds and seconds to it.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the charts and the page.")] = None,
    as_json: Json = False,
) -> None:
    """Lay runs side by side: accuracy, and bytes, rounds and seconds to a target."""
    from cutlayer import report

    found = report.compare(runs, target, out)
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
        return
    from rich.console import Console

    console = Console()
    console.print(report.compare_table(found))
    for note in found.notes:
        console.print(note, markup=False, highlight=False)
    for file in found.files:
        console.print(str(file), markup=False, highlight=False)


@app.command(name="report")
def report_(folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]) -> None:
    """Draw the plots and the page of a run again."""
    from cutlayer import report

    print(report.write_report(folder))


@app.command(name="list")
def list_(
    what: Annotated[
        str | None, typer.Argument(help="algorithms, models, data, partitions, codecs, aggregators or auxiliaries")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what there is to choose from."""
    from cutlayer.catalogue import catalogue

    sections = catalogue()
    if what is not None and what not in sections:
        from cutlayer.errors import ConfigError

        raise ConfigError(f"expected one of {', '.join(sections)}, got {what!r}")
    chosen = {what: sections[what]} if what else sections
    if as_json:
        print(json.dumps(chosen, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for title, rows in chosen.items():
        table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
        for column in rows[0]:
            table.add_column(column, overflow="fold", no_wrap=column == "name")
        for row in rows:
            table.add_row(*(str(v) for v in row.values()))
        console.print(table)
        console.print()


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="A model of the zoo, or package.module:function.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value ...]", help="data=..., model.<option>=..., seed=...")
    ] = None,
    at: Annotated[list[str] | None, typer.Option(help="A cut to look at; twice for the U-shape.")] = None,
    shape: Annotated[
        str | None, typer.Option("--input", help="Shape of one sample, such as 3x32x32 or 128:int64, instead of data.")
    ] = None,
    classes: Annotated[int, typer.Option(help="Number of classes, with --input.", min=2)] = 10,
    as_json: Json = False,
) -> None:
    """Say what each side holds for every possible cut: parameters, FLOPs, bytes per sample."""
    from cutlayer.inspection import inspect as look
    from cutlayer.inspection import print_rows

    rows = look(model, list(arguments or []), at or [], shape, classes)
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        print_rows(rows)


for command in (up.up, up.down, up.status, up.logs, client.client, runs.submit, runs.watch, runs.cancel, runs.pause,
                certs.certs, certs.token, demo.demo):  # fmt: skip
    app.command(rich_help_panel=options.SERVICES)(command)
app.add_typer(serve.app, name="serve", rich_help_panel=options.SERVICES)

_resumable: list[str] = []


def _interruptible(folder: str) -> None:
    _resumable.append(folder)


def _show(folder: Path, as_json: bool) -> None:
    if as_json:
        print((folder / "summary.json").read_text(), end="")
        return
    from rich.console import Console

    from cutlayer import report

    console = Console()
    console.print(report.summary_table(report.load_run(folder)))
    console.print(f"report: {folder / 'report.html'}", markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command line; errors become one sentence and an exit code."""
    from cutlayer.errors import CutlayerError

    sys.path.insert(0, os.getcwd())  # package.module:function of the user, as with python -m
    try:
        app(prog_name="cutlayer")
    except CutlayerError as error:
        _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, SystemExit) as end:  # typer turns Ctrl-C into exit code 130
        if isinstance(end, SystemExit) and end.code != 130:
            raise
        there = [f for f in _resumable if (Path(f) / "config.yaml").exists()]
        more = f"go on with: cutlayer resume {there[-1]}" if there else options.after_interrupt()
        _fail(f"interrupted; {more}" if more else "interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            again = f"then: cutlayer resume {_resumable[-1]}" if _resumable else "then try again"
            _fail(f"expected room for what is to be written, and the disk is full; free some space, {again}", 8)
        if os.environ.get("CUTLAYER_TRACEBACK"):
            raise
        _fail(f"{_first_line(error)}; set CUTLAYER_TRACEBACK=1 to see where", 1)


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _fail(message: str, code: int) -> Any:
    print(f"cutlayer: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
