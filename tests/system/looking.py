"""A dashboard as a process, and a real browser that looks at it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

AXE = Path(__file__).parent / "axe" / "axe.min.js"
PATIENT = 30_000
"""Milliseconds that a page has, where nothing says how quick it must be: machines that run tests are busy."""
STARTED = 90.0


class Dashboard:
    """A dashboard in front of the backend at ``backend``; it may be killed, and started again at its port."""

    def __init__(self, backend: str, folder: Path, **environment: str) -> None:
        self.backend, self.folder, self.environment = backend, folder, environment
        folder.mkdir(parents=True, exist_ok=True)
        self.port = 0
        self.url = ""
        self.start()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        announce = self.folder / "announce.json"
        announce.unlink(missing_ok=True)
        words = ["serve", "dashboard", "--backend", self.backend, "--port", str(self.port), "--announce", str(announce)]
        environment = {**os.environ, **self.environment}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cutlayer.cli", *words], stdout=log, stderr=log, env=environment, cwd=self.folder
            )
        until = time.monotonic() + STARTED
        while not announce.exists():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < until, self.said()
            time.sleep(0.05)
        found = json.loads(announce.read_text())
        self.url, self.port = found["url"], found["port"]

    @property
    def log(self) -> Path:
        """What the process says."""
        return self.folder / "dashboard.log"

    def said(self) -> str:
        """Return its log."""
        return self.log.read_text(errors="replace")[-8000:]

    def kill(self) -> None:
        """Kill it."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """End it, and return its exit status."""
        self.process.terminate()
        return self.process.wait(30)


@contextmanager
def dashboard(backend: str, folder: Path, **environment: str) -> Iterator[Dashboard]:
    """Start a dashboard, and end it."""
    found = Dashboard(backend, folder, **environment)
    try:
        yield found
    finally:
        if found.process.poll() is None:
            found.stop()


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the browser of this machine, playwright's own if there is none.  Skips the test without either."""
    with sync_playwright() as playwright:
        program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if program is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("expected a browser: install chromium, or run playwright install chromium")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Visitor:
    """Somebody with a browser of their own.  What goes wrong in the page is remembered in ``troubles``."""

    def __init__(self, browser: Browser, url: str, *, width: int = 1280, theme: str = "light") -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=theme,
            accept_downloads=True,  # type: ignore[arg-type]
        )
        self.url = url
        self.troubles: list[str] = []
        self.requests: list[str] = []
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(PATIENT)
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def sign_in(self, token: str) -> None:
        """Show a token."""
        self.page.goto(f"{self.url}/sign-in")
        self.page.fill("#token", token)
        self.page.press("#token", "Enter")
        self.page.wait_for_url(f"{self.url}/runs")

    def open(self, path: str) -> Page:
        """Open a page, and wait until it is connected: from then on it is live."""
        self.page.goto(f"{self.url}{path}")
        self.page.wait_for_function("() => window.did_handshake && window.cutlayer")
        return self.page

    def points(self, chart: str, series: str) -> list[Any]:
        """Return what a chart shows."""
        found: list[Any] = self.page.evaluate("([chart, series]) => cutlayer.points(chart, series)", [chart, series])
        return found

    def drawn(self, chart: str, series: str) -> list[Any]:
        """Return what ECharts itself has drawn of a series."""
        script = """([chart, series]) => {
            const found = cutlayer.charts[chart];
            found.begin();
            return found.chart.getOption().series.find((each) => each.id === series).data;
        }"""
        found: list[Any] = self.page.evaluate(script, [chart, series])
        return found

    def until(self, script: str, argument: Any = None, timeout: float = PATIENT) -> None:
        """Wait until something is so in the page."""
        self.page.wait_for_function(script, arg=argument, timeout=timeout)

    def faults(self) -> list[str]:
        """Return what axe-core finds that is serious or worse."""
        self.page.evaluate(AXE.read_text())
        found = self.page.evaluate("async () => (await axe.run(document, {resultTypes: ['violations']})).violations")
        return [
            f"{each['id']} ({each['impact']}): {each['nodes'][0]['html'][:200]} × {len(each['nodes'])}"
            f" {each['nodes'][0].get('failureSummary', '')[:300]}"
            for each in found
            if each["impact"] in ("serious", "critical")
        ]

    def close(self) -> None:
        """Leave."""
        self.context.close()
