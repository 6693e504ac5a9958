"""``retrieve models list|show|download|import|blend``."""

from __future__ import annotations

import click

from retrieval.cli.common import NumberList, form_option, print_json, say, teller
from retrieval.cli.grouped import PlainGroup
from retrieval.messages import safe


@click.group("models", cls=PlainGroup)
def command() -> None:
    """List, show, download, import and blend models."""


@command.command("list", short_help="The backbones, and which are on this machine.")
@form_option("How it is printed.")
def list_models(form: str) -> None:
    """The backbones, where their weights come from, and whether they are on this machine."""
    from retrieval.models.registry import BACKBONES
    from retrieval.models.weights import weights_present
    from retrieval.models.zoo import resolve
    from retrieval.pooling.registry import list_poolings

    rows = [(info, weights_present(info.weights)) for info in BACKBONES.values()]
    if form == "json":
        for info, here in rows:
            print_json(
                {
                    "name": f"{info.name}-{info.pooling}",
                    "dim": info.dim,
                    "weights": info.weights.id,
                    "here": here,
                }
            )
        return
    print(f"{'model':<24}{'dim':>5}  {'MB':>5}  {'here':<5} weights")
    for info, here in rows:
        name = f"{info.name}-{info.pooling}"
        print(
            f"{name:<24}{info.dim:>5}  {info.weights.megabytes:>5.0f}  {'yes' if here else 'no':<5} {info.weights.id}"
        )
    print(f"\nauto, which is taken where no --model is named, is {resolve('auto').name} here.")
    print("Any pooling of the same kind can follow the backbone: resnet50-avg, resnet50-max, resnet50-gem:p=4.")
    for layout, what in (("map", "convolutional networks"), ("tokens", "vision transformers (cls by default)")):
        print(f"Of {what}: {', '.join(entry.name for entry in list_poolings(layout))}.")


@command.command("show", short_help="One model as data: specification, fingerprint, licence.")
@click.argument("name")
def show(name: str) -> None:
    """One model, by name or checkpoint, as data: its specification, fingerprint, licence and origin."""
    import json
    import os

    from retrieval.models.checkpoint import checkpoint_path, read_spec
    from retrieval.models.registry import BACKBONES
    from retrieval.models.weights import weights_file, weights_present
    from retrieval.models.zoo import parse_name, resolve

    if os.path.exists(name):
        path = checkpoint_path(name)
        spec = read_spec(path)
        print(json.dumps({"checkpoint": str(path), "fingerprint": spec.fingerprint, "spec": spec.to_dict()}, indent=1))
        return
    data: dict = {"name": name}
    if name != "auto":
        weights = BACKBONES[parse_name(name).backbone].weights
        here = weights_present(weights)
        data["weights"] = {
            "id": weights.id,
            "licence": weights.licence,
            "origin": weights.origin,
            "megabytes": weights.megabytes,
            "here": here,
            "file": str(weights_file(weights)) if here or weights.url else None,
        }
        if not here and parse_name(name).seed is None:
            print(json.dumps(data, indent=1))
            say("its weights are not on this machine; get them with: retrieve models download " + name)
            return
    spec = resolve(name)
    print(json.dumps({**data, "fingerprint": spec.fingerprint, "spec": spec.to_dict()}, indent=1))


@command.command("download", short_help="Fetch a model's weights, once.")
@click.argument("name")
def download(name: str) -> None:
    """Fetch a model's weights into torch's cache, once; the hash is checked."""
    import sys

    from retrieval.models.registry import BACKBONES
    from retrieval.models.weights import checked_digest, download_weights, weights_file, weights_present
    from retrieval.models.zoo import parse_name

    weights = BACKBONES[parse_name(name).backbone].weights
    if weights_present(weights):
        checked_digest(weights, weights_file(weights))
        print(f"{weights.id} is here already: {weights_file(weights)}")
        return
    print(f"{weights.id}: {download_weights(weights, progress=sys.stderr.isatty())}")


@command.command("import", short_help="Convert another project's checkpoint.")
@click.argument("file", type=click.Path())
@click.option("--out", required=True, metavar="DIR", type=click.Path(), help="The new model's folder.")
@click.option(
    "--whitening",
    default="auto",
    metavar="NAME",
    help="Which of the file's whitenings to apply, such as retrieval-SfM-120k:ms; auto (default): the usual one for the "
    "scales, if the file has one; none.",
)
@click.option("--scales", type=NumberList(), help="Multi-scale description, such as 1,0.7071,0.5 (default: 1).")
@click.option("--size", type=click.IntRange(16, 16384), default=1024, show_default=True, help="Longest side in pixels.")
@click.option("--dim", type=click.IntRange(1), help="Keep the first dimensions of the whitening.")
@click.option("--pooling", metavar="NAME", help="For plain state dicts, such as gem:p=4 (default: gem).")
@click.option("--overwrite", is_flag=True, help="Replace a model in DIR.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but results and errors.")
def import_model(
    file: str,
    out: str,
    whitening: str,
    scales: tuple[float, ...] | None,
    size: int,
    dim: int | None,
    pooling: str | None,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Convert another project's checkpoint; nothing in the file is run.

    FILE (.pth, .pt) is of CNN Image Retrieval in PyTorch (cirtorch), of Deep Image Retrieval (dirtorch), or a state
    dict of a torchvision ResNet. The new model describes pictures as the original does; use it with --model DIR.
    """
    from retrieval.models.foreign.importing import import_checkpoint
    from retrieval.models.zoo import parse_name

    spec = import_checkpoint(
        file,
        out,
        whitening=whitening,
        scales=scales,
        size=size,
        dim=dim,
        pooling=None if pooling is None else parse_name(f"resnet50-{pooling}").pooling,
        overwrite=overwrite,
        say=teller(quiet),
    )
    print(f"{out}: {safe(spec.name)}, {spec.dim} dimensions, fingerprint {spec.fingerprint}")


@command.command("blend", short_help="Interpolate the weights of two models.")
@click.argument("first")
@click.argument("second")
@click.option(
    "--alpha", type=float, default=0.5, show_default=True, help="How much of SECOND: 0 is FIRST, 1 is SECOND."
)
@click.option("--out", required=True, metavar="DIR", type=click.Path(), help="The new model's folder.")
@click.option("--half", is_flag=True, help="Store float16: half the file.")
@click.option("--overwrite", is_flag=True, help="Replace a model in DIR.")
def blend_models(first: str, second: str, alpha: float, out: str, half: bool, overwrite: bool) -> None:
    """Interpolate the weights of two models of one architecture, such as a model before and after training.

    FIRST and SECOND are names or checkpoints; use the new model with --model DIR.
    """
    from retrieval.models.blend import blend

    spec = blend(first, second, out, alpha=alpha, half=half, overwrite=overwrite)
    print(f"{out}: {safe(spec.name)}, {spec.dim} dimensions, fingerprint {spec.fingerprint}")
