"""What a CNN is made of, in plain numpy, to be read and tried by hand.

Four ideas: convolution, ReLU, max pooling, softmax (Goodfellow, Bengio and Courville 2016, "Deep
Learning", sections 9.1 to 9.3 and 6.2.2.3). Networks are built of Keras's layers, which compute the
same, faster and with gradients.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def convolve(picture: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Lay the kernel over each place of a picture; multiply cell by cell, and add it all up.

    Deep learning calls this convolution; mathematics, which turns the kernel around first, calls it
    cross-correlation. Only places where all of the kernel lies on the picture count ("valid").

    Args:
        picture: (height, width), or (height, width, channels).
        kernel: (rows, columns), or (rows, columns, channels, filters) for a picture with channels.

    Returns:
        (height - rows + 1, width - columns + 1), or with filters as the last axis: a map for each.

    Raises:
        ValueError: the kernel is larger than the picture, or the channels differ.
    """
    windows = sliding_window_view(picture, kernel.shape[:2], axis=(0, 1))
    # 64 bits: products of bytes do not fit into bytes.
    wide = np.result_type(picture, kernel, np.int64)
    if picture.ndim == 2:
        return np.einsum("hwrc,rc->hw", windows, kernel, dtype=wide)
    return np.einsum("hwdrc,rcdf->hwf", windows, kernel, dtype=wide, optimize=True)


def relu(values: np.ndarray) -> np.ndarray:
    """Rectified linear unit: what is below zero becomes zero; any shape."""
    return np.maximum(values, 0)


def max_pool(maps: np.ndarray, side: int) -> np.ndarray:
    """Keep the largest value of each block of side x side cells.

    Args:
        maps: (height, width), or (height, width, channels).
        side: of the blocks, in cells. Rows and columns that fill no block are left out.

    Returns:
        (height // side, width // side), or with channels as the last axis.
    """
    rows, columns = maps.shape[0] // side, maps.shape[1] // side
    whole = maps[: rows * side, : columns * side]
    return whole.reshape(rows, side, columns, side, *maps.shape[2:]).max(axis=(1, 3))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Turn numbers (..., classes) into probabilities: e to their power, divided by the sum of all.

    The largest is taken off first, which changes no quotient, and e to its power is then 1: no
    number is too large.
    """
    powers = np.exp(logits - np.max(logits, axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
