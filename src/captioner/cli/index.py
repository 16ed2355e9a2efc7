"""`captioner index`: collections of your own: add pictures, remove them, list them."""

import argparse
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from captioner import CaptionerError
from captioner.cli import finding
from captioner.cli.caption import picture_files
from captioner.cli.terminal import complain, pictures, printable
from captioner.files import check_replaceable

if TYPE_CHECKING:
    from captioner.bundle import Captioner

TAKEN = "another picture of this name is in the index; remove it first"
BATCH = 32  # pictures a call of the model
PART = 960  # pictures that a kill can cost: then they are on disk

EXAMPLES = """\
examples:
  captioner index add holidays/ --index my_index          a new collection of a folder and below
  captioner index add holidays/ --index my_index          again: only what is new is embedded
  captioner index add new/ --index my_index --from data/embeddings
                                                          begun as a copy of the data set's own
  captioner index remove holidays/blurred.jpg --index my_index
  captioner index list --index my_index
  captioner index build --index my_index                  of 200,000 pictures or more: faster
  captioner similar dog.jpg --index my_index              search in it

A picture is new if its content is (sha256), whatever its name. A crash leaves a collection as it
was, but for the parts of 960 pictures that were finished; several processes may add at once. After
`build`, faiss proposes pictures, which are then compared exactly; it measures how many of the true
nearest are found, and refuses below 95%. DIR is a new or empty folder, or a collection.

exit codes: 0 all done; 1 some pictures could not be used or are not there (named on stderr), the
others are done; 2 nothing was done: a wrong argument, no pictures, no bundle, no collection
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the program's."""
    index = commands.add_parser(
        "index",
        help="make collections of your own pictures to search in",
        description="Add pictures to a collection that `captioner similar` and `search` look into.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = index.add_subparsers(dest="action", required=True, metavar="ACTION")
    adding = actions.add_parser("add", help="embed and add the pictures that are new")
    adding.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE|FOLDER")
    adding.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="DIR",
        help="a collection that a new one begins as a copy of",
    )
    finding.add_bundle(adding)
    removing = actions.add_parser("remove", help="take pictures out")
    removing.add_argument("image_ids", nargs="+", metavar="ID", help="as `captioner index list`")
    listing = actions.add_parser("list", help="ids and captions, between tabs")
    listing.add_argument("--json", action="store_true", help="print JSON with all columns")
    building = actions.add_parser("build", help="make searching very many pictures faster (faiss)")
    functions = {adding: add, removing: remove, listing: list_pictures, building: build}
    for action, function in functions.items():
        action.add_argument(
            "--index", type=Path, required=True, metavar="DIR", help="the collection"
        )
        action.set_defaults(run=function)


def add(options: argparse.Namespace) -> int:
    """Add what is new; returns the exit code."""
    from tqdm import tqdm

    from captioner import collection
    from captioner.archives.container import MAX_READ
    from captioner.files import read_regular

    _refuse_the_pipelines(options.index)
    exists = (options.index / collection.MANIFEST).exists()
    if not exists:
        check_replaceable(options.index)
    paths, failed = picture_files(options.pictures)
    if not paths:
        raise CaptionerError("no pictures found")
    if options.source and exists:
        raise CaptionerError(f"{options.index}: is there already; leave --from out")
    model = collection.read_manifest(options.index)["model"] if exists else None
    if options.source:
        model = collection.open_collection(options.source).model  # verified before it is copied
    speaker = finding.load_bundle(options.bundle, BATCH)
    if model is not None:
        owner = options.index if exists else options.source
        finding.check_same_model(speaker, options.bundle, model, owner)
    if not exists:
        _begin(options, speaker)
    table = collection.open_collection(options.index).pictures
    known, ids = set(table["sha256"]), set(table["image_id"])
    counts = Counter(added=0, again=0, failed=int(failed))
    batch, rows = [], []
    bar = tqdm(paths, "pictures", unit="picture", disable=None)
    for path in bar:
        try:
            data = read_regular(path, MAX_READ)
            sha256 = hashlib.sha256(data).hexdigest()
            if sha256 in known:
                counts["again"] += 1
                continue
            if str(path) in ids:
                raise CaptionerError(TAKEN)
            row = _prepared(speaker, data)
        except (CaptionerError, OSError) as error:
            complain(f"{path}: {getattr(error, 'strerror', None) or error}")
            counts["failed"] += 1
            continue
        known.add(sha256)
        ids.add(str(path))
        batch.append(row | {"image_id": str(path), "split": "added", "sha256": sha256})
        if len(batch) == BATCH:
            rows += _embedded(speaker, batch)
            batch = []
        if len(rows) >= PART:
            counts += _write(options.index, rows)
            rows = []
    rows += _embedded(speaker, batch)
    if rows:
        counts += _write(options.index, rows)
    added, again = pictures(counts["added"]), pictures(counts["again"])
    print(f"{added} added, {again} already there: {options.index}")
    return 1 if counts["failed"] else 0


def remove(options: argparse.Namespace) -> int:
    """Remove what is named; returns the exit code."""
    from captioner import collection

    _refuse_the_pipelines(options.index)
    collection.read_manifest(options.index)  # without one there is nothing to lock
    with collection.locked(options.index, complain):
        there = set(collection.open_collection(options.index).pictures["image_id"])
        missing = [image_id for image_id in options.image_ids if image_id not in there]
        if len(missing) == len(options.image_ids):
            raise CaptionerError(
                f"{options.index}: no such picture; `captioner index list` names them"
            )
        collection.remove(options.index, options.image_ids)
    for image_id in missing:
        complain(f"{image_id}: no such picture in {options.index}")
    return 1 if missing else 0


def list_pictures(options: argparse.Namespace) -> int:
    """List all; returns the exit code."""
    from captioner import collection

    table = collection.open_collection(options.index).pictures
    if options.json:
        print(json.dumps(json.loads(table.to_json(orient="records")), indent=2))
        return 0
    for image_id, caption in zip(table["image_id"], table["caption"], strict=True):
        print(f"{printable(image_id)}\t{printable(caption)}")
    return 0


def build(options: argparse.Namespace) -> int:
    """Build the approximate index; returns the exit code."""
    from tqdm import tqdm

    from captioner import approximate

    _refuse_the_pipelines(options.index)
    recall = approximate.build(options.index, lambda steps, name: tqdm(steps, name, disable=None))
    shown = ", ".join(f"by {name} {value:.3f}" for name, value in recall.items())
    print(f"{options.index}: of the ten nearest are found: {shown}")
    return 0


def _refuse_the_pipelines(index: Path) -> None:
    if index.resolve() == Path("data/embeddings").resolve():
        raise CaptionerError(
            f"{index}: belongs to the pipeline, `dvc repro` would undo the change; begin one of "
            "your own: captioner index add PICTURES --index DIR --from data/embeddings"
        )


def _prepared(speaker: "Captioner", data: bytes) -> dict:
    """A picture as the model takes it, and its perceptual hash."""
    from captioner.raster import perceptual_hashes, prepare

    (perceptual_hash,) = perceptual_hashes(
        prepare(data, **vars(speaker.preparation)).thumbnail[None]
    )
    return {"pixels": speaker.prepare(data), "perceptual_hash": perceptual_hash}


def _embedded(speaker: "Captioner", batch: list[dict]) -> list[dict]:
    """The rows of a batch with captions and vectors in the place of pixels."""
    if not batch:
        return []
    described = speaker.describe([row.pop("pixels") for row in batch])
    return [
        row | {"caption": caption.text, "meaning": meaning, "looks": looks}
        for row, caption, meaning, looks in zip(batch, *described, strict=True)
    ]


def _begin(options: argparse.Namespace, speaker: "Captioner") -> None:
    """A new collection, unless another process has begun it meanwhile."""
    from captioner import collection

    try:
        split = speaker.vocabulary.split_characters
        about = (speaker.fingerprint, speaker.dimensions, split)
        collection.begin(options.index, options.source, *about)
    except CaptionerError:
        if options.source or not (options.index / collection.MANIFEST).exists():
            raise
        model = collection.read_manifest(options.index)["model"]
        finding.check_same_model(speaker, options.bundle, model, options.index)


def _write(index: Path, rows: list[dict]) -> Counter[str]:
    """Add what other processes have not added since; how many were added, there, refused."""
    import numpy as np

    from captioner import collection

    with collection.locked(index, complain):
        there = collection.known(index)
        new = [row for row in rows if row["sha256"] not in there["sha256"]]
        taken = [row for row in new if row["image_id"] in there["image_id"]]
        left = [row for row in new if row["image_id"] not in there["image_id"]]
        if left:
            meaning, looks = (
                np.stack([row[name] for row in left]) for name in ("meaning", "looks")
            )
            columns = {name: [row[name] for row in left] for name in collection.COLUMNS}
            collection.add_part(index, columns, meaning, looks)
    for row in taken:
        complain(f"{row['image_id']}: {TAKEN}")
    return Counter(added=len(left), again=len(rows) - len(new), failed=len(taken))
