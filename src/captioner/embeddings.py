"""Vectors of pictures, captions and words, in files that others' tools open.

All are scaled to length one, so that a dot product is a cosine. The vectors of pictures and
captions come from `joint_embedding`; `caption_vectors` is the plain way that the tour shows. The
projector files follow TensorBoard's embedding projector: TSV, metadata and a sprite of thumbnails.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image

from captioner.files import CHECKSUMS, write_checksums
from captioner.images import write_table
from captioner.text import SPECIALS, Vocabulary

RARE = 1e-3  # `a` of Arora et al.: words more frequent than this count for less than half
SPRITE_SIDE = 8192  # pixels; browsers refuse larger textures
PROJECTED = 2000  # pictures shown in the projector; it lays them out in the browser


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Rows (n, size) scaled to length one, float32; rows of zeros stay."""
    vectors = np.asarray(vectors, np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def meaning_vectors(pictures: np.ndarray, said: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Places of pictures, each drawn half way to what is said of it.

    Args:
        pictures: (pictures, size) of length one, as `JointEncoder.pictures` gives them.
        said: (captions, size) of captions, of length one or zeros.
        owners: (captions,) the picture of each.

    Returns:
        (pictures, size) float32 of length one.
    """
    means = np.zeros_like(pictures)
    np.add.at(means, owners, said)
    return unit_vectors(pictures + unit_vectors(means))


def caption_vectors(
    tokens: np.ndarray, word_vectors: np.ndarray, vocabulary: Vocabulary
) -> np.ndarray:
    """Means of word vectors, frequent words weighing less: a / (a + p(word)) (smooth inverse
    frequency; Arora et al. 2017, section 3).

    Args:
        tokens: (captions, length) ids; special words count nothing.
        word_vectors: (vocabulary, size).
        vocabulary: its counts give the frequencies.

    Returns:
        (captions, size) float32 of length one.
    """
    counts = np.asarray(vocabulary.counts, np.float64)
    counts[: len(SPECIALS)] = 0
    weights = RARE / (RARE + counts / max(1.0, counts.sum()))
    weights[: len(SPECIALS)] = 0
    sums = np.zeros((len(tokens), word_vectors.shape[1]), np.float32)
    weighted = (word_vectors * weights[:, None]).astype(np.float32)
    for column in range(tokens.shape[1]):  # a handful of columns; no (captions, length, size) array
        sums += weighted[tokens[:, column]]
    return unit_vectors(sums)


def vector_table(columns: dict[str, Sequence], vectors: np.ndarray) -> pa.Table:
    """Columns, and (n, size) float32 as a column `vector` of lists."""
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    lists = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    return pa.table(columns).append_column("vector", lists)


def write_vectors(folder: Path, name: str, columns: dict[str, Sequence], vectors: np.ndarray):
    """Write `name`.parquet (columns and `vector`) and `name`.npy (n, size) with the same rows."""
    np.save(folder / f"{name}.npy", np.ascontiguousarray(vectors, np.float32))
    write_table(vector_table(columns, vectors), folder / f"{name}.parquet")


def fact_columns(facts: Iterable[str | None], taken: Sequence[str]) -> dict[str, pa.Array]:
    """What is known of the pictures, a column for each fact: classes, columns of a table.

    Facts with parts of their own (what a drawn scene holds) are left out.

    Args:
        facts: for each picture a JSON object, or None.
        taken: names of other columns; a fact of such a name is called `fact_NAME`.

    Returns:
        name -> (pictures,) texts, in the order in which the names first appear; null where a
        picture has no such fact.
    """
    # pandas makes NaN of None where no picture has facts.
    known = [json.loads(text) if isinstance(text, str) else {} for text in facts]
    names = {name: None for row in known for name in row}
    columns = {}
    for name in names:
        values = [row.get(name) for row in known]
        if any(isinstance(value, dict | list) for value in values):
            continue
        texts = [None if value is None else str(value) for value in values]
        column = name
        while column in taken or column in columns:
            column = f"fact_{column}"
        columns[column] = pa.array(texts, pa.string())
    return columns


def projected_rows(pictures: int, thumbnail: int) -> np.ndarray:
    """Which pictures the projector shows: all, or as many as fit, evenly spread over the rows."""
    fit = min(PROJECTED, (SPRITE_SIDE // thumbnail) ** 2)
    return np.unique(np.linspace(0, pictures - 1, min(pictures, fit)).round().astype(int))


def write_projector(
    folder: Path,
    pictures: np.ndarray,
    metadata: pd.DataFrame,
    thumbnails: Sequence[np.ndarray],
    words: np.ndarray,
    vocabulary: Vocabulary,
) -> None:
    """Write what `tensorboard --logdir FOLDER` shows under "Projector", and its checksums.

    Args:
        folder: existing folder.
        pictures: (n, size) vectors; metadata: n rows; thumbnails: n pictures (side, side, 3) uint8.
        words: (vocabulary, size) vectors.
        vocabulary: their words.
    """
    side = thumbnails[0].shape[0]
    columns = int(np.ceil(np.sqrt(len(thumbnails))))
    sprite = Image.new("RGB", (columns * side, columns * side))
    for number, thumbnail in enumerate(thumbnails):
        place = (number % columns * side, number // columns * side)
        sprite.paste(Image.fromarray(thumbnail), place)
    sprite.save(folder / "sprite.png")
    _write_tsv(folder / "pictures.tsv", pictures)
    rows = [metadata.columns, *metadata.fillna("").to_numpy()]
    _write_lines(folder / "pictures_metadata.tsv", ["\t".join(map(_cell, row)) for row in rows])
    _write_tsv(folder / "words.tsv", words[len(SPECIALS) :])
    _write_lines(folder / "words_metadata.tsv", map(_cell, vocabulary.words[len(SPECIALS) :]))
    (folder / "projector_config.pbtxt").write_text(
        f"""embeddings {{
  tensor_name: "pictures"
  tensor_path: "pictures.tsv"
  metadata_path: "pictures_metadata.tsv"
  sprite {{
    image_path: "sprite.png"
    single_image_dim: {side}
    single_image_dim: {side}
  }}
}}
embeddings {{
  tensor_name: "words"
  tensor_path: "words.tsv"
  metadata_path: "words_metadata.tsv"
}}
""",
        encoding="utf-8",
    )
    write_checksums(folder / CHECKSUMS)


def _cell(value: object) -> str:
    """A cell of TensorBoard's TSV, which knows no quotes: tabs and line breaks become blanks.

    No more than these and other controls: characters that join others (in emoji, in Persian) stay.
    """
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", " ", str(value))


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def _write_tsv(path: Path, vectors: np.ndarray) -> None:
    np.savetxt(path, vectors, fmt="%.5g", delimiter="\t")
