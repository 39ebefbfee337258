"""A federated server of an asynchronous run that keeps nothing: updates are mixed in one by one, in a written order.

    runs/<run>/taken/<client>/<pass>        which version the client took for its pass
    runs/<run>/updates/<pass>/<client>      what it made of it
    runs/<run>/mixes/<number>               whose update came as number 0, 1, 2, ..., or which round ended there
    runs/<run>/versions/<number>            the parts after everything before that number
    runs/<run>/federated/<round>            the parts at the end of a round
    runs/<run>/mixed/<round>                what was mixed in within it: (client, pass, version taken), in order

A version is the number of updates before it that counted, or came too late to.

Law: the parts depend on the numbers taken and on the updates alone, whatever is killed or repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from cutlayer.errors import MissingObject, ObjectExists, StoreError, WireError
from cutlayer.faults import point
from cutlayer.roles.assembly import Assembly
from cutlayer.roles.federation import Federation
from cutlayer.roles.mixing import Mixing, mixed
from cutlayer.roles.weights import Broadcaster, Parts, flat, nested
from cutlayer.store import TensorStore
from cutlayer.store.arrivals import Arrivals
from cutlayer.store.base import Meta
from cutlayer.store.steps import Closed, same
from cutlayer.wire import Message, dense


@dataclass(frozen=True)
class Standing:
    """The parts before what comes as ``number``, how many updates they are made of, and the newest of each client."""

    number: int
    version: int
    round: int
    newest: dict[int, int]
    parts: Parts
    mixed: tuple[tuple[int, int, int], ...] = ()
    """The updates of the round that is going on: client, pass, version taken."""

    def meta(self) -> Meta:
        """Return all but the parts, as JSON."""
        newest = {str(client): passes for client, passes in self.newest.items()}
        return {"version": self.version, "round": self.round, "newest": newest, "mixed": [list(m) for m in self.mixed]}


class AsynchronousFederation(Federation):
    """Holds the encoder of one asynchronous run.  A client's round is its pass over its samples.

    ``mixing`` gives the rule, once the run has begun and all samples are known.
    """

    def __init__(self, assembly: Assembly, store: TensorStore, run: str, mixing: Callable[[], Mixing]) -> None:
        super().__init__(assembly, store, run)
        self._mixing = mixing
        self.arrivals = Arrivals(store, f"{self._folder}/mixes")
        self._standing: Standing | None = None

    def setup(self) -> None:
        """Write what clients begin with, unless that is done."""
        if not self._store.exists(self._path(0)):
            first = Standing(0, 0, 0, {}, {name: self.assembly.first[name].snapshot() for name in self.names})
            self._write(first)
            self._write_round(0, first)

    # --- requests -----------------------------------------------------------------------------------------------

    def weights(self, round_number: int, client: int, holds: int | None) -> Message:
        """Return the newest version for a client's pass; asked again, the one that it was given.

        Raises Closed where the client has sent that pass.
        """
        while True:
            found = self._taken(client, round_number)
            if found is None:
                now = self._catch_up()
                if round_number <= now.newest.get(client, 0):
                    raise Closed(f"client {client} has sent what it made in its pass {round_number}")
                point("fed.weights.before_record")
                with suppress(ObjectExists):
                    said = {"number": now.number, "version": now.version}
                    self._store.put(self._take(client, round_number), {}, said, if_absent=True)
                continue
            try:
                return Message("weights", flat(self._read(found["number"]).parts), {"round": found["version"]})
            except MissingObject:  # deleted between looking and taking: nobody has been given it
                self._store.delete(self._take(client, round_number))

    def update(self, round_number: int, client: int, samples: int, message: Message) -> None:
        """Mix in the parts that ``client`` made in a pass, once.

        Raises WireError for a second update with other contents, one without weights taken before, or of the wrong
        form, and TrainingError for values that are not finite.
        """
        if round_number <= self._catch_up().newest.get(client, 0):
            return
        taken = self._taken(client, round_number)
        if taken is None:
            raise WireError(f"client {client} sent an update of pass {round_number}, for which it took no weights")
        said = {name: message.meta.get(name) for name in ("round", "client", "samples")}
        expected = {"round": taken["version"], "client": client, "samples": samples}
        if said != expected:
            raise WireError(f"expected an update with {expected}, got {said}")
        lent = Broadcaster(self.assembly.channel, self.settings.seed)
        lent.broadcast(self._read(taken["number"]).parts, taken["version"])
        parts = lent.arrived(message, client)
        self._check(client, samples, parts)
        self._keep(round_number, client, parts)
        what = {"client": client, "pass": round_number}
        while (now := self._catch_up()).newest.get(client, 0) < round_number:
            self.arrivals.take(now.number, what)
            point("fed.update.after_arrival")
        point("fed.update.before_answer")

    def _keep(self, round_number: int, client: int, parts: Parts) -> None:
        tensors = {k: dense(t) for k, t in flat(parts).items()}
        point("fed.update.before_record")
        try:
            self._store.put(self._update(client, round_number), tensors, if_absent=True)
        except ObjectExists:
            there, _ = self._store.get(self._update(client, round_number))
            if not same(Message("update", there, {}), Message("update", tensors, {})):
                raise WireError(
                    f"client {client} sent a second update for pass {round_number}; the first one counts"
                ) from None

    def aggregate(self, round_number: int, samples: object = None) -> None:
        """Let the round end here; again: nothing changes."""
        while (now := self._catch_up()).round < round_number:
            self.arrivals.take(now.number, {"end": round_number})
        self._tidy(round_number, now)
        point("fed.aggregate.before_answer")

    # --- what came ----------------------------------------------------------------------------------------------

    def _catch_up(self) -> Standing:
        """Go through everything that has come, and return where that leads."""
        while True:
            try:
                now = self._standing or self._newest_standing()
                while (what := self.arrivals.get(now.number)) is not None:
                    now = self._standing = self._after(now, what)
                if not self._store.exists(self._path(now.round + 1)):
                    self._standing = now
                    return now
            except MissingObject:
                if self._standing is None:
                    raise
            self._standing = None  # others went on, and have tidied up

    def _after(self, now: Standing, what: Meta) -> Standing:
        """Return what follows on ``now`` when ``what`` comes."""
        after = replace(now, number=now.number + 1)
        if "end" in what:
            if what["end"] <= now.round:
                return after
            self._write_round(int(what["end"]), now)
            found = replace(after, round=int(what["end"]), mixed=())
        else:
            client, passes = int(what["client"]), int(what["pass"])
            if passes <= now.newest.get(client, 0):  # took two numbers
                return after
            found = self._mixed_in(after, client, passes)
        point("fed.aggregate.before_publish")
        self._write(found)
        point("fed.aggregate.after_publish")
        return found

    def _mixed_in(self, now: Standing, client: int, passes: int) -> Standing:
        tensors, _ = self._store.get(self._update(client, passes))
        taken = self._taken(client, passes)
        if taken is None:
            raise StoreError(f"an update of client {client} has come, and what it took is not in the store")
        share = self._mixing().share(client, now.version - int(taken["version"]))
        return replace(
            now,
            version=now.version + 1,
            newest={**now.newest, client: passes},
            parts=mixed(now.parts, nested(tensors), share),
            mixed=(*now.mixed, (client, passes, int(taken["version"]))),
        )

    def _newest_standing(self) -> Standing:
        found = self._store.list(f"{self._folder}/versions")
        if not found:
            raise MissingObject("there are no weights of the run in the store (any more)")
        return self._read(int(found[-1].rpartition("/")[2]))

    # --- files --------------------------------------------------------------------------------------------------

    def _read(self, number: int) -> Standing:
        tensors, said = self._store.get(self._version(number))
        newest = {int(client): passes for client, passes in said["newest"].items()}
        order = tuple((client, passes, version) for client, passes, version in said["mixed"])
        return Standing(number, said["version"], said["round"], newest, nested(tensors), order)

    def _write(self, found: Standing) -> None:
        tensors = {k: dense(t) for k, t in flat(found.parts).items()}
        with suppress(ObjectExists):  # another process made the same of the same files
            self._store.put(self._version(found.number), tensors, found.meta(), if_absent=True)

    def _write_round(self, round_number: int, now: Standing) -> None:
        tensors = {f"parts/{k}": dense(t) for k, t in flat(now.parts).items()}
        with suppress(ObjectExists):
            self._store.put(self._mixed_path(round_number), {}, {"mixed": now.meta()["mixed"]}, if_absent=True)
        with suppress(ObjectExists):
            self._store.put(self._path(round_number), tensors, if_absent=True)

    def mixed(self, round_number: int) -> list[tuple[int, int, int]]:
        """Return what was mixed in within a round, in order: client, pass, version that it took."""
        return [tuple(m) for m in self._store.meta(self._mixed_path(round_number))["mixed"]]

    def order(self, rounds: int) -> dict[str, Any]:
        """Return in which order updates came in a run of so many rounds that are over.

        ``rounds`` are the updates of each round, and last of all those after it, as (client, pass); ``taken`` is the
        version that each pass began with, as (client, pass, version), also of those that never ended.
        """
        mixed = [*(self.mixed(number) for number in range(1, rounds + 1)), list(self._catch_up().mixed)]
        taken = {(client, passes): version for each in mixed for client, passes, version in each}
        for path in self._store.list(f"{self._folder}/taken"):
            client, passes = (int(part) for part in path.split("/")[-2:])
            taken[client, passes] = int(self._store.meta(path)["version"])
        return {
            "rounds": [[(client, passes) for client, passes, _ in each] for each in mixed],
            "taken": sorted((*key, version) for key, version in taken.items()),
        }

    def _mixed_path(self, round_number: int) -> str:
        return f"{self._folder}/mixed/{round_number:06d}"

    def _taken(self, client: int, passes: int) -> Meta | None:
        try:
            return self._store.meta(self._take(client, passes))
        except MissingObject:
            return None

    def _tidy(self, round_number: int, now: Standing) -> None:
        """Delete what nobody asks for any more: of what is going on nothing, and the order as far as the round before.

        A process that stands further behind finds that round over, and begins from the newest version.
        """
        needed = {now.number}
        for path in self._store.list(f"{self._folder}/taken"):
            client, passes = (int(part) for part in path.split("/")[-2:])
            if passes > now.newest.get(client, 0):
                needed.add(int(self._store.meta(path)["number"]))
            elif passes < now.newest[client]:
                self._store.delete(path)
        for path in self._store.list(f"{self._folder}/versions"):
            number = int(path.rpartition("/")[2])
            if number < now.number and number not in needed:
                self._store.delete(path)
        for path in self._store.list(f"{self._folder}/updates"):
            passes, client = (int(part) for part in path.split("/")[-2:])
            if passes < now.newest.get(client, 0):
                self._store.delete(path)
        for path in self._store.list(f"{self._folder}/federated"):
            if 0 < int(path.rpartition("/")[2]) < round_number - 1:
                self._store.delete(path)
        self.arrivals.collect(min(needed))

    def _version(self, number: int) -> str:
        return f"{self._folder}/versions/{number:09d}"

    def _take(self, client: int, passes: int) -> str:
        return f"{self._folder}/taken/{client}/{passes:06d}"

    def _update(self, client: int, passes: int) -> str:
        return f"{self._folder}/updates/{passes:06d}/{client}"
