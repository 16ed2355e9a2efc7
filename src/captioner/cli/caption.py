"""`captioner caption`: pictures and folders of pictures in, captions out."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from captioner import CaptionerError
from captioner.cli.terminal import complain, printable

if TYPE_CHECKING:
    from captioner.bundle import Caption, Captioner

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
BATCH = 16  # pictures captioned at once
TOP_P = 0.9  # of the probability is drawn from where nothing else is asked for

EXAMPLES = """\
examples:
  captioner caption dog.jpg                     one picture
  captioner caption holidays/ --json            a folder and all below it, as JSON
  captioner caption *.png --beam 5              search wider: better captions, slower
  captioner caption dog.jpg -n 5                five different captions, the best one first
  captioner caption dog.jpg -n 5 --sample       drawn at random: livelier, more often wrong
  captioner caption dog.jpg -n 5 --sample --top-p 0.7 --seed 2
                                                from likely words alone; another draw

With -n or --sample, lines have a third column: the natural logarithm of the caption's probability,
the nearer to 0 the likelier. A caption of 10 words with -10 has a probability of e^-10, about
0.4 a word. "Best first" counts that by the word, as the search does, so that short captions do not
always win. -n searches in groups that avoid each other's words (diverse beam search); --sample
draws each word from the likeliest ones that together hold the share --top-p of the probability
(nucleus sampling) and gives fewer captions where the model is too sure for so many.

exit codes: 0 all done; 1 some pictures could not be read (named on stderr), the others are done;
2 nothing was tried: a wrong argument, no pictures, no bundle
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the program's."""
    caption = commands.add_parser(
        "caption",
        help="write captions for pictures and folders of pictures",
        description="Write a caption for each picture: its path, a tab, the caption; or several.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    caption.add_argument(
        "pictures",
        nargs="+",
        type=Path,
        metavar="PICTURE|FOLDER",
        help="a picture file, or a folder that is searched for " + " ".join(sorted(SUFFIXES)),
    )
    caption.add_argument(
        "--bundle",
        type=Path,
        default=Path("models/bundle"),
        metavar="DIR",
        help="the trained captioner (default: models/bundle, where `dvc repro` puts it)",
    )
    caption.add_argument(
        "--beam",
        type=_whole(1, 100),
        metavar="N",
        help="hypotheses kept a step, 1 to 100 (default: what the bundle was evaluated with)",
    )
    caption.add_argument(
        "-n",
        "--number",
        type=_whole(1, 20),
        metavar="N",
        help="different captions for each picture, 1 to 20, each on a line of its own",
    )
    caption.add_argument(
        "--sample", action="store_true", help="draw captions at random instead of searching"
    )
    caption.add_argument(
        "--top-p",
        type=_share,
        metavar="P",
        help="with --sample: share of the probability that is drawn from (default: 0.9)",
    )
    caption.add_argument(
        "--seed",
        type=_whole(0, 2**31 - 1),
        metavar="S",
        help="with --sample: equal seeds, equal captions (default: 0)",
    )
    caption.add_argument(
        "--json",
        action="store_true",
        help="print a JSON list of {picture, caption, log_probability}, with -n or --sample also "
        "alternatives, a list of {caption, log_probability} that begins with that caption",
    )
    caption.set_defaults(run=run)


def _whole(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or len(text) > 10 or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(
                f"{text!r:.40} is not a whole number from {least} to {most}"
            )
        return int(text)

    return number


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0.01 <= share <= 1:  # not a number is none either
        raise argparse.ArgumentTypeError(f"{text!r:.40} is not a number from 0.01 to 1")
    return share


def run(options: argparse.Namespace) -> int:
    """Caption the pictures that `options` names; returns the exit code."""
    if not options.sample:
        for name, value in (("--top-p", options.top_p), ("--seed", options.seed)):
            if value is not None:
                raise CaptionerError(
                    f"{name} is of use with --sample only; add it, or leave {name} out"
                )
    elif options.beam is not None:
        raise CaptionerError("--beam searches and --sample draws at random: leave one of them out")
    paths, failed = picture_files(options.pictures)
    if not paths:
        raise CaptionerError("no pictures found (looked for " + " ".join(sorted(SUFFIXES)) + ")")
    folder = options.bundle
    if not (folder / "bundle.json").is_file():  # before TensorFlow's seconds
        raise CaptionerError(
            f"{folder}: no bundle here; make one with `dvc repro`, or name another with --bundle"
        )
    from captioner.allocator import keep_large_blocks

    keep_large_blocks()
    from tqdm import tqdm

    import captioner.quiet_tensorflow  # noqa: F401  (before bundle imports TensorFlow)
    from captioner import bundle
    from captioner.archives.container import MAX_READ
    from captioner.files import read_regular

    speaker = bundle.load(folder, options.beam, min(BATCH, len(paths)))
    several = options.sample or options.number is not None
    found = []
    # On a terminal the captions themselves show how far it is.
    silent = len(paths) <= BATCH or (sys.stdout.isatty() and not options.json)
    starts = range(0, len(paths), BATCH)
    for start in tqdm(starts, "pictures", unit="batch", disable=True if silent else None):
        read, pictures = [], []
        for path in paths[start : start + BATCH]:
            try:
                pictures.append(speaker.prepare(read_regular(path, MAX_READ)))
                read.append(path)
            except CaptionerError as error:
                complain(f"{path}: {error}")
            except OSError as error:
                complain(f"{path}: {error.strerror}")
        failed |= len(read) < len(paths[start : start + BATCH])
        for path, captions in zip(read, _captions(speaker, pictures, options), strict=True):
            if options.json:
                rows = [{"caption": c.text, "log_probability": c.log_probability} for c in captions]
                more = {"alternatives": rows} if several else {}
                found.append({"picture": str(path), **rows[0], **more})
                continue
            for caption in captions:
                line = f"{printable(str(path))}\t{printable(caption.text)}"
                print(line + (f"\t{caption.log_probability:.2f}" if several else ""), flush=True)
    if options.json:
        # In ASCII: exact for names of any bytes, and harmless for terminals of any encoding.
        print(json.dumps(found, indent=2), flush=True)
    return 1 if failed else 0


def _captions(
    speaker: "Captioner", pictures: list, options: argparse.Namespace
) -> "list[list[Caption]]":
    """What is said of each prepared picture, best first."""
    if options.sample:
        top_p = TOP_P if options.top_p is None else options.top_p
        return speaker.sampled(pictures, options.number or 1, options.seed or 0, top_p)
    if options.number is not None:
        return speaker.diverse(pictures, options.number)
    return [[caption] for caption in speaker.caption_prepared(pictures)]


def picture_files(arguments: Sequence[Path]) -> tuple[list[Path], bool]:
    """Files as they are named, folders with all pictures below them, hidden ones left out.

    Of a folder only regular files count, and no link that leads out of it; a file that is named by
    itself may be a link to anywhere. Links to folders inside are not entered: those are found.

    Returns:
        the files, and whether something was left out (named on stderr).
    """
    from captioner.files import irregular, leads_out

    files, problems = [], []

    def unreadable(error: OSError) -> None:
        problems.append(f"{error.filename}: {error.strerror}")

    def usable(path: Path, root: Path) -> bool:
        """Whether it may be read or entered; where not, note why."""
        try:
            mode = path.stat().st_mode
        except OSError as error:  # a link to nothing too, and one in a circle
            unreadable(error)
            return False
        what = irregular(mode)
        if leads_out(path, root):
            problems.append(f"{path}: is a link that leads out of the folder; name it by itself")
        elif what not in (None, "a folder"):
            problems.append(f"{path}: is {what} and no picture")
        else:
            return True
        return False

    for argument in arguments:
        try:
            what = irregular(argument.stat().st_mode)
        except OSError as error:
            unreadable(error)
            continue
        if what is None:
            files.append(argument)
        elif what != "a folder":
            problems.append(f"{argument}: is {what} and no picture")
        else:
            root = argument.resolve()
            for folder, subfolders, names in os.walk(argument, onerror=unreadable):
                subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
                for name in subfolders:
                    usable(Path(folder, name), root)
                found = (
                    Path(folder, name)
                    for name in sorted(names)
                    if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
                )
                files += [path for path in found if usable(path, root)]
    for problem in problems:
        complain(problem)
    return files, bool(problems)
