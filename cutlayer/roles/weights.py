"""How weights travel between clients and the federated server: as they are, or as differences under a lossy codec.

Down: a client that holds the broadcast of the round before gets the difference to it; any other, and everyone at first,
gets the weights themselves.  Up: the difference to what the client was sent.  An empty codec sends weights untouched.

Law: what `Recipient.take` returns equals what `Broadcaster.broadcast` said that everyone holds, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cutlayer import streams
from cutlayer.codecs import DifferenceStream
from cutlayer.errors import WireError
from cutlayer.roles.part import Part
from cutlayer.transforms import Channel
from cutlayer.wire import Message, dense

Weights = dict[str, Tensor]
Parts = dict[str, Weights]


class Broadcaster:
    """The federated server's side."""

    def __init__(self, channel: Channel, seed: int) -> None:
        self._seed = seed
        self._up = DifferenceStream(channel)
        self._down = DifferenceStream(channel)
        self._personal = DifferenceStream(channel, feedback=False)
        self.sent: Weights = {}
        self.packed: Weights = {}
        self.round = 0
        self.full = True

    @property
    def exact(self) -> bool:
        """Weights travel untouched."""
        return self._down.exact

    def broadcast(self, parts: Mapping[str, Mapping[str, Tensor]], round_number: int) -> Parts:
        """Fix what all clients of this round are sent of ``parts``, and return it: what they will start from."""
        weights = flat(parts)
        self.round = round_number
        self.full = not self.sent
        if self._down.exact or self.full:
            self.packed = self.sent = {k: dense(t.clone()) for k, t in weights.items()}
        else:
            seed = streams.derive(self._seed, "broadcast", round_number)
            self.packed, self.sent = self._down.send(weights, self.sent, client=-1, seed=seed, key=(round_number,))
        return nested(self.sent)

    def message(self, holds: int | None) -> Message:
        """Return the broadcast for a client that holds the one of round ``holds`` (None: none)."""
        return Message("weights", self.packed if self.continues(holds) else self.sent, {"round": self.round})

    def continues(self, holds: int | None) -> bool:
        """Say whether a client that holds the broadcast of round ``holds`` is sent the difference to it."""
        return _continues(holds, self.round) and not self.full

    def arrived(self, update: Message, client: int) -> Parts:
        """Return the parts in an update of ``client`` to the weights of this round, decoded.

        Raises WireError where the tensors are not such as the codec makes.
        """
        seed = streams.derive(self._seed, "update", self.round, client)
        return nested(self._up.receive(update.tensors, self.sent, client=client, seed=seed, key=(self.round,)))

    def personal(
        self, client: int, name: str, held: Mapping[str, Tensor], weights: Mapping[str, Tensor], round_number: int
    ) -> tuple[Message, Weights]:
        """Return the message that sends ``client`` weights for it alone, and what it will hold of them."""
        seed = streams.derive(self._seed, "personal", round_number, client)
        now, then = flat({name: weights}), flat({name: held})
        packed, got = self._personal.send(now, then, client=client, seed=seed, key=(round_number,))
        tensors = {k: dense(t) for k, t in packed.items()}
        return Message("weights", tensors, {"round": round_number, "client": client}), nested(got)[name]

    def state(self) -> tuple[Weights, dict[str, Any]]:
        """Return what later rounds depend on, as tensors and JSON."""
        tensors = {f"sent/{k}": t for k, t in self.sent.items()}
        if self.packed is not self.sent:
            tensors |= {f"packed/{k}": t for k, t in self.packed.items()}
        meta: dict[str, Any] = {"round": self.round, "full": self.full}
        _put(tensors, meta, "down", self._down)
        return tensors, meta

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Put back what :meth:`state` returned."""
        self.sent = {k.removeprefix("sent/"): t for k, t in tensors.items() if k.startswith("sent/")}
        packed = {k.removeprefix("packed/"): t for k, t in tensors.items() if k.startswith("packed/")}
        self.packed = packed or self.sent
        self.round, self.full = meta["round"], meta["full"]
        _get(tensors, meta, "down", self._down)


class Recipient:
    """A client's side (in one process: that of all clients, who hold the same broadcast)."""

    def __init__(self, channel: Channel, seed: int) -> None:
        self._seed = seed
        self._up = DifferenceStream(channel)
        self._down = DifferenceStream(channel)
        self._personal = DifferenceStream(channel, feedback=False)
        self.sent: Weights = {}
        self.round: int | None = None

    def take(self, message: Message, *, whole: bool = False) -> Parts:
        """Return the parts in a broadcast, and remember them: the update will be the difference to them.

        ``whole``: what comes is never the difference to the broadcast before.
        """
        round_number = message.meta.get("round")
        if type(round_number) is not int:
            raise WireError(f"expected the round of a broadcast, got {round_number!r}")
        if not (whole or self._down.exact) and _continues(self.round, round_number):
            seed = streams.derive(self._seed, "broadcast", round_number)
            self.sent = self._down.receive(message.tensors, self.sent, client=-1, seed=seed, key=(round_number,))
        else:
            self.sent = dict(message.tensors)
        self.round = round_number
        return nested(self.sent)

    def hold(self, sent: Weights, round_number: int) -> None:
        """Remember a broadcast without decoding it, where it is at hand."""
        self.sent, self.round = sent, round_number

    def update(self, client: int, parts: Mapping[str, Mapping[str, Tensor]], samples: int) -> Message:
        """Return the message that sends the parts that ``client`` trained on ``samples`` samples."""
        assert self.round is not None
        seed = streams.derive(self._seed, "update", self.round, client)
        packed, _ = self._up.send(flat(parts), self.sent, client=client, seed=seed, key=(self.round,))
        meta = {"round": self.round, "client": client, "samples": samples}
        return Message("update", {k: dense(t) for k, t in packed.items()}, meta)

    def take_personal(self, client: int, name: str, held: Mapping[str, Tensor], message: Message) -> Weights:
        """Return the weights that were sent to ``client`` alone, which holds ``held``."""
        round_number = message.meta["round"]
        seed = streams.derive(self._seed, "personal", round_number, client)
        then = flat({name: held})
        got = self._personal.receive(message.tensors, then, client=client, seed=seed, key=(round_number,))
        return nested(got)[name]

    def state(self) -> tuple[Weights, dict[str, Any]]:
        """Return what later rounds depend on, as tensors and JSON."""
        tensors = {} if self._down.exact else {f"sent/{k}": t for k, t in self.sent.items()}
        meta: dict[str, Any] = {"round": self.round}
        _put(tensors, meta, "up", self._up)
        return tensors, meta

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Put back what :meth:`state` returned."""
        self.sent = {k.removeprefix("sent/"): t for k, t in tensors.items() if k.startswith("sent/")}
        self.round = meta["round"]
        _get(tensors, meta, "up", self._up)


def handover(part: Part) -> Message:
    """Return the message that hands a part on, with its optimizer's state."""
    tensors, meta = part.state()
    return Message("handover", {k: dense(t) for k, t in tensors.items()}, meta)


def _continues(holds: int | None, round_number: int) -> bool:
    return holds is not None and holds == round_number - 1


def _put(tensors: Weights, meta: dict[str, Any], label: str, stream: DifferenceStream) -> None:
    for key, value in stream.state_dict().items():
        if isinstance(value, Tensor):
            tensors[f"{label}/{key}"] = value
        else:
            meta[f"{label}/{key}"] = value


def _get(tensors: Mapping[str, Tensor], meta: Mapping[str, Any], label: str, stream: DifferenceStream) -> None:
    prefix = f"{label}/"
    both = [*tensors.items(), *meta.items()]
    stream.load_state_dict({k[len(prefix) :]: v for k, v in both if k.startswith(prefix)})


def flat(parts: Mapping[str, Mapping[str, Tensor]]) -> Weights:
    """Return the tensors of several parts under ``<part>/<name>``."""
    return {f"{part}/{name}": tensor.detach() for part, tensors in parts.items() for name, tensor in tensors.items()}


def nested(weights: Mapping[str, Tensor]) -> Parts:
    """Return what :func:`flat` was given."""
    found: Parts = {}
    for full, tensor in weights.items():
        part, _, name = full.partition("/")
        found.setdefault(part, {})[name] = tensor
    return found


def under(prefix: str, tensors: Mapping[str, Tensor]) -> Weights:
    """Return the tensors whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
