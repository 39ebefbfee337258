"""Counts bytes on the encoded message: labels and headers included, by direction and by what they are."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

from cutlayer import wire
from cutlayer.wire import Message

CONTENT = {
    "h": "activations",
    "y": "labels",
    "d": "output_gradients",
    "z": "outputs",
    "g": "cut_gradients",
    "loss": "losses",
}
"""What a tensor at the cut is, by the letters its name begins with."""


class Traffic:
    """Bytes up (from clients) and down (to clients) since the last :meth:`take`."""

    def __init__(self) -> None:
        self.up = 0
        self.down = 0
        self.kinds: Counter[str] = Counter()

    def count_up(self, message: Message, content: str | None = None) -> None:
        """Count a message from a client; ``content`` names all its tensors, by default each by its own name."""
        self.up += self._count(message, content)

    def count_down(self, message: Message, content: str | None = None) -> None:
        """Count a message to a client."""
        self.down += self._count(message, content)

    def take(self) -> tuple[int, int, dict[str, int]]:
        """Return (bytes up, bytes down, bytes by kind) and start again at zero."""
        found = self.up, self.down, dict(self.kinds)
        self.up, self.down, self.kinds = 0, 0, Counter()
        return found

    def _count(self, message: Message, content: str | None) -> int:
        header, sizes = wire.breakdown(message)
        total = header
        self.kinds["headers"] += header
        for name, size in sizes.items():
            self.kinds[content or content_of(name)] += size
            total += size
        return total


@lru_cache(maxsize=4096)
def content_of(name: str) -> str:
    """Return what the tensor called ``name`` in a message is: ``h0`` and ``h0:scale`` are activations."""
    return CONTENT.get(name.partition(":")[0].rstrip("0123456789"), "other")
