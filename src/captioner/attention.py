"""Where the model looked as it chose each word: the attention weights of finished captions, drawn.

After the figures of "Show, Attend and Tell" (Xu et al. 2015, section 5.4). The weights are computed
anew by teacher forcing: a model that reads a caption goes through the very states in which it wrote
it. Each head of the attention has weights of its own; what is drawn is their mean.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from captioner.drawing import (
    CAPTION,
    MARGIN,
    NOTE,
    SCORE,
    TEXT_GAP,
    TITLE,
    Page,
    height_of,
)
from captioner.gallery import Exhibit
from captioner.graph import graph_function
from captioner.model import CaptionModel
from captioner.overlay import (
    COLORS,
    GAP,
    SCALE,
    SIDE,
    STEP,
    WORD,
    WORD_HEIGHT,
    overlay,
    resized,
)
from captioner.text import PAD

STRIPS = 3  # pictures of a figure
WORDS, NARROWEST = 8, 5  # tiles on a line: at most, and room for at least
STRIP_GAP = 0.3  # between strips, in inches

LINE = WORD_HEIGHT + SIDE + GAP  # from tile to tile, down
NOTE_TEXT = (
    "Where the model looked as it chose each word: the brighter, the larger the attention weight. "
    "All words of a picture share one scale."
)


def attention_weights(
    model: CaptionModel, features: np.ndarray, words: np.ndarray, batch_size: int = 64
) -> np.ndarray:
    """The attention weights with which each word of given captions was chosen.

    Args:
        model: the captioning model.
        features: (pictures, cells, channels) float16.
        words: (pictures, length) int32, one caption for each picture, padded, without <start> and
            <end>, as `decoding.Decoder` returns them.
        batch_size: pictures a call of the compiled function; the last batch is padded to it.

    Returns:
        (pictures, length, cells) float32: they sum to 1 over the cells for a word, and are 0 for
        padding. For pooled features, one cell, that is 1 for each word and tells nothing.
    """
    pictures, length = words.shape
    seen = np.zeros((pictures, length, model.config.cells), np.float32)
    if seen.size == 0:
        return seen
    batch_size = min(batch_size, pictures)

    watch = graph_function(model.looked_at)
    for first in range(0, pictures, batch_size):
        batch = slice(first, first + batch_size)
        missing = batch_size - len(words[batch])
        found = watch(
            np.pad(features[batch], ((0, missing), (0, 0), (0, 0))),
            np.pad(words[batch], ((0, missing), (0, 0)), constant_values=PAD).astype(np.int32),
        )
        seen[batch] = found.numpy()[: batch_size - missing]
    return seen * (words != PAD)[..., None]


def draw_strips(
    path: Path | str, exhibits: Sequence[Exhibit], weights: np.ndarray, title: str
) -> None:
    """Draw a PNG with a strip for each picture: the picture, then a tile for each word.

    A tile is the picture in grey, bright where the model looked as it chose the word above. The
    scale, above the picture, ends at the largest weight of the strip: tiles of one strip can be
    compared.

    Args:
        path: of the PNG.
        exhibits: the pictures; their captions are words joined by blanks.
        weights: (pictures, length, cells) from `attention_weights`; cells are a square grid, row
            by row.
        title: one line or two.

    Raises:
        ValueError: the cells are no square grid (pooled features have no place to look at), or a
            caption is longer than its weights.
    """
    grid = math.isqrt(weights.shape[-1])
    if grid < 2 or grid**2 != weights.shape[-1]:
        raise ValueError(f"{weights.shape[-1]} cells are no square grid of a picture")
    captions = [exhibit.caption.split() for exhibit in exhibits]
    longest = max(map(len, captions), default=0)
    if longest > weights.shape[1]:
        raise ValueError(f"a caption of {longest} words has weights of {weights.shape[1]} words")

    page = Page((1 + min(max(longest, NARROWEST), WORDS)) * STEP - GAP + 2 * MARGIN)
    head = [page.broken(title, TITLE), page.broken(NOTE_TEXT, NOTE)]
    texts = [
        [page.broken(exhibit.caption or "(empty)", CAPTION), page.broken(exhibit.score, SCORE)]
        for exhibit in exhibits
    ]
    lines = [max(1, -(-len(words) // WORDS)) for words in captions]
    heights = [
        height_of(text) + LINE * count + STRIP_GAP for text, count in zip(texts, lines, strict=True)
    ]
    top = MARGIN + height_of(head) + 0.1
    page.set_height(top + sum(heights) - STRIP_GAP - GAP + MARGIN)
    page.write(MARGIN, MARGIN, head)
    for number, (exhibit, words) in enumerate(zip(exhibits, captions, strict=True)):
        page.write(MARGIN, top, texts[number])
        tiles = top + height_of(texts[number])
        page.picture(MARGIN, tiles + WORD_HEIGHT, SIDE, resized(exhibit.pixels))
        largest = float(weights[number, : len(words)].max(initial=0))
        if words:
            _draw_scale(page, tiles, largest)
        for place, word in enumerate(words):
            left = MARGIN + STEP * (1 + place % WORDS)
            upper = tiles + LINE * (place // WORDS)
            page.write(left, upper, [page.broken(word, WORD, SIDE)])
            seen = overlay(exhibit.pixels, weights[number, place].reshape(grid, grid), largest)
            page.picture(left, upper + WORD_HEIGHT, SIDE, seen)
        top += heights[number]
    page.save(path)


def _draw_scale(page: Page, top: float, largest: float) -> None:
    """A bar of the colours from weight 0 to the largest, in the line of the words."""
    page.write(MARGIN, top, [page.broken("0", SCALE, 0.2)])
    page.write(MARGIN + SIDE - 0.33, top, [page.broken(f"{largest:.2f}", SCALE, 0.35)])
    axes = page.axes(MARGIN + 0.14, top + TEXT_GAP + 0.02, SIDE - 0.54, 0.12)
    axes.imshow(np.linspace(0, 1, 256)[None], cmap=COLORS, aspect="auto")
    axes.axis("off")
