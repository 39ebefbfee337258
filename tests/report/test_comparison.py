"""Runs side by side."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import ConfigError, RunFolderError
from cutlayer.report import compare, load_run
from cutlayer.report.comparison import round_reaching
from cutlayer.report.curves import cumulative_bytes
from cutlayer.report.describe import labels
from cutlayer.report.runs import Round, Run, mean_std

from .conftest import WriteRun
from .test_page import read


@given(
    st.lists(st.tuples(st.none() | st.floats(0, 1), st.integers(0, 10**9)), min_size=1),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_a_higher_target_never_costs_less(rounds: list[tuple[float | None, int]], target: float, other: float) -> None:
    lines = tuple(Round(n, test_accuracy=a, bytes_up=up) for n, (a, up) in enumerate(rounds, 1))
    run = Run(Path(), {}, lines, {}, None, None)
    low, high = sorted((target, other))
    first, later = round_reaching(run, low), round_reaching(run, high)
    if later is not None:
        assert first is not None
        assert cumulative_bytes(run)[first] <= cumulative_bytes(run)[later] <= run.bytes_up
    if first is not None:
        assert (lines[first].test_accuracy or 0) >= low
        assert all((line.test_accuracy or -1) < low for line in lines[:first])
    else:
        assert all(line.test_accuracy is None or line.test_accuracy < low for line in lines)


def test_bytes_to_target_are_those_until_the_round_that_reaches_it(write_run: WriteRun) -> None:
    folder = write_run("run", rounds=20, evaluate_every=4)
    made = compare([folder], target=0.6)
    run = load_run(folder).runs[0]
    reached = next(line.number for line in run.rounds if (line.test_accuracy or 0) >= 0.6)
    (row,) = made.rows
    assert row.rounds_to_target is not None
    assert row.bytes_to_target is not None
    assert row.seconds_to_target is not None
    assert row.rounds_to_target.mean == reached
    until = [line for line in run.rounds if line.number <= reached]
    assert row.bytes_to_target.mean == sum(line.bytes_up + line.bytes_down for line in until)
    assert row.seconds_to_target.mean == pytest.approx(sum(line.seconds for line in until))
    assert row.bytes.mean == run.bytes_up + run.bytes_down


def test_the_default_target_is_the_highest_that_all_reach(write_run: WriteRun, write_group: WriteRun) -> None:
    folders = [write_run("a", ceiling=0.9), write_run("b", ceiling=0.7), write_group("c", seeds=2)]
    made = compare(folders)
    assert made.target == min(
        max(line.test_accuracy or 0 for line in run.rounds) for f in folders for run in load_run(f).runs
    )
    assert all(row.bytes_to_target is not None and row.reached == row.seeds for row in made.rows)
    assert "every run reaches" in made.explanation


def test_a_target_that_only_some_reach(write_run: WriteRun, write_group: WriteRun) -> None:
    weak = write_run("weak", ceiling=0.5)
    group = write_group("group", seeds=2)
    runs = load_run(group).runs
    best = [max(line.test_accuracy or 0 for line in run.rounds) for run in runs]
    between = sum(best) / 2
    made = compare([weak, group], target=between)
    assert [row.bytes_to_target for row in made.rows] == [None, None]
    assert made.rows[0].cells()[2] == "–"
    assert made.rows[1].cells()[2] == "1 of 2 seeds"


def test_seeds_are_averaged_after_each_reached_the_target(write_group: WriteRun) -> None:
    group = write_group("group", seeds=3)
    (row,) = compare([group], target=0.7).rows
    each = [compare([group / f"seed-{seed}"], target=0.7).rows[0].bytes_to_target for seed in range(3)]
    assert row.bytes_to_target is not None
    assert (row.bytes_to_target.mean, row.bytes_to_target.std) == mean_std([one.mean for one in each if one])


def test_labels_show_what_differs_and_nothing_else(write_run: WriteRun) -> None:
    def written(*configs: tuple[object, dict[str, object]]) -> list[str]:
        folders = [
            write_run(f"{len(configs)}-{i}", rounds=1, algorithm=algorithm, config=config)
            for i, (algorithm, config) in enumerate(configs)
        ]
        return labels([load_run(folder) for folder in folders])

    assert written(("fedavg", {}), ("psl", {})) == ["fedavg", "psl"]
    assert written(("psl", {"batch_size": 32}), ("psl", {}), ("psl", {"batch_size": 8})) == [
        "batch_size=32",
        "batch_size=64",
        "batch_size=8",
    ]
    sage = [{"name": "fsl_sage", "upload": upload} for upload in (5, 10)]
    assert written((sage[0], {}), (sage[1], {}), ("psl", {}), ("vanilla", {})) == [
        "fsl_sage, algorithm.upload=5",
        "fsl_sage, algorithm.upload=10",
        "psl",
        "vanilla",
    ]
    codecs = [{"codec": codec} for codec in ({"name": "int8"}, {"updates": "int8"}, {"name": "fp32"}, {"name": "fp32"})]
    assert written(*[("psl", config) for config in codecs])[:2] == ["codec=int8", "codec=updates=int8"]
    same = written(*[("psl", {})] * 5)
    assert same == [f"5-{i}" for i in range(5)]


def test_labels_are_distinct_even_for_the_same_folder(write_run: WriteRun) -> None:
    run = load_run(write_run("run", rounds=1))
    assert isinstance(run, Run)
    assert len(set(labels([run, run, replace(run, path=run.path / "..")]))) == 3


def test_the_page_and_the_json_hold_the_rows(write_run: WriteRun, tmp_path: Path) -> None:
    folders = [
        write_run("<i>a</i>", rounds=5),
        write_run("b", rounds=5, algorithm="psl", config={"model": "<b>$x"}, finished=False),
    ]
    made = compare(folders, out=tmp_path / "new" / "out")
    assert all(path.is_file() for path in made.files)
    assert json.loads((tmp_path / "new/out/comparison.json").read_text("utf-8")) == made.to_json()
    reader, _ = read(tmp_path / "new/out/comparison.html")
    assert not {"i", "b", "script"} & set(reader.tags)
    said = " ".join(reader.words)
    for row in made.rows:
        assert all(cell in said for cell in row.cells())
    assert "unfinished" in said
    assert "differ in model" in said


def test_what_cannot_be_compared_is_refused(write_run: WriteRun) -> None:
    folder = write_run("run", rounds=2)
    with pytest.raises(ConfigError, match=r"write 80 % as 0.8"):
        compare([folder], target=80)
    with pytest.raises(ConfigError, match="at least one run folder"):
        compare([])
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(RunFolderError, match="at least one evaluated round"):
        compare([folder])
