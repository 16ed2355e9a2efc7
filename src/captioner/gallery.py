"""The gallery: pictures with what the model says of them and what people said, to be looked at.

Laid out in inches from the top: each row is as high as its longest text, and lines are broken where
the measured width ends, so that nothing overlaps or is cut whatever the captions hold.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from captioner.files import atomic_file
from captioner.images import jpegs
from captioner.raster import decode

COLUMNS = 4
REFERENCES = 3  # shown of each picture
SIDE, GAP, MARGIN = 2.9, 0.32, 0.35  # of pictures, between columns, around all, in inches
PICTURE_GAP, TEXT_GAP = 0.06, 0.06  # above the caption, and above every text
DPI = 100
MORE = "…"  # ends a text that is cut


@dataclass(frozen=True)
class Style:
    """Font size in points, colour, weight, most lines, and the start of all but the first."""

    size: float
    color: str
    weight: str = "normal"
    lines: int = 1
    indent: str = ""

    @property
    def height(self) -> float:
        """Of a line, in inches."""
        return self.size * 1.4 / 72


TITLE = Style(15, "#222222", "bold", lines=2)
CAPTION = Style(11.5, "#1a4d8f", "bold", lines=4)
SCORE = Style(9, "#777777")
REFERENCE = Style(9.5, "#222222", lines=3, indent="    ")


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
    wanted = set(rows[chosen].tolist())
    stored = {row: jpeg for row, jpeg in enumerate(jpegs(images)) if row in wanted}
    return [
        Exhibit(
            decode(stored[int(rows[place])]),
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

    columns = min(COLUMNS, len(exhibits))
    width = columns * (SIDE + GAP) - GAP + 2 * MARGIN
    figure = Figure(figsize=(width, 1), dpi=DPI, facecolor="white")
    renderer = FigureCanvasAgg(figure).get_renderer()
    head = _broken(title, TITLE, width - 2 * MARGIN, renderer)
    texts = [_texts(exhibit, renderer) for exhibit in exhibits]
    rows = [texts[start : start + columns] for start in range(0, len(texts), columns)]
    heights = [SIDE + PICTURE_GAP + max(map(_height, row)) + GAP for row in rows]
    top = MARGIN + _height([(TITLE, head)]) + 0.1
    figure.set_figheight(top + sum(heights) - GAP + MARGIN)
    _write(figure, MARGIN, MARGIN, [(TITLE, head)])
    for number, (height, row) in enumerate(zip(heights, rows, strict=True)):
        for column, text in enumerate(row):
            left = MARGIN + column * (SIDE + GAP)
            axes = figure.add_axes(_box(figure, left, top, SIDE, SIDE))
            axes.imshow(exhibits[number * columns + column].pixels, interpolation="bicubic")
            axes.axis("off")
            _write(figure, left, top + SIDE + PICTURE_GAP, text)
        top += height
    with atomic_file(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # emoji and the like become boxes
        figure.savefig(temporary, metadata={"Software": None})


def _texts(exhibit: Exhibit, renderer) -> list[tuple[Style, list[str]]]:
    """What is written below a picture, in lines."""
    texts = [(CAPTION, exhibit.caption or "(empty)"), (SCORE, exhibit.score)]
    texts += [(REFERENCE, f"–  {reference}") for reference in exhibit.references[:REFERENCES]]
    return [(style, _broken(text, style, SIDE, renderer)) for style, text in texts]


def _height(texts: Sequence[tuple[Style, list[str]]]) -> float:
    """Of texts one below the other with a little space between, in inches."""
    return sum(style.height * len(lines) + TEXT_GAP for style, lines in texts)


def _broken(text: str, style: Style, width: float, renderer) -> list[str]:
    """A text in lines of at most `width` inches; words longer than a line are broken."""
    from matplotlib.font_manager import FontProperties

    font = FontProperties(size=style.size, weight=style.weight)

    def fits(line: str) -> bool:
        return renderer.get_text_width_height_descent(line, font, False)[0] <= width * DPI

    # Of longer texts no part past this is ever shown.
    text = "".join(c if c.isprintable() else " " for c in text[:1000])
    lines = [""]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        for word in text.split(" "):
            if fits(f"{lines[-1]} {word}"):
                lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
                continue
            lines.append(style.indent)
            for letter in word:
                if not fits(lines[-1] + letter):
                    lines.append(style.indent)
                lines[-1] += letter
        lines = [line for line in lines if line.strip()] or [""]
        if len(lines) > style.lines:
            last = lines[style.lines - 1]
            while not fits(last + MORE):
                last = last[:-1]
            lines = [*lines[: style.lines - 1], last.rstrip() + MORE]
    return lines


def _write(figure, left: float, top: float, texts: Sequence[tuple[Style, list[str]]]) -> None:
    """Write texts one below the other, from `left` and `top` in inches."""
    for style, lines in texts:
        top += TEXT_GAP
        for line in lines:
            x, y, *_ = _box(figure, left, top, 0, 0)
            look = {"size": style.size, "weight": style.weight, "color": style.color}
            figure.text(x, y, line, va="top", parse_math=False, **look)
            top += style.height


def _box(figure, left: float, top: float, width: float, height: float) -> tuple[float, ...]:
    """Inches from the upper left corner as matplotlib's fractions from the lower left one."""
    all_width, all_height = figure.get_size_inches()
    bottom = all_height - top - height
    return left / all_width, bottom / all_height, width / all_width, height / all_height
