"""The card with the model: where it is cut, what each side holds, what a sample sends."""

from __future__ import annotations

import json

from nicegui.element import Element

from cutlayer.report.units import format_bytes, format_count, format_share
from cutlayer.services.dashboard.charts.cut import Crossing, CutModel, Part, cut_model
from cutlayer.services.dashboard.live import RunFeed
from cutlayer.services.dashboard.views.frame import Frame
from cutlayer.services.dashboard.views.parts import Tag
from cutlayer.services.errors import NotFound, ServiceError

WHERE = {"client": "at each client", "server": "at the split servers"}


class ModelCard:
    """The model of a run, as soon as it is known."""

    def __init__(self, frame: Frame, feed: RunFeed) -> None:
        self.frame, self.feed = frame, feed
        self.known = False
        with Tag("section", classes="card w12", aria_labelledby="model-title"):
            with Tag("header"):
                Tag("h2", "The model and its cut", id="model-title")
            self.body = Element("div")
            self.said = Tag("p", "", "said")

    async def show(self) -> None:
        """Fetch and draw the model, once it is there."""
        if self.known:
            return
        try:
            picture = cut_model(json.loads(await self._text()), self.feed.view["experiment"])
        except NotFound:
            self.said.say("Nothing yet: the model is known once the clients have told what their data looks like.")
            return
        except (ServiceError, ValueError, KeyError, TypeError) as error:
            self.said.say(f"The model cannot be shown: {error}")
            return
        self.known = True
        self.body.clear()
        with self.body:
            _draw(picture)
        self.said.say(picture.summary)

    async def _text(self) -> str:
        return await self.frame.hub.source.text("runs", self.feed.run, "artifacts", "model.json")


def _draw(model: CutModel) -> None:
    with Tag("div", classes="cut"):
        for n, part in enumerate(model.parts):
            _part(part, model)
            if n < len(model.crossings):
                _crossing(model.crossings[n], model.batch_size)


def _part(part: Part, model: CutModel) -> None:
    with Tag("div", classes=f"part {part.side}"):
        Tag("h3", part.name)
        Tag("p", WHERE[part.side], "muted small")
        with Tag("dl", classes="facts", style="margin-top:8px"):
            Tag("dt", "Parameters")
            Tag("dd", f"{format_count(part.parameters)} ({format_share(part.share)})")
            Tag("dt", "Weights")
            Tag("dd", format_bytes(4.0 * part.parameters))
            if part.side == "client" and part.name == "encoder":
                Tag("dt", "Raw inputs")
                Tag("dd", "stay here")
            if part.side == model.labels and part.name in ("backbone", "head"):
                Tag("dt", "Labels")
                Tag("dd", "are here")


def _crossing(crossing: Crossing, batch: int) -> None:
    with Tag("div", classes="crossing"):
        Tag("strong", f"cut at {crossing.cut}")
        size = f"{format_bytes(crossing.sample)} a sample"
        Tag("div", f"{crossing.forward}, {size}", "arrow right")
        if crossing.backward is not None:
            Tag("div", f"{crossing.backward}, {size}", "arrow left")
        for name, shape, dtype in crossing.tensors:
            Tag("span", f"{name}: {' × '.join(map(str, shape)) or 'scalar'} {dtype}", "muted small mono")
        Tag("span", f"{format_bytes(crossing.batch)} a batch of {batch}, before a codec", "muted")
