"""Which model is asked for: a name and what is to differ from that model's own rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from retrieval.describe.model import Model, load_model
from retrieval.messages import Say, say_nothing
from retrieval.pooling.registry import pooling_info


@dataclass(frozen=True)
class ModelChoice:
    """See :func:`retrieval.describe.model.load_model`; None: not said."""

    model: str | None = None
    size: int | None = None
    scales: Sequence[float] | None = None
    exif: bool | None = None
    tokens: str | None = None

    def load(self, engine: str = "auto", say: Say = say_nothing) -> Model:
        """The model; ``auto`` where no name is said. Raises UsageError, ModelError, DownloadError."""
        model = load_model(
            self.model or "auto",
            size=self.size,
            scales=self.scales,
            exif=self.exif,
            tokens=self.tokens,
            engine=engine,
            say=say,
        )
        pooling = pooling_info(model.spec.pooling["name"])
        if pooling.untrained and model.checkpoint is None:
            say(
                f"warning: {model.spec.name}: the weights of {pooling.name} were never trained, so it is {pooling.untrained}; "
                "`retrieve train` learns them"
            )
        return model
