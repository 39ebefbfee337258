"""The backend as a process: without torch, ended in order, killed anywhere."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from tests.services.backend.live import Live, live
from tests.services.backend.stage import ENROL, OPERATOR, RESULTS, SERVICE


def call(backend: Live, method: str, path: str, body: Any = None, token: str = OPERATOR) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(backend.url + "/v1" + path, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        text = answer.read()
        return json.loads(text) if text else None


def sqlite(folder: Path) -> str:
    return f"sqlite+aiosqlite:///{folder}/cutlayer.db"


def test_the_control_plane_never_imports_torch() -> None:
    program = (
        "import sys, cutlayer.services.backend.app, cutlayer.services.protocol\n"
        "assert not {'torch', 'numpy', 'sklearn'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_process_that_is_told_to_stop_lets_go_of_who_waits(tmp_path: Path) -> None:
    with live(tmp_path, sqlite(tmp_path)) as backend:
        answers: list[Any] = []
        poll = {"target": "split", "owner": "split-1", "wait": 30}

        def wait() -> None:
            answers.append(call(backend, "POST", "/tasks/next", poll, SERVICE))

        def follow() -> None:
            request = urllib.request.Request(f"{backend.url}/v1/events")
            request.add_header("Authorization", f"Bearer {OPERATOR}")
            with urllib.request.urlopen(request, timeout=60) as stream:
                started.set()
                answers.append(stream.read())

        started = threading.Event()
        threads = [threading.Thread(target=wait), threading.Thread(target=follow)]
        for thread in threads:
            thread.start()
        assert started.wait(30)
        assert backend.stop() == 0, "in order, and without torch"
        for thread in threads:
            thread.join(30)
        assert len(answers) == 2
        assert None in answers


def test_a_backend_that_is_killed_anywhere_goes_on(tmp_path: Path) -> None:
    with live(tmp_path, sqlite(tmp_path)) as backend:
        keys = [call(backend, "POST", "/clients", {"name": name}, ENROL)["key"] for name in "ab"]
        tree = {"algorithm": "vanilla", "clients": 2, "rounds": 1}
        run = call(backend, "POST", "/runs", {"experiment": tree})["id"]
        workers = [(key, {}) for key in keys]
        workers += [(SERVICE, {"target": kind, "owner": f"{kind}-1"}) for kind in ("split", "fed")]
        kills = 0
        for turn in range(200):
            token, body = workers[turn % len(workers)]
            task = call(backend, "POST", "/tasks/next", body, token)
            if task is None:
                if call(backend, "GET", f"/runs/{run}")["state"] == "done":
                    break
                continue
            if kills < 4:  # once it was handed out, once more after the result
                self_kill(backend)
                again = call(backend, "POST", "/tasks/next", body, token)
                assert again["task"]["id"] == task["task"]["id"]
                kills += 1
            result = RESULTS.get(task["task"]["kind"], lambda _: {})(task["task"])
            path = f"/tasks/{task['task']['id']}/result"
            call(backend, "POST", path, {"result": result}, token)
            if kills < 4:
                self_kill(backend)
                call(backend, "POST", path, {"result": result}, token)
        found = call(backend, "GET", f"/runs/{run}")
        assert found["state"] == "done"
        assert found["summary"]["rounds"] == 1


def self_kill(backend: Live) -> None:
    backend.kill()
    backend.start()


def test_a_wrong_path_is_answered_like_everything_else(tmp_path: Path) -> None:
    with live(tmp_path, sqlite(tmp_path)) as backend:
        with pytest.raises(HTTPError) as caught:
            call(backend, "GET", "/nothing")
        with caught.value as answer:
            assert answer.code == 404
            assert json.loads(answer.read())["code"] == "not_found"
