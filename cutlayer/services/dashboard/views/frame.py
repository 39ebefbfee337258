"""What every page has: header with the places to go, the banner of a backend that is away, notes, sign-out."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

from nicegui import ui
from nicegui.client import Client
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from cutlayer.services.dashboard.feed import Changed, Feed
from cutlayer.services.dashboard.gate import SCOPE
from cutlayer.services.dashboard.hub import Hub, Hubs
from cutlayer.services.dashboard.session import Session
from cutlayer.services.dashboard.source import Away
from cutlayer.services.dashboard.views.parts import Tag, When, button, link, nothing, svg
from cutlayer.services.errors import NotFound, ServiceError, Unauthorized

SUN = (
    "M12 3v2M12 19v2M4.2 4.2l1.5 1.5M18.3 18.3l1.5 1.5M3 12h2M19 12h2M4.2 19.8l1.5-1.5M18.3 5.7l1.5-1.5"
    "M12 8a4 4 0 100 8 4 4 0 000-8z"
)
PLACES = (("Runs", "/runs"), ("System", "/system"), ("New run", "/submit"))
HEAD = """<meta name="referrer" content="no-referrer"><link rel="stylesheet" href="/static/page.css?{version}">
<script src="/static/page.js?{version}"></script>"""

NOTED = 8.0
"""Seconds that a note stays."""

Content = Callable[["Frame"], Awaitable[None]]


class Frame:
    """A page that somebody looks at.  ``body`` is where its content goes."""

    def __init__(self, request: Request, hubs: Hubs, version: str, title: str, place: str) -> None:
        self.session: Session = request.scope[SCOPE]
        self.hub: Hub = hubs.of(self.session)
        self.client: Client = ui.context.client
        self.title = title
        self._left: list[Callable[[], None]] = []
        ui.page_title(f"{title} · cutlayer")
        ui.add_head_html(HEAD.format(version=version))
        self._header(place)
        with Tag("div") as self.body:
            pass
        ui.skip_link("Skip to the content", target=self.body)
        self._note = Tag("div", "", "note", role="status", aria_live="polite")
        self.client.delete_handlers.append(self._leave)
        self.session.ended.add(self._signed_out)
        self.leaving(lambda: self.session.ended.discard(self._signed_out))
        self.reached(self._reached)
        self._reached()

    @property
    def acts(self) -> bool:
        """Whether this page has buttons that change something."""
        return self.session.acts

    def leaving(self, act: Callable[[], None]) -> None:
        """Do something when the page is left."""
        self._left.append(act)

    def reached(self, told: Callable[[], None]) -> None:
        """Call ``told`` when the backend goes away or is back, until the page is left."""
        self.hub.source.told.add(told)
        self.leaving(lambda: self.hub.source.told.discard(told))

    def watch(self, feed: Feed, changed: Changed) -> None:
        """Tell ``changed`` what changes, until the page is left."""
        self.leaving(feed.watch(changed))

    def call(self, script: str, *values: Any) -> None:
        """Call a function of the page with values."""
        self.client.run_javascript(f"({script})({', '.join(json.dumps(value) for value in values)})")

    def note(self, text: str) -> None:
        """Show a sentence for a while."""
        self._note.say(text)
        asyncio.get_running_loop().call_later(NOTED, self._forget, text)

    def _forget(self, text: str) -> None:
        if not self.client.is_deleted and self._note.text == text:
            self._note.say("")

    async def act(self, what: Callable[[], Awaitable[Any]], said: str) -> bool:
        """Do what a button is for and say that it is done, or why not."""
        try:
            await what()
        except ServiceError as error:
            self.note(f"That did not work: {error}")
            return False
        self.note(said)
        return True

    def go(self, path: str) -> None:
        """Open another page of the dashboard."""
        self.call("(path) => { location.href = path; }", path)

    def _header(self, place: str) -> None:
        with ui.header(fixed=False, wrap=False, add_scroll_padding=False).classes("page-header") as header:
            with Tag("div", classes="bar"):
                with Tag("a", classes="brand", href="/runs"):
                    Tag("img", classes="mark", src="/static/mark.svg", alt="")
                    Tag("span", "cutlayer")
                with Tag("nav", aria_label="Main"):
                    for name, path in PLACES:
                        if path != "/submit" or self.acts:
                            link(name, path, **({"aria_current": "page"} if path == place else {}))
                with Tag("div", classes="right"):
                    Tag("span", self.session.role, "who", title=f"Signed in with the token of a {self.session.role}")
                    with button("", classes="icon", label="Theme", id="theme"):
                        svg(SUN)
                    if not self.session.public:
                        with Tag("form", method="post", action="/sign-out"):
                            Tag("button", "Sign out", "button quiet", type="submit")
            self._banner = Tag("div", classes="banner", role="status")
            with self._banner, Tag("div"):
                Tag("span", "The backend is away since ")
                self._since = When(None)
                Tag("span", ", trying again. What you see is what was there before; runs go on as far as they can.")
        header._props["aria-label"] = "cutlayer"

    def _reached(self) -> None:
        absence = self.hub.source.absence
        self._since.at(absence.since if absence is not None else None)
        self._banner.set(style=None if absence is not None else "display:none")

    def _signed_out(self) -> None:
        self.call("() => setTimeout(() => location.reload(), 500)")  # who signs out here is on the way already

    def _leave(self) -> None:
        for act in self._left:
            act()
        self._left.clear()


async def shown(
    request: Request, hubs: Hubs, version: str, title: str, place: str, content: Content
) -> Response | None:
    """Build a page; where that is not possible, it says why and what to do.

    Returns the way to sign in where the backend does not know the token any more.
    """
    frame = Frame(request, hubs, version, title, place)
    frame.call("(now) => window.cutlayer.clock(now)", time.time())
    try:
        with frame.body:
            await content(frame)
    except Unauthorized:
        return RedirectResponse(f"/sign-in?next={quote(request.url.path, safe='')}", 303)
    except Away as error:
        _instead(frame, "The backend does not answer", f"{error}. This page comes by itself when it is back.")
        frame.call("() => setTimeout(() => location.reload(), 2000)")
    except NotFound as error:
        frame.client.status_code = 404
        _instead(frame, "There is nothing here", f"{str(error)[0].upper()}{str(error)[1:]}.")
    except ServiceError as error:
        _instead(frame, "This page cannot be shown", f"{error}")
    return None


def _instead(frame: Frame, title: str, text: str) -> None:
    frame.body.clear()
    with frame.body:
        Tag("h1", title, "visually-hidden")
        with Tag("div", classes="card", style="margin-top:24px"), nothing(title, text), Tag("div", classes="row"):
            link("All runs", "/runs", "button")
