"""Who takes part in a round: a pure function of the seed and the round's number."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cutlayer.recipes import RECIPES
from cutlayer.roles.coordinator import plan


@given(
    recipe=st.sampled_from(sorted(RECIPES)),
    seed=st.integers(0, 1000),
    number=st.integers(1, 50),
    clients=st.integers(1, 60),
    fraction=st.floats(0.01, 1.0),
)
def test_a_plan_is_a_sample_without_replacement(
    recipe: str, seed: int, number: int, clients: int, fraction: float
) -> None:
    found = plan(RECIPES[recipe], seed, number, clients, fraction)
    assert found == plan(RECIPES[recipe], seed, number, clients, fraction)
    assert found.round == number
    assert len(found.clients) == len(set(found.clients)) == max(1, round(fraction * clients))
    assert all(0 <= c < clients for c in found.clients)


def test_clients_of_one_backbone_come_in_another_order_every_round() -> None:
    """SplitFed v2: the backbone must not always see the last client last."""
    orders = {plan(RECIPES["splitfed_v2"], 0, number, 5).clients for number in range(1, 20)}
    assert len(orders) > 10


def test_other_recipes_go_by_number() -> None:
    for name in ("vanilla", "ushaped", "psl", "splitfed_v1", "fedavg", "file_sync"):
        assert plan(RECIPES[name], 3, 4, 6).clients == (0, 1, 2, 3, 4, 5)


def test_the_participants_do_not_depend_on_the_recipe() -> None:
    sets = {frozenset(plan(recipe, 7, 3, 30, 0.3).clients) for recipe in RECIPES.values()}
    assert len(sets) == 1


def test_everyone_gets_a_turn() -> None:
    seen = {c for number in range(1, 60) for c in plan(RECIPES["fedavg"], 0, number, 20, 0.1).clients}
    assert seen == set(range(20))
