"""Numbers as people read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.report.units import (
    BYTE_UNITS,
    Measured,
    byte_scale,
    format_bytes,
    format_count,
    format_number,
    format_seconds,
    format_share,
    plus_minus,
    time_scale,
)


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (1536, "1.50 KiB"), (1024**2 - 1, "1.00 MiB"), (None, "–")],
)
def test_bytes(count: float | None, shown: str) -> None:
    assert format_bytes(count) == shown


@given(st.floats(min_value=0, max_value=1e17))
def test_bytes_are_right_to_three_digits(count: float) -> None:
    number, unit = format_bytes(count).split(" ")
    assert float(number) * 1024 ** BYTE_UNITS.index(unit) == pytest.approx(count, rel=6e-3, abs=0.5)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (0.0123, "12.3 ms"),
        (0.9999, "1.00 s"),
        (59.96, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.7, "1 h 00 min"),
    ],
)
def test_seconds(seconds: float, shown: str) -> None:
    assert format_seconds(seconds) == shown


@pytest.mark.parametrize("show", [format_bytes, format_seconds, format_count, format_share, format_number])
@pytest.mark.parametrize("nothing", [None, float("nan"), float("inf")])
def test_nothing_is_a_dash(show: object, nothing: float | None) -> None:
    assert callable(show)
    assert show(nothing) == "–"


@given(st.lists(st.floats(min_value=0, max_value=1e16), max_size=5))
def test_an_axis_starts_at_one_unit(values: list[float]) -> None:
    divisor, unit = byte_scale(values)
    assert divisor == 1024.0 ** BYTE_UNITS.index(unit)
    assert divisor == 1 or max(values) >= divisor
    assert time_scale(values)[0] > 0


def test_spread_is_written_with_one_unit() -> None:
    assert plus_minus(Measured(0.951, 0.008), format_share) == "95.1 ± 0.8\u202f%"
    assert plus_minus(Measured(2048, 1024), format_bytes) == "2.00 ± 1.00 KiB"
    assert plus_minus(Measured(2048, 12), format_bytes) == "2.00 KiB ± 12 B"
    assert plus_minus(Measured(125, 62), format_seconds) == "2 min 05 s ± 1 min 02 s"
    assert plus_minus(Measured(2048), format_bytes) == "2.00 KiB"
    assert plus_minus(None, format_bytes) == "–"
