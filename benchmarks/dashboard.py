"""The dashboard in front of a long run of many clients, compared with a short one of few, in one run of this script.

A real backend on SQLite with histories that nobody trained, a real dashboard, Chromium.  For each of the two: seconds
from the request to the first paint and to the first chart (the browser's cache is warm), what the page weighs on the
wire, and what the dashboard and the backend compute for it.  And seconds from an event to the page that shows it.

    python benchmarks/dashboard.py [--clients 500] [--rounds 500] [--repetitions 7]

Needs the extra ``test`` (playwright) and Chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from services.backend.synthetic import synthetic
from system.looking import Dashboard, Visitor, chromium, dashboard

from cutlayer.services.api import Backend
from cutlayer.services.backend.bell import Bell
from cutlayer.services.backend.database import Database
from cutlayer.services.http import Link

FEW = 5
EVENTS = 10
TOKEN = "cl_op_" + "benchmark" * 4
DRAWN = "() => window.cutlayer && cutlayer.charts.accuracy && cutlayer.charts.accuracy.chart"
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
WEIGHT = "performance.getEntriesByType('navigation')[0].encodedBodySize"


async def write(url: str, clients: int, rounds: int) -> None:
    """Write the histories."""
    database = Database(url, Bell())
    await database.open()
    await synthetic(database, FEW, FEW, run="few-0000000f", state="done")
    await synthetic(database, clients, rounds, run="many-0000000m", state="done")
    for n in range(EVENTS):
        await synthetic(database, FEW, FEW, run=f"live-{n:08d}", state="running")
    await database.close()


@contextmanager
def backend(folder: Path, url: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start a backend, and end it."""
    token, announce = folder / "operator", folder / "backend.json"
    token.write_text(TOKEN)
    token.chmod(0o600)
    words = ["serve", "backend", "--folder", str(folder), "--port", "0", "--database", url, "--announce", str(announce)]
    with open(folder / "backend.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cutlayer.cli", *words, "--operator-token-file", str(token)], stdout=log, stderr=log
        )
    try:
        while not announce.exists():
            assert process.poll() is None, (folder / "backend.log").read_text()
            time.sleep(0.05)
        yield json.loads(announce.read_text())["url"], process
    finally:
        process.terminate()
        process.wait()


def computed(*processes: int) -> float:
    """Return the seconds that processes have computed."""
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in processes)


def look(visitor: Visitor, run: str, processes: list[int]) -> dict[str, float]:
    """Open the page of a run and return what that took."""
    before, start = computed(*processes), time.perf_counter()
    visitor.page.goto(f"{visitor.url}/runs/{run}", wait_until="commit")
    visitor.page.wait_for_function(DRAWN)
    drawn = time.perf_counter() - start
    visitor.page.wait_for_timeout(1500)
    painted = visitor.page.evaluate(PAINTED)
    return {
        "first paint, s": (painted or 1000 * drawn) / 1000,
        "first chart, s": drawn,
        "page, kB": visitor.page.evaluate(WEIGHT) / 1000,
        "computed, s": computed(*processes) - before,
    }


def heard(visitor: Visitor, api: Backend, run: str) -> float:
    """Return the seconds from the request that pauses a run to the page that says so."""
    visitor.open(f"/runs/{run}")
    visitor.page.wait_for_timeout(500)
    visitor.page.evaluate(
        """() => {
            const state = document.querySelector('.top .state');
            window.seen = null;
            new MutationObserver(() => { if (state.textContent === 'paused') window.seen ??= Date.now(); })
                .observe(state, {childList: true, characterData: true, subtree: true});
        }"""
    )
    start = time.time()
    api.pause(run)
    visitor.page.wait_for_function("() => window.seen")
    seen: float = visitor.page.evaluate("window.seen")
    return seen / 1000 - start


def measure(board: Dashboard, url: str, process: int, repetitions: int) -> None:
    """Measure and print."""
    found: dict[str, list[dict[str, float]]] = {"few-0000000f": [], "many-0000000m": []}
    with chromium() as browser:
        visitor = Visitor(browser, board.url)
        visitor.sign_in(TOKEN)
        for run in found:
            look(visitor, run, [process])
        for _ in range(repetitions):
            for run, rows in found.items():
                rows.append(look(visitor, run, [process, board.process.pid]))
        api = Backend(Link(url, token=TOKEN))
        times = sorted(heard(visitor, api, f"live-{n:08d}") for n in range(EVENTS))
    few, many = found.values()
    print(f"{'':16}{'few':>9}{'many':>9}{'ratio':>8}   medians of {repetitions}")
    for key in few[0]:
        a, b = (statistics.median(row[key] for row in rows) for rows in (few, many))
        print(f"{key:16}{a:9.2f}{b:9.2f}{b / a:8.2f}")
    print(f"\nfrom event to page: median {statistics.median(times):.2f} s, longest {times[-1]:.2f} s of {EVENTS}")


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--repetitions", type=int, default=7)
    given: Any = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cutlayer-") as name:
        folder = Path(name)
        database = f"sqlite+aiosqlite:///{folder / 'cutlayer.db'}"
        asyncio.run(write(database, given.clients, given.rounds))
        with backend(folder, database) as (url, process), dashboard(url, folder / "dashboard") as board:
            print(f"few: {FEW} clients × {FEW} rounds, many: {given.clients} clients × {given.rounds} rounds\n")
            measure(board, url, process.pid, given.repetitions)


if __name__ == "__main__":
    main()
