"""The experiment file: names and mappings, overrides, and one sentence for whatever is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.config import Experiment, load, parse
from cutlayer.errors import ConfigError


def test_an_experiment_without_any_key_is_the_demo() -> None:
    found = load()
    assert found.algorithm == {"name": "file_sync"}
    assert found.data == {"name": "digits"}
    assert found.partition == {"name": "dirichlet", "alpha": 0.5}
    assert found.clients.count == 5


NAMED = ("algorithm", "model", "data", "partition", "aggregator", "auxiliary", "codec")


@pytest.mark.parametrize("key", NAMED)
def test_a_key_takes_a_name_or_a_mapping(key: str) -> None:
    assert getattr(parse({key: "x"}), key) == {"name": "x"} == getattr(parse({key: {"name": "x"}}), key)
    assert getattr(parse({key: {"name": "x", "size": 3}}), key) == {"name": "x", "size": 3}


def test_counts_stand_for_mappings() -> None:
    assert parse({"clients": 7}).clients.count == 7
    assert parse({"update": 3}).update.every == 3
    assert parse({"update": "round"}).update.every == "round"
    assert parse({"evaluate": 4}).evaluate.every == 4
    assert parse({"cuts": "a,b"}).cuts == ("a", "b") == parse({"cuts": ["a", "b"]}).cuts
    assert parse({"cuts": 3}).cuts == ("3",), "the layers of a Sequential have numbers for names"
    assert parse({"cuts": [0, 4]}).cuts == ("0", "4")


def test_optimizers_are_shared_or_chosen_for_each_role() -> None:
    def roles(value: Any) -> tuple[Any, Any, Any]:
        found = parse({"optimizer": value}).optimizer
        return found.client, found.server, found.auxiliary

    adam = {"name": "adam", "lr": 1e-3}
    assert roles({}) == (adam,) * 3
    assert roles("sgd") == ({"name": "sgd"},) * 3
    sgd = {"name": "sgd", "lr": 0.1, "momentum": 0.9}
    assert roles(sgd) == (sgd,) * 3
    assert roles({**sgd, "server": {"lr": 0.01}}) == (sgd, {**sgd, "lr": 0.01}, sgd)
    assert roles({**sgd, "server": "adamw"}) == (sgd, {"name": "adamw"}, sgd), (
        "another optimizer takes no arguments over"
    )
    assert roles({"client": sgd}) == (sgd, adam, adam)
    assert roles({"lr": 0.5}) == ({"name": "adam", "lr": 0.5},) * 3


def test_codecs_by_kind_beside_one_for_the_others() -> None:
    assert parse({"codec": {"activations": "int8"}}).codec == {"activations": "int8"}
    found = parse({"codec": {"name": "bf16", "updates": "int8"}}).codec
    assert found["updates"] == "int8"
    assert found["activations"] == found["cut_gradients"] == {"name": "bf16"}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["rounds=3"], {"rounds": 3}),
        (["partition=iid"], {"partition": {"name": "iid"}}),
        (["partition=dirichlet", "partition.alpha=0.1"], {"partition": {"name": "dirichlet", "alpha": 0.1}}),
        (["partition.alpha=0.1"], {"partition": {"name": "dirichlet", "alpha": 0.1}}),
        (["model=mlp", "model.hidden=[8,8]"], {"model": {"name": "mlp", "hidden": [8, 8]}}),
        (["optimizer=sgd", "optimizer.lr=1e-2"], {"optimizer": {"name": "sgd", "lr": 0.01}}),
        (["optimizer.lr=1e-3"], {"optimizer": {"lr": 0.001}}),
        (["optimizer=sgd", "optimizer.server.lr=5E-1"], {"optimizer": {"name": "sgd", "server": {"lr": 0.5}}}),
        (["clients=9", "clients.fraction=0.5"], {"clients": {"count": 9, "fraction": 0.5}}),
        (["update=4", "update.unit=samples"], {"update": {"every": 4, "unit": "samples"}}),
        (["cuts=relu1,relu2"], {"cuts": ["relu1", "relu2"]}),
        (["cuts=[relu1]"], {"cuts": ["relu1"]}),
        (["clip=0.5", "clip="], {}),
        (["deterministic=no"], {"deterministic": False}),
        (["algorithm.upload_every=2", "algorithm=vanilla"], {"algorithm": "vanilla"}),
        (["out=runs/a=b"], {"out": "runs/a=b"}),
    ],
)
def test_overrides(overrides: list[str], expected: dict[str, Any]) -> None:
    assert load(None, overrides) == parse(expected)


def test_overrides_lie_on_top_of_the_file_and_keys_on_top_of_both(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text("rounds: 3\nseed: 1\npartition: {name: shards, shards: 3}\noptimizer: sgd\nclients: 4\n")
    found = load(path, ["rounds=5", "optimizer.lr=0.5", "clients.fraction=0.5"], seed=9)
    assert (found.rounds, found.seed) == (5, 9)
    assert found.partition == {"name": "shards", "shards": 3}
    assert found.optimizer.client == {"name": "sgd", "lr": 0.5}
    assert (found.clients.count, found.clients.fraction) == (4, 0.5)
    assert load(path, ["partition=iid"]).partition == {"name": "iid"}, "a new name drops the old one's options"
    assert load(path, ["partition.name=iid"]).partition == {"name": "iid"}


def test_an_empty_file_is_the_demo(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load(tmp_path / "empty.yaml") == load()


@given(
    rounds=st.integers(1, 99),
    lr=st.floats(1e-9, 10, allow_subnormal=False),
    update=st.integers(1, 9) | st.sampled_from(["clients", "round"]),
    cuts=st.none() | st.sampled_from([["a"], ["a", "b.c"]]),
    codec=st.sampled_from(["fp32", "int8", {"name": "topk", "ratio": 0.1}, {"updates": "int8"}]),
    clip=st.none() | st.floats(0.01, 10),
)
def test_what_the_run_folder_keeps_is_the_same_experiment(**keys: Any) -> None:
    keys["optimizer"] = {"name": "sgd", "lr": keys.pop("lr")}
    found = parse(keys)
    written = yaml.safe_dump(found.as_dict(), sort_keys=False)
    assert parse(yaml.safe_load(written)) == found


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"round": 3}, "an experiment has no key 'round'; did you mean 'rounds'"),
    ({"zzz": 3}, "an experiment has no key 'zzz'; there are: algorithm, model"),
    ({"rounds": "many"}, "rounds: input should be a valid integer.*got 'many'"),
    ({"rounds": 2.5}, "rounds: .*got 2.5"),
    ({"rounds": 0}, "rounds: input should be greater than or equal to 1, got 0"),
    ({"rounds": None}, "rounds: .*got None"),
    ({"rounds": True}, "rounds: .*got True"),
    ({"seed": -1}, "seed: .*got -1"),
    ({"batch_size": 0}, "batch_size"),
    ({"clients": 0}, r"clients.count: .*got 0"),
    ({"clients": True}, "clients.*got True"),
    ({"clients": {"count": 3, "fraction": 0}}, r"clients.fraction: .*got 0"),
    ({"clients": {"count": 3, "fraction": 1.2}}, r"clients.fraction: .*got 1.2"),
    ({"clients": {"number": 3}}, r"clients.number is not a key; there are: count, fraction, test_fraction"),
    ({"clients": "few"}, "clients.count: .*got 'few'"),
    ({"clients": [1]}, "clients: .*got "),
    ({"update": 0}, "must be at least 1, or 'clients' or 'round'"),
    ({"update": "weekly"}, "update.every.*got 'weekly'"),
    ({"update": {"unit": "bytes"}}, "update.unit: .*'batches' or 'samples'.*got 'bytes'"),
    ({"model": 3}, "model: .*got 3"),
    ({"model": {"hidden": [3]}}, "model: expected a name, or a mapping with a name and options"),
    ({"model": {"name": 3}}, "model: expected a name"),
    ({"algorithm": None}, "algorithm: .*got None"),
    ({"algorithm": ["vanilla"]}, "algorithm: .*got "),
    ({"cuts": ["a", "b", "c"]}, "cuts: expected one cut, or two for the U-shape, got 3"),
    ({"cuts": []}, "cuts: expected one cut, or two"),
    ({"cuts": 2.5}, "cuts: .*got 2.5"),
    ({"cuts": {"at": "a"}}, "cuts: expected the name of a submodule, or a list"),
    ({"cuts": [None]}, "cuts.*got None"),
    ({"optimizer": 0.1}, "optimizer: expected the name of a torch.optim optimizer, or a mapping, got 0.1"),
    ({"optimizer": {"server": 0.1}}, "optimizer: expected the name of a torch.optim optimizer for the server"),
    ({"precision": "fp8"}, "precision: .*'fp32' or 'bf16'.*got 'fp8'"),
    ({"clip": -1}, "clip: .*got -1"),
    ({"engine": "ray"}, "engine must be local, got 'ray'"),
    ({"engine": {"name": "local", "speed": 3}}, "engine local has no option 'speed'; it has: encoded"),
    ({"evaluate": 0}, r"evaluate.every: .*got 0"),
    ({"deterministic": "perhaps"}, "deterministic: .*got 'perhaps'"),
    ({"codec": 8}, "codec: .*got 8"),
    ({"threads": 0}, "threads.*got 0"),
    ({"name": "../up"}, "name: .*got '../up'"),
    ({"loss": 3}, "loss: .*got 3"),
    ({"out": 3}, "out: .*got 3"),
]


@pytest.mark.parametrize(("tree", "message"), WRONG, ids=lambda v: str(v)[:40])
def test_whatever_is_wrong_is_said_in_one_sentence(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse(tree)
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rounds", "expected key=value on the command line, got 'rounds'"),
        ("=3", "expected key=value on the command line, got '=3'"),
        ("rounds=[1", r"the value of rounds must be YAML, got '\[1'"),
        ("rounds.x=3", "rounds: .*integer"),
        ("roudns=3", "did you mean 'rounds'"),
        ("partition.=3", "expected key=value"),
    ],
)
def test_wrong_overrides(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(None, [override])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"rounds: [1\n", "is not YAML at line"),
        (b"- rounds\n", "expected keys and values in .*got a list"),
        (b"just words", "expected keys and values in .*got a str"),
        (b"\xff\xfe\x00", "cannot be read|is not YAML"),
        (b"rounds: 1\n? [a, b]\n: 3\n", "is not YAML at line 2"),
        (b"3: 4\n", "an experiment has no key 3"),
    ],
)
def test_wrong_files(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load(tmp_path / "wrong.yaml")


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected an experiment file, and .*nothing.yaml does not exist"):
        load(tmp_path / "nothing.yaml")
    with pytest.raises(ConfigError, match=r"expected an experiment file, and .* cannot be read"):
        load(tmp_path)


def test_experiments_do_not_change() -> None:
    with pytest.raises(Exception, match="frozen"):
        Experiment().rounds = 3
