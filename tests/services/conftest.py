"""What tests of services share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from cutlayer import targets


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


@pytest.fixture(autouse=True)
def targets_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is allowed to a service that is made in a test is not so for the tests after it."""
    monkeypatch.setattr(targets, "_allowed", None)
