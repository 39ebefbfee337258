"""What tests of services share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def logging_restored() -> Iterator[None]:
    """Logging is as before after a test that configures it."""
    root, own = logging.getLogger(), logging.getLogger("cutlayer")
    state = (list(root.handlers), root.level, own.level)
    yield
    logging.captureWarnings(False)
    root.handlers[:] = state[0]
    root.setLevel(state[1])
    own.setLevel(state[2])
