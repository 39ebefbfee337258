"""What a client tells of its data: its form, and its classes only where that tells nothing of labels that stay."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cutlayer.config import load
from cutlayer.services.client.data import own_data

OWN = """
import torch
def four():
    return torch.randn(9, 5), torch.tensor([0, 1, 2] * 3), torch.randn(3, 5), torch.tensor([0, 1, 2])
"""


@pytest.mark.parametrize(("algorithm", "told"), [("vanilla", (3, 3, 3)), ("ushaped", None), ("fedavg", None)])
def test_classes_are_counted_where_labels_leave_anyway(
    algorithm: str, told: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_hospital.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "a_hospital", raising=False)
    report = own_data("a_hospital:four", load(None, (), algorithm=algorithm), 0, 1).report
    assert (report.own, report.counts, report.samples) == (True, told, 9)


@pytest.mark.parametrize("algorithm", ["vanilla", "ushaped"])
def test_a_share_of_what_the_experiment_names_is_no_secret(algorithm: str) -> None:
    report = own_data("experiment", load(None, (), algorithm=algorithm, clients=2), 0, 2).report
    assert not report.own
    assert report.counts is not None
    assert sum(report.counts) == report.samples
