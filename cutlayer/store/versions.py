"""Weight versions: each part's weights after every update, kept until nothing refers to them.

    runs/<run>/weights/<part>/<version>                 weights; names its optimizer state, or holds it
    runs/<run>/optimizers/<part>/<version>-<random>     optimizer state, written first, if there are tensors in it

Publishing is a conditional put of the weights, so of several reducers that compute the same update exactly one wins,
and weights are never seen without their optimizer state.
"""

from __future__ import annotations

import secrets
from typing import Any

from cutlayer.errors import MissingObject, ObjectExists, StoreError
from cutlayer.store import trees
from cutlayer.store.base import Meta, Tensors, TensorStore
from cutlayer.store.keys import version_text


class WeightVersions:
    """The weight versions of one run.  Parts are ``encoder``, ``backbone``, ``head``, ``auxiliary/<client>``."""

    def __init__(self, store: TensorStore, run: str) -> None:
        self._store = store
        self.weights = f"runs/{run}/weights"
        self.optimizers = f"runs/{run}/optimizers"
        self.pins = f"runs/{run}/pins"

    def publish(
        self, part: str, version: int, tensors: Tensors, optimizer: Any = None, meta: Meta | None = None
    ) -> None:
        """Write version ``version`` of a part.

        Args:
            tensors: the part's ``state_dict``; copied, so that training may go on in place.
            optimizer: its optimizer's ``state_dict``, or any tree of tensors and plain values; None: there is none.
            meta: anything else (JSON).

        Raises:
            ObjectExists: another reducer has published this version; load that one.
            StoreError: the store failed (`NoSpace`: it is full).
        """
        path, state = self._path(part, version), None
        held: Any = None
        if self._store.exists(path):
            raise ObjectExists(f"{path} exists already; another reducer published this version first, so load that one")
        if optimizer is not None:
            flat, held = trees.flatten(optimizer)
            if flat:
                state = f"{self.optimizers}/{part}/{version_text(version)}-{secrets.token_hex(8)}"
                self._store.put(state, _copied(flat), {"skeleton": held})
                held = None
        said = {"optimizer": state, "held": held, "meta": meta or {}}
        try:
            self._store.put(path, _copied(tensors), said, if_absent=True)
        except StoreError:
            if state is not None and not self._refers(path, state):
                self._store.delete(state)
            raise

    def _refers(self, path: str, state: str) -> bool:
        """Say whether the weights at ``path`` name ``state``: a put may succeed and still report a failure."""
        try:
            return bool(self._store.meta(path)["optimizer"] == state)
        except MissingObject:
            return False

    def latest(self, part: str) -> int | None:
        """Return the newest version of a part, None if there is none."""
        versions = self.versions(part)
        return versions[-1] if versions else None

    def versions(self, part: str) -> list[int]:
        """Return the versions of a part that are kept, oldest first."""
        names = (path.removeprefix(f"{self.weights}/{part}/") for path in self._store.list(f"{self.weights}/{part}"))
        return sorted(int(name) for name in names if name.isdigit())

    def parts(self) -> list[str]:
        """Return the parts that have a version."""
        paths = self._store.list(self.weights)
        return sorted({path.removeprefix(f"{self.weights}/").rpartition("/")[0] for path in paths})

    def load(self, part: str, version: int) -> tuple[Tensors, Meta]:
        """Return the weights of a version and what ``publish`` was given as ``meta``; not to be changed in place.

        Raises:
            MissingObject: it was never published, or is collected.
            DamagedObject: it is torn or foreign.
        """
        tensors, said = self._store.get(self._path(part, version))
        return tensors, said["meta"]

    def load_optimizer(self, part: str, version: int) -> Any:
        """Return the optimizer state of a version, None if it has none; not to be changed in place.

        Raises:
            MissingObject: the version was never published, or is collected.
            DamagedObject: it is torn or foreign.
        """
        found = self._store.meta(self._path(part, version))
        if found["optimizer"] is None:
            held = found.get("held")
            return None if held is None else trees.restore({}, held)
        tensors, said = self._store.get(found["optimizer"])
        return trees.restore(tensors, said["skeleton"])

    def pin(self, part: str, version: int, holder: str) -> None:
        """Keep a version until ``holder`` lets it go, whatever `collect` is asked for.

        Raises:
            MissingObject: the version is not there.
        """
        path = f"{self.pins}/{part}/{version_text(version)}/{holder}"
        self._store.put(path, {})
        if not self._store.exists(self._path(part, version)):
            self._store.delete(path)
            raise MissingObject(f"version {version} of {part} is not in the store, so it cannot be pinned")

    def unpin(self, part: str, version: int, holder: str) -> None:
        """Let a pinned version go."""
        self._store.delete(f"{self.pins}/{part}/{version_text(version)}/{holder}")

    def pinned(self, part: str) -> set[int]:
        """Return the versions of a part that somebody holds."""
        paths = self._store.list(f"{self.pins}/{part}")
        return {int(path.removeprefix(f"{self.pins}/{part}/").partition("/")[0]) for path in paths}

    def collect(self, part: str, kept: set[int]) -> list[str]:
        """Delete the versions of a part that are neither in ``kept`` nor pinned nor the newest; return their paths."""
        versions = self.versions(part)
        kept = kept | self.pinned(part) | set(versions[-1:])
        gone = [self._path(part, version) for version in versions if version not in kept]
        for path in self._store.list(f"{self.optimizers}/{part}"):
            version = int(path.rpartition("/")[2].partition("-")[0])
            if versions and version not in kept and version < versions[-1]:  # newer ones may be about to be published
                gone.append(path)
        for path in gone:
            self._store.delete(path)
        return gone

    def _path(self, part: str, version: int) -> str:
        return f"{self.weights}/{part}/{version_text(version)}"


def _copied(tensors: Tensors) -> Tensors:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
