"""`captioner caption`: pictures and folders of pictures in, captions out."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from captioner import CaptionerError
from captioner.cli.terminal import complain, printable

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
BATCH = 16  # pictures captioned at once

EXAMPLES = """\
examples:
  captioner caption dog.jpg                     one picture
  captioner caption holidays/ --json            a folder and all below it, as JSON
  captioner caption *.png --beam 5              search wider: better captions, slower

exit codes: 0 all done; 1 some pictures could not be read (named on stderr), the others are done;
2 nothing was tried: a wrong argument, no pictures, no bundle
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the program's."""
    caption = commands.add_parser(
        "caption",
        help="write captions for pictures and folders of pictures",
        description="Write one caption for each picture: its path, a tab, the caption.",
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
        type=_beam_width,
        metavar="N",
        help="hypotheses kept a step, 1 to 100 (default: what the bundle was evaluated with)",
    )
    caption.add_argument(
        "--json",
        action="store_true",
        help="print a JSON list of {picture, caption, log_probability}",
    )
    caption.set_defaults(run=run)


def _beam_width(text: str) -> int:
    if not text.isdecimal() or len(text) > 3 or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text!r:.40} is not a whole number from 1 to 100")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Caption the pictures that `options` names; returns the exit code."""
    return _caption(options.pictures, options.bundle, options.beam, options.json)


def _caption(arguments: list[Path], folder: Path, beam_width: int | None, as_json: bool) -> int:
    paths, failed = _files(arguments)
    if not paths:
        raise CaptionerError("no pictures found (looked for " + " ".join(sorted(SUFFIXES)) + ")")
    if not (folder / "bundle.json").is_file():  # before TensorFlow's seconds
        raise CaptionerError(
            f"{folder}: no bundle here; make one with `dvc repro`, or name another with --bundle"
        )
    from tqdm import tqdm

    import captioner.quiet_tensorflow  # noqa: F401  (before bundle imports TensorFlow)
    from captioner import bundle

    speaker = bundle.load(folder, beam_width, min(BATCH, len(paths)))
    found = []
    # On a terminal the captions themselves show how far it is.
    silent = len(paths) <= BATCH or (sys.stdout.isatty() and not as_json)
    starts = range(0, len(paths), BATCH)
    for start in tqdm(starts, "pictures", unit="batch", disable=True if silent else None):
        read, pictures = [], []
        for path in paths[start : start + BATCH]:
            try:
                pictures.append(speaker.prepare(path.read_bytes()))
                read.append(path)
            except CaptionerError as error:
                complain(f"{path}: {error}")
            except OSError as error:
                complain(f"{path}: {error.strerror}")
        failed |= len(read) < len(paths[start : start + BATCH])
        for path, caption in zip(read, speaker.caption_prepared(pictures), strict=True):
            if as_json:
                found.append(
                    {
                        "picture": str(path),
                        "caption": caption.text,
                        "log_probability": caption.log_probability,
                    }
                )
            else:
                print(f"{printable(str(path))}\t{printable(caption.text)}", flush=True)
    if as_json:
        # In ASCII: exact for names of any bytes, and harmless for terminals of any encoding.
        print(json.dumps(found, indent=2), flush=True)
    return 1 if failed else 0


def _files(arguments: Sequence[Path]) -> tuple[list[Path], bool]:
    """Files as they are named, folders with all pictures below them, hidden ones left out.

    Returns:
        the files, and whether something could not be read (named on stderr).
    """
    files, failures = [], []
    for argument in arguments:
        try:
            argument.stat()
        except OSError as error:
            failures.append(error)
            continue
        if not argument.is_dir():
            files.append(argument)
            continue
        for folder, subfolders, names in os.walk(argument, onerror=failures.append):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            files += [
                Path(folder, name)
                for name in sorted(names)
                if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
            ]
    for error in failures:
        complain(f"{error.filename}: {error.strerror}")
    return files, bool(failures)
