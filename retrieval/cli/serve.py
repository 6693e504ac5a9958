"""``retrieve serve``."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import click

from retrieval.cli.common import engine_option, say, teller, verbosity_options
from retrieval.cli.grouped import GroupedCommand
from retrieval.errors import RetrievalError, UsageError
from retrieval.system.installed import importable


@click.command("serve", cls=GroupedCommand)
@click.option(
    "--index",
    "index",
    metavar="DIR",
    multiple=True,
    help="A gallery, in a folder or on a server; may be given several times.",
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Where to listen; other than this machine: with a token."
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option(
    "--name", "names", multiple=True, metavar="NAME", help="A further name that browsers reach this server by."
)
@click.option("--open", "show", is_flag=True, help="Open the page in the browser.")
@engine_option
@verbosity_options
def command(
    index: tuple[str, ...],
    host: str,
    port: int,
    names: tuple[str, ...],
    show: bool,
    engine: str,
    quiet: bool,
    verbose: int,
) -> None:
    """Serve a page for searching, and the same as a JSON API, until interrupted.

    Only this machine can ask unless --host says otherwise; then every request needs the token that is printed
    ($RETRIEVE_TOKEN, or a new one). Files are never changed, and only pictures of the gallery are shown.
    Meanwhile `retrieve query` asks it instead of loading the model, which saves most of its time.
    """
    missing = [name for name in ("fastapi", "uvicorn", "jinja2") if not importable(name)]
    if missing:
        raise UsageError(f"the page needs {', '.join(missing)}", "Install it with: pip install 'retrieval[web]'.")
    from retrieval.backends.served import ServedGallery
    from retrieval.gallery.address import served_address
    from retrieval.gallery.gallery import Gallery
    from retrieval.resident.answer import answering
    from retrieval.web.serve import listen, serve
    from retrieval.web.settings import WebSettings, given_token

    settings = WebSettings(host=host, port=port, token=given_token(), names=names)
    if not settings.local and settings.token is None:
        settings = replace(settings, token=secrets.token_urlsafe(24))
    with ExitStack() as stack:
        galleries: list[Gallery | ServedGallery] = []
        for named in index or (None,):
            address = served_address(named)
            opened: Gallery | ServedGallery
            if address is not None:
                opened = ServedGallery.open(address, engine=engine, say=teller(quiet))
            else:
                opened = Gallery.open(named, engine=engine, warn=teller(quiet, "warning: "))
            stack.push(opened)
            galleries.append(opened)
        listener = stack.enter_context(listen(host, port))
        for gallery in galleries:
            gallery.model.engine()  # once, before the first question
        settings = replace(settings, port=listener.getsockname()[1])
        shown = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        page = f"http://{shown}:{settings.port}/"
        api = f"JSON API: {page}api (docs/web.md)"
        if settings.token is not None:
            page += f"?token={settings.token}"

        def ready() -> None:
            print(page, flush=True)
            say(f"{api}. Ctrl-C ends it.", quiet)
            if shown == "localhost" != host:
                say("From another machine: the name or address of this one in place of localhost.", quiet)
            if show:
                import webbrowser

                webbrowser.open(page)

        stack.enter_context(_ending_by_signal())
        stack.enter_context(answering([gallery for gallery in galleries if isinstance(gallery, Gallery)]))
        try:
            serve(galleries, settings, listener, ready)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("ended") from None
        except OSError as error:
            raise RetrievalError(f"the server stopped: {error.strerror or error}") from error


@contextmanager
def _ending_by_signal() -> Iterator[None]:
    """SIGTERM, by which services are ended, goes through what is to be tidied up, as Ctrl-C does."""

    def ended(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, ended)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
