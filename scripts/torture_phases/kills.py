"""Writers of a gallery killed at one system call after the other: the gallery opens, holds what was committed and answers right;
the next run completes, and ends like one that was not disturbed."""

from __future__ import annotations

import functools
import math
import shutil
from pathlib import Path

import numpy as np

from retrieval.errors import GalleryDamaged, GalleryError
from torture_phases import calls, powercut, scenes
from torture_phases.base import Outcome, Phase
from torture_phases.scenes import Content, Rehearsed


def act(rehearsal: Rehearsed, here: Path, first: int = 0) -> calls.Callable[[calls.Callable[[int], None]], None]:
    def steps(mark: calls.Callable[[int], None]) -> None:
        for number, step in enumerate(rehearsal.scene.steps[first:], first + 1):
            step(here)
            mark(number)

    return steps


@functools.cache
def points() -> list[tuple[str, int]]:
    """Every call of every scene."""
    scenes.small()
    scratch = Path(calls.tempfile.mkdtemp(prefix="torture-points-"))
    found = []
    for name in scenes.SCENES:
        rehearsal = scenes.rehearsed(name)
        here = scratch / "here"
        shutil.copytree(rehearsal.before, here)
        ended = calls.watched(act(rehearsal, here), here, -1, False, scratch)
        assert not ended.error, f"{name}: {ended.error}"
        found += [(name, number) for number in range(1, ended.calls + 1)]
        shutil.rmtree(here)
    return found


def trial(rng: np.random.Generator, folder: Path, number: int, *, power: bool = False) -> Outcome:
    scenes.small()
    everywhere = points()
    step = next(n for n in range(round(0.618 * len(everywhere)), 0, -1) if math.gcd(n, len(everywhere)) == 1)
    name, stop = everywhere[number * step % len(everywhere)]  # all in turn, few trials spread over all
    half = bool(number // len(everywhere) % 2)
    rehearsal = scenes.rehearsed(name)
    here = folder / "here"
    shutil.rmtree(here, ignore_errors=True)
    shutil.copytree(rehearsal.before, here)
    ended = calls.watched(act(rehearsal, here), here, stop, half, folder)
    where = f"{name} at call {stop}{' within it' if half else ''}"
    if ended.error:
        return Outcome("failed", name, f"{where}: the run ended with {ended.error}")
    if power:
        strict = bool(rng.integers(0, 2))
        left = powercut.cut(rehearsal.before, here, ended.events, rng, strict=strict)
        shutil.rmtree(here)
        powercut.write_out(left, here)
        where += ", strict" if strict else ", journalled"
    try:
        found = scenes.state(rehearsal.scene, here)
        problem = wrong(rehearsal, found, ended.acknowledged)
        codes = scenes.local_codes(here / rehearsal.scene.gallery)
        problem = problem or foreign(codes, rehearsal.codes)
        if problem:
            return Outcome("failed", name, f"{where}: {problem}")
        steps = rehearsal.scene.steps
        for step in steps[min(ended.acknowledged, len(steps) - 1) :]:
            step(here)
        if (end := scenes.state(rehearsal.scene, here)) != rehearsal.states[-1]:
            return Outcome("failed", name, f"{where}: in the end {difference(end, rehearsal.states[-1])}")
        if (codes := scenes.local_codes(here / rehearsal.scene.gallery)) != rehearsal.codes[-1]:
            return Outcome(
                "failed", name, f"{where}: in the end, codes of {len(codes)}, not {len(rehearsal.codes[-1])}"
            )
        if extra := scenes.kinds_of_files(here) - rehearsal.files:
            return Outcome("failed", name, f"{where}: left behind {sorted(extra)[:3]}")
    except (GalleryError, GalleryDamaged, AssertionError) as error:
        return Outcome("failed", name, f"{where}: {type(error).__name__}: {error!s:.300}")
    return Outcome("killed" if ended.killed else "finished", name)


def wrong(rehearsal: Rehearsed, found: Content | None, done: int) -> str:
    """What is not as it may be after ``done`` steps were acknowledged and the next was interrupted; "" where all is well."""
    earlier, later = rehearsal.states[done], rehearsal.states[min(done + 1, len(rehearsal.states) - 1)]
    if found is None:
        return "" if earlier is None or not earlier else "the gallery cannot be opened"
    if rehearsal.scene.whole and found not in (earlier, later):
        return f"a part of a step: {difference(found, earlier)}; {difference(found, later)}"
    before, after, now = (scenes.searchable(c or {}) for c in (earlier, later, found))
    for name, picture in now.items():
        if not any(picture[-1] == state[name][-1] for state in (before, after) if name in state):
            return f"{name} has a vector of its own, or does not belong there"
    lost = [name for name in before if name in after and name not in now]
    return f"{lost[0]} is lost" if lost else ""


def foreign(codes: scenes.Codes, rehearsed: list[scenes.Codes]) -> str:
    """Whether a content has other codes than it ever had."""
    known = {digest: own for state in rehearsed for digest, own in state.items()}
    other = [digest for digest, own in codes.items() if known.get(digest) != own]
    return f"{len(other)} contents have codes of their own" if other else ""


def difference(found: Content | None, wanted: Content | None) -> str:
    if found is None or wanted is None:
        return f"{found is not None} instead of {wanted is not None}"
    for name in sorted({*found, *wanted}):
        if found.get(name) != wanted.get(name):
            one, other = (c[name][:-1] if name in c else None for c in (found, wanted))
            return f"{name}: {one} instead of {other}"
    return "nothing differs"


PHASE = Phase(
    "kills",
    f"writers of galleries, killed: {', '.join(scenes.SCENES)}",
    300,
    trial,
    numbered=True,
    prepare=points,
    environment=calls.environment,
)
