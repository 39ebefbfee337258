"""A client that lies, on real services: 4xx with a sentence, nothing changed, everything alive, the same weights.

Mallory is a client of a run who does its work properly, with the agent that everyone has; but before and after its
first message of every kind it sends whatever it can think of.  Since the run ends with the weights of `cutlayer run`,
none of that had any effect.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import http.client
import json
import random
import re
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest
import torch
from torch import Tensor

import cutlayer
from cutlayer import targets, wire
from cutlayer.errors import WireError
from cutlayer.services import tickets
from cutlayer.services.client import agent
from cutlayer.services.client.plane import DataPlane
from cutlayer.services.protocol import ENDED, Task
from cutlayer.services.secrets import read_secret
from cutlayer.services.settings import ClientSettings
from cutlayer.services.tickets import Ticket
from cutlayer.wire import Message
from system.deployed import Deployed, deployed, in_process

LIMIT = 1 << 20
BODIES = 1000
KINDS = ("forward", "backward", "train", "upload", "evaluate", "update", "handover")
ANOTHER = "another-secret-that-is-just-as-long-as-the-true-one"
ALONE: Any = {"count": 1, "require": {"name": "mallory"}}


# --- plain HTTP ------------------------------------------------------------------------------------------------------


class Wire:
    """Sends anything to one service."""

    def __init__(self, url: str) -> None:
        self._host, self._port = urlsplit(url).hostname or "", urlsplit(url).port or 0
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, method: str, path: str, token: str | None = None, body: bytes = b"") -> tuple[int, bytes]:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        if body.startswith(b"{"):
            headers["Content-Type"] = "application/json"
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self._host, self._port, timeout=120)
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        status, content = answer.status, answer.read()
        if answer.will_close:
            self._connection.close()
            self._connection = None
        return status, content

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def raw(self, text: bytes) -> bytes:
        """Send bytes, and return what comes until the service closes the connection."""
        with socket.create_connection((self._host, self._port), timeout=120) as there:
            found = b""
            with contextlib.suppress(ConnectionError):  # a service may close before it has read all
                there.sendall(text)
                there.shutdown(socket.SHUT_WR)
                while piece := there.recv(65536):
                    found += piece
        return found


def refused(status: int, content: bytes, *expected: int) -> str:
    """Return the sentence of a refusal."""
    assert status in (expected or range(400, 500)), (status, content[:500])
    found = json.loads(content)
    assert found.keys() == {"error", "code", "request_id"}
    assert found["error"]
    assert len(found["error"]) < 3000
    assert "Traceback" not in found["error"]
    return str(found["error"])


# --- lies ------------------------------------------------------------------------------------------------------------


def lies(m: Message, number: int) -> Iterator[tuple[str, Message]]:
    """Yield messages that are wrong in one respect each."""
    yield "another kind", replace(m, kind="weights")
    yield "a kind that is none", replace(m, kind="\ud800" * 3)
    for name, tensor in m.tensors.items():
        others = {k: t for k, t in m.tensors.items() if k != name}
        yield f"{name} missing", replace(m, tensors=others)
        yield f"{name} under another name", replace(m, tensors={**others, f"{name}\ud800": tensor})
        wrong = {"int32": tensor.to(torch.int32), "bool": tensor.bool()}
        if not any(":" in each for each in m.tensors):  # what a lossy codec sends may have any precision
            wrong["double"] = tensor.double()
        if tensor.ndim:
            wrong |= {"fewer rows": tensor[:-1], "more rows": torch.cat([tensor, tensor]), "no rows": tensor[:0]}
        wrong |= {"more dims": tensor.unsqueeze(-1), "flat": tensor.reshape(-1)} if tensor.ndim > 1 else {}
        if tensor.is_floating_point():
            wrong |= {"NaN": _with(tensor, float("nan")), "infinity": _with(tensor, float("-inf"))}
        elif name == "y":
            wrong |= {
                "a class too high": _with(tensor, 10),
                "a negative class": _with(tensor, -1),
                "huge": _with(tensor, 2**62),
            }
        for what, other in wrong.items():
            if other.dtype != tensor.dtype or other.shape != tensor.shape or not torch.equal(other, tensor):
                yield f"{name}: {what}", replace(m, tensors={**others, name: other})
    some = next(iter(m.tensors.values()))
    for extra in ("x", "h00", "h1", "h999999999", "d7", "z", "weights/x", "encoder/x", "", "\ud800", "h\u0663"):
        if extra not in m.tensors:
            yield f"with {extra!r}", replace(m, tensors={**m.tensors, extra: some})
    yield "without tensors", replace(m, tensors={})
    for key, odd in _odd_meta(m, number):
        said = {k: v for k, v in m.meta.items() if k != key} | ({} if odd is Ellipsis else {key: odd})
        yield f"{key} is {str(odd)[:40]}", replace(m, meta=said)


def _with(tensor: Tensor, value: float) -> Tensor:
    other = tensor.clone()
    other.view(-1)[-1] = value
    return other


def _odd_meta(m: Message, number: int) -> Iterator[tuple[str, Any]]:
    if "key" in m.meta:
        client, round_number, epoch, batch = m.meta["key"]
        yield "key", [1 - client if number in (0, 1) else 0, round_number, epoch, batch]
        yield "key", [client, round_number + 1, epoch, batch]
        yield "key", [client, round_number, epoch + 5, batch]
        yield "key", [client, round_number, epoch, batch + 1000]
        for odd in ([client, round_number, epoch], [0.5] * 4, [-1] * 4, [2**70] * 4, [True] * 4, "0", None, {}, ...):
            yield "key", odd
    if "samples" in m.meta:
        for odd in (m.meta["samples"] + 1, 0, -5, 2**70, 1.5, True, "12", None, [], ...):
            yield "samples", odd
    if "forward" in m.meta:
        for forged in ("0" * 32, "../../../../etc/passwd", "", "\x00", 5, None, ["a"], m.meta["forward"] + "0", ...):
            yield "forward", forged
    if m.kind != "handover" and "round" not in m.meta:
        for odd in ([], "x", 5, {"h0": 1}, {"d0": 3}, {"h": 1}, {"hx": 1}, {"d-1": 1}):
            yield "values", odd
    if m.kind == "update":
        for odd in (m.meta["client"] + 1, -1, "0", None):
            yield "client", odd
        for odd in (m.meta["round"] + 1, 0, None):
            yield "round", odd
    if m.kind == "handover":
        for odd in (
            None,
            [],
            {},
            {"state": {}, "groups": []},
            {"state": {"a": 1}, "groups": m.meta["optimizer"]["groups"]},
        ):
            yield "optimizer", odd


# --- noise -----------------------------------------------------------------------------------------------------------

GARBAGE = (
    b"", b"{", b"null", b"[]", b"[" * 100_000,
    b'{"__metadata__":5}', b'{"__metadata__":{"cutlayer":"[]"}}', b"\xff" * 50,
    b'{"__metadata__":{"cutlayer":"{\\"format\\":1,\\"kind\\":[],\\"meta\\":{}}"}}', b"9" * 5000, b'"\\ud800"', b"NaN",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 2**40, 2**63, 10**30, float("nan"), float("inf"), "", "\ud800", "F32", "I64",
    [], [0], [2**40, 2**40], [-1, 64], [1] * 100, {}, {"a": []}, "x" * 5000, [[[]]],
)  # fmt: skip


def noise(body: bytes, luck: random.Random) -> Iterator[bytes]:
    """Yield mutations of a message for ever."""
    length = int.from_bytes(body[:8], "little")
    header, payload = body[8 : 8 + length], body[8 + length :]
    acts: list[Callable[[], bytes]] = [
        lambda: _flipped(body, luck, luck.choice((1, 1, 3, 100))),
        lambda: _framed(_flipped(header, luck, luck.choice((1, 2, 9))), payload),
        lambda: body[: luck.randrange(len(body))],
        lambda: body + luck.randbytes(luck.choice((1, 8, 1000))),
        lambda: luck.randrange(2 ** luck.choice((8, 32, 64))).to_bytes(8, "little") + body[8:],
        lambda: _framed(luck.choice(GARBAGE), payload),
        lambda: _framed(_odd_entry(header, luck), payload),
        lambda: _framed(_odd_entry(header, luck), payload),
        lambda: _framed(_odd_text(header, luck), payload),
        lambda: _framed(_odd_text(header, luck), payload),
        lambda: luck.randbytes(luck.randrange(200)),
    ]
    while True:
        yield luck.choice(acts)()


def _framed(header: bytes, payload: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + payload


def _flipped(body: bytes, luck: random.Random, times: int) -> bytes:
    found = bytearray(body)
    for _ in range(times):
        found[luck.randrange(len(found))] ^= 1 << luck.randrange(8)
    return bytes(found)


def _odd_entry(header: bytes, luck: random.Random) -> bytes:
    """One value of one tensor's entry is another one."""
    entries = json.loads(header)
    name = luck.choice([n for n in entries if n != "__metadata__"] or ["__metadata__"])
    what = luck.choice(("shape", "dtype", "data_offsets", "name", "entry"))
    if what == "name":
        entries[luck.choice(("", "\ud800", "h1", "\x00", "a" * 100_000))] = entries.pop(name)
    elif what == "entry":
        entries[name] = luck.choice(VALUES)
    else:
        entries[name][what] = luck.choice(VALUES)
    return json.dumps(entries).encode()


def _odd_text(header: bytes, luck: random.Random) -> bytes:
    """One value in what the message says is another one."""
    entries = json.loads(header)
    said = json.loads(entries["__metadata__"]["cutlayer"])
    where = luck.choice((said, said, said["meta"]))
    where[luck.choice([*where, "order", "values", "x" * 500])] = luck.choice(VALUES)
    entries["__metadata__"]["cutlayer"] = json.dumps(said)
    return json.dumps(entries).encode()


def another_of_its_own(body: bytes, true: Message) -> bool:
    """Whether a mutation has become a sound message about another batch: no lie, so not for this test."""
    try:
        found = wire.decode(body)
    except WireError:
        return False
    return (
        found.kind == true.kind
        and found.meta.get("key") != true.meta.get("key")
        and found.tensors.keys() == true.tensors.keys()
    )


# --- Mallory ---------------------------------------------------------------------------------------------------------


class Mallory:
    """A client whose agent runs here, and who attacks with the ticket of its task."""

    def __init__(self, services: Deployed, folder: Path) -> None:
        self.services = services
        self.failures: list[str] = []
        self.attacked: dict[str, int] = dict.fromkeys(KINDS, 0)
        self.secrets: set[str] = set()
        backend = services.there.read().of("backend")
        assert backend is not None
        settings = ClientSettings.read(
            {}, server=backend.url, token_file=services.there.token("enrol"), name="mallory", folder=folder,
            labels={"name": "mallory"}, threads=1,
        )  # fmt: skip
        self.agent = agent.Agent(settings)
        self._thread = threading.Thread(target=self.agent.run, name="mallory")
        self._wires: dict[str, Wire] = {}
        self._luck = random.Random(5)

    def __enter__(self) -> Mallory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.agent.interrupt()
        self._thread.join()
        for each in self._wires.values():
            each.close()

    @property
    def key(self) -> str:
        return read_secret(self.agent.settings.folder / "key", "key")

    def wire(self, name: str) -> Wire:
        if name not in self._wires:
            process = self.services.there.read().of(name)
            assert process is not None
            assert process.url is not None
            self._wires[name] = Wire(process.url)
        return self._wires[name]

    def listing(self, run: str) -> dict[str, tuple[int, int]]:
        root = self.services.there.folder / "store" / "runs" / run
        return {
            str(f.relative_to(root)): (s.st_size, s.st_mtime_ns)
            for f in root.rglob("*")
            if f.is_file() and (s := f.stat())
        }

    def before(self, task: Task, server: str, method: str, path: str, true: Message) -> None:
        """Tell lies about a message that nobody knows yet."""
        assert task.ticket is not None
        self.secrets.add(task.ticket)
        there = self.listing(task.run)
        address = f"/v1/runs/{task.run}/rounds/{task.round}/{path}"
        service = "split-1" if server == "split" else "fed"
        for forged, token in self._tickets(task):
            status, content = self.wire(service).ask(method, address, token, wire.encode(true))
            self._expect(status in (401, 403), path, forged, status, content)
        for lie, message in lies(true, task.payload["client"]):
            try:
                body = wire.encode(message)
            except WireError:
                continue  # the wire refuses to carry it
            status, content = self.wire(service).ask(method, address, task.ticket, body)
            self._expect(400 <= status < 500, path, lie, status, content)
        self._expect_unchanged(task, path, there)

    def after(self, task: Task, server: str, method: str, path: str, true: Message) -> None:
        """Send what is left of a message when its bits are scrambled."""
        assert task.ticket is not None
        address = f"/v1/runs/{task.run}/rounds/{task.round}/{path}"
        service = "split-1" if server == "split" else "fed"
        body = wire.encode(true)
        known = self.wire(service).ask(method, address, task.ticket, body)
        there = self.listing(task.run)
        assert known[0] == 200
        sent = 0
        for mutation in noise(body, self._luck):
            if sent >= -(-BODIES // len(KINDS)):
                break
            if mutation == body or another_of_its_own(mutation, true):
                continue
            sent += 1
            status, content = self.wire(service).ask(method, address, task.ticket, mutation)
            if status == 200:  # it says the same in other words, or the first one counted; scores leave nothing behind
                self._expect(
                    content == known[1] or true.kind == "evaluate", path, repr(mutation[:300]), status, content
                )
            else:
                self._expect(400 <= status < 500, path, repr(mutation[:300]), status, content)
        self.attacked[true.kind] += sent
        self._expect_unchanged(task, path, there)

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """Note what fails in the agent's thread."""
        try:
            yield
        except Exception:
            self.failures.append(traceback.format_exc())

    def _expect(self, good: bool, path: str, what: str, status: int, content: bytes) -> None:
        try:
            assert good
            if status >= 400:
                refused(status, content)
        except AssertionError as error:
            self.failures.append(f"{path}, {what}: {status}, {content[:300]!r} {error}")

    def _expect_unchanged(self, task: Task, path: str, there: Mapping[str, tuple[int, int]]) -> None:
        changed = set(self.listing(task.run).items()) ^ set(there.items())
        if changed:
            self.failures.append(f"{path}: the store has changed: {sorted(changed)}")

    def _tickets(self, task: Task) -> Iterator[tuple[str, str | None]]:
        there, true = self.services.there, tickets.verify(self.signing, task.ticket or "")
        signed = {
            "another run": replace(true, run="demo-00000000"),
            "another round": replace(true, round=true.round + 1),
            "another kind": replace(true, kind="evaluate" if true.kind == "train" else "train"),
            "no kind": replace(true, kind=""),
        }
        if true.kind == "train":
            signed["another client"] = replace(true, client=true.client + 1)
        for what, other in signed.items():
            yield what, tickets.issue(self.signing, other, 60)
        yield "expired", tickets.issue(self.signing, true, -5)
        yield "another secret", tickets.issue(ANOTHER, true, 60)
        claims = jwt.decode(task.ticket or "", options={"verify_signature": False})
        yield "alg none", jwt.encode(claims, None, algorithm="none")
        yield "another algorithm", jwt.encode(claims, self.signing * 2, algorithm="HS512")
        header, payload, signature = (task.ticket or "").split(".")
        mine = {**claims, "client": 7, "run": "x"}
        text = base64.urlsafe_b64encode(json.dumps(mine).encode()).decode().rstrip("=")
        yield "changed after it was signed", f"{header}.{text}.{signature}"
        yield "cut off", f"{header}.{payload}."
        for odd in ({"client": "0"}, {"round": True}, {"run": None}, {"aud": "x"}, {"iss": "x"}):
            yield f"claims {odd}", jwt.encode({**claims, **odd}, self.signing, algorithm="HS256")
        yield "none", None
        yield "garbage", "eyJ.eyJ.eyJ"
        yield "very long", "e" * 20_000
        yield "its own key", self.key
        yield "another client's key", read_secret(there.folder / "clients" / "client-1" / "key", "key")
        yield "the operator's token", read_secret(there.token("operator"), "token")
        yield "the service token", read_secret(there.token("service"), "token")

    @property
    def signing(self) -> str:
        return read_secret(self.services.there.folder / "secret", "secret")


@contextlib.contextmanager
def hostile(folder: Path) -> Iterator[tuple[Deployed, Mallory]]:
    """Services with one honest client, and Mallory."""
    (folder / "evil.py").write_text(
        f"from pathlib import Path\nPath({str(folder / 'was-here')!r}).touch()\n"
        "from torch.nn.functional import cross_entropy as loss\nfrom cutlayer.models import mlp as model\n"
    )
    environment = {"BODY_LIMIT": str(LIMIT), "LOG_LEVEL": "debug", "RATE": "0"}
    with (
        deployed(
            folder / "services", split=1, clients=1, PYTHONPATH=str(folder),
            **{f"CUTLAYER_{name}": value for name, value in environment.items()},
        ) as services,
        pytest.MonkeyPatch.context() as patch,
    ):  # fmt: skip
        allowed = targets._allowed
        mallory = Mallory(services, folder / "mallory")
        patch.setattr(targets, "_allowed", allowed)  # this process runs other tests, too
        seen: set[tuple[str, str]] = set()

        class Watched(DataPlane):
            def _exchange(self, server: str, method: str, path: str, message: Message | None) -> Message | None:
                if message is None or (self._task.run, message.kind) in seen:
                    return super()._exchange(server, method, path, message)
                seen.add((self._task.run, message.kind))
                with mallory.noting():
                    mallory.before(self._task, server, method, path, message)
                reply = super()._exchange(server, method, path, message)
                if not mallory.attacked[message.kind]:
                    with mallory.noting():
                        mallory.after(self._task, server, method, path, message)
                return reply

        patch.setattr(agent, "DataPlane", Watched)
        with mallory:
            yield services, mallory


# --- tests -----------------------------------------------------------------------------------------------------------

ATTACKED: list[dict[str, Any]] = [
    {"algorithm": "vanilla", "clients": 2, "rounds": 1},
    {"algorithm": "ushaped", "clients": ALONE, "rounds": 1},
    {"algorithm": "file_sync", "clients": ALONE, "rounds": 2},
    {
        "algorithm": {"name": "cse_fsl", "upload_every": 3}, "clients": ALONE, "rounds": 1,
        "codec": {"activations": {"name": "topk", "ratio": 0.2, "feedback": False}, "updates": "int8"},
    },
]  # fmt: skip


def test_nothing_that_a_client_sends_changes_anything(tmp_path: Path) -> None:
    """One test, because all of it is about the same services: starting them takes longer than attacking them."""
    with hostile(tmp_path) as (services, mallory):
        runs = [lies_change_nothing(keys, services, mallory, tmp_path) for keys in ATTACKED]
        assert all(mallory.attacked.values()), mallory.attacked
        assert sum(mallory.attacked.values()) >= BODIES
        for name in ("split-1", "fed", "backend"):
            bodies_are_as_long_as_they_say(name, mallory)
        paths_lead_nowhere(mallory, runs[0])
        anothers_key_opens_nothing(services, mallory, runs[1])
        for keys, who in CODE:
            code_is_not_run(keys, who, services)
        everything_is_alive_and_says_no_secret(services, mallory)


def lies_change_nothing(keys: Mapping[str, Any], services: Deployed, mallory: Mallory, folder: Path) -> str:
    """Mallory takes part in a run, which ends with the weights of `cutlayer run`; return it."""
    run, experiment = services.submit(**{**keys, "batch_size": 256})
    while (view := services.backend.run(run)).state not in ENDED and not mallory.failures:
        assert not view.paused, view.reason
        time.sleep(0.1)
    assert not mallory.failures, "\n".join(mallory.failures)
    assert view.state == "done", f"{view.reason}\n{services.said()}"
    expected, _ = in_process(experiment)
    found = services.model(view.id, folder)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    return view.id


def bodies_are_as_long_as_they_say(name: str, mallory: Mallory) -> None:
    there = mallory.wire(name)
    token = tickets.issue(mallory.signing, Ticket("none", 1, 0, "x", "train", "x"), 60)
    method, path = {"split-1": ("POST", "forward"), "fed": ("PUT", "update"), "backend": ("GET", "plan")}[name]
    path = f"/v1/runs/none/rounds/1/{path}"
    if name == "backend":
        method, path, token = "POST", "/v1/tasks/next", mallory.key
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n".encode()
    for length in (10_737_418_240, LIMIT + 1):
        huge = there.raw(head + f"Content-Length: {length}\r\n\r\nabc".encode())
        assert huge.startswith(b"HTTP/1.1 413"), huge[:300]
        refused(413, huge.partition(b"\r\n\r\n")[2])
    chunks = b"".join(b"10000\r\n" + b"x" * 65536 + b"\r\n" for _ in range(LIMIT // 65536 + 1))
    assert there.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)[:12] in (b"HTTP/1.1 413", b"")
    for odd in (b"Content-Length: -1", b"Content-Length: 1e3", b"Content-Length: " + b"9" * 40):
        assert there.raw(head + odd + b"\r\n\r\nabc")[:10] in (b"HTTP/1.1 4", b"")
    longer = there.raw(head + b"Content-Length: 3\r\n\r\nabc" + b"more than was said" * 1000)
    assert longer.startswith(b"HTTP/1.1 4"), longer[:300]
    assert b"HTTP/1.1 5" not in longer
    assert there.raw(head + b"Content-Length: 300\r\n\r\nabc")[:10] in (b"HTTP/1.1 4", b"")


def paths_lead_nowhere(mallory: Mallory, relay: str) -> None:
    def ticket(kind: str) -> str:
        return tickets.issue(mallory.signing, Ticket(relay, 1, 0, "x", kind, "x"), 60)

    run = f"/v1/runs/{relay}"
    for number in ("0", "-1", "x", "9" * 30, "9" * 5000):
        for service, path in (("split-1", "forward"), ("fed", "weights"), ("fed", "mean")):
            method = "POST" if service == "split-1" else "GET"
            status, content = mallory.wire(service).ask(method, f"{run}/rounds/{number}/{path}", ticket("train"))
            refused(status, content)
    for path in ("../../x", "%2e%2e", "..", "%00", "%ff", "encoder%2f..%2fx", "a" * 300, "backbone"):
        for giver in ("0", "99", "9" * 30, "9" * 5000):
            status, content = mallory.wire("fed").ask(
                "GET", f"{run}/rounds/1/handovers/{giver}/{path}", ticket("train")
            )
            refused(status, content)
        refused(*mallory.wire("split-1").ask("POST", f"{run}/rounds/1/{path}", ticket("train"), b"x"))
    for query in ("holds=-1", "holds=x", "holds=%d9%a3", f"holds={'9' * 50}", "holds=1e3"):
        refused(*mallory.wire("fed").ask("GET", f"{run}/rounds/1/weights?{query}", ticket("train")), 409, 422)


def anothers_key_opens_nothing(services: Deployed, mallory: Mallory, alone: str) -> None:
    """A client sees no run that it does not take part in, and no task of another."""
    there = mallory.wire("backend")
    other = read_secret(services.there.folder / "clients" / "client-1" / "key", "key")
    mine = next(t for t in services.backend.tasks(alone) if t.kind == "train")
    for path, body in (("heartbeat", {}), ("result", {"result": {}}), ("error", {"message": "x"})):
        refused(*there.ask("POST", f"/v1/tasks/{mine.id}/{path}", other, json.dumps(body).encode()), 404, 422)
    for method, path in (
        ("GET", f"/v1/runs/{alone}"), ("GET", f"/v1/runs/{alone}/rounds/1/plan"), ("GET", "/v1/audit"),
        ("GET", f"/v1/runs/{alone}/artifacts/model.safetensors"), ("POST", f"/v1/runs/{alone}/cancel"),
        ("GET", "/v1/tokens"), ("GET", "/v1/clients"), ("PUT", f"/v1/runs/{alone}/artifacts/model.safetensors"),
    ):  # fmt: skip
        refused(*there.ask(method, path, other), 403, 404)
    for body in ({"experiment": {}}, {"role": "operator", "name": "x"}):
        path = "/v1/runs" if "experiment" in body else "/v1/tokens"
        refused(*there.ask("POST", path, other, json.dumps(body).encode()), 403)
    for token in (
        None,
        "",
        "cl_key_" + "x" * 43,
        tickets.issue(mallory.signing, Ticket("x", 1, 0, "x", "train", "x"), 60),
    ):
        refused(*there.ask("POST", "/v1/tasks/next", token, b"{}"), 401)
    posing = {"name": "client-1", "capabilities": {}, "key": mallory.key}
    refused(*there.ask("POST", "/v1/clients", mallory.key, json.dumps(posing).encode()), 401, 403, 409)
    refused(*there.ask("POST", "/v1/tasks/next", other, json.dumps({"target": "split", "owner": "x"}).encode()), 403)


CODE: list[tuple[dict[str, Any], str]] = [
    ({"model": "evil:model", "cuts": ["relu1"], "clients": ALONE}, "split|fed"),
    ({"loss": "evil:loss", "clients": ALONE}, "split|fed"),
    ({"data": "evil:data", "clients": 1}, "client-1"),
]


def code_is_not_run(keys: Mapping[str, Any], who: str, services: Deployed) -> None:
    """What nobody allowed is not even imported, and the run says who refused it."""
    run, _ = services.submit(algorithm="splitfed_v2", **keys)
    view = services.ended(run)
    assert view.state == "failed"
    assert view.reason is not None
    assert re.search(rf"failed at .*({who}).*: .*evil.*not allowed to run.*--allow evil", view.reason), view.reason
    assert not (services.there.folder.parent / "was-here").exists()


def everything_is_alive_and_says_no_secret(services: Deployed, mallory: Mallory) -> None:
    processes = services.there.read().processes
    assert len(processes) == 4
    assert all(process.alive for process in processes)
    for name in ("split-1", "fed", "backend"):
        assert mallory.wire(name).ask("GET", "/readyz")[0] == 200
    secrets = {mallory.key, mallory.signing, ANOTHER, *mallory.secrets}
    secrets |= {read_secret(file, "secret") for file in (services.there.folder / "tokens").iterdir()}
    secrets |= {read_secret(file, "key") for file in (services.there.folder / "clients").glob("*/key")}
    for file in (services.there.folder / "logs").iterdir():
        text = file.read_text(errors="replace")
        assert "Traceback" not in text, text[text.index("Traceback") - 500 :][:2000]
        assert not re.search(r"eyJ[A-Za-z0-9_-]{10,}\.", text), file.name
        assert not [s for s in secrets if s in text or re.sub("^cl_[a-z]+_", "", s)[:20] in text], file.name


def test_nothing_is_unpickled() -> None:
    """No module of the package imports what runs what it reads, or calls torch.load or numpy's pickles."""
    root = Path(cutlayer.__file__).parent
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                assert not re.match(r"_?(pickle|cPickle|dill|cloudpickle|joblib|shelve|marshal)\b", name), (
                    f"{file}: {name}"
                )
                assert not re.match(r"(torch\.(load|save)|torch\.serialization|numpy\.load)", name), f"{file}: {name}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                called = ast.unparse(node.func)
                assert called not in ("torch.load", "torch.jit.load", "torch.hub.load"), f"{file}, line {node.lineno}"
                if called in ("np.load", "numpy.load"):
                    allowed = next((k.value for k in node.keywords if k.arg == "allow_pickle"), None)
                    assert isinstance(allowed, ast.Constant), f"{file}, line {node.lineno}"
                    assert allowed.value is False
