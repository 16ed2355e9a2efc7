"""The gallery: pictures with what the model says of them and what people said, to be looked at."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from captioner.files import atomic_file
from captioner.images import read_pictures
from captioner.raster import decode

COLUMNS = 4
REFERENCES = 3  # shown of each picture
WIDTH = 42  # characters a line


@dataclass(frozen=True)
class Exhibit:
    """A picture (size, size, 3) uint8, its caption, its references, and a line about the score."""

    pixels: np.ndarray
    caption: str
    references: Sequence[str]
    score: str


def choose_exhibits(
    images: Path | str, predictions: pa.Table, rows: np.ndarray, number: int, seed: int
) -> list[Exhibit]:
    """A random choice of predictions with their pictures.

    Args:
        images: folder of the pictures' shards.
        predictions: from `evaluation.predictions_table`.
        rows: the picture number of each prediction.
        number, seed: how many, and which.
    """
    count = min(number, len(rows))
    chosen = np.sort(np.random.default_rng(seed).choice(len(rows), count, replace=False))
    jpegs = read_pictures(images, ["jpeg"])["jpeg"]
    return [
        Exhibit(
            decode(jpegs[rows[place]]),
            predictions["caption"][place].as_py(),
            predictions["references"][place].as_py(),
            f"CIDEr-D {predictions['cider_d'][place].as_py():.2f}",
        )
        for place in map(int, chosen)
    ]


def draw_gallery(exhibits: Sequence[Exhibit], path: Path | str, title: str) -> None:
    """Draw the exhibits as a PNG, four to a row; captions are text, whatever they hold."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-len(exhibits) // COLUMNS)
    figure = Figure(figsize=(3.6 * COLUMNS, 4.9 * rows + 0.5), dpi=80, facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13, x=0.01, ha="left", parse_math=False)
    for number, exhibit in enumerate(exhibits):
        axes = figure.add_subplot(rows, COLUMNS, number + 1)
        axes.imshow(exhibit.pixels, interpolation="nearest")
        axes.axis("off")
        lines = textwrap.wrap(exhibit.caption, WIDTH - 6, max_lines=3) or ["(empty)"]
        _write(axes, -0.03, lines, fontsize=10.5, weight="bold", color="#1a4d8f")
        below = -0.03 - 0.075 * len(lines)
        _write(axes, below, [exhibit.score], fontsize=8.5, color="#555555")
        references = []
        for reference in exhibit.references[:REFERENCES]:
            references += textwrap.wrap("– " + reference, WIDTH, max_lines=2)
        _write(axes, below - 0.065, references, fontsize=8.5, color="#222222")
    figure.subplots_adjust(
        left=0.02, right=0.99, top=1 - 0.5 / (4.9 * rows + 0.5), bottom=0.14 / rows
    )
    figure.subplots_adjust(hspace=0.55, wspace=0.08)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, metadata={"Software": None})


def _write(axes, top: float, lines: Sequence[str], **style) -> None:
    axes.text(
        0, top, "\n".join(lines), transform=axes.transAxes, va="top", parse_math=False, **style
    )
