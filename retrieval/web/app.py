"""The application: routes, the door before them, and the page."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, select_autoescape
from starlette.requests import ClientDisconnect
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retrieval.backends.served import ServedGallery
from retrieval.gallery.gallery import Gallery
from retrieval.version import __version__
from retrieval.web import endpoints, errors
from retrieval.web.api import router
from retrieval.web.guard import Guard
from retrieval.web.settings import WebSettings
from retrieval.web.state import WebState

_HERE = Path(__file__).parent
_VIEWS = ("/", "/gallery", "/duplicates", "/map")


def create_app(galleries: Sequence[Gallery | ServedGallery], settings: WebSettings | None = None) -> FastAPI:
    """The ASGI application that serves these galleries, which stay open and the caller's."""
    settings = settings or WebSettings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        app.state.web.close()

    app = FastAPI(
        title="retrieval",
        version=__version__,
        description="Find pictures by pictures: the same thing, how sure that is, and why. A gallery that a server keeps offers "
        "less: see `offers` of `/api/stats`; the rest is refused with the code `not_offered`.",
        docs_url=None,  # their scripts would come from another host
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=lifespan,
    )
    app.state.web = WebState(galleries, settings)
    errors.install(app)
    app.include_router(endpoints.router)
    app.include_router(router)
    pages = Environment(loader=FileSystemLoader(_HERE / "templates"), autoescape=select_autoescape(default=True))

    async def page(request: Request) -> HTMLResponse:
        web: WebState = request.app.state.web
        web.warm(request.query_params.get("gallery"))
        text = pages.get_template("page.html").render(
            galleries=[
                {"name": name, "verdicts": served.verdicts, "offers": " ".join(sorted(served.offers))}
                for name, served in web.galleries.items()
            ],
            most=settings.limits.results,
            megabytes=settings.limits.upload_bytes >> 20,
            version=__version__,
        )
        return HTMLResponse(text, headers={"Cache-Control": "no-cache"})

    for view in _VIEWS:
        app.add_api_route(view, page, methods=["GET"], include_in_schema=False)
    app.mount("/static", _Static(directory=_HERE / "static"), name="static")
    app.add_middleware(_Counted, state=app.state.web)
    app.add_middleware(Guard, settings=settings)
    return app


class _Static(StaticFiles):
    """Files of the package; a browser asks whether they changed."""

    def file_response(self, *arguments, **options):
        response = super().file_response(*arguments, **options)
        response.headers.setdefault("Cache-Control", "no-cache")
        return response


class _Counted:
    """Counts requests by the template of their route."""

    def __init__(self, app: ASGIApp, state: WebState) -> None:
        self.app, self.state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.monotonic(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noting)
        except ClientDisconnect:
            status = 499
        finally:
            route = getattr(scope.get("route"), "path", None) or "other"
            self.state.metrics.count(route, status, time.monotonic() - started)
