"""Every command, every exit code, and interruptions of real processes."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from commands import Ended, call, finish, spawn
from safetensors.torch import load_file

import cutlayer
from cutlayer import config
from cutlayer.catalogue import catalogue
from cutlayer.config import Experiment

Call = Callable[..., Ended]

PLUGINS = '''
import torch
from torch import nn
from torch.nn import functional as F

from cutlayer import Recipe


def five(classes, input_shape):
    """A model for five classes, whatever the data has."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 5))


def lost(output, targets):
    return F.cross_entropy(output, targets) * float("nan")


def explode(client, batch):
    raise ValueError("the first line\\nand the second")
    yield


broken = Recipe("broken", schedule="sequential", averaged=("encoder",), feedback=explode)


def failing(output, targets):
    raise ValueError("the first line\\nand the second")


def holes():
    x = torch.randn(60, 4)
    x[7, 2] = float("nan")
    return x, torch.arange(60) % 3, torch.randn(30, 4), torch.arange(30) % 3


def floats():
    return torch.randn(60, 4), torch.rand(60), torch.randn(30, 4), torch.rand(30)


def tied(classes, input_shape):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, classes))
    model[3].weight = model[1].weight
    return model
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder but for a module of plug-ins."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plugins.py").write_text(PLUGINS)
    yield tmp_path
    sys.modules.pop("plugins", None)


@pytest.fixture
def run(here: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """``run("list", "--json")``: the command line in this process, in the working folder."""
    return lambda *words: call(capsys, *words)


def _fails(ended: Ended, code: int, says: str) -> None:
    """One sentence on standard error, nothing else, and the exit code."""
    assert ended.code == code, ended.err
    lines = ended.err.splitlines()
    assert len(lines) == 1, ended.err
    assert lines[0].startswith("cutlayer: ")
    assert re.search(says, lines[0]), lines[0]
    assert ended.out == ""


# --- commands --------------------------------------------------------------------------------------------------------


def test_run_without_arguments_is_the_demo(run: Call, here: Path) -> None:
    ended = run("run")
    assert ended.code == 0
    folder = here / "runs" / "file_sync-mlp-digits"
    written = yaml.safe_load((folder / "config.yaml").read_text())
    resolved = {"out": "runs/file_sync-mlp-digits", "threads": written["threads"], "name": written["name"]}
    assert config.parse(written) == Experiment(**resolved)
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["algorithm"], summary["clients"], summary["rounds"]) == ("file_sync", 5, 20)
    assert list(summary["parameters"]) == ["encoder", "backbone", "head"]
    assert summary["test_accuracy"] > 0.9
    assert "report: runs/file_sync-mlp-digits/report.html" in ended.out
    assert "round 20/20" in ended.err


def test_run_as_json(run: Call, here: Path) -> None:
    ended = run("run", "rounds=1", "algorithm=vanilla", "out=a", "--json")
    assert (ended.code, ended.err) == (0, "")
    summary = json.loads(ended.out)
    assert summary == json.loads((here / "a/summary.json").read_text())
    promised = {"algorithm", "test_accuracy", "best_accuracy", "rounds", "bytes_up", "bytes_down", "seconds"}
    assert promised | {"samples_per_second", "seed", "versions"} <= summary.keys()
    assert summary["command"] == "cutlayer run rounds=1 algorithm=vanilla out=a --json"
    model = cutlayer.build_model("mlp", classes=10, input_shape=(1, 8, 8), seed=5)
    model.load_state_dict(load_file(here / "a/model.safetensors"))


def test_progress_is_no_output_and_quiet_is_quiet(run: Call) -> None:
    loud, quiet = run("run", "rounds=1", "out=a"), run("run", "rounds=1", "out=b", "--quiet")
    assert loud.out.replace("a", "b").split("time")[0] == quiet.out.replace("a", "b").split("time")[0]
    assert "round 1/1" in loud.err
    assert quiet.err == ""


def test_keys_override_the_file(run: Call, here: Path) -> None:
    Path("exp.yaml").write_text(
        "algorithm: {name: cse_fsl, upload_every: 2}\nmodel: {name: mlp, hidden: [16]}\nrounds: 7\n"
        "optimizer: {name: sgd, lr: 5e-2, server: {lr: 1e-2}}\n"
    )
    ended = run("run", "exp.yaml", "rounds=1", "model.hidden=[8,8]", "codec.updates=int8", "clients=3", "out=a", "-q")
    assert ended.code == 0, ended.err
    found = yaml.safe_load((here / "a/config.yaml").read_text())
    assert found["algorithm"] == {"name": "cse_fsl", "upload_every": 2}
    assert found["model"] == {"name": "mlp", "hidden": [8, 8]}
    assert (found["rounds"], found["clients"]["count"], found["codec"]) == (1, 3, {"updates": "int8"})
    assert found["optimizer"]["client"]["lr"] == 0.05
    assert found["optimizer"]["server"] == {"name": "sgd", "lr": 0.01}


def test_a_written_config_is_an_experiment_that_gives_the_same_model(run: Call, here: Path) -> None:
    assert run("run", "rounds=2", "algorithm=splitfed_v2", "out=a", "-q").code == 0
    assert run("run", "a/config.yaml", "out=b", "-q").code == 0
    assert (here / "a/model.safetensors").read_bytes() == (here / "b/model.safetensors").read_bytes()


def test_a_second_run_takes_another_folder(run: Call, here: Path) -> None:
    for _ in range(2):
        assert run("run", "rounds=1", "algorithm=local", "-q").code == 0
    assert sorted(p.name for p in (here / "runs").iterdir()) == ["local-mlp-digits", "local-mlp-digits-2"]


def test_seeds(run: Call, here: Path) -> None:
    ended = run("run", "rounds=1", "seeds=2", "seed=3", "out=two", "--json")
    summary = json.loads(ended.out)
    accuracy = summary["test_accuracy"]
    singles = [json.loads((here / f"two/seed-{seed}/summary.json").read_text()) for seed in (3, 4)]
    assert accuracy["values"] == [single["test_accuracy"] for single in singles]
    assert accuracy["mean"] == pytest.approx(sum(accuracy["values"]) / 2)
    assert singles[0]["test_accuracy"] != singles[1]["test_accuracy"]
    assert (here / "two/report.html").exists()
    assert run("run", "rounds=1", "seed=4", "out=one", "-q").code == 0
    assert (here / "one/model.safetensors").read_bytes() == (here / "two/seed-4/model.safetensors").read_bytes()
    shutil.rmtree(here / "two/seed-4")
    (here / "two/summary.json").unlink()
    assert json.loads(run("resume", "two", "--json").out)["test_accuracy"] == accuracy


def test_resume_of_a_finished_run_changes_nothing(run: Call, here: Path) -> None:
    first = run("run", "rounds=1", "out=a", "--json")
    before = (here / "a/model.safetensors").read_bytes()
    again = run("resume", "a", "--json")
    assert again.code == 0
    volatile = ("seconds", "samples_per_second", "command")
    old, new = ({k: v for k, v in json.loads(e.out).items() if k not in volatile} for e in (first, again))
    assert old == new
    assert (here / "a/model.safetensors").read_bytes() == before


def test_more_rounds_for_a_finished_run(run: Call, here: Path) -> None:
    assert run("run", "rounds=1", "out=a", "-q").code == 0
    assert run("resume", "a", "--rounds", "3", "-q").code == 0
    assert run("run", "rounds=3", "out=b", "-q").code == 0
    _same(here / "a", here / "b")
    _fails(run("resume", "a", "--rounds", "2"), 5, "3")


def test_compare(run: Call, here: Path) -> None:
    for name in ("fedavg", "splitfed_v2"):
        assert run("run", f"algorithm={name}", "rounds=2", f"out={name}", "-q").code == 0
    ended = run("compare", "fedavg", "splitfed_v2", "--target", "0.2", "--out", "both", "--json")
    found = json.loads(ended.out)
    assert found["target"] == 0.2
    assert [row["label"] for row in found["runs"]] == ["fedavg", "splitfed_v2"]
    assert {"accuracy", "bytes_to_target", "rounds_to_target", "seconds_to_target"} <= found["runs"][0].keys()
    assert all(Path(file).exists() for file in found["files"])
    assert (here / "both/comparison.html").exists()
    table = run("compare", "fedavg", "splitfed_v2")
    assert table.code == 0
    assert " ".join(table.out.split()).count("is the highest test accuracy that every run reaches") == 1
    _fails(run("compare", "fedavg", "--target", "80"), 2, "between 0 and 1, but got 80.0")


def test_report_is_drawn_again(run: Call, here: Path) -> None:
    assert run("run", "rounds=1", "out=a", "-q").code == 0
    (here / "a/report.html").unlink()
    (here / "a/partition.png").unlink()
    assert run("report", "a") == Ended(0, "a/report.html\n", "")
    assert (here / "a/report.html").exists()
    assert (here / "a/partition.png").exists()


@pytest.mark.parametrize("what", list(catalogue()))
def test_list(run: Call, what: str) -> None:
    rows = json.loads(run("list", what, "--json").out)[what]
    shown = run("list", what).out
    assert rows
    assert all(row["name"] in shown for row in rows)


def test_list_of_everything(run: Call) -> None:
    assert list(json.loads(run("list", "--json").out)) == list(catalogue())
    _fails(run("list", "colours"), 2, "expected one of algorithms, .*, got 'colours'")


def test_inspect(run: Call) -> None:
    rows = json.loads(run("inspect", "mlp", "data=digits", "model.hidden=[32,16]", "--json").out)
    by_cut = {row["cut"][0]: row for row in rows if row["reason"] is None}
    assert by_cut["relu1"]["client_parameters"] == 64 * 32 + 32
    assert by_cut["relu1"]["bytes_up"] == by_cut["relu1"]["bytes_down"] == 4 * 32
    assert 0 < by_cut["relu1"]["client_share"] < 1
    assert "relu1" in run("inspect", "mlp").out
    (shaped,) = json.loads(
        run("inspect", "lenet", "--input", "1x28x28", "--at", "pool1", "--at", "relu4", "--json").out
    )
    assert list(shaped["parts"]) == ["encoder", "backbone", "head"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("nomodel",), 2, "model 'nomodel' is not in the zoo"),
        (("mlp", "--at", "relu9"), 3, "'relu9' is not a submodule"),
        (("mlp", "--at", "fc3"), 3, "nothing runs after 'fc3'"),
        (("lenet", "--input", "3by4"), 2, "--input must be sizes and a dtype"),
        (("mlp", "model.colour=red"), 2, "no option 'colour'"),
        (("plugins:tied", "--input", "1x8x8", "--at", "2"), 3, r"'1\.weight' \(also '3\.weight'\) is used on both"),
    ],
)
def test_inspect_of_what_cannot_be(run: Call, words: tuple[str, ...], code: int, says: str) -> None:
    _fails(run("inspect", *words), code, says)


def test_wrong_usage(run: Call) -> None:
    for words in (("fly",), ("run", "--fast"), ("compare",), ("inspect",), ("inspect", "mlp", "--classes", "1")):
        ended = run(*words)
        assert ended.code == 2
        assert "Usage: cutlayer" in ended.err
        assert "Traceback" not in ended.err
        assert ended.out == ""


@pytest.mark.parametrize(
    "words",
    [("--version",), ("--help",), *((c, "--help") for c in ("run", "resume", "compare", "report", "list", "inspect"))],
    ids=" ".join,
)
def test_help_and_version_import_nothing_heavy(words: tuple[str, ...], tmp_path: Path) -> None:
    ended = finish(spawn(*words, cwd=tmp_path, flags=("-X", "importtime")))
    assert ended.code == 0
    assert ended.out.strip() == f"cutlayer {cutlayer.__version__}" if words == ("--version",) else "Usage" in ended.out
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in ended.err.splitlines()}
    assert "typer" in imported
    assert not imported & {"torch", "numpy", "sklearn", "matplotlib", "yaml", "obstore", "safetensors"}


# --- bad input -------------------------------------------------------------------------------------------------------

BAD: dict[str, tuple[tuple[str, ...], int, str]] = {
    "unknown key": (("roundz=3",), 2, "no key 'roundz'; did you mean 'rounds'"),
    "unknown key, nothing close": (("qqq=3",), 2, "no key 'qqq'; there are: algorithm, model"),
    "unknown key inside": (("clients.colour=3",), 2, r"clients\.colour is not a key; there are: count, fraction"),
    "unknown option of the algorithm": (("algorithm.colour=3",), 2, "file_sync has no option 'colour'; it has: labels"),
    "unknown option of the model": (("model.colour=3",), 2, "has no option 'colour'"),
    "unknown option of the data": (("data.colour=3",), 2, "data digits has no option 'colour'; it has: test_fraction"),
    "unknown option of the partition": (("partition.colour=3",), 2, "dirichlet has no option 'colour'"),
    "unknown option of the codec": (("codec=topk", "codec.colour=3"), 2, "does not take the options colour"),
    "unknown option of the optimizer": (("optimizer.colour=3",), 2, "Adam has no argument 'colour'; it has: lr"),
    "unknown option of the aggregator": (("aggregator.colour=3",), 2, "fedavg has no option 'colour'"),
    "unknown option of the engine": (("engine.colour=3",), 2, "local has no option 'colour'"),
    "unknown option of augment": (("augment.colour=3",), 2, "augment has the options crop, padding"),
    "unknown option of the auxiliary": (
        ("algorithm=cse_fsl", "auxiliary.colour=3"),
        2,
        "auxiliary linear has no option 'colour'",
    ),
    "unknown algorithm": (("algorithm=vanila",), 2, r"got 'vanila' \(did you mean vanilla\?\)"),
    "unknown model": (("model=lenex",), 2, "model 'lenex' is not in the zoo; there are: mlp"),
    "unknown data": (("data=imagenet",), 2, "data 'imagenet' is not a source; there are: digits"),
    "unknown partition": (("partition=fair",), 2, "partition 'fair' is not a scheme; there are: iid"),
    "unknown codec": (("codec=int4",), 2, "codec expected one of fp32, .*, got 'int4'"),
    "unknown optimizer": (("optimizer=adamm",), 2, r"optimizer must be a class of torch\.optim .*, got 'adamm'"),
    "unknown schedule": (("optimizer.schedule=Up",), 2, r"schedule must be a class of torch\.optim.*, got 'Up'"),
    "unknown aggregator": (("aggregator=best",), 2, "aggregator must be one of fedavg, .*, got 'best'"),
    "unknown loss": (("loss=hinge",), 2, "loss must be cross_entropy, .*, got 'hinge'"),
    "unknown engine": (("engine=warp",), 2, "engine must be local, got 'warp'"),
    "unknown device": (("device=tpu9",), 2, "device must be auto, cpu, cuda"),
    "whole number wanted": (("rounds=many",), 2, "rounds: input should be a valid integer.*got 'many'"),
    "positive number wanted": (("rounds=0",), 2, "rounds: input should be greater than or equal to 1, got 0"),
    "nothing given": (("rounds=",), 2, "rounds: .*got None"),
    "share wanted": (("clients.fraction=1.5",), 2, r"clients\.fraction: .*less than or equal to 1, got 1\.5"),
    "number wanted by the optimizer": (("optimizer.lr=fast",), 2, "optimizer Adam refuses its arguments"),
    "name or mapping wanted": (("model=[1,2]",), 2, "model: "),
    "one or two cuts wanted": (("cuts=[fc1,relu1,relu2]",), 2, "cuts: expected one cut, or two"),
    "alpha out of range": (("partition.alpha=0",), 2, r"partition\.alpha must be a number from 1e-6"),
    "contradictory algorithm": (
        ("algorithm.labels=server", "algorithm.step=joined", "algorithm.schedule=relay"),
        2,
        "con",
    ),
    "not YAML": (("clients=[1",), 2, "the value of clients must be YAML"),
    "no key": (("=3",), 2, "expected key=value"),
    "no such file": (("nowhere.yaml",), 2, r"expected an experiment file, and nowhere\.yaml does not exist"),
    "a file that is none": (("plugins.py",), 2, r"plugins\.py"),
    "two files": (("a.yaml", "b.yaml"), 2, "expected one experiment file"),
    "no such module": (("model=nomodule:f",), 2, "needs the module 'nomodule', and it cannot be imported"),
    "no such function": (("model=plugins:f",), 2, "'plugins:f' is not there: plugins has no 'f'"),
    "no cut given": (("model=plugins:five", "algorithm=vanilla"), 2, "has no default cut: give cuts"),
    "one cut too few": (("cuts=relu1",), 2, "file_sync is U-shaped and needs two cuts, got relu1"),
    "one cut too many": (("algorithm=vanilla", "cuts=[relu1,relu2]"), 2, "needs one cut, got relu1, relu2"),
    "no such submodule": (("cuts=[relu1,relu7]",), 3, "'relu7' is not a submodule of Sequential; it has: flatten"),
    "cuts in the wrong order": (("cuts=[relu2,relu1]",), 3, "'relu1' does not run after 'relu2'"),
    "nothing after the cut": (("algorithm=vanilla", "cuts=fc3"), 3, "nothing runs after 'fc3'"),
    "a parameter on both sides": (
        ("model=plugins:tied", "algorithm=vanilla", "cuts=2"),
        3,
        r"'1\.weight' .*both sides",
    ),
    "no path": (("data=mnist",), 4, r"data mnist needs data\.path, and it is not given"),
    "no folder": (("data=mnist", "data.path=nowhere"), 4, "data mnist needs a folder at nowhere, and there is nothing"),
    "an empty folder": (("data=cifar10", "data.path=empty"), 4, r"needs a file data_batch_1\.bin in empty"),
    "a truncated file": (("data=mnist", "data.path=torn"), 4, "truncated"),
    "another form": (("data=npz", "data.path=torn/train-labels-idx1-ubyte"), 4, "to be an npz file of plain numbers"),
    "a table without numbers": (("data=csv", "data.path=words.csv"), 4, r"numbers in column a, and row 1 has 'x'"),
    "too few classes in the head": (
        ("model=plugins:five", "cuts=[1,2]"),
        4,
        "digits has 10 classes, and the model gives .*5.* scores",
    ),
    "a model for other inputs": (("model=lenet",), 2, "model lenet needs images .* of at least 12x12"),
    "NaN in the data": (("data=plugins:holes",), 4, "must be finite, and 1 of its 60 training samples hold NaN"),
    "labels that are none": (("data=plugins:floats",), 4, "needs class labels"),
    "more clients than samples": (("clients=1000",), 2, "1000 clients .* need 2000 training samples"),
    "data without clients": (("partition=natural",), 2, "needs data that names the client of every sample"),
    "a crop too large": (("augment.crop=20",), 2, r"augment\.crop must fit into the 8x8 images"),
    "an unknown store": (("store=ftp://there/x",), 2, "ftp"),
    "a name that is no path": (("name=a/b",), 2, "name: "),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_with_a_sentence_and_leaves_nothing(case: str, run: Call, here: Path) -> None:
    words, code, says = BAD[case]
    (here / "empty").mkdir()
    (here / "torn").mkdir()
    (here / "words.csv").write_text("a,b\nx,0\ny,1\nz,0\nw,1\n")
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (here / f"torn/{name}-ubyte").write_bytes(bytes.fromhex("00000803 0000000a 0000001c 0000001c") + b"abc")
    before = sorted(here.rglob("*"))
    _fails(run("run", *words, "rounds=1") if "rounds" not in words[0] else run("run", *words), code, says)
    assert [p for p in sorted(here.rglob("*")) if "__pycache__" not in p.parts] == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there(run: Call) -> None:
    _fails(run("run", "device=cuda"), 2, "sees no CUDA; use device=cpu")


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "\x00", "- algorithm"])
def test_a_file_that_is_no_experiment(text: str, run: Call) -> None:
    Path("exp.yaml").write_text(text)
    _fails(run("run", "exp.yaml"), 2, r"exp\.yaml")


def test_a_folder_that_holds_something_is_left_alone(run: Call, here: Path) -> None:
    (here / "mine").mkdir()
    (here / "mine/thesis.txt").write_text("words")
    _fails(run("run", "out=mine"), 5, "expected out=mine to be new or empty.*choose another")
    assert [p.name for p in (here / "mine").iterdir()] == ["thesis.txt"]
    _fails(run("run", "out=plugins.py"), 5, "expected out=plugins.py to be new or empty")
    assert run("run", "rounds=1", "out=a", "-q").code == 0
    before = {p: p.stat().st_mtime_ns for p in (here / "a").rglob("*")}
    _fails(run("run", "out=a"), 5, "go on with: cutlayer resume a")
    assert {p: p.stat().st_mtime_ns for p in (here / "a").rglob("*")} == before


@pytest.mark.parametrize("command", ["resume", "report", "compare"])
def test_what_is_no_run(command: str, run: Call, here: Path) -> None:
    (here / "empty").mkdir()
    _fails(run(command, "nowhere"), 5, "nowhere")
    _fails(run(command, "empty"), 5, "empty")
    _fails(run(command, "plugins.py"), 5, r"plugins\.py")
    assert list((here / "empty").iterdir()) == []


def test_a_folder_that_cannot_be_made(run: Call) -> None:
    _fails(run("run", "out=/proc/mine/run"), 5, "/proc/mine/run cannot be written")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("loss=plugins:lost",), "finite"),
        (("optimizer=sgd", "optimizer.lr=1e30"), "finite"),
        (("loss=plugins:lost", "codec=int8", "algorithm=vanilla"), "finite"),
        (("loss=plugins:lost", "algorithm=local"), "expected a finite loss, got nan at client"),
    ],
)
def test_a_loss_that_is_not_finite(words: tuple[str, ...], says: str, run: Call, here: Path) -> None:
    _fails(run("run", *words, "rounds=3", "out=a", "-q"), 6, says)
    assert (here / "a/metrics.jsonl").read_text() == ""
    assert not (here / "a/summary.json").exists()
    _fails(run("run", "rounds=1", "out=a"), 5, "go on with: cutlayer resume a")
    _fails(run("resume", "a", "-q"), 6, says)


def test_what_was_not_foreseen_is_one_line_too(run: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("run", "algorithm=plugins:broken", "rounds=1", "-q")
    _fails(run(*words, "out=a"), 1, "ValueError: the first line; set CUTLAYER_TRACEBACK=1 to see where")
    monkeypatch.setenv("CUTLAYER_TRACEBACK", "1")
    with pytest.raises(ValueError, match="the first line"):
        run(*words, "out=b")


def test_a_loss_that_fails_is_one_sentence(run: Call) -> None:
    _fails(run("run", "loss=plugins:failing", "rounds=1", "-q"), 2, "loss fails on .*the first line and the second")


def test_a_reader_that_leaves(here: Path) -> None:
    process = spawn("list", cwd=here)
    process.stdout.close()
    with process.stderr as stream:
        assert "Traceback" not in stream.read()
    process.wait(timeout=300)


# --- no space --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    cutlayer.run("file_sync", "mlp", "digits", rounds=8, out=str(folder), threads=1)
    return folder


ARGUMENTS = ("run", "rounds=8", "threads=1", "out=run", "-q")
VOLATILE = ("seconds", "time")


def _same(one: Path, other: Path) -> None:
    """Bit-identical weights, and metrics equal but for times."""
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    lines = [[json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()] for f in (one, other)]
    ours, theirs = ([{k: v for k, v in r.items() if k not in VOLATILE} for r in each] for each in lines)
    assert ours == theirs


@pytest.mark.parametrize("limit", [400, 100_000])
def test_files_that_may_not_grow(limit: int, here: Path, undisturbed: Path, run: Call) -> None:
    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    _fails(finish(spawn(*ARGUMENTS, cwd=here, before=bounded)), 8, "disk or quota is full|disk is full")
    if (here / "run/config.yaml").exists():
        assert run("resume", "run", "-q").code == 0
    else:
        shutil.rmtree(here / "run", ignore_errors=True)
        assert run(*ARGUMENTS).code == 0
    _same(here / "run", undisturbed)


@pytest.fixture
def small_disk(here: Path) -> Iterator[Callable[[str], Path]]:
    """``small_disk("300k")``: a disk of that size, mounted; called again, it is resized."""
    disk = here / "disk"

    def sized(size: str) -> Path:
        how = f"remount,size={size}" if disk.exists() else f"size={size}"
        disk.mkdir(exist_ok=True)
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", how, "tmpfs", disk], capture_output=True)
        if mounted.returncode:
            pytest.skip("only root may mount a small disk")
        return disk

    yield sized
    subprocess.run(["umount", disk], capture_output=True)


@pytest.mark.parametrize("size", ["8k", "340k", "600k"])
def test_a_disk_that_fills_up(
    size: str, here: Path, undisturbed: Path, small_disk: Callable[[str], Path], run: Call
) -> None:
    disk = small_disk(size)
    words = [w.replace("out=run", "out=disk/run") for w in ARGUMENTS]
    _fails(run(*words), 8, "disk or quota is full|disk is full")
    small_disk("20m")
    assert run("resume", "disk/run", "-q").code == 0
    _same(disk / "run", undisturbed)
    assert not [p for p in (disk / "run").rglob("*") if p.name.endswith((".part", "#1"))]


# --- interruption ----------------------------------------------------------------------------------------------------


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _interrupted(process: Any, folder: Path, rounds: int, how: signal.Signals) -> Ended:
    while _lines(folder / "metrics.jsonl") < rounds:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(how)
    return finish(process)


def test_ctrl_c_and_resume_give_the_undisturbed_run(here: Path, undisturbed: Path, run: Call) -> None:
    ended = _interrupted(spawn(*ARGUMENTS, cwd=here), here / "run", 2, signal.SIGINT)
    _fails(ended, 130, "interrupted; go on with: cutlayer resume run")
    assert 2 <= _lines(here / "run/metrics.jsonl") < 8
    assert not (here / "run/summary.json").exists()
    assert run("resume", "run", "-q").code == 0
    _same(here / "run", undisturbed)


def test_a_run_that_was_interrupted_twice_once_by_a_kill(here: Path, undisturbed: Path, run: Call) -> None:
    killed = _interrupted(spawn(*ARGUMENTS, cwd=here), here / "run", 1, signal.SIGKILL)
    assert killed.code == -signal.SIGKILL
    again = _interrupted(spawn("resume", "run", "-q", cwd=here), here / "run", 4, signal.SIGINT)
    _fails(again, 130, "interrupted; go on with: cutlayer resume run")
    assert run("resume", "run", "-q").code == 0
    _same(here / "run", undisturbed)


def test_ctrl_c_before_there_is_anything(here: Path) -> None:
    (here / "slow.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    _fails(finish(spawn("run", "model=slow:f", cwd=here)), 130, "interrupted$")
    assert not (here / "runs").exists()
    assert os.listdir(here) != []
