"""The command line. `captioner --help` imports nothing heavy."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from captioner import CaptionerError, __version__

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
BATCH = 16  # pictures captioned at once

EXAMPLES = """\
examples:
  captioner caption dog.jpg                     one picture
  captioner caption holidays/ --json            a folder and all below it, as JSON
  captioner caption *.png --beam 5              search wider: better captions, slower

exit codes: 0 all done; 1 some pictures could not be read (named on stderr); 2 nothing could be done
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="captioner",
        description="Caption pictures with a model trained by `dvc repro`.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"captioner {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
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
    options = parser.parse_args(arguments)
    try:
        return _caption(options.pictures, options.bundle, options.beam, options.json)
    except CaptionerError as error:
        print(f"captioner: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `captioner ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _beam_width(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 100")
    return int(text)


def _caption(arguments: list[Path], folder: Path, beam_width: int | None, as_json: bool) -> int:
    missing = [path for path in arguments if not path.exists()]
    for path in missing:
        print(f"captioner: {path}: no such file or folder", file=sys.stderr)
    paths = list(_files(path for path in arguments if path.exists()))
    failed = bool(missing)
    if not paths:
        raise CaptionerError("no pictures found (looked for " + " ".join(sorted(SUFFIXES)) + ")")
    if not (folder / "bundle.json").is_file():  # before TensorFlow's seconds
        raise CaptionerError(
            f"{folder}: no bundle here; make one with `dvc repro`, or name another with --bundle"
        )
    import captioner.quiet_tensorflow  # isort: skip
    from tqdm import tqdm

    from captioner import bundle

    captioner = bundle.load(folder, beam_width, BATCH)
    found = []
    starts = range(0, len(paths), BATCH)
    for start in tqdm(starts, "pictures", unit="batch", disable=len(paths) <= BATCH):
        pictures = {}
        for path in paths[start : start + BATCH]:
            try:
                pictures[path] = captioner.prepare(path.read_bytes())
            except (CaptionerError, OSError) as error:
                print(f"captioner: {path}: {error}", file=sys.stderr)
                failed = True
        captions = captioner.caption_prepared(list(pictures.values()))
        for path, caption in zip(pictures, captions, strict=True):
            if as_json:
                found.append(
                    {
                        "picture": str(path),
                        "caption": caption.text,
                        "log_probability": caption.log_probability,
                    }
                )
            else:
                print(f"{path}\t{caption.text}", flush=True)
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    return 1 if failed else 0


def _files(paths: Iterator[Path]) -> Iterator[Path]:
    """Files as they are named; folders with all pictures below them, hidden ones left out."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for below in sorted(path.rglob("*")):
            hidden = any(part.startswith(".") for part in below.relative_to(path).parts)
            if below.suffix.lower() in SUFFIXES and below.is_file() and not hidden:
                yield below


if __name__ == "__main__":
    sys.exit(main())
