"""All that later rounds depend on, between two rounds: what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cutlayer.engines.local import LocalEngine
from cutlayer.roles.part import Part
from cutlayer.roles.schedule import SHARED


def take(engine: LocalEngine) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return all that later rounds depend on, as tensors and JSON; between rounds only."""
    tensors: dict[str, Tensor] = {}
    meta: dict[str, Any] = {"done": engine.done, "last": engine.holder, "parts": {}}
    for path, part in _parts(engine).items():
        held, numbers = part.state()
        handed_out = part.name in engine.shared_parts and path.startswith("client/") and not engine.overlaps
        tensors |= {f"{path}/{k}": t for k, t in held.items() if not (handed_out and k.startswith("weights/"))}
        meta["parts"][path] = numbers
    for label, found in (("federated", engine.federated.state()), ("backbones", engine.backbones.state())):
        tensors |= {f"{label}/{k}": t for k, t in found.items()}
    exchange, meta["exchange"] = engine.exchange.state()
    tensors |= {f"exchange/{k}": t for k, t in exchange.items()}
    meta["standing"] = engine.standing()
    meta["aligned"] = {str(client): since for client, since in engine.aligned.items()}
    meta["channel"] = {}
    for key, value in engine.channel.state_dict().items():
        if isinstance(value, Tensor):
            tensors[f"channel/{key}"] = value
        else:
            meta["channel"][key] = value
    if engine.server is not None:
        meta["versions"] = {str(k): v for k, v in engine.server.versions().items()}
        for client, (h, y) in (engine.server.aligner.kept if engine.server.aligner is not None else {}).items():
            tensors |= {f"kept/{client}/h{i}": v for i, v in enumerate(h)} | {f"kept/{client}/y": y}
    return tensors, meta


def restore(engine: LocalEngine, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Go on from what :func:`take` returned."""

    def under(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}

    for path in meta["parts"]:
        kind, *names = path.split("/")
        if kind == "client" and int(names[0]) not in engine.clients:
            engine.client(int(names[0]))
        elif kind == "copy" and engine.server is not None:
            engine.server.part(int(names[0]))
        elif kind == "aligned" and engine.server is not None and engine.server.aligner is not None:
            engine.server.aligner.auxiliary(int(names[0]))
    for path, part in _parts(engine).items():
        part.load_state(under(f"{path}/"), meta["parts"][path])
    engine.federated.load_state(under("federated/"))
    engine.backbones.load_state(under("backbones/"))
    engine.exchange.load_state(under("exchange/"), meta["exchange"])
    engine.channel.load_state_dict({**under("channel/"), **meta["channel"]})
    if engine.server is not None:
        engine.server.load_versions({int(k): v for k, v in meta["versions"].items()})
        if engine.server.window is not None:
            engine.server.window.begin(engine.server.version(SHARED), engine.server.backbone)
        if engine.server.aligner is not None:
            for client in {k.split("/")[0] for k in under("kept/")}:
                kept = under(f"kept/{client}/")
                h = [kept[f"h{i}"] for i in range(len(kept) - 1)]
                engine.server.aligner.kept[int(client)] = h, kept["y"]
    engine.aligned = {int(client): since for client, since in meta["aligned"].items()}
    engine.done, engine.holder = meta["done"], meta["last"]
    engine.stand(meta["standing"])
    engine.traffic.take()


def _parts(engine: LocalEngine) -> dict[str, Part]:
    found = {f"client/{c}/{name}": p for c, client in engine.clients.items() for name, p in client.parts.items()}
    if engine.server is not None:
        found["server"] = engine.server.backbone
        found |= {f"copy/{c}": p for c, p in engine.server.copies.items()}
        if engine.server.aligner is not None:
            found |= {f"aligned/{c}": p for c, p in engine.server.aligner.auxiliaries.items()}
    return found
