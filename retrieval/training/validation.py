"""Is it getting better? mAP on held-out clusters of the training data, or on a ground truth."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from retrieval.datasets.groundtruth import GroundTruth
from retrieval.datasets.placing import check_boxes, check_files
from retrieval.datasets.reading import load_groundtruth
from retrieval.errors import DatasetError
from retrieval.evaluation.evaluator import labels_of, protocols_of
from retrieval.evaluation.protocol import Labels, evaluate_vectors
from retrieval.messages import count_of
from retrieval.models.spec import ImageRule, ModelSpec
from retrieval.pictures import imaging
from retrieval.training.config import TrainingConfig
from retrieval.training.data.pictures import Pictures
from retrieval.training.data.training_set import TrainingSet
from retrieval.training.machine import Machine
from retrieval.training.network.live import LiveEngine, describe_together

_NOBODY = np.zeros(0, np.int64)


class Validation(Protocol):
    """What the trainer asks after every epoch. ``about`` says in words what the figure is."""

    @property
    def about(self) -> str: ...

    def mean_average_precision(self, engine: LiveEngine, rule: ImageRule, machine: Machine) -> float: ...


@dataclass(frozen=True)
class HeldOut:
    """Every held-out picture asks for the others that match it, among all held-out pictures; unreadable ones are left out."""

    data: TrainingSet

    @property
    def about(self) -> str:
        clusters = len(np.unique(self.data.clusters[self.data.clusters >= 0]))
        return f"{count_of(len(self.data), 'held-out picture')} of {count_of(clusters, *self.data.cluster_word)}"

    def mean_average_precision(self, engine: LiveEngine, rule: ImageRule, machine: Machine) -> float:
        """mAP with the trapezoidal average precision; raises DatasetError where nothing held out has a match."""
        pictures = Pictures(self.data.paths, rule)
        vectors = describe_together(range(len(self.data)), pictures.load, engine, machine, "validation")[0]
        fine = np.isfinite(vectors).all(axis=1)
        data = self.data.subset(fine)
        matches = _matches(data)
        labels = [Labels(found, _NOBODY, np.array([i])) for i, found in enumerate(matches)]
        asked = np.array([i for i, found in enumerate(matches) if len(found)], np.int64)
        if not len(asked):
            raise DatasetError(f"{data.name}: no held-out picture has a match among the held-out pictures")
        vectors = vectors[fine]
        result = evaluate_vectors(vectors[asked], vectors, [labels[i] for i in asked])
        return result["medium"].mean_average_precision


@dataclass(frozen=True)
class OnTruth:
    """The queries of a ground truth against its gallery: protocol medium, or the original one of Oxford5k and Paris6k."""

    truth: GroundTruth

    @property
    def about(self) -> str:
        return f"{self.truth.name}, {protocols_of(self.truth)[-2:][0].name}"

    def check(self, rule: ImageRule) -> None:
        """Raises DatasetError where pictures are missing or boxes lie outside of them."""
        check_files(self.truth)
        check_boxes(self.truth, oriented=rule.exif)

    def mean_average_precision(self, engine: LiveEngine, rule: ImageRule, machine: Machine) -> float:
        """Raises DatasetError for a picture that cannot be read: without it the figure would be another one."""
        truth = self.truth
        items = [(q.image, q.bbox) for q in truth.queries] + [(path, None) for path in truth.gallery]

        def load(i: int) -> np.ndarray:
            path, box = items[i]
            file = os.path.join(truth.root, path)
            options = {"size": rule.size, "interpolation": rule.interpolation, "exif": rule.exif}
            return imaging.load_picture(Path(file), bbox=box, **options).array  # type: ignore[arg-type]

        vectors, reasons = describe_together(range(len(items)), load, engine, machine, "validation")
        if not np.isfinite(vectors).all():
            bad = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            why = reasons.get(bad, "another process could not read it")
            raise DatasetError(f"{truth.name}: {items[bad][0]} cannot be used: {why}")
        count = len(truth.queries)
        protocols = protocols_of(truth)
        results = evaluate_vectors(vectors[:count], vectors[count:], labels_of(truth), protocols=protocols)
        return (results.get("medium") or results["original"]).mean_average_precision


def validation_of(config: TrainingConfig, spec: ModelSpec, held: TrainingSet | None) -> Validation | None:
    """On what was ``held`` out, else on the ground truth that ``config`` names, if any. Raises DatasetError."""
    if held is not None:
        return HeldOut(held)
    if config.truth is None:
        return None
    made = OnTruth(load_groundtruth(config.truth))
    made.check(spec.image)
    return made


def _matches(data: TrainingSet) -> list[np.ndarray]:
    """For each picture, ascending, those that match it: partners in a pair where there are pairs, else its cluster's."""
    found: list[set[int]] = [set() for _ in data.paths]
    if len(data.pairs):
        for a, b in data.pairs.tolist():
            found[a].add(b)
            found[b].add(a)
    members: dict[int, list[int]] = {}
    for i, cluster in enumerate(data.clusters.tolist()):
        if cluster >= 0:
            members.setdefault(cluster, []).append(i)
    for group in members.values():
        for i in group:
            found[i].update(group)
    return [np.array(sorted(others - {i}), np.int64) for i, others in enumerate(found)]
