"""Flickr30k and COCO in Karpathy's splits, read straight out of the published archives.

One JSON file for each data set says for every picture its split and its captions; "restval", the
part of COCO's validation pictures that neither validates nor tests, is trained on. Sources:
Karpathy and Fei-Fei, "Deep Visual-Semantic Alignments for Generating Image Descriptions" (CVPR
2015), section 4; Young et al., "From image descriptions to visual denotations" (TACL 2, 2014); Lin
et al., "Microsoft COCO: Common Objects in Context" (ECCV 2014).
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from captioner import CaptionerError
from captioner.archives import Container, open_pictures
from captioner.caption_files.records import kind
from captioner.datasets import SPLITS, Picture, Rejected
from captioner.datasets.flickr import token_captions
from captioner.datasets.published import (
    COCO_JSON,
    COCO_JSON_FILE,
    COCO_PICTURES_FILES,
    FLICKR30K_JSON,
    FLICKR30K_JSON_FILE,
    FLICKR30K_PICTURES_FILE,
    FLICKR30K_TOKENS,
    FLICKR30K_TOKENS_FILE,
)
from captioner.fetch import RemoteFile

log = logging.getLogger(__name__)

_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}
# All that is kept of the JSON while it is parsed: with its "tokens" COCO's takes twice the memory,
# 1.2 GB.
_KEYS = ("images", "split", "filepath", "filename", "sentences", "raw")


@dataclass(frozen=True)
class _Entry:
    name: str
    split: str
    folder: str  # key of the archive
    captions: tuple[str, ...]


def read_flickr30k(raw: Path | str, captions: str = "karpathy") -> Iterator[Picture | Rejected]:
    """Yield Flickr30k's pictures: all of train, of val, of test (29,000, 1,014 and 1,000).

    Rejected on the way, each with its reason: pictures listed twice, without captions, missing or
    damaged in the archive; captions without a word; malformed lines of the token file. A split
    has the order of the JSON file, or in a packed tar the archive's.

    Args:
        raw: folder with the published files, under one of their names.
        captions: "karpathy" for the sentences of the JSON file; "tokens" for those of
            results_20130124.token, from which Karpathy's were made.

    Raises:
        CaptionerError: a file is missing, damaged or refused, or the JSON is not what it should be.
    """
    raw = Path(raw)
    entries = _entries(raw, FLICKR30K_JSON_FILE, FLICKR30K_JSON, folders=None)
    if captions == "tokens":
        by_name: dict[str, dict[int, str]] = {entry.name: {} for entry in entries}
        yield from _add_tokens(raw, by_name)
        entries = [
            replace(entry, captions=tuple(text for _, text in sorted(by_name[entry.name].items())))
            for entry in entries
        ]
    with open_pictures(_published(raw, FLICKR30K_PICTURES_FILE)) as archive:
        yield from _pictures(entries, {"": archive}, FLICKR30K_JSON)


def read_coco(raw: Path | str) -> Iterator[Picture | Rejected]:
    """Yield COCO's pictures: all of train, of val, of test (113,287 and twice 5,000).

    As `read_flickr30k`, from COCO's files. Train is first what lies in train2014.zip,
    then "restval", which lies in val2014.zip.
    """
    raw = Path(raw)
    entries = _entries(raw, COCO_JSON_FILE, COCO_JSON, folders=tuple(COCO_PICTURES_FILES))
    with ExitStack() as stack:
        archives = {
            folder: stack.enter_context(open_pictures(_published(raw, file)))
            for folder, file in COCO_PICTURES_FILES.items()
        }
        yield from _pictures(entries, archives, COCO_JSON)


def _pictures(
    entries: list[_Entry], archives: Mapping[str, Container], listed_in: str
) -> Iterator[Picture | Rejected]:
    """First all that the lists show to be wrong, then the pictures, split by split."""
    members: dict[str, dict[str, str]] = {folder: {} for folder in archives}
    for folder, archive in archives.items():
        for member in archive.names:
            members[folder].setdefault(member.rsplit("/", 1)[-1], member)
    wanted: dict[tuple[str, str], dict[str, _Entry]] = {
        (split, folder): {} for split in SPLITS for folder in archives
    }
    splits: dict[str, str] = {}
    for entry in entries:
        if entry.name in splits:
            yield Rejected(entry.name, "picture repeated", f"already in {splits[entry.name]}")
            continue
        splits[entry.name] = entry.split
        captions = tuple(text for text in entry.captions if re.search(r"\w", text))
        for text in entry.captions:
            if text not in captions:
                yield Rejected(entry.name, "caption without words", f"{text!r:.60} in {listed_in}")
        member = members[entry.folder].get(entry.name)
        if member is None:
            where = archives[entry.folder].path.name
            yield Rejected(entry.name, "picture missing", f"named in {listed_in}, not in {where}")
        elif not captions:
            yield Rejected(entry.name, "picture without captions", f"named in {listed_in}")
        else:
            wanted[entry.split, entry.folder][member] = replace(entry, captions=captions)
    for (split, folder), by_member in wanted.items():
        damaged: dict[str, str] = {}
        for member, data in archives[folder].read_all(by_member, damaged):
            entry = by_member[member]
            yield Picture(entry.name, split, data, entry.captions)
        for member, problem in damaged.items():
            yield Rejected(by_member[member].name, "picture damaged in the archive", problem)


def _add_tokens(raw: Path, by_name: dict[str, dict[int, str]]) -> Iterator[Rejected]:
    """Fill in the captions of the token file, by their number; yield what cannot be used."""
    outside = set()
    data = _member(raw, FLICKR30K_TOKENS_FILE, FLICKR30K_TOKENS)
    for parsed in token_captions(data, FLICKR30K_TOKENS):
        if isinstance(parsed, Rejected):
            yield parsed
            continue
        name, number, caption = parsed
        if name not in by_name:
            outside.add(name)
        elif number in by_name[name]:
            yield Rejected(name, "caption repeated", f"number {number}: {caption}")
        else:
            by_name[name][number] = caption
    if outside:
        log.info("flickr30k: %d captioned pictures are in no split and left out", len(outside))


def _entries(
    raw: Path, file: RemoteFile, json_name: str, folders: tuple[str, ...] | None
) -> list[_Entry]:
    """What the JSON file says of each picture, every type checked.

    Args:
        folders: the values allowed for "filepath"; None where there is no such key.
    """
    data = _member(raw, file, json_name)
    try:
        content = json.loads(data, object_hook=_kept)
    except (ValueError, RecursionError) as error:  # ValueError: no JSON, or no UTF-8
        raise CaptionerError(f"{raw}: {json_name}: no JSON ({error}); fetch it again") from None
    images = _typed(content, dict, json_name).get("images")
    entries = []
    for number, image in enumerate(_typed(images, list, f"{json_name}: images")):
        where = f"{json_name}: images[{number}]"
        image = _typed(image, dict, where)
        sentences = _typed(image.get("sentences"), list, f"{where}.sentences")
        entries.append(
            _Entry(
                name=_text(image.get("filename"), f"{where}.filename"),
                split=_SPLITS[_one_of(image.get("split"), _SPLITS, f"{where}.split")],
                folder=_one_of(image.get("filepath"), folders, f"{where}.filepath")
                if folders
                else "",
                captions=tuple(
                    _caption(sentence, f"{where}.sentences[{place}]")
                    for place, sentence in enumerate(sentences)
                ),
            )
        )
    return entries


def _kept(entry: dict) -> dict:
    return {key: entry[key] for key in _KEYS if key in entry}


def _caption(sentence: object, where: str) -> str:
    """A sentence in one line: some of COCO's were typed with line breaks."""
    text = _text(_typed(sentence, dict, where).get("raw"), f"{where}.raw")
    return " ".join(text.split())


def _text(value: object, where: str) -> str:
    text = _typed(value, str, where)
    if re.search("[\ud800-\udfff]", text):  # JSON may hold halves of characters; no file may
        raise CaptionerError(f"{where}: {text!r:.60} is no proper text")
    return text


def _one_of(value: object, allowed: Mapping[str, str] | tuple[str, ...], where: str) -> str:
    text = _text(value, where)
    if text not in allowed:
        raise CaptionerError(f"{where}: {text!r:.60}; expected one of {', '.join(allowed)}")
    return text


def _typed(value: object, expected: type, where: str):
    if not isinstance(value, expected):
        words = {dict: "an object", list: "a list", str: "a text"}[expected]
        raise CaptionerError(f"{where}: {kind(value)}; expected {words}, as published")
    return value


def _member(raw: Path, file: RemoteFile, base_name: str) -> bytes:
    """The file `base_name`, which lies in `raw` or within the archive that `file` is."""
    path = _published(raw, file)
    if path.name == base_name:
        with open_pictures(raw) as folder:
            return folder.read(base_name)
    with open_pictures(path) as archive:
        member = archive.find(base_name)
        if member is None:
            raise CaptionerError(f"{path}: has no {base_name}; is it the published archive?")
        return archive.read(member)


def _published(raw: Path, file: RemoteFile) -> Path:
    names = (file.name, *file.other_names)
    for name in names:
        if (raw / name).exists():
            return raw / name
    raise CaptionerError(f"{raw}: has no {' or '.join(names)}; run the stage download")
