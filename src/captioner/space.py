"""Two figures of the space of pictures and sentences: a map of it, and what finds what in it.

The map is the plane of the pictures' two first principal components. A picture stands for all that
lie in its cell of the map; the dots are people's captions, which share the space with the pictures.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from captioner.drawing import CAPTION, MARGIN, NOTE, TITLE, Page, Style, height_of

WIDTH, HEIGHT = 11.4, 8.0  # of the map, in inches
CELL = 0.5  # a picture on the map
DOTS = 4000  # captions at most
SIDE, GAP = 1.55, 0.25  # of pictures on the sheet
COLUMNS = 5  # results of each query
QUERY_GAP = 0.35  # between a query and its results
SMALL = Style(9.5, CAPTION.color, lines=4)

Pictures = Callable[[Sequence[int]], Sequence[np.ndarray]]


def principal_plane(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two directions in which vectors vary most, each with its largest part positive.

    Args:
        vectors: (n, size).

    Returns:
        mean (size,), directions (size, 2), and their shares (2,) of the variance.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    centered = vectors - mean
    values, directions = np.linalg.eigh(centered.T @ centered)
    plane = directions[:, [-1, -2]]
    signs = np.sign(plane[np.abs(plane).argmax(axis=0), [0, 1]])
    return mean, plane * signs, values[[-1, -2]] / max(float(values.sum()), 1e-12)


def draw_map(
    path: Path | str, pictures: np.ndarray, captions: np.ndarray, pixels_of: Pictures, title: str
) -> int:
    """Draw the map as a PNG.

    Args:
        pictures: (n, size), n at least 3; captions: (m, size), in the same space.
        pixels_of: rows of pictures to their pixels, each (side, side, 3) uint8.
        title: in a line.

    Returns:
        how many pictures stand on it.
    """
    mean, plane, shares = principal_plane(pictures)
    places = (pictures - mean) @ plane
    low, high = np.quantile(places, [0.002, 0.998], axis=0)
    high = np.maximum(high, low + 1e-6)  # where all are in one place
    spread = high - low
    columns, rows = int(WIDTH / CELL), int(HEIGHT / CELL)
    cells = ((places - low) / spread * [columns, rows]).astype(int)
    inside = ((cells >= 0) & (cells < [columns, rows])).all(axis=1)
    numbers = np.flatnonzero(inside)
    _, firsts = np.unique(cells[numbers] @ [rows, 1], return_index=True)
    shown = numbers[firsts]

    page = Page(WIDTH + 2 * MARGIN)
    note = (
        f"The plane of the two first principal components ({shares[0]:.0%} and {shares[1]:.0%} of "
        "the variance). Each picture stands for those in its cell; dots are people's captions."
    )
    head = [page.broken(title, TITLE), page.broken(note, NOTE)]
    top = MARGIN + height_of(head) + 0.1
    page.set_height(top + HEIGHT + MARGIN)
    page.write(MARGIN, MARGIN, head)
    axes = page.axes(MARGIN, top, WIDTH, HEIGHT)
    some = captions[np.unique(np.linspace(0, len(captions) - 1, DOTS).astype(int))]
    x, y = ((some - mean) @ plane).T
    axes.scatter(x, y, s=3, color="#c9d3e0", linewidths=0)
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    axes.set_axis_off()
    for row, pixels in zip(shown, pixels_of(shown.tolist()), strict=True):
        column, line = cells[row]
        page.picture(MARGIN + column * CELL, top + (rows - 1 - line) * CELL, 0.94 * CELL, pixels)
    page.save(path)
    return len(shown)


def draw_neighbours(
    path: Path | str,
    rows: Sequence[tuple[tuple[np.ndarray, str], Sequence[tuple[np.ndarray, str, str]]]],
    title: str,
) -> None:
    """Draw queries and what they find as a PNG.

    Args:
        rows: of each query its picture and caption, and of each of up to `COLUMNS` results picture,
            caption and reasons.
        title: in a line.
    """
    page = Page(2 * MARGIN + (SIDE + GAP) * (COLUMNS + 1) - GAP + QUERY_GAP)
    head = [page.broken(title, TITLE)]
    texts = []
    for (_, caption), results in rows:
        line = [[page.broken(caption, SMALL, SIDE)]]
        for _, found, reasons in results:
            line.append([page.broken(found, SMALL, SIDE), page.broken(reasons, NOTE, SIDE)])
        texts.append(line)
    heights = [SIDE + max(map(height_of, line)) + GAP for line in texts]
    top = MARGIN + height_of(head) + 0.15
    page.set_height(top + sum(heights) + MARGIN - GAP)
    page.write(MARGIN, MARGIN, head)
    for height, line, ((pixels, _), results) in zip(heights, texts, rows, strict=True):
        pictures = [pixels, *(result[0] for result in results)]
        for column, (picture, text) in enumerate(zip(pictures, line, strict=True)):
            left = MARGIN + column * (SIDE + GAP) + (QUERY_GAP if column else 0)
            page.picture(left, top, SIDE, picture)
            page.write(left, top + SIDE, text)
        top += height
    page.save(path)
