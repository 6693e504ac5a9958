"""The door: who may ask (Host, Origin, token), and the headers that every answer carries.

A page of another site can make a browser send requests here. It cannot choose ``Host``, so a foreign name that was bent to
this machine's address (DNS rebinding) is refused; it cannot hide ``Origin`` and ``Sec-Fetch-Site``, so its scripts are
refused; and what it embeds is refused by ``Cross-Origin-Resource-Policy``.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retrieval.web.errors import error_body
from retrieval.web.settings import WebSettings

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), interest-cohort=()",
}
_OPEN = ("/healthz",)
_LOGIN = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Token needed</title>
<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="stylesheet" href="/static/app.css"></head>
<body class="login"><main><h1>This gallery asks for a token</h1>
<p>It was printed where <code>retrieve serve</code> was started.</p>
<form method="get" action="/"><label>Token <input name="token" type="password" autocomplete="off" required></label>
<button class="primary">Open</button></form></main></body></html>"""


class Guard:
    """ASGI middleware. Let through is what comes from here, or carries the token."""

    def __init__(self, app: ASGIApp, settings: WebSettings) -> None:
        self.app, self.settings = app, settings
        self.names = {name.lower() for name in ("localhost", *settings.names)}
        if not settings.local:
            self.names |= {socket.gethostname().lower(), settings.host.lower()}
        self.cookie = f"retrieve-{settings.port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # no web sockets here
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        await (self.app if refusal is None else refusal)(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._known(hosts[0]):
            return _error(
                421, "wrong_host", "This server is not known by that name; retrieve serve --name NAME adds one."
            )
        origins = headers.getlist("origin")
        if any(origin.lower() not in _origins(hosts[0]) for origin in origins):
            return _error(403, "foreign_origin", "Another site may not ask this server.")
        page = scope["method"] in ("GET", "HEAD") and headers.get("sec-fetch-mode", "navigate") == "navigate"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not page:
            return _error(403, "foreign_origin", "Another site may not ask this server.")
        if self.settings.token is None or scope["path"] in _OPEN or scope["path"] == "/static/app.css":
            return None
        return self._without_token(scope, headers)

    def _without_token(self, scope: Scope, headers: Headers) -> Response | None:
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._right(bearer.strip()):
            return None
        if self._right(self._of_cookie(headers.getlist("cookie"))):
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        asks_page = scope["method"] == "GET" and "text/html" in headers.get("accept", "")
        if asks_page and any(self._right(value) for name, value in query if name == "token"):
            # Out of the address at once: addresses are kept in histories and shared.
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            path = "/" + scope["path"].lstrip("/")  # never "//other.site"
            answer = RedirectResponse(f"{path}?{rest}" if rest else path, 303)
            answer.set_cookie(
                self.cookie, self.settings.token or "", httponly=True, samesite="strict", path="/", max_age=30 * 86400
            )
            return answer
        if asks_page:
            return HTMLResponse(_LOGIN, 401)
        return _error(
            401, "token_needed", "Send the token: Authorization: Bearer TOKEN.", {"WWW-Authenticate": "Bearer"}
        )

    def _right(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), (self.settings.token or "").encode())

    def _of_cookie(self, values: Iterable[str]) -> str:
        for value in values:
            try:
                jar = SimpleCookie(value)
            except CookieError:
                continue
            if self.cookie in jar:
                return jar[self.cookie].value
        return ""

    def _known(self, host: str) -> bool:
        """Whether ``Host`` names this server. An address can be no name that was bent to it; on this machine it must be one of
        its own."""
        try:
            parts = urlsplit(f"//{host}")
            name, port = parts.hostname or "", parts.port
        except ValueError:
            return False
        if parts.path or parts.query or parts.fragment or parts.username is not None:
            return False
        if (port or 80) != self.settings.port and not self.settings.names:
            return False
        if name in self.names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback if self.settings.local else True


def _origins(host: str) -> tuple[str, str]:
    return f"http://{host.lower()}", f"https://{host.lower()}"


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(error_body(code, message), status, headers=headers)
