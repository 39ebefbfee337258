"""CSV files with headers, gaps, categories and groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cutlayer.data import load
from cutlayer.errors import DataError

HEADER = "age,colour,site,ill"


def write(folder: Path, lines: list[str]) -> Path:
    path = folder / "data.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def patients(n: int = 40) -> list[str]:
    return [f"{20 + i},{('red', 'blue')[i % 2]},{('north', 'south')[i // 20]},{('no', 'yes')[i % 2]}" for i in range(n)]


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    return write(tmp_path, [HEADER, *patients()])


def test_columns_become_inputs_classes_and_groups(clinic: Path) -> None:
    data = load("csv", path=clinic, label="ill", group="site", categorical=["colour"], normalize=False)
    assert data.class_names == ("no", "yes")
    assert data.group_names == ("north", "south")
    assert data.input_shape == (3,)
    (inputs,), targets = data.train.take(torch.arange(len(data.train)))
    assert torch.equal(inputs[:, 2], 1 - targets.float())  # red is no
    assert torch.equal(data.groups, (inputs[:, 0] >= 40).long())
    assert torch.bincount(data.test_groups).tolist() == [4, 4]  # type: ignore[arg-type]


def test_inputs_are_standardised_by_the_training_rows(clinic: Path) -> None:
    data = load("csv", path=clinic, drop=["colour", "site"])
    (train,), _ = data.train.take(torch.arange(len(data.train)))
    assert float(train.mean()) == pytest.approx(0, abs=1e-6)
    assert float(train.std(correction=0)) == pytest.approx(1, abs=1e-6)


def test_without_a_header_columns_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path, [f"{i % 2},{i},{i * 2}" for i in range(20)])
    data = load("csv", path=path, label=0, normalize=False)
    assert data.input_shape == (2,)
    assert len(data.train) + len(data.test) == 20


def test_a_header_can_be_stated(tmp_path: Path) -> None:
    path = write(tmp_path, ["2020,2021,2", *[f"{i},{i},{i % 2}" for i in range(20)]])
    assert len(load("csv", path=path, header=True).train) == 16
    assert load("csv", path=path, header=False, label=2, categorical=[0, 1]).classes == 3


def test_gaps_are_filled(tmp_path: Path) -> None:
    path = write(tmp_path, ["a;y", *[f"{'?' if i % 3 == 0 else i};{i % 2}" for i in range(30)]])
    data = load("csv", path=path, delimiter=";")
    assert torch.isfinite(data.train.take(torch.arange(24))[0][0]).all()


def test_labels_that_are_not_counted_from_zero_are_numbered(tmp_path: Path) -> None:
    path = write(tmp_path, ["a,y", *[f"{i},{(-1, 1)[i % 2]}" for i in range(20)]])
    assert load("csv", path=path).class_names == ("-1", "1")


def test_quotes_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(b'\xef\xbb\xbfa,"b, or c",y\r\n' + b"".join(f"{i},{i},{i % 2}\r\n".encode() for i in range(20)))
    assert load("csv", path=path, label="y", drop=["b, or c"]).input_shape == (1,)


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        ([HEADER, *patients()], {"label": "sick"}, "'sick' came; it has: age, colour, site, ill"),
        ([HEADER, *patients()], {"label": 9}, "data.label to be a column"),
        ([HEADER, *patients()], {}, "column colour, and row 1 has 'red': name the column in data.categorical"),
        ([HEADER, *patients(), "1,2"], {}, "4 values in every row .* row 42 has 2"),
        ([HEADER], {}, "needs rows"),
        ([], {}, "needs rows"),
        ([HEADER, "1,red,north,"], {}, "needs a label in every row .* row 1 has none"),
        ([HEADER, "1,red,?,yes"], {"group": "site"}, "needs a group in every row"),
        (["y", "1", "2"], {}, "at least one column of inputs"),
    ],
)
def test_what_cannot_be_used_is_refused(
    tmp_path: Path, lines: list[str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load("csv", path=write(tmp_path, lines), **options)


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_bytes("größe,y\n1,0\n".encode("utf-16"))
    with pytest.raises(DataError, match="CSV text in UTF-8"):
        load("csv", path=tmp_path / "data.csv")
