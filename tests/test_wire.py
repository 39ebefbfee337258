"""Laws of messages: what goes in comes out, sizes are exact, and no bytes do harm."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cutlayer import wire
from cutlayer.errors import WireError
from cutlayer.wire import Message, breakdown, decode, dense, encode, size

law = settings(deadline=None, max_examples=60)

DTYPES = sorted(wire.DTYPES, key=str)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda name: name != "__metadata__")
plain = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    plain | st.text(max_size=8), lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=5), each)
)
metas = st.dictionaries(st.text(max_size=8), json_values, max_size=4)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Tensors of every dtype, 0 to 5 dims, empty or not, row-major, permuted, strided, offset or expanded."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=5))
    tensor = torch.randint(0, 2, shape).to(dtype)
    form = draw(st.sampled_from(["plain", "permuted", "strided", "offset", "expanded"]))
    if form == "permuted":
        tensor = tensor.permute(draw(st.permutations(range(len(shape)))))
    elif form == "strided" and shape:
        tensor = torch.stack([tensor, tensor], -1)[..., 0]
    elif form == "offset":
        tensor = torch.cat([tensor.reshape(-1)[:1], tensor.reshape(-1)])[-tensor.numel() or 1 :].reshape(shape)
    elif form == "expanded":
        tensor = tensor[None].expand(2, *shape)
    return tensor


messages = st.builds(Message, st.text(max_size=8), st.dictionaries(names, tensors(), max_size=4), metas)


def same(one: Tensor, two: Tensor) -> bool:
    raw = [t.clone(memory_format=torch.contiguous_format).view(-1).view(torch.uint8) for t in (one, two)]
    return one.dtype == two.dtype and one.shape == two.shape and torch.equal(*raw)


@law
@given(messages)
def test_what_goes_in_comes_out(message: Message) -> None:
    back = decode(encode(message))
    assert back.kind == message.kind
    assert back.meta == message.meta
    assert list(back.tensors) == list(message.tensors)
    for name, tensor in message.tensors.items():
        assert same(back.tensors[name], tensor)


@law
@given(messages)
def test_size_and_breakdown_are_those_of_the_encoded_message(message: Message) -> None:
    data = encode(message)
    header, payload = breakdown(message)
    assert size(message) == len(data) == header + sum(payload.values())
    assert payload == {name: t.numel() * t.itemsize for name, t in message.tensors.items()}


@law
@given(messages)
def test_dense_is_the_form_after_decoding(message: Message) -> None:
    ready = Message(message.kind, {name: dense(t) for name, t in message.tensors.items()}, message.meta)
    back = decode(encode(ready))
    for name, tensor in ready.tensors.items():
        assert same(tensor, message.tensors[name])
        assert back.tensors[name].stride() == tensor.stride()
        assert back.tensors[name].data_ptr() % 64 == tensor.data_ptr() % 64 == 0
        assert dense(tensor) is tensor
        assert dense(back.tensors[name]) is back.tensors[name]


@law
@given(messages)
def test_equal_messages_give_equal_bytes_and_other_readers_agree(message: Message) -> None:
    data = encode(message)
    assert data == encode(Message(message.kind, dict(message.tensors), dict(message.meta)))
    others = safetensors.torch.load(data)
    for name, tensor in message.tensors.items():
        inner = tensor.permute(wire.memory_order(tensor))
        assert same(others[name], inner)


@law
@given(st.binary(max_size=300))
def test_any_bytes_give_a_message_or_a_wire_error(data: bytes) -> None:
    for candidate in (data, len(data).to_bytes(8, "little") + data):
        with suppress(WireError):
            decode(candidate)


@settings(deadline=None, max_examples=250)
@given(st.data())
def test_changed_messages_give_a_message_or_a_wire_error(data: st.DataObject) -> None:
    message = Message("k", {"a": torch.arange(6.0).view(2, 3).t(), "b": torch.tensor([True, False])}, {"n": 1})
    raw = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        got = decode(raw)
    except WireError:
        return
    assert safetensors.torch.load(bytes(raw)).keys() == got.tensors.keys()


scalars = (
    st.none() | st.booleans() | st.integers(-3, 2**80) | st.text(max_size=4) | st.sampled_from(["F32", "BOOL", "I64"])
)
loose = st.recursive(
    scalars,
    lambda each: (
        st.lists(each, max_size=3)
        | st.dictionaries(
            st.sampled_from(["dtype", "shape", "data_offsets", "a", "meta", "kind", "format", "order"]), each
        )
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=250)
@given(loose, loose, loose, st.binary(max_size=16))
def test_any_header_gives_a_message_or_a_wire_error(entry: Any, order: Any, meta: Any, payload: bytes) -> None:
    inner = {"format": 1, "kind": "k", "meta": meta, "order": order}
    for said in (json.dumps(inner), json.dumps(meta), meta):
        header = json.dumps({"__metadata__": {"cutlayer": said}, "a": entry}).encode()
        with suppress(WireError):
            decode(len(header).to_bytes(8, "little") + header + payload)


@law
@given(st.integers(0, 400))
def test_truncated_messages_are_refused(length: int) -> None:
    data = encode(Message("k", {"a": torch.arange(40.0), "e": torch.empty(0, 3)}, {"n": 1}))
    if length < len(data):
        with pytest.raises(WireError):
            decode(data[:length])
    with pytest.raises(WireError):
        decode(data + b"\0" * (length + 1))


def forged(entries: dict[str, Any], payload: bytes = b"", order: Any = None) -> bytes:
    inner = {"format": 1, "kind": "k", "meta": {}} | ({"order": order} if order is not None else {})
    header = json.dumps({"__metadata__": {"cutlayer": json.dumps(inner)}, **entries}).encode()
    return len(header).to_bytes(8, "little") + header + payload


@pytest.mark.parametrize(
    "data",
    [
        forged({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 2**66]}}),
        forged({"a": {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}}),
        forged({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8)),
        forged({"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}, bytes(4)),
        forged({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, bytes(4)),
        forged({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
        forged({"a": {"dtype": [], "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
        forged({"a": {"dtype": "BOOL", "shape": [1], "data_offsets": [0, 1]}}, b"\2"),
        forged({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"\2", {"a": [1]}),
        forged({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"\2", {"b": [0]}),
        forged({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"\2\2"),
        forged({"a": None}),
        safetensors.torch.save({"a": torch.zeros(3)}),
        safetensors.torch.save({"a": torch.zeros(3)}, {"cutlayer": '{"format": 2, "kind": "k", "meta": {}}'}),
        safetensors.torch.save({}, {"cutlayer": "[" * 100_000}),
        b"",
        b"\x80\x04K\x01.",
    ],
)
def test_forged_and_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        decode(data)


def test_limits_are_kept() -> None:
    data = encode(Message("k", {"a": torch.zeros(10), "b": torch.zeros(2, dtype=torch.int64)}))
    with pytest.raises(WireError, match="bytes"):
        decode(data, max_bytes=len(data) - 1)
    with pytest.raises(WireError, match="tensors"):
        decode(data, max_tensors=1)
    with pytest.raises(WireError, match="I64"):
        decode(data, dtypes=frozenset({torch.float32}))
    assert list(decode(data, max_bytes=len(data), max_tensors=2).tensors) == ["a", "b"]


@pytest.mark.parametrize("meta", [{"a": float("nan")}, {"a": {1, 2}}, {"a": torch.zeros(1)}])
def test_meta_that_is_not_json_is_refused(meta: dict[str, Any]) -> None:
    for act in (encode, size):
        with pytest.raises(WireError, match="JSON"):
            act(Message("k", {}, meta))


@pytest.mark.parametrize(
    "tensor", [torch.zeros(2, dtype=torch.complex64), torch.eye(2).to_sparse(), torch.empty(2, device="meta")]
)
def test_tensors_that_no_message_carries_are_refused(tensor: Tensor) -> None:
    for act in (
        lambda: encode(Message("k", {"a": tensor})),
        lambda: size(Message("k", {"a": tensor})),
        lambda: dense(tensor),
    ):
        with pytest.raises(WireError):
            act()


@pytest.mark.parametrize("name", ["__metadata__", "\ud800"])
def test_names_that_no_file_can_hold_are_refused(name: str) -> None:
    with pytest.raises(WireError, match="name"):
        encode(Message("k", {name: torch.zeros(1)}))


def test_strides_survive() -> None:
    image = torch.randn(2, 3, 4, 5)
    sent = {
        "last": image.to(memory_format=torch.channels_last),
        "t": torch.randn(3, 4).t(),
        "swap": image.permute(1, 0, 3, 2),
    }
    back = decode(encode(Message("k", sent))).tensors
    for name, tensor in sent.items():
        assert back[name].stride() == tensor.stride()
        assert torch.equal(back[name], tensor)


def test_names_that_share_a_storage_travel_apart() -> None:
    base = torch.arange(12.0)
    back = decode(encode(Message("k", {"a": base, "b": base, "c": base[4:8]}))).tensors
    back["a"].zero_()
    assert torch.equal(back["b"], base)
    assert torch.equal(back["c"], base[4:8])


def test_dense_detaches_and_shares_memory_where_it_can() -> None:
    parameter = torch.nn.Parameter(torch.randn(3, 4))
    plain_tensor = dense(parameter)
    assert type(plain_tensor) is Tensor
    assert not plain_tensor.requires_grad
    assert plain_tensor.data_ptr() == parameter.data_ptr()
    assert dense(torch.randn(3)[1:]).data_ptr() % 64 == 0
    with torch.inference_mode():
        inference = torch.randn(3)
    assert not dense(inference).is_inference()
    imaginary = torch.randn(3, dtype=torch.complex64).conj().imag
    assert not dense(imaginary).is_neg()
    assert torch.equal(dense(imaginary), imaginary)


def test_the_header_alone_tells_kind_and_meta() -> None:
    data = encode(Message("k", {"a": torch.zeros(1000)}, {"n": [1, "ü"]}))
    assert wire.peek(data[: wire.header_bytes(data)]) == ("k", {"n": [1, "ü"]})
    with pytest.raises(WireError):
        wire.peek(data[: wire.header_bytes(data) - 1])
