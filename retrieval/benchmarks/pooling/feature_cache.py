"""What a backbone sees, computed once and kept: the feature maps or token sequences of many pictures.

Pictures differ in size, so their features do too; each is kept as it is, nothing is resized or padded. Up to a budget
they stay in memory; from there on they go to a temporary file that is mapped into memory and vanishes with its cache.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from retrieval.errors import DatasetError, RetrievalError, UsageError
from retrieval.messages import no_update

if TYPE_CHECKING:
    import torch

    from retrieval.datasets.groundtruth import Box
    from retrieval.describe.model import Model
    from retrieval.engines.torch.engine import TorchEngine

Picture = tuple[str, "Box | None"]
"""A path, and the box (x1, y1, x2, y2) in its pixels that is looked at, or None for all of it."""

_BATCH_BYTES = 4 << 20  # features pooled in one step: they should stay in the processor's cache


class FeatureCache:
    """Features of pictures 0, 1, ...: maps ``(H, W, C)`` or token sequences ``(T, D)``, float32.

    ``budget``: bytes kept in memory; what comes later goes to a temporary file, as float32 where the disk has room for
    twice the ``expected`` number of pictures, else as float16 (which changes the third digit of a feature).
    ``layout`` is "map" or "tokens". A context manager: the file goes when it is closed.
    """

    def __init__(self, layout: str, expected: int, budget: int) -> None:
        self.layout = layout
        self.expected = expected
        self.budget = budget
        self.bytes = 0
        self.file_dtype: type[np.floating[Any]] | None = None
        self._kept: dict[int, npt.NDArray[np.float32]] = {}
        self._placed: dict[int, int] = {}  # index -> offset in the file, in values
        self.shapes: dict[int, tuple[int, ...]] = {}
        self._file: tempfile._TemporaryFileWrapper[bytes] | IO[bytes] | None = None
        self._length = 0
        self._map: npt.NDArray[np.floating[Any]] | None = None

    def __len__(self) -> int:
        return len(self.shapes)

    def __enter__(self) -> FeatureCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of everything, the temporary file included."""
        self._kept.clear()
        self._map = None
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def place(self) -> str:
        """Where the features are, for people: "memory", or what is in a temporary file."""
        if self.file_dtype is None:
            return "in memory"
        return f"{len(self._placed)} of {len(self)} in a temporary file as {np.dtype(self.file_dtype).name}"

    def add(self, index: int, features: npt.NDArray[np.float32]) -> None:
        """Keep the features of picture ``index``. Raises RetrievalError where the disk is full."""
        self.shapes[index] = features.shape
        if self.file_dtype is None and self.bytes + features.nbytes <= self.budget:
            self._kept[index] = np.ascontiguousarray(features, np.float32)
        else:
            self._write(index, features)
        self.bytes += features.nbytes

    def _write(self, index: int, features: npt.NDArray[np.float32]) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="retrieval-features-")  # noqa: SIM115
                left = self.expected - len(self.shapes) + 1
                needed = 2 * left * max(features.nbytes, self.bytes // max(1, len(self._kept)))
                room = shutil.disk_usage(tempfile.gettempdir()).free
                self.file_dtype = np.float32 if needed < room else np.float16
            self._file.write(np.ascontiguousarray(features, self.file_dtype).tobytes())
        except OSError as error:
            raise RetrievalError(
                f"the features do not fit: {error.strerror} in {tempfile.gettempdir()}",
                "Point TMPDIR to a larger disk, or use a smaller --size.",
            ) from error
        self._placed[index] = self._length
        self._length += features.size
        self._map = None

    def features(self, index: int) -> npt.NDArray[np.float32]:
        """The features of one picture, float32; not to be written to."""
        if index in self._kept:
            return self._kept[index]
        if self._map is None:
            assert self._file is not None
            assert self.file_dtype is not None
            self._file.flush()
            self._map = np.memmap(self._file, self.file_dtype, mode="r", shape=(self._length,))
        shape, start = self.shapes[index], self._placed[index]
        stored = self._map[start : start + int(np.prod(shape))].reshape(shape)
        return np.asarray(stored, np.float32)

    def batches(self) -> list[list[int]]:
        """All pictures in groups that can be pooled together: of equal shape, a few megabytes."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, shape in self.shapes.items():
            groups.setdefault(shape, []).append(index)
        batches = []
        for shape, members in groups.items():
            count = max(1, _BATCH_BYTES // (4 * int(np.prod(shape))))
            batches += [members[start : start + count] for start in range(0, len(members), count)]
        return batches

    def load(self, batch: Sequence[int]) -> torch.Tensor:
        """The features of pictures of equal shape as a pooling takes them: ``(B, C, H, W)``, channels-last in memory as they
        leave the network, or ``(B, T, D)``."""
        return self.tensor(np.stack([self.features(i) for i in batch]))

    def tensor(self, features: npt.NDArray[np.float32]) -> torch.Tensor:
        """Features ``(B, H, W, C)`` or ``(B, T, D)`` as a tensor that a pooling takes; no copy."""
        import torch

        x = torch.from_numpy(features)
        return x.permute(0, 3, 1, 2) if self.layout == "map" else x

    def typical_shape(self) -> tuple[int, ...]:
        """The shape that occurs most often (of several, the largest)."""
        shapes = list(self.shapes.values())
        return max(set(shapes), key=lambda shape: (shapes.count(shape), shape))


class FeatureEngine:
    """The backbone of a model as something :func:`retrieval.describe.extraction.describe_all` can run: it gives features, not
    descriptors. What happens to a picture before is exactly what the torch engine does.
    """

    name = "features"

    def __init__(self, engine: TorchEngine, layout: str) -> None:
        self.engine = engine
        self.layout = layout
        self.dim = engine.dim
        self.batch_pixels = engine.batch_pixels

    def describe(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, 3) -> float32 (N, h, w, C) or (N, T, D)."""
        import torch

        describer = self.engine.describer
        with torch.inference_mode():
            pixels = torch.from_numpy(np.require(images, requirements=["C", "W"])).to(self.engine.device)
            x = (pixels.permute(0, 3, 1, 2).float() - describer.mean) / describer.std
            features = describer.network.features(x).float().cpu()
        if self.layout == "map":
            features = features.permute(0, 2, 3, 1)
        return features.contiguous().numpy()


def default_budget() -> int:
    """A quarter of the machine's memory, in bytes."""
    return int(os.sysconf("SC_PHYS_PAGES")) * int(os.sysconf("SC_PAGE_SIZE")) // 4


def extract_features(
    model: Model,
    engine: TorchEngine,
    pictures: Sequence[Picture],
    *,
    budget: int | None = None,
    progress: Callable[[int, int], None] = no_update,
    unread: dict[int, str] | None = None,
) -> FeatureCache:
    """Run the backbone of the model (that of ``engine``) once over each picture and keep what it gives, under the number
    of the picture in ``pictures``.

    ``budget``: bytes of features that may stay in memory (default: :func:`default_budget`). ``unread`` takes numbers of pictures
    that cannot be read, and why; without it the first ends all. The caller closes the cache. Raises UsageError for a multi-scale
    model, DatasetError for a picture that cannot be read.
    """
    from retrieval.describe.extraction import describe_all
    from retrieval.models.registry import BACKBONES

    if tuple(model.spec.image.scales) != (1.0,):
        raise UsageError("features are compared at one scale", "Leave out --scales.")
    layout = BACKBONES[model.spec.backbone].layout
    backbone = FeatureEngine(engine, layout)
    cache = FeatureCache(layout, len(pictures), default_budget() if budget is None else budget)
    try:
        results = describe_all(range(len(pictures)), lambda i: model.load(*pictures[i]), lambda: backbone)
        for done, result in enumerate(results):
            if result.error is not None:
                if unread is None:
                    raise DatasetError(f"{pictures[result.item][0]}: {result.error}")
                unread[result.item] = str(result.error)
            else:
                assert result.descriptor is not None
                cache.add(result.item, result.descriptor)
            progress(done + 1, len(pictures))
    except BaseException:
        cache.close()
        raise
    return cache
