"""Where the evidence for a word lies: Grad-CAM, class activation maps by gradients.

"Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization" (Selvaraju et al.
2017, section 3): each channel of the feature maps counts as much as the score of the class grows
with it. With a linear layer on the mean of the grid this is, up to a factor, the class activation
map of Zhou et al. (2016, section 2); their section 3.1 shows it. A flat layer has a weight for each
cell, and the mean of those means nothing: there each cell keeps its own, as in HiResCAM (Draelos
and Carin 2020, arXiv 2011.08891), so that the map is what the cells add to the score.
"""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from captioner.drawing import CAPTION, MARGIN, NOTE, TEXT_GAP, TITLE, Page, height_of
from captioner.feature_maps import network_of
from captioner.graph import graph_function
from captioner.overlay import COLORS, GAP, SCALE, SIDE, STEP, WORD, WORD_HEIGHT, overlay

TILES = 8  # on a line: pictures and maps
BLOCK_GAP = 0.35  # between pictures, in inches
NOTE_TEXT = (
    "The brighter, the more evidence FOR what is written above lies there; all maps share one "
    "scale. Dark is no evidence, which is not evidence against it: where a whole map is dark, the "
    "network found none."
)


def grad_cam(
    encoder: keras.Model,
    head: keras.Model,
    pictures: np.ndarray,
    classes: np.ndarray,
    *,
    averaged: bool = True,
) -> np.ndarray:
    """Grad-CAM of all pairs of a picture and one of its classes.

    The feature maps are those of the encoder's last convolution, after its activation, where it has
    such a one with a finer grid than its output; else the output.

    Args:
        encoder: pictures (n, size, size, 3) to a grid (n, rows, columns, channels).
        head: the grid to logits (n, labels).
        pictures: (n, size, size, 3) uint8.
        classes: (n, k) int, numbers of labels.
        averaged: weigh a channel by the mean of its gradients; False where the score weighs each
            cell by itself.

    Returns:
        (n, k, rows, columns) float32 of the feature maps' grid, not negative.
    """
    lower, upper = _halves(encoder)
    count, each = classes.shape
    maps = graph_function(lower)(tf.constant(pictures, tf.float32), training=False)
    # A copy of the maps for each pair: pairs do not mix, so one tape has the gradients of all.
    maps = tf.repeat(maps, each, axis=0)
    with tf.GradientTape() as tape:
        tape.watch(maps)
        logits = head(upper(maps, training=False), training=False)
        scores = tf.gather(logits, classes.reshape(-1), batch_dims=1)
    weights = tape.gradient(scores, maps)
    if averaged:
        weights = tf.reduce_mean(weights, axis=(1, 2), keepdims=True)  # equation 1
    seen = tf.nn.relu(tf.reduce_sum(weights * maps, axis=-1))  # equation 2
    return seen.numpy().reshape(count, each, *seen.shape[1:])


def _halves(encoder: keras.Model) -> tuple[keras.Model, layers.Layer]:
    """From the pictures to the feature maps, and from them to the encoder's output."""
    if network_of(encoder) is encoder:
        numbers = [n for n, x in enumerate(encoder.layers) if isinstance(x, layers.Conv2D)]
        if numbers:
            # What follows in the same shape is its normalisation and its activation.
            maps = encoder.layers[numbers[-1]].output
            for layer in encoder.layers[numbers[-1] :]:
                if layer.output.shape != maps.shape:
                    break
                maps = layer.output
            if maps.shape[1:3] > encoder.output.shape[1:3]:
                return keras.Model(encoder.input, maps), keras.Model(maps, encoder.output)
    return encoder, layers.Identity()


def predict(
    encoder: keras.Model, head: keras.Model, pictures: np.ndarray, exclusive: bool
) -> np.ndarray:
    """Probabilities (n, labels): of each word by itself, or of classes that exclude each other."""
    grid = graph_function(encoder)(tf.constant(pictures, tf.float32), training=False)
    logits = head(grid, training=False)
    return (tf.nn.softmax(logits) if exclusive else tf.sigmoid(logits)).numpy()


def draw_grad_cam(
    path: Path | str,
    pictures: np.ndarray,
    captions: Sequence[str],
    labels: Sequence[Sequence[tuple[str, float]]],
    maps: np.ndarray,
    title: str,
) -> None:
    """Draw a PNG with each picture, its caption and the maps of its labels.

    Args:
        path: of the PNG.
        pictures: (n, size, size, 3) uint8.
        captions: one a picture.
        labels: for each picture k names with their probabilities.
        maps: (n, k, rows, columns) from `grad_cam`.
        title: one line or two.
    """
    tiles = 1 + maps.shape[1]
    columns = max(1, min(TILES // tiles, len(pictures)))
    width = tiles * STEP - GAP
    page = Page(max(columns * (width + BLOCK_GAP) - BLOCK_GAP, 6) + 2 * MARGIN)
    head = [page.broken(title, TITLE), page.broken(NOTE_TEXT, NOTE)]
    texts = [[page.broken(caption or "(empty)", CAPTION, width)] for caption in captions]
    starts = range(0, len(texts), columns)
    heights = [max(map(height_of, texts[start : start + columns])) for start in starts]
    lines = [height + WORD_HEIGHT + SIDE + BLOCK_GAP for height in heights]
    top = MARGIN + height_of(head) + 0.1
    scale = top
    top += WORD_HEIGHT + 0.1
    page.set_height(top + sum(lines) - BLOCK_GAP * bool(lines) + MARGIN)
    page.write(MARGIN, MARGIN, head)
    largest = float(maps.max(initial=0))
    _draw_scale(page, scale, largest)
    for number, picture in enumerate(pictures):
        line, column = divmod(number, columns)
        left = MARGIN + column * (width + BLOCK_GAP)
        upper = top + sum(lines[:line])
        page.write(left, upper, texts[number])
        upper += heights[line]
        page.picture(left, upper + WORD_HEIGHT, SIDE, picture)
        for place, (name, probability) in enumerate(labels[number], 1):
            share = page.broken(f"{probability:.0%}", SCALE, 0.45)
            page.write(left + place * STEP, upper, [page.broken(name, WORD, SIDE - 0.45)])
            page.write(left + place * STEP + SIDE - 0.35, upper, [share])
            seen = overlay(picture, maps[number, place - 1], largest)
            page.picture(left + place * STEP, upper + WORD_HEIGHT, SIDE, seen)
    page.save(path)


def _draw_scale(page: Page, top: float, largest: float) -> None:
    """The colours from no evidence to the most."""
    axes = page.axes(MARGIN + 0.2, top + TEXT_GAP + 0.02, 2, 0.12)
    axes.imshow(np.linspace(0, 1, 256)[None], cmap=COLORS, aspect="auto")
    axes.axis("off")
    page.write(MARGIN, top, [page.broken("0", SCALE, 0.2)])
    most = f"{largest:.2g}  evidence"
    page.write(MARGIN + 2.3, top, [page.broken(most, SCALE, 3)])
