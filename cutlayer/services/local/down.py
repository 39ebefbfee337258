"""Stop the services of this machine: those that were recorded, and no other process ever."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import psutil

from cutlayer.services.local.adopting import adopted
from cutlayer.services.local.deployment import Deployment, Kind, Process

GRACE = 30.0
"""Seconds between SIGTERM and SIGKILL: longer than the services wait for requests in flight."""
LOOK = 0.05
"""Seconds between looks at processes that are to end."""
ORDER: tuple[tuple[Kind, ...], ...] = (("client", "dashboard"), ("split", "fed"), ("backend",))
"""Who reports to whom: those that talk to the backend end before it."""


def down(deployment: Deployment, told: Callable[[str], None] | None = None, grace: float = GRACE) -> list[str]:
    """Stop everything that runs in ``deployment`` and return the names of what was stopped.

    A recorded process whose id belongs to another process by now is forgotten and not touched.
    """
    if not deployment.folder.is_dir():
        return []
    with deployment.locked():
        return stop(deployment, [p.name for p in adopted(deployment).processes], told, grace)


def stop(
    deployment: Deployment, names: Iterable[str], told: Callable[[str], None] | None = None, grace: float = GRACE
) -> list[str]:
    """Stop the processes called ``names`` and take them out of the record; the caller has the lock."""
    wanted = set(names)
    processes = [p for p in deployment.read().processes if p.name in wanted]
    stopped: list[str] = []
    for kinds in ORDER:
        group = [p for p in processes if p.kind in kinds]
        stopped += _end(group, told or (lambda _: None), grace)
        state = deployment.read()
        gone = {p.name for p in group}
        deployment.write(replace(state, processes=tuple(p for p in state.processes if p.name not in gone)))
    if not deployment.read().processes:
        deployment.record.unlink(missing_ok=True)
    return stopped


def _end(processes: Iterable[Process], told: Callable[[str], None], grace: float) -> list[str]:
    found = {p.name: there for p in processes if (there := p.found()) is not None}
    for there in found.values():
        _signal(there.terminate)
    stubborn = _waited(list(found.values()), grace)
    killed = {each.pid for each in stubborn}
    for each in stubborn:
        _signal(each.kill)
    _waited(stubborn, 10.0)
    for name, there in found.items():
        told(f"{name} did not end by itself and was killed" if there.pid in killed else f"{name} is stopped")
    return list(found)


def _waited(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait for processes to end; return those that have not.  One that nobody has collected yet has ended too."""
    until = time.monotonic() + seconds
    while True:
        _, left = psutil.wait_procs(processes, timeout=LOOK)
        processes = [each for each in left if _lives(each)]
        if not processes or time.monotonic() >= until:
            return processes


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _signal(send: Callable[[], None]) -> None:
    try:
        send()
    except psutil.NoSuchProcess:  # it ended in between
        return
