"""A federated server that keeps nothing: what it averages and hands out are files, and any process can go on.

    runs/<run>/federated/<round>                the parts after a round, and the broadcast that the next one begins with
    runs/<run>/updates/<round>/<client>         a client's parts on their way to the average
    runs/<run>/handovers/<client>/<round>       a relay: what a client's turn left, with its optimizer's state
    runs/<run>/personal/<client>/<round>        FSL-SAGE under a lossy codec: an aligned auxiliary as it was sent

Law: the average depends on the updates alone; an update counts once, whatever is killed or repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from cutlayer.errors import MissingObject, ObjectExists, TrainingError, WireError
from cutlayer.faults import point
from cutlayer.roles.assembly import AUXILIARY, Assembly
from cutlayer.roles.federated import FederatedServer, Update
from cutlayer.roles.weights import Broadcaster, Parts, flat, nested, under
from cutlayer.store import TensorStore
from cutlayer.store.states import States
from cutlayer.store.steps import Closed, same
from cutlayer.wire import Message, dense


class Federation:
    """Holds the parts of one run between clients."""

    def __init__(self, assembly: Assembly, store: TensorStore, run: str) -> None:
        self.assembly, self.settings = assembly, assembly.settings
        self.names = assembly.shared
        self._store, self._folder = store, f"runs/{run}"
        self._states = States(store, run)
        self._broadcasts: dict[int, Broadcaster] = {}

    # --- what rounds begin with ---------------------------------------------------------------------------------

    def setup(self) -> None:
        """Write what the first round begins with, unless that is done."""
        if not self._store.exists(self._path(0)):
            server = self.assembly.federated(self.names)
            self._publish(0, server, Broadcaster(self.assembly.channel, self.settings.seed))

    def weights(self, round_number: int, client: int, holds: int | None) -> Message:
        """Return the broadcast of a round for ``client``, which holds that of round ``holds``.

        Raises Closed where the round before is not over, or is over for too long.
        """
        return self._broadcast(round_number).message(holds)

    def first(self, client: int) -> Message:
        """Return the parts that are not broadcast, as every client begins with them."""
        recipe = self.assembly.recipe
        names = [n for n in self.assembly.held if recipe.schedule == "relay" or n not in recipe.averaged]
        parts = {name: self.assembly.first[name].snapshot() for name in names}
        return Message("weights", flat(parts), {"client": client})

    def mean(self, round_number: int) -> Parts:
        """Return the averaged parts as they are after a round.  Raises MissingObject where it is not over."""
        tensors, _ = self._store.get(self._path(round_number))
        return nested({k.removeprefix("parts/"): t for k, t in tensors.items() if k.startswith("parts/")})

    # --- updates ------------------------------------------------------------------------------------------------

    def update(self, round_number: int, client: int, samples: int, message: Message) -> None:
        """Take the parts that ``client`` trained on ``samples`` samples, once.

        Raises Closed for a round that is over, WireError for a second update with other contents, another number of
        samples, or tensors of the wrong names, shapes or dtypes, and TrainingError for values that are not finite.
        """
        if self._store.exists(self._path(round_number)):
            raise Closed(f"round {round_number} is over; the update of client {client} comes too late")
        said = {name: message.meta.get(name) for name in ("round", "client", "samples")}
        expected = {"round": round_number, "client": client, "samples": samples}
        if said != expected:
            raise WireError(f"expected an update with {expected}, got {said}")
        parts = self._broadcast(round_number).arrived(message, client)
        self._check(client, samples, parts)
        update = Message("update", {k: dense(t) for k, t in flat(parts).items()}, {"samples": samples})
        point("fed.update.before_record")
        inbox = _Files(self._store, f"{self._folder}/updates/{round_number:06d}", {})
        if not inbox.add(client, samples, parts) and not same(inbox.message(client), update):
            raise WireError(f"client {client} sent a second update for round {round_number}; the first one counts")
        point("fed.update.before_answer")

    def _check(self, client: int, samples: int, parts: Update) -> None:
        unknown = sorted(parts.keys() - set(self.names))
        if unknown:
            raise WireError(f"client {client} sent {', '.join(unknown)}, which is not averaged")
        self.assembly.federated(self.names).check(client, samples, parts)

    def aggregate(self, round_number: int, samples: Mapping[int, int]) -> None:
        """Average the updates of the clients in ``samples``, and write what the next round begins with.

        Again: nothing changes.  Raises StoreError where an update is missing.
        """
        if not self._store.exists(self._path(round_number)):
            tensors, meta = self._store.get(self._path(round_number - 1))
            inbox = _Files(self._store, f"{self._folder}/updates/{round_number:06d}", samples)
            server = self.assembly.federated(self.names, inbox)
            parts = {f"parts/{k}": t for k, t in under("parts/", tensors).items()}
            server.load_state(under("federated/", tensors) | parts)
            broadcaster = self._loaded(tensors, meta)
            server.parts = {name: dict(weights) for name, weights in nested(broadcaster.sent).items()}
            server.close()
            self._publish(round_number, server, broadcaster)
        self._collect(round_number)
        point("fed.aggregate.before_answer")

    # --- relays and personal parts ------------------------------------------------------------------------------

    def give(self, round_number: int, client: int, name: str, message: Message) -> None:
        """Keep what a client's turn left of part ``name``, once."""
        self._check_held(name)
        _finite(client, message.tensors)
        try:
            fits = self._fits(name, message)
        except Exception as error:
            raise WireError(f"client {client} handed over a {name} that cannot be trained on: {error}"[:300]) from None
        if not fits:
            raise WireError(f"client {client} handed over a {name} of other tensors than ours")
        point("fed.handover.before_record")
        path = f"{self._folder}/handovers/{client}/{round_number:06d}/{name}"
        try:
            self._store.put(path, message.tensors, {"meta": message.meta}, if_absent=True)
        except ObjectExists:
            there, said = self._store.get(path)
            if not same(Message("handover", there, said["meta"]), message):
                raise WireError(f"client {client} handed over a second {name} in round {round_number}") from None
        point("fed.handover.before_answer")

    def _fits(self, name: str, message: Message) -> bool:
        """Say whether the tensors are those of a part that has trained; raises whatever the next client would meet."""
        fresh = self.assembly.first[name].copy()
        nothing = [torch.zeros_like(weight) for weight in fresh.weights]
        first = _forms(fresh.state()[0])
        fresh.apply(nothing)
        trained = _forms(fresh.state()[0])
        fresh.load_state(message.tensors, message.meta)
        fresh.apply(nothing)
        return first.items() <= _forms(message.tensors).items() <= trained.items()

    def _check_held(self, name: str) -> None:
        if name not in self.assembly.held:
            raise WireError(f"expected a part out of {', '.join(self.assembly.held)}, got {name!r}")

    def given(self, client: int, name: str, before: int) -> Message:
        """Return what ``client`` left of part ``name`` in its newest turn not after round ``before``.

        Raises MissingObject where it has left nothing.
        """
        self._check_held(name)
        folder = f"{self._folder}/handovers/{client}"
        rounds = sorted({p.split("/")[4] for p in self._store.list(folder)})
        fitting = [r for r in rounds if int(r) <= before]
        if not fitting:
            raise MissingObject(f"client {client} has handed nothing over")
        tensors, said = self._store.get(f"{folder}/{fitting[-1]}/{name}")
        return Message("handover", tensors, said["meta"])

    def personal(self, client: int, after: int, round_number: int) -> Message | None:
        """Return the auxiliary that was aligned for ``client`` after round ``after`` and before ``round_number``."""
        aligned = [r for r in self._states.alignments(client) if after < r < round_number]
        if not aligned:
            return None
        broadcaster = Broadcaster(self.assembly.channel, self.settings.seed)
        weights = self._aligned(client, aligned[-1])
        if broadcaster.exact:
            return broadcaster.personal(client, AUXILIARY, weights, weights, aligned[-1])[0]
        return self._personal(client, aligned[-1], broadcaster)[0]

    def _personal(self, client: int, round_number: int, broadcaster: Broadcaster) -> tuple[Message, dict[str, Tensor]]:
        """Return what was sent of the alignment of a round, and what the client held afterwards."""
        earlier = [r for r in self._states.alignments(client) if r < round_number]
        path = f"{self._folder}/personal/{client}/{round_number:06d}"
        try:
            tensors, _ = self._store.get(path)
        except MissingObject:
            if earlier:
                _, held = self._personal(client, earlier[-1], broadcaster)
            else:
                held = self.assembly.first[AUXILIARY].snapshot()
            weights = self._aligned(client, round_number)
            message, got = broadcaster.personal(client, AUXILIARY, held, weights, round_number)
            kept = {f"sent/{k}": t for k, t in message.tensors.items()} | {f"held/{k}": t for k, t in got.items()}
            self._store.put(path, kept)
            return message, got
        return Message("weights", under("sent/", tensors), {"round": round_number, "client": client}), under(
            "held/", tensors
        )

    def _aligned(self, client: int, round_number: int) -> dict[str, Tensor]:
        found = self._states.auxiliary(round_number + 1, client)
        assert found is not None
        return under("weights/", found[0])

    # --- files --------------------------------------------------------------------------------------------------

    def _publish(self, round_number: int, server: FederatedServer, broadcaster: Broadcaster) -> None:
        """Write the parts after a round, and the broadcast of the next."""
        parts = {name: dict(weights) for name, weights in server.parts.items()}
        tensors = {f"parts/{k}": dense(t) for k, t in flat(parts).items()}
        tensors |= {f"federated/{k}": dense(t) for k, t in server.state().items() if not k.startswith("parts/")}
        broadcaster.broadcast(parts, round_number + 1)
        more, meta = broadcaster.state()
        if broadcaster.exact:  # what is sent is the parts themselves
            more = {k: t for k, t in more.items() if not k.startswith("sent/")}
        tensors |= {f"exchange/{k}": t for k, t in more.items()}
        point("fed.aggregate.before_publish")
        try:
            self._store.put(self._path(round_number), tensors, {"exchange": meta}, if_absent=True)
        except ObjectExists:
            return  # another process made the same of the same files
        point("fed.aggregate.after_publish")

    def _loaded(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Broadcaster:
        found = Broadcaster(self.assembly.channel, self.settings.seed)
        state = under("exchange/", tensors)
        if found.exact:
            state |= {f"sent/{k}": t for k, t in under("parts/", tensors).items()}
        found.load_state(state, meta["exchange"])
        return found

    def _broadcast(self, round_number: int) -> Broadcaster:
        if round_number not in self._broadcasts:
            try:
                found = self._loaded(*self._store.get(self._path(round_number - 1)))
            except MissingObject:
                raise Closed(f"round {round_number} has not begun, or is over for too long") from None
            self._broadcasts = {round_number: found}
        return self._broadcasts[round_number]

    def _collect(self, round_number: int) -> None:
        """Delete updates that were averaged, and what the rounds before the last began with."""
        for path in self._store.list(f"{self._folder}/updates"):
            if int(path.split("/")[3]) <= round_number:
                self._store.delete(path)
        for path in self._store.list(f"{self._folder}/federated"):
            if int(path.rpartition("/")[2]) < round_number - 1:
                self._store.delete(path)
        for path in self._store.list(f"{self._folder}/handovers"):
            if int(path.split("/")[4]) < round_number - 1 and not self._newest(path):
                self._store.delete(path)

    def _newest(self, path: str) -> bool:
        folder = path.rpartition("/")[0].rpartition("/")[0]
        return max(p.split("/")[4] for p in self._store.list(folder)) == path.split("/")[4]

    def _path(self, round_number: int) -> str:
        return f"{self._folder}/federated/{round_number:06d}"


class _Files:
    """The updates of a round as files, of which one at a time is read."""

    def __init__(self, store: TensorStore, folder: str, samples: Mapping[int, int]) -> None:
        self._store, self._folder, self._samples = store, folder, samples

    def add(self, client: int, samples: int, update: Update) -> bool:
        tensors = {k: dense(t) for k, t in flat(update).items()}
        try:
            self._store.put(f"{self._folder}/{client}", tensors, {"samples": samples}, if_absent=True)
        except ObjectExists:
            return False
        return True

    def clients(self) -> Iterable[int]:
        return list(self._samples)

    def get(self, client: int) -> tuple[int, Update]:
        tensors, said = self._store.get(f"{self._folder}/{client}")
        return int(said["samples"]), nested(tensors)

    def message(self, client: int) -> Message:
        """Return an update that is here, as a message."""
        tensors, said = self._store.get(f"{self._folder}/{client}")
        return Message("update", tensors, {"samples": said["samples"]})

    def clear(self) -> None:
        return None


def _forms(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, torch.Size]]:
    return {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}


def _finite(client: int, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise TrainingError(f"client {client} handed over {name} with values that are not finite")
