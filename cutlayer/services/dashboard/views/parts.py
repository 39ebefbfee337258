"""Small pieces that pages are made of.  Text is text: nothing here renders what it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nicegui.element import Element
from nicegui.elements.mixins.text_element import TextElement

from cutlayer.services.dashboard.charts.chart import Chart
from cutlayer.services.dashboard.elements.chart import ChartArea


class Tag(TextElement):
    """An HTML element with text in it."""

    def __init__(self, tag: str, text: str = "", classes: str = "", **attributes: Any) -> None:
        super().__init__(tag=tag, text=text)
        if classes:
            self.classes(classes)
        for name, value in attributes.items():
            self._props[name.rstrip("_").replace("_", "-")] = value

    def set(self, **attributes: Any) -> None:
        """Give attributes other values, and tell the page if they are others; None takes one away."""
        changed = False
        for name, value in attributes.items():
            key = name.rstrip("_").replace("_", "-")
            if self._props.get(key) != value:
                changed = True
                if value is None:
                    self._props.pop(key, None)
                else:
                    self._props[key] = value
        if changed:
            self.update()

    def say(self, text: str) -> None:
        """Show another text, if it is another."""
        if self.text != text:
            self.set_text(text)

    def look(self, classes: str) -> None:
        """Have exactly these classes."""
        if self._classes != classes.split():
            self._classes[:] = classes.split()
            self.update()


class When(Tag):
    """A moment, in the viewer's zone: ``clock``, ``moment`` (with the day), ``ago``, or ``for`` (how long since)."""

    def __init__(self, at: float | None, how: str = "clock", classes: str = "number") -> None:
        super().__init__("time", "–" if at is None else "", classes)
        self._props["data-as"] = how
        if at is not None:
            self._props["data-at"] = at

    def at(self, at: float | None) -> None:
        """Show another moment."""
        if at is None:
            self.set(data_at=None)
            self.say("–")
        else:
            self.set(data_at=at)


def button(
    text: str, act: Callable[[], Any] | None = None, classes: str = "", *, label: str | None = None, **attributes: Any
) -> Tag:
    """Return a button; ``label`` is what is read out if the text does not say enough."""
    made = Tag("button", text, f"button {classes}".strip(), type="button", **attributes)
    if label is not None:
        made._props["aria-label"] = label
        made._props["title"] = label
    if act is not None:
        made.on("click", lambda _: act(), args=[])
    return made


def link(text: str, href: str, classes: str = "", **attributes: Any) -> Tag:
    """Return a link."""
    return Tag("a", text, classes, href=href, **attributes)


def svg(path: str, *, size: int = 24) -> Element:
    """Return an icon of strokes; ``path`` is ours, never what came from outside."""
    with Element("svg") as made:
        made._props.update(
            {"viewBox": f"0 0 {size} {size}", "fill": "none", "stroke": "currentColor", "stroke-width": 1.9,
             "stroke-linecap": "round", "stroke-linejoin": "round", "aria-hidden": "true"}
        )  # fmt: skip
        Element("path")._props["d"] = path
    return made


class Tile:
    """A figure with its name, and a line that says more."""

    def __init__(self, name: str) -> None:
        with Tag("div", classes="tile"):
            Tag("dt", name)
            self.value = Tag("dd", "–", "value")
            self.more = Tag("dd", "\u00a0", "more")

    def show(self, value: str, more: str = "") -> None:
        """Show a figure."""
        self.value.say(value)
        self.value.set(title=value)
        self.more.say(more or "\u00a0")
        self.more.set(title=more or None)


class ChartCard:
    """A chart in its frame: title, drawing, the sentence about it, and its data to take away."""

    def __init__(
        self,
        chart: Chart,
        classes: str,
        height: int = 260,
        *,
        csv: str | None = None,
        file: str = "",
        level: str = "h2",
    ) -> None:
        self.file = f"{file}-{chart.name}" if file else chart.name
        with Tag("figure", classes=f"card {classes}") as self.card:
            self.card._props["aria-label"] = chart.title
            with Tag("header"):
                Tag("h2", chart.title)
                self.tools = Tag("div", classes="tools")
            self.above = Element("div")
            self.area = ChartArea(chart, height)
            self.said = Tag("figcaption", "" if chart.empty else chart.summary, "said")
        with self.tools:
            png = button("PNG", classes="quiet", label=f"PNG of the chart “{chart.title}”")
            png.on("click", lambda _: self.area.export(f"{self.file}.png"), args=[])
            if csv is not None:
                csv_link = link("CSV", csv, "button quiet", download=f"{self.file}.csv")
                csv_link._props["aria-label"] = f"CSV of the data of “{chart.title}”"
                csv_link._props["title"] = csv_link._props["aria-label"]

    def show(self, chart: Chart) -> None:
        """Draw the next chart."""
        self.area.show(chart)
        self.said.say("" if chart.empty else chart.summary)


def progress(done: int, of: int, label: str) -> tuple[Tag, Tag]:
    """Return a bar of progress and what fills it."""
    bar = Tag("div", classes="progress", role="progressbar")
    with bar:
        filled = Tag("div")
    fill(bar, filled, done, of, label)
    return bar, filled


def fill(bar: Tag, filled: Tag, done: int, of: int, label: str) -> None:
    """Show how far it is."""
    share = 100.0 * min(done, of) / of if of else 0.0
    bar.set(aria_valuenow=round(share), aria_valuemin=0, aria_valuemax=100, aria_label=label)
    filled.set(style=f"width:{share:.1f}%")


def nothing(title: str, text: str) -> Tag:
    """Return what stands where there is nothing, and says what to do; more may be put into it."""
    with Tag("div", classes="empty") as found:
        Tag("h2", title)
        Tag("p", text)
    return found
