"""What goes wrong around the services: the network, the store, the database.

Each says so, and is over when its cause is: nobody has to do anything, or the run waits for its operator; what comes
out is the model of one process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from services.backend import postgres

from system.nursery import Nursery
from system.proxy import Proxy
from system.supervised import Supervised, Undisturbed, supervised

KEYS: dict[str, Any] = {"algorithm": "file_sync", "rounds": 3, "batch_size": 16}
MiB = 1 << 20


def until(what: Callable[[], object], services: Supervised, seconds: float = 60.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, services.said(40)
        time.sleep(0.05)


def in_round(services: Supervised, run: str, number: int) -> Callable[[], bool]:
    return lambda: services.backend.run(run).round >= number


def logged(services: Supervised, *words: str) -> Callable[[], bool]:
    """Say whether some service has written all ``words`` in a line of its log."""

    def found() -> bool:
        logs = (services.there.folder / "logs").glob("*.log")
        return any(all(w in line for w in words) for log in logs for line in log.read_text().splitlines())

    return found


def completes(services: Supervised, run: str, experiment: Any, folder: Path, undisturbed: Undisturbed) -> None:
    """The run ends, after its operator has let it go on where it waits for that, with the weights of one process."""
    view = services.ended(run)
    while view.cause == "failure":
        services.backend.resume(run)
        view = services.ended(run)
    assert view.state == "done", f"{view.reason}\n{services.said(40)}"
    services.check(run, experiment, folder, undisturbed(experiment))


# --- the network --------------------------------------------------------------------------------------------------


@contextmanager
def cut_off(folder: Path, nursery: Nursery) -> Iterator[tuple[Supervised, dict[str, Proxy]]]:
    network = {kind: Proxy() for kind in ("split", "fed", "backend")}
    try:
        with supervised(folder, nursery, network=network) as services:
            yield services, network
    finally:
        for proxy in network.values():
            proxy.close()


def survives_a_cut(seconds: float, folder: Path, nursery: Nursery, undisturbed: Undisturbed) -> None:
    with cut_off(folder / "services", nursery) as (services, network):
        run, experiment = services.submit(**KEYS)
        until(in_round(services, run, 2), services)
        for proxy in network.values():
            proxy.cut()
        time.sleep(seconds)
        assert logged(services, "closed the connection")()
        assert services.backend.run(run).state == "running"
        for proxy in network.values():
            proxy.mend()
        completes(services, run, experiment, folder, undisturbed)


def test_a_cut_network_delays_a_run(tmp_path: Path, nursery: Nursery, undisturbed: Undisturbed) -> None:
    survives_a_cut(1.5, tmp_path, nursery, undisturbed)


@pytest.mark.chaos
def test_a_network_cut_for_half_a_minute_delays_a_run(
    tmp_path: Path, nursery: Nursery, undisturbed: Undisturbed
) -> None:
    survives_a_cut(30.0, tmp_path, nursery, undisturbed)


# --- the store ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small file system of its own, for the store."""
    folder = tmp_path_factory.mktemp("volume")
    mount = [shutil.which("mount") or "false", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("a file system of its own needs the right to mount one")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture(scope="module")
def on_volume(volume: Path, tmp_path_factory: pytest.TempPathFactory, nursery: Nursery) -> Iterator[Supervised]:
    folder = tmp_path_factory.mktemp("troubles")
    with supervised(folder, nursery, CUTLAYER_STORE=str(volume / "store")) as found:
        found.place = volume / "store"
        yield found


@contextmanager
def full(volume: Path) -> Iterator[None]:
    """No byte fits."""
    filler = volume / "filler"
    with open(filler, "wb", buffering=0) as file:
        for size in (MiB, 4096, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))
    yield
    filler.unlink()


@contextmanager
def read_only(volume: Path) -> Iterator[None]:
    subprocess.run(["mount", "-o", "remount,ro", volume], check=True)
    yield
    subprocess.run(["mount", "-o", "remount,rw", volume], check=True)


LONG = pytest.mark.chaos
FULL, READ_ONLY = (full, ["the disk or quota is full"]), (read_only, ["Read-only file system"])


@pytest.mark.parametrize(
    ("recipe", "trouble", "words"),
    [
        pytest.param("file_sync", *FULL, id="file_sync-full"),
        pytest.param("file_sync", *READ_ONLY, id="file_sync-read-only", marks=LONG),
        pytest.param("splitfed_v2", *FULL, id="splitfed_v2-full", marks=LONG),
        pytest.param("splitfed_v2", *READ_ONLY, id="splitfed_v2-read-only"),
        pytest.param("fedavg", *FULL, id="fedavg-full", marks=LONG),
        pytest.param("ushaped", *FULL, id="ushaped-full", marks=LONG),
    ],
)
def test_a_store_in_trouble_delays_a_run(
    trouble: Any, words: list[str], recipe: str, volume: Path, on_volume: Supervised, undisturbed: Undisturbed,
    tmp_path: Path,
) -> None:  # fmt: skip
    for log in (on_volume.there.folder / "logs").glob("*.log"):
        os.truncate(log, 0)
    run, experiment = on_volume.submit(**{**KEYS, "algorithm": recipe})
    until(in_round(on_volume, run, 2), on_volume)
    with trouble(volume):
        until(logged(on_volume, *words), on_volume)
        assert on_volume.backend.run(run).state == "running"
    completes(on_volume, run, experiment, tmp_path, undisturbed)


def test_a_torn_object_is_named_and_never_read(
    volume: Path, on_volume: Supervised, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """All split servers die, and of what the next ones read of the round so far something is torn."""
    run, experiment = on_volume.submit(**{**KEYS, "algorithm": "splitfed_v2"})
    until(in_round(on_volume, run, 2), on_volume)
    splits = [name for name in on_volume.names() if name.startswith("split")]
    on_volume.suspended.update(splits)
    for name in splits:
        on_volume.kill(name)
    until(lambda: all(on_volume.lives.of(name).found() is None for name in splits), on_volume)
    state = sorted((volume / "store" / "runs" / run / "states" / "shared").glob("*-end"))[-1]
    content = state.read_bytes()
    state.write_bytes(content[: len(content) // 2])
    on_volume.suspended.clear()
    until(logged(on_volume, "expected an object of cutlayer at", state.name), on_volume)
    assert on_volume.backend.run(run).state == "running"
    state.write_bytes(content)
    completes(on_volume, run, experiment, tmp_path, undisturbed)


@pytest.mark.chaos
def test_clients_leave_a_cancelled_run_though_its_servers_are_away(
    on_volume: Supervised, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    run, _ = on_volume.submit(**KEYS)
    until(in_round(on_volume, run, 2), on_volume)
    splits = [name for name in on_volume.names() if name.startswith("split")]
    on_volume.suspended.update(splits)
    for name in splits:
        on_volume.kill(name)
    on_volume.backend.cancel(run)
    until(logged(on_volume, "the task was cancelled"), on_volume)
    again, experiment = on_volume.submit(**{**KEYS, "algorithm": "fedavg"})
    completes(on_volume, again, experiment, tmp_path, undisturbed)
    on_volume.suspended.clear()


# --- the database -------------------------------------------------------------------------------------------------


@pytest.mark.chaos
@pytest.mark.skipif(postgres.binaries() is None, reason="PostgreSQL is not installed")
def test_a_database_that_restarts_delays_a_run(tmp_path: Path, nursery: Nursery, undisturbed: Undisturbed) -> None:
    with (
        postgres.server() as database,
        supervised(tmp_path / "services", nursery, CUTLAYER_DATABASE=database.database()) as services,
    ):
        run, experiment = services.submit(**{**KEYS, "algorithm": "ushaped"})
        until(in_round(services, run, 1), services)
        database.stop()
        until(logged(services, "the database does not answer"), services)
        database.start()
        completes(services, run, experiment, tmp_path, undisturbed)
