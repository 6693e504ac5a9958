"""What can be attacked, by name. A module beside this one that has a ``PHASE`` is found; nothing else is to be done."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from torture_phases.base import Phase

PHASES: dict[str, Phase] = {}
for _module in sorted(info.name for info in pkgutil.iter_modules(__path__)):
    _phase = getattr(import_module(f"{__name__}.{_module}"), "PHASE", None)
    if _phase is not None:
        PHASES[_phase.name] = _phase
