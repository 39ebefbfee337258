"""SIGKILL at every named point of every service: the run completes, and its weights are those of one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cutlayer.faults import POINTS
from system.nursery import Nursery
from system.supervised import Supervised, Undisturbed, supervised

SAGE = {"name": "fsl_sage", "upload_every": 2, "align_every": 1, "align_epochs": 1, "align_batch": 50, "buffer": 100}
WORKER = ["worker.task.before_result", "worker.task.after_result"]
WEIGHTS = ["client.task.before_weights", "client.task.after_weights"]
BATCH = ["client.batch.before_request@2", "client.batch.after_reply@2", "client.batch.after_journal@3",
         "client.batch.after_checkpoint"]  # fmt: skip
RESULT = ["client.update.before_send", "client.update.after_send", "client.result.before_send",
          "client.result.after_send"]  # fmt: skip
FORWARD = ["split.forward.before_record", "split.forward.after_record@2", "split.forward.before_answer"]
STEP = ["split.step.before_record@2", "split.step.after_record", "split.step.before_answer@2"]
STATE = ["split.state.before_save", "split.state.after_save"]
FINISH = ["split.finish.before_collect", "split.finish.before_answer"]
AGGREGATE = ["fed.aggregate.before_publish", "fed.aggregate.after_publish", "fed.aggregate.before_answer"]
UPDATE = ["fed.weights.before_answer@2", "fed.update.before_record", "fed.update.before_answer@2"]

BACKWARD = ["split.backward.before_delta", "split.backward.after_delta@2", "split.backward.before_answer",
            "split.update.before_publish", "split.update.after_publish", "split.update.after_collect"]  # fmt: skip
HANDOVER = ["fed.handover.before_record", "fed.handover.before_answer"]
BACKEND = ["backend.request.before_commit@5", "backend.request.after_commit@3", "backend.task.before_commit@2",
           "backend.task.after_commit", "backend.result.before_commit@2", "backend.result.after_commit"]  # fmt: skip

Chains = list[tuple[Any, dict[str, list[str]]]]
CHAINS: Chains = [
    ("file_sync", {
        "split-1": [*FORWARD, *BACKWARD, "split.evaluate.before_answer"],
        "fed": [*UPDATE, *AGGREGATE],
        "client-2": [*WEIGHTS, *BATCH, *RESULT],
    }),
    ("ushaped", {"split-1": [*STEP, *STATE, *FINISH], "fed": [*HANDOVER, *WORKER]}),
    (SAGE, {"split-1": ["split.upload.before_record@2", "split.upload.before_answer"], "backend": BACKEND}),
    ("splitfed_async", {
        "split-1": ["split.step.after_record@2", "split.step.after_arrival@2", "split.step.before_answer"],
        "fed": ["fed.weights.before_record", "fed.update.after_arrival@2", "fed.update.before_record"],
        "client-2": ["client.batch.after_reply@2", "client.update.after_send"],
    }),
]  # fmt: skip
"""Recipes, and where which process dies: at the first point, then in its next life at the second, and so on."""
MORE: Chains = [
    ("ushaped", {
        "split-1": [*FORWARD, *STEP, *STATE, *FINISH, *WORKER],
        "fed": [*HANDOVER, *AGGREGATE],
        "client-2": [*WEIGHTS, *BATCH, *RESULT],
    }),
    ("vanilla", {"split-1": [*STEP, *STATE], "fed": [*HANDOVER], "client-3": [*WEIGHTS, *RESULT], "backend": BACKEND}),
    ("file_sync", {"split-1": [*BACKWARD, *FORWARD, *BACKWARD, *WORKER], "backend": BACKEND}),
    ("splitfed_u", {"split-1": [*FORWARD, *BACKWARD], "fed": [*UPDATE, *AGGREGATE], "client-1": [*BATCH, *RESULT]}),
    ("splitfed_v2", {
        "split-1": [*STEP, *STATE, *FINISH, "split.evaluate.before_answer"],
        "fed": [*UPDATE, *WORKER],
        "client-1": ["client.batch.after_reply@3", *RESULT],
    }),
    (SAGE, {
        "split-1": ["split.upload.before_record@2", "split.upload.before_answer", *STATE, *FINISH],
        "client-3": [*WEIGHTS, *BATCH[:3], *RESULT],
    }),
    ("splitfed_async", {
        "split-1": [*STEP, "split.step.after_arrival@3", *STATE, *FINISH, *WORKER],
        "fed": [*UPDATE, *AGGREGATE, "fed.weights.before_record@2", "fed.update.after_arrival"],
        "client-1": [*WEIGHTS, *BATCH[:3], *RESULT], "backend": BACKEND[2:],
    }),
    ("fedavg", {"fed": [*UPDATE, *AGGREGATE], "client-2": [*WEIGHTS, *RESULT], "backend": BACKEND[2:4]}),
    ("splitfed_v1", {"split-1": [*STEP, *STATE, *FINISH], "fed": AGGREGATE, "client-1": [*WEIGHTS, *BATCH[:3]]}),
]  # fmt: skip


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery) -> Iterator[Supervised]:
    with supervised(tmp_path_factory.mktemp("kills"), nursery, split=1) as found:
        yield found


def test_every_point_is_somewhere_on_the_way() -> None:
    named = {point.partition("@")[0] for _, chains in CHAINS for points in chains.values() for point in points}
    assert named == POINTS
    assert len(POINTS) >= 40


def named(value: Any) -> str:
    return str(value["name"]) if "name" in value else "-".join(value) if isinstance(value, dict) else str(value)


def survived(
    recipe: Any, faults: dict[str, list[str]], services: Supervised, undisturbed: Undisturbed, folder: Path
) -> None:
    services.arm(faults)
    view, experiment = services.train(algorithm=recipe, rounds=3)
    assert services.unarm() == [], "nobody came by these"
    services.settle()
    assert sorted(services.died) == sorted(point for points in faults.values() for point in points)
    services.check(view.id, experiment, folder, undisturbed(experiment))


@pytest.mark.parametrize(("recipe", "faults"), CHAINS, ids=named)
def test_dying_at_every_point_changes_nothing(
    recipe: Any, faults: dict[str, list[str]], services: Supervised, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    survived(recipe, faults, services, undisturbed, tmp_path)


@pytest.mark.chaos
@pytest.mark.parametrize(("recipe", "faults"), MORE, ids=named)
def test_dying_at_every_point_of_more_recipes_changes_nothing(
    recipe: Any, faults: dict[str, list[str]], services: Supervised, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    survived(recipe, faults, services, undisturbed, tmp_path)
