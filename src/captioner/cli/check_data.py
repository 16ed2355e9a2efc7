"""`captioner check-data`: what is in a data set, and what is wrong with it, before any training."""

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from captioner import CaptionerError
from captioner.cli.terminal import printable
from captioner.files import check_apart, check_replaceable

if TYPE_CHECKING:
    from captioner.params import Params

RAW = Path("data/raw")

EXAMPLES = """\
examples:
  captioner check-data                          the data set that params.yaml chooses
  captioner check-data --dataset table          your own pictures and captions, where they lie
  captioner check-data --dataset flickr8k       after `dvc repro download` with that data set
  captioner check-data --json > found.json      all numbers, for a program

what is looked at: pictures that are missing, broken, too small or too long; duplicates, and leaks
between the splits; captions that are empty, too long, repeated or damaged; the words that the model
would know; ten random pictures with their captions.

what is written into --report: report.json (all numbers), rejected.csv, duplicates.csv, leaks.csv
(every name), contact_sheet.png (ten random pictures with their captions)

exit codes: 0 nothing to worry about; 1 the pipeline would run, but look at the warnings; 2 the
pipeline would stop (ERROR), or there is a wrong argument or nothing to read (named on stderr)
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the program's."""
    check = commands.add_parser(
        "check-data",
        help="look a data set over before training: pictures, captions, splits, words",
        description="Read a whole data set as the pipeline would, and say what is wrong with it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument(
        "--dataset",
        metavar="NAME",
        help="a row of the table `datasets` in params.yaml (default: the chosen one)",
    )
    check.add_argument(
        "--params",
        type=Path,
        default=Path("params.yaml"),
        metavar="FILE",
        help="the settings of the pipeline (default: params.yaml)",
    )
    check.add_argument(
        "--report",
        type=Path,
        default=Path("reports/check-data"),
        metavar="DIR",
        help="folder for the report; an older one is replaced (default: reports/check-data)",
    )
    check.add_argument(
        "--json", action="store_true", help="print JSON with all numbers instead of the text"
    )
    check.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Look at the data set that `options` names; returns the exit code."""
    from captioner.params import load_params

    params = load_params(options.params, options.dataset)
    _check_there(params)

    from tqdm import tqdm

    from captioner.datasets import catalog
    from captioner.inspection import FILES, MARK, inspect
    from captioner.inspection.telling import lines

    check_replaceable(options.report, FILES, MARK)
    check_apart(options.report, RAW, *_read_from(params))
    # What the readers count and leave out is said on stderr, as in the stage preprocess.
    logging.basicConfig(level=logging.INFO, format="captioner: %(message)s")
    pictures = catalog.read(params.download, RAW, params.seed)
    report = inspect(
        tqdm(pictures, desc="check-data", unit=" pictures", disable=None),
        options.report,
        preprocess=params.preprocess,
        tokenize=params.tokenize,
        glove=params.glove,
        archive=_word_vectors() if params.glove.source == "file" else None,
        label=params.download.label if params.encoder.backbone == "course_cnn" else None,
        seed=params.seed,
    )
    if options.json:
        # In ASCII: exact for captions of any script, and harmless for terminals of any encoding.
        print(json.dumps(report, indent=2, sort_keys=True), flush=True)
    else:
        print(f"data set {printable(params.dataset)}\n")
        for line in lines(report, params.preprocess, params.tokenize):
            print(printable(line))
        print(f"\nall of it: {printable(str(options.report))}", flush=True)
    return 2 if report["errors"] else 1 if report["warnings"] else 0


def _check_there(params: "Params") -> None:
    """Say what to do where a published or drawn data set has not been fetched yet."""
    from captioner.datasets.published import wanted_files

    names = [(file.name, *file.other_names) for file in wanted_files(params.download, False)]
    if params.download.source == "scenes":
        names.append(("scenes.zip",))
    for one_of in names:
        if not any((RAW / name).is_file() for name in one_of):
            raise CaptionerError(
                f"{RAW / one_of[0]}: not there yet; run `dvc repro download` first, with dataset: "
                f"{params.dataset} in params.yaml"
            )


def _read_from(params: "Params") -> list[Path]:
    """Where the pictures of one's own are, unless all that is done here is done in there."""
    if params.download.source != "table":
        return []
    pictures = Path(params.download.pictures)
    return [] if Path.cwd().is_relative_to(pictures.resolve()) else [pictures]


def _word_vectors() -> Path | None:
    """The archive of word vectors that the pipeline has or would copy, or None."""
    from captioner.datasets.published import GLOVE
    from captioner.fetch import find_in_mirror

    there = RAW / GLOVE.name
    return there if there.is_file() else find_in_mirror(GLOVE.name, None, GLOVE.sha256)
