"""Token Pooling on a small vision transformer: how much accuracy each way of dropping tokens costs at equal FLOPs.

A timm ``VisionTransformer`` with 64 patch tokens is trained here from scratch, several times, and then run with fewer
tokens, without and with fine-tuning. Every method of ``retrieval.pooling.reduce_tokens`` gets the same token counts after
the same blocks. Writes ``results.csv``, ``errors.csv``, the plots and, on stdout, the tables of docs/token_pooling.md.

    python scripts/token_pooling_experiment.py                        # handwritten digits (scikit-learn)
    python scripts/token_pooling_experiment.py --data GROCERY_FOLDER  # a folder with train.txt, val.txt and test.txt

Trained models are kept in ``--out`` and used again while the recipe is the same.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, safe_open, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from retrieval.evaluation.statistics import bootstrap_interval, compare
from retrieval.pictures.imaging import load_picture
from retrieval.pooling.reduction import CLUSTERINGS, METHODS, clustering_cost
from retrieval.pooling.vit import SCHEDULES, TokenPooledViT, schedule_from_keep_rate

COMPARED = (
    "weighted-kmedoids",
    "kmedoids",
)  # the library's default, named before anything was measured, and its sister
CHOSEN = COMPARED[0]
BASELINES = ("topk", "random", "grid")
NAMES = {
    "kmeans": "K-means",
    "kmedoids": "K-medoids",
    "weighted-kmeans": "weighted K-means",
    "weighted-kmedoids": "weighted K-medoids",
    "topk": "top-K",
    "random": "random",
    "grid": "2 × 2 average",
}
RATES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
# The block (from 0) after which the 2 x 2 average makes 16 patches of 64, and that after which it makes 4 of 16.
HALVINGS: tuple[tuple[int, ...], ...] = ((4,), (3,), (2,), (1,), (0,), (2, 4), (1, 3), (0, 2), (0, 1))
TUNED: tuple[tuple[int, ...], ...] = ((1,),)
# As it is, with each token counted as often as it stands for others or not; and trained again with the reduction.
MODES = ("post-hoc", "post-hoc, tokens not counted", "fine-tuned")
DRAWS = 5  # of the method "random", whose figures are their mean


# ---------------------------------------------------------------- pictures


@dataclass(frozen=True)
class Pictures:
    """Float pictures ``(N, C, S, S)`` of mean 0 and deviation 1 over the training part, and int64 classes ``(N,)``."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


@dataclass(frozen=True)
class Recipe:
    """How the models are built and trained; a trained model is used again only with the same recipe."""

    data: str
    size: int
    patch: int
    channels: int
    classes: int
    flip: bool
    epochs: int
    tune_epochs: int
    rate: float = 1e-3
    tune_rate: float = 2e-4
    dim: int = 64
    depth: int = 6
    heads: int = 4
    batch: int = 32

    @property
    def tokens(self) -> int:
        return (self.size // self.patch) ** 2 + 1


def digits() -> tuple[Pictures, Recipe]:
    """The 1,797 pictures of 8 x 8 pixels, enlarged to 32 x 32 so that a token is a pixel and what it changes into beside.
    The first 1,097 are for training, the last 700 for the test: a plain cut, because people wrote them one after another.
    """
    from sklearn.datasets import load_digits

    loaded = load_digits()
    small, y = torch.tensor(loaded.images, dtype=torch.float32)[:, None], torch.tensor(loaded.target)
    x = F.interpolate(small, size=(32, 32), mode="bilinear")
    recipe = Recipe("digits", size=32, patch=4, channels=1, classes=10, flip=False, epochs=50, tune_epochs=10)
    return _standardised(x[:1097], y[:1097], x[1097:], y[1097:]), recipe


def grocery(folder: Path, cache: Path) -> tuple[Pictures, Recipe]:
    """Photos in the layout of the Grocery Store Dataset (lines ``path, class, coarse class``), its 43 coarse classes, at
    64 x 64 pixels with patches of 8. Training: train.txt and val.txt; test: test.txt.
    """
    from PIL import Image

    if not cache.exists():
        arrays: dict[str, Any] = {}
        for part, lists in (("train", ("train.txt", "val.txt")), ("test", ("test.txt",))):
            lines = [line.split(", ") for name in lists for line in (folder / name).read_text().splitlines()]
            pictures = [Image.fromarray(load_picture(folder / line[0], size=256).array) for line in lines]
            arrays[part] = np.stack([np.asarray(p.resize((64, 64), Image.Resampling.BOX)) for p in pictures])
            arrays[f"{part}_labels"] = np.array([int(line[2]) for line in lines])
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(cache, **arrays)
    data = np.load(cache)
    x, y, test, test_labels = (torch.tensor(data[name]) for name in ("train", "train_labels", "test", "test_labels"))
    classes = int(y.max()) + 1
    recipe = Recipe("grocery", size=64, patch=8, channels=3, classes=classes, flip=True, epochs=40, tune_epochs=5)
    return _standardised(x.permute(0, 3, 1, 2).float(), y, test.permute(0, 3, 1, 2).float(), test_labels), recipe


def _standardised(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> Pictures:
    mean, deviation = train.mean((0, 2, 3), keepdim=True), train.std((0, 2, 3), keepdim=True)
    return Pictures((train - mean) / deviation, train_labels, (test - mean) / deviation, test_labels)


# ---------------------------------------------------------------- models


def new_vit(recipe: Recipe, seed: int) -> VisionTransformer:
    torch.manual_seed(seed)
    vit = VisionTransformer(
        img_size=recipe.size,
        patch_size=recipe.patch,
        in_chans=recipe.channels,
        num_classes=recipe.classes,
        embed_dim=recipe.dim,
        depth=recipe.depth,
        num_heads=recipe.heads,
    )
    # With the usual 0.02 so small a model on so few pictures takes several times as long to find out where tokens lie.
    assert vit.pos_embed is not None
    nn.init.normal_(vit.pos_embed, std=0.5)
    return vit


def train(model: nn.Module, pictures: Pictures, recipe: Recipe, epochs: int, rate: float, seed: int) -> None:
    """AdamW, label smoothing, one warm-up epoch and a cosine to 0; moved, turned and scaled pictures."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    steps = -(-len(pictures.train) // recipe.batch)
    plan = torch.optim.lr_scheduler.SequentialLR(
        optimiser,
        [
            torch.optim.lr_scheduler.LinearLR(optimiser, 0.05, total_iters=steps),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps * (epochs - 1), 1)),
        ],
        [steps],
    )
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(pictures.train), generator=generator).split(recipe.batch):
            images = _varied(pictures.train[chosen], recipe.flip, generator)
            loss = F.cross_entropy(model(images), pictures.train_labels[chosen], label_smoothing=0.1)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            plan.step()
    model.eval()


def _varied(images: Tensor, flip: bool, generator: torch.Generator) -> Tensor:
    """Turned by up to 10 degrees, scaled by up to 10 %, moved by up to an eighth of the side; mirrored if ``flip``."""
    angle, scale, right, down, side = (torch.rand(5, len(images), generator=generator) * 2 - 1).unbind()
    angle, scale = angle * torch.pi / 18, 1 + scale / 10
    mirror = torch.where(side > 0, 1.0, -1.0) if flip else torch.ones(len(images))
    first = torch.stack((scale * angle.cos() * mirror, -scale * angle.sin(), right / 4), 1)
    second = torch.stack((scale * angle.sin() * mirror, scale * angle.cos(), down / 4), 1)
    grid = F.affine_grid(torch.stack((first, second), 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def kept(file: Path, recipe: dict[str, Any], model: nn.Module, training: Callable[[], None]) -> nn.Module:
    """``model`` with the weights of ``file`` if it was trained by this recipe; otherwise trained, and saved there."""
    text = json.dumps(recipe, sort_keys=True)
    if file.exists():
        with safe_open(file, "pt") as opened:
            same = (opened.metadata() or {}).get("recipe") == text
        if same:
            model.load_state_dict(load_file(file))
            return model.eval()
    start = time.monotonic()
    training()
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, file, {"recipe": text})
    print(f"trained {file.name} in {time.monotonic() - start:.0f} s", flush=True)
    return model


# ---------------------------------------------------------------- measuring


@dataclass
class Outcome:
    """One method with one schedule: what it costs (multiply-accumulates a picture) and which pictures it gets right."""

    mode: str  # one of MODES
    family: str  # "rate" or "halving"
    schedule: str
    method: str
    counts: list[int]  # tokens that leave each block
    network: int
    own: int  # the significance and the clustering
    hits: list[np.ndarray] = field(default_factory=list)  # for each seed (pictures,), the share of draws that was right

    @property
    def total(self) -> int:
        return self.network + self.own

    @property
    def mean_hits(self) -> np.ndarray:
        return np.mean(self.hits, axis=0)


def schedules(
    recipe: Recipe, rates: Iterable[float], halvings: Iterable[tuple[int, ...]]
) -> list[tuple[str, str, list]]:
    """``(family, name, token counts)``."""
    found = [("rate", f"{rate:g}", schedule_from_keep_rate(recipe.depth, recipe.tokens, rate)) for rate in rates]
    for after in halvings:
        found.append(
            ("halving", halving_name(after), schedule_from_keep_rate(recipe.depth, recipe.tokens, 0.25, after))
        )
    return found


def halving_name(after: Sequence[int]) -> str:
    """Blocks counted from 1, as one says it."""
    return ", ".join(f"{patches} after block {block + 1}" for patches, block in zip((16, 4), after, strict=False))


def methods_for(family: str) -> Sequence[str]:
    return METHODS if family == "halving" else [m for m in METHODS if m != "grid"]


def outcome(vit: nn.Module, recipe: Recipe, mode: str, family: str, name: str, keep: list, method: str) -> Outcome:
    """The costs. What top-K and random look up only to report their error is not charged to them."""
    flops = TokenPooledViT(vit, keep, method).flops()
    counts, before, look_up = [], recipe.tokens, 0
    for k in keep:
        counts.append(k or before)
        if method in ("topk", "random"):
            look_up += clustering_cost(before - 1, counts[-1] - 1, recipe.dim, method)
        before = counts[-1]
    return Outcome(mode, family, name, method, counts, flops.network, sum(flops.clustering) - look_up)


@torch.no_grad()
def right(model: nn.Module, pictures: Pictures) -> np.ndarray:
    """1 for each test picture that is classified rightly, else 0."""
    answers = torch.cat([model(batch).argmax(1) for batch in pictures.test.split(256)])
    return (answers == pictures.test_labels).numpy().astype(float)


def right_pooled(vit: nn.Module, keep: list, method: str, pictures: Pictures, proportional: bool = True) -> np.ndarray:
    draws = [torch.Generator().manual_seed(draw) for draw in range(DRAWS if method == "random" else 1)]
    pooled = [TokenPooledViT(vit, keep, method, proportional=proportional, generator=g) for g in draws]
    return np.mean([right(model, pictures) for model in pooled], axis=0)


@torch.no_grad()
def reconstruction_error(vit: VisionTransformer, images: Tensor, block: int, k: int, method: str) -> float:
    """Error of representing the patch tokens after ``block`` by ``k`` (without the class token), as a share of their sum
    of squared deviations from their mean, averaged over the pictures. Every method gets the same tokens.
    """
    seen: dict[str, Tensor] = {}
    keep: list[int | None] = [None] * len(vit.blocks)
    keep[block] = k + 1
    pooled = TokenPooledViT(vit, keep, method, generator=torch.Generator().manual_seed(0))
    handles = [
        vit.blocks[block].register_forward_hook(lambda _m, _args, out: seen.update(full=out)),
        vit.blocks[block + 1].register_forward_pre_hook(lambda _m, args: seen.update(reduced=args[0])),
    ]
    shares = []
    try:
        for batch in images.split(256):
            owner = pooled.clusters(batch)[:, 1:]
            full, reduced = seen["full"], seen["reduced"]
            nearest = reduced.gather(1, owner[..., None].expand(-1, -1, full.shape[2]))
            full = full[:, 1:]
            error = (full - nearest).square().sum((1, 2))
            shares.append(error / (full - full.mean(1, keepdim=True)).square().sum((1, 2)))
    finally:
        for handle in handles:
            handle.remove()
    return float(torch.cat(shares).mean())


def at_cost(curve: Sequence[Outcome], full: np.ndarray, full_cost: int, total: float) -> np.ndarray:
    """What a method gets right at this total cost, for each picture: between its two nearest schedules, linearly. At the
    cost of the whole model or more it is the whole model.
    """
    points = sorted([(o.total, o.mean_hits) for o in curve] + [(full_cost, full)], key=lambda point: point[0])
    costs, hits = [p[0] for p in points], np.stack([p[1] for p in points])
    if total <= costs[0]:
        return hits[0]
    upper = min(int(np.searchsorted(costs, total)), len(costs) - 1)
    weight = min((total - costs[upper - 1]) / (costs[upper] - costs[upper - 1]), 1.0)
    return (1 - weight) * hits[upper - 1] + weight * hits[upper]


# ---------------------------------------------------------------- tables and plots


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def accuracy(o: Outcome) -> str:
    means = [100 * h.mean() for h in o.hits]
    return f"{np.mean(means):.1f} ({min(means):.1f}–{max(means):.1f})"


def difference(better: np.ndarray, other: np.ndarray) -> str:
    """Points by which the first is more often right, with the interval of a paired bootstrap over pictures."""
    d = compare(other, better).difference
    mark = "" if d.low <= 0 <= d.high else " *"
    return f"{100 * d.mean:+.1f} [{100 * d.low:+.1f}, {100 * d.high:+.1f}]{mark}"


def group(outcomes: Iterable[Outcome], mode: str, family: str) -> dict[str, dict[str, Outcome]]:
    """By schedule, then by method."""
    found: dict[str, dict[str, Outcome]] = {}
    for o in outcomes:
        if (o.mode, o.family) == (mode, family):
            found.setdefault(o.schedule, {})[o.method] = o
    return found


def report(outcomes: list[Outcome], full: Outcome, errors: list[tuple[int, int, str, float]]) -> None:
    """The tables. A star marks a difference whose 95 % interval over test pictures leaves out 0."""
    print(f"\nUnreduced: {accuracy(full)} %, {full.network / 1e6:.1f} M multiply-accumulates\n")
    for mode in MODES:
        for family in ("rate", "halving"):
            found = group(outcomes, mode, family)
            if not found:
                continue
            methods = methods_for(family)
            print(f"{mode}, schedule by {family}: accuracy in % (lowest and highest of the seeds)\n")
            header = ["schedule", "FLOPs, % of all", *(NAMES[m] for m in methods)]
            rows = [
                [name, f"{100 * by[CHOSEN].network / full.network:.0f}", *(accuracy(by[m]) for m in methods)]
                for name, by in found.items()
            ]
            print(table(header, rows) + "\n")
            others = [m for m in BASELINES if m in methods]
            for compared in COMPARED:
                print(f"{NAMES[compared]} minus the others, points [95 % interval over test pictures]\n")
                rows = [
                    [name, *(difference(by[compared].mean_hits, by[m].mean_hits) for m in others)]
                    for name, by in found.items()
                ]
                print(table(["schedule", *(NAMES[m] for m in others)], rows) + "\n")
    print("Each method's own cost counted in: a clustering minus the others at the same total, points\n")
    rate = group(outcomes, "post-hoc", "rate")
    curves = [[by[m] for by in rate.values()] for m in ("topk", "random")]
    curves.append(frontier([by["grid"] for by in group(outcomes, "post-hoc", "halving").values()]))
    rows = []
    for name, by in rate.items():
        for method in COMPARED:
            o = by[method]
            gaps = [difference(o.mean_hits, at_cost(c, full.mean_hits, full.total, o.total)) for c in curves]
            shares = [f"{100 * cost / full.network:.0f}" for cost in (o.network, o.own)]
            rows.append([name, NAMES[method], *shares, *gaps])
    print(table(["schedule", "method", "network, %", "clustering, %", *(NAMES[m] for m in BASELINES)], rows) + "\n")
    for k in sorted({row[1] for row in errors}):
        print(f"Reconstruction error with {k} patch tokens, % of the spread of the tokens (mean over seeds)\n")
        methods = [m for m in METHODS if any(row[1:3] == (k, m) for row in errors)]
        blocks = sorted({row[0] for row in errors})
        cells = {row[:3]: f"{100 * row[3]:.1f}" for row in errors}
        rows = [[f"after block {b + 1}", *(cells[b, k, m] for m in methods)] for b in blocks]
        print(table(["", *(NAMES[m] for m in methods)], rows) + "\n")


def report_deit() -> None:
    """The count of the schedules for DeiT that save 42 %."""
    rows = []
    for name, model in (("deit-s-42", "deit_small_patch16_224"), ("deit-ti-42", "deit_tiny_patch16_224")):
        with torch.device("meta"):
            vit = timm.create_model(model, pretrained=False)
        for method in (CHOSEN, "weighted-kmeans"):
            pooled = TokenPooledViT(vit, SCHEDULES[name], method)
            flops, all_of_it = pooled.flops(), pooled.flops_unpooled().total
            saved = [f"{100 * (1 - cost / all_of_it):.1f}" for cost in (flops.network, flops.total)]
            giga = [f"{cost / 1e9:.3f}" for cost in (all_of_it, flops.network, sum(flops.clustering))]
            rows.append([name, NAMES[method], *giga, *saved])
    header = ["schedule", "method", "unpooled, G", "pooled, G", "clustering, G", "saved, %", "saved with clustering, %"]
    print(table(header, rows))


COLOURS = {
    "kmeans": "#56B4E9",
    "kmedoids": "#44AA99",
    "weighted-kmeans": "#0072B2",
    "weighted-kmedoids": "#117733",
    "topk": "#D55E00",
    "random": "#777777",
    "grid": "#CC79A7",
}
MARKERS = {"topk": "s", "random": "^", "grid": "D"}


def style(method: str) -> dict[str, Any]:
    return {
        "color": COLOURS[method],
        "marker": MARKERS.get(method, "o"),
        "linestyle": "-" if method in CLUSTERINGS else "--",
        "linewidth": 2 if method == CHOSEN else 1.3,
        "markersize": 4,
        "label": NAMES[method],
        "zorder": 3 if method == CHOSEN else 2,
    }


def plot_tradeoff(outcomes: list[Outcome], full: Outcome, title: str, file: Path) -> None:
    """Accuracy over FLOPs, without and with each method's own cost, each method by the best of its schedules; bands from the
    lowest to the highest seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, cost in zip(axes, ("network", "total"), strict=True):
        for method in METHODS:
            curve = [*frontier([o for o in outcomes if (o.mode, o.method) == ("post-hoc", method)], cost), full]
            x = [100 * getattr(o, cost) / full.network for o in curve]
            seeds = np.array([[100 * h.mean() for h in o.hits] for o in curve])
            axis.plot(x, seeds.mean(1), **style(method))
            axis.fill_between(x, seeds.min(1), seeds.max(1), color=COLOURS[method], alpha=0.12, linewidth=0)
        axis.axhline(100 * full.mean_hits.mean(), color="black", linewidth=0.8)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_xlabel("FLOPs of the network, % of the unreduced")
    axes[1].set_xlabel("the same and the method's own, %")
    axes[0].set_ylabel("accuracy, %")
    beside = 100 * full.mean_hits.mean() - 0.8
    axes[0].text(0.02, beside, "unreduced", transform=axes[0].get_yaxis_transform(), va="top", fontsize=8)
    axes[1].legend(frameon=False, fontsize=8, loc="lower right")
    figure.suptitle(title, fontsize=11)
    figure.savefig(file, dpi=130)


def frontier(curve: list[Outcome], cost: str = "network") -> list[Outcome]:
    """Without the schedules that cost more than another one and are right less often: a method at its best, cheapest first."""
    best: list[Outcome] = []
    for o in sorted(curve, key=lambda o: getattr(o, cost)):
        if not best or o.mean_hits.mean() > best[-1].mean_hits.mean():
            best.append(o)
    return best


def plot_errors(errors: list[tuple[int, int, str, float]], title: str, file: Path) -> None:
    from matplotlib.figure import Figure

    counts = sorted({row[1] for row in errors})
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axis, k in zip(figure.subplots(1, len(counts), sharey=True, squeeze=False)[0], counts, strict=True):
        for method in METHODS:
            points = sorted((row[0] + 1, 100 * row[3]) for row in errors if row[1:3] == (k, method))
            if points:
                axis.plot(*zip(*points, strict=True), **style(method))
        axis.set_title(f"64 patch tokens to {k}", fontsize=10)
        axis.set_xlabel("after block")
        axis.set_xticks(sorted({row[0] + 1 for row in errors}))
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if k == counts[0]:
            axis.set_ylabel("reconstruction error, % of the tokens' spread")
        if k == counts[-1]:  # its lines are the lowest: there is room above
            axis.legend(frameon=False, fontsize=8, loc="upper right", ncols=2)
    figure.suptitle(title, fontsize=11)
    figure.savefig(file, dpi=130)


COLUMNS = "mode family schedule method tokens network own accuracy low high seed_min seed_max"


def write_results(outcomes: list[Outcome], full: Outcome, errors: list[tuple[int, int, str, float]], out: Path) -> None:
    with (out / "results.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS.split())
        for o in (full, *outcomes):
            interval, means = bootstrap_interval(o.mean_hits), [float(h.mean()) for h in o.hits]
            figures = [interval.mean, interval.low, interval.high, min(means), max(means)]
            writer.writerow(
                [o.mode, o.family, o.schedule, o.method, " ".join(map(str, o.counts)), o.network, o.own]
                + [f"{v:.5f}" for v in figures]
            )
    with (out / "errors.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["block", "patches", "method", "share"])
        writer.writerows([[b, k, m, f"{e:.6f}"] for b, k, m, e in errors])


# ---------------------------------------------------------------- the whole of it


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    seeds: int = 2
    rates: tuple[float, ...] = RATES
    halvings: tuple[tuple[int, ...], ...] = HALVINGS
    tuned: tuple[tuple[int, ...], ...] = TUNED
    error_counts: tuple[int, ...] = (16, 32)
    modes: tuple[str, ...] = MODES[:2]


def experiment(
    pictures: Pictures, recipe: Recipe, plan: Plan, out: Path
) -> tuple[list[Outcome], Outcome, list[tuple[int, int, str, float]]]:
    """Trains (or loads) the models and measures them: outcomes, that of the unreduced model, and reconstruction errors
    as rows (block, patch tokens kept, method, mean over seeds).
    """
    settings = asdict(recipe)
    outcomes: dict[tuple[str, str, str, str], Outcome] = {}
    sums: dict[tuple[int, int, str], float] = {}
    full: Outcome | None = None
    for seed in range(plan.seeds):
        vit = new_vit(recipe, seed)
        kept(
            out / f"seed{seed}.safetensors",
            {**settings, "seed": seed},
            vit,
            partial(train, vit, pictures, recipe, recipe.epochs, recipe.rate, seed),
        )
        if full is None:
            cost = TokenPooledViT(vit, [None] * recipe.depth).flops().total
            full = Outcome("post-hoc", "", "unreduced", "", [recipe.tokens] * recipe.depth, cost, 0)
        full.hits.append(right(vit, pictures))
        runs = [(mode, *s) for mode in plan.modes for s in schedules(recipe, plan.rates, plan.halvings)]
        runs += [(MODES[2], *s) for s in schedules(recipe, (), plan.tuned)]
        for mode, family, name, keep in runs:
            for method in methods_for(family):
                if mode == MODES[2]:
                    hits = right_tuned(vit, keep, method, pictures, recipe, seed, out)
                else:
                    hits = right_pooled(vit, keep, method, pictures, proportional=mode == MODES[0])
                key = (mode, family, name, method)
                if key not in outcomes:
                    outcomes[key] = outcome(vit, recipe, *key[:3], keep, method)
                outcomes[key].hits.append(hits)
        for block in range(recipe.depth - 1):
            for k in plan.error_counts:
                for method in METHODS:
                    if method != "grid" or 4 * k == recipe.tokens - 1:
                        error = reconstruction_error(vit, pictures.test, block, k, method)
                        sums[block, k, method] = sums.get((block, k, method), 0) + error / plan.seeds
        print(f"seed {seed} measured: unreduced {100 * full.hits[-1].mean():.1f} %", flush=True)
    assert full is not None
    return list(outcomes.values()), full, [(*key, error) for key, error in sums.items()]


def right_tuned(
    vit: VisionTransformer, keep: list, method: str, pictures: Pictures, recipe: Recipe, seed: int, out: Path
) -> np.ndarray:
    """As :func:`right_pooled` after some epochs of training with the reduction in place."""
    own = copy.deepcopy(vit)
    pooled = TokenPooledViT(own, keep, method, generator=torch.Generator().manual_seed(seed))
    name = "-".join([f"seed{seed}", method, *(str(k or "all") for k in keep)])
    kept(
        out / f"{name}.safetensors",
        {**asdict(recipe), "seed": seed, "keep": keep, "method": method},
        own,
        partial(train, pooled, pictures, recipe, recipe.tune_epochs, recipe.tune_rate, seed),
    )
    return right_pooled(own, keep, method, pictures)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="digits, or the folder of the Grocery Store Dataset")
    parser.add_argument("--out", type=Path, default=Path("runs/token_pooling"), help="models and results")
    parser.add_argument("--figures", type=Path, help="folder for the plots; that of the results if not given")
    parser.add_argument("--seeds", type=int, default=2, help="models trained")
    parser.add_argument("--no-tuning", action="store_true", help="leave the fine-tuned comparison out")
    parser.add_argument(
        "--brief", action="store_true", help="fewer rates, each token counted for those it stands for, no tuning"
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.data == "digits":
        pictures, recipe = digits()
    else:
        pictures, recipe = grocery(Path(options.data), options.out / "grocery" / "pictures.npz")
    out = options.out / recipe.data
    plan = Plan(seeds=options.seeds, tuned=() if options.no_tuning else TUNED)
    if options.brief:
        plan = Plan(seeds=options.seeds, rates=(0.8, 0.6, 0.5, 0.4, 0.3), tuned=(), modes=MODES[:1])
    outcomes, full, errors = experiment(pictures, recipe, plan, out)
    write_results(outcomes, full, errors, out)
    report(outcomes, full, errors)
    report_deit()
    figures = options.figures or out
    figures.mkdir(parents=True, exist_ok=True)
    about = f"{recipe.data}, no fine-tuning, {options.seeds} model{'s' if options.seeds > 1 else ''}"
    plot_tradeoff(outcomes, full, f"Accuracy over FLOPs ({about})", figures / f"token_pooling_{recipe.data}.png")
    about = f"{recipe.data}, tokens of the unreduced model"
    plot_errors(errors, f"Reconstruction error ({about})", figures / f"token_pooling_{recipe.data}_error.png")


if __name__ == "__main__":
    main()
