"""Everything that happens to tensors on their way over the cut: one interface for codecs, noise, clipping, recording.

A tensor on its way is a dict of *pieces*: it starts as ``{"": tensor}``; a codec may turn it into ``{"q": ..., "scale":
...}``, whose pieces then travel as tensors named ``name:q`` and ``name:scale``.  The transforms of one kind of message
are applied in order at the sender (`Transform.send`) and in reverse order at the receiver (`Transform.receive`).

Only floating tensors are transformed; masks, ids and counters travel untouched.  Without transforms a channel hands the
same dict through.

Law: for every chain, ``unpack(pack(tensors))`` has the names, order, shapes and dtypes of ``tensors``, at the sender
(who may run it to see what the receiver sees) as at the receiver, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cutlayer import streams
from cutlayer.errors import ConfigError, WireError

KINDS = ("activations", "output_gradients", "cut_gradients", "updates")
"""The kinds of messages that a channel transforms: three at the cut, and the parts exchanged between rounds."""

SEPARATOR = ":"
_LIKE = "like"

Pieces = dict[str, Tensor]
State = dict[str, Any]
"""Names to tensors or plain JSON values: what a transform must remember when a run is interrupted."""


@dataclass(frozen=True, slots=True)
class Context:
    """Which tensor of which message a transform is looking at.

    ``seed`` is the stream of this tensor in this message: noise drawn from it is the same when the message is sent
    again.  ``key`` names the message among those of its kind and client, for instance (round, epoch, batch).
    """

    kind: str
    client: int
    name: str
    seed: int
    training: bool = True
    key: tuple[int, ...] = ()

    @property
    def stream(self) -> str:
        """The name of the sequence of tensors that this one belongs to, for transforms with a memory."""
        return f"{self.kind}/{self.client}/{self.name}"


class Transform:
    """Does something to a tensor at the sender and, usually, undoes it at the receiver; the identity unless overridden.

    A transform must not change the tensors it is given, and must give the same pieces for the same context and input:
    a message may have to be sent again.
    """

    def send(self, pieces: Pieces, context: Context) -> Pieces:
        """Return the pieces to send on."""
        return pieces

    def receive(self, pieces: Pieces, context: Context) -> Pieces:
        """Return the pieces as they were before ``send``, as far as they can be known.

        Raises:
            WireError: the pieces are not such as ``send`` makes.
        """
        return pieces

    def state_dict(self) -> State:
        """Return what must survive an interruption: tensors and JSON values only."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Go on from ``state``, which ``state_dict`` returned."""


class Channel:
    """The transforms of each kind of message, in the order in which the sender applies them."""

    def __init__(self, chains: Mapping[str, Sequence[Transform]] | None = None) -> None:
        chains = chains or {}
        if unknown := sorted(set(chains) - set(KINDS)):
            raise ConfigError(f"expected a kind of message out of {', '.join(KINDS)}, got {', '.join(unknown)}")
        self.chains: dict[str, tuple[Transform, ...]] = {kind: tuple(chains.get(kind, ())) for kind in KINDS}

    def before(self, kind: str, *transforms: Transform) -> Channel:
        """Return a channel in which ``transforms`` come first at the sender of ``kind``, as noise before a codec."""
        if kind not in KINDS:
            raise ConfigError(f"expected a kind of message out of {', '.join(KINDS)}, got {kind!r}")
        return Channel({**self.chains, kind: (*transforms, *self.chains[kind])})

    def is_identity(self, kind: str) -> bool:
        """Say whether messages of ``kind`` travel as they are.  Kinds that the channel does not know do."""
        return not self.chains.get(kind)

    def pack(
        self,
        kind: str,
        tensors: dict[str, Tensor],
        *,
        client: int = 0,
        seed: int = 0,
        training: bool = True,
        key: tuple[int, ...] = (),
    ) -> dict[str, Tensor]:
        """Return the tensors to put into a message of ``kind``; ``seed`` belongs to this message alone.

        Raises:
            WireError: a name contains ':'.
            TrainingError: a codec met NaN or infinity.
        """
        chain = self.chains.get(kind)
        if not chain:
            return tensors
        packed: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            if SEPARATOR in name:
                raise WireError(f"expected the name of a tensor without '{SEPARATOR}', got {name!r}; rename it")
            if not tensor.is_floating_point():
                packed[name] = tensor
                continue
            context = Context(kind, client, name, streams.derive(seed, kind, name), training, key)
            pieces: Pieces = {"": tensor.detach()}
            for transform in chain:
                pieces = transform.send(pieces, context)
            for piece, value in pieces.items():
                packed[f"{name}{SEPARATOR}{piece}" if piece else name] = value
            if tensor.dtype is not torch.float32:
                packed[f"{name}{SEPARATOR}{_LIKE}"] = tensor.new_empty(0)
        return packed

    def unpack(
        self,
        kind: str,
        packed: dict[str, Tensor],
        *,
        client: int = 0,
        seed: int = 0,
        training: bool = True,
        key: tuple[int, ...] = (),
    ) -> dict[str, Tensor]:
        """Return the tensors that ``pack`` was given, as far as the transforms let the receiver know them.

        Raises:
            WireError: the pieces of a tensor are not such as the channel's transforms make.
        """
        chain = self.chains.get(kind)
        if not chain:
            return packed
        groups: dict[str, Pieces] = {}
        for full, value in packed.items():
            name, _, piece = full.partition(SEPARATOR)
            groups.setdefault(name, {})[piece] = value
        tensors: dict[str, Tensor] = {}
        for name, pieces in groups.items():
            whole = pieces.get("")
            if whole is not None and not whole.is_floating_point():
                if len(pieces) > 1:
                    raise WireError(f"tensor {name!r} is {whole.dtype} and should have come in one piece")
                tensors[name] = whole
                continue
            like = pieces.pop(_LIKE, None)
            context = Context(kind, client, name, streams.derive(seed, kind, name), training, key)
            for transform in reversed(chain):
                pieces = transform.receive(pieces, context)
            if pieces.keys() != {""}:
                raise WireError(
                    f"tensor {name!r} of a message of kind {kind!r} came in pieces {sorted(pieces)} that its codec "
                    "does not know; give both sides the same codec"
                )
            tensors[name] = pieces[""].to(torch.float32 if like is None else like.dtype)
        return tensors

    def state_dict(self) -> State:
        """Return what the transforms remember, under ``<kind>/<index>/<name>``: tensors and JSON values only."""
        return {
            f"{kind}/{index}/{name}": value
            for kind, chain in self.chains.items()
            for index, transform in enumerate(chain)
            for name, value in transform.state_dict().items()
        }

    def load_state_dict(self, state: State) -> None:
        """Give every transform back what ``state_dict`` returned."""
        for kind, chain in self.chains.items():
            for index, transform in enumerate(chain):
                prefix = f"{kind}/{index}/"
                transform.load_state_dict(
                    {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
                )
