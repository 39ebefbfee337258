"""Files that are written again: what is read is what was put there, whoever has the file meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from cutlayer.errors import MissingObject
from cutlayer.store import ObjectStore, spares


def put(store: ObjectStore, path: str, value: float, size: int = 100) -> None:
    store.put(path, {"x": torch.full((size,), value)}, {"value": value}, if_absent=True)


def inode(store: ObjectStore, path: str) -> int:
    assert store.folder is not None
    return (store.folder / path).stat().st_ino


def left(store: ObjectStore) -> list[Path]:
    assert store.folder is not None
    return [file for file in store.folder.rglob("*") if file.is_file()]


@pytest.mark.parametrize("size", [1, 100, 5000])
def test_a_recycled_file_is_written_again(folder: ObjectStore, size: int) -> None:
    put(folder, "a/b/1", 1.0)
    before = inode(folder, "a/b/1")
    folder.recycle("a/b/1")
    folder.recycle("a/b/1")
    assert folder.list("") == []
    assert not folder.exists("a/b/1")
    assert folder.size_bytes() == 0
    with pytest.raises(MissingObject):
        folder.get("a/b/1")
    put(folder, "c/d/2", 2.0, size)
    assert inode(folder, "c/d/2") == before
    tensors, meta = folder.get("c/d/2")
    assert torch.equal(tensors["x"], torch.full((size,), 2.0))
    assert meta == {"value": 2.0}
    assert len(left(folder)) == 1


def test_whoever_comes_second_writes_nothing(folder: ObjectStore) -> None:
    put(folder, "a/1", 1.0)
    put(folder, "a/2", 2.0)
    folder.recycle("a/2")
    with pytest.raises(Exception, match="another writer was first"):
        put(folder, "a/1", 3.0)
    assert folder.get("a/1")[1] == {"value": 1.0}
    assert len(left(folder)) == 1


def test_a_file_with_another_name_keeps_its_contents(folder: ObjectStore, tmp_path: Path) -> None:
    put(folder, "a/1", 1.0)
    assert folder.folder is not None
    backup = tmp_path / "backup"
    os.link(folder.folder / "a/1", backup)
    content = backup.read_bytes()
    folder.recycle("a/1")
    put(folder, "a/2", 2.0)
    assert backup.read_bytes() == content


def test_room_is_bounded(folder: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spares, "ROOM", 3000)
    for number in range(10):
        put(folder, f"a/{number}", 1.0)
    for number in range(10):
        folder.recycle(f"a/{number}")
    assert 1 <= len(left(folder)) <= 5
    assert folder.list("") == []


def test_spare_files_may_be_swept_away(folder: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spares, "FORGOTTEN", -10.0)
    for number in range(2):
        put(folder, f"a/{number}", 1.0)
        folder.recycle(f"a/{number}")
    other = ObjectStore(str(folder.folder))
    put(other, "b/1", 1.0)
    other.recycle("b/1")
    assert len(left(folder)) == 1
    put(folder, "a/3", 3.0)
    folder.recycle("a/3")
    put(folder, "a/4", 4.0)
    folder.recycle("a/4")
    assert folder.list("") == []


def test_a_forked_process_leaves_them_alone(folder: ObjectStore) -> None:
    put(folder, "a/1", 1.0)
    mine = inode(folder, "a/1")
    folder.recycle("a/1")
    child = os.fork()
    if not child:
        put(folder, "a/2", 2.0)
        os._exit(inode(folder, "a/2") == mine)
    assert os.waitpid(child, 0)[1] == 0
    put(folder, "a/3", 3.0)
    assert inode(folder, "a/3") == mine


CHURN = """
import sys, torch
from cutlayer.store import ObjectStore
store = ObjectStore(sys.argv[1])
for n in range(100_000):
    store.put(f"churn/{n}", {"x": torch.full((2000,), float(n))}, {"value": n})
    store.recycle(f"churn/{n - 1}")
    print(n, flush=True)
"""


def test_readers_meet_whole_objects_or_none(folder: ObjectStore) -> None:
    writer = subprocess.Popen([sys.executable, "-c", CHURN, str(folder.folder)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    newest, met, until = [0], 0, time.monotonic() + 1.5

    def follow() -> None:
        assert writer.stdout is not None
        for line in writer.stdout:
            newest[0] = int(line)

    follower = threading.Thread(target=follow)
    follower.start()
    while time.monotonic() < until or not met:
        for number in range(newest[0], newest[0] + 3):
            try:
                tensors, meta = folder.get(f"churn/{number}")
            except MissingObject:
                continue
            assert meta == {"value": number}
            assert bool((tensors["x"] == number).all())
            met += 1
    writer.kill()
    writer.wait()
    follower.join()
    writer.stdout.close()
