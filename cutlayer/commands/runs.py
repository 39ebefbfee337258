"""``cutlayer submit``, ``watch``, ``cancel``, ``pause`` and ``resume``: runs on services."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cutlayer.commands import options

if TYPE_CHECKING:
    from cutlayer.config import Experiment
    from cutlayer.services.api import Backend
    from cutlayer.services.protocol import RunView

Out = Annotated[Path | None, typer.Option(help="Run folder for the result: configuration, metrics, model, report.")]


@options.taking(place=options.PLACE)
def submit(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE.yaml] [key=value ...]", help="An experiment file, and keys that override it."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show how it goes until its end; fetch the result.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="As --watch, without showing it.")] = False,
    out: Out = None,
    name: Annotated[str | None, typer.Option(help="How the run's id begins.")] = None,
    *,
    place: options.Given,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train an experiment on the connected clients that satisfy it; prints the run's id."""
    from cutlayer.commands.collecting import check_new
    from cutlayer.commands.connecting import connect
    from cutlayer.errors import ConfigError
    from cutlayer.services.errors import Unprocessable

    experiment = load(arguments or [])
    check(experiment)
    following = watch or wait
    out = out or (Path(experiment.out) if experiment.out else None)
    if out is not None:
        check_new(out)
    there = connect(**place)
    try:
        run = there.backend().submit(experiment.model_copy(update={"out": None}).as_dict(), name or experiment.name)
    except Unprocessable as error:
        if error.code == "bad_experiment":
            raise ConfigError(str(error)) from None
        raise
    if not following:
        options.show_json({"id": run}) if as_json else typer.echo(run)
        return
    if not quiet and not as_json:
        options.note(f"submitted {run}")
    _watch(there.backend(patience=None), run, out or Path("runs") / run, as_json, quiet or wait)


@options.taking(place=options.PLACE)
def watch(
    run: options.Run,
    out: Out = None,
    *,
    place: options.Given,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show how a run goes until it ends.  With --out its result is fetched into a run folder."""
    from cutlayer.commands.collecting import check_new
    from cutlayer.commands.connecting import connect

    if out is not None:
        check_new(out)
    there = connect(**place)
    there.backend().run(run)  # a wrong id, token or address is said at once; later the backend may be away
    _watch(there.backend(patience=None), run, out, as_json, quiet)


@options.taking(place=options.PLACE)
def cancel(
    run: options.Run,
    *,
    place: options.Given,
    as_json: options.Json = False,
) -> None:
    """End a run for good; its metrics stay."""
    _act("cancel", run, as_json, place)


@options.taking(place=options.PLACE)
def pause(
    run: options.Run,
    *,
    place: options.Given,
    as_json: options.Json = False,
) -> None:
    """Let a run wait: clients finish what they do, and nothing new begins."""
    _act("pause", run, as_json, place)


def resume(run: str, as_json: bool, place: options.Given) -> None:
    """Let a paused run go on."""
    _act("resume", run, as_json, place)


def remote(run: str, server: str | None, folder: Path | None) -> bool:
    """Whether ``run`` means a run on services: it is no folder here, and there are services to ask."""
    import os

    from cutlayer.commands.connecting import nearby

    if Path(run).exists():
        return False
    return server is not None or folder is not None or bool(os.environ.get("CUTLAYER_SERVER")) or nearby() is not None


def load(arguments: list[str]) -> Experiment:
    """Return the experiment of ``[FILE.yaml] [key=value ...]``.  Raises ConfigError."""
    from cutlayer import config
    from cutlayer.errors import ConfigError

    files = [a for a in arguments if "=" not in a]
    if len(files) > 1:
        raise ConfigError(f"expected one experiment file and key=value pairs, got the files {', '.join(files)}")
    return config.load(files[0] if files else None, [a for a in arguments if "=" in a])


def check(experiment: Experiment) -> None:
    """Raise ConfigError for what no service could train; code of the user's own is left to where it is allowed."""
    from cutlayer import choices, codecs, optimizers
    from cutlayer.config import ROLES
    from cutlayer.roles.aggregators import aggregator

    choices.check(experiment)
    for role in ROLES:
        optimizers.check(getattr(experiment.optimizer, role), experiment.rounds)
    aggregator(experiment.aggregator)
    for spec in choices.codecs(experiment.codec).values():
        if spec["name"] in codecs.CODECS:
            codecs.build(spec)


def show(run: RunView, out: Path | None, as_json: bool) -> None:
    """Print what came of a run.  Raises ServiceError for one that did not come to its end."""
    from cutlayer.services.errors import ServiceError

    if run.state != "done":
        why = f": {run.reason}" if run.reason else ""
        raise ServiceError(f"the run {run.id} {'has failed' if run.state == 'failed' else f'is {run.state}'}{why}")
    if as_json:
        options.show_json({"id": run.id, **(run.summary or {}), "out": None if out is None else str(out)})
    elif out is not None:
        from rich.console import Console

        from cutlayer import report

        console = Console()
        console.print(report.summary_table(report.load_run(out)))
        console.print(f"report: {out / 'report.html'}", markup=False, highlight=False, soft_wrap=True)
    else:
        accuracy = (run.summary or {}).get("test_accuracy")
        reached = "" if accuracy is None else f", test accuracy {accuracy:.2%}"
        typer.echo(f"{run.id} is done: {run.rounds} rounds{reached}; fetch it with: cutlayer watch {run.id} --out ...")


def _watch(backend: Backend, run: str, out: Path | None, as_json: bool, quiet: bool) -> None:
    from cutlayer.commands.collecting import collect
    from cutlayer.commands.live import follow, view

    options.going_on(f"the run goes on; follow it with: cutlayer watch {run}")
    ended = follow(backend, run, view(quiet or as_json))
    if out is not None and ended.state == "done":
        collect(backend, ended, out)
    show(ended, out, as_json)


def _act(act: str, run: str, as_json: bool, place: options.Given) -> None:
    from cutlayer.commands.connecting import connect

    backend = connect(**place).backend()
    getattr(backend, act)(run)
    found = backend.run(run)
    if as_json:
        options.show_json(found.model_dump(mode="json", exclude={"experiment", "members", "example"}))
        return
    state = f"{found.state}, paused" if found.paused else found.state
    typer.echo(f"{found.id}: {state}, round {found.round} of {found.rounds}")
