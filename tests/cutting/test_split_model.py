"""What comes back from ``split``: calling, saving, moving, verifying later."""

import copy

import pytest
import torch
from torch import nn

from cutlayer.cutting import as_tuple, split
from cutlayer.errors import CutError

from .law import assert_exact
from .zoo import Inplace, Named, Recurrent, ResNet, Skip, Stack


def test_without_an_example_fx_alone_cuts_and_verification_comes_later() -> None:
    model = Recurrent()
    parts = split(model, ["gru", "again"])
    assert (parts.method, parts.crossings) == ("fx", ())
    parts.verify(torch.randn(3, 5, 6))
    assert_exact(model, parts, torch.randn(2, 5, 6))
    with pytest.raises(CutError, match="an example is needed"):
        split(Named(), "join")


def test_verify_notices_a_part_that_computes_something_else() -> None:
    parts = split(ResNet(), "layer1", torch.randn(4, 3, 8, 8))
    parts.verify(torch.randn(2, 3, 8, 8))
    parts.backbone.register_forward_hook(lambda module, args, output: output * 2)
    with pytest.raises(CutError, match="the output in train mode differs from the uncut model's by up to"):
        parts.verify(torch.randn(2, 3, 8, 8))


def test_verify_of_a_trained_copy_uses_the_weights_of_the_copy() -> None:
    twin = split(ResNet(), "layer1", torch.randn(4, 3, 8, 8)).copy()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.5)
    twin.verify(torch.randn(3, 3, 8, 8))


def test_the_encoder_takes_inputs_by_name_and_in_order() -> None:
    model = Skip().eval()
    batch = {"x": torch.randn(4, 6), "gate": torch.rand(4, 6)}
    parts = split(model, "first", batch).eval()
    for given in (
        parts.encoder(**batch),
        parts.encoder(*batch.values()),
        parts.encoder(batch["x"], gate=batch["gate"]),
    ):
        output = parts.backbone(*as_tuple(given))
        assert torch.equal(output["logits"], model(**batch)["logits"])
    with pytest.raises(CutError, match=r"takes the inputs of the example \(x, gate\)"):
        parts.encoder(batch["x"])
    with pytest.raises(CutError, match=r"takes the inputs of the example \(x, gate\)"):
        parts.encoder(**batch, other=1)


def test_a_fixed_flag_may_be_repeated_but_not_changed() -> None:
    batch = {"batch": {"image": torch.randn(4, 3, 5, 5), "text": torch.randint(0, 10, (4, 4))}, "both": True}
    parts = split(Named(), "join", batch)
    parts.encoder(**batch)
    with pytest.raises(CutError, match="differs from the example's"):
        parts.encoder(batch["batch"], both=False)


def test_state_goes_round_and_wrong_state_is_refused() -> None:
    parts = split(ResNet(), ["layer1", "layer2"], torch.randn(4, 3, 8, 8))
    other = ResNet()
    parts.load_state_dict(other.state_dict())
    for name, tensor in parts.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
    other.load_state_dict(parts.state_dict())
    state = other.state_dict()
    with pytest.raises(CutError, match=r"it lacks fc\.bias"):
        parts.load_state_dict({k: v for k, v in state.items() if k != "fc.bias"})
    with pytest.raises(CutError, match="has unknown extra"):
        parts.load_state_dict(state | {"extra": torch.zeros(1)})
    with pytest.raises(CutError, match="does not fit the model"):
        parts.load_state_dict(state | {"fc.bias": torch.zeros(9)})


def test_each_part_loads_its_own_state() -> None:
    parts = split(Stack(), ["embed", "blocks.1"], torch.randn(4, 7, 6))
    for part in parts.parts.values():
        part.load_state_dict({key: torch.zeros_like(value) for key, value in part.state_dict().items()})
    assert all(not tensor.any() for tensor in parts.state_dict().values())


@pytest.mark.parametrize("method", ["fx", "children", "export"])
def test_dtype_follows(method: str) -> None:
    model = ResNet().eval()
    parts = split(model, ["layer1", "layer2"], torch.randn(4, 3, 8, 8), method=method).copy().eval()
    parts.to(torch.float64)
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    output = parts(x)
    assert output.dtype == torch.float64
    assert torch.equal(output, copy.deepcopy(model).double()(x))


def test_unused_state_stays_and_scratch_buffers_follow_their_users() -> None:
    model = Skip()
    parts = split(model, ["first", "third"], {"x": torch.randn(4, 6), "gate": torch.rand(4, 6)})
    assert parts.head is not None
    assert "unused.weight" in parts.head.state_dict()
    assert "scale" in parts.backbone.state_dict()
    assert "shift" not in parts.state_dict()
    assert dict(parts.head.named_buffers())["shift"] is model.shift


def test_a_value_changed_in_place_behind_the_cut_is_safe_for_the_sender() -> None:
    parts = split(Inplace(), "norm", torch.randn(4, 6))
    sent = parts.encoder(torch.randn(4, 6)).detach().requires_grad_()
    before = sent.detach().clone()
    parts.backbone(sent).sum().backward()
    assert sent.grad is not None
    assert torch.equal(sent, before)


def test_modes_switch_by_part_and_leave_other_parts_alone() -> None:
    parts = split(Skip(), "first", {"x": torch.randn(4, 6), "gate": torch.rand(4, 6)})
    parts.backbone.eval()
    assert parts.encoder.training
    assert not parts.backbone.training
    assert all(not module.training for module in parts.backbone.modules())


def test_one_value_is_bare_and_several_are_a_flat_tuple() -> None:
    parts = split(Recurrent(), "gru", torch.randn(4, 5, 6))
    value = parts.encoder(torch.randn(2, 5, 6))
    assert [tuple(v.shape) for v in value] == [(2, 5, 8), (1, 2, 8)]
    assert [(c.name, c.shape, c.batch_dim) for c in parts.crossings] == [("gru[0]", (5, 8), 0), ("gru[1]", (1, 8), 1)]
    assert isinstance(split(ResNet(), "layer1").encoder(torch.randn(2, 3, 8, 8)), torch.Tensor)


def test_deep_copies_are_of_modules_only() -> None:
    parts = split(nn.Sequential(*[nn.Linear(4, 4) for _ in range(4)]), "1", torch.randn(3, 4))
    twin = copy.deepcopy(parts.backbone)
    assert twin._codes[True] is parts.backbone._codes[True]
    assert {id(p) for p in twin.parameters()}.isdisjoint(id(p) for p in parts.backbone.parameters())
