"""Real data for the tests that read it: unpacked once per session, skipped where it is absent."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("CUTLAYER_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that unpacks one data set and returns its folder."""
    if not (SHARED / "unpack.py").is_file():
        pytest.skip(f"no real data: there is no unpack.py in {SHARED} (set CUTLAYER_DATA to its folder)")
    target = tmp_path_factory.mktemp("real")

    def unpack(name: str) -> Path:
        if not (target / name).exists():
            subprocess.run([sys.executable, str(SHARED / "unpack.py"), str(target), name], check=True, timeout=120)
        return target / name

    return unpack
