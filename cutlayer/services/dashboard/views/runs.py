"""The list of runs: how each is doing, what it cost; open, compare, begin a new one."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from nicegui.element import Element

from cutlayer.report.units import format_bytes, format_seconds, format_share
from cutlayer.services.dashboard import words
from cutlayer.services.dashboard.live import RunsFeed
from cutlayer.services.dashboard.views.frame import Frame
from cutlayer.services.dashboard.views.parts import Tag, When, button, fill, link, nothing, progress

PAGE = 50
STATES = ("queued", "preparing", "running", "finishing", "done", "failed", "cancelled")
COLUMNS: tuple[tuple[str, str | None], ...] = (
    ("Run", "id"),
    ("State", "state"),
    ("Progress", "progress"),
    ("Accuracy", "accuracy"),
    ("Bytes", "bytes"),
    ("Training time", "seconds"),
    ("Created", "created"),
)
NUMBERS = ("Accuracy", "Bytes", "Training time")


class Line:
    """A run's row, which is kept up to date."""

    def __init__(self, page: RunsPage, view: dict[str, Any]) -> None:
        run = view["id"]
        with Tag("tr"):
            with Tag("td", classes="wide"), Tag("div", classes="row", style="flex-wrap:nowrap"):
                box = Tag("input", type="checkbox", aria_label=f"Compare {run}")
                box.on("change", lambda e: page.choose(run, bool(e.args)), js_handler="(e) => emit(e.target.checked)")
                with Tag("div", style="min-width:0"):
                    link(run, f"/runs/{quote(run)}", "name")
                    Tag("div", described(view["experiment"], view["algorithm"]), "muted small")
            with Tag("td", data_label="State"):
                self.state = Tag("span", "", "state")
            with Tag("td", data_label="Progress", style="min-width:120px"):
                self.bar, self.filled = progress(0, 1, "")
                self.round = Tag("div", "", "small muted number")
            self.accuracy = Tag("td", "", "number", data_label="Accuracy")
            self.bytes = Tag("td", "", "number", data_label="Bytes")
            self.seconds = Tag("td", "", "number", data_label="Training")
            with Tag("td", data_label="Created"):
                When(view["created"], "moment", "number small muted")
        self.show(view)

    def show(self, view: dict[str, Any]) -> None:
        """Show how the run is doing."""
        state = words.state_of(view)
        self.state.say(state)
        self.state.look(f"state {state}")
        done = round(view["progress"] * view["rounds"])
        text = f"round {done} of {view['rounds']}"
        fill(self.bar, self.filled, done, view["rounds"], text)
        self.round.say(text)
        self.accuracy.say(format_share(view["test_accuracy"]))
        self.bytes.say(format_bytes(view["bytes"]) if done else "–")
        self.seconds.say(format_seconds(view["seconds"]) if done else "–")


def described(experiment: dict[str, Any], algorithm: str) -> str:
    """Return in short what is trained how on what."""
    parts = [algorithm]
    for key in ("model", "data"):
        found = experiment.get(key)
        name = found.get("name") if isinstance(found, dict) else found
        if name:
            parts.append(str(name))
    return " · ".join(parts)


class RunsPage:
    """The page; what is searched for stands in its address."""

    def __init__(self, frame: Frame, query: dict[str, str]) -> None:
        self.frame, self.query = frame, query
        self.feed: RunsFeed = frame.hub.runs(**query, limit=PAGE)
        self.lines: dict[str, Line] = {}
        self.chosen: list[str] = []

    async def build(self) -> None:
        await self.feed.ready()
        with Tag("div", classes="top"):
            Tag("h1", "Runs", "grow")
            with Tag("div", classes="row"):
                self.compare = button("Compare", self.open_comparison, disabled=True)
                if self.frame.acts:
                    link("New run", "/submit", "button main")
        self._search()
        self.table = Element("div")
        self._fill()
        self.frame.watch(self.feed, lambda _: self.update())

    def _search(self) -> None:
        with Tag("form", classes="row", style="margin-bottom:14px", role="search", action="/runs", method="get"):
            text = self.query.get("text", "")
            Tag("input", classes="field", name="text", value=text, placeholder="Name, algorithm, model, data",
                aria_label="Find runs", type="search", maxlength="200")  # fmt: skip
            select = Tag("select", classes="field", name="state", aria_label="State")
            with select:
                for state in ("", *STATES):
                    chosen: dict[str, Any] = {"selected": True} if state == self.query.get("state", "") else {}
                    Tag("option", state or "every state", value=state, **chosen)
            for key in ("sort", "order"):
                if key in self.query:
                    Tag("input", type="hidden", name=key, value=self.query[key])
            Tag("button", "Find", "button", type="submit")
            if any(key in self.query for key in ("text", "state", "algorithm")):
                link("All runs", "/runs", "button quiet")

    def _fill(self) -> None:
        self.table.clear()
        self.lines = {}
        with self.table, Tag("div", classes="card"):
            if not self.feed.runs:
                self._empty()
                return
            around = Tag("div", classes="scroll", tabindex=0, role="region", aria_label="Table of runs")
            with around, Tag("table", classes="stack"):
                self._heads()
                with Tag("tbody"):
                    self.lines = {view["id"]: Line(self, view) for view in self.feed.runs}
            if self.feed.next is not None or "after" in self.query:
                with Tag("div", classes="row", style="margin-top:12px"):
                    if "after" in self.query:
                        link("First page", self._href(after=None), "button")
                    if self.feed.next is not None:
                        link("Next page", self._href(after=self.feed.next), "button")

    def _heads(self) -> None:
        sort, down = self.query.get("sort", "created"), self.query.get("order", "desc") == "desc"
        with Tag("thead"), Tag("tr"):
            for name, key in COLUMNS:
                mine = key == sort
                sorted_ = {"aria_sort": "descending" if down else "ascending"} if mine else {}
                with Tag("th", classes="number" if name in NUMBERS else "", scope="col", **sorted_):
                    arrow = (" ↓" if down else " ↑") if mine else ""
                    link(f"{name}{arrow}", self._href(sort=key, order="asc" if mine and down else "desc", after=None))

    def _href(self, **changes: str | None) -> str:
        found = {**self.query, **changes}
        parts = [f"{key}={quote(value, safe='')}" for key, value in found.items() if value]
        return "/runs" + (f"?{'&'.join(parts)}" if parts else "")

    def _empty(self) -> None:
        if self.query:
            with (
                nothing("No run is like that", "Look for something else, or see all of them."),
                Tag("div", classes="row"),
            ):
                link("All runs", "/runs", "button")
            return
        how = (
            "Begin the first one here, or with “cutlayer submit experiment.yaml”."
            if self.frame.acts
            else ("An operator begins one with “cutlayer submit experiment.yaml”.")
        )
        with nothing("No run yet", how):
            if self.frame.acts:
                with Tag("div", classes="row"):
                    link("New run", "/submit", "button main")

    def update(self) -> None:
        """Show what has changed; rows that come or go draw the table again."""
        if list(self.lines) != [view["id"] for view in self.feed.runs]:
            self._fill()
            self.chosen = []
            self.choose("", False)
            return
        for view in self.feed.runs:
            self.lines[view["id"]].show(view)

    def choose(self, run: str, on: bool) -> None:
        """Take a run into the comparison, or out of it."""
        self.chosen = [each for each in self.chosen if each != run] + ([run] if on else [])
        count = len(self.chosen)
        self.compare.set(disabled=True if count < 2 else None)
        self.compare.say(f"Compare {count} runs" if count > 1 else "Compare")

    def open_comparison(self) -> None:
        """Open the runs that are ticked side by side."""
        if len(self.chosen) > 1:
            self.frame.go("/compare?runs=" + ",".join(map(quote, self.chosen)))


async def build(frame: Frame, query: dict[str, str]) -> None:
    """Build the page."""
    known = ("text", "state", "algorithm", "sort", "order", "after")
    await RunsPage(frame, {key: value for key, value in query.items() if key in known and value}).build()
