"""Where a figure was measured: the machine and the versions, for the files that figures are written to."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "faiss-cpu", "openvino")


def environment() -> dict[str, Any]:
    """Date (UTC), versions, processor, its number of cores; torch's threads and device where torch is at work. Plain data for
    JSON."""
    from retrieval.version import __version__

    found: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "retrieval": __version__,
        "python": platform.python_version(),
        **{name: number for name in _PACKAGES if (number := _version(name)) is not None},
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
    }
    if (torch := sys.modules.get("torch")) is not None:
        found["threads"] = torch.get_num_threads()
        found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
