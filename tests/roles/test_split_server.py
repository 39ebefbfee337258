"""The split server: what it answers, what it steps on, and what it survives."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm

from cutlayer import step
from cutlayer.codecs import parse
from cutlayer.errors import MissingObject, TrainingError, WireError
from cutlayer.recipes import Recipe, get
from cutlayer.roles.graphs import GraphCache
from cutlayer.roles.part import Part
from cutlayer.roles.settings import Settings, part_seed
from cutlayer.roles.split_server import SHARED, SplitServer
from cutlayer.roles.window import Window
from cutlayer.store import BatchKey, ForwardRecords, MemoryStore, TensorStore
from cutlayer.wire import Message

SGD: dict[str, Any] = {"name": "sgd", "lr": 0.1}
U_SHAPE = Recipe("test", labels="client", schedule="relay")


class Head(nn.Sequential):
    """BatchNorm and dropout in front of class scores."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, toys.CLASSES))


class Spectral(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(spectral_norm(nn.Linear(6, 8)), parametrizations.spectral_norm(nn.Linear(8, toys.CLASSES)))


def _server(
    recipe: Any,
    *,
    backbone: Callable[[], nn.Module] = Head,
    limit: int | None = 2,
    capacity: int = 4,
    codec: Any = "fp32",
    optimizer: dict[str, Any] = SGD,
    store: TensorStore | None = None,
) -> SplitServer:
    recipe = get(recipe)
    store = store or MemoryStore()
    records = ForwardRecords(store, "run")
    part = Part("backbone", toys.made(backbone), optimizer)
    window = Window(store, "run", part, records, limit=limit) if recipe.step == "window" else None
    if window is not None:
        window.begin(0, part)
    agreed = Settings(recipe, ("encoder", "backbone", "head"), seed=5)
    return SplitServer(part, agreed, parse(codec), records, window, graphs=GraphCache(capacity))


def _key(client: int = 0, batch: int = 0, number: int = 1) -> BatchKey:
    return BatchKey(client, number, 0, batch)


def _data(key: BatchKey, n: int = 5) -> tuple[Tensor, Tensor]:
    samples = toys.rows(n, seed=hash(key) % 10_000)
    return samples.inputs[0], samples.targets


def _ask(server: SplitServer, kind: str, key: BatchKey, tensors: dict[str, Tensor], **meta: Any) -> Message:
    size = len(next(iter(tensors.values())))
    return server.handle(Message(kind, tensors, {"key": list(key), "samples": size, **meta}))


def _forward(server: SplitServer, key: BatchKey, n: int = 5) -> Message:
    return _ask(server, "forward", key, {"h0": _data(key, n)[0]})


def _δ(key: BatchKey, n: int = 5) -> Tensor:
    return torch.randn(n, toys.CLASSES, generator=torch.Generator().manual_seed(hash(key) % 1000)) / n


def _backward(server: SplitServer, key: BatchKey, reply: Message, n: int = 5) -> Message:
    return _ask(server, "backward", key, {"d0": _δ(key, n)}, forward=reply.meta["forward"])


def _seed(key: BatchKey) -> int:
    return part_seed(Settings(U_SHAPE, (), seed=5).batch_seed(key), "backbone")


# --- labels at the server ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["vanilla", "splitfed_v1", "splitfed_v2"])
def test_train_is_an_ordinary_step(recipe: str) -> None:
    server, key = _server(recipe), _key()
    h, y = _data(key)
    plain = toys.made(Head)
    loss, gradients, g = step.train(plain, (h,), y, step.cross_entropy, _seed(key))
    Part("backbone", plain, SGD).apply(gradients)

    reply = _ask(server, "train", key, {"h0": h, "y": y})

    assert torch.equal(reply.tensors["loss"], loss)
    assert g[0] is not None
    assert torch.equal(reply.tensors["g0"], g[0])
    assert toys.same(server.part(0).snapshot(), {k: v.detach() for k, v in plain.state_dict().items()})


def test_copies_of_the_backbone_belong_to_their_clients() -> None:
    server = _server("splitfed_v1", optimizer={**SGD, "momentum": 0.9})
    alone = _server("splitfed_v1", optimizer={**SGD, "momentum": 0.9})
    for batch in range(3):
        for client in (0, 1):
            h, y = _data(_key(client, batch))
            _ask(server, "train", _key(client, batch), {"h0": h, "y": y})
        h, y = _data(_key(0, batch))
        _ask(alone, "train", _key(0, batch), {"h0": h, "y": y})
    assert toys.same(server.part(0).snapshot(), alone.part(0).snapshot())
    assert not toys.same(server.part(0).snapshot(), server.part(1).snapshot())
    assert toys.same(server.backbone.snapshot(), Part("backbone", toys.made(Head), SGD).snapshot())
    assert [server.version(c) for c in (0, 1, 2)] == [3, 3, 0]


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(2, 9), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_a_joined_step_is_one_step_on_the_concatenated_batch(sizes: list[int], seed: int) -> None:
    """Parallel split learning, for any number of clients and any batch sizes b_i."""
    server = _server("psl")
    keys = [_key(client, seed) for client in range(len(sizes))]
    batches = [_data(key, n) for key, n in zip(keys, sizes, strict=True)]
    plain = toys.made(Head)
    h = torch.cat([h for h, _ in batches])
    y = torch.cat([y for _, y in batches])
    loss, gradients, g = step.train(plain, (h,), y, step.cross_entropy, _seed(keys[0]))
    Part("backbone", plain, SGD).apply(gradients)

    replies = server.handle_together(
        [
            Message("train", {"h0": h, "y": y}, {"key": list(key), "samples": len(y)})
            for key, (h, y) in zip(keys, batches, strict=True)
        ]
    )

    assert toys.same(server.backbone.snapshot(), {k: v.detach() for k, v in plain.state_dict().items()})
    assert server.version(0) == 1
    assert all(torch.equal(r.tensors["loss"], loss) for r in replies)
    assert g[0] is not None
    for reply, own, n in zip(replies, g[0].split(sizes), sizes, strict=True):
        torch.testing.assert_close(reply.tensors["g0"], own * sum(sizes) / n)  # the gradient of *its* mean loss


def test_averaged_cut_gradients_are_means_over_the_clients_that_have_the_row() -> None:
    server, sizes = _server("sglr", backbone=lambda: nn.Linear(6, toys.CLASSES)), (4, 2, 3)
    keys = [_key(client) for client in range(3)]
    batches = [_data(key, n) for key, n in zip(keys, sizes, strict=True)]
    own = []
    for h, y in batches:
        (g,) = step.train(toys.made(lambda: nn.Linear(6, toys.CLASSES)), (h,), y, step.cross_entropy, 0)[2]
        assert g is not None
        own.append(g)
    rows = [torch.stack([g[i] for g in own if i < len(g)]).mean(0) for i in range(4)]

    replies = server.handle_together(
        [
            Message("train", {"h0": h, "y": y}, {"key": list(key), "samples": len(y)})
            for key, (h, y) in zip(keys, batches, strict=True)
        ]
    )

    for reply, n in zip(replies, sizes, strict=True):
        torch.testing.assert_close(reply.tensors["g0"], torch.stack(rows[:n]))
    for client in (1, 2):
        assert not torch.equal(server.part(client).read()["weight"], server.part(0).read()["weight"])


def test_an_upload_steps_the_backbone_and_sends_nothing_back() -> None:
    server, key = _server("cse_fsl"), _key()
    h, y = _data(key)
    reply = _ask(server, "upload", key, {"h0": h, "y": y})
    assert not reply.tensors
    trained = _server("vanilla")
    _ask(trained, "train", key, {"h0": h, "y": y})
    assert toys.same(server.backbone.snapshot(), trained.backbone.snapshot())


def test_frozen_encoders_get_no_gradient() -> None:
    server = _server({"name": "splitfed_u", "feedback": "none"})
    reply = _backward(server, _key(), _forward(server, _key()))
    assert not reply.tensors
    assert server.update(), "the backbone learns all the same"


# --- the U-shape ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", [Head, Spectral])
@pytest.mark.parametrize("recipe", ["ushaped", "splitfed_u"])
def test_the_graph_cache_changes_no_result(recipe: str, backbone: Callable[[], nn.Module]) -> None:
    servers = [_server(recipe, backbone=backbone, capacity=c) for c in (4, 0, 1)]
    answers = []
    for server in servers:
        found = []
        for batch in range(3):
            keys = [_key(client, batch) for client in range(1 if recipe == "ushaped" else 3)]
            replies = [_forward(server, key) for key in keys]
            found += [r.tensors["z0"] for r in replies]
            found += [_backward(server, k, r).tensors["g0"] for k, r in zip(keys, replies, strict=True)]
            server.update()
        answers.append(found)
    for other, server in zip(answers[1:], servers[1:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(answers[0], other, strict=True))
        assert toys.same(server.backbone.snapshot(), servers[0].backbone.snapshot())
    assert servers[0].graphs.hits > 0
    assert servers[1].graphs.hits == 0


@pytest.mark.parametrize("backbone", [Head, Spectral])
@pytest.mark.parametrize("capacity", [0, 4])
def test_a_backward_after_the_weights_moved_uses_those_of_the_forward(
    backbone: Callable[[], nn.Module], capacity: int
) -> None:
    server = _server("splitfed_u", backbone=backbone, capacity=capacity)
    slow = _key(9)
    early = _forward(server, slow)
    plain = toys.made(backbone)
    done = step.run(plain, (_data(slow)[0],), _seed(slow))
    expected = step.pull(plain, done, [_δ(slow)])

    for client in (0, 1):
        _backward(server, _key(client), _forward(server, _key(client)))
    assert server.update()
    assert server.version(9) == 1
    assert not torch.equal(*(p.read()[k] for p in (server.backbone, Part("b", plain, SGD)) for k in [_last(p)]))
    late = _backward(server, slow, early)

    assert torch.equal(early.tensors["z0"], done.outputs[0].detach())
    assert expected[1][0] is not None
    assert torch.equal(late.tensors["g0"], expected[1][0])
    assert server.window is not None
    mean = server.window.mean()
    assert mean is not None
    assert [m.key for m in mean.members] == [slow], "it counts once, in the window that is open"
    for found, wanted in zip(mean.gradients, expected[0], strict=True):
        assert found is not None
        assert wanted is not None
        assert torch.equal(found, wanted)


def _last(part: Part) -> str:
    return next(k for k in part.read() if k.endswith("bias"))


def test_statistics_of_a_late_batch_are_those_it_would_have_left_in_time() -> None:
    server = _server("splitfed_u")
    early = _forward(server, _key(9), 50)
    for client in (0, 1):
        _backward(server, _key(client), _forward(server, _key(client)))
    server.update()
    before = server.backbone.snapshot()
    _backward(server, _key(9), early, 50)
    server.update()

    first = toys.made(Head)[0](_data(_key(9), 50)[0])  # what BatchNorm saw, with the weights of the forward
    found = server.backbone.snapshot()
    torch.testing.assert_close(found["1.running_mean"], 0.9 * before["1.running_mean"] + 0.1 * first.mean(0))
    torch.testing.assert_close(found["1.running_var"], 0.9 * before["1.running_var"] + 0.1 * first.var(0))
    assert int(found["1.num_batches_tracked"]) == 3


def test_a_retried_forward_gets_the_same_answer_even_after_an_update() -> None:
    server = _server("splitfed_u")
    first = _forward(server, _key(9))
    assert _forward(server, _key(9)).meta == first.meta
    for client in (0, 1):
        _backward(server, _key(client), _forward(server, _key(client)))
    server.update()
    again = _forward(server, _key(9))
    assert again.meta == first.meta
    assert torch.equal(again.tensors["z0"], first.tensors["z0"])
    assert first.meta["version"] == 0


def test_a_retried_backward_counts_once() -> None:
    once, twice = _server("splitfed_u"), _server("splitfed_u")
    for server in (once, twice):
        reply = _forward(server, _key(0))
        first = _backward(server, _key(0), reply)
        if server is twice:
            assert torch.equal(_backward(server, _key(0), reply).tensors["g0"], first.tensors["g0"])
            assert server.window is not None
            assert not server.window.full
        _backward(server, _key(1), _forward(server, _key(1)))
        server.update()
    assert toys.same(once.backbone.snapshot(), twice.backbone.snapshot())


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(4)))
def test_the_window_does_not_depend_on_the_order_of_arrival(order: list[int]) -> None:
    """Canonical order, so that replicas, retries and races end with the same bits."""
    servers = []
    for arrival in (range(4), order):
        server = _server("splitfed_u", limit=4)
        replies = {client: _forward(server, _key(client)) for client in arrival}
        for client in reversed(arrival):
            _backward(server, _key(client), replies[client])
        assert server.update()
        servers.append(server)
    assert toys.same(servers[0].backbone.snapshot(), servers[1].backbone.snapshot())


def test_an_update_is_a_mean_over_samples() -> None:
    server, plain = _server("splitfed_u", backbone=lambda: nn.Linear(6, 4), limit=2), toys.made(lambda: nn.Linear(6, 4))
    total = [torch.zeros_like(p) for p in plain.parameters()]
    for client, n in ((0, 3), (1, 9)):
        key = _key(client)
        gradients, _ = step.backward(plain, (_data(key, n)[0],), 0, [_δ(key, n)])
        for sum_, gradient in zip(total, gradients, strict=True):
            assert gradient is not None
            sum_ += gradient * n / 12
        _backward(server, key, _forward(server, key, n), n)
    server.update()
    for name, gradient in zip(("weight", "bias"), total, strict=True):
        torch.testing.assert_close(server.backbone.read()[name], plain.state_dict()[name] - 0.1 * gradient)


def test_nothing_in_the_window_is_no_step() -> None:
    server = _server("splitfed_u")
    assert not server.update()
    assert server.version(0) == 0


def test_lossy_activations_are_the_same_in_both_passes() -> None:
    """Backward uses what the receiver saw: a replica that recomputes from the record gets the same gradient."""
    kept, recomputed = (_server("ushaped", codec="int8", capacity=c, backbone=Wide) for c in (4, 0))
    g = []
    for server in (kept, recomputed):
        h = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
        packed = server.channel.pack("activations", {"h0": h}, client=0, seed=0, key=tuple(_key()))
        assert "h0:q" in packed
        reply = _ask(server, "forward", _key(), packed)
        δ = server.channel.pack("output_gradients", {"d0": torch.ones(8, 64)}, client=0, seed=0, key=tuple(_key()))
        g.append(_ask(server, "backward", _key(), δ, forward=reply.meta["forward"]).tensors)
    assert toys.same(*g)


class Wide(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(64, 64), nn.Dropout(0.2))


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_without_a_window_a_late_backward_is_refused() -> None:
    server = _server(U_SHAPE)
    early = _forward(server, _key(0))
    _backward(server, _key(1), _forward(server, _key(1)))
    with pytest.raises(TrainingError, match="batch 0-1-0-0 before the backbone stepped from version 0 to 1"):
        _backward(server, _key(0), early)


def test_a_finished_batch_has_no_second_backward() -> None:
    server = _server(U_SHAPE)
    reply = _forward(server, _key())
    _backward(server, _key(), reply)
    before = copy.deepcopy(server.backbone.snapshot())
    with pytest.raises(MissingObject):
        _backward(server, _key(), reply)
    assert toys.same(server.backbone.snapshot(), before)


def test_the_forward_of_another_batch_is_refused() -> None:
    server = _server(U_SHAPE)
    mine, theirs = _forward(server, _key(0)), _forward(server, _key(1))
    assert mine.meta["forward"] != theirs.meta["forward"]
    with pytest.raises(WireError, match="forward id of batch 0-1-0-0, got that of batch 1-1-0-0"):
        _backward(server, _key(0), theirs)


@pytest.mark.parametrize("forward", [None, "", "no-such-thing", 7])
def test_unknown_forwards_are_refused(forward: Any) -> None:
    with pytest.raises(MissingObject):
        _ask(_server(U_SHAPE), "backward", _key(), {"d0": _δ(_key())}, forward=forward)


@pytest.mark.parametrize("key", [None, [], [0, 1, 0], [0, 1, 0, "0"], [0, 1, 0, -1], [0, 1, 0, True], {"client": 0}])
def test_requests_need_a_batch_key(key: Any) -> None:
    message = Message("forward", {"h0": torch.zeros(2, 6)}, {"key": key, "samples": 2})
    with pytest.raises(WireError, match=r"expected a batch key \[client, round, epoch, batch\]"):
        _server(U_SHAPE).handle(message)


@pytest.mark.parametrize("samples", [None, 0, -2, 2.5, "2", True])
def test_a_forward_says_how_many_samples_it_has(samples: Any) -> None:
    message = Message("forward", {"h0": torch.zeros(2, 6)}, {"key": list(_key()), "samples": samples})
    with pytest.raises(WireError, match="expected the number of samples"):
        _server(U_SHAPE).handle(message)


def test_requests_need_labels_where_the_server_trains() -> None:
    with pytest.raises(WireError, match="expected labels 'y' in a 'train' request, got h0"):
        _ask(_server("vanilla"), "train", _key(), {"h0": torch.zeros(2, 6)})


def test_unknown_requests_are_refused() -> None:
    with pytest.raises(WireError, match="expected a request of kind train, forward, backward, upload, got 'dance'"):
        _ask(_server("vanilla"), "dance", _key(), {"h0": torch.zeros(2, 6)})


@pytest.mark.parametrize("name", ["hx", "h-1", "h1000000", "h"])
def test_values_with_impossible_names_are_refused(name: str) -> None:
    with pytest.raises(WireError, match=r"expected (tensors named h0|fewer than 1000)"):
        _ask(_server(U_SHAPE), "forward", _key(), {name: torch.zeros(2, 6)})


def test_versions_are_those_of_each_copy() -> None:
    server = _server("vanilla")
    for batch in range(3):
        h, y = _data(_key(batch, batch))
        _ask(server, "train", _key(batch, batch), {"h0": h, "y": y})
    assert server.versions() == {SHARED: 3}
    other = _server("vanilla")
    other.load_versions(server.versions())
    assert other.version(17) == 3
