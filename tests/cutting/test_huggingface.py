"""Randomly initialised Hugging Face models: cut, and exact at another batch size and another length."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cutlayer.cutting import split
from cutlayer.errors import CutError

from .law import assert_exact, assert_joins

transformers = pytest.importorskip("transformers", reason="the extra 'hf' is not installed")


def _tokens(batch: int, length: int = 7) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(0, 50, (batch, length))}


def _padded(batch: int, length: int = 7) -> dict[str, torch.Tensor]:
    mask = (torch.arange(length) < torch.randint(2, length, (batch, 1))).long()
    return _tokens(batch, length) | {"attention_mask": mask}


def _pixels(batch: int, side: int = 16) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(batch, 3, side, side)}


def _gpt2(**options: Any) -> nn.Module:
    sizes = {"vocab_size": 50, "n_positions": 32, "n_embd": 16, "n_layer": 3, "n_head": 2}
    special = {"bos_token_id": 0, "eos_token_id": 0}
    options = {"use_cache": False, "tie_word_embeddings": False} | options
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **special, **options))


def _bert() -> nn.Module:
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = transformers.BertConfig(**sizes, intermediate_size=32, max_position_embeddings=32)
    return transformers.BertForSequenceClassification(config)


def _llama() -> nn.Module:
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = transformers.LlamaConfig(
        **sizes, num_key_value_heads=1, intermediate_size=32, max_position_embeddings=32, use_cache=False
    )
    return transformers.LlamaForCausalLM(config)


def _vit() -> nn.Module:
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    return transformers.ViTForImageClassification(transformers.ViTConfig(**sizes, image_size=16, patch_size=4))


def _resnet() -> nn.Module:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic", num_labels=4
    )
    return transformers.ResNetForImageClassification(config)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[..., Any], list[list[str]]]] = {
    "gpt2": (
        _gpt2,
        _tokens,
        [
            ["transformer.wte"],
            ["transformer.drop"],
            ["transformer.h.0"],
            ["transformer.h"],
            ["transformer"],
            ["transformer.h.0", "transformer.h.1"],
            ["transformer.drop", "transformer.ln_f"],
        ],
    ),
    "gpt2-padded": (_gpt2, _padded, [["transformer.h.0"], ["transformer.h.0", "transformer.ln_f"]]),
    "bert": (
        _bert,
        _padded,
        [
            ["bert.embeddings"],
            ["bert.encoder.layer.1"],
            ["bert"],
            ["bert.encoder.layer.0", "bert.encoder.layer.1"],
            ["bert.embeddings", "bert.pooler"],
        ],
    ),
    "llama": (
        _llama,
        _tokens,
        [
            ["model.embed_tokens"],
            ["model.layers.0"],
            ["model.layers.0", "model.layers.1"],
            ["model.layers.1", "model.norm"],
        ],
    ),
    "llama-padded": (_llama, _padded, [["model.embed_tokens"], ["model.layers.0", "model.norm"]]),
    "vit": (_vit, _pixels, [["vit.embeddings"], ["vit.layernorm"], ["vit.embeddings", "vit.layernorm"]]),
    "resnet": (
        _resnet,
        lambda n: _pixels(n, 32),
        [["resnet.embedder"], ["resnet.encoder.stages.0"], ["resnet.encoder.stages.0", "resnet.pooler"]],
    ),
}
PAIRS = [
    pytest.param(*entry[:2], cut, id=f"{name}-{'+'.join(cut)}") for name, entry in MODELS.items() for cut in entry[2]
]


@pytest.mark.parametrize(("build", "batch", "cut"), PAIRS)
def test_exact_with_original_names(build: Callable[[], nn.Module], batch: Callable[..., Any], cut: list[str]) -> None:
    torch.manual_seed(0)
    model = build()
    parts = split(model, cut, batch(3))
    assert_joins(model, parts)
    assert_exact(model, parts, batch(5))
    if batch in (_tokens, _padded):
        assert_exact(model, parts, batch(2, 11))


def test_a_stack_of_blocks_sends_only_what_the_next_block_needs() -> None:
    names = [crossing.name for crossing in split(_gpt2(), "transformer.h.0", _tokens(3)).crossings]
    assert names == ["transformer.h.0"]
    crossings = split(_llama(), "model.layers.0", _padded(3)).crossings
    assert [(c.name, c.batch_dim, c.passes_through) for c in crossings] == [
        ("model.layers.0", 0, False),
        ("model.rotary_emb[0]", None, False),
        ("model.rotary_emb[1]", None, False),
        ("attention_mask", 0, True),
    ]


def test_a_mask_that_decides_is_followed_at_every_batch() -> None:
    torch.manual_seed(0)
    model = _llama()
    full = _tokens(3) | {"attention_mask": torch.ones(3, 7, dtype=torch.long)}
    parts = split(model, ["model.layers.0", "model.norm"], full)
    assert_exact(model, parts, _padded(4))


@pytest.mark.parametrize("cut", [["transformer.h.0"], ["transformer.h.0", "transformer.ln_f"]])
def test_export_is_exact_too(cut: list[str]) -> None:
    torch.manual_seed(0)
    model = _gpt2()
    parts = split(model, cut, _tokens(3), method="export")
    assert parts.method == "export"
    assert [c.name for c in parts.crossings] == cut
    assert_joins(model, parts)
    assert_exact(model, parts, _tokens(2, 11))


def test_tied_embeddings_are_refused_by_name() -> None:
    with pytest.raises(CutError, match=r"'transformer.wte.weight' \(also 'lm_head.weight'\) is used on both sides of"):
        split(_gpt2(tie_word_embeddings=True), "transformer.h.0", _tokens(3))


def test_a_key_value_cache_is_switched_off() -> None:
    model = _gpt2(use_cache=True)
    parts = split(model, "transformer.h.0", _tokens(3))
    assert model.config.use_cache is False
    assert_exact(model, parts, _tokens(2))
