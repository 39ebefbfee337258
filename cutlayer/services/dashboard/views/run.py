"""A run, live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from nicegui import background_tasks
from nicegui.element import Element

from cutlayer.services.dashboard.charts import costs, curves, matrix, partition, timeline
from cutlayer.services.dashboard.charts.chart import Chart
from cutlayer.services.dashboard.charts.curves import Scene
from cutlayer.services.dashboard.elements.names import Names
from cutlayer.services.dashboard.history import SHOWN_AT_ONCE
from cutlayer.services.dashboard.hub import Hub
from cutlayer.services.dashboard.live import RunFeed
from cutlayer.services.dashboard.views.events import EventsCard
from cutlayer.services.dashboard.views.frame import Frame
from cutlayer.services.dashboard.views.head import Head
from cutlayer.services.dashboard.views.model import ModelCard
from cutlayer.services.dashboard.views.parts import ChartCard, Tag, button
from cutlayer.services.dashboard.views.timeline import TimelineCard
from cutlayer.services.errors import NotFound

OF_HISTORY: dict[str, Callable[[Scene], Chart]] = {
    "accuracy": curves.accuracy,
    "loss": curves.loss,
    "accuracy-bytes": curves.accuracy_against_bytes,
    "traffic": costs.traffic,
    "throughput": curves.throughput,
    "phases": costs.phases,
}
OF_VIEW: dict[str, Callable[[Mapping[str, Any]], Chart]] = {
    "confusion": lambda view: matrix.confusion(view.get("evaluation")),
    "classes": lambda view: matrix.per_class(view.get("evaluation")),
    "partition": lambda view: partition.partition(view.get("members", ())),
}
MOST_HIGHLIGHTED = 5


class RunPage:
    """The page of a run."""

    def __init__(self, frame: Frame, feed: RunFeed) -> None:
        self.frame, self.feed = frame, feed
        self.highlighted: list[int] = []
        self.cards: dict[str, ChartCard] = {}

    async def build(self) -> None:
        self.head = Head(self.frame, self.feed)
        self.chooser = Element("div")
        self.chips: Element | None = None
        self._offer()
        with Tag("div", classes="grid"):
            self._card("accuracy", "w6", 280)
            self._card("loss", "w6", 280)
            self.timeline = TimelineCard(self.frame, self.feed.run, self._picked, self._slow)
            self._card("accuracy-bytes", "w4", 230)
            self._card("traffic", "w4", 230)
            self._card("throughput", "w4", 230)
            self._card("phases", "w6", 250)
            self._card("partition", "w6", 250)
            classes = len(matrix.classes(self.feed.view.get("evaluation"))) or 10
            tall = 120 + min(classes, matrix.MOST) * (24 if classes <= 16 else 14)
            self._card("confusion", "w6", tall)
            self._card("classes", "w6", tall)
            self.model = ModelCard(self.frame, self.feed)
            self.events = EventsCard(self.frame, self.feed)
        await self.model.show()
        self.frame.watch(self.feed, self._changed)
        self.frame.leaving(self._left)

    def _left(self) -> None:
        for number in self.highlighted:
            self.feed.highlight(number, False)

    def _card(self, name: str, width: str, height: int) -> None:
        run = self.feed.run
        self.cards[name] = ChartCard(self._chart(name), width, height, csv=f"/runs/{run}/{name}.csv", file=run)
        if name in ("accuracy", "loss"):
            self.cards[name].area.on("pick", lambda e: self._clicked(str(e.args.get("id", ""))))

    def _chart(self, name: str) -> Chart:
        if name in OF_VIEW:
            return OF_VIEW[name](self.feed.view)
        return OF_HISTORY[name](scene(self.feed, tuple(self.highlighted)))

    def _changed(self, topics: frozenset[str]) -> None:
        if topics & {"view", "history", "phase", "system"}:
            self.head.show()
        if "view" in topics:
            self._offer()
        if topics & {"history", "view"}:
            for name in self.cards:
                if name in OF_VIEW or "history" in topics:
                    self.cards[name].show(self._chart(name))
        if "events" in topics:
            self.events.show()
        if topics & {"artifacts", "view"} and not self.model.known:
            background_tasks.create(self.model.show())

    # --- clients that stand out ---------------------------------------------------------------------------------------

    def _offer(self) -> None:
        """Offer the clients to be highlighted, once the run has some."""
        members = self.feed.view.get("members", ())
        if not members or self.chips is not None:
            return
        many = len(members) > SHOWN_AT_ONCE
        with self.chooser, Tag("div", classes="row", style="margin-bottom:12px"):
            Tag("label", "Highlight a client", "field-label", for_="client")
            field = Tag("input", classes="field", id="client", list="clients", placeholder="its name", maxlength="100",
                        autocomplete="off")  # fmt: skip
            Names("clients", [member["name"] for member in members])
            field.on("change", lambda e: self._picked(str(e.args)), js_handler=TAKEN)
            self.chips = Element("span").classes("row")
            hint = "or click on a row of the timeline" if many else "or click on its line, or a row of the timeline"
            Tag("span", hint, "small muted")

    def _clicked(self, series: str) -> None:
        if series.startswith("client-"):
            self._picked(scene(self.feed).name(int(series.removeprefix("client-"))))

    def _picked(self, name: str) -> None:
        """Let a client stand out, or no more."""
        names = {m["name"]: m["number"] for m in self.feed.view.get("members", ())}
        if name not in names:
            if name:
                self.frame.note(f"No client of this run is called {name}.")
            return
        number = names[name]
        if number in self.highlighted:
            self.highlighted.remove(number)
            self.feed.highlight(number, False)
        elif len(self.highlighted) < MOST_HIGHLIGHTED:
            self.highlighted.append(number)
            self.feed.highlight(number, True)
        else:
            self.frame.note(f"At most {MOST_HIGHLIGHTED} clients stand out at once: take one away first.")
        self._chips(names)
        for chart in ("accuracy", "loss"):
            self.cards[chart].show(self._chart(chart))

    def _chips(self, names: dict[str, int]) -> None:
        if self.chips is None:
            return
        self.chips.clear()
        with self.chips:
            for name, number in names.items():
                if number in self.highlighted:
                    with Tag("span", classes="chip"):
                        Tag("span", name)
                        button("✕", partial(self._picked, name), "quiet", label=f"{name} no more")

    def _slow(self, said: str | None) -> None:
        slow = said.partition(":")[0] if said else None
        if self.head.slow != slow:
            self.head.slow = slow
            self.head.show()


TAKEN = "(e) => { emit(e.target.value); e.target.value = ''; }"


def scene(feed: RunFeed, highlighted: tuple[int, ...] = ()) -> Scene:
    """Return a run as its charts see it."""
    return Scene(feed.history, {m["number"]: m["name"] for m in feed.view.get("members", ())}, highlighted)


async def build(frame: Frame, run: str) -> None:
    """Build the page of a run.  Raises NotFound where there is none."""
    feed = frame.hub.run(run)
    await feed.ready()
    await RunPage(frame, feed).build()


async def chart_of(hub: Hub, name: str, chart: str) -> Chart:
    """Return a chart of a run, for its data.  Raises NotFound where there is no such run or chart."""
    feed = hub.run(name)
    await feed.ready()
    if chart in OF_VIEW:
        return OF_VIEW[chart](feed.view)
    if chart in OF_HISTORY:
        return OF_HISTORY[chart](scene(feed))
    if chart == "timeline":
        spans = hub.timeline(name, 0)
        await asyncio.gather(spans.ready())
        pace = timeline.paces(spans.clients)
        return timeline.timeline(timeline.ordered(spans.clients, pace, "number"), spans.begin, spans.end, pace, "")
    raise NotFound(f"a run has no chart {chart}; it has: {', '.join((*OF_HISTORY, *OF_VIEW, 'timeline'))}")
