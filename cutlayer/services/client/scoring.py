"""A client's score on its own test split: the backbone is asked over the wire, labels and inputs stay here."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from torch import Tensor, nn

from cutlayer.roles import crossing
from cutlayer.roles.admission import evaluation
from cutlayer.roles.assembly import BACKBONE
from cutlayer.roles.evaluation import evaluate
from cutlayer.roles.weights import nested
from cutlayer.services.client.member import Member
from cutlayer.services.client.plane import DataPlane
from cutlayer.services.joining import sums
from cutlayer.services.protocol import Task
from cutlayer.transport import Traffic


class RemoteBackbone(nn.Module):
    """The backbone after a round, as a split server evaluates it."""

    def __init__(self, plane: DataPlane) -> None:
        super().__init__()
        self._plane = plane

    def forward(self, *h: Any) -> Any:
        reply = self._plane.request(evaluation(h, crossing.rows(h)))
        z = crossing.placed("z", {**reply.tensors, **reply.meta.get("values", {})})
        return z[0] if len(z) == 1 else z


def score(member: Member, task: Task, plane: DataPlane, traffic: Traffic) -> dict[str, Any]:
    """Return the sums over the client's own test split, of the model as it is after the task's round."""
    start = perf_counter()
    run, share = member.run, member.data.share
    run.use_threads()
    if not len(share.test):
        return {"count": 0, "correct": 0, "loss": 0.0, "confusion": None, "seconds": 0.0}
    weights = _weights(member, task, plane)
    parts: list[nn.Module] = []
    for name, module in run.assembly.blueprint.split.copy().parts.items():
        if name == BACKBONE and run.recipe.server != "none":
            parts.append(RemoteBackbone(plane))
        else:
            module.to(run.settings.device).load_state_dict(weights[name])
            parts.append(module)
        if name == BACKBONE and run.recipe.labels == "server" and run.recipe.server != "none":
            break
    found = evaluate(
        parts,
        share.test,
        run.settings.loss,
        member.data.outline.classes,
        batch_size=run.assembly.blueprint.evaluation_batch,
        device=run.settings.device,
        prepare=run.assembly.blueprint.prepare,
        autocast=run.settings.autocast,
    )
    up, down, kinds = traffic.take()
    return {**sums(found), "seconds": perf_counter() - start, "bytes_up": up, "bytes_down": down, "bytes": kinds}


def _weights(member: Member, task: Task, plane: DataPlane) -> dict[str, dict[str, Tensor]]:
    """Return the weights of the parts at the client: averaged, handed over, or its own."""
    assembly = member.run.assembly
    found = {name: member.client.parts[name].snapshot() for name in assembly.held}
    if assembly.shared:
        message = plane.down("mean")
        assert message is not None
        found |= nested(message.tensors)
    holder = task.payload.get("holder")
    if member.run.recipe.schedule == "relay" and holder is not None and holder != member.number:
        for name in assembly.held:
            message = plane.down(f"handovers/{holder}/{name}")
            assert message is not None
            given = {k.removeprefix("weights/"): t for k, t in message.tensors.items() if k.startswith("weights/")}
            found[name] = given
    return found
