"""Pictures and captions of val or test that are also in an earlier split.

A model is judged on what it has not seen. The same file in two splits is a mistake that
`check_leaks` stops at. A picture that looks the same (encoded anew, another size) and a test
caption that is also a training caption are counted and shown: a person decides what they mean.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image, ImageDraw

from captioner import CaptionerError
from captioner.datasets import SPLITS
from captioner.drawing import broken_lines, pillow_font
from captioner.files import atomic_file
from captioner.images import jpegs, read_pictures
from captioner.intake import write_csv
from captioner.metrics.tokenizer import tokenize
from captioner.raster import COLOUR_BYTES, PATTERN_BYTES, decode

SAME_BYTES, LOOKS_SAME = "same bytes", "looks the same"
COLUMNS = ("image_id", "split", "sha256", "perceptual_hash")

# How far apart the hashes of two copies may be. Of 7,000 photographs saved as JPEG of quality 85,
# shrunk from 224 to 160 pixels and enlarged again, 99.99 % stay within these limits; of the 24
# million pairs of different ones none does, nor of the 200 million pairs of 20,000 drawn scenes.
PATTERN_LIMIT = 16  # bits of 256
COLOUR_LIMIT = 12  # of 255, in every field of the picture

PAIRS = 2**19  # compared at once: 200 MB, were all of them alike


@dataclass(frozen=True, order=True)
class Leak:
    """A picture of val or test (`split`) that is also in an earlier split (`other_split`)."""

    kind: str
    split: str
    image_id: str
    other_split: str
    other_image_id: str


def find_leaks(
    pictures: pd.DataFrame, captions: pa.Table
) -> tuple[list[Leak], dict[str, int | float]]:
    """Compare the splits with each other; what is twice within one split is no leak.

    Args:
        pictures: one row for each picture, in any order, with the columns `COLUMNS`.
        captions: `captioner.images.CAPTION_SCHEMA`, in any order.

    Returns:
        For each picture of val or test and each earlier split the one picture there that is the
        same, if there is one: same bytes before the nearest hash, then by image_id. And counts:
        leaked_pictures_same_bytes, leaked_pictures_same_hash (pictures of val or test that are
        also in train, each counted once), leaked_captions_test (test captions that are also
        training captions, word for word as the metrics see them) and leaked_captions_test_share
        (a fraction of the test captions).
    """
    pictures = pictures.sort_values("image_id")  # the first of equals is then always the same one
    parts = {split: pictures[pictures["split"] == split] for split in SPLITS}
    leaks = []
    for earlier, later in combinations(SPLITS, 2):
        part, others = parts[later], parts[earlier]
        twins = others.drop_duplicates("sha256").set_index("sha256")["image_id"]
        positions = nearest_lookalikes(
            part["perceptual_hash"].tolist(), others["perceptual_hash"].tolist()
        )
        for image_id, sha256, position in zip(
            part["image_id"], part["sha256"], positions, strict=True
        ):
            if sha256 in twins.index:
                leaks.append(Leak(SAME_BYTES, later, image_id, earlier, twins[sha256]))
            elif position >= 0:
                other = others["image_id"].iloc[position]
                leaks.append(Leak(LOOKS_SAME, later, image_id, earlier, other))
    from_train = [leak.kind for leak in leaks if leak.other_split == "train"]
    lines = {
        split: [" ".join(tokenize(text)) for text in _texts(captions, split)]
        for split in ("train", "test")
    }
    known = set(lines["train"])
    leaked = sum(line in known for line in lines["test"] if line)  # "." has no word in common
    counts = {
        "leaked_pictures_same_bytes": from_train.count(SAME_BYTES),
        "leaked_pictures_same_hash": from_train.count(LOOKS_SAME),
        "leaked_captions_test": leaked,
        "leaked_captions_test_share": leaked / max(len(lines["test"]), 1),
    }
    # by kind: the ones that stop the pipeline first
    return sorted(leaks, key=lambda leak: (leak.kind != SAME_BYTES, leak)), counts


def _texts(captions: pa.Table, split: str) -> list[str]:
    frame = captions.select(["split", "caption"]).to_pandas()
    return frame.loc[frame["split"] == split, "caption"].tolist()


def nearest_lookalikes(hashes: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """(n,) int: for each of n hashes the position of the nearest that looks the same, else -1."""
    patterns, colours = _unpack(hashes)
    other_patterns, other_colours = _unpack(others)
    nearest = np.full(len(hashes), -1)
    step = max(1, PAIRS // max(len(others), 1))
    for start in range(0, len(hashes), step):
        # A quarter of the bits leaves few pairs, so that the others are looked at for those only.
        first = np.bitwise_count(patterns[start : start + step, :1] ^ other_patterns[:, 0])
        rows, columns = np.nonzero(first <= PATTERN_LIMIT)
        rows += start
        bits = np.bitwise_count(patterns[rows] ^ other_patterns[columns]).sum(1, dtype=np.int64)
        shift = np.abs(colours[rows] - other_colours[columns]).max(1)
        same = (bits <= PATTERN_LIMIT) & (shift <= COLOUR_LIMIT)
        rows, columns, bits = rows[same], columns[same], bits[same]
        order = np.lexsort((columns, bits, rows))
        found, firsts = np.unique(rows[order], return_index=True)
        nearest[found] = columns[order][firsts]
    return nearest


def _unpack(hashes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The patterns (n, 4) uint64 and the colours (n, 48) int16 of n perceptual hashes."""
    raw = np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8)
    raw = raw.reshape(len(hashes), PATTERN_BYTES + COLOUR_BYTES)
    patterns = np.ascontiguousarray(raw[:, :PATTERN_BYTES]).view(np.uint64)
    return patterns, raw[:, PATTERN_BYTES:].astype(np.int16)


def summary(counts: dict[str, int | float], captions: pa.Table) -> str:
    """What `find_leaks` counted, in one line."""
    return (
        f"leaks: {counts['leaked_pictures_same_bytes']:,} pictures of val or test have the bytes "
        f"of a training picture, {counts['leaked_pictures_same_hash']:,} look the same; "
        f"{counts['leaked_captions_test']:,} of {len(_texts(captions, 'test')):,} test captions "
        "are also training captions"
    )


def check_leaks(leaks: Sequence[Leak], allow: bool) -> None:
    """Stop where two splits hold a picture with the same bytes, unless that is allowed.

    Raises:
        CaptionerError: with the number, the first of them, where the list is and what to do.
    """
    same = [leak for leak in leaks if leak.kind == SAME_BYTES]
    if not same or allow:
        return
    named = [
        f"{leak.split} {leak.image_id!r} = {leak.other_split} {leak.other_image_id!r}"
        for leak in same[:3]
    ]
    raise CaptionerError(
        f"pictures with the same bytes in two splits: {len(same)} ({', '.join(named)}"
        f"{', ...' if len(same) > 3 else ''}); see reports/preprocess/leaks.csv, then remove them "
        "from one split, or set preprocess.allow_leaks: true in params.yaml"
    )


def write_leaks(path: Path | str, leaks: Sequence[Leak]) -> None:
    """Write CSV with the fields of `Leak` as columns."""
    write_csv(path, [field.name for field in fields(Leak)], map(astuple, leaks))


def draw_leaks(
    folder: Path | str, leaks: Sequence[Leak], path: Path | str, *, most: int = 12, side: int = 128
) -> None:
    """Draw the first `most` pairs side by side, three to a row; write nothing where there are none.

    Args:
        folder: the shards of pictures.
        path: the PNG to write.
        side: of each picture in the figure, in pixels.
    """
    if not leaks:
        return
    gap, lines, across = 8, 3, 3
    width, height = 2 * (side + gap) + gap, side + 2 * gap + 13 * (lines + 1)
    places: dict[str, list[tuple[int, int]]] = {}  # image_id -> upper left corners
    font = pillow_font(10)
    shown = leaks[:most]
    size = (across * width + gap, -(-len(shown) // across) * height + gap)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for number, leak in enumerate(shown):
        left, top = gap + number % across * width, gap + number // across * height
        draw.text((left, top), leak.kind, "black", font)
        _, *ids = astuple(leak)
        for split, image_id in (ids[:2], ids[2:]):
            places.setdefault(image_id, []).append((left, top + 15))
            text = broken_lines(
                f"{split}: {image_id}", lambda line: font.getlength(line) <= side, lines
            )
            draw.multiline_text((left, top + 17 + side), "\n".join(text), "black", font, spacing=2)
            left += side + gap
    ids = read_pictures(folder, ["image_id"])["image_id"]
    for image_id, jpeg in zip(ids, jpegs(folder), strict=True):
        for corner in places.get(image_id, ()):
            sheet.paste(Image.fromarray(decode(jpeg)).resize((side, side)), corner)
    with atomic_file(path) as temporary:
        sheet.save(temporary, "PNG")
