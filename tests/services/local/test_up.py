"""Services of this machine: started, found again, restarted and stopped, with real processes that do no work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from cutlayer.errors import ConfigError, ServiceError
from cutlayer.services.local import up as up_module
from cutlayer.services.local.deployment import Deployment, Options, Process, State, announced, nearest
from cutlayer.services.local.down import down
from cutlayer.services.local.ending import held, orderly
from cutlayer.services.local.health import look
from cutlayer.services.local.status import status
from cutlayer.services.local.up import up

STUB = (sys.executable, str(Path(__file__).with_name("stub.py")))


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUTLAYER_TOKEN", "cl_op_mine")
    deployment = Deployment(tmp_path / "services", STUB)
    yield deployment
    down(deployment, grace=5)


def pids(deployment: Deployment) -> dict[str, int]:
    return {p.name: p.pid for p in deployment.read().processes}


def kill(process: Process | None) -> None:
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(process.pid)] if psutil.pid_exists(process.pid) else [], timeout=10)


def test_all_of_it(there: Deployment) -> None:
    said: list[str] = []
    found = up(there, said.append, split=2, clients=2)
    assert found.started == ("backend", "fed", "split-1", "split-2", "dashboard", "client-1", "client-2")
    assert all(p.alive for p in found.processes)
    assert found.backend.url is not None
    assert found.backend.url.endswith(str(found.backend.port))
    assert said[0].startswith("backend is ready: http://127.0.0.1:")
    assert said[-1] == "client-2 has joined"
    seen = status(there)
    assert seen.healthy
    assert {h.process.name: h.condition for h in seen.processes}["client-1"] == "running"
    assert [c.name for c in seen.clients] == ["client-1", "client-2"] or len(seen.clients) == 2
    assert sorted(down(there)) == sorted(found.started)
    assert not any(p.alive for p in found.processes)
    assert not there.record.exists()
    assert down(there) == []


def test_tokens_are_made_once_and_readable_by_their_owner_only(there: Deployment) -> None:
    up(there, split=1)
    tokens = {role: there.token(role).read_text() for role in ("operator", "service", "enrol")}
    assert [tokens[role].startswith(prefix) for role, prefix in up_module.PREFIXES.items()] == [True] * 3
    for file in [*(there.token(role) for role in tokens), there.folder / "secret"]:
        assert file.stat().st_mode & 0o777 == 0o600
    down(there)
    up(there, split=1)
    assert tokens == {role: there.token(role).read_text() for role in tokens}
    assert not any(t.strip() in " ".join(p.cmdline()) for t in tokens.values() for p in _running(there))


def _running(there: Deployment) -> list[psutil.Process]:
    return [found for p in there.read().processes if (found := p.found()) is not None]


def test_the_operators_own_variables_do_not_reach_the_services(
    there: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUTLAYER_PORT", "1")
    monkeypatch.setenv("CUTLAYER_LOG_LEVEL", "debug")
    up(there, split=0)
    assert "begins with ['CUTLAYER_LOG_LEVEL']" in there.log("backend").read_text()


def test_up_again_starts_what_is_missing_at_its_old_place(there: Deployment) -> None:
    first = up(there, split=2)
    before = {p.name: p for p in first.processes}
    kill(before["split-2"])
    assert look(there, before["split-2"]).condition == "dead"
    said: list[str] = []
    second = up(there, said.append)
    after = {p.name: p for p in second.processes}
    assert second.started == ("split-2",)
    assert f"backend runs already (process {before['backend'].pid})" in said
    assert after["split-2"].pid != before["split-2"].pid
    assert after["split-2"].port == before["split-2"].port
    assert {n: p for n, p in after.items() if n != "split-2"} == {n: p for n, p in before.items() if n != "split-2"}
    assert up(there, split=3).started == ("split-3",)
    assert up(there, split=1).started == ()


def test_the_backend_comes_back_at_its_old_place_after_all_were_stopped(there: Deployment) -> None:
    before = up(there, split=1).backend.url
    down(there)
    assert up(there, split=1).backend.url == before


def test_up_again_with_other_options(there: Deployment) -> None:
    up(there, split=0)
    with pytest.raises(ConfigError, match=r"expected host 127\.0\.0\.1.* got 127\.0\.0\.2; .*cutlayer down"):
        up(there, host="127.0.0.2")
    assert len(_running(there)) == 3


def test_survivors_of_a_crashed_terminal_are_found_again(there: Deployment) -> None:
    program = f"""
import os, signal
from pathlib import Path
from cutlayer.services.local.deployment import Deployment
from cutlayer.services.local.up import up
there = Deployment(Path({str(there.folder)!r}), {STUB!r})
up(there, lambda line: line.startswith("split-1") and os.kill(os.getpid(), signal.SIGKILL), split=2)
"""
    ended = subprocess.run([sys.executable, "-c", program], env={**os.environ, "STUB": ""}, check=False)
    assert ended.returncode == -signal.SIGKILL
    survivors = {p.name: p.pid for p in there.read().processes if p.alive}
    assert set(survivors) == {"backend", "fed", "split-1", "split-2", "dashboard"}
    assert up(there).started == ()
    assert pids(there) == survivors
    down(there)
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in survivors.values())


def test_a_process_that_was_never_written_down_is_found(there: Deployment) -> None:
    found = up(there, split=1, clients=1)
    there.record.unlink()
    assert up(there, split=1, clients=1).started == ()
    assert pids(there) == {p.name: p.pid for p in found.processes}
    kept = there.read()
    there.write(replace(kept, processes=tuple(p for p in kept.processes if p.name == "backend")))
    assert set(down(there, grace=5)) == {"backend", "fed", "split-1", "dashboard", "client-1"}
    assert not any(p.alive for p in found.processes)
    other = Deployment(there.folder.with_name("other"), STUB)
    up(there, split=0)
    assert down(other) == []
    assert len(_running(there)) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_wait_while_a_process_is_written_down(number: signal.Signals) -> None:
    steps = []

    def start() -> None:
        with orderly():
            with held():
                signal.raise_signal(number)
                steps.append("written")
            steps.append("never")

    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit):
        start()
    assert steps == ["written"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_process_with_a_reused_id_is_left_alone(there: Deployment) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        born = psutil.Process(stranger.pid).create_time()
        there.write(State(Options(), (Process("split-1", "split", stranger.pid, born - 60, 1, "http://127.0.0.1:1"),)))
        assert look(there, there.read().processes[0]).condition == "dead"
        assert down(there) == []
        assert stranger.poll() is None
        assert not there.record.exists()
    finally:
        stranger.kill()
        stranger.wait()


def test_a_service_that_ends_at_once(there: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB", "split-1:ends")
    with pytest.raises(
        ServiceError, match=r"split-1 ended as soon as it was started: the database is nowhere; its log"
    ):
        up(there, split=2)
    assert not there.record.exists()


def test_what_ran_before_a_failure_stays(there: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    up(there, split=1, dashboard=False)
    before = pids(there)
    monkeypatch.setenv("STUB", "split-3:ends")
    with pytest.raises(ServiceError, match="split-3 ended"):
        up(there, split=3)
    assert pids(there) == before
    assert len(_running(there)) == 3


def test_a_service_that_is_never_ready(there: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB", "backend:deaf")
    with pytest.raises(ServiceError, match=r"expected backend to be ready within 2 s.* answers 503.*its log"):
        up(there, ready_within=2)
    assert not there.record.exists()


def test_a_service_that_does_not_listen_to_sigterm(there: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB", "fed:stubborn")
    found = up(there, split=0, dashboard=False)
    said: list[str] = []
    assert set(down(there, said.append, grace=0.3)) == {"backend", "fed"}
    assert said == ["fed did not end by itself and was killed", "backend is stopped"]
    assert not any(p.alive for p in found.processes)


def test_a_process_that_nobody_collects_is_not_waited_for(there: Deployment) -> None:
    """As in a container whose first process does not do that."""
    careless = "import subprocess as s, sys, time; print(s.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", careless], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        born = psutil.Process(pid).create_time()
        there.write(State(Options(), (Process("split-1", "split", pid, born, 1, "http://127.0.0.1:1"),)))
        stopping = threading.Thread(target=down, args=(there,), kwargs={"grace": 600.0}, daemon=True)
        stopping.start()
        stopping.join(60)
        assert not stopping.is_alive()
        assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        parent.kill()


def test_interrupted_up_stops_what_it_started(there: Deployment) -> None:
    def interrupt(line: str) -> None:
        if line.startswith("split-1"):
            raise KeyboardInterrupt

    seen: list[Process] = []
    with pytest.raises(KeyboardInterrupt):
        up(there, lambda line: (seen.extend(there.read().processes), interrupt(line))[0], split=2)
    assert {p.name for p in seen} == {"backend", "fed", "split-1", "split-2", "dashboard"}
    assert not any(p.alive for p in seen)
    assert not there.record.exists()


def test_one_at_a_time(there: Deployment) -> None:
    refused: list[str] = []

    def other(line: str) -> None:
        for act in (lambda: up(there), lambda: down(there)):
            with pytest.raises(ServiceError) as error:
                act()
            refused.append(str(error.value))

    up(there, other, split=0, dashboard=False)
    assert len(refused) == 4
    assert all("another cutlayer starts or stops" in each for each in refused)
    assert [p.name for p in there.read().processes if p.alive] == ["backend", "fed"]


def test_ended_services_leave_no_zombies(there: Deployment) -> None:
    found = up(there, split=0)
    ended = [psutil.Process(p.pid) for p in found.processes]
    down(there)
    _, left = psutil.wait_procs(ended, timeout=10)
    assert left == []
    assert not [t for t in threading.enumerate() if t.name.startswith("reaper") and not t.daemon]


def test_a_record_that_is_torn(there: Deployment) -> None:
    there.folder.mkdir()
    for text in ("{", "[]", '{"options": {}, "processes": [{"pid": 1}]}'):
        there.record.write_text(text)
        with pytest.raises(ServiceError, match=r"cannot be read .*then delete it"):
            there.read()
    there.record.unlink()


def test_the_record_is_replaced_whole(there: Deployment) -> None:
    state = State(Options(split=3), (Process("fed", "fed", 1, 2.5, 3, None),))
    there.write(state)
    assert there.read() == state
    assert json.loads(there.record.read_text())["options"]["split"] == 3
    assert {p.name for p in there.folder.iterdir()} == {"services.json"}
    there.write(replace(state, processes=()))


def test_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a/b")
    assert nearest(tmp_path / "a/b") is None
    Deployment(tmp_path / ".cutlayer").write(State())
    found = nearest()
    assert found is not None
    assert found.folder.resolve() == (tmp_path / ".cutlayer").resolve()
    monkeypatch.chdir(tmp_path)
    assert nearest() == Deployment(Path(".cutlayer"))


def test_what_is_announced_on_all_interfaces_is_reached_on_this_machine() -> None:
    said = {"pid": 1, "host": "0.0.0.0", "port": 7400, "url": "https://here.example:7400"}
    assert announced(said) == ("https://127.0.0.1:7400", 7400)
    assert announced({**said, "host": "127.0.0.1"}) == ("https://here.example:7400", 7400)


def test_a_dashboard_is_there_unless_it_is_not_wanted(there: Deployment) -> None:
    assert up(there, split=0, dashboard=False).dashboard is None
    found = up(there, dashboard=True)
    assert found.started == ("dashboard",)
    assert found.dashboard is not None
    words = psutil.Process(found.dashboard.pid).cmdline()
    assert words[words.index("--backend") + 1] == found.backend.url
    assert not {"--token-file", "--secret-file"} & set(words)
    assert {h.process.name: h.condition for h in status(there).processes}["dashboard"] == "ready"
    assert set(down(there)) == {"backend", "fed", "dashboard"}
