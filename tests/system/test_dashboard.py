"""The dashboard in a real browser, in front of real services and a real run."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from cutlayer.services.local.up import up
from system.deployed import Deployed, deployed
from system.looking import Dashboard, Visitor, chromium, dashboard

LONG: dict[str, Any] = {"algorithm": "file_sync", "rounds": 2000, "batch_size": 16}
EVIL = "<img src=x onerror='window.evil=1'><script>window.evil=1</script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with deployed(tmp_path_factory.mktemp("watched")) as found:
        yield found


@pytest.fixture(scope="module")
def board(services: Deployed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    with dashboard(url_of(services), tmp_path_factory.mktemp("dashboard")) as found:
        yield found


@pytest.fixture(scope="module")
def trained(services: Deployed) -> str:
    """A run that is done."""
    return services.train(algorithm="splitfed_v1", rounds=4)[0].id


@pytest.fixture
def running(services: Deployed) -> Iterator[str]:
    """A run that goes on for as long as a test does, with some rounds done."""
    run, _ = services.submit(**LONG)
    wait(lambda: len(services.backend.metrics(run)) >= 2, services)
    yield run
    if services.backend.run(run).state not in ("done", "failed", "cancelled"):
        services.backend.cancel(run)


@pytest.fixture
def visitor(browser: Browser, board: Dashboard, services: Deployed) -> Iterator[Visitor]:
    with visiting(browser, board, services) as found:
        yield found
        assert found.troubles == []


@contextmanager
def visiting(browser: Browser, board: Dashboard, services: Deployed, **how: Any) -> Iterator[Visitor]:
    found = Visitor(browser, board.url, **how)
    try:
        found.sign_in(token_of(services))
        yield found
    finally:
        found.close()


def url_of(services: Deployed) -> str:
    process = services.there.read().of("backend")
    assert process is not None
    assert process.url is not None
    return process.url


def token_of(services: Deployed) -> str:
    return services.there.token("operator").read_text().strip()


def wait(what: Callable[[], object], services: Deployed, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, services.said()
        time.sleep(0.05)


def kill(services: Deployed, name: str, how: signal.Signals = signal.SIGKILL) -> None:
    process = services.there.read().of(name)
    assert process is not None
    os.kill(process.pid, how)


# --- what it shows ------------------------------------------------------------------------------------------------


def test_charts_show_the_backends_values(visitor: Visitor, services: Deployed, trained: str) -> None:
    visitor.open(f"/runs/{trained}")
    lines = services.backend.metrics(trained)
    expected = {
        ("loss", "loss"): [[m["round"], m["loss"]] for m in lines],
        ("accuracy", "test_accuracy"): [[m["round"], m["test_accuracy"]] for m in lines],
        ("accuracy", "own_accuracy"): [[m["round"], m["own_accuracy"]] for m in lines],
        ("accuracy", "client-1"): [[m["round"], m["client_accuracy"]["1"]] for m in lines],
        ("throughput", "rate"): [[m["round"], m["samples"] / m["seconds"]] for m in lines],
    }
    for (chart, series), points in expected.items():
        assert visitor.points(chart, series) == points
        assert visitor.drawn(chart, series) == points
    up = [y for _, y in visitor.points("traffic", "up")]
    assert [round(y * 1024) for y in up] == [m["bytes_up"] for m in lines]
    view = services.backend.run(trained)
    assert view.evaluation is not None
    table = [[0] * 10 for _ in range(10)]
    for cell in visitor.points("confusion", "cells"):
        x, y, _, count = cell["value"] if isinstance(cell, dict) else cell
        table[y][x] = count
    assert table == view.evaluation["confusion"]
    expect(visitor.page.get_by_text("This run is done: 4 rounds.")).to_be_visible()
    expect(visitor.page.get_by_text("cut at")).to_have_count(2)


def test_every_chart_can_be_taken_away(visitor: Visitor, services: Deployed, trained: str) -> None:
    assert visitor.open(f"/runs/{trained}").locator("figure").count() == 10
    for n in range(10):
        page = visitor.open(f"/runs/{trained}")  # anew: of one page the browser takes ten downloads in a row
        figure = page.locator("figure").nth(n)
        with page.expect_download() as found:
            figure.get_by_role("button", name="PNG of").click()
        picture = Path(found.value.path()).read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert len(picture) > 3000
        with page.expect_download() as found:
            figure.get_by_role("link", name="CSV of").click()
        rows = list(csv.reader(io.StringIO(Path(found.value.path()).read_bytes().decode())))
        assert len(rows) > 1
        assert len({len(row) for row in rows}) == 1
    answer = visitor.context.request.get(f"{visitor.url}/runs/{trained}/loss.csv")
    rows = list(csv.DictReader(io.StringIO(answer.text())))
    assert [float(row["loss"]) for row in rows] == [m["loss"] for m in services.backend.metrics(trained)]


def test_rounds_arrive_by_themselves(visitor: Visitor, services: Deployed, running: str) -> None:
    page = visitor.open(f"/runs/{running}")
    page.evaluate("window.here = true")
    before = len(visitor.points("loss", "loss"))
    visitor.until("(n) => cutlayer.points('loss', 'loss').length >= n", before + 5)
    assert page.evaluate("window.here") is True
    points = visitor.points("loss", "loss")
    lines = services.backend.metrics(running)[: len(points)]
    assert points == [[m["round"], m["loss"]] for m in lines]
    visitor.until("() => document.querySelectorAll('.events .event').length > 5")
    visitor.until("() => cutlayer.points('timeline', 'spans').length > 5")
    assert page.locator(".state").first.inner_text() == "running"


def test_the_list_is_live_and_finds(visitor: Visitor, running: str, trained: str) -> None:
    page = visitor.open("/runs")
    row = page.locator("tr", has_text=running)
    first = row.locator(".small.muted.number").first.inner_text()
    expect(row.locator(".small.muted.number").first).not_to_have_text(first)
    page.fill("input[name=text]", trained)
    page.press("input[name=text]", "Enter")
    page.wait_for_url(re.compile("/runs[?]text="))
    expect(page.locator("tbody tr")).to_have_count(1)
    page.goto(f"{visitor.url}/runs?text=nothing-of-this-name")
    expect(page.get_by_text("No run is like that")).to_be_visible()


def test_runs_side_by_side_by_a_link(visitor: Visitor, services: Deployed, trained: str) -> None:
    other = services.train(algorithm="fedavg", rounds=3)[0].id
    page = visitor.open("/runs")
    for run in (trained, other):
        page.get_by_label(f"Compare {run}").check()
    page.get_by_role("button", name="Compare 2 runs").click()
    page.wait_for_url(re.compile("/compare[?]runs="))
    assert token_of(services) not in page.url
    visitor.until("() => window.did_handshake && cutlayer.charts.accuracy")
    for run in (trained, other):
        expected = [[m["round"], m["test_accuracy"]] for m in services.backend.metrics(run)]
        assert visitor.points("accuracy", run) == expected
    differs = page.locator("tr", has_text="algorithm").last
    assert differs.locator("td").all_inner_texts() == ["splitfed_v1", "fedavg"]
    shared = page.url
    page.goto(f"{visitor.url}/runs")
    page.goto(shared)
    expect(page.get_by_role("heading", name="2 runs side by side")).to_be_visible()


# --- what it does -------------------------------------------------------------------------------------------------


def test_pause_resume_cancel(visitor: Visitor, services: Deployed, running: str) -> None:
    page = visitor.open(f"/runs/{running}")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator(".top .state")).to_have_text("paused")
    assert services.backend.run(running).cause == "operator"
    page.get_by_role("button", name="Resume").click()
    expect(page.locator(".top .state")).to_have_text("running")
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.get_by_role("button", name="Keep it running").click()
    assert services.backend.run(running).state == "running"
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel the run").click()
    expect(page.locator(".top .state")).to_have_text("cancelled")
    assert services.backend.run(running).state == "cancelled"


def test_a_run_from_yaml_with_the_mistake_at_its_line(visitor: Visitor, services: Deployed) -> None:
    page = visitor.open("/submit")
    editor = page.get_by_label("Experiment, YAML")
    editor.fill("algorithm: splitfed_v1\nrounds: 2\nbatch_sise: 16\n")
    expect(page.locator("#verdict")).to_contain_text("Line 3:")
    expect(page.locator(".editor b")).to_have_text("3")
    expect(page.get_by_role("button", name="Begin the run")).to_be_disabled()
    editor.fill("algorithm: splitfed_v1\nmodel: {name: mlp}\nclients: 3\nrounds: 2\nthreads: 1\ndevice: cpu\n")
    expect(page.locator("#verdict")).to_have_text("This experiment is valid.")
    page.get_by_role("button", name="Begin the run").click()
    page.wait_for_url("**/runs/splitfed_v1-*")
    run = page.url.rpartition("/")[2]
    expect(page.get_by_label("Highlight a client")).to_be_visible()
    expect(page.get_by_text("This run is done: 2 rounds.")).to_be_visible()
    assert services.backend.run(run).rounds == 2
    assert services.ended(run).state == "done"
    page.goto(f"{visitor.url}/submit?from={run}")
    expect(page.get_by_label("Experiment, YAML")).to_have_value(re.compile("rounds: 2"))
    expect(page.locator("#verdict")).to_have_text("This experiment is valid.")


def test_an_uploaded_file(visitor: Visitor, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("algorithm: fedavg\nrounds: 7\n")
    page = visitor.open("/submit")
    page.set_input_files("#file", file)
    expect(page.get_by_label("Experiment, YAML")).to_have_value(file.read_text())
    expect(page.locator(".facts")).to_contain_text("fedavg")


# --- when things die ----------------------------------------------------------------------------------------------


def test_a_killed_split_server_goes_dark_and_comes_back(visitor: Visitor, services: Deployed, running: str) -> None:
    visitor.open("/system")
    node = "() => document.querySelector('[data-node=\"split:split-2\"]').classList.contains"
    visitor.until(f"{node}('good')")
    rounds = len(services.backend.metrics(running))
    kill(services, "split-2")
    visitor.until(f"{node}('dark')", timeout=20_000)
    expect(visitor.page.locator(".health")).to_contain_text("split-2")
    wait(lambda: len(services.backend.metrics(running)) > rounds + 1, services)
    up(services.there)
    visitor.until(f"{node}('good')")
    expect(visitor.page.locator(".health")).to_have_text("Healthy: every server is live.")


def test_the_page_comes_back_with_the_backend(visitor: Visitor, services: Deployed, running: str) -> None:
    page = visitor.open(f"/runs/{running}")
    page.evaluate("window.here = true")
    visitor.until("() => cutlayer.points('loss', 'loss').length > 1")
    kill(services, "backend")
    banner = page.locator(".banner")
    expect(banner).to_be_visible()
    expect(banner).to_contain_text("The backend is away since")
    up(services.there)
    expect(banner).to_be_hidden()
    rounds = len(visitor.points("loss", "loss"))
    visitor.until("(n) => cutlayer.points('loss', 'loss').length > n", rounds + 1)
    points = visitor.points("loss", "loss")
    lines = services.backend.metrics(running)[: len(points)]
    assert points == [[m["round"], m["loss"]] for m in lines]
    assert page.evaluate("window.here") is True


def test_a_dashboard_that_dies_disturbs_nobody(
    browser: Browser, services: Deployed, running: str, tmp_path: Path
) -> None:
    with dashboard(url_of(services), tmp_path) as board, visiting(browser, board, services) as visitor:
        page = visitor.open(f"/runs/{running}")
        rounds = len(services.backend.metrics(running))
        board.kill()
        wait(lambda: len(services.backend.metrics(running)) > rounds, services)
        board.start()
        page.wait_for_url(re.compile("/sign-in[?]next="))
        page.fill("#token", token_of(services))
        page.press("#token", "Enter")
        page.wait_for_url(f"**/runs/{running}")
        visitor.until("() => window.did_handshake && cutlayer.points('loss', 'loss').length > 1")


# --- who may see what ---------------------------------------------------------------------------------------------


def test_a_viewer_cannot_act(browser: Browser, board: Dashboard, services: Deployed, running: str) -> None:
    made = services.backend.make_token("viewer", "guest")
    visitor = Visitor(browser, board.url)
    visitor.sign_in(made.token)
    page = visitor.open(f"/runs/{running}")
    visitor.until("() => cutlayer.points('loss', 'loss').length > 1")
    for name in ("Pause", "Resume", "Cancel", "Repeat with changes"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)
    assert page.get_by_role("link", name="New run").count() == 0
    page.goto(f"{visitor.url}/submit")
    expect(page.get_by_text("A viewer cannot begin a run")).to_be_visible()
    services.backend.delete_token(made.id)
    page.goto(f"{visitor.url}/runs")
    page.wait_for_url(re.compile("/sign-in[?]next="))
    visitor.close()


def test_nothing_secret_is_in_the_page(visitor: Visitor, board: Dashboard, services: Deployed, trained: str) -> None:
    token = token_of(services)
    for path in ("/runs", f"/runs/{trained}", "/system", "/submit"):
        page = visitor.open(path)
        assert token not in page.content()
        assert token not in page.url
        assert token not in str(
            page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
        )
    assert token not in board.said()
    assert all(
        url.startswith((board.url, board.url.replace("http", "ws"), "data:", "blob:")) for url in visitor.requests
    )


def test_signing_out_ends_every_page(visitor: Visitor) -> None:
    visitor.open("/system")
    other = visitor.context.new_page()
    other.goto(f"{visitor.url}/runs")
    other.wait_for_function("() => window.did_handshake")
    visitor.page.get_by_role("button", name="Sign out").click()
    visitor.page.wait_for_url(re.compile("/sign-in$"))
    other.wait_for_url(re.compile("/sign-in[?]next="))


def test_what_others_wrote_is_text(visitor: Visitor, services: Deployed) -> None:
    run = services.train(algorithm="splitfed_v1", rounds=1)[0].id
    database = services.there.folder / "cutlayer.db"
    with closing(sqlite3.connect(database, timeout=30)) as found, found:
        found.execute("UPDATE runs SET reason = ?, algorithm = ?, state = 'failed' WHERE id = ?", (EVIL, EVIL, run))
        kind, data = "client.dropped", json.dumps({"reason": EVIL})
        found.execute("INSERT INTO events (run, round, kind, data, time) VALUES (?, 1, ?, ?, 1)", (run, kind, data))
        before = found.execute("SELECT id, name FROM clients").fetchall()
        found.execute("UPDATE clients SET name = ? || name", (EVIL,))
    try:
        for path in (f"/runs/{run}", "/runs", "/system", f"/compare?runs={run},{run}", f"/runs/{EVIL}"):
            page = visitor.open(path)
            page.wait_for_timeout(500)
            assert page.evaluate("window.evil") is None
            assert page.locator("img[src=x]").count() == 0
        page = visitor.open(f"/runs/{run}")
        expect(page.locator(".health")).to_contain_text("<script>window.evil=1</script>")
        chart = page.locator("figure", has_text="Clients over time").locator("canvas")
        chart.hover()
        assert page.evaluate("window.evil") is None
    finally:
        with closing(sqlite3.connect(database, timeout=30)) as found, found:
            found.executemany("UPDATE clients SET name = ? WHERE id = ?", [(name, id) for id, name in before])


# --- for everybody ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_serious_in_the_way(
    browser: Browser, board: Dashboard, services: Deployed, trained: str, width: int, theme: str
) -> None:
    with visiting(browser, board, services, width=width, theme=theme) as visitor:
        for path in (
            f"/runs/{trained}",
            "/runs",
            "/system",
            "/submit",
            f"/compare?runs={trained},{trained}",
            "/nowhere",
        ):
            page = visitor.open(path)
            page.wait_for_timeout(700)
            assert visitor.faults() == [], path
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
            assert page.evaluate("document.documentElement.dataset.theme") == theme
        visitor.page.get_by_role("button", name="Sign out").click()
        visitor.page.wait_for_url(re.compile("/sign-in$"))
        assert visitor.faults() == []
        assert visitor.troubles == []


def test_the_keyboard_is_enough(visitor: Visitor, trained: str) -> None:
    page = visitor.open(f"/runs/{trained}")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            break
        seen.add(
            page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.textContent")
        )
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", page.evaluate("document.activeElement.outerHTML")[:200]
    assert any("PNG of" in (name or "") for name in seen)
    assert any("Repeat with changes" in (name or "") for name in seen)


def test_the_theme_follows_the_system_until_it_is_chosen(visitor: Visitor) -> None:
    page = visitor.open("/runs")
    theme = "document.documentElement.dataset.theme"
    assert page.evaluate(theme) == "light"
    page.emulate_media(color_scheme="dark")
    visitor.until(f"() => {theme} === 'dark'")
    page.locator("#theme").click()
    visitor.until(f"() => {theme} === 'light'")
    page.reload()
    assert page.evaluate(theme) == "light"


def test_times_are_in_the_viewers_zone(browser: Browser, board: Dashboard, services: Deployed, trained: str) -> None:
    visitor = Visitor(browser, board.url)
    visitor.context.close()
    visitor.context = browser.new_context(timezone_id="Asia/Tokyo", locale="en-GB")
    visitor.page = visitor.context.new_page()
    visitor.sign_in(token_of(services))
    page = visitor.open(f"/runs/{trained}")
    ended = services.backend.run(trained).ended
    assert ended is not None
    said = page.locator("time[data-as=moment]").first
    hour = time.strftime("%H", time.gmtime(ended + 9 * 3600))
    expect(said).to_contain_text(f"{hour}:")
    visitor.close()
