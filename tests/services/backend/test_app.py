"""The backend as a process: without torch, ended in order, killed anywhere."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from uuid import uuid4

import pytest

from cutlayer.faults import POINTS as POINTS_OF_ALL
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


POINTS = sorted(name for name in POINTS_OF_ALL if name.startswith("backend."))


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("time", [1, 3])
def test_a_backend_that_is_killed_goes_on(point: str, time: int, tmp_path: Path) -> None:
    """Whoever got no answer asks again; the run ends as if nothing had been."""
    once = tmp_path / "killed"
    fault = {
        "fault": f"{point}@{time + (3 if 'request' in point else 0)}",
        "fault_once": once,
    }  # after the first tokens

    with live(tmp_path, sqlite(tmp_path), **fault) as backend:

        def ask(method: str, path: str, body: Any = None, token: str = OPERATOR) -> Any:
            while True:
                try:
                    return call(backend, method, path, body, token)
                except HTTPError:
                    raise
                except (ConnectionError, HTTPException, URLError):
                    backend.process.wait()
                    backend.announce.unlink(missing_ok=True)
                    backend.start()

        keys = ["cl_key_" + letter * 43 for letter in "ab"]
        for key, name in zip(keys, "ab", strict=True):
            ask("POST", "/clients", {"name": name, "key": key}, ENROL)
        tree = {"algorithm": "vanilla", "clients": 2, "rounds": 1}
        run = ask("POST", "/runs", {"experiment": tree, "submission": str(uuid4())})["id"]
        workers: list[tuple[str, dict[str, Any]]] = [(key, {}) for key in keys]
        workers += [(SERVICE, {"target": kind, "owner": f"{kind}-1"}) for kind in ("split", "fed")]
        while ask("GET", f"/runs/{run}")["state"] != "done":
            for token, body in workers:
                found = ask("POST", "/tasks/next", body, token)
                if found is not None:
                    task = found["task"]
                    result = RESULTS.get(task["kind"], lambda _: {})(task)
                    ask("POST", f"/tasks/{task['id']}/result", {"result": result}, token)
        assert once.exists(), "it was killed"
        tasks = ask("GET", f"/runs/{run}/tasks")
        kinds = Counter(task["kind"] for task in tasks if task["state"] == "done")
        assert kinds == {
            "prepare": 2, "setup": 2, "train": 2, "finish": 1, "aggregate": 1, "evaluate": 2, "score": 1, "conclude": 1
        }  # fmt: skip
        assert {task["attempts"] for task in tasks} == {1}
        assert len(ask("GET", f"/runs/{run}/metrics")) == 1
        assert len(ask("GET", "/runs")["runs"]) == 1


def test_a_wrong_path_is_answered_like_everything_else(tmp_path: Path) -> None:
    with live(tmp_path, sqlite(tmp_path)) as backend:
        with pytest.raises(HTTPError) as caught:
            call(backend, "GET", "/nothing")
        with caught.value as answer:
            assert answer.code == 404
            assert json.loads(answer.read())["code"] == "not_found"
