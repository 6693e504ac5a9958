"""Winograd's minimal filtering F(4 x 4, 3 x 3): 3 x 3 convolutions with a quarter of the multiplications.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016. A tile of 4 x 4 outputs needs a window of
6 x 6 inputs d; with the kernel g it is Y = A' [(G g G') * (B' d B)] A, where ' transposes and * multiplies element by
element. Summed over channels, the middle is one matrix product for each of the 36 positions. With tiles and windows
written row by row as vectors, both transformations are matrix products as well: B' d B = (B' kron B') d.

The numbers only; what runs them is in :mod:`retrieval.engines.torch.winograd` and
:mod:`retrieval.engines.openvino.winograd`.
"""

from __future__ import annotations

import numpy as np

from retrieval.system.processor import processor_flags

TILE, WINDOW = 4, 6  # rows (and columns) of a tile and of its window; neighbouring windows share WINDOW - TILE

# Below, the transformations cost more than the products save (ResNet-50, 1024 px, two cores with AVX2).
LEAST_CHANNELS = 256
LEAST_TILES = 16

_B = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_G = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
_A = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])

INPUT = np.kron(_B, _B).astype(np.float32)
"""(36, 36): a window, row by row, to its 36 positions."""
OUTPUT = np.kron(_A, _A).astype(np.float32)
"""(16, 36): 36 sums over channels to a tile, row by row."""
CONSTANT = WINDOW + 1
"""The position that counts once in every output of a tile: what is added there (a bias) is added to all 16."""


def transformed(weights: np.ndarray) -> np.ndarray:
    """Kernels (C_out, C_in, 3, 3) -> float32 (36, C_out, C_in): one matrix for each position, computed in float64."""
    positions = np.einsum("ij,ocjk,lk->iloc", _G, weights.astype(np.float64), _G, optimize=True)
    return np.ascontiguousarray(positions.reshape(WINDOW * WINDOW, *weights.shape[:2]), np.float32)


def pays_here() -> bool:
    """Whether this processor is of the kind on which it was measured to pay in float32: x86 with AVX2, AVX-512 or not.

    Elsewhere convolutions stay direct: Arm's libraries filter so on their own. In bfloat16 it pays nowhere.
    """
    return "avx2" in processor_flags().split()
