"""What cannot be cut is refused in one sentence that says why and what to do."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cutlayer.cutting import split
from cutlayer.errors import CutError

from .zoo import ResNet, Stack


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.last = nn.Linear(4, 4)
        self.last.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.second(self.first(x))))


class _Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(self.second(self.first(x))))


class _Remembering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 2)
        self.last: Any = None

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.first(x)
        return self.second(self.last)


class _Random(nn.Module):
    """Skips a block at random, by Python."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if torch.rand(()).item() < 0.5:
            x = self.second(x)
        return self.head(x)


class _Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        return {1, 2}, self.second(self.first(x))


X = torch.randn(4, 4)


@pytest.mark.parametrize(
    ("model", "at", "says"),
    [
        (ResNet(), "layer9", "split 'layer9' is not a submodule of ResNet; it has: conv1, bn1, .*mean 'layer2'"),
        (Stack(), "token", "'token' is a tensor of Stack, not a submodule"),
        (ResNet(), "fc", "nothing runs after 'fc'"),
        (ResNet(), ["layer2", "layer1"], "'layer1' does not run after 'layer2'"),
        (ResNet(), ["layer1", "layer1"], "both cuts are after 'layer1'"),
        (ResNet(), ["conv1", "layer1", "layer2"], "but 3 were given"),
        (ResNet(), [], "but 0 were given"),
    ],
)
def test_wrong_cut_points(model: nn.Module, at: Any, says: str) -> None:
    with pytest.raises(CutError, match=says):
        split(model, at, torch.randn(2, 3, 8, 8) if isinstance(model, ResNet) else torch.randn(2, 7, 6))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (nn.DataParallel(_Tied()), "split its .module instead"),
        (nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2)), "run the model once"),
        (nn.Sequential(nn.Linear(4, 4, device="meta"), nn.Linear(4, 2)), "meta device"),
        (lambda x: x, "expected a torch.nn.Module to cut"),
    ],
    ids=["parallel", "lazy", "meta", "function"],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_what_is_no_plain_module(model: Any, says: str) -> None:
    with pytest.raises(CutError, match=says):
        split(model, "0", X)


@pytest.mark.parametrize("method", ["auto", "fx", "children", "export"])
def test_a_shared_parameter_is_named_with_all_its_names(method: str) -> None:
    says = r"parameter 'first.weight' \(also 'last.weight'\) is used on both sides of the cut after 'second'; untie it"
    with pytest.raises(CutError, match=says):
        split(_Tied(), "second", X, method=method)


def test_a_module_called_on_both_sides_is_refused_but_after_its_last_call_it_can_be_cut() -> None:
    with pytest.raises(
        CutError, match=r"'first\.weight' is used on both sides of the cut after 'second'; choose another"
    ):
        split(_Twice(), "second", X)
    parts = split(_Twice(), "first", X)
    assert set(parts.backbone.state_dict()) == {"head.weight", "head.bias"}


@pytest.mark.parametrize("seed", range(4))
def test_all_reasons_are_given_where_no_method_fits(seed: int) -> None:
    torch.manual_seed(seed)
    with pytest.raises(CutError) as caught:
        split(_Random(), "first", X)
    message = str(caught.value)
    assert message.startswith("_Random cannot be cut after 'first': fx: its forward draws random numbers")
    assert "children: its containers decide by random numbers" in message
    assert "export: torch.export cannot follow its forward" in message


def test_state_kept_in_attributes_is_not_lost_silently() -> None:
    model = _Remembering()
    with pytest.raises(CutError, match=r"forward assigns self\.last"):
        split(model, "first", X, method="fx")
    assert model.last is None
    assert split(model, "first", X).method == "children"


def test_an_output_that_cannot_be_compared_is_refused() -> None:
    with pytest.raises(CutError, match="returns a set"):
        split(_Fixed(), "first", X)


@pytest.mark.parametrize(
    ("example", "says"),
    [
        ("text", "an example is a tensor, a tuple of positional inputs or a dict"),
        ((), "no tensor in it"),
        ((X, X, X), "takes x"),
        (torch.randn(4, 5), "itself fails on the example"),
    ],
)
def test_wrong_examples(example: Any, says: str) -> None:
    with pytest.raises(CutError, match=says):
        split(_Twice(), "first", example)


def test_unknown_method() -> None:
    with pytest.raises(CutError, match="method is one of auto, fx, children, export, but it is 'magic'"):
        split(_Twice(), "first", X, method="magic")


class _Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 2)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.second(self.first(x) * self.calls)


def test_a_model_that_counts_its_calls_is_refused_by_the_attribute() -> None:
    model = _Counting()
    with pytest.raises(CutError, match="changes its attribute 'calls' at every call"):
        split(model, "first", torch.randn(3, 4))
    assert model.calls == 0
