"""One span per request, the child of the caller's if it sent a ``traceparent``."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cutlayer.services import tracing


class Tracing:
    """Puts every request of ``app`` into the trace of its caller, under the name of its route."""

    def __init__(self, app: ASGIApp, service: str) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with tracing.served(f"{self.service} {scope['method']}", Headers(scope=scope)) as span:

            async def noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    route = getattr(scope.get("route"), "path", None)
                    if route is not None:
                        span.update_name(f"{scope['method']} {route}")
                await send(message)

            await self.app(scope, receive, send if span is None else noted)
