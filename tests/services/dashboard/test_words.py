"""Events in sentences: every kind that the backend tells, and those of later versions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import cutlayer.services.backend
from cutlayer.services.dashboard import words
from services.dashboard.figures import event, members, view

BACKEND = Path(cutlayer.services.backend.__file__).parent


def told() -> set[str]:
    """Return the kinds of events in the backend's code."""
    source = "".join(file.read_text() for file in BACKEND.rglob("*.py"))
    return set(re.findall(r"\.tell\(\s*\"([a-z.]+)\"", source)) - {"audit"}


def test_every_kind_of_the_backend_has_words() -> None:
    assert {"round", "run.state", "task.failed", "client.dropped"} <= told()
    for kind in told():
        text, _ = words.sentence(event(1, kind, round=3))
        assert not text.startswith(kind), f"{kind} has no words"
        assert text.endswith(".")


def test_groups_name_kinds_that_there_are() -> None:
    assert {kind for kinds in words.GROUPS.values() for kind in kinds} <= told()


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        ("client.dropped", {"reason": "late"}, "Round 3 goes on without hospital-1: late."),
        ("run.state", {"state": "done"}, "The run is done."),
        (
            "run.state",
            {"state": "running", "paused": True, "reason": "paused by ada"},
            "The run is paused: paused by ada.",
        ),
        ("round.state", {"state": "selected", "participants": [{}, {}]}, "Round 3 begins with 2 clients."),
        ("round.state", {"state": "selected", "participants": 1}, "Round 3 begins with 1 client."),
        ("task.done", {"kind": "train", "seconds": 2.0}, "hospital-1 has trained, after 2.00 s."),
        (
            "service.lost",
            {"kind": "split", "id": "s-1"},
            "Split server s-1 is silent; others answer, or requests wait.",
        ),
        ("round", {"loss": 0.5, "test_accuracy": 0.912}, "Round 3 is done: loss 0.5000, accuracy 91.2\u202f%."),
        ("of.tomorrow", {"a": 1}, "of.tomorrow: a 1"),
    ],
)
def test_sentences(kind: str, data: dict[str, object], said: str) -> None:
    found, _ = words.sentence(event(1, kind, round=3, client="id-1", data=data), {"id-1": "hospital-1"})
    assert found == said


def test_health_says_what_to_do() -> None:
    assert words.health(view()) == ("Healthy: all 3 clients are here.", "good")
    assert words.health(view(), 0, "hospital-2 is slow") == (
        "Healthy: all 3 clients are here; hospital-2 is slow.", "good"
    )  # fmt: skip
    away = members()
    away[1]["connected"] = False
    assert words.health(view(members=away), dark=1) == (
        "The run goes on, but hospital-1 is away and 1 service is silent.", "warn"
    )  # fmt: skip
    text, mood = words.health(view(paused=True, cause="failure", reason="disk full"))
    assert text == "This run is paused: disk full. Resume lets it try again when the cause is gone."
    assert mood == "warn"
    assert words.health(view(state="failed", reason="no data"))[1] == "bad"
    assert words.health(view(state="queued", members=[], experiment={"clients": {"count": 4}}))[0] == (
        "Waiting until 4 clients are connected that fit this experiment."
    )


def test_paused_is_a_state() -> None:
    assert words.state_of(view(paused=True)) == "paused"
    assert words.state_of(view()) == "running"
