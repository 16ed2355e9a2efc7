"""What the CNN sees, in three figures: its first filters, its feature maps, its evidence.

Maps keep their pixels: each is a square of whole dots, and nothing is smoothed; only maps larger
than their place are averaged.
"""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import keras
import numpy as np
from keras import layers
from PIL import Image

from captioner.course_cnn import Evidence
from captioner.drawing import DPI, MARGIN, NOTE, SCORE, TEXT_GAP, TITLE, Page, Style, height_of
from captioner.feature_maps import FeatureMaps, feature_maps, first_layer_filters
from captioner.grad_cam import draw_grad_cam, grad_cam, predict

MAPS = 8  # of a layer that are shown
SIDE = 128  # of a map, at most, in dots
FILTERS, FILTER_SIDE = 12, 72  # on a line; side of one, at most, in dots
GAP, CHAIN_GAP = 0.1, 0.3  # between maps, and above a layer with other channels, in inches
LEFT, RIGHT = 3.5, 0.65  # room beside the maps for texts and for the scale, in inches
COLORS = "RdBu_r"  # blue below zero, white at zero, red above: to all kinds of colour vision
RULE = (0.8, 0.8, 0.8)

NAME, WHAT = Style(11.5, "#1a4d8f", "bold"), Style(9.5, "#222222", lines=3)
NUMBER = Style(8.5, "#707070")
NUMBER_HEIGHT = height_of([(NUMBER, [""])]) + 0.03
FILTERS_NOTE = (
    "A square shows the weights of one filter, which slides over the picture. Mid-grey is zero. A "
    "filter answers most to a spot that looks like it: brighter where it is bright, and darker "
    "where it is dark."
)
MAPS_NOTE = (
    "From the picture down through the network. Each map is a channel: red above zero, white "
    "at zero, blue below. Rows with no line between them show the same channels, those of the "
    "largest contrast, on one scale."
)


def write_encoder_report(
    folder: Path,
    encoder: keras.Model,
    head: keras.Model,
    names: Sequence[str],
    pictures: np.ndarray,
    captions: Sequence[str],
    top: int = 3,
    *,
    exclusive: bool = False,
) -> None:
    """Write first_layer.png, feature_maps.png (of the first picture) and grad_cam.png.

    Args:
        folder: gets the figures.
        encoder: pictures (n, size, size, 3) to a grid (n, rows, columns, channels).
        head: the grid to logits (n, labels).
        names: of the labels.
        pictures: (n, size, size, 3) uint8, n > 0.
        captions: one a picture.
        top: labels a picture that are shown, the likeliest ones.
        exclusive: the labels are classes of which a picture has one, not words of which it has any.
    """
    folder = Path(folder)
    draw_filters(folder / "first_layer.png", encoder)
    draw_feature_maps(folder / "feature_maps.png", encoder, pictures[0])
    probabilities = predict(encoder, head, pictures, exclusive)
    likeliest = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    labels = [
        [(names[label], float(row[label])) for label in chosen]
        for row, chosen in zip(probabilities, likeliest, strict=True)
    ]
    every = encoder.layers + head.layers
    flat = any(isinstance(layer, (layers.Flatten, Evidence)) for layer in every)
    maps = grad_cam(encoder, head, pictures, likeliest, averaged=not flat)
    kind, method = "classes" if exclusive else "words", "HiResCAM" if flat else "Grad-CAM"
    title = f"{encoder.name}: where the evidence for the likeliest {kind} lies ({method})"
    draw_grad_cam(folder / "grad_cam.png", pictures, captions, labels, maps, title)


def draw_filters(path: Path | str, encoder: keras.Model) -> None:
    """Draw all filters of the first convolution, each on a scale of its own."""
    filters = first_layer_filters(encoder)
    rows, columns, channels, count = filters.kernels.shape
    seen = "the grey picture" if channels == 1 else f"{channels} channels of colour"
    page = Page(FILTERS * (FILTER_SIDE / DPI + GAP) - GAP + 2 * MARGIN)
    head = [
        page.broken(f"{encoder.name}: the filters of its first convolution", TITLE),
        page.broken(f"{filters.name}: {count} filters of {rows} × {columns} over {seen}", NOTE),
        page.broken(FILTERS_NOTE, NOTE),
    ]
    top = MARGIN + height_of(head) + GAP
    step, line = FILTER_SIDE / DPI + GAP, NUMBER_HEIGHT + FILTER_SIDE / DPI + GAP
    _set_height(page, top + -(-count // FILTERS) * line - GAP + MARGIN)
    page.write(MARGIN, MARGIN, head)
    for number, weights in enumerate(filters.colors):
        left, upper = MARGIN + number % FILTERS * step, top + number // FILTERS * line
        page.write(left, upper, [page.broken(str(number), NUMBER)])
        _show(page, left, upper + NUMBER_HEIGHT, 0.5 + 0.5 * weights, FILTER_SIDE)
    page.save(path)


def draw_feature_maps(path: Path | str, encoder: keras.Model, picture: np.ndarray) -> None:
    """Draw what the layers make of a picture: a row a layer, in it some of its channels."""
    chains = groupby(feature_maps(encoder, picture), key=lambda row: row.chain)
    chains = [list(rows) for _, rows in chains]
    step = SIDE / DPI + GAP
    page = Page(LEFT + MAPS * step + RIGHT + 2 * MARGIN)
    head = [
        page.broken(f"{encoder.name}: what its layers make of a picture", TITLE),
        page.broken(MAPS_NOTE, NOTE),
    ]
    top = MARGIN + height_of(head) + GAP
    between = CHAIN_GAP + NUMBER_HEIGHT
    _set_height(page, top + step + sum(between + step * len(rows) for rows in chains) + MARGIN)
    page.write(MARGIN, MARGIN, head)
    page.write(MARGIN, top, _texts(page, "picture", picture.shape))
    _show(page, MARGIN + LEFT, top, picture / 255, SIDE)
    top += step
    for rows in chains:
        rule = np.full((1, round((page.width - 2 * MARGIN) * DPI), 3), RULE)
        _show(page, MARGIN, top + CHAIN_GAP / 2 - GAP / 2, rule, rule.shape[1])
        channels = most_active(rows)
        # Of what the activation lets through: what goes into it may be far larger.
        measured = [row for row in rows if row.kind != "convolution"] or rows
        largest = max(float(np.abs(row.maps[..., channels]).max()) for row in measured)
        for place, channel in enumerate(channels):
            left = MARGIN + LEFT + place * step
            page.write(left, top + CHAIN_GAP, [page.broken(f"channel {channel}", NUMBER)])
        top += between
        for row in rows:
            page.write(MARGIN, top, _texts(page, row.name, row.maps.shape, row.kind, row.text))
            maps = row.maps[..., channels]
            for place in range(len(channels)):
                colors = _colors(maps[..., place], largest)
                _show(page, MARGIN + LEFT + place * step, top, colors, SIDE)
            _draw_scale(page, MARGIN + LEFT + MAPS * step, top, maps, largest)
            top += step
    page.save(path)


def most_active(rows: Sequence[FeatureMaps]) -> list[int]:
    """The channels of largest variance within the picture, in the first of layers that share them.

    That one is before the activation, so that a channel with nothing above zero may be among them.
    """
    return np.argsort(-rows[0].maps.var(axis=(0, 1)), kind="stable")[:MAPS].tolist()


def _texts(page: Page, name: str, shape: Sequence[int], kind: str = "", text: str = "") -> list:
    size = " × ".join(map(str, shape))
    lines = [(name, NAME), (f"{kind}  {size}".strip(), SCORE), (text, WHAT)]
    return [page.broken(line, style, LEFT - 0.2) for line, style in lines]


def _colors(values: np.ndarray, largest: float) -> np.ndarray:
    """(rows, columns) from -largest to largest to colours in 0..1, zero in the middle of them."""
    from matplotlib import colormaps

    return colormaps[COLORS](0.5 + 0.5 * values / (largest or 1))[..., :3]


def _draw_scale(page: Page, left: float, top: float, maps: np.ndarray, largest: float) -> None:
    """A bar of the colours beside a row of maps, with its ends and zero."""
    lowest = -largest if maps.min() < 0 else 0.0
    values = np.linspace(largest, lowest, SIDE)[:, None].repeat(12, axis=1)
    _show(page, left, top, _colors(values, largest), SIDE)
    marks = {largest: "≥ " * bool(maps.max() > largest), lowest: "≤ " * bool(maps.min() < lowest)}
    for value, beyond in (marks | {0.0: ""}).items():
        place = (largest - value) / ((largest - lowest) or 1) * (SIDE / DPI - NUMBER.height)
        text = f"{beyond}{value:.3g}".replace("-", "\N{MINUS SIGN}")
        page.write(left + 0.18, top + place - TEXT_GAP, [page.broken(text, NUMBER, RIGHT)])


def _set_height(page: Page, height: float) -> None:
    """Whole dots, so that what is placed from the top lies on them."""
    page.set_height(round(height * DPI) / DPI)


def _show(page: Page, left: float, top: float, colors: np.ndarray, side: int) -> None:
    """Draw each pixel as a square of whole dots; what is larger than `side` dots is averaged.

    Args:
        left, top: in inches.
        colors: (rows, columns, 3) in 0..1.
        side: in dots.
    """
    pixels = (np.clip(colors, 0, 1) * 255).round().astype(np.uint8)
    if (longest := max(pixels.shape[:2])) > side:
        pixels = np.asarray(Image.fromarray(pixels).reduce(-(-longest // side)))
    scale = side // max(pixels.shape[:2])
    pixels = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    bottom = round((page.figure.get_figheight() - top) * DPI) - len(pixels)
    page.figure.figimage(pixels, round(left * DPI), bottom)
