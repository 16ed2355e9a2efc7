"""`captioner score`: BLEU, ROUGE-L and CIDEr-D of anybody's captions; no model is needed."""

import argparse
import json
import re
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from captioner import CaptionerError
from captioner.cli.terminal import complain, name_pictures, pictures, printable

if TYPE_CHECKING:
    import numpy as np

MANY = 20_000  # captions: from there on it takes more than a few seconds
DETAILS = ("bleu_1", "bleu_2", "bleu_3")  # of a picture only with --json
Scores = dict[str, float]
PerPicture = dict[str, "np.ndarray"]

EXAMPLES = """\
examples:
  captioner score --references refs.json --hypotheses captions.json
  captioner score --references captions_val2014.json --hypotheses results.json --common
                                     COCO: annotations, and results for some of its pictures
  captioner score --references Flickr8k.token.txt --hypotheses captions.csv --common --per-image
  captioner score --references refs.json --hypotheses captions.json --java-metrics meteor
                                     METEOR beside them, by the reference's Java program
  captioner score --references data/predictions.parquet --hypotheses data/predictions.parquet
                                     what `dvc repro` wrote: its columns references and caption

files, told by their content and suffix:
  COCO JSON       {"images": [...], "annotations": [{"image_id": 1, "caption": "a dog"}, ...]}
                  or [{"image_id": 1, "caption": "a dog"}, ...], or "captions": ["a dog", ...]
  JSON lines      the same objects, one a line
  plain JSON      {"dog.jpg": "a dog"} or {"dog.jpg": ["a dog", "a brown dog"]}
  CSV, Parquet    columns image_id (or image, file_name, filename, picture, id) and caption (or
                  captions, text, title, sentence, references); CSV with , or ; or tabs, a row for
                  each reference; Parquet columns may hold lists of them
  Flickr8k        dog.jpg#0<TAB>a dog

The scores are those of the COCO caption reference: fractions of 1, CIDEr-D from 0 to 10.

exit codes: 0 all pictures are scored, or --common; 1 some pictures are in one file only (named on
stderr), the others are scored; 2 nothing is scored: a wrong argument, a file that cannot be used,
no picture in common
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the program's."""
    score = commands.add_parser(
        "score",
        help="measure captions against references: BLEU, ROUGE-L, CIDEr-D",
        description="Score one caption a picture against its references. No model is needed.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    score.add_argument(
        "--references",
        required=True,
        type=Path,
        metavar="FILE",
        help="what people said: one or more captions a picture",
    )
    score.add_argument(
        "--hypotheses",
        required=True,
        type=Path,
        metavar="FILE",
        help="what a model said: one caption a picture",
    )
    score.add_argument(
        "--pre-tokenized",
        action="store_true",
        help="split both at blanks and leave them alone, instead of COCO's PTB tokens",
    )
    score.add_argument(
        "--java-metrics",
        nargs="+",
        choices=("meteor", "spice"),
        default=[],
        help="METEOR and SPICE as well; they need Java and the extra java-metrics",
    )
    score.add_argument(
        "--common",
        action="store_true",
        help="score the pictures that both files have, and be content with that (exit code 0)",
    )
    score.add_argument(
        "--per-image",
        action="store_true",
        help="the scores of each picture as well: id, bleu_4, rouge_l, cider_d between tabs",
    )
    score.add_argument(
        "--json", action="store_true", help="print JSON with every measure in full precision"
    )
    score.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Score what `options` names; returns the exit code."""
    from captioner.caption_files import read_hypotheses, read_references

    if options.java_metrics:  # what is missing is said before anything is read
        from captioner.metrics import java

        java.check(options.java_metrics)
    references = read_references(options.references)
    hypotheses = read_hypotheses(options.hypotheses)
    common = [image_id for image_id in references if image_id in hypotheses]
    only = {
        "references": [image_id for image_id in references if image_id not in hypotheses],
        "hypotheses": [image_id for image_id in hypotheses if image_id not in references],
    }
    if not common:
        raise CaptionerError(
            f"{options.references} and {options.hypotheses}: no picture in common "
            f"({next(iter(references)):.80} and {next(iter(hypotheses)):.80}, for example); "
            + _likely_cause(references, hypotheses)
        )
    name_pictures(only["references"], "references but no hypothesis")
    name_pictures(only["hypotheses"], "a hypothesis but no references")
    mismatch = any(only.values()) and not options.common
    if mismatch:
        complain(f"scored: {pictures(len(common))} in both files; --common if that is meant")
    empty = sum(not hypotheses[image_id].strip() for image_id in common)
    if empty:
        complain(f"{empty:,} of {len(common):,} hypotheses are empty and score 0")

    known = [references[image_id] for image_id in common]
    said = [hypotheses[image_id] for image_id in common]
    corpus, per_picture = _scores(known, said, options.pre_tokenized)
    if options.java_metrics:
        more, each = java.java_scores(
            known, said, options.java_metrics, progress=True, tokenized=options.pre_tokenized
        )
        corpus, per_picture = corpus | more, per_picture | each
    if not options.per_image:
        per_picture = None
    captions = sum(map(len, known))
    if options.json:
        found = {
            "scores": corpus,
            "pictures": len(common),
            "references": captions,
            "unmatched": only,
        }
        if per_picture:
            found["per_image"] = _rows(per_picture, common)
        print(json.dumps(found, indent=2), flush=True)
    else:
        print("\n".join(_as_text(corpus, per_picture, common, captions)), flush=True)
    return 1 if mismatch else 0


def _likely_cause(references: Collection[str], hypotheses: Collection[str]) -> str:
    """What to mend if most ids of both would agree but for one thing."""

    def number(image_id: str) -> str:
        digits = re.search(r"\d{4,}$", _without_suffix(image_id))  # COCO pads to 12
        return str(int(digits[0][-20:])) if digits else image_id

    causes: list[tuple[str, Callable[[str], str]]] = [
        ("a suffix such as .jpg", _without_suffix),
        ("the folder before the name", _without_folder),
        ("folder and suffix", lambda image_id: _without_suffix(_without_folder(image_id))),
        ("what is around the picture's number", number),
    ]
    for difference, simple in causes:
        one, other = {simple(i) for i in references}, {simple(i) for i in hypotheses}
        if 2 * len(one & other) > min(len(one), len(other)):
            return f"the ids seem to differ by {difference}; write them alike in both"
    return "do both describe the same pictures?"


def _without_suffix(image_id: str) -> str:
    return re.sub(r"\.(jpe?g|png|webp|bmp|gif|tiff?)$", "", image_id, flags=re.IGNORECASE)


def _without_folder(image_id: str) -> str:
    return re.split(r"[/\\]", image_id)[-1]


def _scores(
    references: list[list[str]], hypotheses: list[str], tokenized: bool
) -> tuple[Scores, PerPicture]:
    """The scores of all pictures, and of each; warnings become lines on stderr."""
    from captioner.metrics import caption_scores

    captions = sum(map(len, references)) + len(hypotheses)
    if captions > MANY:
        complain(f"scoring {captions:,} captions ...")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        scores = caption_scores(references, hypotheses, tokenized=tokenized)
    for warning in caught:
        complain(str(warning.message))
    return dict(scores.corpus), dict(scores.per_picture)


def _rows(per_picture: "PerPicture", image_ids: list[str]) -> dict[str, Scores]:
    columns = [values.tolist() for values in per_picture.values()]
    rows = zip(image_ids, zip(*columns, strict=True), strict=True)
    return {image_id: dict(zip(per_picture, row, strict=True)) for image_id, row in rows}


def _as_text(
    corpus: Scores, per_picture: "PerPicture | None", image_ids: list[str], captions: int
) -> list[str]:
    """The lines of a picture each, if wanted, and below them the table."""
    lines = []
    if per_picture:
        names = [name for name in per_picture if name not in DETAILS]
        lines.append("\t".join(["image_id", *names]))
        for image_id, row in _rows(per_picture, image_ids).items():
            values = [f"{row[name]:.4f}" for name in names]
            lines.append("\t".join([printable(image_id), *values]))
        lines.append("")
    lines.append("measure   score")
    lines += [f"{name:<8} {value:>6.4f}" for name, value in corpus.items()]
    several = "" if captions == 1 else "s"
    lines += ["", f"{pictures(len(image_ids))}, {captions:,} reference{several}"]
    return lines
