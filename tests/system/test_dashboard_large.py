"""A run of many clients and rounds: the page has no more to carry than its points, and stays quick."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from playwright.sync_api import Browser, expect
from services.backend.synthetic import SLOW, synthetic

from cutlayer.services.api import Backend
from cutlayer.services.backend.bell import Bell
from cutlayer.services.backend.database import Database
from cutlayer.services.http import Link
from system.looking import Dashboard, Visitor, chromium, dashboard

CLIENTS, ROUNDS = 200, 600
TOKEN = "cl_op_" + "large" * 8
MANY, FEW = "many-0000000m", "few-0000000f"
LONGEST = 15.0
"""Seconds to the first chart, on a busy machine; benchmarks/dashboard.py measures them."""


async def written(url: str) -> None:
    database = Database(url, Bell())
    await database.open()
    await synthetic(database, CLIENTS, ROUNDS, run=MANY, state="done")
    await synthetic(database, 3, 3, run=FEW, state="done")
    await database.close()


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("large")
    url = f"sqlite+aiosqlite:///{folder / 'cutlayer.db'}"
    with ThreadPoolExecutor(1) as pool:  # the browser of another test has a loop in this thread
        pool.submit(lambda: asyncio.run(written(url))).result()
    token, announce = folder / "operator", folder / "announce.json"
    token.write_text(TOKEN)
    token.chmod(0o600)
    words = [
        "--folder",
        folder,
        "--port",
        "0",
        "--database",
        url,
        "--announce",
        announce,
        "--operator-token-file",
        token,
    ]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cutlayer.cli", "serve", "backend", *map(str, words)], stdout=log, stderr=log
        )
    try:
        until = time.monotonic() + 90
        while not announce.exists():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < until
            time.sleep(0.05)
        yield json.loads(announce.read_text())["url"]
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def board(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    with dashboard(backend, tmp_path_factory.mktemp("dashboard")) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def visitor(browser: Browser, board: Dashboard) -> Iterator[Visitor]:
    found = Visitor(browser, board.url)
    found.sign_in(TOKEN)
    yield found
    assert found.troubles == []
    found.close()


def test_it_is_drawn_soon_and_weighs_no_more_than_its_points(visitor: Visitor) -> None:
    weights = {}
    for run in (FEW, MANY):
        start = time.monotonic()
        page = visitor.open(f"/runs/{run}")
        visitor.until("() => cutlayer.charts.accuracy.chart")
        assert time.monotonic() - start < LONGEST
        weights[run] = page.evaluate("performance.getEntriesByType('navigation')[0].decodedBodySize")
    assert weights[MANY] < 600_000
    points = len(visitor.points("loss", "loss"))
    assert 300 <= points <= 500, "thinned"


def test_what_is_drawn_is_what_the_backend_thinned(visitor: Visitor, backend: str) -> None:
    visitor.open(f"/runs/{MANY}")
    history = Backend(Link(backend, token=TOKEN)).history(MANY)
    assert history.thinned
    for chart, series in (("accuracy", "test_accuracy"), ("loss", "loss")):
        expected = [list(pair) for pair in zip(history.rounds, history.series[series], strict=True)]
        assert visitor.points(chart, series) == expected
    low = [y for _, y in visitor.points("accuracy", "half-low")]
    assert low == list(history.bands["client_accuracy"].q25)


def test_a_client_is_found_among_many(visitor: Visitor, backend: str) -> None:
    page = visitor.open(f"/runs/{MANY}")
    name = f"{MANY}-client-0042"
    page.fill("#client", name)
    page.press("#client", "Enter")
    expect(page.locator(".chip")).to_have_text(f"{name}✕")
    visitor.until("() => cutlayer.points('accuracy', 'client-42').length > 0")
    history = Backend(Link(backend, token=TOKEN)).history(MANY, clients=[42])
    expected = [[r, v] for r, v in zip(history.rounds, history.clients["42"].accuracy, strict=True) if v is not None]
    assert visitor.points("accuracy", "client-42") == expected
    page.get_by_role("button", name=f"{name} no more").click()
    visitor.until("() => !('client-42' in cutlayer.charts.accuracy.raw.points) || true")
    expect(page.locator(".chip")).to_have_count(0)


def test_the_straggler_stands_on_top(visitor: Visitor) -> None:
    page = visitor.open(f"/runs/{MANY}")
    visitor.until("() => cutlayer.charts.timeline.raw.options.yAxis.data.length > 0")
    first = page.evaluate("cutlayer.charts.timeline.raw.options.yAxis.data[0]")
    assert first.startswith(f"{MANY}-client-{SLOW:04d}")
    assert "×" in first
    expect(page.get_by_text(f"{MANY}-client-{SLOW:04d} is slow")).to_be_visible()
    rows = "cutlayer.charts.timeline.raw.options.yAxis.data"
    assert page.evaluate(f"{rows}.length") == 20
    page.get_by_role("button", name="Clients after these").click()
    expect(page.get_by_text(f"21–40 of {CLIENTS}")).to_be_visible()


def test_events_are_fetched_as_one_scrolls(visitor: Visitor) -> None:
    page = visitor.open(f"/runs/{MANY}")
    events = page.locator(".events")
    first = events.locator(".event").first.inner_text()
    assert events.locator(".event").count() < 40
    for _ in range(3):
        events.evaluate("(box) => { box.scrollTop = box.scrollHeight; }")
        page.wait_for_timeout(400)
    visitor.until("() => document.querySelector('.events').scrollHeight > 36 * 150")
    assert events.locator(".event").count() < 40
    assert events.locator(".event").first.inner_text() != first
