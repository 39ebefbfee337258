"""The federated server: collects the client parts of a round and makes one of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from cutlayer.errors import TrainingError, WireError
from cutlayer.roles.aggregators import FedAvg, aggregator

Update = Mapping[str, Mapping[str, Tensor]]
"""The parts that a client sends, by part and original name."""


class Inbox(Protocol):
    """Where the updates of the open round wait: in memory, or as files, of which one at a time is read."""

    def add(self, client: int, samples: int, update: Update) -> bool:
        """Keep an update; False, and nothing changes, if the client has one here."""
        ...

    def clients(self) -> Iterable[int]:
        """Return the clients that have sent one."""
        ...

    def get(self, client: int) -> tuple[int, Update]:
        """Return (samples, parts)."""
        ...

    def clear(self) -> None:
        """Forget all."""
        ...


class MemoryInbox:
    """Keeps updates in this process."""

    def __init__(self) -> None:
        self._arrived: dict[int, tuple[int, Update]] = {}

    def add(self, client: int, samples: int, update: Update) -> bool:
        if client in self._arrived:
            return False
        self._arrived[client] = samples, dict(update)
        return True

    def clients(self) -> Iterable[int]:
        return list(self._arrived)

    def get(self, client: int) -> tuple[int, Update]:
        return self._arrived[client]

    def clear(self) -> None:
        self._arrived = {}


class FederatedServer:
    """Averages each averaged part.

    ``parts`` are the first weights, by part and original name; ``buffers`` the names of those that are not learned.
    The updates of a round wait in ``inbox`` and are folded one by one, clients in order, so that memory holds two
    models and not one for every client (the trimmed means need all).
    """

    def __init__(
        self,
        parts: Mapping[str, Mapping[str, Tensor]],
        rule: Mapping[str, Any],
        buffers: Mapping[str, Collection[str]] | None = None,
        inbox: Inbox | None = None,
    ) -> None:
        self.parts = {name: {k: t.detach().clone() for k, t in tensors.items()} for name, tensors in parts.items()}
        self._rules: dict[str, FedAvg] = {name: aggregator(rule) for name in parts}
        self._buffers = buffers or {}
        self.inbox: Inbox = inbox if inbox is not None else MemoryInbox()
        self._round = 0

    def open(self, round_number: int) -> None:
        """Begin round ``round_number``: whatever came for an earlier one is refused from here on."""
        self._round = round_number
        self.inbox.clear()

    def receive(self, round_number: int, client: int, samples: int, parts: Update) -> None:
        """Take the parts that ``client`` trained on ``samples`` samples.

        Raises WireError for another round, a second update of the same client, or tensors of the wrong names or shapes,
        and TrainingError for values that are not finite.
        """
        if round_number != self._round:
            raise WireError(f"client {client} sent an update of round {round_number}, but round {self._round} is open")
        self.check(client, samples, parts)
        if not self.inbox.add(client, samples, parts):
            raise WireError(f"client {client} sent a second update for round {round_number}; the first one counts")

    def check(self, client: int, samples: int, parts: Update) -> None:
        """Raise what :meth:`receive` raises for an update of the wrong form or with values that are not finite."""
        if samples <= 0:
            raise WireError(f"client {client} sent an update of {samples} samples; expected at least 1")
        for name, now in self.parts.items():
            _check(client, name, now, parts.get(name, {}))

    def close(self, only: Collection[int] | None = None) -> dict[str, dict[str, Tensor]]:
        """Average what arrived, of the clients ``only`` (None: all), in order; nothing arrived changes nothing."""
        clients = sorted(c for c in self.inbox.clients() if only is None or c in only)
        if clients:
            for name, rule in self._rules.items():
                buffers = self._buffers.get(name, ())
                self.parts[name] = rule.combine(self.parts[name], self._updates(name, clients), buffers)
        self.inbox.clear()
        return self.parts

    def _updates(self, part: str, clients: list[int]) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
        for client in clients:
            samples, parts = self.inbox.get(client)
            yield samples, parts[part]

    def state(self) -> dict[str, Tensor]:
        """Return the averaged parts and the aggregators' moments."""
        tensors = {f"parts/{p}/{k}": t for p, weights in self.parts.items() for k, t in weights.items()}
        return tensors | {f"rules/{p}/{k}": t for p, rule in self._rules.items() for k, t in rule.state().items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`state` returned."""
        for part, weights in self.parts.items():
            self.parts[part] = {k: tensors[f"parts/{part}/{k}"].clone() for k in weights}
            prefix = f"rules/{part}/"
            self._rules[part].load_state({k[len(prefix) :]: t for k, t in tensors.items() if k.startswith(prefix)})


def _check(client: int, part: str, now: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> None:
    if now.keys() != got.keys():
        odd = sorted(now.keys() ^ got.keys())
        raise WireError(f"client {client} sent a {part} of other tensors than ours; they differ in {', '.join(odd)}")
    for name, tensor in got.items():
        if tensor.shape != now[name].shape or tensor.dtype != now[name].dtype:
            raise WireError(
                f"client {client} sent {part} tensor {name} as {tensor.dtype} {tuple(tensor.shape)}; expected "
                f"{now[name].dtype} {tuple(now[name].shape)}"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise TrainingError(
                f"client {client} sent an update whose {part} tensor {name} is not finite; lower its learning rate or "
                "clip gradients"
            )
