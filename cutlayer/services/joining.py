"""The joined model of a run after a round, from the files of both servers; its score; and the file that is left."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from cutlayer.data import Dataset
from cutlayer.engines.prepare import describe
from cutlayer.engines.running import versions
from cutlayer.errors import DataError
from cutlayer.roles.assembly import BACKBONE
from cutlayer.roles.asynchronous_federation import AsynchronousFederation
from cutlayer.roles.evaluation import Score, evaluate
from cutlayer.roles.federation import Federation
from cutlayer.roles.part import Part
from cutlayer.services.outlines import reported
from cutlayer.services.runs import ServedRun
from cutlayer.services.worker import Connection, test_set
from cutlayer.store.states import States

log = logging.getLogger(__name__)

PartAfter = Callable[[int, int], Part]
"""The backbone after a round, as it serves a client."""


def weights_after(
    run: ServedRun, federation: Federation, part_after: PartAfter | None, round_number: int, holder: int | None
) -> dict[str, Mapping[str, Tensor]]:
    """Return the parts that there is one of, by name; those that every client has its own of are left out."""
    found: dict[str, Mapping[str, Tensor]] = {}
    mean = federation.mean(round_number) if run.assembly.shared else {}
    for name in run.settings.parts:
        if name in run.assembly.personal:
            continue
        if name in mean:
            found[name] = mean[name]
        elif name == BACKBONE and part_after is not None:
            found[name] = part_after(round_number, 0).snapshot()
        elif holder is not None and name in run.assembly.held:
            tensors = federation.given(holder, name, round_number).tensors
            found[name] = {k.removeprefix("weights/"): t for k, t in tensors.items() if k.startswith("weights/")}
        else:
            found[name] = run.assembly.first[name].snapshot()
    return found


def model_of(run: ServedRun, weights: Mapping[str, Mapping[str, Tensor]]) -> list[nn.Module] | None:
    """Return the parts in order with these weights, None where one is missing."""
    modules = run.assembly.blueprint.split.copy().parts
    if weights.keys() != modules.keys():
        return None
    for name, module in modules.items():
        module.load_state_dict(dict(weights[name]))
    return list(modules.values())


def score(
    connection: Connection,
    run: ServedRun,
    federation: Federation,
    part_after: PartAfter | None,
    round_number: int,
    holder: int | None,
) -> dict[str, Any]:
    """Return the sums over the global test set, or that there is none here or no one model."""
    modules = None
    dataset = test_set(connection.settings, run.experiment)
    if dataset is not None and len(dataset.test) and _fits(dataset, connection.settings.data, run):
        modules = model_of(run, weights_after(run, federation, part_after, round_number, holder))
    if modules is None:
        return {"available": False}
    found = evaluate(
        modules,
        dataset.test,
        run.settings.loss,
        dataset.classes,
        batch_size=run.assembly.blueprint.evaluation_batch,
        device=run.settings.device,
        prepare=run.assembly.blueprint.prepare,
        autocast=run.settings.autocast,
    )
    return {"available": True, **sums(found)}


def _fits(dataset: Dataset, source: str, run: ServedRun) -> bool:
    """Say whether a test set has the form of the clients' data, which need not be what the experiment names.

    Raises DataError for one that the operator gave and that has another form.
    """
    inputs, _ = reported(dataset, run.experiment)
    here = [(tuple(spec.shape), spec.dtype) for spec in inputs], dataset.classes
    forms = [(tuple(t.shape[1:]), str(t.dtype).removeprefix("torch.")) for t in run.outline.inputs]
    if here == (forms, run.outline.classes):
        return True
    sentence = f"the test set has inputs and classes {here}, and the clients' data {(forms, run.outline.classes)}"
    if source != "experiment":
        raise DataError(f"{sentence}: give this server a test set of the same form, or data=none")
    log.info("no global score: %s", sentence)
    return False


def sums(found: Score) -> dict[str, Any]:
    """Return a score as the sums that cross the control plane."""
    return {
        "count": found.count,
        "correct": found.correct,
        "loss": found.loss,
        "confusion": None if found.confusion is None else found.confusion.tolist(),
    }


def show_cut(connection: Connection, run: ServedRun) -> None:
    """Put among the run's artifacts what each side holds and what crosses; again is no matter."""
    with tempfile.TemporaryDirectory(prefix="cutlayer-") as folder:
        picture = Path(folder) / "model.json"
        picture.write_text(json.dumps(describe(run.assembly.blueprint.split), indent=1) + "\n", encoding="utf-8")
        connection.backend.upload(run.id, picture.name, picture)


def conclude(
    connection: Connection,
    run: ServedRun,
    federation: Federation,
    part_after: PartAfter | None,
    round_number: int,
    holder: int | None,
) -> dict[str, Any]:
    """Put the joined model among the run's artifacts; returns what belongs into its summary."""
    weights = weights_after(run, federation, part_after, round_number, holder)
    modules = run.assembly.blueprint.split.copy().parts
    tensors = {name: t.detach().cpu().contiguous().clone() for part in weights.values() for name, t in part.items()}
    with tempfile.TemporaryDirectory(prefix="cutlayer-") as folder:
        file = Path(folder) / "model.safetensors"
        save_file(tensors, file, {"format": "pt"})
        connection.backend.upload(run.id, file.name, file)
        show_cut(connection, run)
        artifacts = {"model.safetensors": {"parts": sorted(weights)}, "model.json": {}}
        if isinstance(federation, AsynchronousFederation):
            order = Path(folder) / "arrivals.json"
            order.write_text(json.dumps(_arrivals(connection, run, federation, round_number)), encoding="utf-8")
            connection.backend.upload(run.id, order.name, order)
            artifacts[order.name] = {}
    return {
        "artifacts": artifacts,
        "parameters": {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()},
        "versions": versions(),
        "device": str(run.settings.device),
        "threads": run.threads,
    }


def _arrivals(
    connection: Connection, run: ServedRun, federation: AsynchronousFederation, rounds: int
) -> dict[str, Any]:
    """Return in which order batches and updates came: what the weights of an asynchronous run follow from."""
    states = States(connection.store, run.id)
    updates = federation.order(rounds)
    return {
        "batches": [states.round(number)["members"] for number in range(1, rounds + 1)],
        "updates": updates["rounds"],
        "taken": updates["taken"],
    }
