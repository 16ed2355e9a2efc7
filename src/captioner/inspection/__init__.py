"""Look at a data set before anything is trained on it: what is in it, and what is wrong with it.

Every picture goes through the code of the stage preprocess and every caption through that of
tokenize, so that what is found here is what the pipeline would find. Nothing of it is kept but
the report: the prepared pictures lie on the disk only while the numbers are taken.
"""

import dataclasses
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from captioner import CaptionerError
from captioner.classification import class_labels
from captioner.datasets import SPLITS, Picture, Rejected
from captioner.files import atomic_folder, write_json
from captioner.glove import coverage, read_glove, word_matrix
from captioner.images import read_pictures, write_shards
from captioner.inspection.captions import caption_facts, characters, vocabulary_facts
from captioner.inspection.pictures import columns, copy_kinds, counted, find_copies, sizes
from captioner.inspection.sheet import draw_sheet
from captioner.inspection.verdict import warnings
from captioner.intake import check_intake, with_words, write_csv, write_rejected
from captioner.leaks import check_leaks, find_leaks, write_leaks
from captioner.sections import Glove, Preprocess, Tokenize
from captioner.text import Vocabulary
from captioner.words import words_of

INDEX = (
    "image_id",
    "split",
    "original_width",
    "original_height",
    "sha256",
    "perceptual_hash",
    "facts",
)
FIRST = 5  # names or words that stand for many in the report
FILES = ("report.json", "rejected.csv", "leaks.csv", "duplicates.csv", "contact_sheet.png")
MARK = ("report.json", b'"captions_per_picture"')


def inspect(
    pictures: Iterable[Picture | Rejected],
    folder: Path | str,
    *,
    preprocess: Preprocess,
    tokenize: Tokenize,
    glove: Glove,
    archive: Path | None,
    label: str | None,
    seed: int,
) -> dict:
    """Read all pictures once and write `FILES` into `folder`, whole or not at all.

    Args:
        pictures: as a data set yields them: all of train, of val, of test.
        folder: takes the place of an older report, and of nothing else.
        preprocess, tokenize, glove: the sections of params.yaml.
        archive: of the published word vectors, or None where there is none to read.
        label: the fact that is to be learnt as the picture's class, or None.
        seed: of the pictures on the contact sheet.

    Returns:
        What report.json holds: all numbers; `errors`, which would stop the pipeline, and
        `warnings`, one line each.

    Raises:
        CaptionerError: the data set cannot be read at all.
    """
    formats: Counter[str] = Counter()
    with atomic_folder(folder, FILES, MARK) as temporary:
        images = temporary / "images"
        captions, rejected, counts = write_shards(
            with_words(counted(pictures, formats), tokenize.split_characters),
            images,
            size=preprocess.side,
            **preprocess.model_dump(include={"fit", "jpeg_quality", "max_pixels"}),
        )
        index = pd.DataFrame(columns=INDEX)
        if any(counts[f"pictures_{split}"] for split in SPLITS):
            index = read_pictures(images, INDEX)
        facts = [text if isinstance(text, str) else None for text in index["facts"]]  # or NaN
        copies = find_copies(index)
        leaks, leaked = find_leaks(index, captions)
        texts = captions.to_pandas()
        words = [words_of(caption, tokenize.split_characters) for caption in texts["caption"]]
        splits = texts["split"].tolist()

        errors: list[str] = []
        _try(errors, check_intake, counts, rejected, preprocess.max_rejected)
        _try(errors, check_leaks, leaks, preprocess.allow_leaks)
        if label is not None and len(index):
            _try(errors, class_labels, index["image_id"], facts, label)
        training = [w for w, split in zip(words, splits, strict=True) if split == "train"]
        options = (tokenize.min_count, tokenize.split_characters)
        vocabulary = _try(errors, Vocabulary.build, training, *options)
        vectors = {"source": glove.source}
        if vocabulary is not None:
            vectors |= _vectors(errors, vocabulary, training, glove, archive, tokenize.max_length)

        report = {
            "pictures": {split: counts[f"pictures_{split}"] for split in SPLITS},
            "captions": {split: splits.count(split) for split in SPLITS},
            "captions_per_picture": _per_picture(texts, len(index)),
            "columns": columns(facts),
            "rejected_pictures": counts["rejected_pictures"],
            "rejected_captions": counts["rejected_captions"],
            "rejected": _reasons(rejected),
            "formats": dict(sorted(formats.items())),
            "sizes": sizes(index, preprocess.side, preprocess.fit),
            "copies": copy_kinds(copies),
            "leaks": leaked | {"pairs": copy_kinds(leaks)},
            "words": caption_facts(words, tokenize.max_length),
            "vocabulary": vocabulary_facts(words, splits, vocabulary, tokenize),
            "characters": characters(texts["caption"].tolist(), words),
            "word_vectors": vectors,
            "errors": errors,
        }
        report["warnings"] = warnings(report, preprocess, tokenize)
        write_json(temporary / "report.json", report)
        write_rejected(temporary / "rejected.csv", rejected)
        write_leaks(temporary / "leaks.csv", leaks)
        header = ("kind", "split", "image_id", "other_image_id")
        write_csv(temporary / "duplicates.csv", header, map(dataclasses.astuple, copies))
        draw_sheet(images, texts, temporary / "contact_sheet.png", seed)
        shutil.rmtree(images)
    return report


def _try(errors: list[str], check: Callable, *arguments):
    """What a check of the pipeline returns; where it would stop the pipeline, note why."""
    try:
        return check(*arguments)
    except CaptionerError as error:
        errors.append(str(error).replace("reports/preprocess/", ""))  # the tables are here, too
        return None


def _per_picture(texts: pd.DataFrame, pictures: int) -> dict[str, float] | None:
    """Captions a picture: the least, the mean, the most."""
    if not pictures:
        return None
    numbers = np.bincount(texts["picture"], minlength=pictures)
    return {
        "least": int(numbers.min()),
        "mean": float(numbers.mean()),
        "most": int(numbers.max()),
    }


def _reasons(rejected: Iterable[Rejected]) -> dict[str, dict]:
    """For each reason how many, and the first names."""
    names: dict[str, list[str]] = {}
    for item in rejected:
        # Names of files need not be Unicode; what cannot be written is "?", as in rejected.csv.
        name = item.image_id.encode("utf-8", "replace").decode()
        names.setdefault(item.reason, []).append(name)
    return {
        why: {"number": len(those), "first": list(dict.fromkeys(those))[:FIRST]}
        for why, those in sorted(names.items())
    }


def _vectors(
    errors: list[str],
    vocabulary: Vocabulary,
    training: list[list[str]],
    glove: Glove,
    archive: Path | None,
    max_length: int,
) -> dict:
    """What word vectors there will be; where there can be none, note why."""
    if glove.source == "train" and max(len(words[:max_length]) for words in training) < 2:
        errors.append(
            "glove.source: train needs captions of two words or more; write none (random vectors), "
            "or tokenize.split_characters: true for Chinese and Japanese captions"
        )
    if glove.source != "file" or archive is None:
        return {}
    vectors = _try(errors, read_glove, archive, glove.dimensions, vocabulary.words)
    if vectors is None:
        return {}
    _try(errors, word_matrix, vocabulary.words, vectors, 0)
    covered = coverage(vocabulary, vectors)
    return {
        "archive": archive.name,
        "types": covered.types,
        "tokens": covered.tokens,
        "missing": [list(pair) for pair in covered.missing[: 2 * FIRST]],
    }
