"""`captioner score`: BLEU, ROUGE-L and CIDEr-D of anybody's captions; no model is needed."""

import argparse
import json
import re
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

The scores are those of the COCO caption reference: fractions of 1, CIDEr-D from 0 to 10. What makes
them meaningless is said on stderr, and in JSON under "warnings": text without blanks between words,
references that are all alike, captions without a word, references scored against themselves.

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
        "--split-characters",
        action="store_true",
        help="make each Chinese and Japanese character a word, as tokenize.split_characters does",
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

    if options.pre_tokenized and options.split_characters:
        raise CaptionerError("--pre-tokenized and --split-characters: leave one of them out")
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
            + (_likely_cause(references, hypotheses) or "do both describe the same pictures?")
        )
    name_pictures(only["references"], "references but no hypothesis")
    name_pictures(only["hypotheses"], "a hypothesis but no references")
    mismatch = any(only.values()) and not options.common
    if mismatch:
        complain(f"scored: {pictures(len(common))} in both files; --common if that is meant")
        few = 2 * len(common) <= min(len(references), len(hypotheses))
        if few and (cause := _likely_cause(references, hypotheses, len(common))):
            complain(cause)

    known = [references[image_id] for image_id in common]
    said = [hypotheses[image_id] for image_id in common]
    if options.split_characters:
        from captioner.words import split_lines

        known, said = list(map(split_lines, known)), split_lines(said)
    tokenized = options.pre_tokenized or options.split_characters
    corpus, per_picture, warnings = _scores(common, known, said, tokenized)
    for warning in warnings:
        complain(warning)
    if options.java_metrics:
        more, each = java.java_scores(
            known, said, options.java_metrics, progress=True, tokenized=tokenized
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
            "warnings": warnings,
        }
        if per_picture:
            found["per_image"] = _rows(per_picture, common)
        print(json.dumps(found, indent=2), flush=True)
    else:
        print("\n".join(_as_text(corpus, per_picture, common, captions)), flush=True)
    return 1 if mismatch else 0


def _likely_cause(
    references: Collection[str], hypotheses: Collection[str], matched: int = 0
) -> str | None:
    """What to mend if most ids of both, and more than `matched`, would agree but for one thing."""

    def number(image_id: str) -> str:
        digits = re.search(r"\d{4,}$", _without_suffix(image_id))  # COCO pads to 12
        return str(int(digits[0][-20:])) if digits else image_id

    causes: list[tuple[str, Callable[[str], str]]] = [
        ("a suffix such as .jpg", _without_suffix),
        ("zeros before the number", lambda image_id: image_id.lstrip("0") or "0"),
        ("the folder before the name", _without_folder),
        ("folder and suffix", lambda image_id: _without_suffix(_without_folder(image_id))),
        ("what is around the picture's number", number),
    ]
    for difference, simple in causes:
        one, other = {simple(i) for i in references}, {simple(i) for i in hypotheses}
        if len(one & other) > max(matched, min(len(one), len(other)) / 2):
            return f"the ids seem to differ by {difference}; write them alike in both"
    return None


def _without_suffix(image_id: str) -> str:
    return re.sub(r"\.(jpe?g|png|webp|bmp|gif|tiff?)$", "", image_id, flags=re.IGNORECASE)


def _without_folder(image_id: str) -> str:
    return re.split(r"[/\\]", image_id)[-1]


def _scores(
    image_ids: list[str], references: list[list[str]], hypotheses: list[str], tokenized: bool
) -> tuple[Scores, PerPicture, list[str]]:
    """The scores of all pictures, and of each, and what makes them doubtful."""
    from captioner.score_checks import score_warnings, scorer_and_warnings

    captions = sum(map(len, references)) + len(hypotheses)
    if captions > MANY:
        complain(f"scoring {captions:,} captions ...")
    scorer, warnings = scorer_and_warnings(references, tokenized)
    tokens = scorer.tokens(hypotheses)
    scores = scorer.score_tokens(tokens)
    warnings += score_warnings(image_ids, scorer.references, tokens, scores)
    return dict(scores.corpus), dict(scores.per_picture), warnings


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
