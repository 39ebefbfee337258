"""Seeds derived from names: where every random number begins, without torch, so that a control plane can draw too."""

from __future__ import annotations

import hashlib


def derive(seed: int, *names: str | int) -> int:
    """Return a seed in [0, 2**63) for the stream called ``names`` under ``seed``: a pure function of its arguments."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def shuffled(count: int, seed: int, *names: str | int) -> list[int]:
    """Return 0..count-1 in the random order of the stream called ``names``: by the seed that each number derives."""
    return sorted(range(count), key=lambda item: derive(seed, *names, item))
