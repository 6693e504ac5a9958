"""What a request that failed is answered with: a status, a code that stays the same, a sentence without the server's paths."""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from retrieval.errors import BoxError, GalleryDamaged, GalleryError, ImageError, RetrievalError, UsageError
from retrieval.messages import log, safe

_PATH = re.compile(r"(?:(?<![\w/.<])|(?<=file:))/[^\s,;:)'\"]+")
_CODES = {
    400: "bad_request",
    401: "token_needed",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    413: "too_large",
    415: "unsupported_type",
    422: "invalid",
    429: "busy",
    503: "busy",
}


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(
        self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers
        self.code = code or _CODES.get(status, "error")


def error_body(code: str, message: str) -> dict[str, Any]:
    """The body that every error has."""
    return {"error": {"code": code, "message": message}}


def public(message: str) -> str:
    """A message without paths of this machine, in one line."""
    return safe(" ".join(_PATH.sub("[path]", message).split()))[:300]


def as_api_error(error: RetrievalError) -> ApiError:
    """What an error of the program is to whoever asked over the network."""
    if isinstance(error, ImageError):
        return ApiError(422, public(str(error)), "unreadable_picture")
    if isinstance(error, BoxError):
        return ApiError(422, public(str(error)), "invalid_box")
    if isinstance(error, UsageError):
        return ApiError(400, public(str(error)), "bad_request")
    if isinstance(error, GalleryDamaged):
        return ApiError(503, "The gallery is damaged; `retrieve info` on the server tells how.", "gallery_damaged")
    if isinstance(error, GalleryError):
        return ApiError(503, "The gallery cannot be read at present.", "gallery_unavailable")
    return ApiError(500, "The server could not do this; its log tells why.", "failed")


def unreadable(error: ImageError) -> ApiError:
    """The same of a picture of the gallery, which is not what was sent: without its name."""
    return ApiError(422, f"The picture cannot be read: {error.message}", "unreadable_picture")


def install(app: FastAPI) -> None:
    """Answer every kind of error in the one form."""

    def answer(error: ApiError) -> JSONResponse:
        return JSONResponse(error_body(error.code, error.message), error.status, headers=error.headers)

    @app.exception_handler(ApiError)
    async def _api(_: Request, error: ApiError) -> JSONResponse:
        return answer(error)

    @app.exception_handler(RetrievalError)
    async def _ours(_: Request, error: RetrievalError) -> JSONResponse:
        if not isinstance(error, ImageError | UsageError):
            log().warning("%s", error)
        return answer(as_api_error(error))

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part not in ("query", "path", "body"))
        return answer(ApiError(422, public(f"{where or 'request'}: {first['msg']}")))

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers) if error.headers else None
        if error.status_code == 404:
            return answer(ApiError(404, "There is nothing at this address; GET /api lists the routes."))
        return answer(ApiError(error.status_code, public(str(error.detail)), headers=headers))

    @app.exception_handler(Exception)
    async def _unexpected(_: Request, error: Exception) -> JSONResponse:
        log().error("unexpected %s", type(error).__name__, exc_info=error)
        return answer(ApiError(500, "The server met something unexpected; its log tells what.", "unexpected"))
