"""What is plotted and tabulated: series over the rounds of a run, or their mean and spread over the seeds of a group.

For a group only rounds that every seed has are used: a mean over a changing set of seeds would jump for no reason.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from cutlayer.report.runs import AnyRun, Round, Run, mean_std
from cutlayer.report.units import Measured

Quantity = Literal["test_accuracy", "loss", "test_loss"]


@dataclass(frozen=True)
class Curve:
    """Points (x, y), with the standard deviation of y over the seeds (zeros for a single run)."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    std: tuple[float, ...]

    def __bool__(self) -> bool:
        return bool(self.x)


def over_rounds(run: AnyRun, quantity: Quantity) -> Curve:
    """`quantity` against the round number, at the rounds that have it."""
    return _curve(run, quantity, lambda each: [float(line.number) for line in each.rounds])


def over_bytes(run: AnyRun, quantity: Quantity = "test_accuracy") -> Curve:
    """`quantity` against the bytes sent so far, up and down (for a group: their mean over the seeds)."""
    return _curve(run, quantity, cumulative_bytes)


def over_seconds(run: AnyRun, quantity: Quantity = "test_accuracy") -> Curve:
    """`quantity` against the seconds spent so far (for a group: their mean over the seeds)."""
    return _curve(run, quantity, cumulative_seconds)


def cumulative_bytes(run: Run) -> list[float]:
    """Bytes sent up and down until the end of each round."""
    return list(accumulate(line.bytes_up + line.bytes_down for line in run.rounds))


def cumulative_seconds(run: Run) -> list[float]:
    """Seconds spent until the end of each round."""
    return list(accumulate(line.seconds for line in run.rounds))


def measure(run: AnyRun, value: Callable[[Run], float | None]) -> Measured | None:
    """`value` of the run, or its mean and standard deviation over the seeds; None unless every seed has it."""
    values = [value(each) for each in run.runs]
    found = [each for each in values if each is not None]
    if not found or len(found) < len(values):
        return None
    mean, std = mean_std(found)
    return Measured(mean, std if len(found) > 1 else None)


def totals(run: AnyRun, parts: Callable[[Round], dict[str, float]]) -> dict[str, float]:
    """Each named part summed over the rounds (mean over the seeds), largest first."""
    sums: dict[str, float] = {}
    for each in run.runs:
        for line in each.rounds:
            for name, value in parts(line).items():
                sums[name] = sums.get(name, 0.0) + value / len(run.runs)
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def time_parts(line: Round) -> dict[str, float]:
    """Where the seconds of a round went; what no part accounts for is `other`."""
    rest = line.seconds - sum(line.time.values())
    return {**line.time, "other": rest} if rest > 0.005 * line.seconds else dict(line.time)


def byte_parts(line: Round) -> dict[str, float]:
    """The bytes of a round by kind; what no kind accounts for is `other`."""
    rest = line.bytes_up + line.bytes_down - sum(line.bytes.values())
    return {**line.bytes, "other": rest} if rest >= 1 else dict(line.bytes)


def _curve(run: AnyRun, quantity: Quantity, position: Callable[[Run], list[float]]) -> Curve:
    per_seed: list[dict[int, tuple[float, float]]] = []
    for each in run.runs:
        points: dict[int, tuple[float, float]] = {}
        for line, x in zip(each.rounds, position(each), strict=True):
            value: float | None = getattr(line, quantity)
            if value is not None:
                points[line.number] = (x, value)
        per_seed.append(points)
    common = sorted(set.intersection(*(set(points) for points in per_seed)))
    means = tuple(mean_std([points[n][0] for points in per_seed])[0] for n in common)
    spread = [mean_std([points[n][1] for points in per_seed]) for n in common]
    return Curve(means, tuple(mean for mean, _ in spread), tuple(std for _, std in spread))
