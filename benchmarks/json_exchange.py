"""The exchange of MicroSFL as such systems do it: JSON lists through FastAPI and requests, graphs in a dict.

Written as FastAPI's and requests' own introductions have it: pydantic models for bodies, dicts as answers,
``requests.post``.

Started by ``services.py``: ``python json_exchange.py server PORT`` and ``python json_exchange.py client PORT SEED N``.
The model, the batches and the arithmetic are those of the services' run: 784-64 | 64-64 | 64-10, batch 64, U-shape.
"""

import sys
import time
from uuid import uuid4

import torch
from torch import nn

BATCH = 64


def serve(port: int) -> None:
    """Answer forwards and backwards until the process is ended."""
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Activations(BaseModel):
        h: list[list[float]]

    class Gradients(BaseModel):
        forward: str
        d: list[list[float]]

    torch.set_num_threads(1)
    app, backbone = FastAPI(), nn.Sequential(nn.Linear(64, 64), nn.ReLU())
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.05)
    waiting: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    @app.post("/forward")
    def forward(body: Activations):  # type: ignore[no-untyped-def]
        h = torch.tensor(body.h, requires_grad=True)
        z = backbone(h)
        name = str(uuid4())
        waiting[name] = h, z
        return {"forward": name, "z": z.tolist()}

    @app.post("/backward")
    def backward(body: Gradients):  # type: ignore[no-untyped-def]
        h, z = waiting.pop(body.forward)
        z.backward(torch.tensor(body.d))
        assert h.grad is not None
        return {"g": h.grad.tolist()}

    @app.post("/step")
    def step() -> None:
        optimizer.step()
        optimizer.zero_grad()

    uvicorn.run(app, port=port, log_level="error")


def train(port: int, seed: int, batches: int) -> None:
    """Go through ``batches`` batches and print how many seconds they took."""
    import requests

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(batches * BATCH, 784, generator=generator)
    y = torch.randint(0, 10, (batches * BATCH,), generator=generator)
    encoder, head = nn.Sequential(nn.Linear(784, 64), nn.ReLU()), nn.Linear(64, 10)
    optimizer = torch.optim.SGD([*encoder.parameters(), *head.parameters()], lr=0.05)
    url = f"http://127.0.0.1:{port}"
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.perf_counter()
    for first in range(0, len(x), BATCH):
        h = encoder(x[first : first + BATCH])
        reply = requests.post(f"{url}/forward", json={"h": h.tolist()}).json()
        z = torch.tensor(reply["z"], requires_grad=True)
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(z), y[first : first + BATCH]).backward()
        assert z.grad is not None
        body = {"forward": reply["forward"], "d": z.grad.tolist()}
        h.backward(torch.tensor(requests.post(f"{url}/backward", json=body).json()["g"]))
        optimizer.step()
    print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "server":
        serve(int(sys.argv[2]))
    else:
        train(*map(int, sys.argv[2:5]))
