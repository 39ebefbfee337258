"""The rounds of a run as the backend thins them out, and how a later answer continues an earlier one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

POINTS = 500
"""Rounds that are asked for at once."""
SHOWN_AT_ONCE = 20
"""Up to so many clients have a line of their own; above, they are a band of quantiles."""

Column = tuple[float | None, ...]


@dataclass(frozen=True)
class History:
    """Figures of rounds.  ``clients`` holds those that were asked for, by number."""

    rounds: tuple[int, ...] = ()
    series: Mapping[str, Column] = field(default_factory=dict)
    bands: Mapping[str, Mapping[str, Column]] = field(default_factory=dict)
    clients: Mapping[int, Mapping[str, Column]] = field(default_factory=dict)
    total: int = 0
    thinned: bool = False

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> History:
        """Return the history in an answer of ``/runs/RUN/history``."""
        rounds = tuple(answer.get("rounds", ()))
        return cls(
            rounds=rounds,
            series=_columns(answer.get("series", {})),
            bands={name: _columns(band) for name, band in answer.get("bands", {}).items()},
            clients={int(number): _columns(found) for number, found in answer.get("clients", {}).items()},
            total=int(answer.get("total_rounds") or len(rounds)),
            thinned=bool(answer.get("thinned")),
        )

    @property
    def last(self) -> int:
        """The newest round, 0 before the first."""
        return self.rounds[-1] if self.rounds else 0

    def column(self, name: str) -> Column:
        """Return a series, with nothing in every round if it is not there."""
        return self.series.get(name) or (None,) * len(self.rounds)

    def newest(self, name: str) -> float | None:
        """Return the newest value of a series that there is."""
        return next((v for v in reversed(self.column(name)) if v is not None), None)

    @property
    def accuracy(self) -> str:
        """Which accuracy the run is judged by: on the global test set if it has one, else on the clients' own."""
        there = any(v is not None for v in self.column("test_accuracy"))
        return "test_accuracy" if there else "own_accuracy"

    def best(self) -> tuple[float, int] | None:
        """Return the highest accuracy and its round, None before any score."""
        scored = [(v, -r) for r, v in zip(self.rounds, self.column(self.accuracy), strict=True) if v is not None]
        return (max(scored)[0], -max(scored)[1]) if scored else None

    def pairs(self, name: str) -> list[list[float]]:
        """Return (round, value) of a series, without the rounds that have none."""
        return _pairs(self.rounds, self.column(name))

    def against(self, x: str, y: str) -> list[list[float]]:
        """Return (x, y) of two series, without the rounds that lack one."""
        return [[a, b] for a, b in zip(self.column(x), self.column(y), strict=True) if a is not None and b is not None]

    def of_client(self, number: int, name: str) -> list[list[float]]:
        """Return (round, value) of a client's series."""
        return _pairs(self.rounds, self.clients.get(number, {}).get(name, ()))

    def after(self, round_number: int) -> History:
        """Return the part behind a round."""
        begin = sum(1 for r in self.rounds if r <= round_number)
        return replace(
            self,
            rounds=self.rounds[begin:],
            series={name: column[begin:] for name, column in self.series.items()},
            bands={n: {q: column[begin:] for q, column in band.items()} for n, band in self.bands.items()},
            clients={n: {k: column[begin:] for k, column in found.items()} for n, found in self.clients.items()},
        )

    def followed_by(self, later: History) -> History:
        """Return this history continued by what came after its last round."""
        later = later.after(self.last)
        n, m = len(self.rounds), len(later.rounds)
        return History(
            rounds=self.rounds + later.rounds,
            series=_joined(self.series, later.series, n, m),
            bands={
                name: _joined(self.bands.get(name, {}), later.bands.get(name, {}), n, m)
                for name in dict.fromkeys((*self.bands, *later.bands))
            },
            clients={
                number: _joined(self.clients.get(number, {}), later.clients.get(number, {}), n, m)
                for number in dict.fromkeys((*self.clients, *later.clients))
            },
            total=max(self.total, later.total, n + m if not self.thinned else 0),
            thinned=self.thinned or later.thinned,
        )


def _columns(found: Mapping[str, Sequence[float | None]]) -> dict[str, Column]:
    return {name: tuple(column) for name, column in found.items()}


def _joined(one: Mapping[str, Column], other: Mapping[str, Column], n: int, m: int) -> dict[str, Column]:
    return {
        name: (one.get(name) or (None,) * n) + (other.get(name) or (None,) * m)
        for name in dict.fromkeys((*one, *other))
    }


def _pairs(rounds: Iterable[int], column: Iterable[float | None]) -> list[list[float]]:
    return [[r, v] for r, v in zip(rounds, column, strict=False) if v is not None]
