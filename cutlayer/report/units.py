"""Numbers as a person reads them: bytes in binary units, seconds, counts, shares.

`byte_scale` and `time_scale` choose one unit for a whole axis, so that all its ticks can be compared.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
MISSING = "–"


@dataclass(frozen=True)
class Measured:
    """A value with its standard deviation over the seeds (None for a single run)."""

    mean: float
    std: float | None = None


def byte_scale(values: Iterable[float]) -> tuple[float, str]:
    """The divisor and name of the binary unit in which the largest of `values` (bytes) is at least 1."""
    largest = max((abs(value) for value in values), default=0.0)
    power = 0
    while power + 1 < len(BYTE_UNITS) and largest >= 1024.0 ** (power + 1):
        power += 1
    return 1024.0**power, BYTE_UNITS[power]


def time_scale(values: Iterable[float]) -> tuple[float, str]:
    """The divisor and name of the unit that suits the largest of `values` (seconds) on an axis."""
    largest = max((abs(value) for value in values), default=0.0)
    if largest >= 3 * 3600:
        return 3600.0, "hours"
    if largest >= 300:
        return 60.0, "minutes"
    if largest >= 1 or largest == 0:
        return 1.0, "seconds"
    return 1e-3, "milliseconds"


def format_bytes(count: float | None) -> str:
    """Three significant digits in a binary unit: `1536` -> `1.50 KiB`; nothing is `–`."""
    if count is None or not math.isfinite(count):
        return MISSING
    divisor, unit = byte_scale([count])
    if unit != BYTE_UNITS[-1] and round(abs(count) / divisor) >= 1024:  # 1023.9 KiB would read as 1024 KiB
        divisor, unit = divisor * 1024, BYTE_UNITS[BYTE_UNITS.index(unit) + 1]
    return f"{count:.0f} B" if unit == "B" else f"{_three_digits(count / divisor)} {unit}"


def format_seconds(seconds: float | None) -> str:
    """A duration: `12 ms`, `3.20 s`, `2 min 05 s`, `1 h 03 min`; nothing is `–`."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 0:
        return f"-{format_seconds(-seconds)}"
    if seconds == 0:
        return "0 s"
    if seconds < 0.9995:
        return f"{_three_digits(seconds * 1e3)} ms"
    if seconds < 59.95:
        return f"{_three_digits(seconds)} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_count(count: float | None) -> str:
    """A count with thousands separators up to 99 999, then `1.23 M`, `4.56 G`; nothing is `–`."""
    if count is None or not math.isfinite(count):
        return MISSING
    for limit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e5, "k")):
        if abs(count) >= limit:
            divisor = 1e3 if name == "k" else limit
            return f"{_three_digits(count / divisor)} {name}"
    return f"{count:,.0f}".replace(",", "\u202f")


def format_share(share: float | None, digits: int = 1) -> str:
    """A share of one in per cent: `0.953` -> `95.3 %`; nothing is `–`."""
    if share is None or not math.isfinite(share):
        return MISSING
    return f"{100 * share:.{digits}f}\u202f%"


def format_number(value: float | None, digits: int = 4) -> str:
    """A loss or another plain number with `digits` significant digits; nothing is `–`."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:#.{digits}g}".removesuffix(".")


def plus_minus(value: Measured | None, show: Callable[[float], str]) -> str:
    """`95.1 ± 0.8 %`, or without the spread for a single run; nothing is `–`."""
    if value is None:
        return MISSING
    if value.std is None:
        return show(value.mean)
    mean, spread = show(value.mean), show(value.std)
    for space in (" ", "\u202f"):
        number, _, unit = mean.rpartition(space)
        if unit and number and not set(space) & set(number) and spread.endswith(space + unit):
            return f"{number} ± {spread}"  # one unit is enough
    return f"{mean} ± {spread}"


def _three_digits(value: float) -> str:
    if abs(value) >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"
