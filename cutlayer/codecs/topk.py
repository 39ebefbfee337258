"""`topk`: only the values of largest magnitude travel, with their places; the others arrive as 0."""

from __future__ import annotations

import math

import torch

from cutlayer.errors import ConfigError, WireError
from cutlayer.transforms import Context, Pieces, Transform

_HEADER = 160  # bytes that the two more tensors add to the header of a message, roughly


class TopK(Transform):
    """Keeps ``ceil(ratio * numel)`` values of a tensor: ``value`` as it is, ``index`` (int32) into its flat form.

    The shape travels as that of an empty tensor, ``shape`` of [0, *shape], which costs no payload.  A tensor that would
    not become smaller travels as it is.  ``feedback`` says whether what is left out is added to the next tensor of the
    same stream (`cutlayer.codecs.feedback`); None: only for model updates.

    Law: kept values arrive exactly, and sending what was received changes nothing.
    """

    def __init__(self, ratio: float = 0.1, feedback: bool | None = None) -> None:
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio <= 1:
            raise ConfigError(f"topk expected a ratio above 0 and at most 1, got {ratio!r}")
        if feedback is not None and not isinstance(feedback, bool):
            raise ConfigError(f"topk expected feedback to be true, false or null, got {feedback!r}")
        self.ratio = float(ratio)
        self.feedback = feedback

    def _kept(self, numel: int) -> int:
        return math.ceil(self.ratio * numel)

    def send(self, pieces: Pieces, context: Context) -> Pieces:
        tensor = pieces[""]
        kept = self._kept(tensor.numel())
        if kept * (tensor.itemsize + 4) + _HEADER >= tensor.numel() * tensor.itemsize or tensor.numel() >= 2**31:
            return pieces
        flat = tensor.reshape(-1)
        index = flat.abs().topk(kept, sorted=False).indices.sort().values
        shape = torch.empty((0, *tensor.shape), dtype=torch.uint8)
        return {"value": flat[index], "index": index.to(torch.int32), "shape": shape}

    def receive(self, pieces: Pieces, context: Context) -> Pieces:
        """Return the tensor with zeros where nothing came.

        Raises:
            WireError: the pieces do not fit each other or this codec's ratio.
        """
        if "index" not in pieces:
            return pieces
        value, index, empty = pieces.get("value"), pieces["index"], pieces.get("shape")
        if (
            value is None
            or empty is None
            or empty.dim() < 1
            or empty.dtype is not torch.uint8
            or index.dim() != 1
            or index.dtype is not torch.int32
            or value.shape != index.shape
            or not value.is_floating_point()
            or self._kept(numel := math.prod(empty.shape[1:])) != len(index)  # so that no one can ask for a huge tensor
            or not bool(((index >= 0) & (index < numel)).all())
        ):
            raise WireError(
                f"topk expected values, places and a shape that fit each other and ratio {self.ratio} for "
                f"{context.name!r}; give both sides the same codec"
            )
        whole = torch.zeros(numel, dtype=value.dtype, device=value.device)
        whole[index.long()] = value
        return {"": whole.reshape(empty.shape[1:])}
