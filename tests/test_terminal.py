"""What shows while a run goes: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import pty
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import spawn

import cutlayer
from cutlayer.terminal import Live, Plain, figures, observer

METRICS: dict[str, Any] = {
    "round": 1,
    "loss": 0.5,
    "test_accuracy": 0.25,
    "bytes_up": 3 * 1024**2,
    "bytes_down": 1024**2,
}


def test_a_terminal_sees_a_bar_with_the_figures(tmp_path: Path) -> None:
    there, here = pty.openpty()
    process = spawn("run", "rounds=3", "out=run", cwd=tmp_path, streams={"stderr": here}, TERM="xterm", COLUMNS="140")
    os.close(here)
    shown = b""
    while True:
        try:
            piece = os.read(there, 65536)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        shown += piece
    os.close(there)
    out, _ = process.communicate(timeout=300)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert process.returncode == 0
    assert "file_sync: mlp cut after relu1 and relu2 (fx), digits, 5 clients, dirichlet(alpha=0.5), 3 rounds" in text
    assert re.search(r"round +[\d.]+/3 .*loss \d\.\d{4}  accuracy +\d+\.\d\d%  up \d+ KiB", text), text
    assert "report: run/report.html" in out
    assert "\x1b" not in out


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    cutlayer.run("splitfed_v2", "mlp", "digits", rounds=3, observer=Plain())
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("splitfed_v2: mlp cut after relu1 (fx), digits, 5 clients")
    assert lines[1].startswith("round 1/3  loss")
    assert lines[-1].startswith("round 3/3  loss")


def test_what_watches(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(observer(quiet=False), Plain)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert isinstance(observer(quiet=False), Live)
    cutlayer.run("local", "mlp", "digits", rounds=1, observer=observer(quiet=True))
    assert capsys.readouterr().err == ""


def test_figures_in_words() -> None:
    assert figures(METRICS, 4 * 1024**2) == "loss 0.5000  accuracy 25.00%  up 3.00 MiB  down 1.00 MiB  total 4.00 MiB"
    assert "not evaluated" in figures({**METRICS, "test_accuracy": None}, 0)


def test_resumed_runs_say_where_they_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cutlayer.run("local", "mlp", "digits", rounds=1, out=str(tmp_path / "run"))
    cutlayer.resume(tmp_path / "run", Plain(), rounds=2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("going on after round 1")
    assert lines[-1].startswith("round 2/2")
