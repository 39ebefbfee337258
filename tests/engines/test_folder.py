"""The run folder: whole files, whole lines, and errors that say what to do."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from cutlayer.config import parse
from cutlayer.engines.folder import RunFolder
from cutlayer.errors import NoSpace, RunFolderError


def _folder(path: Path) -> RunFolder:
    return RunFolder.create(path, parse({"rounds": 7}))


def test_an_experiment_is_found_again(tmp_path: Path) -> None:
    _folder(tmp_path / "deep" / "run")
    assert RunFolder.open(tmp_path / "deep" / "run")[1] == parse({"rounds": 7})


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    assert _folder(tmp_path).path == tmp_path


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunFolderError, match="to be new or empty, and it holds something already; choose another"):
        _folder(tmp_path)
    with pytest.raises(RunFolderError, match="to be new or empty"):
        _folder(tmp_path / "file")
    _folder(tmp_path / "run")
    with pytest.raises(RunFolderError, match="go on with: cutlayer resume"):
        _folder(tmp_path / "run")


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"rounds: [1"])
def test_a_broken_config_is_named(content: bytes, tmp_path: Path) -> None:
    _folder(tmp_path)
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(RunFolderError, match=r"config\.yaml cannot be read"):
        RunFolder.open(tmp_path)


def test_metrics_lose_what_a_crash_left_behind(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    for number in (1, 2, 3):
        folder.append_metrics({"round": number, "loss": number / 2})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"round": 4, "lo')
    assert [m["round"] for m in folder.cut_metrics(2)] == [1, 2]
    folder.append_metrics({"round": 3})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1, 2, 3]


def test_only_the_newest_checkpoint_stays(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    assert folder.checkpoint() is None
    for done in (1, 2, 10):
        folder.write_checkpoint(done, {"w": torch.full((2,), float(done))}, {"done": done})
    found = folder.checkpoint()
    assert found is not None
    assert found[1] == {"done": 10}
    assert torch.equal(found[0]["w"], torch.full((2,), 10.0))
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_files_are_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _folder(tmp_path)
    folder.write("summary.json", "old")

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        folder.write("summary.json", "new and longer")
    assert (tmp_path / "summary.json").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.yaml", "summary.json"]


def test_a_full_disk_is_a_sentence_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _folder(tmp_path)
    folder.write("summary.json", "old")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NoSpace, match="the disk is full; free some space, then resume the run"):
        folder.write("summary.json", "new")
    assert (tmp_path / "summary.json").read_text() == "old"


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be written"):
        _folder(tmp_path / "file" / "run")
