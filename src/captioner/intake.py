"""What came into the pipeline and what was turned away: limits, rejected.csv and a contact sheet.

A data set with a few bad pictures is normal and goes on without them; one with many is the wrong
file or the wrong reader, and training on the rest would hide it. So the share is limited, every
rejected thing is named in a table, and a small sheet of stored pictures shows what the model sees.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from captioner import CaptionerError
from captioner.datasets import SPLITS, Picture, Rejected
from captioner.drawing import broken_lines, pillow_font
from captioner.files import atomic_file
from captioner.images import jpegs, read_pictures
from captioner.raster import decode
from captioner.words import words_of


def with_words(
    pictures: Iterable[Picture | Rejected], split_characters: bool
) -> Iterator[Picture | Rejected]:
    """Reject captions in which the tokenizer finds no word: "...", an emoji, a lone dash.

    Nothing could be learnt from them, and no search could find them. All later stages rely on it:
    every picture has a caption, every caption a word.

    Args:
        pictures: as a data set yields them.
        split_characters: `tokenize.split_characters`, see `captioner.words`.

    Yields:
        The items in their order, after each picture's `Rejected` captions; a picture that has no
        other caption is rejected, too.
    """
    for item in pictures:
        if isinstance(item, Picture):
            kept = tuple(text for text in item.captions if words_of(text, split_characters))
            for text in item.captions:
                if text not in kept:
                    yield Rejected(item.image_id, "caption without words", f"{text!r:.60}")
            if kept:
                item = replace(item, captions=kept)
            else:
                detail = f"split {item.split}, no caption has a word"
                item = Rejected(item.image_id, "picture without captions", detail)
        yield item


def check_intake(counts: Mapping[str, int], rejected: Iterable[Rejected], limit: float) -> None:
    """Stop where too much was rejected or a split is empty.

    Args:
        counts: as `captioner.images.write_shards` returns them.
        rejected: named in the message, the most frequent reason first.
        limit: largest share (0 to 1) of rejected pictures among all pictures, and of rejected
            captions among all captions.

    Raises:
        CaptionerError: with the share, the reasons and where to look.
    """
    reasons: dict[str, int] = {}
    for item in rejected:
        reasons[item.reason] = reasons.get(item.reason, 0) + 1
    listed = ", ".join(
        f"{reason} ({count})"
        for reason, count in sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))
    )
    stored = {
        "pictures": sum(counts[f"pictures_{split}"] for split in SPLITS),
        "captions": counts["captions"],
    }
    for kind, good in stored.items():
        bad = counts[f"rejected_{kind}"]
        if bad > limit * (good + bad):
            raise CaptionerError(
                f"{bad} of {good + bad} {kind} rejected, more than params.yaml "
                f"preprocess.max_rejected ({limit:g}) allows: {listed}; see "
                "reports/preprocess/rejected.csv, then mend the data or raise the limit"
            )
    for split in SPLITS:
        if not counts[f"pictures_{split}"]:
            raise CaptionerError(
                f"split {split}: no picture left; training, choosing and testing need one each"
                + (f"; rejected: {listed}" if listed else "")
            )


def write_rejected(path: Path | str, rejected: Iterable[Rejected]) -> None:
    """Write CSV with the columns image_id, reason, detail."""
    rows = ((item.image_id, item.reason, item.detail) for item in rejected)
    write_csv(path, ("image_id", "reason", "detail"), rows)


def write_csv(path: Path | str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write CSV, the header always, safe to open as a spreadsheet whatever the texts hold."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow(map(_cell, row))
    with atomic_file(path) as temporary:
        temporary.write_bytes(stream.getvalue().encode("utf-8", "replace"))


def _cell(text: str) -> str:
    """One line of text that no spreadsheet runs as a formula (OWASP, "CSV Injection")."""
    line = re.sub(r"[\x00-\x1f\x7f]+", " ", text)
    return f"'{line}" if line.lstrip()[:1] in tuple("=+-@") or line[:1] != text[:1] else line


def contact_sheet(
    folder: Path | str, captions: pa.Table, path: Path | str, *, columns: int = 4, side: int = 160
) -> None:
    """Draw `columns` pictures of each split, evenly spread, over their split and first caption.

    Args:
        folder: the shards of pictures.
        captions: as `captioner.images.write_shards` returns them.
        path: the PNG to write.
        side: of each picture in the sheet, in pixels.
    """
    index = read_pictures(folder, ["split"])["split"]
    firsts = captions.to_pandas().query("caption_id == 0").set_index("picture")["caption"]
    font = pillow_font(10)
    margin, lines = 8, 4
    cell = (side + margin, side + margin + 13 * lines)
    sheet = Image.new("RGB", (columns * cell[0] + margin, 3 * cell[1] + margin), "white")
    draw = ImageDraw.Draw(sheet)
    chosen = {}
    for row, split in enumerate(SPLITS):
        rows = np.flatnonzero(index == split)
        picks = np.unique(np.linspace(0, len(rows) - 1, min(columns, len(rows))).round())
        for column, pick in enumerate(picks.astype(int)):
            chosen[int(rows[pick])] = (split, margin + column * cell[0], margin + row * cell[1])
    for picture, jpeg in enumerate(jpegs(folder)):
        if picture not in chosen:
            continue
        split, left, top = chosen[picture]
        sheet.paste(Image.fromarray(decode(jpeg)).resize((side, side)), (left, top))
        text = f"{split}: {firsts.get(picture, '')}"
        broken = broken_lines(text, lambda line: font.getlength(line) <= side, lines - 1)
        draw.multiline_text((left, top + side + 2), "\n".join(broken), "black", font, spacing=2)
    with atomic_file(path) as temporary:
        sheet.save(temporary, "PNG")
