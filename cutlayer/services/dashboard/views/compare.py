"""Runs side by side.  The address says which: it can be shared, and holds no secret."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from urllib.parse import quote

from nicegui.element import Element

from cutlayer.services.dashboard.charts import comparison
from cutlayer.services.dashboard.charts.chart import Chart
from cutlayer.services.dashboard.charts.comparison import Compared, Row
from cutlayer.services.dashboard.hub import Hub
from cutlayer.services.dashboard.live import RunFeed
from cutlayer.services.dashboard.views.frame import Frame
from cutlayer.services.dashboard.views.parts import ChartCard, Tag, button, link, nothing
from cutlayer.services.errors import NotFound

MOST = 8
"""Runs that can be told apart."""


class ComparePage:
    """The page."""

    def __init__(self, frame: Frame, feeds: Sequence[RunFeed]) -> None:
        self.frame, self.feeds = frame, feeds
        self.cards: dict[str, ChartCard] = {}

    def build(self) -> None:
        asked = "runs=" + ",".join(quote(feed.run, safe="") for feed in self.feeds)
        with Tag("div", classes="top"):
            Tag("h1", f"{len(self.feeds)} runs side by side", "grow")
            with Tag("div", classes="row"):
                share = button("Copy the link")
                share.on("click", js_handler="(e) => cutlayer.copy(location.href, e.currentTarget)")
                link("Table as CSV", f"/compare/table.csv?{asked}", "button", download="comparison.csv")
        with Tag("div", classes="grid"):
            for name, draw in comparison.CHARTS.items():
                csv = f"/compare/{name}.csv?{asked}"
                self.cards[name] = ChartCard(draw(self._runs()), "w6", 280, csv=csv, file="comparison")
        self.table = Element("div")
        self._fill()
        for feed in self.feeds:
            self.frame.watch(feed, self._changed)

    def _runs(self) -> list[Compared]:
        return [Compared(feed.run, feed.view, feed.history) for feed in self.feeds]

    def _changed(self, topics: frozenset[str]) -> None:
        if topics & {"history", "view"}:
            runs = self._runs()
            for name, card in self.cards.items():
                card.show(comparison.CHARTS[name](runs))
            self._fill()

    def _fill(self) -> None:
        runs = self._runs()
        self.table.clear()
        with self.table, Tag("section", classes="card", aria_labelledby="table-title"):
            with Tag("header"):
                Tag("h2", "Differences", id="table-title")
                Tag("span", "The better figure is green and marked ✓.", "small muted")
            around = Tag("div", classes="scroll", tabindex=0, role="region", aria_label="Table of differences")
            with around, Tag("table"):
                with Tag("thead"), Tag("tr"):
                    Tag("th", "", scope="col")
                    for run in runs:
                        with Tag("th", scope="col"):
                            link(run.id, f"/runs/{quote(run.id)}")
                with Tag("tbody"):
                    for row in comparison.results(runs):
                        _row(row)
                    found = comparison.differences(runs)
                    with Tag("tr"):
                        said = "What the experiments have different" if found else "The experiments are the same."
                        Tag("th", said, scope="colgroup", colspan=1 + len(runs), style="padding-top:20px")
                    for row in found:
                        _row(row)


def _row(row: Row) -> None:
    with Tag("tr"):
        Tag("th", row.name, scope="row")
        for n, cell in enumerate(row.cells):
            best = n in row.best
            Tag("td", f"{cell} ✓" if best else cell, "better" if best else "")


async def feeds_of(hub: Hub, asked: str) -> list[RunFeed]:
    """Return the runs in ``a,b,c``, fetched.  Raises NotFound."""
    names = list(dict.fromkeys(name for name in asked.split(",") if name))[:MOST]
    feeds = [hub.run(name) for name in names]
    await asyncio.gather(*(feed.ready() for feed in feeds))
    return feeds


async def build(frame: Frame, asked: str) -> None:
    """Build the page.  Raises NotFound where there is no such run."""
    feeds = await feeds_of(frame.hub, asked)
    if len(feeds) < 2:
        Tag("h1", "Compare", "visually-hidden")
        with (
            Tag("div", classes="card", style="margin-top:24px"),
            nothing("Nothing to compare", "Tick two or more runs in the list, then press Compare."),
            Tag("div", classes="row"),
        ):
            link("All runs", "/runs", "button")
        return
    ComparePage(frame, feeds).build()


async def csv_of(hub: Hub, asked: str, chart: str) -> str:
    """Return a chart of a comparison, or its table, as CSV.  Raises NotFound."""
    runs = [Compared(feed.run, feed.view, feed.history) for feed in await feeds_of(hub, asked)]
    if chart == "table":
        columns, rows = comparison.as_rows(runs)
        return Chart("table", "", {}, {}, columns, rows).csv()
    if chart not in comparison.CHARTS:
        raise NotFound(f"a comparison has no chart {chart}; it has: table, {', '.join(comparison.CHARTS)}")
    return comparison.CHARTS[chart](runs).csv()
