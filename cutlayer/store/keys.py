"""What names a batch, and where its objects lie."""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple


class BatchKey(NamedTuple):
    """One batch of one client; keys sort by client, then in the order in which the client goes through its batches."""

    client: int
    round: int
    epoch: int
    batch: int

    @property
    def text(self) -> str:
        """The key as part of a path."""
        return "-".join(map(str, self))


def parse_key(text: str) -> BatchKey:
    """Return the key whose ``text`` this is.

    Raises:
        ValueError: it is none.
    """
    client, round_, epoch, batch = map(int, text.split("-"))
    return BatchKey(client, round_, epoch, batch)


def forward_uuid(secret: str, key: BatchKey) -> str:
    """Return the uuid of the forward of a batch: always the same, so that a retry finds what the first try wrote.

    It has the form of a random uuid (version 4) and cannot be guessed without ``secret``.
    """
    digest = bytearray(blake2b(key.text.encode(), key=secret.encode()[:64], digest_size=16).digest())
    digest[6] = digest[6] & 0x0F | 0x40  # version 4
    digest[8] = digest[8] & 0x3F | 0x80  # variant 1; uuid.UUID does the same in three times the time
    text = digest.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def version_text(version: int) -> str:
    """Return a weight version as part of a path; texts sort as the numbers do."""
    return f"{version:08d}"
