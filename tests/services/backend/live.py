"""A backend that listens: in a process of its own, as `cutlayer serve backend` runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.services.backend.stage import ENROL, OPERATOR, SECRET, SERVICE

PROGRAM = """
import sys
from cutlayer.services.backend.app import serve
from cutlayer.services.settings import BackendSettings
serve(BackendSettings.read(port=0))
assert "torch" not in sys.modules
"""


class Live:
    """A process with its URL; start it again on the same database after it is gone."""

    def __init__(self, folder: Path, database: str, **keys: Any) -> None:
        self.folder = folder
        self.announce = folder / f"announce-{id(self)}.json"
        given = {"database": database, "folder": folder, "announce": self.announce, "rate": 0, **keys}
        secret = {"secret": SECRET, "operator_token": OPERATOR, "service_token": SERVICE, "enrol_token": ENROL}
        self.environment = {
            **os.environ,
            **{f"CUTLAYER_{key.upper()}": str(value) for key, value in {**secret, **given}.items()},
        }
        self.start()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self.process = subprocess.Popen([sys.executable, "-c", PROGRAM], env=self.environment)
        while not self.announce.exists():
            assert self.process.poll() is None, "the backend ended at its start"
            time.sleep(0.02)
        self.url = json.loads(self.announce.read_text())["url"]

    def kill(self) -> None:
        """Kill it as the machine would: no goodbye."""
        self.process.kill()
        self.process.wait()
        self.announce.unlink(missing_ok=True)

    def stop(self) -> int:
        """Ask it to end; return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def live(folder: Path, database: str, **keys: Any) -> Iterator[Live]:
    """Yield a running backend that is gone afterwards."""
    found = Live(folder, database, **keys)
    try:
        yield found
    finally:
        found.process.kill()
        found.process.wait()
