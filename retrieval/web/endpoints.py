"""What the JSON API answers to, in short: for whoever asks at its root."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request

from retrieval.version import __version__
from retrieval.web import forms
from retrieval.web.known import known_parameters_alone

router = APIRouter(responses=forms.ERRORS, dependencies=[Depends(known_parameters_alone)])


@router.get("/api", response_model=forms.ApiForm, summary="What can be asked")
async def endpoints(request: Request) -> Any:
    """Every route in a line; their parameters are in /api/openapi.json."""
    schema = request.app.openapi()
    told = [
        {"method": method.upper(), "path": path, "summary": operation["summary"]}
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
    ]
    return {"version": __version__, "details": request.app.openapi_url, "endpoints": told}
