"""What ``inspect`` says: parameters, FLOPs, shapes and bytes on each side, or the reason why not."""

import pytest
import torch
from torch import nn

from cutlayer.cutting import cut_points, inspect_cut, inspect_model
from cutlayer.errors import CutError

from .zoo import ResNet, Skip, Stack


def test_a_chain_of_linear_layers_is_counted_exactly() -> None:
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))
    cost = inspect_cut(model, "1", torch.randn(8, 10))
    assert (cost.client_parameters, cost.parameters) == (220, 325)
    encoder, backbone = cost.parts
    assert encoder.flops == 2 * 2 * 10 * 20  # forward and the gradient of the weight; the input needs none
    assert backbone.flops == 3 * 2 * 20 * 5
    assert cost.client_share == pytest.approx(800 / 1400)
    assert (cost.bytes_up, cost.bytes_down) == (80, 80)
    assert [(c.name, c.shape, c.dtype, c.bytes_per_sample) for c in cost.crossings] == [("1", (20,), "float32", 80)]


def test_with_two_cuts_the_client_holds_both_ends() -> None:
    model = nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 6), nn.Linear(6, 5))
    cost = inspect_cut(model, ["0", "1"], torch.randn(8, 10))
    assert [part.role for part in cost.parts] == ["encoder", "backbone", "head"]
    assert cost.client_parameters == 220 + 35
    assert cost.bytes_up == cost.bytes_down == 4 * 20 + 4 * 6


def test_costs_do_not_depend_on_the_batch_and_add_up_to_the_model() -> None:
    model = ResNet()
    rows = {n: inspect_model(model, torch.randn(n, 3, 8, 8)) for n in (2, 5)}
    assert [(r.cuts, r.client_flops, r.bytes_up) for r in rows[2]] == [
        (r.cuts, r.client_flops, r.bytes_up) for r in rows[5]
    ]
    possible = [row for row in rows[2] if row.possible]
    assert {row.parameters for row in possible} == {sum(p.numel() for p in model.parameters())}
    assert len({row.flops for row in possible}) == 1
    shares = [row.client_share for row in possible if "." not in row.cuts[0]]
    assert shares == sorted(shares)


def test_a_cut_that_is_impossible_has_a_reason_instead() -> None:
    rows = {row.cuts[0]: row for row in inspect_model(ResNet(), torch.randn(2, 3, 8, 8), at=["layer1", "fc", "nope"])}
    assert rows["layer1"].possible
    assert "nothing runs after 'fc'" in str(rows["fc"].reason)
    assert "not a submodule" in str(rows["nope"].reason)
    with pytest.raises(CutError):
        inspect_cut(ResNet(), "fc", torch.randn(2, 3, 8, 8))


def test_inputs_that_pass_through_are_shown_and_cost_one_way_only() -> None:
    example = {"x": torch.randn(4, 6), "gate": torch.rand(4, 6)}
    cost = inspect_cut(Skip(), "first", example)
    assert cost.passes_through == ("gate",)
    assert (cost.bytes_up, cost.bytes_down) == (48, 24)


def test_cut_points_are_blocks_not_their_insides() -> None:
    blocks = ["layer1", "layer1.0", "layer1.1", "layer2", "layer2.0", "layer2.1"]
    assert cut_points(ResNet()) == ["conv1", "bn1", "relu", *blocks, "pool", "fc"]
    assert cut_points(Stack()) == ["embed", "blocks.0", "blocks.1", "blocks.2", "head"]


def test_inspection_leaves_gradients_and_modes() -> None:
    model = ResNet().eval()
    model.fc.bias.grad = torch.ones(5)
    inspect_model(model, torch.randn(2, 3, 8, 8), at=["layer1"])
    assert torch.equal(model.fc.bias.grad, torch.ones(5))
    assert all(p.grad is None for name, p in model.named_parameters() if name != "fc.bias")
    assert not any(module.training for module in model.modules())
