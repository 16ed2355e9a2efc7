"""Figures laid out in inches from the upper left corner, with texts measured before they are drawn.

Lines are broken where the measured width ends and a page becomes as high as what stands on it, so
that nothing overlaps or is cut whatever captions hold. Texts are never read as mathematics, equal
content gives equal bytes, and nothing here is global (matplotlib's pyplot would be).
"""

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import ImageFont

from captioner.files import atomic_file

DPI = 100
MARGIN = 0.35  # around all, in inches
TEXT_GAP = 0.06  # above every text, in inches
LETTERS = 1000  # of a text that are looked at; no style shows as many
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


Text = tuple[Style, list[str]]  # a text in lines

TITLE = Style(15, "#222222", "bold", lines=2)
CAPTION = Style(11.5, "#1a4d8f", "bold", lines=4)
SCORE = Style(9, "#707070")
NOTE = Style(9.5, "#555555", lines=2)  # below a title: how to read the figure


def height_of(texts: Sequence[Text]) -> float:
    """Of texts one below the other with a little space above each, in inches."""
    return sum(style.height * len(lines) + TEXT_GAP for style, lines in texts)


class Page:
    """A white page of `width` inches; set its height when everything is measured, then draw.

    `lacks_glyphs` is whether a text so far has a character that the font shows as a box.
    """

    def __init__(self, width: float):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.width = width
        self.lacks_glyphs = False
        self.figure = Figure(figsize=(width, 1), dpi=DPI, facecolor="white")
        self._renderer = FigureCanvasAgg(self.figure).get_renderer()

    def broken(self, text: str, style: Style, width: float | None = None) -> Text:
        """A text in lines of at most `width` inches (default: the page without its margins).

        Words longer than a line are broken; what does not go into the style's lines is cut.
        """
        from matplotlib.font_manager import FontProperties, findfont, get_font

        font = FontProperties(size=style.size, weight=style.weight)
        pixels = (self.width - 2 * MARGIN if width is None else width) * DPI

        def fits(line: str) -> bool:
            return self._renderer.get_text_width_height_descent(line, font, False)[0] <= pixels

        with _missing_glyphs_allowed():
            lines = broken_lines(text, fits, style.lines, style.indent)
        glyph = get_font(findfont(font)).get_char_index  # 0 where there is none
        self.lacks_glyphs |= not all(glyph(ord(letter)) for line in lines for letter in line)
        return style, lines

    def set_height(self, height: float) -> None:
        """In inches; before anything is drawn."""
        self.figure.set_figheight(height)

    def write(self, left: float, top: float, texts: Sequence[Text]) -> None:
        """Write texts one below the other."""
        for style, lines in texts:
            top += TEXT_GAP
            for line in lines:
                x, y, *_ = self.box(left, top, 0, 0)
                look = {"size": style.size, "weight": style.weight, "color": style.color}
                self.figure.text(x, y, line, va="top", parse_math=False, **look)
                top += style.height

    def axes(self, left: float, top: float, width: float, height: float):
        """A place to plot in; returns matplotlib's Axes."""
        return self.figure.add_axes(self.box(left, top, width, height))

    def picture(self, left: float, top: float, side: float, pixels: np.ndarray) -> None:
        """Show a square picture (size, size, 3) uint8."""
        axes = self.axes(left, top, side, side)
        axes.imshow(pixels, interpolation="bicubic")
        axes.axis("off")

    def save(self, path: Path | str) -> None:
        """Write the page as a PNG without a time or a version in it."""
        with atomic_file(path) as temporary, _missing_glyphs_allowed():
            self.figure.savefig(temporary, metadata={"Software": None})

    def box(self, left: float, top: float, width: float, height: float) -> tuple[float, ...]:
        """Inches from the upper left corner as matplotlib's fractions from the lower left one."""
        all_width, all_height = self.figure.get_size_inches()
        bottom = all_height - top - height
        return left / all_width, bottom / all_height, width / all_width, height / all_height


def broken_lines(text: str, fits: Callable[[str], bool], most: int, indent: str = "") -> list[str]:
    """A text in at most `most` lines that fit, all but the first indented; the rest is cut."""
    text = "".join(c if c.isprintable() else " " for c in text[:LETTERS])
    # Many captions end with " .", which must not stand alone on a line.
    text = re.sub(r" (?=[.,;:!?]+( |$))", "\N{NO-BREAK SPACE}", text)
    if fits(text):  # the rule, and one measurement instead of one for each word
        return [text.strip()]
    full = (line for line in _lines(text, indent, fits) if line.strip())
    lines = list(islice(full, most + 1)) or [""]
    if len(lines) > most:
        last = lines[most - 1]
        while last and not fits(last + MORE):
            last = last[:-1]
        lines = [*lines[: most - 1], last.rstrip() + MORE]
    return lines


def _lines(text: str, indent: str, fits: Callable[[str], bool]) -> Iterator[str]:
    """Fill lines with words, or with letters where a word fits no line; some may be blank."""
    line = ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if fits(longer):
            line = longer
            continue
        if fits(indent + word):
            yield line
            line = indent + word
            continue
        line = f"{line} " if line else ""  # what has no blanks begins where the words before end
        for letter in word:
            if not fits(line + letter):
                yield line
                line = indent
            line += letter
    yield line


def pillow_font(size: int) -> ImageFont.FreeTypeFont:
    """The font of all figures (DejaVu Sans: Latin, Greek, Cyrillic, Arabic ...), for Pillow."""
    import matplotlib  # for the file alone

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


@contextmanager
def _missing_glyphs_allowed():
    """Emoji and the like become boxes, without a warning for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield
