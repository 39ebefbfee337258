"""A program in place of ``cutlayer``: the backend is the real one, all others work without torch and learn nothing.

PUPPET=<name>:<fault>: ``fails`` its training, ``leaves`` during it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

from cutlayer.services.api import Backend
from cutlayer.services.http import Link, Tls
from cutlayer.services.protocol import Task

words = sys.argv[1:]
flags = dict(pairwise(words))
kind = words[1] if words[0] == "serve" else "client"
name = flags.get("--name") or flags.get("--id", "")
fault = dict(each.split(":") for each in os.environ.get("PUPPET", "").split(",") if each).get(name)

SHAPE = {"samples": 10, "test_samples": 4, "classes": 3, "inputs": [{"shape": [4], "dtype": "float32"}]}
TRAINED = {"samples": 10, "batches": 2, "loss_sum": 5.0, "bytes_up": 1024, "bytes_down": 2048, "seconds": 0.1}
SCORED = {"count": 4, "correct": 3, "loss": 2.0}
MODEL = b"weights" * 100


def link(url: str, token: str | None) -> Link:
    ca = flags.get("--ca")
    return Link(url, token=token, tls=Tls(ca=None if ca is None else Path(ca)), patience=None)


def work(backend: Backend, target: Any, answer: Callable[[Task], dict[str, Any]]) -> None:
    while True:
        task = backend.next_task(target, None if target is None else name, wait=10)
        if task is None:
            continue
        if fault == "leaves" and task.kind == "train":
            print("cutlayer: the power is gone", file=sys.stderr, flush=True)
            os._exit(1)
        if fault == "fails" and task.kind == "train":
            backend.error(task.id, "the loss is not finite")
            continue
        if task.kind == "train":
            backend.heartbeat(task.id, 1, 2)
        backend.result(task.id, answer(task), None if target is None else name)


def client() -> None:
    token = Path(flags["--token-file"]).read_text().strip()
    key = Backend(link(flags["--server"], token)).enrol(name).key
    answers: dict[str, dict[str, Any]] = {"prepare": SHAPE, "train": TRAINED, "evaluate": SCORED}
    work(Backend(link(flags["--server"], key)), None, lambda task: answers[task.kind])


def serve() -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", int(flags["--port"])), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    announce = Path(flags["--announce"])
    said = {"pid": os.getpid(), "host": "127.0.0.1", "port": server.server_port, "url": url}
    announce.with_suffix(".part").write_text(json.dumps(said))
    announce.with_suffix(".part").replace(announce)
    if kind == "dashboard":
        threading.Event().wait()
    token = Path(flags["--token-file"]).read_text().strip()
    backend = Backend(link(flags["--backend"], token))

    def answer(task: Task) -> dict[str, Any]:
        if task.kind == "conclude":
            model = announce.with_suffix(".model")
            model.write_bytes(MODEL)
            backend.upload(task.run, "model.safetensors", model)
            return {"device": "cpu", "threads": 1, "parameters": {"encoder": 10}, "data_note": "puppets"}
        return SCORED if task.kind == "score" else {}

    work(backend, kind, answer)


if kind == "backend":
    os.execv(sys.executable, [sys.executable, "-m", "cutlayer.cli", *words])
client() if kind == "client" else serve()
