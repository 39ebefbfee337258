from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.services.backend import postgres
from tests.services.backend.postgres import Server

_names = count()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A PostgreSQL server for all tests of this process."""
    if postgres.binaries() is None:
        pytest.skip("PostgreSQL is not installed (initdb and pg_ctl were looked for)")
    with postgres.server() as found:
        yield found


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Makes empty databases, of each kind that the backend runs on, and returns their URLs."""
    if request.param == "sqlite":
        return lambda: f"sqlite+aiosqlite:///{tmp_path / f'cutlayer-{next(_names)}.db'}"
    server: Server = request.getfixturevalue("postgresql")
    return server.database
