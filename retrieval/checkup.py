"""What of a machine matters here, looked at without importing anything heavy: a line each, and what to do where it is wrong."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from retrieval.messages import human_bytes
from retrieval.system.caches import cache_folder
from retrieval.system.installed import importable, versions_of
from retrieval.system.processor import allowed_cores, has_bf16, has_vnni, processor_flags

State = Literal["ok", "note", "problem"]

# As setup.cfg has them, which a test compares.
REQUIRED = {
    "torch": (2, 4),
    "torchvision": (0, 19),
    "timm": (1, 0),
    "faiss-cpu": (1, 8),
    "numpy": (1, 24),
    "pillow": (10, 4),
    "opencv-python-headless": (4, 8),
    "openvino": (2024, 4),
}
# Extra -> what is imported for it, and what it brings.
EXTRAS = {
    "heif": (("pillow_heif",), "HEIC pictures of phones"),
    "web": (("fastapi", "uvicorn", "jinja2"), "the page and JSON API of `retrieve serve`"),
    "int8": (("nncf",), "`index --precision int8`"),
    "parquet": (("pyarrow",), "`export` and `import` of Parquet"),
    "parts": (("pyarrow", "fsspec"), "`describe` into parts, also in object stores"),
    "pgvector": (("psycopg", "pgvector"), "galleries in PostgreSQL"),
    "milvus": (("pymilvus",), "galleries in Milvus"),
    "ray": (("ray",), "`describe --on ray`"),
    "losses": (("pytorch_metric_learning",), "`train --loss pml:NAME`"),
    "tensorboard": (("tensorboard",), "`train --tensorboard`"),
}
_ROOM = 1 << 30  # bytes; a prepared model takes some hundred million
_ABILITIES = {"AVX2": ("avx2",), "AVX-512": ("avx512f",), "AMX": ("amx_tile",), "NEON": ("asimd",)}


@dataclass(frozen=True)
class Finding:
    """One line: ``what`` was looked at, what is ``told`` of it, and what to ``do`` about it where it is no "ok"."""

    state: State
    what: str
    told: str
    do: str = ""


def look_at_python() -> Finding:
    return Finding("ok", "python", f"{platform.python_version()}, {sys.executable}")


def look_at_packages() -> list[Finding]:
    """The versions of what everything rests on. OpenVINO may be missing: torch is slower in its place."""
    found = []
    for (name, least), version in zip(REQUIRED.items(), versions_of(list(REQUIRED)), strict=True):
        wanted = ".".join(map(str, least))
        install = f"pip install '{name}>={wanted}'"
        if version is None:
            state: State = "note" if name == "openvino" or _imported(name) else "problem"
            found.append(Finding(state, name, "not installed under this name", install))
        elif tuple(map(int, re.findall(r"\d+", version)[:2])) < least:
            found.append(Finding("problem", name, f"{version}, older than {wanted}", install))
        else:
            found.append(Finding("ok", name, version))
    return found


def _imported(package: str) -> bool:
    """Whether it is there under another name of distribution: opencv-python, faiss from conda."""
    return importable({"faiss-cpu": "faiss", "opencv-python-headless": "cv2", "pillow": "PIL"}.get(package, package))


def look_at_extras() -> list[Finding]:
    """What is not installed, and what it would bring."""
    return [
        Finding(
            "note", f"[{extra}]", f"not installed ({', '.join(lacking)}): {brings}", f"pip install 'retrieval[{extra}]'"
        )
        for extra, (modules, brings) in EXTRAS.items()
        if (lacking := [module for module in modules if not importable(module)])
    ]


def look_at_processor() -> Finding:
    """What of its abilities makes networks fast, and how many cores may be used."""
    flags = set(processor_flags().split())
    has = [name for name, any_of in _ABILITIES.items() if not flags.isdisjoint(any_of)]
    has += ["VNNI"] * has_vnni() + ["bf16"] * has_bf16()
    cores, usable = os.cpu_count() or 1, usable_cores()
    told = f"{', '.join(has) or 'no vector instructions that are known here'}; {usable} of {cores} cores may be used"
    if flags and not has:
        return Finding("note", "processor", told, "Networks will be slow: AVX2 or NEON is what they are fast with.")
    return Finding("ok", "processor", told)


def usable_cores() -> int:
    """As the system lets this process have them; a container's quota too."""
    allowed = allowed_cores()
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
        return max(1, min(allowed, -(-int(quota) // int(period))))
    except (OSError, ValueError):  # no quota ("max"), or another system
        return allowed


def look_at_cache() -> Finding:
    """Where prepared networks and downloaded weights lie: its size, and whether more can be put there."""
    folder = cache_folder()
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    size = sum(_size(os.path.join(at, name)) for at, _, names in os.walk(folder) for name in names)
    told = f"{folder}, {human_bytes(size) if folder.exists() else 'not made yet'}"
    elsewhere = "RETRIEVE_CACHE names another folder."
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding("problem", "cache", f"{told}; {there} cannot be written to", elsewhere)
    free = shutil.disk_usage(there).free
    if free < _ROOM:
        return Finding("note", "cache", f"{told}; the disk has room for {human_bytes(free)}", f"Make room. {elsewhere}")
    return Finding("ok", "cache", f"{told}, can be written to")


def _size(file: str) -> int:
    try:
        return os.lstat(file).st_size
    except OSError:
        return 0
