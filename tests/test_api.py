"""The Python interface: objects in place of names, and a sentence for whatever does not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import toys
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn

import cutlayer as cl
from cutlayer.data import TensorSamples
from cutlayer.engines.running import Silent
from cutlayer.errors import ConfigError, CutError, CutlayerError, DataError, RunFolderError, TrainingError
from cutlayer.recipes import RECIPES, Recipe

SHORT: dict[str, Any] = {"rounds": 2, "batch_size": 8, "clients": 2}


def _split(cuts: int = 1) -> cl.SplitModel:
    return toys.cut(toys.made(toys.Plain), ["relu1", "relu2"][:cuts], toys.rows(8))


def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what ``tests/report`` tests, for speed."""
    monkeypatch.setattr("cutlayer.report.write_plots", lambda path: None)
    monkeypatch.setattr("cutlayer.report.write_report", lambda path: None)


def test_a_split_model_an_uncut_one_and_a_name_are_the_same() -> None:
    data = cl.load_data("digits")
    model = cl.build_model("mlp", classes=10, input_shape=data.input_shape, seed=0)
    split = cl.split(model, ["relu1"], data.train.take(torch.arange(4))[0])
    keys: dict[str, Any] = {**SHORT, "rounds": 1, "batch_size": 64}
    found = [cl.run("vanilla", m, d, **keys) for m, d in ((split, data), ("mlp", "digits"), ("mlp", data))]
    found.append(cl.run("vanilla", model, "digits", cuts=["relu1"], **keys))
    for other in found[1:]:
        assert toys.same(found[0].model, other.model)


def test_a_result_says_what_came_of_it() -> None:
    result = cl.run("splitfed_v2", _split(), toys.dataset(), seed=3, **SHORT)
    assert result.path is None
    assert [m["round"] for m in result.metrics] == [1, 2]
    assert result.summary["algorithm"] == "splitfed_v2"
    assert result.summary["test_accuracy"] == result.metrics[-1]["test_accuracy"]
    assert result.summary["best_accuracy"] == max(m["test_accuracy"] for m in result.metrics)
    assert result.summary["bytes_up"] == sum(m["bytes_up"] for m in result.metrics)
    assert result.summary["seed"] == 3
    model = toys.made(toys.Plain)
    model.load_state_dict(result.model)
    model.eval()
    test = toys.dataset().test
    inputs, targets = test.take(torch.arange(len(test)))
    accuracy = float((model(*inputs).argmax(-1) == targets).float().mean())
    assert result.summary["test_accuracy"] == pytest.approx(accuracy)


def test_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _no_pictures(monkeypatch)
    result = cl.run("vanilla", _split(), toys.dataset(), out=str(tmp_path / "run"), **SHORT)
    assert result.path == tmp_path / "run"
    lines = [json.loads(line) for line in (result.path / "metrics.jsonl").read_text().splitlines()]
    assert lines == json.loads(json.dumps(result.metrics))
    assert json.loads((result.path / "summary.json").read_text())["rounds"] == 2
    assert yaml.safe_load((result.path / "config.yaml").read_text())["algorithm"] == {"name": "vanilla"}
    assert toys.same(load_file(result.path / "model.safetensors"), result.model)
    with pytest.raises(RunFolderError, match="holds something already; go on with: cutlayer resume"):
        cl.run("vanilla", _split(), toys.dataset(), out=str(tmp_path / "run"), **SHORT)


def test_a_failure_before_training_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        cl.run("ushaped", _split(), toys.dataset(), out=str(tmp_path / "run"), **SHORT)
    assert not (tmp_path / "run").exists()


def test_seeds_are_runs_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _no_pictures(monkeypatch)
    keys: dict[str, Any] = {**SHORT, "seed": 5}
    both = cl.run("vanilla", _split(), toys.dataset(), seeds=2, out=str(tmp_path / "run"), **keys)
    alone = [cl.run("vanilla", _split(), toys.dataset(), **{**keys, "seed": seed}) for seed in (5, 6)]
    losses = [r.summary["loss"] for r in alone]
    assert both.summary["seeds"] == [5, 6]
    assert both.summary["loss"]["values"] == losses
    assert both.summary["loss"]["mean"] == pytest.approx(sum(losses) / 2)
    assert both.summary["loss"]["std"] == pytest.approx(abs(losses[0] - losses[1]) / 2**0.5)
    assert toys.same(load_file(tmp_path / "run" / "seed-6" / "model.safetensors"), alone[1].model)


def test_the_callers_random_state_and_threads_are_left_alone() -> None:
    torch.manual_seed(1)
    expected, threads = torch.rand(3), torch.get_num_threads()
    torch.manual_seed(1)
    cl.run("vanilla", _split(), toys.dataset(), **SHORT)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_an_observer_is_told_everything() -> None:
    class Told(Silent):
        def __init__(self) -> None:
            self.said: list[Any] = []

        def started(self, experiment: Any, prepared: Any, done: int) -> None:
            self.said.append(("started", done))

        def batch(self, round_number: int, batches: int) -> None:
            self.said.append(("batch", round_number, batches))

        def round(self, metrics: Any) -> None:
            self.said.append(("round", metrics["round"]))

        def finished(self) -> None:
            self.said.append("finished")

    told = Told()
    result = cl.run("psl", _split(), toys.dataset(), observer=told, **SHORT)
    assert told.said[0] == ("started", 0)
    assert told.said[-1] == "finished"
    assert [s for s in told.said if s[0] == "round"] == [("round", 1), ("round", 2)]
    trained = sum(-(-n // 8) for n in result.metrics[0]["client_samples"].values())
    assert sum(s[2] for s in told.said if s[:2] == ("batch", 1)) == trained


# --- a resume finds what was given ------------------------------------------------------------------------------------


def _resumable(path: Path, algorithm: Any, **keys: Any) -> cl.Result:
    cl.run(algorithm, _split(), toys.dataset(), out=str(path), **{**SHORT, **keys})
    return cl.run(algorithm, _split(), toys.dataset(), **{**SHORT, **keys, "rounds": 3})


def _resume(path: Path, **objects: Any) -> cl.Result:
    return cl.resume(path, rounds=3, model=_split(), dataset=toys.dataset(), **objects)


def test_axes_that_were_changed_are_changed_after_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _no_pictures(monkeypatch)
    changed = replace(RECIPES["cse_fsl"], upload_every=1, averaged=("encoder",))
    expected = _resumable(tmp_path / "run", changed)
    found = _resume(tmp_path / "run")
    assert toys.same(found.model, expected.model)
    assert found.summary["bytes_up"] == expected.summary["bytes_up"]


def test_a_recipe_of_ones_own_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _no_pictures(monkeypatch)
    mine = Recipe("mine", schedule="sequential", averaged=("encoder",))
    expected = _resumable(tmp_path / "run", mine)
    with pytest.raises(RunFolderError, match=r"got its algorithm in Python; give it again: resume\(path, recipe=...\)"):
        _resume(tmp_path / "run")
    assert toys.same(_resume(tmp_path / "run", recipe=mine).model, expected.model)


def test_a_recipe_in_a_file_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _no_pictures(monkeypatch)
    (tmp_path / "own_recipe.py").write_text(
        "from cutlayer import Recipe\nmine = Recipe('mine', averaged=('encoder',))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    expected = _resumable(tmp_path / "run", "own_recipe:mine")
    assert expected.summary["algorithm"] == "mine"
    assert toys.same(_resume(tmp_path / "run").model, expected.model)


def test_an_auxiliary_and_a_loss_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _no_pictures(monkeypatch)
    auxiliary = toys.made(lambda: nn.Linear(8, toys.CLASSES))
    start = {k: v.clone() for k, v in auxiliary.state_dict().items()}
    expected = _resumable(tmp_path / "run", "cse_fsl", auxiliary=auxiliary, loss=_half)
    assert toys.same(auxiliary.state_dict(), start), "what was given stays as it was"
    with pytest.raises(RunFolderError, match=r"its auxiliary in Python; give it again: resume\(path, aux=...\)"):
        _resume(tmp_path / "run", loss=_half)
    with pytest.raises(RunFolderError, match=r"its loss in Python; give it again: resume\(path, loss=...\)"):
        _resume(tmp_path / "run", aux=auxiliary)
    found = _resume(tmp_path / "run", aux=auxiliary, loss=_half)
    assert toys.same(found.model, expected.model)


def test_a_table_name_with_a_function_of_ones_own_is_refused() -> None:
    with pytest.raises(ConfigError, match="algorithm vanilla is in the table already"):
        cl.run(replace(RECIPES["vanilla"], feedback=lambda client, batch: iter(())), _split(), toys.dataset(), **SHORT)


@pytest.mark.parametrize("key", ["model", "dataset"])
def test_models_and_data_that_were_given_are_asked_for(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _no_pictures(monkeypatch)
    cl.run("vanilla", _split(), toys.dataset(), out=str(tmp_path / "run"), **SHORT)
    objects: dict[str, Any] = {"model": _split(), "dataset": toys.dataset()}
    del objects[key]
    with pytest.raises(RunFolderError, match=rf"give it again: resume\(path, {key}=...\)"):
        cl.resume(tmp_path / "run", **objects)


def test_there_is_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"expected a run folder with config\.yaml"):
        cl.resume(tmp_path / "nothing")


# --- what does not fit ------------------------------------------------------------------------------------------------


def _half(output: Any, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output, targets) / 2


def _nan(output: Any, targets: Tensor) -> Tensor:
    return output.sum() * float("nan")


def _vector(output: Any, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output, targets, reduction="none")


def _number(output: Any, targets: Tensor) -> float:
    return 1.0


def _broken(output: Any, targets: Tensor) -> Tensor:
    raise KeyError("logits")


def test_a_loss_of_ones_own() -> None:
    half = cl.run("vanilla", _split(), toys.dataset(), loss=_half, optimizer={"name": "sgd", "lr": 0.1}, **SHORT)
    whole = cl.run("vanilla", _split(), toys.dataset(), optimizer={"name": "sgd", "lr": 0.05}, **SHORT)
    assert toys.apart(half.model, whole.model) < 1e-5
    named = cl.run("vanilla", _split(), toys.dataset(), loss="nll_loss", **SHORT)
    assert named.metrics[0]["loss"] != whole.metrics[0]["loss"]


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_a_loss_that_is_not_finite_ends_the_run(recipe: str) -> None:
    cuts = 1 + (RECIPES[recipe].labels == "client")
    with pytest.raises(TrainingError, match="finite"):
        cl.run(recipe, _split(cuts), toys.dataset(), loss=_nan, **SHORT)


@pytest.mark.parametrize("codec", ["fp32", "bf16", "int8", {"name": "topk", "ratio": 0.1}])
def test_weights_that_run_away_end_the_run(codec: Any) -> None:
    with pytest.raises(TrainingError, match="finite"):
        cl.run("splitfed_v2", _split(), toys.dataset(), codec=codec, optimizer={"name": "sgd", "lr": 1e30}, **SHORT)


def _spoilt() -> cl.Dataset:
    train = toys.rows()
    train.inputs[0][3, 2] = float("nan")
    return toys.dataset(train)


def _frozen() -> cl.SplitModel:
    return toys.cut(toys.made(toys.Plain).requires_grad_(False), ["relu1"], toys.rows(8))


WRONG: list[tuple[dict[str, Any], type[CutlayerError], str]] = [
    ({"algorithm": 3}, ConfigError, "algorithm must be a name, a mapping .* or a Recipe, got 3"),
    ({"algorithm": "ushaped"}, ConfigError, "ushaped is U-shaped and needs two cuts, got relu1"),
    ({"model": _split(2)}, ConfigError, "vanilla has labels at the server and needs one cut, got two"),
    ({"model": nn.Linear}, ConfigError, "model: expected a name, or a mapping"),
    ({"model": toys.made(toys.Plain)}, ConfigError, "has no default cut: give cuts=<submodule>; it has: fc1, relu1"),
    ({"model": toys.made(toys.Plain), "cuts": "relu9"}, CutError, "relu9"),
    ({"model": "resnet19"}, ConfigError, "'resnet19' is not in the zoo"),
    ({"model": _frozen()}, ConfigError, "model has no parameter that takes a gradient"),
    ({"cuts": "relu2"}, ConfigError, "cuts=relu2 came with a model that is cut after relu1"),
    ({"data": [1, 2]}, ConfigError, "data: expected a name, or a mapping"),
    ({"data": "no_such_data"}, CutlayerError, "no_such_data"),
    ({"data": toys.dataset(toys.rows(40, shape=(7,)))}, CutError, "fail on the example"),
    ({"data": toys.dataset(toys.rows(40, classes=6), classes=6)}, DataError, "has 6 classes, and the model gives"),
    ({"data": replace(toys.dataset(), classes=3, class_names=("a", "b", "c"))}, DataError, "labels run from 0 to 3"),
    ({"data": _spoilt()}, DataError, "must be finite, and 1 of its 60 training samples"),
    ({"loss": _vector}, ConfigError, r"loss must return the mean over the batch, .*got shape \(4,\)"),
    ({"loss": _number}, ConfigError, "loss must return .*got float"),
    ({"loss": _broken}, ConfigError, "loss fails on .*KeyError"),
    ({"loss": "mse_loss"}, ConfigError, "loss must be cross_entropy, nll_loss"),
    ({"optimizer": {"name": "sgd", "speed": 3}}, ConfigError, "SGD has no argument 'speed'"),
    (
        {"optimizer": {"name": "sgd", "schedule": {"name": "OneCycleLR", "max_lr": 1, "total_steps": 2}}, "rounds": 4},
        ConfigError,
        "schedule OneCycleLR does not last 4 rounds",
    ),
    ({"clients": 500}, ConfigError, "500 clients with at least 2 samples each need 1000"),
    ({"partition": "natural"}, ConfigError, "natural"),
    ({"aggregator": "mean"}, ConfigError, "aggregator must be one of"),
    ({"codec": "zip"}, ConfigError, "codec expected one of"),
    ({"device": "quantum"}, ConfigError, "device must be auto, cpu, cuda"),
    ({"augment": {"crop": 3}}, ConfigError, "augmentation needs images"),
    ({"auxiliary": "psychic", "algorithm": "cse_fsl"}, ConfigError, "'psychic' is not a kind"),
    ({"auxiliary": nn.Linear(3, 4), "algorithm": "cse_fsl"}, ConfigError, "auxiliary fails on what crosses the cut"),
    ({"auxiliary": nn.Linear(8, 3), "algorithm": "fsl_sage"}, ConfigError, "auxiliary gives 3 scores a sample, and"),
    ({"rounds": 0}, ConfigError, "rounds"),
]


@pytest.mark.parametrize(("keys", "error", "message"), WRONG, ids=[message for _, _, message in WRONG])
def test_what_does_not_fit_is_said_before_training(
    keys: dict[str, Any], error: type[CutlayerError], message: str
) -> None:
    given: dict[str, Any] = {"algorithm": "vanilla", "model": _split(), "data": toys.dataset(), **SHORT, **keys}
    with pytest.raises(error, match=message) as caught:
        cl.run(given.pop("algorithm"), given.pop("model"), given.pop("data"), **given)
    assert "\n" not in str(caught.value)


def test_batch_norm_on_one_sample_is_one_sentence() -> None:
    split = toys.cut(toys.made(toys.Dense), ["drop1"], toys.rows(8))
    for recipe in ("vanilla", "fedavg"):
        with pytest.raises(TrainingError, match="BatchNorm needs at least two samples to train on"):
            cl.run(recipe, split, toys.dataset(), **{**SHORT, "batch_size": 1})


# --- unusual models and data ------------------------------------------------------------------------------------------


def _cuts(names: tuple[str, str], recipe: str) -> list[str]:
    return list(names[: 1 + (RECIPES[recipe].labels == "client")])


ALIGNED = {"align_every": 1, "align_epochs": 2}


def _algorithm(recipe: str) -> dict[str, Any]:
    return {"name": recipe, **(ALIGNED if recipe == "fsl_sage" else {})}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_several_values_at_the_cut_in_every_recipe(recipe: str, precision: str) -> None:
    data = toys.dataset()
    split = toys.cut(toys.made(toys.Skip), _cuts(("lower", "middle"), recipe), data.train)
    found = cl.run(_algorithm(recipe), split, data, precision=precision, local_epochs=2, **SHORT)
    assert all(bool(v.isfinite().all()) for v in found.model.values())
    assert not toys.same(found.model, split.state_dict())


class Tagger(nn.Module):
    """Scores every position, and returns a mapping as Hugging Face models do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.norm = nn.LayerNorm(8)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.fc = nn.Linear(8, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        x = self.norm(self.embed(ids)) * mask[..., None]
        hidden = self.gru(x)[0]
        return {"logits": self.fc(hidden), "hidden": hidden}


def _tagged(n: int, seed: int) -> TensorSamples:
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(11, (n, 5), generator=g)
    mask = torch.arange(5) < torch.randint(2, 6, (n, 1), generator=g)
    return TensorSamples((ids, mask.float()), torch.where(mask, ids % 3, torch.tensor(-100)))


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_sequences_with_a_label_a_position_in_every_recipe(recipe: str) -> None:
    data = replace(toys.dataset(_tagged(40, 0), _tagged(20, 1), 3), input_shape=(5,))
    split = toys.cut(toys.made(Tagger), _cuts(("norm", "gru"), recipe), data.train)
    auxiliary = "backbone" if RECIPES[recipe].local_loss else None
    found = cl.run(
        _algorithm(recipe), split, data, auxiliary=auxiliary, **SHORT, optimizer={"name": "adam", "lr": 0.02}
    )
    assert found.metrics[1]["loss"] < found.metrics[0]["loss"]
    assert 0 <= found.summary["test_accuracy"] <= 1


def test_an_auxiliary_that_scores_samples_does_not_fit_labels_of_positions() -> None:
    data = replace(toys.dataset(_tagged(40, 0), _tagged(20, 1), 3), input_shape=(5,))
    split = toys.cut(toys.made(Tagger), ["norm"], data.train)
    with pytest.raises(
        ConfigError, match=r"loss fails on scores of shape .* and targets of shape \(4, 5\) .*give auxiliary=backbone"
    ):
        cl.run("cse_fsl", split, data, **SHORT)


@pytest.mark.parametrize("recipe", sorted(RECIPES))
@pytest.mark.parametrize(
    "keys",
    [
        {"clients": 1},
        {"clients": {"count": 25, "fraction": 0.1, "test_fraction": 0}, "partition": "iid"},
        {"batch_size": 1000},
        {"clients": 7, "partition": {"name": "quantity", "alpha": 0.2, "min_samples": 1}, "local_epochs": 3},
    ],
    ids=["one client", "a tenth of 25", "huge batch", "one sample"],
)
def test_odd_sizes_in_every_recipe(recipe: str, keys: dict[str, Any]) -> None:
    split = _split(1 + (RECIPES[recipe].labels == "client"))
    found = cl.run(_algorithm(recipe), split, toys.dataset(), **{**SHORT, **keys})
    assert len(found.metrics) == 2
    assert all(bool(v.isfinite().all()) for v in found.model.values())


@pytest.mark.parametrize(
    "recipe", ["vanilla", "ushaped", "psl", "splitfed_v1", "splitfed_v2", "splitfed_u", "file_sync"]
)
def test_a_frozen_encoder_in_every_recipe_that_can_have_one(recipe: str) -> None:
    averaged = [p for p in RECIPES[recipe].averaged if p != "encoder"]
    split = _split(1 + (RECIPES[recipe].labels == "client"))
    frozen = {"name": recipe, "feedback": "none", "averaged": averaged}
    found = cl.run(frozen, split, toys.dataset(), **SHORT)
    assert torch.equal(found.model["fc1.weight"], split.state_dict()["fc1.weight"])
    assert not torch.equal(found.model["fc2.weight"], split.state_dict()["fc2.weight"])
    assert "cut_gradients" not in found.metrics[0]["bytes"]
