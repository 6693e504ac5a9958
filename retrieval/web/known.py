"""Parameters that a route knows; any other is refused."""

from __future__ import annotations

from difflib import get_close_matches

from fastapi import Request

from retrieval.web.errors import ApiError


async def known_parameters_alone(request: Request) -> None:
    """A dependency of routes: a misspelt box would give the answers of the whole picture."""
    if not request.query_params:
        return
    operations = request.app.openapi()["paths"].get(request.scope["route"].path, {})
    parameters = operations.get(request.method.lower(), {}).get("parameters", ())
    known = [parameter["name"] for parameter in parameters if parameter["in"] == "query"]
    for name in request.query_params:
        if name not in known:
            near = get_close_matches(name, known, 1, 0.5)
            hint = f" Did you mean {near[0]}?" if near else f" Known: {', '.join(known)}." if known else ""
            raise ApiError(422, f"Unknown parameter {name!r:.80}.{hint}")
