"""The commands about services: a real backend, and puppets that learn nothing in place of all others."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from commands import Ended, call, finish, spawn

from cutlayer.commands import live, serve
from cutlayer.commands.live import Bar, Lines, sentence
from cutlayer.services import settings
from cutlayer.services.local import deployment
from cutlayer.services.local.deployment import Deployment
from cutlayer.services.local.down import down
from cutlayer.services.protocol import EventView, RunView

Call = Callable[..., Ended]
PUPPETS = Path(__file__).parent / "services" / "local" / "puppets.py"
EXPERIMENT = ("algorithm=fedavg", "rounds=3", "clients=2")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(deployment, "PROGRAM", (sys.executable, str(PUPPETS)))
    for name in [n for n in os.environ if n.startswith("CUTLAYER_")]:
        monkeypatch.delenv(name)
    yield tmp_path
    for record in tmp_path.rglob("services.json"):
        down(Deployment(record.parent), grace=10)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], here: Path) -> Call:
    return lambda *words: call(capsys, *words)


@pytest.fixture
def running(run: Call) -> None:
    """Services and two clients in the current folder."""
    ended = run("up", "--split", "1", "--clients", "2", "--json")
    assert ended.code == 0, ended.err


def _fails(ended: Ended, code: int, says: str) -> None:
    assert ended.code == code, ended
    assert re.search(says, ended.err), ended.err
    assert ended.err.splitlines()[-1].startswith("cutlayer: ")
    assert "Traceback" not in ended.err


def _alive(here: Path) -> list[str]:
    return sorted(p.name for p in Deployment(here / ".cutlayer").read().processes if p.alive)


# --- up, down, status, logs ----------------------------------------------------------------------------------------


def test_up_status_logs_down(run: Call, here: Path) -> None:
    ended = run("up", "--split", "2")
    assert ended.code == 0
    assert "split-2 is ready: http://127.0.0.1:" in ended.err
    url = re.search(r"^backend +(http://127\.0\.0\.1:\d+)", ended.out, re.M)
    assert url
    assert f"cutlayer client --server {url[1]} --token-file .cutlayer/tokens/enrol" in ended.out
    assert re.search(r"^dashboard http://127\.0\.0\.1:\d+ .*tokens/operator", ended.out, re.M)
    assert _alive(here) == ["backend", "dashboard", "fed", "split-1", "split-2"]
    shown = run("status")
    assert shown.code == 0
    assert re.search(r"^backend +ready +\d+ +http", shown.out, re.M)
    found = json.loads(run("status", "--json").out)
    assert found["healthy"] is True
    assert [s["state"] for s in found["services"]] == ["ready"] * 5

    os.kill(next(s["pid"] for s in found["services"] if s["name"] == "split-1"), signal.SIGKILL)
    ended = run("status")
    _fails(ended, 10, r"split-1 is dead; start what is missing with: cutlayer up")
    assert re.search(r"^split-1 +dead", ended.out, re.M)
    again = json.loads(run("up", "--json").out)
    assert again["started"] == ["split-1"]
    assert again["url"] == url[1]

    assert "/readyz" in run("logs", "backend", "-n", "100").out or "listen" in run("logs", "backend", "-n", "100").out
    lines = [json.loads(line) for line in run("logs", "--json", "-n", "1").out.splitlines()]
    assert {line["service"] for line in lines} <= {"backend", "fed", "split-1", "split-2", "dashboard"}
    _fails(run("logs", "splitt"), 2, "no log of 'splitt'")

    (here / "deep/down").mkdir(parents=True)
    os.chdir(here / "deep/down")
    assert set(json.loads(run("down", "--json").out)["stopped"]) == {
        "backend",
        "fed",
        "split-1",
        "split-2",
        "dashboard",
    }
    os.chdir(here)
    assert run("down").err == "nothing runs here\n"
    _fails(run("status"), 2, "expected services here .*cutlayer up.*--server")


def test_with_certificates(run: Call, here: Path) -> None:
    ended = run("up", "--tls", "--split", "0", "--clients", "1", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["url"].startswith("https://127.0.0.1:")
    assert json.loads(run("status", "--json").out)["healthy"]
    ended = run("submit", "algorithm=fedavg", "rounds=1", "clients=1", "--wait", "--out", "result", "--json")
    assert json.loads(ended.out)["rounds"] == 1
    url, token = json.loads(run("up", "--json").out)["url"], ".cutlayer/tokens/operator"
    _fails(run("token", "--server", url, "--token-file", token), 10, "cannot be trusted")
    assert run("token", "--server", url, "--token-file", token, "--ca", ".cutlayer/certs/ca.pem").code == 0
    _fails(run("up", "--insecure"), 2, "expected insecure False, with which the services of .cutlayer run, got True")


def test_ctrl_c_while_services_start(here: Path) -> None:
    process = spawn("up", cwd=here, streams={"stderr": -1})
    for line in process.stderr:
        if "backend is ready" in line:
            break
    before = Deployment(here / ".cutlayer").read().processes
    process.send_signal(signal.SIGINT)
    ended = finish(process)
    assert ended.code == 130
    assert not any(psutil.pid_exists(p.pid) and p.alive for p in before)
    assert not (here / ".cutlayer/services.json").exists()
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(here) in " ".join(p.info["cmdline"] or [])]


def test_logs_that_are_followed(run: Call, here: Path) -> None:
    (here / ".cutlayer/logs").mkdir(parents=True)
    Deployment(here / ".cutlayer").write(deployment.State())
    log = here / ".cutlayer/logs/fed.log"
    log.write_text("one\ntwo\n")
    process = spawn("logs", "fed", "-f", "-n", "1", cwd=here)
    assert process.stdout.readline() == "two\n"
    with open(log, "a") as file:
        file.write("three\n")
    assert process.stdout.readline() == "three\n"
    process.send_signal(signal.SIGINT)
    assert finish(process).code == 130


# --- runs ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("running")
def test_submit_and_watch_to_a_run_folder(run: Call, here: Path) -> None:
    ended = run("submit", *EXPERIMENT, "--watch", "--name", "mine")
    assert ended.code == 0, ended.err
    lines = ended.err.splitlines()
    assert re.fullmatch(r"submitted mine-[0-9a-f]{8}", lines[0])
    id = lines[0].split()[1]
    assert lines[1] == f"{id}: fedavg, mlp, digits, 2 clients, 3 rounds, seed 0"
    assert lines[-1].startswith("round 3/3  loss 0.5000  accuracy 75.00%")
    assert f"report: runs/{id}/report.html" in ended.out

    out = here / "runs" / id
    assert (out / "model.safetensors").read_bytes() == b"weights" * 100
    assert yaml.safe_load((out / "config.yaml").read_text())["rounds"] == 3
    assert [json.loads(line)["round"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
    assert json.loads((out / "summary.json").read_text())["test_accuracy"] == 0.75
    assert run("report", out).code == 0
    again = run("watch", id, "--out", "again", "--json")
    assert json.loads(again.out)["out"] == "again"
    assert again.err == ""
    compared = json.loads(run("compare", out, "again", "--json").out)
    assert [row["accuracy"] for row in compared["runs"]] == [0.75, 0.75]

    assert re.search(rf"^{id} +done +3/3 +fedavg +accuracy 75\.00%", run("status").out, re.M)
    shown = run("status", id)
    assert re.search(r"^0 +client-1 +connected +10", shown.out, re.M)
    assert "round 3: done, 2 of 2 clients have finished" in shown.out
    assert json.loads(run("status", id, "--json").out)["state"] == "done"
    assert "is done: 3 rounds, test accuracy 75.00%" in run("watch", id, "-q").out
    _fails(run("submit", *EXPERIMENT, "--wait", "--out", out), 5, "to be new or empty")


@pytest.mark.usefixtures("running")
def test_submit_and_steer(run: Call, here: Path) -> None:
    (here / "exp.yaml").write_text("algorithm: fedavg\nclients: {count: 2, require: {site: mars}}\n")
    id = run("submit", "exp.yaml", "rounds=4", "-q").out.strip()
    assert json.loads(run("submit", "exp.yaml", "--json").out).keys() == {"id"}
    assert run("pause", id).out == f"{id}: queued, paused, round 0 of 4\n"
    assert json.loads(run("resume", id, "--json").out)["paused"] is False
    assert run("cancel", id).out == f"{id}: cancelled, round 0 of 4\n"
    _fails(run("resume", id), 10, "cancelled")
    _fails(run("watch", id), 10, f"the run {id} is cancelled")
    _fails(run("watch", "nowhere"), 10, "nowhere")
    _fails(run("submit", "algorithm=centralized"), 2, "needs all data in one place")
    _fails(run("submit", "aggregator=fedsum"), 2, "aggregator must be one of fedavg")
    _fails(run("submit", "optimizer.lr=-1"), 2, "optimizer Adam refuses its arguments")
    _fails(run("submit", "roundz=3"), 2, "no key 'roundz'")
    _fails(run("submit", "a.yaml", "b.yaml"), 2, "expected one experiment file")


@pytest.mark.usefixtures("running")
def test_ctrl_c_ends_the_watching_only(run: Call, here: Path) -> None:
    (here / "exp.yaml").write_text("algorithm: fedavg\nclients: {count: 2, require: {site: mars}}\n")
    process = spawn("submit", "exp.yaml", "--watch", cwd=here)
    said = [process.stderr.readline() for _ in range(2)]
    id = said[0].split()[1]
    process.send_signal(signal.SIGINT)
    ended = finish(process)
    assert ended.code == 130
    assert ended.err.splitlines()[-1] == (
        f"cutlayer: interrupted; the run goes on; follow it with: cutlayer watch {id}"
    )
    assert json.loads(run("status", id, "--json").out)["state"] == "queued"
    for words in (("status",), ("status", id)):
        assert "waits for 2 clients with site=mars" in run(*words).out


@pytest.mark.usefixtures("running")
def test_watching_outlives_the_backend(here: Path, run: Call) -> None:
    (here / "exp.yaml").write_text("algorithm: fedavg\nclients: {count: 2, require: {site: mars}}\n")
    id = run("submit", "exp.yaml").out.strip()
    process = spawn("watch", id, cwd=here)
    process.stderr.readline()
    backend = Deployment(here / ".cutlayer").read().of("backend")
    assert backend is not None
    os.kill(backend.pid, signal.SIGKILL)
    assert json.loads(run("up", "--json").out)["started"] == ["backend"]
    assert run("cancel", id).code == 0
    _fails(finish(process), 10, "is cancelled")


def test_a_folder_is_resumed_here_and_an_id_there(run: Call, here: Path) -> None:
    _fails(run("resume", "nowhere"), 5, r"expected a run folder with config\.yaml")
    assert run("up", "--split", "0", "--json").code == 0
    _fails(run("resume", "nowhere"), 10, "nowhere")
    (here / "folder").mkdir()
    _fails(run("resume", "folder"), 5, r"expected a run folder with config\.yaml")


# --- finding the backend, tokens, certificates -----------------------------------------------------------------------


@pytest.mark.usefixtures("running")
def test_another_token_and_another_place(run: Call, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    viewer = run("token", "viewer", "--name", "wall", "--days", "1").out.strip()
    assert viewer.startswith("cl_view_")
    made = json.loads(run("token", "enrol", "--json").out)
    assert made["role"] == "enrol"
    assert made["id"] in run("token").out
    url = Deployment(here / ".cutlayer").read().of("backend").url  # type: ignore[union-attr]
    os.chdir("/")
    _fails(run("status"), 2, "expected services here")
    _fails(run("cancel", "x", "--server", str(url)), 2, "expected your token")
    (here / "viewer").write_text(viewer)
    seen = json.loads(run("status", "--server", str(url), "--token-file", here / "viewer", "--json").out)
    assert {c["name"] for c in seen["clients"]} == {"client-1", "client-2"}
    monkeypatch.setenv("CUTLAYER_SERVER", str(url))
    monkeypatch.setenv("CUTLAYER_TOKEN", viewer)
    assert "client-2  connected" in run("status").out
    _fails(run("cancel", "x"), 10, "role operator")
    monkeypatch.setenv("CUTLAYER_TOKEN", "cl_op_wrong")
    _fails(run("status"), 10, "token")
    monkeypatch.delenv("CUTLAYER_SERVER")
    monkeypatch.delenv("CUTLAYER_TOKEN")
    os.chdir(here)
    assert run("token", "--revoke", made["id"]).out == f"{made['id']} is revoked\n"
    _fails(run("token", "king"), 2, "expected one of the roles operator, viewer, service, enrol")
    _fails(run("token", "--server", "http://example.org", "--token", "x"), 2, "--insecure")


def test_certificates(run: Call, here: Path) -> None:
    made = json.loads(run("certs", "backend.example", "10.0.0.5", "--client", "north", "--json").out)
    assert [m["cert"] for m in made] == [f".cutlayer/certs/{n}.pem" for n in ("ca", "services", "north")]
    assert made[1]["names"] == ["backend.example", "10.0.0.5"]
    again = run("certs")
    assert "ca.pem" not in again.out
    assert "localhost, 127.0.0.1" in again.out
    assert (here / ".cutlayer/certs/services.key").stat().st_mode & 0o777 == 0o600
    _fails(run("certs", "not a host"), 2, "host name or an address")


def test_bad_places(run: Call, here: Path) -> None:
    _fails(run("submit", "--server", "http://127.0.0.1:9", "--token", "x y"), 2, "odd characters")
    _fails(run("cancel", "x", "--folder", "nowhere"), 2, "expected services in nowhere")
    (here / "file").write_text("")
    _fails(run("up", "--folder", "file"), 2, "cannot be used for services")
    _fails(run("client", "--labels", "colour"), 2, "expected --labels key=value")
    _fails(run("client", "--server", "http://example.org", "--token", "x"), 2, "insecure")
    _fails(run("serve", "backend", "--host", "0.0.0.0", "--port", "0"), 2, "without TLS")
    assert run("serve").code == 2


# --- demo ----------------------------------------------------------------------------------------------------------


def test_demo(run: Call, here: Path) -> None:
    ended = run("demo", *EXPERIMENT, "--folder", "kept")
    assert ended.code == 0, ended.err
    assert "backend is ready" in ended.err
    assert "client-2 has joined" in ended.err
    assert re.search(r"^watch it at http://127\.0\.0\.1:\d+$", ended.err, re.M)
    assert (here / "kept/services/tokens/viewer").read_text().startswith("cl_view_")
    assert "75.0" in ended.out
    assert not (here / "kept/services/services.json").exists()
    assert (here / "kept/run/report.html").exists()
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(here) in " ".join(p.info["cmdline"] or [])]
    _fails(run("demo", "--folder", "kept"), 5, "new or empty")


def test_demo_leaves_nothing_behind(run: Call, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    (here / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(here / "tmp"))
    ended = run("demo", *EXPERIMENT, "--json")
    assert json.loads(ended.out)["test_accuracy"] == 0.75
    assert ended.err == ""
    assert list((here / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("client-1:fails", "the loss is not finite"),
        ("client-2:leaves", "client-2 ended while the demo ran: the power is gone"),
    ],
)
def test_demo_that_fails(run: Call, here: Path, monkeypatch: pytest.MonkeyPatch, fault: str, says: str) -> None:
    monkeypatch.setenv("PUPPET", fault)
    _fails(run("demo", *EXPERIMENT, "--folder", "kept"), 10, says)
    assert not (here / "kept/services/services.json").exists()


def test_demo_that_is_ended_from_outside(here: Path) -> None:
    process = spawn("demo", *EXPERIMENT, "--folder", "kept", cwd=here)
    for line in process.stderr:
        if "backend is ready" in line:
            break
    before = Deployment(here / "kept/services").read().processes
    process.terminate()
    assert finish(process).code == 128 + signal.SIGTERM
    assert before
    assert not any(p.alive for p in before)
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(here) in " ".join(p.info["cmdline"] or [])]


# --- how it shows --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("running")
def test_a_terminal_sees_a_bar_with_the_figures(here: Path) -> None:
    there, mine = pty.openpty()
    process = spawn("submit", *EXPERIMENT, "--watch", cwd=here, streams={"stderr": mine}, TERM="xterm", COLUMNS="140")
    os.close(mine)
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
    assert finish(process).code == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "fedavg, mlp, digits, 2 clients, 3 rounds" in text
    assert re.search(r"round +[\d.]+/3 .*loss 0\.5000  accuracy +75\.00%  up 2\.00 KiB", text), text


RUN = RunView(
    id="a-1", state="queued", algorithm="fedavg", rounds=2, created=0.0,
    experiment={"model": {"name": "mlp"}, "data": {"name": "digits"}, "clients": {"count": 2}, "seed": 0},
)  # fmt: skip


def _event(event: str, /, **data: object) -> EventView:
    return EventView(id=1, time=0.0, kind=event, round=1, data=data)


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (_event("run.state", state="queued", paused=False, reason=None), "waiting for clients"),
        (_event("run.state", state="running", paused=True, reason="too few clients"), "paused: too few clients"),
        (_event("run.state", state="running", paused=False), None),
        (_event("run.state", state="failed", reason="no classes"), "failed: no classes"),
        (_event("client.dropped", number=3, reason="late"), "round 1: client 3 is left out: late"),
        (
            _event("task.failed", kind="train", target="client:x", number=2, message="full", retried=True),
            "train at client 2 failed: full; trying again",
        ),
        (_event("progress", batches=1, of=2), None),
    ],
)
def test_sentences(event: EventView, says: str | None) -> None:
    assert sentence(event) == says


def test_lines_of_a_run_without_a_test_set(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    lines.opened(RUN)
    metrics = {"loss": None, "test_accuracy": None, "own_accuracy": 0.5, "bytes_up": 1, "bytes_down": 2}
    lines.event(_event("round", round=1, **metrics))
    lines.event(_event("round", round=1, **metrics))
    lines.event(_event("round", round=2, **metrics))
    lines.closed()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4
    assert said[1] == "waiting for 2 clients"
    assert said[2].startswith("round 1/2  loss nan  accuracy 50.00%")
    assert said[3].startswith("round 2/2")


def test_the_bar_moves_with_the_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "note", lambda _: None)
    bar = Bar()
    bar.event(_event("progress", kind="train"))
    bar.opened(RUN)
    assert bar._bar is not None
    try:
        seen = []
        bar.event(_event("round.state", state="selected", participants=[{}, {}]))
        for number, batches in ((0, 5), (1, 5), (1, 10)):
            bar.event(_event("progress", kind_="", kind="train", number=number, batches=batches, of=10))
            seen.append(bar._bar.tasks[0].completed)
        bar.event(_event("client.dropped", number=1, reason="late"))
        assert seen == [0.25, 0.5, 0.75]
    finally:
        bar.closed()


# --- flags ---------------------------------------------------------------------------------------------------------

SECRET = {"secret", "token", "operator_token", "service_token", "enrol_token", "database_password"}


@pytest.mark.parametrize(
    ("command", "model"),
    [
        (serve.backend, "BackendSettings"),
        (serve.split, "SplitSettings"),
        (serve.fed, "FedSettings"),
        (serve.dashboard, "DashboardSettings"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_setting_has_a_flag(command: Callable[..., None], model: str) -> None:
    import inspect

    fields = set(getattr(settings, model).model_fields)
    assert set(inspect.signature(command).parameters) == fields - SECRET


def test_every_setting_of_a_client_has_a_flag() -> None:
    import inspect

    from cutlayer.commands.client import client

    assert set(inspect.signature(client).parameters) == set(settings.ClientSettings.model_fields)


COMMANDS = ("up", "down", "status", "logs", "client", "submit", "watch", "cancel", "pause", "resume", "certs", "token")
HELPED = [(command, "--help") for command in (*COMMANDS, "demo", "serve")]


@pytest.mark.parametrize("words", [*HELPED, ("serve", "split", "--help")], ids=" ".join)
def test_help_imports_nothing_heavy(words: tuple[str, ...], tmp_path: Path) -> None:
    ended = finish(spawn(*words, cwd=tmp_path, flags=("-X", "importtime")))
    assert ended.code == 0
    assert "Usage" in ended.out
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in ended.err.splitlines()}
    assert not imported & {"torch", "numpy", "sqlalchemy", "fastapi", "urllib3", "psutil", "cryptography"}
