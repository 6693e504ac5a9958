"""What a vision transformer costs, in multiply-accumulates."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Flops:
    """Cost of one image in multiply-accumulates, which is what papers on these models call FLOPs.

    Attributes:
        patch_embedding: the convolution that makes tokens of patches.
        blocks: for each block its linear layers and the two products of attention.
        head: the classifier.
        clustering: after each block, finding the significance (where it has to be computed anew) and the clusters.
    """

    patch_embedding: int
    blocks: tuple[int, ...]
    head: int
    clustering: tuple[int, ...] = field(default=())

    @property
    def network(self) -> int:
        """All but the clustering."""
        return self.patch_embedding + sum(self.blocks) + self.head

    @property
    def total(self) -> int:
        """The network and the clustering."""
        return self.network + sum(self.clustering)
