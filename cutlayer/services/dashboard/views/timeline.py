"""The card with the timeline: clients × time, the slowest on top."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cutlayer.services.dashboard.charts import timeline as charts
from cutlayer.services.dashboard.charts.chart import Chart
from cutlayer.services.dashboard.charts.timeline import STATES
from cutlayer.services.dashboard.live import TimelineFeed
from cutlayer.services.dashboard.views.frame import Frame
from cutlayer.services.dashboard.views.parts import ChartCard, Tag, button

ROWS = 20
"""Clients on a page of the timeline."""
WINDOWS = ((5, "last 5 rounds"), (20, "last 20 rounds"), (0, "the whole run"))
ORDERS: tuple[tuple[charts.Order, str], ...] = (
    ("slowest", "slowest first"),
    ("name", "by name"),
    ("number", "by number"),
)


class TimelineCard:
    """The timeline of a run, with who is shown in which order and how far back."""

    def __init__(
        self, frame: Frame, run: str, picked: Callable[[str], Any], told: Callable[[str | None], None]
    ) -> None:
        self.frame, self.run, self.told = frame, run, told
        self.order: charts.Order = "slowest"
        self.first = 0
        self.places: list[int] = []
        self.feed: TimelineFeed = frame.hub.timeline(run, WINDOWS[0][0])
        self._leave = self.feed.watch(lambda _: self.show())
        frame.leaving(lambda: self._leave())
        self.card = ChartCard(self._chart(), "w12", self._height(), csv=f"/runs/{run}/timeline.csv", file=run)
        self.card.area.on("pick", lambda e: picked(self._name(e.args)))
        with self.card.above:
            self._controls()
        self.feed.touch("timeline")

    def _controls(self) -> None:
        with Tag("div", classes="row spread", style="margin-bottom:8px"):
            with Tag("ul", classes="legend", aria_label="States"):
                for n, (_, label, colour) in enumerate(STATES):
                    with Tag("li"):
                        height = (12, 7, 10, 10, 4, 12, 12, 12)[n]
                        Tag("i", style=f"background:{colour};height:{height}px", aria_hidden="true")
                        Tag("span", label)
            with Tag("div", classes="row"):
                self._select("Order", ORDERS, self._ordered)
                self._select("Time shown", WINDOWS, self._reached_back)
                self.pager = Tag("span", classes="row")
                with self.pager:
                    self.where = Tag("span", "", "small muted number")
                    button("←", lambda: self._turn(-ROWS), "quiet", label="Clients before these")
                    button("→", lambda: self._turn(ROWS), "quiet", label="Clients after these")

    def _select(self, label: str, choices: tuple[tuple[Any, str], ...], act: Callable[[str], None]) -> None:
        select = Tag("select", classes="field", aria_label=label)
        with select:
            for value, text in choices:
                Tag("option", text, value=str(value))
        select.on("change", lambda e: act(str(e.args)), js_handler="(e) => emit(e.target.value)")

    def _ordered(self, order: str) -> None:
        self.order, self.first, self.places = order, 0, []  # type: ignore[assignment]
        self.show()

    def _reached_back(self, rounds: str) -> None:
        self._leave()
        self.feed = self.frame.hub.timeline(self.run, int(rounds))
        self._leave = self.feed.watch(lambda _: self.show())
        self.feed.touch("timeline")

    def _turn(self, rows: int) -> None:
        self.first = max(0, min(self.first + rows, len(self.feed.clients) - 1))
        self.show()

    def show(self) -> None:
        """Draw what has changed."""
        self.card.show(self._chart())
        self.card.area.resize(self._height())
        total = len(self.feed.clients)
        self.pager.set(style="display:none" if total <= ROWS else None)
        self.where.say(f"{self.first + 1}–{min(self.first + ROWS, total)} of {total}")

    def _chart(self) -> Chart:
        clients = self.feed.clients
        pace = charts.paces(clients)
        said = charts.slowest(clients, pace)
        self.told(said if any(each.straggles for each in pace.values()) else None)
        # Rows stay where they are while one watches, until clients come or another order is wanted.
        known = {client["number"]: client for client in clients}
        if set(self.places) != set(known) or self._out_of_order(pace):
            self.places = [client["number"] for client in charts.ordered(clients, pace, self.order)]
        rows = [known[number] for number in self.places[self.first : self.first + ROWS]]
        self.rows = [str(row["name"]) for row in rows]
        return charts.timeline(rows, self.feed.begin, self.feed.end, pace, said)

    def _out_of_order(self, pace: dict[int, charts.Pace]) -> bool:
        """Say whether a straggler is not among the first, where it belongs."""
        if self.order != "slowest" or not self.places:
            return False
        slow = {number for number, each in pace.items() if each.straggles}
        return not slow <= set(self.places[: len(slow)])

    def _height(self) -> int:
        return 40 + charts.ROW * max(3, min(ROWS, len(self.feed.clients)))

    def _name(self, args: dict[str, Any]) -> str:
        """Return the client that was clicked on."""
        value = args.get("value")
        if isinstance(value, list) and value and int(value[0]) < len(self.rows):
            return self.rows[int(value[0])]
        said = str(args.get("axis", ""))
        return next((name for name in self.rows if said == name or said.startswith(f"{name}  ")), "")
