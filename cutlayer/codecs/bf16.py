"""`bf16`: bfloat16 on the wire; half the bytes, the range of float32, 8 significant bits."""

from __future__ import annotations

import torch

from cutlayer.transforms import Context, Pieces, Transform


class Bf16(Transform):
    """Rounds to bfloat16.  Law: relative error at most 2**-8; sending what was received changes nothing.

    NaN and infinity travel as such, as they do in `fp32`.
    """

    def send(self, pieces: Pieces, context: Context) -> Pieces:
        return {"": pieces[""].to(torch.bfloat16)}
