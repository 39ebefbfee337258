"""Objects on disk: torn, changed, foreign and misplaced ones are named, full and read-only disks too."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cutlayer.errors import DamagedObject, MissingObject, NoSpace, StoreError
from cutlayer.store import ObjectStore
from cutlayer.store.remote import Remote
from cutlayer.wire import Message, encode

TENSORS = {"weight": torch.arange(300.0), "mask": torch.tensor([True, False]), "empty": torch.empty(0)}
PATH = "runs/r/weights/backbone/00000001"
law = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(store: ObjectStore) -> Path:
    store.put(PATH, TENSORS, {"n": 1})
    assert store.folder is not None
    return store.folder / PATH


@law
@given(st.floats(0, 1, exclude_max=True))
def test_a_torn_object_is_named(folder: ObjectStore, part: float) -> None:
    file = written(folder)
    raw = file.read_bytes()
    file.write_bytes(raw[: int(part * len(raw))])
    with pytest.raises(DamagedObject, match=PATH):
        folder.get(PATH)


@law
@given(st.data())
def test_a_flipped_bit_is_noticed_wherever_it_is(folder: ObjectStore, data: st.DataObject) -> None:
    file = written(folder)
    raw = bytearray(file.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(raw)
    with pytest.raises(DamagedObject, match=PATH):
        folder.get(PATH)


def test_holes_and_appended_bytes_are_noticed(folder: ObjectStore) -> None:
    file = written(folder)
    raw = file.read_bytes()
    for damaged in (raw + b"\0", raw[:600] + bytes(len(raw) - 600), bytes(len(raw)), raw + raw):
        file.write_bytes(damaged)
        with pytest.raises(DamagedObject, match=PATH):
            folder.get(PATH)


@pytest.mark.parametrize(
    "foreign",
    [
        b"",
        b"x",
        b"\x80\x04K\x01.",
        safetensors.torch.save(TENSORS),
        encode(Message("activations", TENSORS, {"sum": "0" * 16})),
        b'{"json": true}',
    ],
    ids=range(6),
)
def test_a_foreign_object_is_never_read_as_data(folder: ObjectStore, foreign: bytes) -> None:
    written(folder).write_bytes(foreign)
    for read in (folder.get, folder.meta):
        with pytest.raises(DamagedObject, match=PATH):
            read(PATH)


def test_an_object_that_belongs_elsewhere_is_refused(folder: ObjectStore) -> None:
    file = written(folder)
    shutil.copy(file, file.parent / "00000002")
    for read in (folder.get, folder.meta):
        with pytest.raises(DamagedObject, match=f"object that belongs at '{PATH}'"):
            read("runs/r/weights/backbone/00000002")


def test_damage_in_s3_is_noticed_too(s3: object) -> None:
    store: ObjectStore = s3()  # type: ignore[operator]
    store.put(PATH, TENSORS)
    assert isinstance(store._objects, Remote)
    raw = bytes(store._objects.get(PATH))
    store._objects.put(PATH, [raw[:-1]], if_absent=False)
    with pytest.raises(DamagedObject, match=PATH):
        store.get(PATH)


def test_any_safetensors_reader_opens_an_object(folder: ObjectStore) -> None:
    others = safetensors.torch.load_file(written(folder))
    assert all(torch.equal(others[name], tensor) for name, tensor in TENSORS.items())


def test_what_was_put_can_be_got_after_a_sync(tmp_path: Path) -> None:
    ObjectStore(tmp_path, sync=True).put(PATH, TENSORS)
    assert torch.equal(ObjectStore(tmp_path).get(PATH)[0]["weight"], TENSORS["weight"])


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A file system of 256 KiB."""
    place = tmp_path / "tiny"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    return place


def test_a_full_disk_is_named_and_leaves_nothing_half_written(tiny: Path) -> None:
    try:
        store = ObjectStore(tiny / "store")
        store.put("a/small", TENSORS)
        with pytest.raises(NoSpace, match="a/large"):
            store.put("a/large", {"x": torch.zeros(200_000)})
        assert store.list("") == ["a/small"]
        assert [file.name for file in (tiny / "store" / "a").iterdir()] == ["small"]
        store.put("a/other", TENSORS)
        subprocess.run(["mount", "-o", "remount,ro", str(tiny)], check=True)
        for act in (
            lambda: store.put("a/new", TENSORS),
            lambda: store.delete("a/small"),
            lambda: ObjectStore(tiny / "b"),
        ):
            with pytest.raises(StoreError, match="Read-only"):
                act()
        assert store.get("a/small")[0].keys() == TENSORS.keys()
    finally:
        subprocess.run(["umount", str(tiny)], check=True)


def test_a_limit_on_file_size_is_named(folder: ObjectStore) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(NoSpace, match="a/large"):
            folder.put("a/large", {"x": torch.zeros(200_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert folder.list("") == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for place in (tmp_path / "file", tmp_path / "file" / "store", Path("/proc/nothing/store")):
        with pytest.raises(StoreError, match=place.name):
            ObjectStore(place)


def test_missing_permission_is_named(locked: ObjectStore) -> None:
    assert locked.folder is not None
    with pytest.raises(StoreError, match="Permission denied"):
        ObjectStore(locked.folder / "more")
    with pytest.raises(StoreError, match="Permission denied"):
        locked.put("a/b", TENSORS)


def test_an_unreachable_store_is_an_error_soon() -> None:
    store = ObjectStore(
        "s3://bucket",
        endpoint="http://127.0.0.1:9",
        region="us-east-1",
        access_key_id="a",
        secret_access_key="b",
        client_options={"allow_http": True, "connect_timeout": "1s"},
    )
    with pytest.raises(StoreError, match="cannot read a/b"):
        store.get("a/b")


WRITER = """
import sys, torch
from cutlayer.store import ObjectStore
store = ObjectStore(sys.argv[1])
print("ready", flush=True)
step = 0
while True:
    step += 1
    store.put("runs/r/state", {"x": torch.full((200_000,), step)}, {"step": step})
"""


def test_a_killed_writer_leaves_whole_objects_only(folder: ObjectStore) -> None:
    assert folder.folder is not None
    for delay in (0.05, 0.1, 0.17):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, folder.folder], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        with writer, writer.stdout:
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(delay)
            writer.kill()
        try:
            tensors, meta = folder.get("runs/r/state")
        except MissingObject:
            continue
        assert bool((tensors["x"] == meta["step"]).all())


def test_a_sweep_removes_what_killed_writers_left_and_empty_folders(folder: ObjectStore) -> None:
    file = written(folder)
    assert folder.folder is not None
    (file.parent / "00000002#1").write_bytes(bytes(1000))
    (folder.folder / "runs" / "old" / "gradients").mkdir(parents=True)
    assert folder.list("") == [PATH]
    assert folder.sweep() == 0
    assert (folder.folder / "runs" / "old" / "gradients").exists()
    past = time.time() - 10_000
    for each in folder.folder.rglob("*"):
        os.utime(each, (past, past))
    assert folder.sweep() == 1000
    assert not (folder.folder / "runs" / "old" / "gradients").exists()
    assert [each.name for each in file.parent.iterdir()] == ["00000001"]
    folder.get(PATH)


def test_a_folder_among_objects_is_none(folder: ObjectStore) -> None:
    written(folder)
    assert not folder.exists("runs/r/weights")
    for path in ("runs/r/weights", f"{PATH}/more"):
        with pytest.raises(MissingObject):
            folder.get(path)
    assert folder.list(PATH) == []
    with pytest.raises(StoreError, match="Not a directory"):
        folder.put(f"{PATH}/more", TENSORS)


def test_what_a_killed_writer_left_is_in_nobodys_way(folder: ObjectStore) -> None:
    file = written(folder)
    for number in (1, 2):
        (file.parent / f"00000002#{number}").write_bytes(bytes(10))
    folder.put("runs/r/weights/backbone/00000002", TENSORS, if_absent=True)
    assert folder.list("runs") == [PATH, "runs/r/weights/backbone/00000002"]
    assert sorted(each.name for each in file.parent.iterdir()) == ["00000001", "00000002", "00000002#1", "00000002#2"]


def test_an_object_of_more_tensors_than_one_call_can_write(folder: ObjectStore) -> None:
    tensors = {f"{i}": torch.full((3,), i) for i in range(1100)}
    folder.put(PATH, tensors)
    found = folder.get(PATH)[0]
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
