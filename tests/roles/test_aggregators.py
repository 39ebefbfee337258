"""Aggregators: weights n_i/N, counters, order, and the published rules by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cutlayer.errors import ConfigError
from cutlayer.roles.aggregators import AGGREGATORS, aggregator, weighted_mean

NOW = {
    "fc.weight": torch.zeros(3, 2),
    "norm.running_var": torch.ones(2),
    "norm.num_batches_tracked": torch.tensor(5),
}


def _update(seed: int, counter: int = 7) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "fc.weight": torch.randn(3, 2, generator=g),
        "norm.running_var": torch.rand(2, generator=g),
        "norm.num_batches_tracked": torch.tensor(counter),
    }


def _combine(spec: Any, *updates: tuple[int, dict[str, Tensor]], now: dict[str, Tensor] | None = None) -> Any:
    return aggregator({"name": spec} if isinstance(spec, str) else spec).combine(now or NOW, iter(updates))


@settings(max_examples=30, deadline=None)
@given(samples=st.lists(st.integers(1, 10_000), min_size=1, max_size=6))
def test_fedavg_is_the_mean_over_samples(samples: list[int]) -> None:
    updates = [(n, _update(i)) for i, n in enumerate(samples)]
    found = weighted_mean(updates)
    for name in ("fc.weight", "norm.running_var"):
        expected = sum(n / sum(samples) * u[name].double() for n, u in updates)
        assert isinstance(expected, Tensor)
        torch.testing.assert_close(found[name], expected.float())
        assert found[name].dtype == torch.float32


def test_one_update_is_itself() -> None:
    update = _update(3)
    for name in AGGREGATORS:
        if name in ("fedadam", "fedyogi"):
            continue
        found = _combine(name, (17, update))
        assert all(torch.equal(found[k], v) for k, v in update.items())
        assert all(found[k].data_ptr() != v.data_ptr() for k, v in update.items())


def test_counters_take_the_rounded_mean_and_stay_integers() -> None:
    found = _combine("fedavg", (10, _update(0, 4)), (30, _update(1, 9)))["norm.num_batches_tracked"]
    assert found.dtype == torch.int64
    assert int(found) == 8  # 0.25 * 4 + 0.75 * 9 = 7.75


@pytest.mark.parametrize("name", ["fedadam", "fedyogi"])
def test_adaptive_rules_follow_the_paper_over_rounds(name: str) -> None:
    lr, β1, β2, τ = 0.1, 0.8, 0.95, 0.01
    rule = aggregator({"name": name, "lr": lr, "beta1": β1, "beta2": β2, "tau": τ})
    now = {k: v.clone() for k, v in NOW.items()}
    w = now["fc.weight"].double()
    m, v = torch.zeros_like(w), torch.full_like(w, τ**2)
    for number in range(3):
        updates = [(10, _update(2 * number)), (30, _update(2 * number + 1))]
        mean = 0.25 * updates[0][1]["fc.weight"].double() + 0.75 * updates[1][1]["fc.weight"].double()
        Δ = mean - w
        m = β1 * m + (1 - β1) * Δ
        v = β2 * v + (1 - β2) * Δ**2 if name == "fedadam" else v - (1 - β2) * Δ**2 * torch.sign(v - Δ**2)
        w = w + lr * m / (v.sqrt() + τ)
        now = rule.combine(now, iter(updates), {"norm.running_var", "norm.num_batches_tracked"})
        torch.testing.assert_close(now["fc.weight"].double(), w, rtol=1e-5, atol=1e-6)
        plain = weighted_mean(updates)
        assert torch.equal(now["norm.running_var"], plain["norm.running_var"]), "statistics are averaged"
        assert torch.equal(now["norm.num_batches_tracked"], plain["norm.num_batches_tracked"])


@pytest.mark.parametrize("name", ["fedadam", "fedyogi"])
def test_adaptive_moments_survive_an_interruption(name: str) -> None:
    first, second = [(1, _update(1))], [(1, _update(2))]
    rule = aggregator({"name": name})
    middle = rule.combine(NOW, iter(first))
    state = {k: t.clone() for k, t in rule.state().items()}
    expected = rule.combine(middle, iter(second))

    resumed = aggregator({"name": name})
    resumed.load_state(state)
    assert torch.equal(resumed.combine(middle, iter(second))["fc.weight"], expected["fc.weight"])
    fresh = aggregator({"name": name}).combine(middle, iter(second))
    assert not torch.equal(fresh["fc.weight"], expected["fc.weight"])


@pytest.mark.parametrize("count", [3, 4, 5, 10])
def test_the_median_ignores_a_liar(count: int) -> None:
    honest = [(1, {"w": torch.full((4,), float(i))}) for i in range(count - 1)]
    liar = (10_000, {"w": torch.full((4,), 1e9)})
    found = _combine("median", *honest, liar, now={"w": torch.zeros(4)})["w"]
    assert float(found.max()) <= count - 1
    values = torch.tensor([float(i) for i in range(count - 1)] + [1e9])
    assert torch.equal(found, torch.quantile(values, 0.5).expand(4))


def test_the_trimmed_mean_drops_both_ends() -> None:
    updates = [(1, {"w": torch.tensor([float(i)])}) for i in (0, 10, 2, 3, 100)]
    found = _combine({"name": "trimmed_mean", "fraction": 0.2}, *updates, now={"w": torch.zeros(1)})["w"]
    assert float(found) == pytest.approx(5.0)  # of 2, 3, 10
    none = _combine({"name": "trimmed_mean", "fraction": 0.0}, *updates, now={"w": torch.zeros(1)})["w"]
    assert float(none) == pytest.approx(23.0)


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(4)), name=st.sampled_from(["median", "trimmed_mean"]))
def test_robust_rules_do_not_care_about_order(order: list[int], name: str) -> None:
    updates = [(i + 1, _update(i)) for i in range(4)]
    straight, shuffled = _combine(name, *updates), _combine(name, *(updates[i] for i in order))
    assert all(torch.equal(straight[k], shuffled[k]) for k in straight)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "fedsum"}, "aggregator must be one of fedavg, .*'fedsum'"),
        ({}, "aggregator must be one of"),
        ({"name": "fedavg", "lr": 1}, "aggregator fedavg has no option 'lr'; it has: none"),
        ({"name": "fedadam", "beta3": 1}, "has no option 'beta3'; it has: lr, beta1, beta2, tau"),
        ({"name": "fedadam", "lr": "big"}, "lr must be a number, got 'big'"),
        ({"name": "fedprox", "mu": True}, "mu must be a number"),
        ({"name": "trimmed_mean", "fraction": 0.7}, "fraction must be between 0 and 0.5"),
    ],
)
def test_wrong_rules_are_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        aggregator(spec)
