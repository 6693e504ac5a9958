"""From a specification to a network in memory, wherever its weights lie."""

from __future__ import annotations

import os

import torch
from torch import nn

from retrieval.errors import ModelError
from retrieval.messages import first_line
from retrieval.models.backbones import create_backbone, read_published
from retrieval.models.checkpoint import load_tensors
from retrieval.models.inner_whitening import CELLS, whiten_cells
from retrieval.models.network import RetrievalNetwork, make_pooling
from retrieval.models.registry import BACKBONES
from retrieval.models.spec import TOKENS, ModelSpec
from retrieval.models.token_reduction import token_schedule
from retrieval.models.weights import checked_digest, download_weights, note_loaded, remedy, weights_file


def empty_network(spec: ModelSpec) -> RetrievalNetwork:
    """The network a specification describes, with whatever weights torch's current random state gives it."""
    backbone = create_backbone(spec.backbone)
    if spec.pooling.get(TOKENS) is not None:
        backbone.schedule = token_schedule(backbone.info, spec.pooling[TOKENS], spec.image.size)
    pooling = make_pooling(spec.pooling, backbone.info)
    width = pooling.out_dim(backbone.info.dim)
    cells = whiten_cells(backbone.info.dim) if spec.pooling.get(CELLS) else None
    fc = whitening = None
    described = spec.whitening or {}
    # An FC layer stands alone, or under "fc" beside a whitening that is applied after it.
    layer = described if described.get("kind") == "fc" else described.get("fc") or {}
    if layer:
        fc = nn.Linear(width, int(layer.get("dim", spec.dim)))
        width = fc.out_features
    if described and described.get("kind") != "fc":
        whitening = nn.Linear(width, spec.dim)
    elif width != spec.dim:
        raise ModelError(f"the specification says {spec.dim} dimensions, but {spec.name} gives {width}")
    normalised = bool(layer.get("normalised", True))
    return RetrievalNetwork(backbone, pooling, fc, whitening, cells=cells, normalised=normalised).eval()


def build_network(spec: ModelSpec, checkpoint: str | os.PathLike[str] | None = None) -> RetrievalNetwork:
    """The network with its weights, in evaluation mode: from ``checkpoint`` when given, else as ``spec.weights`` says.

    Raises ModelError for a backbone that is not known here, and when the weights are missing, damaged or not those of the
    specification.
    """
    if spec.backbone not in BACKBONES:
        raise ModelError(
            f"this version of retrieval knows no backbone {spec.backbone!r}", "A newer one made this model."
        )
    if checkpoint is not None:
        stored, tensors = load_tensors(checkpoint)
        if stored.weights.sha256 != spec.weights.sha256:
            raise ModelError(f"{checkpoint} holds other weights ({stored.fingerprint}) than the specification names")
        network = empty_network(spec)
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            raise ModelError(
                f"{checkpoint} does not fit its specification: {' '.join(str(error).split())[:200]}"
            ) from error
        return network
    if spec.weights.id.startswith("random:"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(spec.weights.id.split(":")[1]))
            return empty_network(spec)
    published = BACKBONES[spec.backbone].published(spec.weights.id)
    if published is None:
        raise ModelError(
            f"the weights {spec.weights.id!r} of {spec.backbone} are not known here",
            "Name the checkpoint with --model.",
        )
    path = download_weights(published) if published.url else weights_file(published)
    digest = checked_digest(published, path)
    if digest != spec.weights.sha256:
        raise ModelError(
            f"{path} does not hold the weights of the specification (sha256 {spec.weights.sha256[:16]}...)"
        )
    network = empty_network(spec)
    try:
        network.backbone.load_published(read_published(str(path)))
    except ModelError as error:
        where = "" if str(path) in error.message else f"{path}: "
        raise ModelError(f"{where}{error.message}", remedy(published, path)) from error
    except (
        RuntimeError,
        KeyError,
    ) as error:  # torch's word for tensors that are missing, too many, or of another shape
        raise ModelError(
            f"{path} does not hold the weights {published.id}: {first_line(error)}", remedy(published, path)
        ) from error
    note_loaded(published, path, digest)
    return network
