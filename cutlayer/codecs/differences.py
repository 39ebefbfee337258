"""Model updates under a lossy codec: the difference to what the receiver holds, with error feedback.

The weights themselves lose too much in 8 bits, their change over a round does not.  The sender of ``w`` to a receiver
that holds ``r`` sends ``C(w - r + e)``, where ``e`` is what the codec left out last time; both sides then reconstruct
``r + decoded``, with the same operations and so the same bits.  Without transforms the weights travel untouched.

Integer tensors (BatchNorm's counters) always travel as they are.  So do floating tensors that the receiver does not
hold, or holds in another shape: they go through the codec undiminished.
"""

from __future__ import annotations

from torch import Tensor

from cutlayer.codecs.feedback import ErrorFeedback
from cutlayer.transforms import Channel, State

KIND = "updates"


class DifferenceStream:
    """Sends model parts over a channel as differences.

    Args:
        channel: its transforms for ``updates`` are used.
        feedback: whether to add what was left out to the next difference.  True where the reference is agreed anew each
            time, as the global model is for a client's upload.  False where the reference is what this stream
            delivered last, because then the next difference contains the error already.  None: True, unless the codec
            says otherwise (``topk`` with ``feedback: false``).

    Law: `send`'s second result equals `receive`'s, bit for bit.
    """

    def __init__(self, channel: Channel, feedback: bool | None = None) -> None:
        chain = channel.chains[KIND]
        if feedback is None:
            feedback = all(getattr(transform, "feedback", None) is not False for transform in chain)
        self.exact = not chain
        self._channel = Channel({KIND: (ErrorFeedback(*chain),) if chain and feedback else chain})

    def send(
        self,
        weights: dict[str, Tensor],
        reference: dict[str, Tensor],
        *,
        client: int = 0,
        seed: int = 0,
        key: tuple[int, ...] = (),
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the tensors to put into the message, and the weights as the receiver will have them.

        ``key`` names the message, e.g. (round,); sending the same key again gives the same tensors.

        Raises:
            TrainingError: a codec met NaN or infinity.
        """
        if self.exact:
            return weights, weights
        differences = {
            name: tensor.detach() - reference[name].to(tensor) if _differs(tensor, reference.get(name)) else tensor
            for name, tensor in weights.items()
        }
        packed = self._channel.pack(KIND, differences, client=client, seed=seed, key=key)
        return packed, self.receive(packed, reference, client=client, seed=seed, key=key)

    def receive(
        self,
        packed: dict[str, Tensor],
        reference: dict[str, Tensor],
        *,
        client: int = 0,
        seed: int = 0,
        key: tuple[int, ...] = (),
    ) -> dict[str, Tensor]:
        """Return the weights that the sender sent, reconstructed on ``reference``.

        Raises:
            WireError: the tensors are not such as this stream's codec makes.
        """
        if self.exact:
            return packed
        return {
            name: reference[name].to(tensor) + tensor if _differs(tensor, reference.get(name)) else tensor
            for name, tensor in self._channel.unpack(KIND, packed, client=client, seed=seed, key=key).items()
        }

    def state_dict(self) -> State:
        """Return the errors that are to be fed back: tensors and JSON values only."""
        return {} if self.exact else self._channel.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Go on from ``state``, which ``state_dict`` returned."""
        if not self.exact:
            self._channel.load_state_dict(state)


def _differs(tensor: Tensor, reference: Tensor | None) -> bool:
    return tensor.is_floating_point() and reference is not None and reference.shape == tensor.shape
