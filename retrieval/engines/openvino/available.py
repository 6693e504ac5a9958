"""Whether OpenVINO can be used on this machine. Imports nothing heavy."""

from __future__ import annotations

import platform

from retrieval.system.installed import importable


def unsupported() -> str | None:
    """Why OpenVINO cannot be used on this machine; None where it can. Imports nothing heavy."""
    if platform.machine().lower() not in ("x86_64", "amd64", "arm64", "aarch64"):
        return f"it is not made for {platform.machine()} processors"
    return None if importable("openvino") else "it is not installed: pip install openvino"
