"""Whether OpenVINO can be used on this machine. Imports nothing heavy."""

from __future__ import annotations

import importlib.util
import platform


def unsupported() -> str | None:
    """Why OpenVINO cannot be used on this machine; None where it can. Imports nothing heavy."""
    if platform.machine().lower() not in ("x86_64", "amd64", "arm64", "aarch64"):
        return f"it is not made for {platform.machine()} processors"
    try:
        found = importlib.util.find_spec("openvino") is not None
    except (ImportError, ValueError):
        found = False
    return None if found else "it is not installed: pip install openvino"
