"""A run on services, brought into a run folder: what ``cutlayer report`` and ``compare`` read."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from cutlayer.errors import RunFolderError
from cutlayer.services.errors import ServiceError

if TYPE_CHECKING:
    from cutlayer.services.api import Backend
    from cutlayer.services.protocol import ArtifactView, RunView

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


def check_new(out: Path) -> None:
    """Raise RunFolderError unless ``out`` is new or empty: asked before anything is trained."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunFolderError(f"expected out={out} to be new or empty, and it holds something already; choose another")


def collect(backend: Backend, run: RunView, out: Path) -> None:
    """Write ``run`` into the new folder ``out``: its artifacts, which are the files of a run folder, and its report.

    Raises RunFolderError where it cannot be written.  An artifact whose name is no plain file name is left out.
    """
    import yaml

    check_new(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for artifact in backend.artifacts(run.id):
            if _NAME.fullmatch(artifact.name):
                _fetch(backend, run.id, artifact, out / artifact.name)
        experiment = {**run.experiment, "name": run.id, "out": str(out)}
        _write(out / "config.yaml", yaml.safe_dump(experiment, sort_keys=False))
    except OSError as error:
        raise RunFolderError(
            f"{out} cannot be written ({error.strerror or error}); choose another: cutlayer watch {run.id} --out ..."
        ) from None
    from cutlayer.report import write_report

    write_report(out)


def _fetch(backend: Backend, run: str, artifact: ArtifactView, target: Path) -> None:
    backend.download(run, artifact.name, target)
    with open(target, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != artifact.sha256:
        target.unlink()
        raise ServiceError(
            f"expected {artifact.name} with the SHA-256 {artifact.sha256}, and {found} came; fetch it again: cutlayer "
            f"watch {run} --out ..."
        )


def _write(path: Path, content: str) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(content, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
