"""A picture in grey with weights over it in colour: where a model looked, what spoke for a word."""

import numpy as np
from PIL import Image

from captioner.drawing import DPI, Style, height_of

SIDE = 1.36  # of a tile, in inches
TILE = round(SIDE * DPI)  # the same in pixels
PICTURE_SHARE = 0.4  # of a tile's colours; the rest shows the weights
COLORS = "inferno"  # the lighter, the larger the weight, to all kinds of colour vision
GAP, STEP = 0.1, SIDE + 0.1  # between tiles, and from one to the next, in inches
WORD, SCALE = Style(10, "#222222"), Style(9, "#707070")  # over a tile, at the scale of colours
WORD_HEIGHT = height_of([(WORD, [""])]) + 0.03


def overlay(pixels: np.ndarray, weights: np.ndarray, largest: float) -> np.ndarray:
    """A picture in grey with its attention weights in colour.

    Colours rather than the mere brightness of the picture: a black thing stays black in any light.

    Args:
        pixels: (size, size, 3) uint8.
        weights: (rows, columns) of a grid over the picture.
        largest: the weight that has the brightest colour.

    Returns:
        (TILE, TILE, 3) uint8.
    """
    from matplotlib import colormaps

    scaled = Image.fromarray(np.asarray(weights / (largest or 1), np.float32))
    # Bicubic, so that the borders of cells draw no shapes of their own; it overshoots a little.
    smooth = np.asarray(scaled.resize((TILE, TILE), Image.Resampling.BICUBIC)).clip(0, 1)
    colors = colormaps[COLORS](smooth)[..., :3] * 255
    grey = np.asarray(Image.fromarray(resized(pixels)).convert("L"))[..., None]
    return (PICTURE_SHARE * grey + (1 - PICTURE_SHARE) * colors).round().astype(np.uint8)


def resized(pixels: np.ndarray) -> np.ndarray:
    """A picture in the size of a tile."""
    return np.asarray(Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.BICUBIC))
