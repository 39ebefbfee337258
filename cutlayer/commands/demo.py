"""``cutlayer demo``: all services and five clients on this machine, one run, and everything down again."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cutlayer.commands import options

if TYPE_CHECKING:
    from cutlayer.commands.live import View
    from cutlayer.services.http import Link
    from cutlayer.services.local.deployment import Deployment
    from cutlayer.services.protocol import EventView, RunView

LOOK_EVERY = 0.5


def demo(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE.yaml] [key=value ...]", help="Another experiment, or keys that differ."),
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Folder for everything, kept (default: see below).")] = None,
    split: Annotated[int, typer.Option(help="Split servers.", min=1)] = 2,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """See it work: backend, federated server, two split servers, a live page, five clients, a run, and its table.

    Real processes on this machine.  Ends by itself; what stays is the run folder, below runs/ as with `cutlayer run`,
    or, with --folder, that folder with everything in it.
    """
    from cutlayer.commands.collecting import check_new
    from cutlayer.commands.runs import load, show

    experiment = load(arguments or [])
    if folder is not None:
        check_new(folder / "run")
    quiet = quiet or as_json
    with _folder(folder) as root:
        from cutlayer.api import default_out
        from cutlayer.services.local.deployment import Deployment
        from cutlayer.services.local.down import down
        from cutlayer.services.local.ending import held, orderly
        from cutlayer.services.local.up import up

        there = Deployment(root / "services")
        out = root / "run" if folder is not None else Path(default_out(experiment))
        told = (lambda _: None) if quiet else options.note
        with orderly():
            try:
                page = up(there, told, split=split, clients=experiment.clients.count, open=True).dashboard
                if page is not None:
                    told(f"watch it at {page.url}")
                ended = _train(there, experiment.model_copy(update={"out": None}).as_dict(), out, quiet)
            finally:
                with held():
                    down(there)
        show(ended, out, as_json)


def _train(there: Deployment, experiment: dict[str, object], out: Path, quiet: bool) -> RunView:
    """Submit, show, and fetch the run; ended early if the processes it needs end."""
    from cutlayer.commands.collecting import collect
    from cutlayer.commands.live import follow, view
    from cutlayer.services.api import Backend
    from cutlayer.services.errors import ServiceError
    from cutlayer.services.http import Interrupted
    from cutlayer.services.local.health import link
    from cutlayer.services.secrets import read_secret

    url = next(p.url for p in there.read().processes if p.kind == "backend")
    assert url is not None
    token = read_secret(there.token("operator"), "the operator's token")
    with link(there, url, token, patience=None) as connection, _guarded(there, connection) as dead:
        backend = Backend(connection)
        try:
            ended = follow(backend, backend.submit(experiment, "demo"), _Demo(view(quiet)))
            if ended.state == "done":
                collect(backend, ended, out)
        except Interrupted:
            raise ServiceError(dead[0] if dead else "interrupted") from None
    return ended


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    """The folder of a demo; a temporary one goes with it, unless something went wrong: then its logs are needed."""
    if given is not None:
        yield given
        return
    root = Path(tempfile.mkdtemp(prefix="cutlayer-demo-"))
    try:
        yield root
    except (KeyboardInterrupt, SystemExit):
        shutil.rmtree(root, ignore_errors=True)
        raise
    except BaseException:
        options.note(f"the logs are in {root / 'services' / 'logs'}")
        raise
    shutil.rmtree(root, ignore_errors=True)


@contextmanager
def _guarded(there: Deployment, connection: Link) -> Iterator[list[str]]:
    """Interrupt ``connection`` when a process ends that the run cannot do without; say which in the list."""
    from cutlayer.services.local.health import last_words

    dead: list[str] = []
    over = threading.Event()

    def guard() -> None:
        while not over.wait(LOOK_EVERY):
            processes = there.read().processes
            ended = [p for p in processes if not p.alive]
            split = [p for p in processes if p.kind == "split"]
            ended = [p for p in ended if p.kind != "dashboard"]
            needed = [p for p in ended if p.kind != "split" or all(q in ended for q in split)]
            if needed:
                said = last_words(there.log(needed[0].name)).removeprefix("cutlayer: ")
                dead.append(f"{needed[0].name} ended while the demo ran{f': {said}' if said else ''}")
                connection.interrupt()
                return

    thread = threading.Thread(target=guard, name="guard", daemon=True)
    thread.start()
    try:
        yield dead
    finally:
        over.set()
        thread.join()


class _Demo:
    """A view that does not wait for an operator: a run that is paused has failed."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.opened, self.closed = view.opened, view.closed

    def event(self, event: EventView) -> None:
        """Show it.  Raises ServiceError when the run is paused."""
        from cutlayer.services.errors import ServiceError

        self._view.event(event)
        if event.kind == "run.state" and event.data.get("paused"):
            raise ServiceError(f"the run cannot go on: {event.data.get('reason') or 'it is paused'}")
