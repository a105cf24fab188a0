"""Who asks: the login check, the visitor's cookie and the refusal of requests from other sites."""

from __future__ import annotations

import inspect
import re
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

if TYPE_CHECKING:
    import gradio as gr

COOKIE = "liveavatar_visitor"
_VISITOR = re.compile(r"[0-9a-f]{32}")
_COOKIE_AGE_S = 365 * 24 * 3600


async def is_logged_in(request: Request) -> bool:
    """Return whether the page itself would be shown to this request.

    Gradio protects its own routes with `launch(auth=...)` or an `auth_dependency`, but not those that are added
    beside them. This asks the same two sources that Gradio's own check asks.
    """
    app = request.app
    if app.auth_dependency is not None:
        user = app.auth_dependency(request)
        if inspect.isawaitable(user):
            user = await user
        return user is not None
    if app.auth is None:
        return True
    cookies = request.cookies
    token = cookies.get(f"access-token-{app.cookie_id}") or cookies.get(
        f"access-token-unsecure-{app.cookie_id}"
    )
    return token in app.tokens


def is_from_another_site(request: Request) -> bool:
    """Return whether a browser sent this request on behalf of a page of another origin."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = request.headers.get("origin")
    if origin is None:
        return False  # not a browser
    hosts = {request.headers.get("host"), request.headers.get("x-forwarded-host")}
    return urlsplit(origin).netloc not in hosts


def visitor_of(cookies: Mapping[str, str]) -> str:
    """Return the visitor that the cookie names, or an empty string."""
    visitor = cookies.get(COOKIE, "")
    return visitor if _VISITOR.fullmatch(visitor) else ""


def new_visitor() -> str:
    """Return a name nobody can guess."""
    return secrets.token_hex(16)


def set_visitor_cookie(request: Request, response: Response, visitor: str) -> None:
    """Remember the visitor.

    Over https the cookie must also work inside a frame of another site, which is how a Space is shown; such a
    cookie has to be Secure, SameSite=None and Partitioned. Over http only the plain form is accepted.
    """
    scheme = request.headers.get("x-forwarded-proto", request.url.scheme).split(",")[0].strip()
    scope = "SameSite=None; Secure; Partitioned" if scheme == "https" else "SameSite=Lax"
    response.headers.append(
        "set-cookie", f"{COOKIE}={visitor}; Path=/; Max-Age={_COOKIE_AGE_S}; HttpOnly; {scope}"
    )


def owner_of_call(request: gr.Request | None, *, per_visitor: bool) -> str:
    """Return whose job a Gradio call makes: the cookie's visitor, or the API client's session.

    Everybody owns everything, and the owner is an empty string, unless `per_visitor` is set.
    """
    if not per_visitor or request is None:
        return ""
    return visitor_of(dict(request.cookies)) or f"session-{request.session_hash}"
