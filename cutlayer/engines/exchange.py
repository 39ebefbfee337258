"""Both sides of the exchange of weights in one process: every message is made and counted, decoded where need be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from cutlayer.roles.part import Part
from cutlayer.roles.weights import Broadcaster, Parts, Recipient, Weights, flat, handover, nested, under
from cutlayer.transforms import Channel
from cutlayer.transport import InProcess
from cutlayer.wire import Message


class WeightExchange:
    """Carries client parts up and down, and knows what every client holds."""

    def __init__(self, transport: InProcess, channel: Channel, seed: int) -> None:
        self._transport = transport
        self._server = Broadcaster(channel, seed)
        self._clients = Recipient(channel, seed)
        self._channel, self._seed = channel, seed
        self._holders: dict[int, int] = {}
        self._versions: dict[int, Broadcaster] = {}

    def broadcast(self, parts: Mapping[str, Mapping[str, Tensor]], round_number: int) -> Parts:
        """Fix what all clients of this round are sent of ``parts``, and return it: what they will start from."""
        sent = self._server.broadcast(parts, round_number)
        self._clients.hold(self._server.sent, round_number)
        return sent

    def send_down(self, client: int, parts: Mapping[str, Part], names: Iterable[str]) -> None:
        """Send ``client`` the broadcast and write it into its parts ``names``."""
        holds = self._holders.get(client)
        carried = self._transport.down(self._server.message(holds), "updates")
        # what a difference decodes to is at hand: the law of roles/weights.py
        received = self._server.sent if self._server.continues(holds) else carried.tensors
        self._holders[client] = self._server.round
        for name in names:
            parts[name].write(nested(received)[name])

    def send_up(self, client: int, parts: Mapping[str, Part], names: Iterable[str], samples: int) -> Parts:
        """Send the client's parts ``names`` to the federated server; returns them as they arrive."""
        update = self._clients.update(client, {name: parts[name].snapshot() for name in names}, samples)
        return self._server.arrived(self._transport.up(update, "updates"), client)

    def send_version(self, client: int, parts: Mapping[str, Part], weights: Parts, version: int) -> None:
        """Send ``client`` the newest version, whole: clients that wait for nobody hold different ones."""
        lent = self._versions[client] = Broadcaster(self._channel, self._seed)
        lent.broadcast(weights, version)
        for name, received in nested(self._transport.down(lent.message(None), "updates").tensors).items():
            parts[name].write(received)

    def send_back(self, client: int, parts: Mapping[str, Part], names: Iterable[str], samples: int) -> Parts:
        """Send what ``client`` made of the version that it was sent; returns the parts as they arrive."""
        lent = self._versions.pop(client)
        self._clients.hold(lent.sent, lent.round)
        update = self._clients.update(client, {name: parts[name].snapshot() for name in names}, samples)
        return lent.arrived(self._transport.up(update, "updates"), client)

    def first(self, client: int, parts: Mapping[str, Part]) -> None:
        """Count the first download of parts that are not broadcast: the client starts from the common weights."""
        message = Message("weights", flat({n: p.snapshot() for n, p in parts.items()}), {"client": client})
        for name, weights in nested(self._transport.down(message, "updates").tensors).items():
            parts[name].write(weights)

    def personal(self, client: int, name: str, part: Part, weights: Mapping[str, Tensor], round_number: int) -> None:
        """Send ``client`` weights that are meant for it alone: an aligned auxiliary."""
        held = part.snapshot()
        message, _ = self._server.personal(client, name, held, weights, round_number)
        carried = self._transport.down(message, "updates")
        part.write(self._clients.take_personal(client, name, held, carried))

    def give(self, parts: Mapping[str, Part]) -> dict[str, Message]:
        """Carry a client's parts up after its turn in a relay, weights and optimizer state."""
        return {name: self._transport.up(handover(part), "updates") for name, part in parts.items()}

    def take(self, given: Mapping[str, Message], parts: Mapping[str, Part]) -> None:
        """Carry what the client before has given down into ``parts``."""
        for name, message in given.items():
            carried = self._transport.down(message, "updates")
            parts[name].load_state(carried.tensors, carried.meta)

    def state(self) -> tuple[Weights, dict[str, Any]]:
        """Return what must survive an interruption, as tensors and JSON."""
        tensors, server = self._server.state()
        more, clients = self._clients.state()
        holders = {str(k): v for k, v in self._holders.items()}
        both = {f"server/{k}": t for k, t in tensors.items()}
        both |= {f"clients/{k}": t for k, t in more.items() if not k.startswith("sent/")}
        lent = {str(client): version.round for client, version in self._versions.items()}
        both |= {f"lent/{client}/{k}": t for client, version in self._versions.items() for k, t in version.sent.items()}
        return both, {"server": server, "clients": clients, "holders": holders, "lent": lent}

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Put back what :meth:`state` returned."""
        self._server.load_state(under("server/", tensors), meta["server"])
        self._clients.load_state(under("clients/", tensors), meta["clients"])
        self._clients.hold(self._server.sent, self._server.round)
        self._holders = {int(k): v for k, v in meta["holders"].items()}
        for client, version in meta["lent"].items():
            lent = self._versions[int(client)] = Broadcaster(self._channel, self._seed)
            lent.broadcast(nested(under(f"lent/{client}/", tensors)), version)
