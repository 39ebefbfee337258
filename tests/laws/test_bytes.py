"""Every byte is counted, on the encoded message; and what must not travel does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import toys
from torch import Tensor

import cutlayer as cl
from cutlayer import wire
from cutlayer.recipes import RECIPES
from cutlayer.wire import Message

SPLIT = [name for name, recipe in RECIPES.items() if not recipe.whole]
CODECS: dict[str, Any] = {
    "fp32": "fp32",
    "bf16": "bf16",
    "int8": "int8",
    "topk": {"name": "topk", "ratio": 0.2, "feedback": True},
    "mixed": {"activations": "int8", "output_gradients": "fp16", "cut_gradients": "topk", "updates": "int8"},
}


def _run(recipe: str, **keys: Any) -> cl.Result:
    data = toys.dataset(toys.rows(50), toys.rows(20, 1))
    cuts = ["drop1", "drop2"][: 1 + (RECIPES[recipe].labels == "client")]
    split = toys.cut(toys.made(toys.Dense, width=24), cuts, data.train)
    algorithm: dict[str, Any] = {"name": recipe}
    if recipe == "fsl_sage":
        algorithm |= {"align_every": 1, "align_epochs": 2}
    options: dict[str, Any] = {"rounds": 3, "batch_size": 8, "partition": "iid"}
    return cl.run(algorithm, split, data, clients={"count": 4, "fraction": 0.6}, **(options | keys))


class Carried(Message):
    """A message that was decoded: it is on its way down, or has arrived."""


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Message, int]]:
    """Return the list of every message that is encoded from here on, with the length of its bytes."""
    found: list[tuple[Message, int]] = []
    encode, decode = wire.encode, wire.decode

    def watched(message: Message) -> bytes:
        data = encode(message)
        found.append((message, len(data)))
        return data

    def carried(data: bytes) -> Message:
        message = decode(data)
        return Carried(message.kind, message.tensors, message.meta)

    monkeypatch.setattr(wire, "encode", watched)
    monkeypatch.setattr(wire, "decode", carried)
    return found


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("recipe", [*SPLIT, "fedavg"])
def test_the_count_is_the_length_of_the_encoded_messages(
    recipe: str, codec: str, sent: list[tuple[Message, int]]
) -> None:
    really = _run(recipe, codec=CODECS[codec], engine={"name": "local", "encoded": True})
    assert sum(size for _, size in sent) == really.summary["bytes_up"] + really.summary["bytes_down"] > 0
    assert _bytes_up(sent) == really.summary["bytes_up"]

    sent.clear()
    by_reference = _run(recipe, codec=CODECS[codec])
    assert not sent
    assert toys.same(really.model, by_reference.model)
    assert _counts(really) == _counts(by_reference)


def _counts(result: cl.Result) -> list[dict[str, Any]]:
    return [{k: v for k, v in m.items() if k not in ("seconds", "time")} for m in result.metrics]


def _bytes_up(sent: list[tuple[Message, int]]) -> int:
    """Return the bytes of requests and updates, and of hand-overs on their way up: these come as they were made."""
    handed = [size for message, size in sent if message.kind == "handover" and not isinstance(message, Carried)]
    asked = [size for message, size in sent if message.kind in ("train", "forward", "backward", "update")]
    uploads = [size for message, size in sent if message.kind == "upload" and message.tensors]
    return sum(handed + asked + uploads)


@pytest.mark.parametrize("recipe", RECIPES)
def test_bytes_by_kind_add_up(recipe: str) -> None:
    for metrics in _run(recipe, codec=CODECS["mixed"]).metrics:
        assert sum(metrics["bytes"].values()) == metrics["bytes_up"] + metrics["bytes_down"]
        assert all(count > 0 for count in metrics["bytes"].values())
        assert "other" not in metrics["bytes"]


def test_whole_models_at_one_place_send_nothing() -> None:
    for recipe in ("centralized", "local"):
        summary = _run(recipe).summary
        assert summary["bytes_up"] == summary["bytes_down"] == 0


@pytest.mark.parametrize("recipe", [name for name in SPLIT if RECIPES[name].labels == "client"])
@pytest.mark.parametrize("codec", ["fp32", "int8"])
def test_labels_and_inputs_stay_at_the_client_in_the_u_shape(
    recipe: str, codec: str, sent: list[tuple[Message, int]]
) -> None:
    result = _run(recipe, codec=codec, engine={"name": "local", "encoded": True})
    data = toys.rows(50)
    assert sent
    for message, _ in sent:
        for name, tensor in message.tensors.items():
            at_the_cut = name.partition(":")[0].rstrip("0123456789") in ("h", "z", "d", "g")
            weights = message.kind in ("weights", "update", "handover")
            assert at_the_cut or weights, f"{name} in a {message.kind}"
            if not tensor.is_floating_point() and name.rpartition(":")[2] not in ("q", "zero"):
                assert name.endswith("num_batches_tracked")
            assert not _holds(tensor, data.inputs[0])
            assert not (tensor.shape == (8,) and tensor.dtype == torch.int64)
    assert all("labels" not in metrics["bytes"] for metrics in result.metrics)


def _holds(tensor: Tensor, inputs: Tensor) -> bool:
    return (
        tensor.ndim == 2
        and tensor.shape[1] == inputs.shape[1]
        and any(torch.equal(row, x) for row in tensor for x in inputs)
    )


@pytest.mark.parametrize("recipe", ["vanilla", "splitfed_v2", "cse_fsl", "fsl_sage"])
def test_labels_are_counted_where_they_travel(recipe: str) -> None:
    metrics = _run(recipe).metrics[0]
    assert metrics["bytes"]["labels"] > 0


def test_only_every_qth_batch_is_uploaded() -> None:
    """Five batches a client and q = 5: one upload; q = 1: five; and no cut gradient ever comes down."""
    data = toys.dataset(toys.rows(40), toys.rows(20, 1))
    split = toys.cut(toys.made(toys.Dense), ["drop1"], data.train)
    found = {}
    for q in (1, 5):
        recipe = {"name": "cse_fsl", "upload_every": q}
        result = cl.run(recipe, split, data, clients={"count": 1, "test_fraction": 0}, rounds=1, batch_size=8)
        found[q] = result.metrics[0]["bytes"]
        assert "cut_gradients" not in found[q]
    assert found[1]["activations"] == 5 * found[5]["activations"]
    assert found[1]["updates"] == found[5]["updates"]


def test_frozen_encoders_are_sent_no_cut_gradients() -> None:
    metrics = _run("file_sync").metrics[0]
    recipe = {"name": "file_sync", "feedback": "none", "averaged": ["head"]}
    data = toys.dataset(toys.rows(50), toys.rows(20, 1))
    split = toys.cut(toys.made(toys.Dense, width=24), ["drop1", "drop2"], data.train)
    frozen = cl.run(recipe, split, data, clients=4, rounds=3, batch_size=8, partition="iid")
    assert metrics["bytes"]["cut_gradients"] > 0
    assert "cut_gradients" not in frozen.metrics[0]["bytes"]
    assert torch.equal(frozen.model["fc1.weight"], split.state_dict()["fc1.weight"])
    assert not torch.equal(frozen.model["fc2.weight"], split.state_dict()["fc2.weight"])
