"""Nothing but the sign-in page is shown to who has not signed in; neither page nor socket."""

from __future__ import annotations

from http.cookies import CookieError, SimpleCookie
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cutlayer.services.dashboard.session import Session, Sessions

OPEN = ("/sign-in", "/static/", "/_nicegui/", "/healthz", "/readyz", "/metrics", "/favicon.ico")
"""What needs no session: nothing of it says anything about runs."""
SCOPE = "cutlayer.session"
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
"""No page loads anything from elsewhere; the framework's own templates need inline scripts."""


def cookie_name(scope: Scope) -> str:
    """Return the name of the cookie: cookies belong to a host, and a host may have several dashboards."""
    server = scope.get("server") or (None, 0)
    return f"cutlayer_dashboard_{server[1] or 0}"


def cookie_of(scope: Scope) -> str:
    """Return the cookie that a request brings, empty if none."""
    jar: SimpleCookie = SimpleCookie()
    try:
        jar.load(Headers(scope=scope).get("cookie", ""))
    except CookieError:
        return ""
    found = jar.get(cookie_name(scope))
    return found.value if found is not None else ""


def same_origin(headers: Headers) -> bool:
    """Say whether a request comes from a page of this dashboard, as far as the browser tells."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2] == headers.get("host")


class Gate:
    """Puts the session of a request into its scope, and turns away who has none.

    ``public`` is the session of everybody where the dashboard has a viewer's token of its own.
    """

    def __init__(self, app: ASGIApp, sessions: Sessions, public: Session | None = None) -> None:
        self.app, self.sessions, self.public = app, sessions, public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        session = self.sessions.find(cookie_of(scope)) or self.public
        scope[SCOPE] = session
        path: str = scope["path"]
        if scope["type"] == "websocket":
            if session is None or not same_origin(Headers(scope=scope)):
                await receive()
                await send({"type": "websocket.close", "code": 4401})
                return
            await self.app(scope, receive, send)
            return
        if session is None and not any(path == each or (each[-1] == "/" and path.startswith(each)) for each in OPEN):
            await self._turned_away(scope)(scope, receive, send)
            return

        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if headers.get("content-type", "").startswith("text/html"):
                    headers["Content-Security-Policy"] = POLICY
            await send(message)

        await self.app(scope, receive, with_policy)

    def _turned_away(self, scope: Scope) -> Response:
        if scope["method"] == "GET" and "text/html" in Headers(scope=scope).get("accept", ""):
            target = scope["path"]
            if scope.get("query_string"):
                target += "?" + scope["query_string"].decode("latin-1")
            return RedirectResponse(f"/sign-in?next={quote(target, safe='')}", 303)
        return PlainTextResponse("sign in first\n", 401)
