"""What one message costs beside the model: tensor up, file, load, tensor back, over a bare socket's echo.

    python benchmarks/step_latency.py

The server is the split server's own lane, wire format and store in a process of its own, without a model between: it
decodes the message, writes its tensor as a new object, reads it back, recycles the object of the message before, as the
split server does once a step is made, and answers.  The echo is a socket in a process of its own that sends back as
many bytes.  Both take turns, message by message.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import socket
import tempfile
import time
from statistics import median, quantiles
from typing import Any

import torch

from cutlayer import wire
from cutlayer.services.http import Link
from cutlayer.services.metrics import Metrics
from cutlayer.services.split.lane import FastLane
from cutlayer.store import ObjectStore
from cutlayer.wire import Message

SIZES = {"1 MB": (1 << 18, 300), "16 MB": (1 << 22, 60)}
"""Floats in a tensor, and how many messages."""


def lane(port: int, folder: str) -> None:
    """Serve the lane until the process is ended."""
    import uvicorn

    store = ObjectStore(folder)
    numbers = itertools.count()

    async def answered(token: str, run: str, round_number: int, kind: str, body: bytes) -> bytes:
        number = next(numbers)
        path = f"runs/{run}/forwards/{number}"
        store.put(path, wire.decode(body).tensors)
        found = store.get(path)[0]
        store.recycle(f"runs/{run}/forwards/{number - 1}")
        return wire.encode(Message("answer", found))

    async def nothing(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("only the lane is asked")

    app = FastLane(nothing, lambda *about: None, answered, Metrics.make("split"), 1 << 30)
    config = uvicorn.Config(app, port=port, loop="uvloop", http="httptools", log_level="error", lifespan="off")
    uvicorn.Server(config).run()


def echo(port: int) -> None:
    """Send back what comes, a length before it."""
    with socket.create_server(("127.0.0.1", port)) as server:
        connection, _ = server.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while head := connection.recv(8, socket.MSG_WAITALL):
                connection.sendall(received(connection, int.from_bytes(head, "little")))


def received(connection: socket.socket, size: int) -> bytearray:
    """Return ``size`` bytes from a connection."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        view = view[connection.recv_into(view) :]
    return data


def main() -> None:
    """Print milliseconds of both and their ratio, by size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=19_700)
    port = parser.parse_args().port
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            multiprocessing.Process(target=lane, args=(port, folder), daemon=True),
            multiprocessing.Process(target=echo, args=(port + 1,), daemon=True),
        ]
        for process in processes:
            process.start()
        try:
            time.sleep(3)
            compare(port)
        finally:
            for process in processes:
                process.terminate()


def compare(port: int) -> None:
    """Send messages of every size to both, in turns."""
    link = Link(f"http://127.0.0.1:{port}", token="none", patience=30.0)
    bare = socket.create_connection(("127.0.0.1", port + 1))
    bare.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print(f"{'':8s}{'ours, ms':>22s}{'echo, ms':>12s}{'ratio':>24s}")
    for name, (floats, count) in SIZES.items():
        tensor = torch.randn(floats)
        ours, theirs = [], []
        for number in range(count):
            start = time.perf_counter()
            content = link.binary("POST", "/v1/runs/r/rounds/1/forward", wire.parts(Message("forward", {"h0": tensor})))
            found = wire.decode(content).tensors["h0"]
            ours.append(time.perf_counter() - start)
            start = time.perf_counter()
            raw = memoryview(tensor.numpy()).cast("B")
            bare.sendall(len(raw).to_bytes(8, "little"))
            bare.sendall(raw)
            received(bare, len(raw))
            theirs.append(time.perf_counter() - start)
            assert number or torch.equal(found, tensor)
        low, _, high = quantiles(ours, n=4)
        ratios = quantiles([a / b for a, b in zip(ours, theirs, strict=True)], n=4)
        print(
            f"{name:8s}{1e3 * median(ours):8.2f} [{1e3 * low:.2f}, {1e3 * high:.2f}]{1e3 * median(theirs):12.2f}"
            f"{ratios[1]:10.1f} [{ratios[0]:.1f}, {ratios[2]:.1f}]"
        )


if __name__ == "__main__":
    main()
