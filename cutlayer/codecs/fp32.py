"""`fp32`: tensors travel as they are, in whatever dtype they have."""

from __future__ import annotations

from cutlayer.transforms import Transform


class Fp32(Transform):
    """The identity.  A channel leaves it out, so that it costs nothing."""
