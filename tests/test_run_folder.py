"""The run folder: what a resume finds damaged is named, and never summed up as if it were whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cutlayer.engines.folder import CONFIG, METRICS, RunFolder
from cutlayer.errors import RunFolderError


def _lines(*rounds: object) -> str:
    return "".join(json.dumps({"round": r}) + "\n" for r in rounds)


@pytest.mark.parametrize("rest", ["", _lines(3, 4), '{"round": 3, "lo'])
def test_what_came_after_the_checkpoint_is_dropped(tmp_path: Path, rest: str) -> None:
    (tmp_path / METRICS).write_text(_lines(1, 2) + rest)
    assert [r["round"] for r in RunFolder(tmp_path).cut_metrics(2)] == [1, 2]
    assert (tmp_path / METRICS).read_text() == _lines(1, 2)


@pytest.mark.parametrize("text", [None, "", "[1]\n", _lines(1), _lines(1, 3), _lines(1, 1), _lines(2), _lines(1) + "{"])
def test_metrics_that_miss_a_round_are_refused_and_left_as_they_are(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / METRICS
    if text is not None:
        path.write_text(text)
    with pytest.raises(RunFolderError, match=r"rounds 1 to 2 .* is missing or damaged"):
        RunFolder(tmp_path).cut_metrics(2)
    assert (path.read_text() if path.exists() else None) == text


def test_a_damaged_config_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text("a: [1")
    with pytest.raises(RunFolderError, match="cannot be read") as raised:
        RunFolder.open(tmp_path)
    assert "\n" not in str(raised.value)


def test_two_processes_do_not_write_one_run(tmp_path: Path) -> None:
    with RunFolder(tmp_path).locked(), pytest.raises(RunFolderError, match="another process is writing"):
        RunFolder(tmp_path).locked().__enter__()
    with RunFolder(tmp_path).locked():
        pass
