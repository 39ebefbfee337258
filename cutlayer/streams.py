"""Random streams that belong to parts and steps, not to processes.

Every random number in cutlayer comes from a seed derived from names: the run's seed, what is drawn, and where (round,
client, epoch, batch, part).  Nothing depends on what was drawn before, so any process can draw the same numbers again:
a recompute sees the dropout mask of the forward, a resumed run goes on as the uninterrupted one, and the uncut model
draws what the cut one draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cutlayer.seeds import derive as derive


def generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a CPU generator at the start of the stream ``derive(seed, *names)``."""
    return torch.Generator().manual_seed(derive(seed, *names))


def start(seed: int) -> None:
    """Put torch's default generators (CPU, and CUDA if it is in use) at the start of stream ``seed``."""
    torch.default_generator.manual_seed(seed)
    if _cuda():
        torch.cuda.manual_seed_all(seed)


@contextmanager
def preserved() -> Iterator[None]:
    """Leave torch's default generators as they were found."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if _cuda() else ()):
        yield


def _cuda() -> bool:
    return torch.cuda.is_initialized()  # type: ignore[no-untyped-call,no-any-return]
