"""Sign-in and sign-out: plain pages, which need no script, so that a token is typed into nothing but a form."""

from __future__ import annotations

import html
import math
from string import Template
from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from cutlayer.services.dashboard.gate import cookie_name, cookie_of, same_origin
from cutlayer.services.dashboard.hub import Hubs
from cutlayer.services.dashboard.session import Attempts, Sessions
from cutlayer.services.errors import Forbidden, ServiceError, Unauthorized
from cutlayer.services.web import request_id

LONGEST = 4096
"""Bytes of a form."""

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign in · cutlayer</title>
<link rel="icon" href="/static/mark.svg">
<link rel="stylesheet" href="/static/page.css?$version">
<script src="/static/page.js?$version"></script>
</head>
<body>
<main class="sign-in">
<div class="card">
<span class="brand"><img class="mark" src="/static/mark.svg" alt="">cutlayer</span>
<h1 style="margin-top:16px">Sign in</h1>
<p class="muted small" style="margin-top:6px">With an operator's token you see and steer the runs, with a viewer's you
see them. <code class="mono">cutlayer token viewer NAME</code> makes one; on the machine of
<code class="mono">cutlayer up</code> the operator's is in <code class="mono">.cutlayer/tokens/operator</code>.</p>
<form method="post" action="/sign-in">
$error
<input type="hidden" name="next" value="$next">
<label for="token">Token</label>
<input class="field mono" id="token" name="token" type="password" required maxlength="200" autofocus spellcheck="false"
 autocomplete="off" placeholder="cl_op_… or cl_view_…">
<button class="button main" style="justify-content:center">Sign in</button>
</form>
</div>
<p class="muted small" style="margin-top:14px">The token stays in this server's memory and ends with it, or 12 hours
after you were last here.</p>
</main>
</body>
</html>
""")


def local(target: str) -> str:
    """Return ``target`` if it is a path of this dashboard, else the first page."""
    parts = urlsplit(target)
    plain = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if plain and not parts.scheme and not parts.netloc and parts.path != "/sign-in" else "/runs"


def routes(sessions: Sessions, hubs: Hubs, attempts: Attempts, version: str, public: bool) -> list[Route]:
    """Return the routes ``/sign-in`` and ``/sign-out``."""

    def page(target: str, error: str = "", status: int = 200) -> HTMLResponse:
        said = f'<p class="error" role="alert">{html.escape(error)}</p>' if error else ""
        return HTMLResponse(PAGE.substitute(version=version, error=said, next=html.escape(target)), status)

    async def show(request: Request) -> Response:
        target = local(request.query_params.get("next", "/runs"))
        if public or sessions.find(cookie_of(request.scope)) is not None:
            return RedirectResponse(target, 303)
        return page(target)

    async def sign_in(request: Request) -> Response:
        form = parse_qs((await request.body())[:LONGEST].decode("utf-8", "replace"), keep_blank_values=True)
        token = form.get("token", [""])[0].strip()
        target = local(form.get("next", ["/runs"])[0])
        address = request.client.host if request.client else "unknown"
        if not same_origin(request.headers):
            return page(target, "This form came from another site; please use this one.", 403)
        wait = attempts.wait(address)
        if wait > 0:
            return page(target, f"Too many wrong tokens from here: try again in {math.ceil(wait)} s.", 429)
        try:
            role = await hubs.role_of(token)
        except (Unauthorized, Forbidden) as error:
            attempts.note(address)
            return page(target, f"The backend does not accept this token: {error}.", 401)
        except ServiceError as error:
            return page(target, f"{str(error)[0].upper()}{str(error)[1:]}. Try again in a moment.", 503)
        sessions.close(cookie_of(request.scope))
        cookie, _ = sessions.open(token, role)
        answer = RedirectResponse(target, 303)
        answer.set_cookie(
            cookie_name(request.scope), cookie, httponly=True, samesite="strict", secure=request.url.scheme == "https"
        )
        return answer

    async def sign_out(request: Request) -> Response:
        if not same_origin(request.headers):
            return page("/runs", f"This request came from another site (request {request_id()}).", 403)
        sessions.close(cookie_of(request.scope))
        answer = RedirectResponse("/sign-in", 303)
        answer.delete_cookie(cookie_name(request.scope), httponly=True, samesite="strict")
        return answer

    return [
        Route("/sign-in", show, methods=["GET"]),
        Route("/sign-in", sign_in, methods=["POST"]),
        Route("/sign-out", sign_out, methods=["POST"]),
    ]
