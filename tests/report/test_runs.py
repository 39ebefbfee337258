"""Reading run folders in every state."""

import json
from pathlib import Path

import pytest

from cutlayer.errors import RunFolderError
from cutlayer.report.curves import byte_parts, over_bytes, over_rounds, time_parts
from cutlayer.report.runs import Run, RunGroup, load_run, mean_std

from .conftest import WriteRun


def test_a_whole_run(write_run: WriteRun) -> None:
    run = load_run(write_run("run", rounds=6, clients=3))
    assert isinstance(run, Run)
    assert run.finished
    assert [line.number for line in run.rounds] == list(range(7))
    assert run.bytes_up == run.summary["bytes_up"]
    assert run.final_accuracy == run.summary["test_accuracy"]
    assert run.best_round is not None
    assert run.best_round.test_accuracy == run.summary["best_accuracy"]
    assert run.partition is not None
    assert len(run.partition.clients) == 3


def test_a_torn_last_line_is_left_out(write_run: WriteRun) -> None:
    folder = write_run("run", rounds=6, finished=False, torn=True)
    run = load_run(folder)
    assert isinstance(run, Run)
    assert not run.finished
    assert run.rounds[-1].number == 3
    path = folder / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + "é".encode()[:1])  # torn inside a character
    assert load_run(folder) == run


def test_a_damaged_line_in_the_middle_is_named(write_run: WriteRun) -> None:
    folder = write_run("run", rounds=3)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join([lines[0], lines[1][:20], *lines[2:]]))
    with pytest.raises(RunFolderError, match=r"line 2 of .*metrics.jsonl"):
        load_run(folder)


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="does not exist"):
        load_run(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="is a file"):
        load_run(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunFolderError, match="it is empty"):
        load_run(tmp_path / "empty")
    with pytest.raises(RunFolderError, match=r"neither config.yaml nor metrics.jsonl"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("summary.json", "{", "is not JSON"),
        ("summary.json", "[1]", "expected an object"),
        ("config.yaml", "a: [", "is not YAML"),
        ("config.yaml", "- a", "expected a mapping"),
    ],
)
def test_a_damaged_file_is_named(write_run: WriteRun, name: str, content: str, said: str) -> None:
    folder = write_run("run", rounds=2)
    (folder / name).write_text(content)
    with pytest.raises(RunFolderError, match=said) as error:
        load_run(folder)
    assert name in str(error.value)


def test_null_and_nan_are_missing(write_run: WriteRun) -> None:
    folder = write_run("run", rounds=1)
    line = {"round": 2, "loss": float("nan"), "test_accuracy": None, "client_accuracy": {"0": float("inf"), "1": 0.5}}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    last = load_run(folder).runs[0].rounds[-1]
    assert (last.loss, last.test_accuracy, last.client_accuracy) == (None, None, {"1": 0.5})


def test_a_repeated_round_counts_once(write_run: WriteRun) -> None:
    folder = write_run("run", rounds=4)
    before = load_run(folder)
    path = folder / "metrics.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")
    assert load_run(folder) == before


def test_seeds_make_a_group(write_group: WriteRun) -> None:
    group = load_run(write_group("group", seeds=3, rounds=5))
    assert isinstance(group, RunGroup)
    assert [run.path.name for run in group.runs] == ["seed-0", "seed-1", "seed-2"]
    curve = over_rounds(group, "test_accuracy")
    finals = [run.final_accuracy or 0 for run in group.runs]
    assert (curve.y[-1], curve.std[-1]) == mean_std(finals)


def test_a_group_shows_only_rounds_that_all_seeds_have(write_group: WriteRun) -> None:
    folder = write_group("group", seeds=2, rounds=5)
    path = folder / "seed-1" / "metrics.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:3]))
    assert over_rounds(load_run(folder), "test_accuracy").x == (0, 1, 2)


def test_bytes_and_seconds_are_accounted_for(write_run: WriteRun) -> None:
    run = load_run(write_run("run", rounds=5)).runs[0]
    for line in run.trained_rounds:
        assert sum(byte_parts(line).values()) == pytest.approx(line.bytes_up + line.bytes_down)
        assert sum(time_parts(line).values()) == pytest.approx(line.seconds)
    curve = over_bytes(run)
    assert list(curve.x) == sorted(curve.x)
    assert curve.x[-1] == run.bytes_up + run.bytes_down
