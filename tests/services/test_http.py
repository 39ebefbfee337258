"""The HTTP client, against a real server that fails in every way a service can."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cutlayer.errors import ConfigError
from cutlayer.services import connection, http
from cutlayer.services.errors import Conflict, NotFound, ServiceError, TooLarge, Unauthorized
from cutlayer.services.http import Interrupted, Link, Tls, Unreachable

TOKEN = "cl_op_verysecret"


@dataclass
class Request:
    """What arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    peer: tuple[str, int]


Answer = Callable[[BaseHTTPRequestHandler], None]


def answer(status: int, body: Any = b"", **headers: str) -> Answer:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return write


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


def stream(*lines: str, end: bool = True) -> Answer:
    """Events in chunks of odd sizes, then the end of the stream, or a torn one."""

    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        content = "\n".join(lines).encode()
        for at in range(0, len(content), 7):
            piece = content[at : at + 7]
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        if end:
            handler.wfile.write(b"0\r\n\r\n")
        handler.close_connection = True

    return write


@dataclass
class Service:
    """A server that gives its answers in turn, the last one for ever, and remembers what it was asked."""

    answers: list[Answer] = field(default_factory=list)
    asked: list[Request] = field(default_factory=list)
    url: str = ""

    def next(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length", 0))
        body = handler.rfile.read(length)
        found = {k.lower(): v for k, v in handler.headers.items()}
        self.asked.append(Request(handler.command, handler.path, found, body, handler.client_address))
        chosen = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        chosen(handler)


@pytest.fixture
def serve() -> Iterator[Callable[..., Service]]:
    servers: list[ThreadingHTTPServer] = []

    def start(*answers: Answer) -> Service:
        service = Service(list(answers))

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def __getattr__(self, name: str) -> Callable[[], None]:
                if name.startswith("do_"):
                    return lambda: service.next(self)
                raise AttributeError(name)

            def log_message(self, *_: Any) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        service.url = f"http://127.0.0.1:{server.server_port}"
        return service

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FIRST_WAIT", 0.001)


def dead() -> str:
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as there:
        return f"http://127.0.0.1:{there.getsockname()[1]}"


Serve = Callable[..., Service]


def test_json_there_and_back(serve: Serve) -> None:
    service = serve(answer(200, {"id": "run-1"}), answer(204))
    with Link(service.url, token=TOKEN) as link:
        assert link.json("POST", "/v1/runs", {"name": "ä"}, query={"a": 1, "b": None, "c": True}) == {"id": "run-1"}
        assert link.json("GET", "/v1/tasks/next") is None
    first, second = service.asked
    assert (first.method, first.path, json.loads(first.body)) == ("POST", "/v1/runs?a=1&c=true", {"name": "ä"})
    assert first.headers["authorization"] == f"Bearer {TOKEN}"
    assert first.headers["content-type"] == "application/json"
    assert "traceparent" not in first.headers, "nobody sends traces"
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert second.body == b""


def test_connections_are_kept_and_one_that_was_closed_is_replaced_at_once(serve: Serve) -> None:
    service = serve(
        answer(200, 1), answer(200, 2), answer(200, 3, Connection="close"), answer(200, 4), hang_up, answer(200, 5)
    )
    waits: list[str] = []
    with Link(service.url, on_wait=lambda reason, _: waits.append(reason)) as link:
        assert [link.json("GET", "/") for _ in range(5)] == [1, 2, 3, 4, 5]
    ports = [request.peer[1] for request in service.asked]
    assert ports[0] == ports[1] == ports[2] != ports[3]
    assert waits == []


@pytest.mark.parametrize("sizes", [(), (0,), (5,), (3, 0, 4), (200_000, 1, 300_000), (20_000_000,)])
def test_bodies_of_all_sizes(serve: Serve, sizes: tuple[int, ...]) -> None:
    buffers: list[bytes | memoryview] = [bytes([n % 251]) * size for n, size in enumerate(sizes)]
    buffers = [memoryview(b) if n % 2 else b for n, b in enumerate(buffers)]
    whole = b"".join(buffers)
    service = serve(answer(503), answer(200, whole))
    with Link(service.url) as link:
        assert link.binary("POST", "/v1/forward", buffers, {"X-Kind": "forward"}) == whole
    assert [r.body == whole for r in service.asked] == [True, True]
    assert [r.headers["content-length"] for r in service.asked] == [str(len(whole))] * 2
    assert service.asked[1].headers["x-kind"] == "forward"


def test_tensors_are_buffers(serve: Serve) -> None:
    numpy = pytest.importorskip("numpy")
    values = numpy.arange(60_000, dtype="float32").reshape(3, -1)
    service = serve(answer(200, b"ok"))
    with Link(service.url) as link:
        link.binary("PUT", "/", [memoryview(values), b"end"])
    assert service.asked[0].body == values.tobytes() + b"end"


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_service_that_will_be_back_is_asked_again(serve: Serve, status: int) -> None:
    service = serve(answer(status, {"error": "the store is away"}), answer(status), answer(200, "here"))
    waits: list[tuple[str, float]] = []
    with Link(service.url, on_wait=lambda *wait: waits.append(wait)) as link:
        assert link.json("POST", "/x", {"a": 1}) == "here"
    assert len({r.headers["x-request-id"] for r in service.asked}) == 1
    assert [r.body for r in service.asked] == [b'{"a":1}'] * 3
    assert waits[0][0] == f"{service.url} answers {status} (the store is away)"
    assert len(waits) == 2


def test_the_back_off_begins_anew_after_an_attempt_that_lasted(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long-poll whose service restarts again and again does not wait longer every time."""

    def waits() -> list[float]:
        service = serve(*[answer(503)] * 6, answer(200, "here"))
        found: list[float] = []
        with Link(service.url, on_wait=lambda reason, seconds: found.append(seconds)) as link:
            link.json("GET", "/x")
        return found

    short = waits()
    assert short[-1] > 2 * short[0]
    monkeypatch.setattr(http, "LASTED", -1.0)
    assert max(waits()) <= http.FIRST_WAIT


def test_retry_after_is_honoured(serve: Serve) -> None:
    service = serve(
        answer(503, Retry_After="0.05"), answer(429, Retry_After="Thu, 01 Jan 1970 00:00:00 GMT"), answer(200)
    )
    waits: list[float] = []
    with Link(service.url, on_wait=lambda _, seconds: waits.append(seconds)) as link:
        link.json("GET", "/")
    assert waits[0] == 0.05
    assert waits[1] < 0.05


def test_retry_after_is_read_with_care() -> None:
    found = [connection._retry_after(v) for v in (None, "3", "-1", "nan", "inf", "1e9", "soon", "")]
    assert found == [0.0, 3.0, 0.0, 0.0, 60.0, 60.0, 0.0, 0.0]


def test_waits_grow(serve: Serve) -> None:
    service = serve(*[answer(503)] * 8, answer(200))
    waits: list[float] = []
    with Link(service.url, on_wait=lambda _, seconds: waits.append(seconds)) as link:
        link.json("GET", "/")
    assert all(0.0005 * 2**n <= wait <= 0.001 * 2**n for n, wait in enumerate(waits))


def test_patience_ends(serve: Serve) -> None:
    service = serve(answer(503, {"error": "the database is away"}))
    with Link(service.url, patience=0.05) as link, pytest.raises(Unreachable, match=r"the database is away.*try again"):
        link.json("GET", "/")
    assert len(service.asked) > 1
    with Link(service.url, patience=0) as link, pytest.raises(Unreachable):
        link.json("GET", "/")


def test_a_dead_server() -> None:
    reasons: list[str] = []
    url = dead()
    with (
        Link(url, patience=0.02, on_wait=lambda reason, _: reasons.append(reason)) as link,
        pytest.raises(Unreachable) as e,
    ):
        link.json("GET", "/")
    assert str(e.value).startswith(f"expected an answer within 0.02 s, and {url} refuses connections")
    assert set(reasons) == {f"{url} refuses connections"}
    assert e.value.exit_code == 10


def test_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as there:
        url = f"http://127.0.0.1:{there.getsockname()[1]}"
        with Link(url, patience=0, timeout=0.05) as link, pytest.raises(Unreachable, match="does not answer in time"):
            link.json("GET", "/")


def test_a_server_that_ends_in_the_middle(serve: Serve) -> None:
    def torn(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.write(b"half")
        handler.close_connection = True

    service = serve(torn, answer(200, b"whole"))
    with Link(service.url) as link:
        assert link.binary("POST", "/", [b"x"]) == b"whole"


@pytest.mark.parametrize(
    ("status", "kind"), [(401, Unauthorized), (404, NotFound), (409, Conflict), (413, TooLarge), (500, ServiceError)]
)
def test_a_refusal_is_not_repeated_and_says_why(serve: Serve, status: int, kind: type[ServiceError]) -> None:
    service = serve(answer(status, {"error": "there is no run 'x'", "code": "no_run", "request_id": "7"}))
    with Link(service.url, token=TOKEN) as link, pytest.raises(kind, match=r"^there is no run 'x'$") as e:
        link.json("GET", "/v1/runs/x")
    assert (e.value.status, e.value.code) == (status, "no_run")
    assert len(service.asked) == 1


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b"{}", b"\xff"])
def test_a_refusal_without_a_sentence(serve: Serve, body: bytes) -> None:
    service = serve(answer(403, body))
    with Link(service.url) as link, pytest.raises(ServiceError, match="status 403 and no reason"):
        link.json("GET", "/")


def test_something_else_than_a_service(serve: Serve) -> None:
    service = serve(answer(200, b"<html>hello</html>"))
    with Link(service.url) as link, pytest.raises(ServiceError, match=r"expected JSON .* is it a cutlayer service"):
        link.json("GET", "/")
    service = serve(answer(302, Location="/login"))
    with Link(service.url) as link, pytest.raises(ServiceError, match="status 302"):
        link.json("GET", "/")


def test_a_body_that_is_refused_before_it_was_sent(serve: Serve) -> None:
    def refuse(connection: socket.socket) -> None:
        connection.recv(1024)
        body = b'{"error": "the body is too large"}'
        connection.sendall(b"HTTP/1.1 413 x\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body))
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 20):
            pass
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as there:
        threading.Thread(target=lambda: refuse(there.accept()[0]), daemon=True).start()
        url = f"http://127.0.0.1:{there.getsockname()[1]}"
        with Link(url) as link, pytest.raises(TooLarge, match="the body is too large"):
            link.binary("POST", "/", [b"x" * 10_000_000])


def test_replicas_are_tried_in_turn(serve: Serve) -> None:
    here = serve(answer(200, "here"))
    ill = serve(answer(503))
    waits: list[str] = []
    with Link([dead(), ill.url, here.url], on_wait=lambda reason, _: waits.append(reason)) as link:
        assert [link.json("GET", "/") for _ in range(3)] == ["here"] * 3
        assert link.urls[0] == here.url
    assert len(ill.asked) == 1
    assert waits == []


def test_rotation_asks_another_replica_every_time(serve: Serve) -> None:
    services = [serve(answer(200, n)) for n in range(3)]
    with Link([s.url for s in services], rotate=True) as link:
        found = [link.json("GET", "/") for _ in range(6)]
    assert sorted(found) == [0, 0, 1, 1, 2, 2]
    assert all(a != b for a, b in pairwise(found))


def test_interrupt_while_waiting() -> None:
    waiting = threading.Event()
    link = Link(dead(), patience=None, on_wait=lambda *_: waiting.set())
    ended: list[type[BaseException]] = []

    def ask() -> None:
        try:
            link.json("GET", "/")
        except Interrupted as error:
            ended.append(type(error))

    thread = threading.Thread(target=ask)
    thread.start()
    assert waiting.wait(10)
    link.interrupt()
    thread.join(10)
    assert ended == [Interrupted]
    with pytest.raises(Interrupted):
        link.json("GET", "/")


def test_interrupt_while_a_service_thinks(serve: Serve) -> None:
    asked, release = threading.Event(), threading.Event()

    def think(handler: BaseHTTPRequestHandler) -> None:
        asked.set()
        release.wait(30)
        handler.close_connection = True

    link = Link(serve(think).url)
    ended: list[type[BaseException]] = []

    def ask() -> None:
        try:
            link.json("GET", "/")
        except Interrupted as error:
            ended.append(type(error))

    thread = threading.Thread(target=ask)
    thread.start()
    assert asked.wait(10)
    link.interrupt()
    thread.join(10)
    release.set()
    assert ended == [Interrupted]


EVENTS = (
    "id: 4",
    "event: round",
    'data: {"round": 1}',
    "",
    ": still here",
    "",
    "id: 5",
    "event: run.state",
    'data: "do',
)


def test_a_stream_is_taken_up_where_it_broke(serve: Serve) -> None:
    service = serve(
        stream(*EVENTS, end=False),
        answer(503),
        stream("id: 5", "event: run.state", 'data: {"a":', "data: 2}", "", ""),
        stream("data: words\r", "\r", "", end=False),
    )
    found = []
    with Link(service.url, token=TOKEN) as link:
        for event in link.events("/v1/runs/x/events", after=3):
            found.append(tuple(event))
            if len(found) == 3:
                break
    assert found == [(4, "round", {"round": 1}), (5, "run.state", {"a": 2}), (None, "message", "words")]
    assert [r.headers["last-event-id"] for r in service.asked] == ["3", "4", "4", "5"]


def test_a_stream_that_is_refused(serve: Serve) -> None:
    service = serve(answer(404, {"error": "there is no run 'x'"}))
    with Link(service.url) as link, pytest.raises(NotFound):
        next(link.events("/v1/runs/x/events"))


def test_a_stream_that_is_interrupted(serve: Serve) -> None:
    release = threading.Event()

    def once(handler: BaseHTTPRequestHandler) -> None:
        stream("id: 1", "event: a", "data: 1", "", "", end=False)(handler)
        handler.wfile.flush()
        release.wait(30)

    link = Link(serve(once).url)
    events = link.events("/")
    assert next(events) == (1, "a", 1)
    threading.Timer(0.05, link.interrupt).start()
    with pytest.raises(Interrupted):
        next(events)
    release.set()


def test_files_there_and_back(serve: Serve, tmp_path: Path) -> None:
    content = bytes(range(256)) * 12_345
    (tmp_path / "model").write_bytes(content)
    service = serve(answer(503), answer(200), answer(502), answer(200, content))
    with Link(service.url) as link:
        link.upload("PUT", "/v1/artifacts/model", tmp_path / "model")
        assert link.download("/v1/artifacts/model", tmp_path / "copy") == len(content)
    assert service.asked[1].body == content
    assert (tmp_path / "copy").read_bytes() == content
    assert {p.name for p in tmp_path.iterdir()} == {"model", "copy"}


def test_a_download_that_is_refused_leaves_nothing(serve: Serve, tmp_path: Path) -> None:
    service = serve(answer(404, {"error": "there is no artifact 'model'"}))
    with Link(service.url) as link, pytest.raises(NotFound):
        link.download("/v1/artifacts/model", tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
    with Link(service.url) as link, pytest.raises(FileNotFoundError):
        link.upload("PUT", "/", tmp_path / "nowhere")


def test_tokens_are_in_no_message_and_no_log(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    service = serve(answer(401, {"error": "expected a valid token"}))
    with Link(service.url, token=TOKEN) as link, pytest.raises(Unauthorized) as e:
        link.json("GET", "/")
    with Link(dead(), token=TOKEN, patience=0) as link, pytest.raises(Unreachable) as other:
        link.json("GET", "/")
    assert TOKEN not in caplog.text + repr(e.value) + repr(other.value) + repr(link)
    for odd in (f"{TOKEN}\r\nX: y", "", "ä", "two words"):
        with pytest.raises(ConfigError) as refused:
            Link(service.url, token=odd)
        assert not odd or odd not in str(refused.value)


@pytest.mark.parametrize("url", ["http://example.org", "ftp://localhost", "localhost:80", "http://u:p@localhost", ""])
def test_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        Link(url)


def test_a_prefix_stays(serve: Serve) -> None:
    service = serve(answer(200))
    with Link(f"{service.url}/cutlayer/") as link:
        link.json("GET", "/v1/runs")
    assert service.asked[0].path == "/cutlayer/v1/runs"
    with pytest.raises(ConfigError, match="none came"):
        Link([])


def test_certificates_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("words")
    for name in ("ca.pem", "nowhere.pem"):
        with pytest.raises(ConfigError, match=name):
            Link("https://localhost", tls=Tls(ca=tmp_path / name))


def test_several_threads(serve: Serve) -> None:
    service = serve(answer(200, "ok"))
    found: list[Any] = []
    with Link(service.url) as link:
        threads = [
            threading.Thread(target=lambda: found.extend(link.json("GET", "/") for _ in range(20))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == ["ok"] * 160
    assert len({r.peer for r in service.asked}) <= 8


def test_a_disk_error_is_not_the_connections(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = serve(answer(200, b"content"))
    with Link(service.url) as link, pytest.raises(FileNotFoundError):
        link.download("/", tmp_path / "nowhere" / "model")
    assert len(service.asked) == 1
    assert connection._local(OSError(28, "No space left on device"))
