"""Your own pictures, in a folder, a zip or a tar, and a table that says what is on them.

The table is read first, then the pictures are looked up by the names in it, and drawn into splits
where no column says which. Pictures stay where they are, one in memory at a time.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from captioner.archives import Container, open_pictures
from captioner.archives.matching import agree, folders_and_base, is_picture, match_names
from captioner.caption_files import Columns, Row, read_rows
from captioner.caption_files.records import MAX_CAPTION, kind
from captioner.datasets import SPLITS, Picture, Rejected
from captioner.datasets.splitting import draw_splits

log = logging.getLogger(__name__)

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "restval": "train",  # Karpathy's name for what he adds to COCO's training pictures
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


@dataclass
class _Entry:
    """What the rows of one picture say."""

    first: Row
    captions: list[str] = field(default_factory=list)
    splits: dict[str | None, str] = field(default_factory=dict)  # value -> where it stands first
    groups: dict[str | None, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.first.picture


def read(
    captions: Path | str,
    pictures: Path | str,
    *,
    picture_column: str = "auto",
    caption_column: str = "auto",
    split_column: str | None,
    group_column: str | None,
    val: float,
    test: float,
    seed: int,
) -> Iterator[Picture | Rejected]:
    """Yield all of train, of val, of test; a picture's name in the table is its `image_id`.

    Rejected on the way, each with its reason: captions that are missing or no text, or without the
    name of a picture; pictures that are missing, that the name fits several of, or that cannot be
    read; pictures whose rows name no split, an unknown one, or several splits or groups. Pictures
    that no row names are left out and counted in the log: that is no fault of the table.

    Args:
        captions: the table, or an archive that holds it (see `captioner.caption_files.read_rows`).
        pictures: folder or archive of the pictures (see `captioner.archives.open_pictures`).
        picture_column, caption_column: their names in the table, or "auto". All captions of a
            picture count, in the table's order; of its other columns the first row does.
        split_column: column of train, val, test (or a usual synonym). None: drawn by `seed`,
            picture by picture, copies of a picture together (see `draw_splits`).
        group_column: pictures with one value there stay in one split that is drawn; those without
            a value count as if there were no such column.
        val, test: shares of the pictures, where the splits are drawn.

    Raises:
        CaptionerError: a file is missing, damaged or refused, or lacks a column.
    """
    columns = Columns(picture_column, caption_column, split_column, group_column)
    entries: dict[str, _Entry] = {}
    for row in read_rows(captions, columns):
        yield from _add(row, entries)
    if split_column is None and any("split" in entry.first.extras for entry in entries.values()):
        log.info("table: splits are drawn; to take those of its column split, name split_column")
    damaged: dict[str, str] = {}
    with open_pictures(pictures) as files:
        usable: dict[str, _Entry] = {}
        for entry, found in _look_up(entries, files):
            problem = _problem(entry, split_column is not None)
            if isinstance(found, Rejected) or problem is not None:
                yield problem or found
            else:
                usable[found] = entry
        if split_column is not None:
            splits = {file: _split(next(iter(entry.splits))) for file, entry in usable.items()}
        else:
            splits = draw_splits(_units(files, usable, damaged), val, test, seed)
        for split in SPLITS:
            wanted = [file for file in usable if splits.get(file) == split]
            for file, data in files.read_all(wanted, damaged):
                entry = usable[file]
                facts = entry.first.extras or None
                yield Picture(entry.name, split, data, tuple(entry.captions), facts)
    for file, reason in damaged.items():
        yield Rejected(usable[file].name, "picture unreadable", reason)


def _add(row: Row, entries: dict[str, _Entry]) -> Iterator[Rejected]:
    """Take a row into the entry of its picture."""
    if row.picture is None:
        texts = "; ".join(str(caption) for caption in row.captions)
        yield Rejected(row.where, "caption without a picture", f"names none: {texts:.100}")
        return
    entry = entries.setdefault(row.picture, _Entry(row))
    entry.splits.setdefault(row.split, row.where)
    entry.groups.setdefault(row.group, row.where)
    for caption in row.captions or (None,):
        if isinstance(caption, str) and len(caption) > MAX_CAPTION:
            detail = f"{row.where}: {len(caption):,} characters, at most {MAX_CAPTION:,}"
            yield Rejected(row.picture, "caption too long", detail)
        elif isinstance(caption, str) and caption.strip():
            entry.captions.append(caption)
        elif caption is None or isinstance(caption, str):
            yield Rejected(row.picture, "caption missing", row.where)
        else:
            yield Rejected(row.picture, "caption is no text", f"{row.where}: {kind(caption)}")


def _problem(entry: _Entry, split_named: bool) -> Rejected | None:
    """Why a picture cannot be used, whatever is in its file."""
    if not entry.captions:
        return Rejected(entry.name, "picture without captions", entry.first.where)
    if split_named:
        for value, where in entry.splits.items():
            if _split(value) is None:
                return Rejected(entry.name, "split unknown", f"{where}: {value or 'none'}")
        found = {_split(value): where for value, where in entry.splits.items()}
    else:
        found = entry.groups
    if len(found) > 1:
        reason = "split disagrees" if split_named else "group disagrees"
        listed = ", ".join(f"{where}: {value or 'none'}" for value, where in found.items())
        return Rejected(entry.name, reason, f"{listed:.200}")
    return None


def _split(value: str | None) -> str | None:
    return SPLIT_NAMES.get((value or "").strip().lower())


def _look_up(
    entries: Mapping[str, _Entry], pictures: Container
) -> Iterator[tuple[_Entry, str | Rejected]]:
    """Each entry with its file; two entries never share one."""
    files = pictures.names
    matches = match_names(entries, files)
    owners = _owners(matches)
    elsewhere = {folders_and_base(file)[1]: file for file in reversed(files)}
    for name, entry in entries.items():
        found, where = matches[name], entry.first.where
        if not found:
            other = elsewhere.get(folders_and_base(name)[1])
            hint = "" if other is None else f"; {other:.80} is in another folder"
            yield entry, Rejected(name, "picture missing", f"{where}: no such file{hint}")
        elif len(found) > 1:
            few = ", ".join(found[:3])
            yield entry, Rejected(name, "picture ambiguous", f"{where}: {len(found)} files: {few}")
        elif (owner := owners[found[0]]) == name:
            yield entry, found[0]
        elif owner is None:
            reason = f"{where}: {found[0]} fits several names of different folders"
            yield entry, Rejected(name, "picture ambiguous", reason)
        else:
            yield entry, Rejected(name, "picture named twice", f"{where}: also as {owner}")
    # A file without folders contradicts no name; but was it train/1.jpg or val/1.jpg once?
    root = pictures.path.resolve().as_posix()
    bare = [
        name
        for name, found in matches.items()
        if found and "/" not in found[0] and not agree(folders_and_base(name)[0], root)
    ]
    if bare:
        log.info(
            "table: %d names give folders that %s has not, such as %.80s; matched by file name",
            len(bare),
            pictures.path,
            bare[0],
        )
    named = {file for found in matches.values() for file in found}
    count = sum(file not in named and is_picture(file) for file in files)
    if count:
        pictures = "picture has" if count == 1 else "pictures have"
        left = "is" if count == 1 else "are"
        log.info("table: %d %s no caption and %s left out", count, pictures, left)


def _owners(matches: Mapping[str, Sequence[str]]) -> dict[str, str | None]:
    """File -> which of the names that mean it gets it.

    That is the name with the file's very path, else the first; but None where the names contradict
    each other (`train/1.jpg` and `val/1.jpg` for one `1.jpg`): then nobody knows.
    """
    names: dict[str, list[str]] = {}
    for name, found in matches.items():
        if len(found) == 1:
            names.setdefault(found[0], []).append(name)
    owners: dict[str, str | None] = {}
    for file, those in names.items():
        if file in those:
            owners[file] = file
        else:
            longest = max(those, key=len)
            owners[file] = those[0] if all(agree(name, longest) for name in those) else None
    return owners


def _units(
    files: Container, usable: Mapping[str, _Entry], damaged: dict[str, str]
) -> dict[str, str]:
    """File -> its group, or where there is none a digest of its bytes, which copies share."""
    units = {file: f"group {entry.first.group}" for file, entry in usable.items()}
    alone = [file for file, entry in usable.items() if entry.first.group is None]
    bar = tqdm(desc="look for copies", total=len(alone), unit=" pictures", disable=None)
    with bar:
        for file, data in files.read_all(alone, damaged):
            units[file] = f"picture {hashlib.sha256(data).hexdigest()}"
            bar.update()
    return {file: unit for file, unit in units.items() if file not in damaged}
