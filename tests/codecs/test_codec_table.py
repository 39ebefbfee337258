"""How an experiment names codecs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cutlayer import codecs
from cutlayer.codecs.int8 import Int8
from cutlayer.codecs.topk import TopK
from cutlayer.errors import ConfigError
from cutlayer.transforms import KINDS, Context, Pieces, Transform


class Doubled(Transform):
    """A codec of a user's own."""

    def send(self, pieces: Pieces, context: Context) -> Pieces:
        return {"": pieces[""] * 2}


def test_a_plain_codec_is_meant_for_every_kind() -> None:
    channel = codecs.parse("int8")
    assert all(isinstance(channel.chains[kind][0], Int8) for kind in KINDS)
    channel = codecs.parse({"name": "topk", "ratio": 0.05})
    assert all(isinstance(channel.chains[kind][0], TopK) for kind in KINDS)


@pytest.mark.parametrize("spec", [None, "fp32", {"name": "fp32"}, {}, {"activations": "fp32"}, {"updates": None}])
def test_fp32_costs_nothing(spec: Any) -> None:
    assert all(codecs.parse(spec).is_identity(kind) for kind in KINDS)


def test_kinds_are_chosen_separately() -> None:
    channel = codecs.parse({"activations": "int8", "updates": {"name": "topk", "ratio": 0.2}})
    assert isinstance(channel.chains["activations"][0], Int8)
    assert isinstance(channel.chains["updates"][0], TopK)
    assert channel.is_identity("cut_gradients")
    assert channel.is_identity("output_gradients")


def test_a_codec_of_ones_own_goes_by_its_place() -> None:
    channel = codecs.parse(f"{__name__}:Doubled")
    assert channel.pack("activations", {"h": torch.ones(1)})["h"].tolist() == [2.0]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("int4", "fp32, bf16, fp16, int8, topk"),
        ({"smashed": "int8"}, "activations, output_gradients, cut_gradients, updates"),
        ({"name": "int8", "bits": 4}, "bits"),
        ({"name": "topk", "ratio": 0.1, "feedback": "yes"}, "feedback"),
        ({"activations": "int4"}, "int4"),
        ({"name": 3}, "3"),
        (7, "7"),
        ("no.such.module:Codec", "no.such"),
        ("math:pi", "float"),
        ("math:nothing", "nothing"),
        ("collections:OrderedDict", "Transform"),
    ],
)
def test_what_is_not_known_is_refused_with_what_is(spec: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        codecs.parse(spec)
