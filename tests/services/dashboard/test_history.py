"""A history that is continued is the history that is asked for at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cutlayer.services.dashboard.history import History
from services.dashboard import figures


@given(rounds=st.integers(1, 12), cut=st.integers(0, 12), overlap=st.integers(0, 3))
def test_continuing_is_asking_at_once(rounds: int, cut: int, overlap: int) -> None:
    cut = min(cut, rounds)
    whole = History.of(figures.history(rounds))
    first = History.of(figures.history(cut))
    begin = max(1, cut + 1 - overlap)
    later = History.of(figures.history(rounds + 1 - begin, first=begin))
    assert first.followed_by(later) == whole


def test_a_client_that_is_asked_for_later_has_nothing_before() -> None:
    first = History.of(figures.history(2, asked=(0,)))
    both = first.followed_by(History.of(figures.history(2, first=3, asked=(0, 1))))
    assert both.of_client(0, "loss") == [[1, 1.0], [2, 1.0], [3, 1.0], [4, 1.0]]
    assert both.of_client(1, "loss") == [[3, 2.0], [4, 2.0]]


def test_rounds_without_a_score_are_left_out() -> None:
    found = History.of({"rounds": [1, 2, 3], "series": {"test_accuracy": [None, 0.5, None], "loss": [3, 2, 1]}})
    assert found.pairs("test_accuracy") == [[2, 0.5]]
    assert found.newest("test_accuracy") == 0.5
    assert found.against("loss", "test_accuracy") == [[2, 0.5]]
    assert found.pairs("nothing of this name") == []


def test_the_accuracy_is_the_clients_own_where_there_is_no_global_one() -> None:
    own = History.of({"rounds": [1, 2], "series": {"test_accuracy": [None, None], "own_accuracy": [0.4, 0.6]}})
    assert own.accuracy == "own_accuracy"
    assert own.best() == (0.6, 2)


def test_the_best_round_is_the_first_of_equals() -> None:
    found = History.of({"rounds": [1, 2, 3], "series": {"test_accuracy": [0.5, 0.9, 0.9]}})
    assert found.best() == (0.9, 2)
    assert History().best() is None
