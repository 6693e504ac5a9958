"""``retrieve models list|show|download``."""

from __future__ import annotations

import click

from retrieval.cli.common import print_json, say


@click.group("models")
def command() -> None:
    """List, show and download models."""


@command.command("list")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", help="How it is printed.")
def list_models(form: str) -> None:
    """The backbones, where their weights come from, and whether they are on this machine."""
    from retrieval.models.zoo import BACKBONES, weights_present

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
    print("\nAny pooling of the same kind can follow the backbone: resnet50-avg, resnet50-max, resnet50-gem:p=4.")


@command.command("show")
@click.argument("name")
def show(name: str) -> None:
    """One model, by name or checkpoint, as data: its specification, fingerprint, licence and origin."""
    import json
    import os

    from retrieval.models.checkpoint import checkpoint_path, read_spec
    from retrieval.models.zoo import BACKBONES, parse_name, resolve, weights_file, weights_present

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


@command.command("download")
@click.argument("name")
def download(name: str) -> None:
    """Fetch a model's weights into torch's cache, once; the hash is checked."""
    import sys

    from retrieval.models.zoo import BACKBONES, download_weights, parse_name, weights_file, weights_present

    weights = BACKBONES[parse_name(name).backbone].weights
    if weights_present(weights):
        print(f"{weights.id} is here already: {weights_file(weights)}")
        return
    print(f"{weights.id}: {download_weights(weights, progress=sys.stderr.isatty())}")
