"""A kept connection, against servers that answer in every way HTTP/1.1 allows, and in some that it does not."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from itertools import pairwise

import pytest

from cutlayer.services import line as module
from cutlayer.services.line import Line

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Peer:
    """Sends ``pieces`` one by one for every request that comes, and remembers what it read."""

    def __init__(self, *answers: tuple[bytes, ...], close: bool = False) -> None:
        self.heard = b""
        self._there = socket.create_server(("127.0.0.1", 0))
        self._answers, self._close = answers, close
        self.port = self._there.getsockname()[1]
        self.ended = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with self._there, self._there.accept()[0] as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for pieces in self._answers:
                self.heard += connection.recv(1 << 16)
                for piece in pieces:
                    connection.sendall(piece)
                    threading.Event().wait(0.001)
            if not self._close:
                self.ended.wait(10)
        self.ended.set()


@contextmanager
def connected(peer: Peer) -> Iterator[Line]:
    line = Line("127.0.0.1", peer.port, None, 5.0, 5.0)
    yield line
    line.close()
    peer.ended.set()


def ask(line: Line, method: str = "POST", body: bytes = b"abc") -> module.Answer:
    return line.ask(method, "/v1/x", {"X-Kind": "forward"}, [body] if body else [], len(body))


def test_a_request_is_sent_in_one_piece() -> None:
    peer = Peer((PLAIN,))
    with connected(peer) as line:
        assert ask(line) == (200, {b"content-length": b"2"}, b"ok")
        assert line.kept
    head, _, body = peer.heard.partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"POST /v1/x HTTP/1.1", b"Host: 127.0.0.1:%d" % peer.port, b"Content-Length: 3", b"X-Kind: forward"
    ]  # fmt: skip
    assert body == b"abc"


def test_an_answer_in_any_pieces() -> None:
    large = bytes(range(256)) * 1000
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(large) + large
    cuts = [0, 1, 9, 17, 40, 41, 42, 43, 44, 45, 70_000, len(whole)]
    pieces = tuple(whole[a:b] for a, b in pairwise(cuts))
    with connected(Peer(pieces, (PLAIN,))) as line:
        assert ask(line).content == large
        assert ask(line, "GET", b"").content == b"ok"


def test_chunks_interim_answers_and_fields_that_nobody_needs() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunked += b"3;x=1\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n"
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + PLAIN
    with connected(Peer((chunked[:60], chunked[60:]), (interim,), (b"HTTP/1.1 204 No Content\r\n\r\n",))) as line:
        assert ask(line).content == b"abc0123456789"
        assert ask(line).content == b"ok"
        assert ask(line).content == b""
        assert line.kept


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (PLAIN + b"HTTP/1.1 200 OK\r\n", b"ok"),
    ],
)
def test_connections_that_cannot_be_used_again(answer: bytes, content: bytes) -> None:
    with connected(Peer((answer,), close=True)) as line:
        assert ask(line).content == content
        assert not line.kept


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 99 x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
    ],
)
def test_what_is_not_http(answer: bytes) -> None:
    with connected(Peer((answer,))) as line, pytest.raises(HTTPException):
        ask(line)


@pytest.mark.parametrize("answer", [b"", PLAIN[:20], PLAIN[:-1]])
def test_an_answer_that_ends_too_early(answer: bytes) -> None:
    with connected(Peer((answer,), close=True)) as line, pytest.raises(ConnectionResetError):
        ask(line)


@pytest.mark.parametrize("wrong", ["/a b", "/a\r\nX: y", "/ä", ""])
def test_addresses_and_headers_cannot_carry_others(wrong: str) -> None:
    with connected(Peer()) as line:
        with pytest.raises(ValueError, match="visible ASCII"):
            line.ask("GET", wrong, {}, [], 0)
        with pytest.raises(ValueError, match="visible ASCII"):
            line.ask("GET", "/", {"X": f"{wrong}\n"}, [], 0)


def test_a_connection_that_rested_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer((PLAIN,), close=True)
    with connected(peer) as line:
        ask(line)
        assert peer.ended.wait(5)
        assert line.usable()
        monkeypatch.setattr(module, "_RESTED", -1.0)
        assert not line.usable()
