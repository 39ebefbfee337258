"""Named points at which a process can be made to die, to prove that dying there changes nothing.

``CUTLAYER_FAULT=split.step.before_record@3`` kills the process with SIGKILL the third time that it comes by the point;
``CUTLAYER_FAULT_ONCE=<file>`` makes that happen once over all restarts: the file marks it.  Without these variables a
point costs one comparison.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

POINTS = frozenset(
    {
        "split.step.before_record",
        "split.step.after_record",
        "split.step.after_arrival",
        "split.step.before_answer",
        "split.forward.before_record",
        "split.forward.after_record",
        "split.forward.before_answer",
        "split.backward.before_delta",
        "split.backward.after_delta",
        "split.backward.before_answer",
        "split.upload.before_record",
        "split.upload.before_answer",
        "split.update.before_publish",
        "split.update.after_publish",
        "split.update.after_collect",
        "split.state.before_save",
        "split.state.after_save",
        "split.finish.before_collect",
        "split.finish.before_answer",
        "split.evaluate.before_answer",
        "fed.update.before_record",
        "fed.update.after_arrival",
        "fed.update.before_answer",
        "fed.handover.before_record",
        "fed.handover.before_answer",
        "fed.weights.before_record",
        "fed.weights.before_answer",
        "fed.aggregate.before_publish",
        "fed.aggregate.after_publish",
        "fed.aggregate.before_answer",
        "client.task.before_weights",
        "client.task.after_weights",
        "client.batch.before_request",
        "client.batch.after_reply",
        "client.batch.after_journal",
        "client.batch.after_checkpoint",
        "client.update.before_send",
        "client.update.after_send",
        "client.result.before_send",
        "client.result.after_send",
        "backend.request.before_commit",
        "backend.request.after_commit",
        "backend.task.before_commit",
        "backend.task.after_commit",
        "backend.result.before_commit",
        "backend.result.after_commit",
        "worker.task.before_result",
        "worker.task.after_result",
    }
)
"""All points, by service, act and moment."""

_armed, _, _text = os.environ.get("CUTLAYER_FAULT", "").partition("@")
_left = int(_text or 1)


def point(name: str) -> None:
    """Die here if the environment says so."""
    if _armed == name:
        _passed()


def _passed() -> None:
    global _left
    _left -= 1
    if _left:
        return
    once = os.environ.get("CUTLAYER_FAULT_ONCE")
    if once is not None:
        try:
            Path(once).touch(exist_ok=False)
        except FileExistsError:
            return
    os.kill(os.getpid(), signal.SIGKILL)
