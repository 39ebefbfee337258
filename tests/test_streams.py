"""Random streams are pure functions of names."""

from __future__ import annotations

import subprocess
import sys

import torch
from hypothesis import given
from hypothesis import strategies as st

from cutlayer import streams

names = st.lists(st.text(max_size=6) | st.integers(-5, 1000), max_size=4)


@given(seed=st.integers(0, 2**63), names=names)
def test_seeds_are_pure_and_in_range(seed: int, names: list[str | int]) -> None:
    found = streams.derive(seed, *names)
    assert found == streams.derive(seed, *names)
    assert 0 <= found < 2**63
    torch.Generator().manual_seed(found)


def test_names_that_differ_give_seeds_that_differ() -> None:
    keys = [(s, a, b) for s in range(5) for a in ("order", "batch", "orde") for b in range(40)]
    assert len({streams.derive(s, a, b) for s, a, b in keys}) == len(keys)
    assert streams.derive(0, "a", "b") != streams.derive(0, "ab") != streams.derive(0, "b", "a")
    assert streams.derive(1, 2, 3) != streams.derive(12, 3)


def test_another_process_draws_the_same() -> None:
    code = "from cutlayer.streams import derive; print(derive(7, 'batch', 3, 1, 0, 2))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) == streams.derive(7, "batch", 3, 1, 0, 2)


def test_generators_start_at_their_stream() -> None:
    first, second = (torch.rand(5, generator=streams.generator(3, "x")) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, torch.rand(5, generator=streams.generator(3, "y")))


def test_starting_a_stream_is_seeding_the_default_generator() -> None:
    with streams.preserved():
        streams.start(11)
        found = torch.rand(4)
        torch.manual_seed(11)
        assert torch.equal(found, torch.rand(4))


def test_the_callers_random_state_is_preserved() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with streams.preserved():
        streams.start(99)
        torch.rand(100)
    assert torch.equal(torch.rand(3), expected)
