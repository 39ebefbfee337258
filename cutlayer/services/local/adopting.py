"""Processes of a deployment that its record does not know: their ``up`` was killed before it could write them down."""

from __future__ import annotations

from itertools import pairwise

import psutil

from cutlayer.services.local.deployment import KINDS, Deployment, Process, State


def adopted(deployment: Deployment) -> State:
    """Return the record with such processes added, and write it if there are any.

    They are known by their command line: this deployment's program, on exactly this folder.
    """
    state = deployment.read()
    known = {p.pid for p in state.processes if p.alive}
    strays = [p for p in _running(deployment) if p.pid not in known]
    for stray in strays:
        same = state.of(stray.name)
        name = stray.name if same is None or not same.alive else f"{stray.name}-{stray.pid}"
        state = state.having(Process(name, stray.kind, stray.pid, stray.started))
    if strays:
        deployment.write(state)
    return state


def _running(deployment: Deployment) -> list[Process]:
    services, clients = (f"{deployment.folder.absolute() / name}/" for name in ("announce", "clients"))
    program = list(deployment.program)
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "create_time", "status"]):
        words = (process.info["cmdline"] or [])[len(program) :]
        if not words or process.info["cmdline"][: len(program)] != program:
            continue
        flags = dict(pairwise(words))
        place = flags.get("--folder" if words[0] == "client" else "--announce", "")
        name = place.removeprefix(clients if words[0] == "client" else services).removesuffix(".json")
        kind = name.partition("-")[0]
        if name == place or kind not in KINDS or process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        found.append(Process(name, kind, process.info["pid"], process.info["create_time"]))
    return found
