"""The logs of the services on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from cutlayer.errors import ConfigError
from cutlayer.services.local.deployment import Deployment

LOOK_EVERY = 0.2


def files(deployment: Deployment, names: Sequence[str] = ()) -> list[Path]:
    """Return the logs of ``names`` (all of them if none is given).  Raises ConfigError for one that is not there.

    A kind stands for all of it: ``split`` for ``split-1``, ``split-2``, ...
    """
    there = sorted((deployment.folder / "logs").glob("*.log"))
    if not names:
        return there
    found = []
    for name in names:
        mine = [log for log in there if log.stem == name or log.stem.rpartition("-")[0] == name]
        if not mine:
            known = ", ".join(log.stem for log in there) or "none, because nothing was started there yet"
            raise ConfigError(f"there is no log of {name!r} in {deployment.folder}; there are: {known}")
        found += mine
    return list(dict.fromkeys(found))


def read(logs: Sequence[Path], lines: int, follow: bool = False) -> Iterator[tuple[Path, str]]:
    """Yield the last ``lines`` of each log; then, to ``follow``, every line that is added, for ever.

    A log that was cut or replaced is read from its start.
    """
    places = dict.fromkeys(logs, 0)
    rests = dict.fromkeys(logs, b"")
    for log in logs:
        added, rests[log], places[log] = _added(log, 0, b"")
        if rests[log] and not follow:
            added.append(rests[log])
        for line in added[len(added) - lines :] if lines < len(added) else added:
            yield log, line.decode("utf-8", "replace")
    while follow:
        quiet = True
        for log in logs:
            added, rests[log], place = _added(log, places[log], rests[log])
            quiet, places[log] = quiet and place == places[log], place
            for line in added:
                yield log, line.decode("utf-8", "replace")
        if quiet:
            time.sleep(LOOK_EVERY)


def _added(log: Path, place: int, rest: bytes) -> tuple[list[bytes], bytes, int]:
    """Return the whole lines after ``place``, what follows the last of them, and the new place."""
    try:
        with open(log, "rb") as file:
            if file.seek(0, os.SEEK_END) < place:
                place, rest = 0, b""
            file.seek(place)
            piece = file.read()
    except FileNotFoundError:
        return [], rest, place
    *lines, rest = (rest + piece).split(b"\n")
    return lines, rest, place + len(piece)
