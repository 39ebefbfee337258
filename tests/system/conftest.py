"""What tests of whole deployments share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from system.nursery import Nursery
from system.supervised import Undisturbed


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Makes processes quickly."""
    found = Nursery()
    yield found
    found.close()


@pytest.fixture(scope="session")
def undisturbed() -> Undisturbed:
    """Returns the weights that an experiment has in one process."""
    return Undisturbed()
