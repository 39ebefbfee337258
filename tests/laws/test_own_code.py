"""An algorithm and a codec in a file outside the package take part like the table's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import toys

import cutlayer as cl
from cutlayer.transforms import KINDS

ALGORITHM = '''
import torch
from cutlayer import Recipe
from cutlayer import step


def signs(client, batch):
    """The encoder follows the signs of the cut gradient only."""
    done = client.encode(batch)
    reply = yield client.request("train", batch, step.detached(done.outputs), labels=True)
    client.progress.add(reply.tensors["loss"], batch.size)
    g = client.received("cut_gradients", "g", reply, batch)
    client.descend("encoder", done, [None if v is None else change(v) for v in g])


change = torch.sign
sign_split = Recipe("sign_split", schedule="sequential", feedback=signs, averaged=("encoder",))
'''
CODEC = '''
import torch
from cutlayer import Transform

seen = []


class Watch(Transform):
    """Notes what passes, and hides the sign bit on the way."""

    def send(self, pieces, context):
        seen.append(("send", context.kind, context.client, context.name, context.key))
        return {"negative": pieces[""] < 0, "size": pieces[""].abs()}

    def receive(self, pieces, context):
        seen.append(("receive", context.kind, context.client, context.name, context.key))
        return {"": torch.where(pieces["negative"], -pieces["size"], pieces["size"])}
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a module outside the package that holds both."""
    name = f"own_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(ALGORITHM + CODEC)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def _run(algorithm: Any, cuts: int = 1, **keys: Any) -> cl.Result:
    data = toys.dataset()
    split = toys.cut(toys.made(toys.Dense), ["drop1", "drop2"][:cuts], data.train)
    options: dict[str, Any] = {"clients": 3, "rounds": 2, "batch_size": 8, "partition": "iid"}
    options["optimizer"] = {"name": "sgd", "lr": 0.05}
    return cl.run(algorithm, split, data, **(options | keys))


def test_a_feedback_of_ones_own(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    signs = _run(f"{own}:sign_split")
    plain = _run("splitfed_v2")
    assert signs.summary["algorithm"] == "sign_split"
    assert not toys.same(signs.model, plain.model)
    assert signs.summary["bytes_up"] == plain.summary["bytes_up"]
    monkeypatch.setattr(f"{own}.change", lambda g: g)
    assert toys.same(_run(f"{own}:sign_split").model, plain.model), "without the signs it is SplitFed v2, bit for bit"


@pytest.mark.parametrize("recipe", ["splitfed_u", "splitfed_v2", "fsl_sage", "fedavg"])
def test_a_codec_of_ones_own_sees_every_kind_of_message(own: str, recipe: str) -> None:
    from importlib import import_module

    cuts = 2 if recipe == "splitfed_u" else 1
    algorithm = {"name": recipe, **({"align_every": 1, "align_epochs": 1} if recipe == "fsl_sage" else {})}
    found = _run(algorithm, cuts, codec=f"{own}:Watch")
    seen = import_module(own).seen
    kinds = {
        "splitfed_u": set(KINDS),
        "splitfed_v2": {"activations", "cut_gradients", "updates"},
        "fsl_sage": {"activations", "updates"},
        "fedavg": {"updates"},
    }[recipe]
    for side in ("send", "receive"):
        assert {s[1] for s in seen if s[0] == side} == kinds
    clients = {s[2] for s in seen if s[1] != "updates"}
    assert clients == (set() if recipe == "fedavg" else {0, 1, 2})
    exact = _run(algorithm, cuts)
    assert toys.apart(exact.model, found.model) < 1e-5, "it loses nothing (differences of weights are rounded)"


def test_a_codec_for_one_kind_leaves_the_others_alone(own: str) -> None:
    from importlib import import_module

    found = _run("splitfed_u", 2, codec={"cut_gradients": f"{own}:Watch"})
    assert {s[1] for s in import_module(own).seen} == {"cut_gradients"}
    assert toys.same(found.model, _run("splitfed_u", 2).model)


def test_a_transform_may_be_noisy_and_runs_stay_reproducible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_noise.py").write_text(
        "import torch\nfrom cutlayer import Transform\n\n\n"
        "class Noise(Transform):\n"
        "    def __init__(self, scale=0.1):\n"
        "        self.scale = scale\n\n"
        "    def send(self, pieces, context):\n"
        "        g = torch.Generator().manual_seed(context.seed)\n"
        "        return {'': pieces[''] + self.scale * torch.randn(pieces[''].shape, generator=g)}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    noise = {"activations": {"name": "own_noise:Noise", "scale": 0.5}}
    first, second = (_run("splitfed_u", 2, codec=noise) for _ in range(2))
    assert toys.same(first.model, second.model)
    assert not toys.same(first.model, _run("splitfed_u", 2).model)
    other = _run("splitfed_u", 2, codec=noise, seed=1)
    assert not torch.equal(other.model["fc1.weight"], first.model["fc1.weight"])
