"""Messages on the wire: a dict of tensors plus JSON meta, as the bytes of one safetensors file.

    8 bytes   length of the header, little endian
    header    {"__metadata__": {"cutlayer": "<JSON text>"}, "<name>": {"dtype", "shape", "data_offsets"}, ...}
    payload   the tensors one after another, in the order of the dict

The JSON text is ``{"format": 1, "kind": ..., "meta": {...}, "order": {"<name>": [dim, ...], ...}}``.  ``order`` lists
the dims of a dense tensor that does not lie in memory row by row (channels last, a transpose) from the slowest to the
fastest; such a tensor is written in that order and gets its strides back, because kernels choose their program, and
with it their rounding, by strides.

Laws: ``decode(encode(m))`` equals ``m`` in values, dtypes, shapes and order of names, and, for tensors that went
through ``dense``, in strides; ``size(m) == len(encode(m))``; ``decode`` of any bytes gives a message or a `WireError`;
what ``decode`` accepts, the `safetensors` library reads as the same tensors.

The library itself copies the payload twice in each direction; here it is copied once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cutlayer.errors import WireError

FORMAT = 1
MAX_BYTES = 1 << 32
MAX_HEADER = 1 << 24
MAX_TENSORS = 1 << 16

_ALIGNMENT = 64
_CODES: dict[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.uint16: "U16",
    torch.uint32: "U32",
    torch.uint64: "U64",
    torch.bool: "BOOL",
}
_DTYPES = {code: dtype for dtype, code in _CODES.items()}
_PLAIN = frozenset({torch.float64, torch.float32, torch.float16, torch.int64, torch.int32, torch.uint8})
"""Dtypes that numpy has under the same name: most tensors at a cut, whose bytes are at hand in a sixth of the time."""
DTYPES = frozenset(_CODES)
"""The dtypes that a message can carry."""


@dataclass(frozen=True, slots=True)
class Message:
    """What crosses the cut: ``kind`` says what it is, ``tensors`` are named, ``meta`` is anything that JSON can say."""

    kind: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)


# --- the form of a tensor in memory ----------------------------------------------------------------------------------

_Dims = tuple[int, ...]
_UNKNOWN: Any = object()
_orders: dict[tuple[_Dims, _Dims], _Dims | bool] = {}
_CACHED = 4096


def _strides(shape: _Dims) -> _Dims:
    strides, step = [1] * len(shape), 1
    for dim in range(len(shape) - 1, -1, -1):
        strides[dim] = step
        step *= max(shape[dim], 1)
    return tuple(strides)


def _order(shape: _Dims, stride: _Dims) -> _Dims | bool:
    """Return True if row-major, the dims from slowest to fastest if dense in another order, False if not dense."""
    known = _orders.get((shape, stride), _UNKNOWN)
    if known is not _UNKNOWN:
        return known  # type: ignore[no-any-return]
    found: _Dims | bool = True
    if stride != _strides(shape):
        order = tuple(sorted(range(len(shape)), key=lambda d: (-stride[d], -shape[d], d)))
        there = tuple(stride[d] for d in order) == _strides(tuple(shape[d] for d in order))
        found = order if there else False
    if len(_orders) >= _CACHED:
        _orders.clear()
    _orders[tuple(shape), stride] = found
    return found


def dense(tensor: Tensor) -> Tensor:
    """Return ``tensor`` in the form it has after ``decode(encode(...))``, mostly without copying it.

    That form: a plain detached tensor that starts on a 64-byte boundary, whose strides are those of its dims in some
    order, without gaps or overlaps.  Such a tensor comes back as it is, memory shared; others are copied.

    Raises:
        WireError: the tensor is sparse, quantized, without data, or of a dtype that no message carries.
    """
    if type(tensor) is not Tensor or tensor.requires_grad or tensor.layout is not torch.strided:
        if tensor.layout is not torch.strided or tensor.is_quantized:
            raise WireError(f"a message carries dense tensors, got layout {tensor.layout}; convert it with .to_dense()")
        tensor = tensor.detach()
        if type(tensor) is not Tensor:
            tensor = tensor.as_subclass(Tensor)
    if not tensor.is_meta and tensor.data_ptr() % _ALIGNMENT == 0 and not tensor.is_inference():
        order = _order(tensor.shape, tensor.stride())
        if order is not False and tensor.dtype in _CODES:
            return tensor
    _check(tensor)
    keep = _order(tensor.shape, tensor.stride()) is not False
    tensor = tensor.resolve_neg()
    return tensor.clone(memory_format=torch.preserve_format if keep else torch.contiguous_format)


def memory_order(tensor: Tensor) -> _Dims:
    """Return the dims of a dense tensor from the slowest to the fastest in memory; of another one, just its dims.

    ``tensor.permute(memory_order(tensor))`` is contiguous if the tensor is dense.
    """
    order = _order(tensor.shape, tensor.stride())
    return tuple(range(tensor.dim())) if isinstance(order, bool) else order


def _check(tensor: Tensor, name: str = "") -> None:
    if tensor.dtype not in _CODES:
        allowed = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in _CODES))
        raise WireError(f"tensor {name!r} is {tensor.dtype}, a message carries only {allowed}; convert it first")
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        raise WireError(f"tensor {name!r} is sparse, quantized or without data; convert it to a dense tensor first")


# --- writing ---------------------------------------------------------------------------------------------------------


def _encoder() -> Callable[[Any], str]:
    """Return what writes JSON without spaces: json's own encoder, made once; ``encode`` makes one for every text."""
    plain = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return plain.encode
    pieces = make(None, plain.default, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, False)
    return lambda value: "".join(pieces(value, 0))


_text = _encoder()
_Key = tuple[tuple[str, torch.dtype, _Dims, _Dims], ...]


@dataclass(frozen=True, slots=True)
class _Layout:
    """The part of a header that depends on names, dtypes, shapes and strides only."""

    entries: str
    order: str
    payload: int
    sizes: dict[str, int]


_layouts: dict[_Key, _Layout] = {}


def _layout(tensors: dict[str, Tensor]) -> _Layout:
    key = tuple([(name, t.dtype, t.shape, t.stride()) for name, t in tensors.items()])
    known = _layouts.get(key)
    if known is None:
        known = _describe(tensors)
        if len(_layouts) >= _CACHED:
            _layouts.clear()
        _layouts[key] = known
    return known


def _describe(tensors: dict[str, Tensor]) -> _Layout:
    entries, orders, sizes, start = [], {}, {}, 0
    for name, tensor in tensors.items():
        _check(tensor, name)
        if name == "__metadata__" or any("\ud800" <= char <= "\udfff" for char in name):
            raise WireError(f"{name!r} cannot be the name of a tensor in a message; choose another name")
        shape, order = tuple(tensor.shape), _order(tensor.shape, tensor.stride())
        if not isinstance(order, bool):
            orders[name] = list(order)
            shape = tuple(shape[dim] for dim in order)
        sizes[name] = math.prod(shape) * tensor.itemsize
        entry = {"dtype": _CODES[tensor.dtype], "shape": shape, "data_offsets": [start, start + sizes[name]]}
        entries.append(f",{_text(name)}:{_text(entry)}")
        start += sizes[name]
    return _Layout("".join(entries), f',"order":{_text(orders)}' if orders else "", start, sizes)


def _inner(message: Message, layout: _Layout) -> str:
    try:
        inner = _text({"format": FORMAT, "kind": message.kind, "meta": message.meta})
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(f"the meta of a {message.kind!r} message must be finite plain JSON: {error}") from error
    return inner if not layout.order else f"{inner[:-1]}{layout.order}}}"


def parts(message: Message) -> list[bytes | memoryview]:
    """Return the encoded message as buffers, the header and then the tensors; joined they are ``encode(message)``.

    Raises:
        WireError: meta is not JSON, or a tensor has a dtype, layout or name that cannot be written.
    """
    layout = _layout(message.tensors)
    inner = _inner(message, layout)
    header = f'{{"__metadata__":{{"cutlayer":{_text(inner)}}}{layout.entries}}}'.encode("ascii")
    header += b" " * (-len(header) % 8)
    buffers: list[bytes | memoryview] = [len(header).to_bytes(8, "little") + header]
    for tensor in message.tensors.values():
        if tensor.numel():
            buffers.append(_raw(tensor))
    return buffers


def _bare(tensor: Tensor) -> bool:
    """Say whether numpy can look at a tensor's memory as it is."""
    return tensor.is_cpu and not tensor.requires_grad and not tensor.is_neg()


def _raw(tensor: Tensor) -> memoryview:
    if tensor.is_contiguous() and tensor.ndim and tensor.dtype in _PLAIN and _bare(tensor):
        array: Any = tensor.numpy()
        return memoryview(array).cast("B")
    tensor = tensor.detach().cpu().resolve_neg()
    tensor = tensor.permute(memory_order(tensor)).contiguous()
    flat = tensor.as_strided((tensor.numel(),), (1,))  # a single element may call itself contiguous with any stride
    array = flat.view(torch.uint8).numpy()
    return memoryview(array)


def encode(message: Message) -> bytes:
    """Return the message as bytes (see the module's text).  Equal messages give equal bytes.

    Raises:
        WireError: meta is not JSON, or a tensor has a dtype, layout or name that cannot be written.
    """
    return b"".join(parts(message))


def size(message: Message) -> int:
    """Return ``len(encode(message))`` in bytes, without encoding: a few microseconds however large the tensors."""
    layout = _layout(message.tensors)
    return _header(message, layout) + layout.payload


def breakdown(message: Message) -> tuple[int, Mapping[str, int]]:
    """Return the bytes of the header and the payload bytes of each tensor; their sum is ``size(message)``."""
    layout = _layout(message.tensors)
    return _header(message, layout), layout.sizes


def _header(message: Message, layout: _Layout) -> int:
    inner = _inner(message, layout)  # ASCII, so that escaping it once more only doubles quotes and backslashes
    quoted = len(inner) + inner.count('"') + inner.count("\\") + 2
    length = len('{"__metadata__":{"cutlayer":}}') + quoted + len(layout.entries)
    return 8 + length + (-length % 8)


# --- reading ---------------------------------------------------------------------------------------------------------


def decode(
    data: bytes | bytearray | memoryview,
    *,
    max_bytes: int = MAX_BYTES,
    max_tensors: int = MAX_TENSORS,
    dtypes: frozenset[torch.dtype] = DTYPES,
) -> Message:
    """Return the message that ``data`` encodes, its tensors in fresh memory that starts on 64-byte boundaries.

    Nothing in ``data`` is trusted: it may come from anyone.  Values are not looked at (NaN passes), except that a bool
    must be 0 or 1.

    Raises:
        WireError: ``data`` is too large, truncated, malformed, not cutlayer's, or has more tensors or other dtypes
            than allowed.
    """
    view = memoryview(data).cast("B")
    if len(view) > max_bytes:
        raise WireError(f"a message may have {max_bytes} bytes, got {len(view)}; send less at once or raise the limit")
    if len(view) < 8 or (length := int.from_bytes(view[:8], "little")) > min(len(view) - 8, MAX_HEADER):
        raise WireError(f"expected a complete cutlayer message, got {len(view)} bytes that are truncated or foreign")
    kind, meta, orders, entries = _preamble(bytes(view[8 : 8 + length]))
    if len(entries) > max_tensors:
        raise WireError(f"a message may have {max_tensors} tensors, got {len(entries)}; send fewer at once")
    if not orders.keys() <= entries.keys():
        raise WireError("expected a cutlayer message, got one that gives an order for tensors it does not hold")
    payload, start, specs = view[8 + length :], 0, []
    for name, entry in entries.items():
        dtype, shape, stop = _entry(name, entry, start, dtypes)
        specs.append((name, dtype, shape, payload[start:stop]))
        start = stop
    if start != len(payload):
        raise WireError(f"the tensors of a message should fill {start} bytes, got {len(payload)}: it is truncated")
    return Message(kind, {spec[0]: _tensor(*spec, orders.get(spec[0])) for spec in specs}, meta)


def peek(data: bytes | memoryview) -> tuple[str, dict[str, Any]]:
    """Return kind and meta of the message that begins with ``data``, which must hold its header (`header_bytes`).

    Raises:
        WireError: ``data`` does not begin with the header of a message.
    """
    view = memoryview(data).cast("B")
    if len(view) < 8 or header_bytes(view) > min(len(view), MAX_HEADER):
        raise WireError(f"expected a cutlayer message, got {len(view)} bytes that are truncated or foreign")
    kind, meta, _, _ = _preamble(bytes(view[8 : header_bytes(view)]))
    return kind, meta


def header_bytes(data: bytes | memoryview) -> int:
    """Return how many bytes of a message that begins with ``data`` (8 bytes or more) come before its tensors."""
    return 8 + int.from_bytes(data[:8], "little")


def _constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _preamble(header: bytes) -> tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return kind, meta, orders and the tensors' entries from the header of a message."""
    try:
        entries = json.loads(header)
        said = json.loads(entries.pop("__metadata__")["cutlayer"], parse_constant=_constant)
        version, kind, meta, orders = said["format"], said["kind"], said["meta"], said.get("order", {})
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise WireError(f"expected a cutlayer message, got bytes without its header ({error})"[:300]) from error
    if version != FORMAT:
        raise WireError(f"expected a message of format {FORMAT}, got {str(version)[:20]!r}; update the older side")
    if not (isinstance(kind, str) and isinstance(meta, dict) and isinstance(orders, dict)):
        raise WireError("expected a cutlayer message, got one whose kind, meta or order has the wrong type")
    return kind, meta, orders, entries


def _entry(name: str, entry: Any, start: int, dtypes: frozenset[torch.dtype]) -> tuple[torch.dtype, list[int], int]:
    """Return dtype, shape and the end of the payload of a tensor whose payload must begin at ``start``."""
    try:
        code, shape, (first, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        sound = isinstance(shape, list) and all(type(length) is int and length >= 0 for length in shape)
        dtype = _DTYPES.get(code)
    except (TypeError, ValueError, KeyError) as error:
        raise WireError(f"tensor {name!r} has a malformed entry in the header"[:300]) from error
    if dtype is None or dtype not in dtypes:
        raise WireError(f"tensor {name!r} has dtype {code!r}, which is not accepted here; convert it first"[:300])
    if not sound or len(shape) > 64 or first != start or stop != start + math.prod(shape) * dtype.itemsize:
        raise WireError(f"tensor {name!r} has a shape that does not match its place in the payload"[:300])
    return dtype, shape, int(stop)


def _tensor(name: str, dtype: torch.dtype, shape: list[int], raw: memoryview, order: Any) -> Tensor:
    if order is not None and not (
        isinstance(order, list) and all(type(d) is int for d in order) and sorted(order) == list(range(len(shape)))
    ):
        raise WireError(f"tensor {name!r} has an order that is no permutation of its {len(shape)} dims"[:300])
    try:
        tensor = torch.empty(shape, dtype=dtype)
    except (RuntimeError, TypeError, OverflowError) as error:
        raise WireError(f"tensor {name!r} has a shape that no tensor can have"[:300]) from error
    if raw:
        target = tensor.view(-1).view(torch.uint8).numpy()
        target[:] = np.frombuffer(raw, np.uint8)
        if dtype is torch.bool and target.max() > 1:
            raise WireError(f"tensor {name!r} is bool, but holds bytes other than 0 and 1"[:300])
    if order is None:
        return tensor
    inverse = [0] * len(order)
    for position, dim in enumerate(order):
        inverse[dim] = position
    return tensor.permute(inverse)
