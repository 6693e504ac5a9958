"""Answers and explanations as JSON has them, and what is looked at before an upload is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.gallery.answers import Match
from retrieval.gallery.explaining import WhyMatched
from retrieval.models.spec import ModelSpec
from retrieval.pictures.imaging import picture_size
from retrieval.web.errors import ApiError
from retrieval.web.settings import WebSettings


def told_why(found: WhyMatched, heads: bool = False) -> dict[str, Any]:
    """An explanation as JSON has it; ``heads``: with the attention of each head."""

    def grid(terms: npt.NDArray[np.float64] | None) -> dict[str, Any] | None:
        if terms is None:
            return None
        return {"rows": terms.shape[0], "columns": terms.shape[1], "terms": terms.round(9).tolist()}

    def attention(weights: npt.NDArray[np.float64]) -> dict[str, Any]:
        return {
            "rows": weights.shape[1],
            "columns": weights.shape[2],
            "heads": len(weights),
            "mean": weights.mean(axis=0).round(7).tolist(),
            "of_heads": weights.round(7).tolist() if heads else None,
        }

    both = None
    if found.query_attention is not None and found.attention is not None:
        both = {"query": attention(found.query_attention), "picture": attention(found.attention)}

    points = None if found.points is None else found.points.round(5).tolist()
    return {
        "cosine": found.cosine,
        "query": grid(found.query_terms),
        "picture": grid(found.terms),
        "points": points,
        "attention": both,
    }


def judged(match: Match) -> dict[str, Any]:
    out = {
        "rank": match.rank,
        "score": match.score,
        "metadata": match.metadata,
        "local": match.local,
        "fused": match.fused,
        "inliers": match.inliers,
        "probability": match.probability,
        "verdict": match.verdict,
        "copies": len(match.copies),
    }
    if hasattr(match, "rerank_score"):
        out["rerank_score"] = match.rerank_score
    return out


def check_upload(data: bytes, spec: ModelSpec, settings: WebSettings) -> None:
    """By the picture's header alone. Raises ImageError, ApiError 413."""
    width, height = picture_size(data, exif=spec.image.exif)
    if width * height > settings.limits.upload_pixels:
        most = settings.limits.upload_pixels // 1_000_000
        raise ApiError(413, f"The picture has {width} x {height} pixels; {most} million are the most.")


def told_apart(names: Iterable[str]) -> list[str]:
    """Names with a number behind those that stood before."""
    out: list[str] = []
    for name in names:
        label, number = name, 2
        while label in out:
            label, number = f"{name}-{number}", number + 1
        out.append(label)
    return out


def shown(text: str) -> str:
    """A name as JSON can carry it: bytes that are no text are replaced."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
