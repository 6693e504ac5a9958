"""The same as ``kills``, with the power cut at that moment: of what was not forced to the disk, any part may be lost."""

from __future__ import annotations

import functools

from torture_phases import calls, kills
from torture_phases.base import Phase

PHASE = Phase(
    "power",
    "writers of galleries, power cut: what was not forced to the disk is lost in part",
    300,
    functools.partial(kills.trial, power=True),
    numbered=True,
    prepare=kills.points,
    environment=calls.environment,
)
