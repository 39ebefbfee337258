"""The run folder: what a run writes while it goes, so that it can be read at any time and resumed after any end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save
from torch import Tensor

from cutlayer.config import Experiment, parse
from cutlayer.errors import NoSpace, RunFolderError
from cutlayer.store import open_store

CONFIG, METRICS, SUMMARY, MODEL = "config.yaml", "metrics.jsonl", "summary.json", "model.safetensors"
CHECKPOINTS = "checkpoints"


class RunFolder:
    """A folder with one run.  Files are replaced whole; ``metrics.jsonl`` grows by whole lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, experiment: Experiment) -> RunFolder:
        """Make ``path`` for ``experiment``.  Raises RunFolderError if something is there already."""
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            hint = f"go on with: cutlayer resume {path}" if (path / CONFIG).exists() else "choose another out=..."
            raise RunFolderError(f"expected out={path} to be new or empty, and it holds something already; {hint}")
        folder = cls(path)
        with _Told(path):
            path.mkdir(parents=True, exist_ok=True)
        folder.write(CONFIG, yaml.safe_dump(experiment.as_dict(), sort_keys=False))
        return folder

    @classmethod
    def open(cls, path: Path) -> tuple[RunFolder, Experiment]:
        """Return the run at ``path`` and its experiment.  Raises RunFolderError if there is none."""
        config = path / CONFIG
        if not config.is_file():
            raise RunFolderError(f"expected a run folder with {CONFIG}, and {path} has none")
        try:
            tree = yaml.safe_load(config.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
            reason = getattr(error, "problem", None) or error
            raise RunFolderError(f"{config} cannot be read: {reason}; start the experiment anew") from None
        return cls(path), parse(tree if isinstance(tree, dict) else {})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing this run.  Raises RunFolderError if one does."""
        if sys.platform == "win32":
            yield
            return
        import fcntl

        with _Told(self.path):
            file = open(self.path / ".lock", "w")  # noqa: SIM115 (it is closed below, outside of _Told)
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunFolderError(
                    f"another process is writing the run at {self.path}; wait for it, or stop it and resume"
                ) from None
            yield

    def extend(self, experiment: Experiment) -> None:
        """Give the run another number of rounds to go to.  Raises RunFolderError if it has gone further already."""
        found = self.checkpoint()
        if found is not None and found[1]["done"] > experiment.rounds:
            raise RunFolderError(
                f"expected rounds of at least {found[1]['done']}, which the run at {self.path} has done, got "
                f"{experiment.rounds}; ask for more"
            )
        self.write(CONFIG, yaml.safe_dump(experiment.as_dict(), sort_keys=False))

    def write(self, name: str, content: str | bytes) -> None:
        """Replace file ``name`` whole: a reader sees the old or the new one.  Raises NoSpace when the disk is full."""
        target = self.path / name
        part = target.with_name(f".{target.name}.part")
        with _Told(target):
            try:
                with open(part, "wb") as file:
                    file.write(content.encode() if isinstance(content, str) else content)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(part, target)
            finally:
                part.unlink(missing_ok=True)

    def write_json(self, name: str, value: Any) -> None:
        """Replace file ``name`` with JSON."""
        self.write(name, json.dumps(value, indent=1, default=str) + "\n")

    def append_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Append one line to the metrics; a line that cannot be written whole is taken back."""
        path = self.path / METRICS
        line = json.dumps(metrics, default=str).encode() + b"\n"
        with _Told(path), open(path, "ab") as file:
            end = file.seek(0, os.SEEK_END)
            try:
                file.write(line)
                file.flush()
            except OSError:
                os.truncate(path, end)
                raise

    def cut_metrics(self, last_round: int) -> list[dict[str, Any]]:
        """Drop what was written after ``last_round``, and a torn last line; return what stays.

        Raises RunFolderError where a round before is missing: sums over the rounds would be wrong.
        """
        path = self.path / METRICS
        kept: list[dict[str, Any]] = []
        for line in path.read_bytes().splitlines()[:last_round] if path.exists() else []:
            try:
                record = json.loads(line)
            except ValueError:
                break
            if not isinstance(record, dict) or record.get("round") != len(kept) + 1:
                break
            kept.append(record)
        if len(kept) < last_round:
            raise RunFolderError(
                f"expected the metrics of rounds 1 to {last_round} in {path}, and round {len(kept) + 1} is missing or "
                "damaged; put the file back, or start the experiment anew"
            )
        self.write(METRICS, "".join(json.dumps(r) + "\n" for r in kept))
        return kept

    def write_model(self, state: Mapping[str, Tensor]) -> None:
        """Write the joined model, loadable into the uncut one."""
        tensors = {k: t.detach().cpu().contiguous().clone() for k, t in state.items()}
        self.write(MODEL, save(tensors, {"format": "pt"}))

    def write_checkpoint(self, done: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Write the state after round ``done``; the one before stays until it is safe."""
        with _Told(self.path):
            store = open_store(str(self.path))
            store.put(f"{CHECKPOINTS}/{done:06d}", tensors, meta)
            for old in store.list(CHECKPOINTS)[:-1]:
                store.delete(old)

    def checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the newest state, or None.  Raises DamagedObject where it is torn."""
        store = open_store(str(self.path))
        found = store.list(CHECKPOINTS)
        return store.get(found[-1]) if found else None


class _Told:
    """Turns the system's errors about ``path`` into ones that say what to do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            import errno

            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise NoSpace(
                    f"expected room for {self.path}, and the disk is full; free some space, then resume the run"
                ) from None
            raise RunFolderError(
                f"{self.path} cannot be written ({error.strerror or error}); choose another out=..., or change "
                "its rights"
            ) from None
