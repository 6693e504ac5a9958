"""How far the verdicts can be trusted: answers to queries with and without a right answer, and a reliability diagram.

    python scripts/verdicts.py paintings/qsd2_w2.json streets/groundtruth.json --strangers photos/ --work sets --plot verdicts.png

Of every ground truth half of the queries, drawn by ``--seed``, are asked as if their right answers were not there: these are
struck from the answers. ``--strangers``: photos that show different things each; one half is indexed, 300 of the other half
ask. The first answer of each query counts. AUC: of its probability, known against unknown queries. ECE: the expected
calibration error over ten bins of equal width. "Same" of unknown: false accepts. Questions are right when the picture found
is labelled so; the script lists the false accepts, since labels miss twins.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from retrieval.datasets.reading import load_groundtruth
from retrieval.describe.model import load_model
from retrieval.gallery.answers import Match
from retrieval.gallery.gallery import Gallery
from retrieval.messages import progress_bar
from retrieval.pictures.imaging import is_picture_name

LOOKED_AT = 50  # answers of a query, among which those that are struck are passed over
STRANGERS = 300
BINS = 10


@dataclass(frozen=True)
class Answer:
    """The first answer of a query; ``known``: whether a right one is in the gallery."""

    query: str
    path: str
    known: bool
    right: bool
    probability: float
    verdict: str | None
    fused: float
    inliers: int | None


def asked(truth_path: Path, work: Path, model: str, size: int | None, seed: int, most: int) -> list[Answer]:
    truth = load_groundtruth(truth_path)
    root = truth.root.resolve()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(truth.queries))[:most]
    answers = []
    with described(
        work / f"{truth.name}-{truth_path.parent.name}", [str(root / p) for p in truth.gallery], model, size
    ) as g:
        queries = [truth.queries[i] for i in order]
        for place, query in enumerate(queries):
            path = str(root / query.image)
            result = g.query(path, LOOKED_AT, query.bbox)
            right = {str(root / name) for name in (*query.easy, *query.hard)}
            junk = {str(root / name) for name in query.junk} | {path}
            known = place % 2 == 0
            passed = junk if known else junk | right
            answers += first(
                query.image, [m for m in result.matches if str(Path(m.path).resolve()) not in passed], known, right
            )
    return answers


def strangers(folder: Path, work: Path, model: str, size: int | None, seed: int) -> list[Answer]:
    paths = sorted(str(p.resolve()) for p in folder.rglob("*") if is_picture_name(p.name))
    order = np.random.default_rng(seed).permutation(len(paths))
    inside = [paths[i] for i in order[: len(paths) // 2]]
    answers = []
    with described(work / f"strangers-{folder.name}", inside, model, size) as gallery:
        for i in order[len(paths) // 2 :][:STRANGERS]:
            answers += first(paths[i], gallery.query(paths[i], 1).matches, False, set())
    return answers


def first(query: str, matches: list[Match], known: bool, right: set[str]) -> Iterator[Answer]:
    if matches:
        best = matches[0]
        path = str(Path(best.path).resolve())
        yield Answer(
            query, path, known, path in right, best.probability or 0.0, best.verdict, best.fused or 0.0, best.inliers
        )


def described(folder: Path, paths: list[str], model: str, size: int | None) -> Gallery:
    if (folder / "gallery.json").exists():
        return Gallery.open(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    gallery = Gallery.create(folder, load_model(model, size=size))
    with progress_bar(folder.name, False) as update:
        gallery.index(paths, progress=update)
    return gallery


def auc(known: npt.NDArray[np.float64], unknown: npt.NDArray[np.float64]) -> float:
    """The chance that a known query's value is above an unknown one's; ties count half."""
    if not len(known) or not len(unknown):
        return float("nan")
    difference = known[:, None] - unknown[None]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def reliability(answers: list[Answer]) -> list[tuple[float, float, int]]:
    """(mean probability, share of right answers, how many) of each bin that holds some."""
    chance = np.array([a.probability for a in answers])
    right = np.array([a.right for a in answers], float)
    place = np.minimum((chance * BINS).astype(int), BINS - 1)
    return [
        (float(chance[place == b].mean()), float(right[place == b].mean()), int((place == b).sum()))
        for b in range(BINS)
        if (place == b).any()
    ]


def calibration_error(answers: list[Answer]) -> float:
    return sum(n * abs(said - true) for said, true, n in reliability(answers)) / max(len(answers), 1)


def fit(sets: Sequence[list[Answer]]) -> tuple[float, float]:
    """``slope``, ``offset``: log-odds slope * fused + offset that make the right answers of these sets likeliest. A set counts by
    the root of its size."""
    from scipy.optimize import minimize

    fused = np.concatenate([[a.fused for a in answers] for answers in sets])
    right = np.concatenate([[float(a.right) for a in answers] for answers in sets])
    weight = np.concatenate([np.full(len(answers), len(answers) ** -0.5) for answers in sets])

    def loss(parameters: npt.NDArray[np.float64]) -> float:
        odds = parameters[0] * fused + parameters[1]
        return float((weight * (np.logaddexp(0, odds) - right * odds)).sum() / weight.sum())

    slope, offset = minimize(loss, np.array([1.0, 0.0])).x
    return float(slope), float(offset)


def refitted(answers: list[Answer], slope: float, offset: float) -> list[Answer]:
    return [replace(a, probability=1 / (1 + math.exp(-slope * a.fused - offset))) for a in answers]


def row(name: str, answers: list[Answer]) -> str:
    known = [a for a in answers if a.known]
    unknown = [a for a in answers if not a.known]
    area = auc(np.array([a.probability for a in known]), np.array([a.probability for a in unknown]))

    def share(some: list[Answer], verdicts: set[str], right: bool | None = None) -> str:
        hits = sum(a.verdict in verdicts and right in (None, a.right) for a in some)
        return f"{hits} of {len(some)}" if some else "-"

    cells = [
        share(known, {"same"}, True),
        share(known, {"same", "likely"}, True),
        share(unknown, {"same"}),
        share(unknown, {"same", "likely"}),
        "-" if np.isnan(area) else f"{100 * area:.1f}",
        f"{calibration_error(answers):.3f}",
    ]
    return f"| {name} | {' | '.join(cells)} |"


def draw(sets: dict[str, list[Answer]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    together = [a for answers in sets.values() for a in answers]
    figure, axes = plt.subplots(figsize=(5, 5), layout="constrained")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for name, answers in sets.items():
        points = reliability(answers)
        axes.plot([p for p, _, _ in points], [r for _, r, _ in points], ".", markersize=5, label=name, alpha=0.6)
    points = reliability(together)
    axes.plot([p for p, _, _ in points], [r for _, r, _ in points], "k-o", label="together")
    for said, true, count in points:
        axes.annotate(str(count), (said, true), textcoords="offset points", xytext=(5, -11), fontsize=8)
    axes.set(
        xlabel="probability that was said", ylabel="share of right answers", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03)
    )
    axes.legend(fontsize=7, loc="upper left")
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("truths", nargs="*", type=Path)
    parser.add_argument("--strangers", type=Path, action="append", default=[])
    parser.add_argument("--work", type=Path, required=True, help="galleries are kept here")
    parser.add_argument("--model", default="auto")
    parser.add_argument("--size", type=int)
    parser.add_argument("--queries", type=int, default=400, help="of a set, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--fit", action="store_true", help="what would make these answers likeliest, and how well that transfers"
    )
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--answers", type=Path, help="write all first answers here, as JSON")
    given = parser.parse_args()
    sets = {}
    print("| set | known: same | known: same or likely | unknown: same | unknown: same or likely | AUC | ECE |")
    print("|" + "---|" * 7)
    for path in given.truths:
        name = path.stem if path.stem != "groundtruth" else path.parent.name
        sets[name] = asked(path, given.work, given.model, given.size, given.seed, given.queries)
        print(row(name, sets[name]), flush=True)
    for folder in given.strangers:
        name = f"strangers, {folder.name}"
        sets[name] = strangers(folder, given.work, given.model, given.size, given.seed)
        print(row(name, sets[name]), flush=True)
    print(row("together", [a for answers in sets.values() for a in answers]))
    for name, answers in sets.items():
        for a in answers:
            if a.verdict == "same" and not a.right:
                print(f"- {name}: {a.query} is called the same as {a.path} ({a.probability:.3f})")
    if given.fit:
        slope, offset = fit(list(sets.values()))
        print(f"\nbest log-odds: {slope:.4f} * fused + {offset:.4f}")
        left_out = [
            answer
            for name, answers in sets.items()
            for answer in refitted(answers, *fit([other for key, other in sets.items() if key != name]))
        ]
        print(f"ECE of each set by a fit on the others, together: {calibration_error(left_out):.3f}")
    if given.answers:
        told = [{"set": name, **asdict(a)} for name, answers in sets.items() for a in answers]
        given.answers.write_text(json.dumps(told, indent=1))
    if given.plot:
        draw(sets, given.plot)


if __name__ == "__main__":
    main()
