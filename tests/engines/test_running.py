"""From the first or the next round to the end: what is written when, and who is told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import toys

import cutlayer as cl
from cutlayer.config import Experiment, parse
from cutlayer.engines.folder import RunFolder
from cutlayer.engines.prepare import Prepared, prepare
from cutlayer.engines.running import Silent, execute


def _prepared(**keys: Any) -> tuple[Experiment, Prepared]:
    data = toys.dataset()
    split = toys.cut(toys.made(toys.Plain), ["relu1"], data.train)
    options: dict[str, Any] = {"algorithm": "splitfed_v2", "clients": 2, "batch_size": 8, "rounds": 4}
    experiment = parse(options | keys)
    return experiment, prepare(experiment, dataset=data, model=split)


class Watch(Silent):
    """Notes which checkpoint there is after every round, and the end."""

    def __init__(self, folder: Path, stop_after: int = 0) -> None:
        self.folder, self.stop_after = folder, stop_after
        self.checkpoints: list[str] = []
        self.ended = False

    def round(self, metrics: Mapping[str, Any]) -> None:
        self.checkpoints.append(",".join(p.name for p in (self.folder / "checkpoints").glob("*")))
        if metrics["round"] == self.stop_after:
            raise KeyboardInterrupt

    def finished(self) -> None:
        self.ended = True


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (1, ["000001", "000002", "000003", "000004"]),
        (2, ["", "000002", "000002", "000004"]),
        (3, ["", "", "000003", "000004"]),
        (0, ["", "", "", "000004"]),
    ],
)
def test_checkpoints_are_written_as_often_as_asked(every: int, expected: list[str], tmp_path: Path) -> None:
    experiment, prepared = _prepared(checkpoint=every)
    watch = Watch(tmp_path)
    execute(experiment, prepared, RunFolder.create(tmp_path, experiment), watch)
    assert [name.partition(".")[0] for name in watch.checkpoints] == expected


def test_an_interrupted_run_tells_its_observer_that_it_is_over(tmp_path: Path) -> None:
    experiment, prepared = _prepared()
    watch = Watch(tmp_path, stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        execute(experiment, prepared, RunFolder.create(tmp_path, experiment), watch)
    assert watch.ended
    assert not (tmp_path / "summary.json").exists(), "a summary means that the run is finished"


@pytest.mark.parametrize(("every", "evaluated"), [(1, [1, 2, 3, 4]), (2, [2, 4]), (3, [3, 4]), (4, [4]), (9, [4])])
def test_the_model_is_evaluated_as_often_as_asked_and_at_the_end(every: int, evaluated: list[int]) -> None:
    experiment, prepared = _prepared(evaluate=every)
    found = execute(experiment, prepared)
    assert [m["round"] for m in found.metrics if m["test_accuracy"] is not None] == evaluated
    assert [m["round"] for m in found.metrics if m["client_accuracy"]] == evaluated
    assert found.summary["test_accuracy"] == found.metrics[-1]["test_accuracy"]


def test_how_often_it_is_evaluated_changes_no_result() -> None:
    models = [execute(*_prepared(evaluate=every)).model for every in (1, 3)]
    assert toys.same(*models)


def test_equal_seeds_give_equal_runs_and_others_do_not() -> None:
    def run(seed: int) -> cl.Result:
        return execute(*_prepared(seed=seed))

    assert toys.same(run(1).model, run(1).model)
    assert not toys.same(run(1).model, run(2).model)
