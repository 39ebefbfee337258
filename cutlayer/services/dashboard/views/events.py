"""The card with what happened, in words."""

from __future__ import annotations

from typing import Any

from cutlayer.services.dashboard import words
from cutlayer.services.dashboard.elements.events import EventList
from cutlayer.services.dashboard.live import RunFeed
from cutlayer.services.dashboard.views.frame import Frame
from cutlayer.services.dashboard.views.parts import Tag
from cutlayer.services.errors import ServiceError

PAGE = 100


class EventsCard:
    """The events of a run, the newest first, narrowed down if one wants."""

    def __init__(self, frame: Frame, feed: RunFeed) -> None:
        self.frame, self.feed = frame, feed
        self.group = "everything"
        self.newest = max((event["id"] for event in feed.events), default=0)
        with Tag("section", classes="card w12", aria_labelledby="events-title"):
            with Tag("header"):
                Tag("h2", "Events", id="events-title")
                select = Tag("select", classes="field", aria_label="Which events")
                with select:
                    for group in words.GROUPS:
                        Tag("option", group, value=group)
                select.on("change", lambda e: self._narrow(str(e.args)), js_handler="(e) => emit(e.target.value)")
            self.list = EventList(self._rows(feed.events), self._older)

    def show(self) -> None:
        """Add what is new."""
        fresh = [event for event in self.feed.events if event["id"] > self.newest]
        self.newest = max((event["id"] for event in fresh), default=self.newest)
        kinds = words.GROUPS[self.group]
        self.list.add(self._rows([event for event in fresh if not kinds or event["kind"] in kinds]))

    async def _narrow(self, group: str) -> None:
        self.group = group if group in words.GROUPS else "everything"
        self.list.replace(self._rows(await self._fetched(None)))

    async def _older(self, before: int) -> None:
        self.list.extend(self._rows(await self._fetched(before)))

    async def _fetched(self, before: int | None) -> list[dict[str, Any]]:
        kinds = ",".join(words.GROUPS[self.group]) or None
        try:
            found: list[dict[str, Any]] = await self.frame.hub.source.get(
                "events", "newest", run=self.feed.run, before=before, limit=PAGE, kinds=kinds
            )
        except ServiceError as error:
            self.frame.note(f"Older events cannot be had now: {error}")
            return []
        return found

    def _rows(self, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        names = {m["client_id"]: m["name"] for m in self.feed.view.get("members", ())}
        said = [(event, *words.sentence(event, names)) for event in events]
        return [{"id": event["id"], "at": event["time"], "text": text, "mood": mood} for event, text, mood in said]
