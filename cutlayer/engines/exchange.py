"""How weights travel between clients and the federated server: as they are, or as differences under a lossy codec."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from cutlayer import streams
from cutlayer.codecs import DifferenceStream
from cutlayer.roles.part import Part
from cutlayer.transforms import Channel
from cutlayer.transport import InProcess
from cutlayer.wire import Message, dense

Weights = dict[str, Tensor]


class WeightExchange:
    """Carries client parts up and down, and knows what every client holds.

    Down: all clients that took part in the last broadcast get the difference to it; others, and everyone at first, get
    the weights themselves.  Up: the difference to what the client was sent.  An empty codec sends weights untouched.
    """

    def __init__(self, transport: InProcess, channel: Channel, seed: int) -> None:
        self._transport = transport
        self._seed = seed
        self._up = DifferenceStream(channel)
        self._down = DifferenceStream(channel)
        self._personal = DifferenceStream(channel, feedback=False)
        self._sent: Weights = {}
        self._broadcast = 0
        self._holders: dict[int, int] = {}

    def broadcast(self, parts: Mapping[str, Mapping[str, Tensor]], round_number: int) -> dict[str, Weights]:
        """Fix what all clients of this round are sent of ``parts``, and return it: what they will start from."""
        weights = _flat(parts)
        self._broadcast = round_number
        self._full = not self._sent
        if self._down.exact or self._full:
            self._packed = self._sent = {k: dense(t.clone()) for k, t in weights.items()}
        else:
            seed = streams.derive(self._seed, "broadcast", round_number)
            self._packed, self._sent = self._down.send(weights, self._sent, client=-1, seed=seed, key=(round_number,))
        return _nested(self._sent)

    def send_down(self, client: int, previous: int, parts: Mapping[str, Part], names: Iterable[str]) -> None:
        """Send ``client`` the broadcast and write it into its parts ``names``; ``previous`` is the broadcast before."""
        holds = self._holders.get(client) == previous and not self._full
        tensors = self._packed if holds or self._down.exact else self._sent
        message = Message("weights", tensors, {"round": self._broadcast})
        carried = self._transport.down(message, "updates")
        received = self._sent if holds and not self._down.exact else carried.tensors
        self._holders[client] = self._broadcast
        for name in names:
            parts[name].write(_nested(received)[name])

    def send_up(
        self, client: int, parts: Mapping[str, Part], names: Iterable[str], samples: int
    ) -> dict[str, Mapping[str, Tensor]]:
        """Send the client's parts ``names`` to the federated server; returns them as they arrive."""
        weights = _flat({name: parts[name].snapshot() for name in names})
        seed = streams.derive(self._seed, "update", self._broadcast, client)
        key = (self._broadcast,)
        packed, _ = self._up.send(weights, self._sent, client=client, seed=seed, key=key)
        meta = {"round": self._broadcast, "client": client, "samples": samples}
        arrived = self._transport.up(Message("update", {k: dense(t) for k, t in packed.items()}, meta), "updates")
        return dict(_nested(self._up.receive(arrived.tensors, self._sent, client=client, seed=seed, key=key)))

    def first(self, client: int, parts: Mapping[str, Part]) -> None:
        """Count the first download of parts that are not broadcast: the client starts from the common weights."""
        message = Message("weights", _flat({n: p.snapshot() for n, p in parts.items()}), {"client": client})
        for name, weights in _nested(self._transport.down(message, "updates").tensors).items():
            parts[name].write(weights)

    def personal(self, client: int, name: str, part: Part, weights: Mapping[str, Tensor], round_number: int) -> None:
        """Send ``client`` weights that are meant for it alone: an aligned auxiliary."""
        held = _flat({name: part.snapshot()})
        seed = streams.derive(self._seed, "personal", round_number, client)
        key = (round_number,)
        packed, _ = self._personal.send(_flat({name: weights}), held, client=client, seed=seed, key=key)
        tensors = {k: dense(t) for k, t in packed.items()}
        message = Message("weights", tensors, {"round": round_number, "client": client})
        arrived = self._transport.down(message, "updates").tensors
        part.write(_nested(self._personal.receive(arrived, held, client=client, seed=seed, key=key))[name])

    def hand_over(self, giver: Mapping[str, Part], taker: Mapping[str, Part]) -> None:
        """Hand weights and optimizer state from one client to the next, through the server: up, then down."""
        for name, part in giver.items():
            tensors, meta = part.state()
            message = Message("handover", {k: dense(t) for k, t in tensors.items()}, meta)
            carried = self._transport.down(self._transport.up(message, "updates"), "updates")
            taker[name].load_state(carried.tensors, carried.meta)

    def state(self) -> tuple[Weights, dict[str, Any]]:
        """Return what must survive an interruption, as tensors and JSON."""
        tensors = {f"sent/{k}": t for k, t in self._sent.items()}
        meta: dict[str, Any] = {"broadcast": self._broadcast, "holders": {str(k): v for k, v in self._holders.items()}}
        for label, stream in (("up", self._up), ("down", self._down), ("personal", self._personal)):
            for key, value in stream.state_dict().items():
                if isinstance(value, Tensor):
                    tensors[f"{label}/{key}"] = value
                else:
                    meta[f"{label}/{key}"] = value
        return tensors, meta

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Put back what :meth:`state` returned."""
        self._sent = {k.removeprefix("sent/"): t for k, t in tensors.items() if k.startswith("sent/")}
        self._broadcast = meta["broadcast"]
        self._holders = {int(k): v for k, v in meta["holders"].items()}
        for label, stream in (("up", self._up), ("down", self._down), ("personal", self._personal)):
            prefix = f"{label}/"
            both = [*tensors.items(), *meta.items()]
            stream.load_state_dict({k[len(prefix) :]: v for k, v in both if k.startswith(prefix)})


def _flat(parts: Mapping[str, Mapping[str, Tensor]]) -> Weights:
    return {f"{part}/{name}": tensor.detach() for part, tensors in parts.items() for name, tensor in tensors.items()}


def _nested(weights: Mapping[str, Tensor]) -> dict[str, Weights]:
    found: dict[str, Weights] = {}
    for full, tensor in weights.items():
        part, _, name = full.partition("/")
        found.setdefault(part, {})[name] = tensor
    return found
