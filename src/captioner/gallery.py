"""The gallery: pictures with what the model says of them and what people said, to be looked at.

Three choices of pictures: a random one shows what to expect, the best and the worst by CIDEr-D what
the model has understood and what not. Each row of a gallery is as high as its longest text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa

from captioner.drawing import CAPTION, MARGIN, NOTE, SCORE, TITLE, Page, Style, Text, height_of
from captioner.images import jpegs
from captioner.raster import decode

Choice = Literal["best", "worst", "random"]
CHOICES: tuple[Choice, ...] = get_args(Choice)

COLUMNS = 4
REFERENCES = 3  # shown of each picture
SIDE, GAP = 2.9, 0.32  # of pictures, between columns, in inches
PICTURE_GAP = 0.06  # between a picture and its caption, in inches

BOXES = "Boxes stand for characters that this font lacks; captions.html shows them all."
REFERENCE = Style(9.5, "#222222", lines=3, indent="    ")
NEAREST = Style(9, "#707070", lines=3, indent="    ")


@dataclass(frozen=True)
class Exhibit:
    """A picture with what is said of it.

    Attributes:
        place: the row of the predictions that it comes from.
        pixels: (size, size, 3) uint8.
        caption: the model's.
        references: people's.
        score: a line about the caption's score.
        nearest: a caption of the nearest training picture, or None where none is known.
    """

    place: int
    pixels: np.ndarray
    caption: str
    references: Sequence[str]
    score: str
    nearest: str | None = None


def choose(cider_d: np.ndarray, choice: Choice, number: int, seed: int) -> np.ndarray:
    """Places of at most `number` pictures.

    Args:
        cider_d: (pictures,) score of each picture.
        choice: `best` and `worst` begin with the extreme and take ties in the order of the rows;
            `random` keeps the order of the rows.
        number, seed: how many, and which at random.
    """
    if choice == "random":
        count = min(number, len(cider_d))
        return np.sort(np.random.default_rng(seed).choice(len(cider_d), count, replace=False))
    if choice not in CHOICES:
        raise ValueError(f"choice: {choice!r}: expected {', '.join(CHOICES)}")
    return np.argsort(cider_d if choice == "worst" else -cider_d, kind="stable")[:number]


def choose_exhibits(
    images: Path | str, predictions: pa.Table, rows: np.ndarray, number: int, seed: int
) -> dict[Choice, list[Exhibit]]:
    """Predictions with their pictures for each of the three choices; one pass over the pictures.

    Args:
        images: folder of the pictures' shards.
        predictions: from `evaluation.predictions_table`; captions of the nearest training pictures
            are shown where it has a column `nearest_caption`.
        rows: (predictions,) the picture number of each.
        number, seed: as for `choose`.
    """
    cider_d = predictions["cider_d"].to_numpy()
    places = {choice: choose(cider_d, choice, number, seed).tolist() for choice in CHOICES}
    wanted = {int(rows[place]) for chosen in places.values() for place in chosen}
    pixels = {row: decode(jpeg) for row, jpeg in enumerate(jpegs(images)) if row in wanted}
    has_nearest = "nearest_caption" in predictions.column_names

    def exhibit(place: int) -> Exhibit:
        return Exhibit(
            place,
            pixels[int(rows[place])],
            predictions["caption"][place].as_py(),
            predictions["references"][place].as_py(),
            f"CIDEr-D {cider_d[place]:.2f}",
            predictions["nearest_caption"][place].as_py() if has_nearest else None,
        )

    return {choice: [exhibit(place) for place in chosen] for choice, chosen in places.items()}


def draw_gallery(path: Path | str, exhibits: Sequence[Exhibit], title: str) -> None:
    """Draw the exhibits as a PNG, four to a row; captions are text, whatever they hold."""
    columns = max(1, min(COLUMNS, len(exhibits)))
    page = Page(columns * (SIDE + GAP) - GAP + 2 * MARGIN)
    head = [page.broken(title, TITLE)]
    texts = [_texts(exhibit, page) for exhibit in exhibits]
    if page.lacks_glyphs:
        head.append(page.broken(BOXES, NOTE))
    rows = [texts[start : start + columns] for start in range(0, len(texts), columns)]
    heights = [SIDE + PICTURE_GAP + max(map(height_of, row)) + GAP for row in rows]
    top = MARGIN + height_of(head) + 0.1
    page.set_height(top + sum(heights) - GAP + MARGIN)
    page.write(MARGIN, MARGIN, head)
    for number, (height, row) in enumerate(zip(heights, rows, strict=True)):
        for column, text in enumerate(row):
            left = MARGIN + column * (SIDE + GAP)
            page.picture(left, top, SIDE, exhibits[number * columns + column].pixels)
            page.write(left, top + SIDE + PICTURE_GAP, text)
        top += height
    page.save(path)


def _texts(exhibit: Exhibit, page: Page) -> list[Text]:
    """What is written below a picture."""
    texts = [(exhibit.caption or "(empty)", CAPTION), (exhibit.score, SCORE)]
    texts += [(f"–  {reference}", REFERENCE) for reference in exhibit.references[:REFERENCES]]
    if exhibit.nearest is not None:
        texts.append((f"nearest training picture: {exhibit.nearest}", NEAREST))
    return [page.broken(text, style, SIDE) for text, style in texts]
