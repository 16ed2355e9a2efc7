"""Ten random pictures with a caption each, to see at a glance whether they belong together."""

from pathlib import Path

import numpy as np
import pandas as pd

from captioner.drawing import CAPTION, MARGIN, NOTE, SCORE, TITLE, Page, height_of
from captioner.images import jpegs
from captioner.raster import decode

PICTURES, COLUMNS = 10, 5
SIDE, GAP = 2.3, 0.28  # of pictures, and between them, in inches
BOXES = "Boxes stand for characters that this font lacks; nothing is wrong with the captions."


def draw_sheet(images: Path | str, captions: pd.DataFrame, path: Path | str, seed: int) -> None:
    """Draw random pictures of all splits, below each its split, its image_id and a random caption.

    Args:
        images: the shards of pictures.
        captions: columns of `captioner.images.CAPTION_SCHEMA`.
        path: the PNG to write.
        seed: of the choice.
    """
    rng = np.random.default_rng(seed)
    shuffled = captions.iloc[rng.permutation(len(captions))]
    chosen = shuffled.drop_duplicates("picture")[:PICTURES].sort_values("picture")
    wanted = set(chosen["picture"])
    pixels = {}
    if wanted:
        pixels = {row: decode(jpeg) for row, jpeg in enumerate(jpegs(images)) if row in wanted}

    page = Page(COLUMNS * (SIDE + GAP) - GAP + 2 * MARGIN)
    texts = []
    for picture in chosen.itertuples():
        label = page.broken(f"{picture.split}: {picture.image_id}", SCORE, SIDE)
        texts.append([label, page.broken(picture.caption.strip() or "(empty)", CAPTION, SIDE)])
    title = f"{len(texts)} random pictures as the model will see them, with a caption each"
    head = [page.broken(title, TITLE)]
    if page.lacks_glyphs:
        head.append(page.broken(BOXES, NOTE))
    rows = [
        range(start, min(start + COLUMNS, len(texts))) for start in range(0, len(texts), COLUMNS)
    ]
    heights = [SIDE + max(height_of(texts[i]) for i in row) + GAP for row in rows]
    top = MARGIN + height_of(head) + 0.1
    page.set_height(top + sum(heights) + MARGIN)
    page.write(MARGIN, MARGIN, head)
    for row, height in zip(rows, heights, strict=True):
        for column, number in enumerate(row):
            left = MARGIN + column * (SIDE + GAP)
            page.picture(left, top, SIDE, pixels[chosen["picture"].iloc[number]])
            page.write(left, top + SIDE, texts[number])
        top += height
    page.save(path)
