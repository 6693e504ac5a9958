"""What a server is told when it starts: where it listens, who may ask, and how much one request may cost."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field

TOKEN_VARIABLE = "RETRIEVE_TOKEN"


@dataclass(frozen=True)
class WebLimits:
    """``upload_bytes`` and ``upload_pixels`` of one picture; ``upload_seconds`` until all of it must have come; ``uploads`` at
    once. ``searches`` and ``thumbnails``: worked on at once; ``waiting``: more requests than that are sent away. ``seconds``:
    until an answer must be there. ``results``: most of one search."""

    upload_bytes: int = 32 << 20
    upload_pixels: int = 100_000_000
    upload_seconds: float = 30.0
    uploads: int = 8
    searches: int = 2
    thumbnails: int = 2
    waiting: int = 256
    seconds: float = 60.0
    results: int = 2000


@dataclass(frozen=True)
class WebSettings:
    """``token``: what every request must carry, None where only this machine can ask. ``names``: further names that the server
    is known by (``Host``). ``paths``: whether absolute paths are told, as they are to whoever sits at the machine."""

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    names: tuple[str, ...] = ()
    limits: WebLimits = field(default_factory=WebLimits)

    @property
    def local(self) -> bool:
        return is_loopback(self.host)

    @property
    def paths(self) -> bool:
        return self.local and self.token is None


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def given_token() -> str | None:
    """The token of the environment, if there is one."""
    return os.environ.get(TOKEN_VARIABLE) or None
