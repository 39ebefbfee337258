"""A split server that is told to end sends away who waits for what is still on its way."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from cutlayer import wire
from cutlayer.roles.replica import NotYet
from cutlayer.services import tickets
from cutlayer.services.settings import SplitSettings
from cutlayer.services.split.app import create_app
from cutlayer.services.split.hosting import Hosting
from cutlayer.services.tickets import Ticket
from cutlayer.wire import Message
from tests.services.web.apps import served

SECRET = "a secret of the tests that is long enough"


@pytest.mark.usefixtures("logging_restored")
@pytest.mark.parametrize("rate", [0, 1000], ids=["fast lane", "all layers"])
def test_the_end_does_not_wait_for_who_waits(rate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = threading.Event()

    def answer(*_: object, **__: object) -> Message:
        waits.set()
        raise NotYet("the batch before it is still on its way")

    monkeypatch.setattr(Hosting, "answer", answer)
    keys = {"backend": "http://127.0.0.1:9", "token": "cl_svc_x", "secret": SECRET, "port": 0}
    settings = SplitSettings(folder=tmp_path, rate=rate, **keys)
    ticket = tickets.issue(SECRET, Ticket("run", 1, 0, "t", "train", "c"), 60)
    answers: list[Any] = []

    def ask(url: str) -> None:
        body = wire.encode(Message("train", {}, {}))
        headers = {"Authorization": f"Bearer {ticket}"}
        answers.append(httpx.post(f"{url}/v1/runs/run/rounds/1/train", content=body, headers=headers, timeout=60))

    with served(create_app(settings), settings) as listening:
        thread = threading.Thread(target=ask, args=(listening.url,))
        thread.start()
        assert waits.wait(30)
    thread.join(60)
    (found,) = answers
    assert found.status_code == 503
    assert found.json()["error"] == "this server is about to end; ask another one, or come back"
    assert found.headers["retry-after"] == "1"
