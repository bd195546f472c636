"""The item table in 8 bits, with a proven bound of the error of any score.

In ONNX Runtime a matrix product of 8-bit integers takes a fraction of the time of a float32 one.
Its scores are approximate; they select the few blocks of items whose exact scores can matter.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CODES = "retrieval.codes"  # the graph's initialiser of the codes
BLOCK_ITEMS = 16  # items that share a scale and are selected together
TILE_BLOCKS = 32  # a tile's products with 256 users fill a quarter of a 2 MB cache
TILE_ITEMS = BLOCK_ITEMS * TILE_BLOCKS

ITEM_LEVELS = 127
# Fewer than 127: without VNNI, x86 adds pairs of 8-bit products in 16 bits, and 255 * 63 * 2 is
# the largest sum that fits.
USER_LEVELS = 63

_ZERO = ITEM_LEVELS + 1  # the code of 0
_TILES_AT_ONCE = 64
_TINY = np.float32(1e-20)  # the least scale, that of an all-zero block


@dataclass(frozen=True)
class QuantizedItems:
    """An item table as ``scale * (code - zero)``, padded with zero items to whole tiles.

    Attributes:
        code: (tiles, TILE_ITEMS, D) uint8.
        scale: (tiles, TILE_BLOCKS, 1) float32, one per block.
        error: (tiles, TILE_BLOCKS, 2) float32. For an item x of the block, quantized to y, and a
            user u, quantized to v, ``|x.u - y.v| <= error[0] * |u - v| + error[1] * |u|``,
            including the float32 rounding of both sides.
        zero: uint8, the code of 0.
    """

    code: NDArray[np.uint8]
    scale: NDArray[np.float32]
    error: NDArray[np.float32]

    zero = np.uint8(_ZERO)


def quantize(table: NDArray[np.float32]) -> QuantizedItems:
    """Quantize an item table (V, D)."""
    n_items, dimensions = table.shape
    tiles = -(-n_items // TILE_ITEMS)
    code = np.empty((tiles, TILE_ITEMS, dimensions), np.uint8)
    scale = np.empty((tiles, TILE_BLOCKS, 1), np.float32)
    error = np.empty((tiles, TILE_BLOCKS, 2), np.float32)
    for begin in range(0, tiles, _TILES_AT_ONCE):
        end = min(begin + _TILES_AT_ONCE, tiles)
        given = table[begin * TILE_ITEMS : end * TILE_ITEMS]
        x = np.zeros(((end - begin) * TILE_ITEMS, dimensions), np.float32)
        x[: len(given)] = given
        x = x.reshape(end - begin, TILE_BLOCKS, BLOCK_ITEMS, dimensions)
        steps = np.maximum(np.abs(x).max((2, 3), keepdims=True) / np.float32(ITEM_LEVELS), _TINY)
        level = np.rint(x / steps)
        y = level * steps
        code[begin:end] = (level + _ZERO).reshape(end - begin, TILE_ITEMS, dimensions)
        scale[begin:end] = steps[..., 0]
        # x.u - y.v = (x - y).u + y.(u - v), then Cauchy-Schwarz. The error of a float32 dot product
        # is at most D * 2**-24 * |x| |u|; twice that is more than all roundings here together.
        rounding = (dimensions + 16) * 2.0**-23 * _largest(x)
        error[begin:end, :, 0] = _largest(y) * (1 + 2.0**-10)
        error[begin:end, :, 1] = _largest(x - y) * (1 + 2.0**-10) + rounding
    return QuantizedItems(code, scale, error)


def without_items(code: NDArray[np.uint8], left_out: NDArray[np.bool_]) -> None:
    """Make items zero in a table's codes, in place, so that they raise no block's bound.

    Args:
        code: (tiles, TILE_ITEMS, D) uint8.
        left_out: (V,) bool.
    """
    code.reshape(-1, code.shape[-1])[: len(left_out)][left_out] = _ZERO


def _largest(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The greatest norm in each block: (tiles, TILE_BLOCKS)."""
    return np.sqrt(np.einsum("tbid,tbid->tbi", vectors, vectors).max(2))
