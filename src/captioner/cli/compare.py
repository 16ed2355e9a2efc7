"""`captioner compare A B`: is B better than A, how surely, and what do its captions say instead?"""

import argparse
import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from captioner import CaptionerError
from captioner.cli.terminal import complain, name_pictures, pictures, printable

if TYPE_CHECKING:
    from captioner.comparison import Comparison

PREDICTIONS = Path("data/predictions.parquet")

EXAMPLES = """\
A and B, each of them:
  a file of captions            data/predictions.parquet, or any file that `captioner score` reads
  a git revision                main, HEAD~3, a tag, an experiment of `dvc exp show`: the captions
                                that DVC has of it
  an MLflow run id              32 characters, from the run's page or `mlflow runs list`

examples:
  captioner compare HEAD data/predictions.parquet
                                what the last change of params.yaml did to the captions
  captioner compare main brisk-wave
                                an experiment against main
  captioner compare mine.json theirs.json --references refs.json
                                anybody's captions; no model is needed

The interval and the p-value come from 10,000 samples of the pictures, each of which scores A and B
(paired bootstrap); p below 0.05 means that the 95% interval leaves 0 out.

exit codes: 0 compared; 1 compared, but some pictures are on one side only (named on stderr); 2
nothing was compared: a wrong argument, no such captions, no picture in common
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the program's."""
    compare = commands.add_parser(
        "compare",
        help="compare two sets of captions: differences with intervals, p-values, what changed",
        description="Compare the captions of B with those of A, of the same pictures.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    compare.add_argument("first", metavar="A", help="file, git revision or MLflow run")
    compare.add_argument("second", metavar="B", help="file, git revision or MLflow run")
    compare.add_argument(
        "--references",
        type=Path,
        metavar="FILE",
        help="what people said, where A and B do not hold it or hold it differently",
    )
    compare.add_argument(
        "--changes",
        type=_count,
        default=20,
        metavar="N",
        help="captions shown that changed their picture's CIDEr-D most (default: 20)",
    )
    compare.add_argument(
        "--split-characters",
        action="store_true",
        help="make each Chinese and Japanese character a word, as tokenize.split_characters does",
    )
    compare.add_argument("--json", action="store_true", help="print JSON in full precision")
    compare.set_defaults(run=run)


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 6:
        raise argparse.ArgumentTypeError(f"{text!r:.40} is not a whole number from 0 to 999999")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Compare what `options` names; returns the exit code."""
    from captioner.caption_files import read_hypotheses, read_references
    from captioner.comparison import compare, shared_references

    with tempfile.TemporaryDirectory(prefix="captioner-compare-") as folder:
        paths = [
            _file(name, Path(folder) / str(number))
            for number, name in enumerate((options.first, options.second))
        ]
        sides = [read_hypotheses(path) for path in paths]
        if options.references:
            known = read_references(options.references)
        else:
            known = shared_references(*map(read_references, paths))
    common = {i: known[i] for i in known if all(i in side for side in sides)}
    if not common:
        raise CaptionerError(
            f"{options.first} and {options.second}: no picture has references and both captions"
        )
    one_sided = False
    for side, name in zip(sides, "AB", strict=True):
        only = [image_id for image_id in side if image_id not in common]
        one_sided |= bool(only)
        name_pictures(only, f"a caption in {name} but no match in the other, or no references")
    comparison = compare(
        common, *sides, changes=options.changes, split_characters=options.split_characters
    )
    for warning in comparison.warnings:
        complain(warning)
    if options.json:
        print(json.dumps(_as_json(comparison), indent=2), flush=True)
    else:
        names = (options.first, options.second)
        print("\n".join(map(printable, _as_text(comparison, names))), flush=True)
    return 1 if one_sided else 0


def _file(name: str, folder: Path) -> Path:
    """The file of captions that a name stands for; what is fetched goes into a new `folder`."""
    if Path(name).is_file():
        return Path(name)
    folder.mkdir()
    if re.fullmatch(r"[0-9a-f]{32}", name):
        from captioner.tracking import fetch_predictions

        return fetch_predictions(name, folder)
    path = folder / PREDICTIONS.name
    path.write_bytes(_of_revision(name))
    return path


def _of_revision(revision: str) -> bytes:
    """The predictions that DVC has of a git revision of the repository around this folder."""
    import dvc.api
    from dvc.exceptions import DvcException, FileMissingError, PathMissingError
    from scmrepo.exceptions import SCMError

    if revision.startswith("-"):
        raise CaptionerError(f"{revision}: no file, git revision or MLflow run is called so")
    try:
        with dvc.api.open(str(PREDICTIONS), rev=revision, mode="rb") as file:
            return file.read()
    except SCMError:
        raise CaptionerError(
            f"{revision}: neither a file here, nor a git revision, nor the id of an MLflow run"
        ) from None
    except (DvcException, OSError) as error:
        # Its own words for what is in no cache name a path and mislead.
        gone = isinstance(error, PathMissingError | FileMissingError)
        reason = "" if gone else " (" + " ".join(str(error).split())[:200] + ")"
        raise CaptionerError(
            f"{revision}: DVC has no {PREDICTIONS} of this revision here{reason}; check it out and "
            "`dvc repro`, or `dvc fetch` it from where it was made"
        ) from None


def _as_json(comparison: "Comparison") -> dict:
    return {
        "pictures": comparison.pictures,
        "same_captions": comparison.same_captions,
        "warnings": comparison.warnings,
        "measures": {
            name: {"a": a, "b": b, **comparison.differences[name]._asdict()}
            for name, (a, b) in comparison.scores.items()
        },
        "changes": [
            {
                "image_id": change.image_id,
                "a": change.captions[0],
                "b": change.captions[1],
                "cider_d_a": change.cider_d[0],
                "cider_d_b": change.cider_d[1],
                "references": list(change.references),
            }
            for change in comparison.changes
        ],
    }


def _as_text(comparison: "Comparison", names: tuple[str, str]) -> list[str]:
    same = f"{comparison.same_captions:,} with the same caption in both"
    lines = [f"A  {names[0]}", f"B  {names[1]}", f"{pictures(comparison.pictures)}, {same}", ""]
    lines.append("measure        A        B      B - A    95% interval             p")
    for measure, (a, b) in comparison.scores.items():
        by = comparison.differences[measure]
        interval = f"{by.low:+.4f} to {by.high:+.4f}"
        lines.append(
            f"{measure:<8}  {a:.4f}   {b:.4f}   {by.value:+.4f}    {interval:<20}  {by.p_value:.4f}"
        )
    if comparison.changes:
        lines += ["", "what changed CIDEr-D most, with a reference"]
    for change in comparison.changes:
        a, b = change.cider_d
        lines += [
            "",
            f"{change.image_id}   {a:.2f} -> {b:.2f} ({b - a:+.2f})",
            f"    A  {change.captions[0]}",
            f"    B  {change.captions[1]}",
            f"       {change.references[0]}",
        ]
    return lines
