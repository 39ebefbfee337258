"""Headers that tell browsers to trust nothing they need not."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_DATA = "default-src 'none'; frame-ancestors 'none'"
_PAGE = "frame-ancestors 'none'; base-uri 'none'; form-action 'self'; object-src 'none'"
_TWO_YEARS = "max-age=63072000"


class SecurityHeaders:
    """Adds what the application did not set itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _ALWAYS.items():
                    headers.setdefault(name, value)
                page = headers.get("content-type", "").startswith("text/html")
                headers.setdefault("Content-Security-Policy", _PAGE if page else _DATA)
                if scope.get("scheme") == "https":
                    headers.setdefault("Strict-Transport-Security", _TWO_YEARS)
            await send(message)

        await self.app(scope, receive, send_with_headers)
