"""Heart disease: four hospitals, gaps, and real files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cutlayer.data import Dataset, client_splits, load, partition
from cutlayer.data.heart_disease import HOSPITALS
from cutlayer.errors import DataError


def row(i: int) -> str:
    pressure, cholesterol = 0 if i == 3 else 120, "?" if i % 5 == 0 else 200 + i
    return f"{40 + i},{i % 2},{1 + i % 4}.0,{pressure},{cholesterol},0,0,150,0,1.5,2,?,{(3, 6, 7)[i % 3]},{i % 5}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for hospital in HOSPITALS:
        (tmp_path / f"processed.{hospital}.data").write_text("".join(row(i) + "\n" for i in range(30)))
    return tmp_path


def everything(data: Dataset) -> torch.Tensor:
    return data.train.take(torch.arange(len(data.train)))[0][0]  # type: ignore[no-any-return]


def test_hospitals_are_natural_clients_with_their_own_test_patients(folder: Path) -> None:
    data = load("heart_disease", path=folder)
    assert data.group_names == tuple(sorted(HOSPITALS))
    assert data.class_names == ("healthy", "disease")
    parts = partition(data, 4, "natural", 0)
    shares = client_splits(data, parts, by_group=True)
    assert [len(share.train) for share in shares] == [24] * 4
    assert [len(share.test) for share in shares] == [6] * 4
    for share in shares:
        assert float(share.test.targets.float().mean()) == pytest.approx(0.8, abs=0.1)


def test_zero_is_not_a_blood_pressure(folder: Path) -> None:
    inputs = everything(load("heart_disease", path=folder, normalize=False, test_fraction=0.1))
    pressure = inputs[:, 2 + 4 + 0]  # age, sex, cp as four inputs, trestbps
    assert pressure.tolist() == [120] * len(pressure)


def test_inputs_are_finite_and_standardised(folder: Path) -> None:
    inputs = everything(load("heart_disease", path=folder))
    assert torch.isfinite(inputs).all()
    assert float(inputs[:, 0].mean()) == pytest.approx(0, abs=1e-6)


def test_a_missing_hospital_and_other_columns_are_refused(folder: Path) -> None:
    (folder / "processed.va.data").write_text("1,2,3\n")
    with pytest.raises(DataError, match=r"14 columns in .*va\.data, and there are 3 columns"):
        load("heart_disease", path=folder)
    (folder / "processed.va.data").write_text("")
    with pytest.raises(DataError, match="there are no rows"):
        load("heart_disease", path=folder)
    (folder / "processed.va.data").unlink()
    with pytest.raises(DataError, match=r"needs a file processed\.va\.data"):
        load("heart_disease", path=folder)


def test_text_in_a_category_is_refused(folder: Path) -> None:
    path = folder / "processed.va.data"
    path.write_text(path.read_text().replace("1.0", "typical", 1))
    with pytest.raises(DataError, match="'typical'"):
        load("heart_disease", path=folder)


def test_the_real_hospitals(real: Callable[[str], Path]) -> None:
    data = load("heart_disease", path=real("heart_disease"))
    assert len(data.train) + len(data.test) == 920
    patients = torch.bincount(torch.cat([data.groups, data.test_groups]))  # type: ignore[list-item]
    assert dict(zip(data.group_names, patients.tolist(), strict=True)) == {
        "cleveland": 303,
        "hungarian": 294,
        "switzerland": 123,
        "va": 200,
    }
    ill = int(data.train.targets.sum() + data.test.targets.sum())
    assert ill == 920 - (164 + 188 + 8 + 51)
    assert torch.isfinite(everything(data)).all()
