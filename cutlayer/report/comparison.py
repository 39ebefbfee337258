"""Several runs side by side: what each reached, and what it cost to reach the same accuracy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutlayer.errors import ConfigError, RunFolderError
from cutlayer.report.curves import cumulative_bytes, cumulative_seconds, measure
from cutlayer.report.describe import algorithm_of, labels, name_of
from cutlayer.report.runs import AnyRun, Run, RunGroup, load_run
from cutlayer.report.units import MISSING, Measured, format_bytes, format_seconds, format_share, plus_minus


@dataclass(frozen=True)
class Row:
    """One run, or one group of seeds, in a comparison.

    `*_to_target` count from the start to the end of the first round whose test accuracy is at least the target.  They
    are None unless every seed reaches it; `reached` says how many of `seeds` do.
    """

    label: str
    algorithm: str
    path: Path
    seeds: int
    finished: bool
    accuracy: Measured
    best_accuracy: Measured
    reached: int
    bytes_to_target: Measured | None
    rounds_to_target: Measured | None
    seconds_to_target: Measured | None
    bytes: Measured
    seconds: Measured

    def cells(self) -> tuple[str, ...]:
        """Label, accuracy, bytes, rounds and seconds to target, total bytes and seconds, as text."""
        some = MISSING if self.reached == 0 else f"{self.reached} of {self.seeds} seeds"
        return (
            self.label,
            plus_minus(self.accuracy, format_share),
            plus_minus(self.bytes_to_target, format_bytes) if self.bytes_to_target else some,
            plus_minus(self.rounds_to_target, lambda rounds: f"{rounds:.1f}".removesuffix(".0"))
            if self.rounds_to_target
            else some,
            plus_minus(self.seconds_to_target, format_seconds) if self.seconds_to_target else some,
            plus_minus(self.bytes, format_bytes),
            plus_minus(self.seconds, format_seconds),
        )


@dataclass(frozen=True)
class Comparison:
    """Rows in the order the runs were given, the target accuracy and where it comes from, and warnings to read first.

    `files` are the charts and the page, if an output folder was given.
    """

    runs: tuple[AnyRun, ...]
    rows: tuple[Row, ...]
    target: float
    explanation: str
    notes: tuple[str, ...]
    files: tuple[Path, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`; bytes and seconds in those units, accuracies in 0..1."""
        return {
            "target": self.target,
            "explanation": self.explanation,
            "notes": list(self.notes),
            "files": [str(path) for path in self.files],
            "runs": [
                {
                    "label": row.label,
                    "algorithm": row.algorithm,
                    "path": str(row.path),
                    "seeds": row.seeds,
                    "finished": row.finished,
                    "seeds_reaching_target": row.reached,
                    "accuracy": _plain(row.accuracy),
                    "best_accuracy": _plain(row.best_accuracy),
                    "bytes_to_target": _plain(row.bytes_to_target),
                    "rounds_to_target": _plain(row.rounds_to_target),
                    "seconds_to_target": _plain(row.seconds_to_target),
                    "bytes": _plain(row.bytes),
                    "seconds": _plain(row.seconds),
                }
                for row in self.rows
            ],
        }


def side_by_side(paths: Sequence[str | Path], target: float | None = None) -> Comparison:
    """Compare the runs in the folders `paths`.

    `target` is an accuracy in 0..1; without one it is the highest accuracy that every run reaches in some round.

    Laws: what a run needs to reach a target never shrinks when the target grows, and is never more than its total.

    Raises RunFolderError if a folder holds no run or no evaluated round, ConfigError for a target outside 0..1.
    """
    if not paths:
        raise ConfigError("expected at least one run folder to compare, but none came; name the folders")
    if target is not None and not 0 <= target <= 1:
        raise ConfigError(f"expected a target accuracy between 0 and 1, but got {target}; write 80 % as 0.8")
    runs = tuple(load_run(path) for path in paths)
    for run in runs:
        for each in run.runs:
            if not each.evaluated_rounds:
                raise RunFolderError(
                    f"expected a run with at least one evaluated round, but {each.path} has none; leave it "
                    "out or let it run on"
                )
    level = _highest_common(runs) if target is None else target
    named = labels(runs)
    explanation = (
        f"The target {format_share(level, 2)} was given."
        if target is not None
        else f"The target {format_share(level, 2)} is the highest test accuracy that every run reaches."
    )
    rows = tuple(_row(run, label, level) for run, label in zip(runs, named, strict=True))
    return Comparison(runs, rows, level, explanation, tuple(_notes(runs, named)))


def round_reaching(run: Run, target: float) -> int | None:
    """The index in `run.rounds` of the first round with at least the target accuracy."""
    found = (i for i, r in enumerate(run.rounds) if r.test_accuracy is not None and r.test_accuracy >= target)
    return next(found, None)


def _highest_common(runs: Sequence[AnyRun]) -> float:
    return min(best.test_accuracy or 0.0 for run in runs for each in run.runs if (best := each.best_round))


def _row(run: AnyRun, label: str, target: float) -> Row:
    def until(total: Callable[[Run], Sequence[float]]) -> Measured | None:
        def value(each: Run) -> float | None:
            index = round_reaching(each, target)
            return None if index is None else total(each)[index]

        return measure(run, value)

    def surely(value: Callable[[Run], float | None]) -> Measured:
        found = measure(run, value)
        assert found is not None  # every run here has an evaluated round
        return found

    return Row(
        label=label,
        algorithm=algorithm_of(run),
        path=run.path,
        seeds=len(run.runs),
        finished=run.finished,
        accuracy=surely(lambda each: each.final_accuracy),
        best_accuracy=surely(lambda each: each.best_round.test_accuracy if each.best_round else None),
        reached=sum(round_reaching(each, target) is not None for each in run.runs),
        bytes_to_target=until(cumulative_bytes),
        rounds_to_target=until(lambda each: [float(line.number) for line in each.rounds]),
        seconds_to_target=until(cumulative_seconds),
        bytes=surely(lambda each: each.bytes_up + each.bytes_down),
        seconds=surely(lambda each: each.seconds),
    )


def _notes(runs: Sequence[AnyRun], named: Sequence[str]) -> list[str]:
    """What makes the comparison less than fair."""
    found = []
    for key, consequence in (
        ("data", "their accuracies do not measure the same thing"),
        ("partition", "their clients hold different samples"),
        ("model", "bytes and accuracy depend on the model as well"),
    ):
        values = list(dict.fromkeys(name_of(run.config[key]) for run in runs if run.config.get(key) is not None))
        if len(values) > 1:
            found.append(f"The runs differ in {key} ({', '.join(values)}): {consequence}.")
    for run, label in zip(runs, named, strict=True):
        if not run.finished:
            found.append(f"{label} is unfinished and counted as far as it came.")
    if len({len(run.runs) for run in runs}) > 1 and any(isinstance(run, RunGroup) for run in runs):
        found.append("The runs have different numbers of seeds; a single run shows no spread.")
    return found


def _one_digit(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _plain(value: Measured | None) -> dict[str, float] | float | None:
    if value is None or value.std is None:
        return None if value is None else value.mean
    return {"mean": value.mean, "std": value.std}
