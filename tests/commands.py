"""The command line as a test calls it: in this process, or as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cutlayer import cli


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, and what it wrote to standard output and standard error."""

    code: int
    out: str
    err: str


def call(capsys: pytest.CaptureFixture[str], *words: str | Path) -> Ended:
    """Run ``cutlayer *words`` in this process, in the current folder."""
    capsys.readouterr()
    path = list(sys.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["cutlayer", *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            sys.path[:] = path
    return Ended(code, *capsys.readouterr())


def spawn(
    *words: str | Path,
    cwd: Path,
    before: Callable[[], None] | None = None,
    flags: Sequence[str] = (),
    streams: Mapping[str, int] | None = None,
    **environment: str,
) -> Any:
    """Start ``cutlayer *words`` as a process; ``before`` is called in it first.  Ctrl-C reaches it as in a terminal."""

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if before is not None:
            before()

    return subprocess.Popen(
        [sys.executable, *flags, "-m", "cutlayer.cli", *map(str, words)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        text=True,
        preexec_fn=prepare,
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **(streams or {})},
    )


def finish(process: Any) -> Ended:
    """Wait for a process and return how it ended."""
    out, err = process.communicate(timeout=300)
    return Ended(process.returncode, out, err)
