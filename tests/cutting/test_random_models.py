"""Random models: chains of layers with random skips, cut at random places."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cutlayer.cutting import split

from .law import assert_exact, assert_joins

LAYERS = {
    "linear": lambda: nn.Linear(5, 5),
    "norm": lambda: nn.BatchNorm1d(5),
    "drop": lambda: nn.Dropout(0.4),
    "relu": lambda: nn.ReLU(),
    "block": lambda: nn.Sequential(nn.Linear(5, 5), nn.ReLU(inplace=True), nn.Dropout(0.2)),
}


class Skipping(nn.Module):
    """Layer i takes the output before it plus the outputs of the earlier layers named in ``skips``."""

    def __init__(self, kinds: list[str], skips: set[tuple[int, int]], looks: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([LAYERS[kind]() for kind in kinds])
        self.head = nn.Linear(5, 2)
        self.skips = skips
        self.looks = looks

    def forward(self, x: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            for source, target in sorted(self.skips):
                if target == i and source < i and (not self.looks or x.shape[1] == 5):
                    x = x + outputs[source]
            x = layer(x)
            outputs.append(x)
        return self.head(x)


@settings(max_examples=25, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(sorted(LAYERS)), min_size=3, max_size=6),
    skips=st.sets(st.tuples(st.integers(0, 4), st.integers(1, 5)), max_size=4),
    looks=st.booleans(),
    places=st.sets(st.integers(0, 5), min_size=1, max_size=2),
    seed=st.integers(0, 1000),
)
def test_exact(kinds: list[str], skips: set[tuple[int, int]], looks: bool, places: set[int], seed: int) -> None:
    torch.manual_seed(seed)
    model = Skipping(["linear", *kinds], skips, looks)
    cuts = sorted({min(place, len(kinds)) for place in places})
    parts = split(model, [f"layers.{place}" for place in cuts], torch.randn(4, 5))
    assert_joins(model, parts)
    assert_exact(model, parts, torch.randn(3, 5))
