"""`int8`: one byte per value, with a scale and a zero point per channel.

A channel's values lie in [min, max], stretched to contain 0.  It travels as ``q`` (uint8), ``scale`` (float32) and
``zero`` (uint8), and arrives as ``(q - zero) * scale``.  Three choices:

- The zero point is a whole number, so that 0 arrives as 0: what ReLU, padding and masks set to zero stays zero, and so
  do the zeros of gradients behind them.  It also costs 1 byte a channel where a float offset costs 4.
- The scale is rounded up to 16 significant bits, so that ``(q - zero) * scale`` is exact in float32 and every device
  and kernel decodes the same bits.
- The channel is dim 1 of [N, C, H, W] and of [N, F], and the last dim of [N, T, D]: units and channels differ in range
  far more than samples do, and the overhead is 5 bytes for N values or more.  In model updates it is dim 0 (output
  units).  Where a channel would have fewer than 16 values (overhead above a third of a byte per value), the whole
  tensor is one channel.

Laws: |x - decoded| <= scale / 2; zeros arrive exactly; values of one sign arrive the second time as they did the first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cutlayer import wire
from cutlayer.errors import TrainingError, WireError
from cutlayer.transforms import Context, Pieces, Transform

_SMALLEST_CHANNEL = 16
_HEADER = 160  # bytes that the two more tensors add to the header of a message, roughly
_LOW_BITS = 0xFF  # of float32's 24 significant bits


class Int8(Transform):
    """Per-channel affine quantization to 8 bits; see the module's text.

    A tensor that would not become smaller (biases, statistics) travels as it is.
    """

    def send(self, pieces: Pieces, context: Context) -> Pieces:
        """Return q, scale and zero.

        Raises:
            TrainingError: the tensor holds NaN or infinity.
        """
        tensor = pieces[""]
        dim = _channel_dim(tensor, context.kind)
        channels = 1 if dim is None else tensor.shape[dim]
        if tensor.numel() + 5 * channels + _HEADER >= tensor.numel() * tensor.itemsize:
            return pieces
        if tensor.dtype is not torch.float32:
            tensor = tensor.to(torch.float32)
        low, high = _range(tensor, dim)
        if not bool((low.isfinite() & high.isfinite()).all()):
            raise TrainingError(
                f"expected finite values in {context.kind} {context.name!r} of client {context.client}, got NaN or "
                "infinity, which int8 cannot carry; lower the learning rate or clip gradients"
            )
        scale = _scale(low.clamp_(max=0), high.clamp_(min=0))
        zero = (-low / scale).round_()
        # the cast truncates, hence the half; by way of int16 because torch has no fast cast from float32 to uint8
        q = tensor.mul(1 / scale).add_(zero + 0.5).clamp_(0, 255).to(torch.int16).to(torch.uint8)
        return {"q": q, "scale": scale, "zero": zero.to(torch.uint8)}

    def receive(self, pieces: Pieces, context: Context) -> Pieces:
        """Return float32 values, in the memory order of ``q``.

        Raises:
            WireError: the pieces do not fit each other.
        """
        if "q" not in pieces:
            return pieces
        q, scale, zero = pieces.get("q"), pieces.get("scale"), pieces.get("zero")
        if q is None or scale is None or zero is None or not _fit(q, scale, zero):
            raise WireError(
                f"int8 expected q, scale and zero that fit each other for {context.name!r}, got "
                f"{ {name: (tuple(t.shape), t.dtype) for name, t in pieces.items()} }; give both sides the same codec"
            )
        return {"": q.to(torch.float32).sub_(zero.to(torch.float32)).mul_(scale)}


def _fit(q: Tensor, scale: Tensor, zero: Tensor) -> bool:
    return (
        (q.dtype, scale.dtype, zero.dtype) == (torch.uint8, torch.float32, torch.uint8)
        and scale.shape == zero.shape
        and scale.dim() == q.dim()
        and all(length in (1, whole) for length, whole in zip(scale.shape, q.shape, strict=True))
    )


def _channel_dim(tensor: Tensor, kind: str) -> int | None:
    if tensor.dim() < 2 or not tensor.numel():
        return None
    dim = 0 if kind == "updates" else 2 if tensor.dim() == 3 else 1
    return dim if tensor.numel() >= _SMALLEST_CHANNEL * tensor.shape[dim] else None


def _range(tensor: Tensor, dim: int | None) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest value of every channel, each of shape [1, ..., channels, ..., 1]."""
    shape, order = [1] * tensor.dim(), wire.memory_order(tensor)
    if dim is None:
        low, high = torch.aminmax(tensor.permute(order))
        return low.reshape(shape), high.reshape(shape)
    shape[dim] = channels = tensor.shape[dim]
    # in the order of memory, and one dim after the other: reducing several dims at once is many times slower
    slower = math.prod(tensor.shape[d] for d in order[: order.index(dim)])
    values = tensor.permute(order).reshape(slower, channels, -1)
    if slower > 1:
        low, high = values.amin(0), values.amax(0)
    else:
        low = high = values[0]
    return low.amin(1).reshape(shape), high.amax(1).reshape(shape)


def _scale(low: Tensor, high: Tensor) -> Tensor:
    """Return (high - low) / 255, rounded up to 16 significant bits; 1 where that is 0 or too small to divide by."""
    scale = high / 255 - low / 255
    bits = scale.contiguous().view(torch.int32)
    scale = ((bits + _LOW_BITS) & ~_LOW_BITS).view(torch.float32)
    if bool((scale * 255).isinf().any()):  # at the end of float32's range, down
        scale = (bits & ~_LOW_BITS).view(torch.float32)
    return torch.where(scale > torch.finfo(torch.float32).tiny, scale, 1.0)
