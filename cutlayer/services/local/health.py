"""Whether a process of a deployment is well: alive, and ready for requests."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cutlayer.errors import CutlayerError
from cutlayer.services.http import Link, Tls
from cutlayer.services.local.deployment import Deployment, Process

PATIENT = 3.0
"""Seconds that a service has to say whether it is ready."""

Condition = Literal["ready", "running", "not ready", "dead"]


@dataclass(frozen=True)
class Health:
    """How a process is, and why it is not ready."""

    process: Process
    condition: Condition
    reason: str = ""


def look(deployment: Deployment, process: Process, timeout: float = PATIENT) -> Health:
    """Return how ``process`` is.  A client opens no port: it is running, or dead."""
    if not process.alive:
        return Health(process, "dead", last_words(deployment.log(process.name)))
    if process.kind == "client":
        return Health(process, "running")
    if process.url is None:
        return Health(process, "not ready", "it does not listen yet")
    try:
        with link(deployment, process.url, timeout=timeout, patience=0.0) as there:
            there.json("GET", "/readyz")
    except CutlayerError as error:
        return Health(process, "not ready", str(error))
    return Health(process, "ready")


def link(
    deployment: Deployment, url: str, token: str | None = None, *, timeout: float = 60.0, patience: float | None = 60.0
) -> Link:
    """Return a link to a service of the deployment."""
    tls = Tls(ca=deployment.ca) if url.startswith("https:") else None
    return Link(
        url, token=token, tls=tls, timeout=timeout, patience=patience, insecure=deployment.read().options.insecure
    )


def last_words(log: Path) -> str:
    """Return the last line of a log that says something, empty where there is none."""
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in deque(file, 20)]
    except OSError:
        return ""
    return next((line for line in reversed(lines) if line), "")
