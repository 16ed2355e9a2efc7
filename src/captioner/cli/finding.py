"""What the commands that search a collection have in common: options, the model, what is shown."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from captioner import CaptionerError
from captioner.cli.terminal import printable

if TYPE_CHECKING:
    from captioner.bundle import Captioner
    from captioner.collection import Collection
    from captioner.recommend import Query, Result

EXIT_CODES = "exit codes: 0 found; 2 nothing was done: a wrong argument or file, named on stderr"


def add_index(command: argparse.ArgumentParser) -> None:
    """--index: the collection."""
    command.add_argument(
        "--index",
        type=Path,
        default=Path("data/embeddings"),
        metavar="DIR",
        help="the collection (default: data/embeddings, where `dvc repro` puts it; "
        "`captioner index` makes others)",
    )


def add_bundle(command: argparse.ArgumentParser) -> None:
    """--bundle: the model."""
    command.add_argument(
        "--bundle",
        type=Path,
        default=Path("models/bundle"),
        metavar="DIR",
        help="the model that made the collection (default: models/bundle)",
    )


def add_list(command: argparse.ArgumentParser) -> None:
    """--top and --json: what is listed, and how."""
    command.add_argument(
        "--top", type=_count, default=10, metavar="N", help="how many, 1 to 1000 (default: 10)"
    )
    command.add_argument("--json", action="store_true", help="print JSON with all that is known")


def add_filter(command: argparse.ArgumentParser) -> None:
    """--filter column=value."""
    command.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="COLUMN=VALUE",
        help="only pictures with this value, such as split=test or a column of your own table; "
        "of one column any of several values, of several columns all",
    )


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 4 or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r:.40} is not a whole number from 1 to 1000")
    return int(text)


def filters_of(options: argparse.Namespace) -> dict[str, list[str]]:
    """column -> values.

    Raises:
        CaptionerError: one of them has no "=".
    """
    found: dict[str, list[str]] = {}
    for text in options.filter:
        column, sign, value = text.partition("=")
        if not sign:
            raise CaptionerError(f"--filter {text:.60}: expected COLUMN=VALUE, such as split=test")
        found.setdefault(column, []).append(value)
    return found


def load_bundle(folder: Path, batch_size: int = 1) -> "Captioner":
    """The model; no bundle there is said before TensorFlow's seconds."""
    if not (folder / "bundle.json").is_file():
        raise CaptionerError(
            f"{folder}: no bundle here; make one with `dvc repro`, or name another with --bundle"
        )
    from captioner.allocator import keep_large_blocks

    keep_large_blocks()
    import captioner.quiet_tensorflow  # noqa: F401  (before bundle imports TensorFlow)
    from captioner import bundle

    return bundle.load(folder, batch_size=batch_size)


def check_same_model(speaker: "Captioner", bundle: Path, model: str, index: Path) -> None:
    """Refuse to compare vectors of different models.

    Raises:
        CaptionerError: the bundle did not make the collection.
    """
    if speaker.fingerprint != model:
        raise CaptionerError(
            f"{bundle} (model {speaker.fingerprint[:8]}) did not make {index} (model {model[:8]}): "
            "their vectors cannot be compared; run `dvc repro export`, or name the bundle that "
            "belongs to it with --bundle"
        )


def query_picture(options: argparse.Namespace, collection: "Collection") -> "Query":
    """The picture that a command names: a file, or an id; what is in the collection needs no model.

    Raises:
        CaptionerError: neither, or the file cannot be used, or the model is another one.
    """
    import hashlib

    from captioner import recommend
    from captioner.archives.container import MAX_READ
    from captioner.files import read_regular

    if not Path(options.picture).is_file():
        return recommend.query_of(collection, options.picture)
    try:
        data = read_regular(options.picture, MAX_READ)
    except (CaptionerError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CaptionerError(f"{options.picture}: {reason}") from None
    sha256 = hashlib.sha256(data).hexdigest()
    table = collection.pictures
    if (table["sha256"] == sha256).any():  # the vectors are there already
        known = table["image_id"][table["sha256"] == sha256]
        return recommend.query_of(collection, known.iat[0])
    speaker = load_bundle(options.bundle)
    check_same_model(speaker, options.bundle, collection.model, options.index)
    from captioner.raster import perceptual_hashes, prepare

    preparation = vars(speaker.preparation)
    try:
        prepared = prepare(data, **preparation)
    except CaptionerError as error:
        raise CaptionerError(f"{options.picture}: {error}") from None
    (caption,), (meaning,), (looks,) = speaker.describe([speaker.prepare(data)])
    return recommend.Query(
        meaning,
        looks,
        caption.text,
        sha256=sha256,
        perceptual_hash=perceptual_hashes(prepared.thumbnail[None])[0],
    )


def print_results(results: Sequence["Result"], as_json: bool) -> None:
    """A line for each picture: score, id, caption and reasons, between tabs; or JSON."""
    if as_json:
        print(json.dumps([asdict(result) for result in results], indent=2))
        return
    for result in results:
        reasons = [f"means {result.means_alike:.2f}"]
        if result.looks_alike is not None:
            reasons.insert(0, f"looks {result.looks_alike:.2f}")
        if result.shared:
            reasons.append("shares " + ", ".join(result.shared))
        if result.copies:
            reasons.append("also as " + ", ".join(result.copies[:3]))
        cells = (f"{result.score:.3f}", result.image_id, result.caption, "; ".join(reasons))
        print("\t".join(map(printable, cells)))
