"""`fp16`: float16 on the wire; half the bytes, 11 significant bits, largest value 65504."""

from __future__ import annotations

import torch
from torch import Tensor

from cutlayer import wire
from cutlayer.transforms import Context, Pieces, Transform

LARGEST = 65504.0


class Fp16(Transform):
    """Rounds to float16.  Law: relative error at most 2**-11 between 2**-14 and 65504.

    Finite values beyond that range saturate at 65504 instead of becoming infinite, which would end the run; values
    below 2**-14 lose bits, as gradients of a mean over a large batch may: prefer `bf16` for those.  NaN and infinity
    travel as such, as they do in `fp32`.
    """

    def send(self, pieces: Pieces, context: Context) -> Pieces:
        tensor = pieces[""]
        half = tensor.to(torch.float16)
        if half.numel() and not _fits(tensor):
            half = torch.where(tensor.isfinite(), tensor.clamp(-LARGEST, LARGEST), tensor).to(torch.float16)
        return {"": half}


def _fits(tensor: Tensor) -> bool:
    low, high = torch.aminmax(tensor.permute(wire.memory_order(tensor)))
    return bool(low >= -LARGEST) and bool(high <= LARGEST)
