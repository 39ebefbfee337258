"""Makes processes that have imported everything already, by fork: a restart takes a moment, not the seconds of torch.

As a program it reads ``{"words", "environment", "log"}`` line by line, starts ``cutlayer <words>`` in a new session for
each, and answers with its process id.  It ends with its standard input; what it started lives on.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any


class Nursery:
    """A parent of services.  ``Popen`` is what ``up`` takes for starting a process."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._lock = threading.Lock()
        self._parent = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )
        assert self._parent.stdout is not None
        assert self._parent.stdout.readline() == "ready\n"

    def start(self, words: list[str], environment: dict[str, str], log: Path) -> int:
        """Start ``cutlayer`` with ``words`` and return its process id."""
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        with self._lock:
            said = json.dumps({"words": words, "environment": environment, "log": str(log)})
            self._parent.stdin.write(said + "\n")
            self._parent.stdin.flush()
            return int(self._parent.stdout.readline())

    def close(self) -> None:
        """End the parent."""
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.close()
        self._parent.wait(30)
        self._parent.stdout.close()


def _import_everything() -> None:
    import torch
    from sqlalchemy import create_engine

    from cutlayer.config import load
    from cutlayer.engines.prepare import blueprint, load_dataset
    from cutlayer.roles.assembly import Assembly
    from cutlayer.services.backend.database import migrate
    from cutlayer.services.outlines import reported

    for name in ("cli", "services.backend.app", "services.split.app", "services.federated.app", "services.client.agent",
                 "commands.serve", "commands.client"):  # fmt: skip
        importlib.import_module(f"cutlayer.{name}")
    for name in ("uvicorn.loops.auto", "uvicorn.lifespan.on", "uvicorn.protocols.http.httptools_impl", "aiosqlite",
                 "asyncpg", "sqlalchemy.dialects.sqlite.aiosqlite", "sqlalchemy.dialects.postgresql.asyncpg",
                 "safetensors.torch", "sklearn.datasets"):  # fmt: skip
        importlib.import_module(name)
    torch.set_num_threads(1)
    experiment = load(None, (), rounds=1, device="cpu", threads=1)
    _, outline = reported(load_dataset(experiment.data), experiment)
    Assembly(*blueprint(experiment, outline)[:2])
    with create_engine("sqlite://").begin() as connection:
        migrate(connection)


def _born(said: dict[str, Any]) -> None:
    """Be the new process."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(said["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for at, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(at, target)
    os.environ.clear()
    os.environ.update(said["environment"])
    import cutlayer.faults
    from cutlayer.cli import main

    importlib.reload(cutlayer.faults)  # it reads the environment; who has imported `point` has its globals too
    sys.argv = ["cutlayer", *said["words"]]
    main()


def _serve() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    _import_everything()
    print("ready", flush=True)
    for line in iter(sys.stdin.readline, ""):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                _born(json.loads(line))
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        print(child, flush=True)


if __name__ == "__main__":
    _serve()
