"""Flickr8k: 8,000 photographs with five captions each, read straight out of its two archives.

The official splits (6,000 / 1,000 / 1,000) are files of names inside the text archive; "dev" is
`val` here. The published captions also name pictures outside the splits and one picture that does
not exist. Source: Hodosh, Young and Hockenmaier, "Framing Image Description as a Ranking Task",
JAIR 47 (2013).
"""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from captioner import CaptionerError
from captioner.archives import Archive
from captioner.datasets import Picture, Rejected
from captioner.datasets.published import FLICKR8K_PICTURES, FLICKR8K_TEXTS

log = logging.getLogger(__name__)

TOKENS = "Flickr8k.token.txt"
SPLIT_FILES = {
    "train": "Flickr_8k.trainImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
# NAME#NUMBER<tab>CAPTION
_TOKEN_LINE = re.compile(r"(?P<name>[^\t#]+)#(?P<number>\d{1,3})\t(?P<caption>.*\S.*)")


def read(raw: Path | str) -> Iterator[Picture | Rejected]:
    """Yield the pictures in the order of the split files: all of train, of val, of test.

    Rejected on the way, each with its reason: lines of the captions that cannot be read (by line
    number), second captions of one number, captions whose picture is not in the archive, names in
    a split without a picture or without captions, pictures that the archive holds damaged. Captions
    outside the splits are left out and counted in the log: that is no fault of the data.

    Args:
        raw: folder with the two archives, under their published names.

    Raises:
        CaptionerError: an archive is missing, damaged or refused, or lacks one of the lists.
    """
    raw = Path(raw)
    pictures_path, texts_path = raw / FLICKR8K_PICTURES.name, raw / FLICKR8K_TEXTS.name
    with Archive(pictures_path) as pictures, Archive(texts_path) as texts:
        members: dict[str, str] = {}
        for member in pictures.names:
            members.setdefault(member.rsplit("/", 1)[-1], member)
        splits = {
            split: [line.strip() for line in _lines(_member(texts, file_name)) if line.strip()]
            for split, file_name in SPLIT_FILES.items()
        }
        captions: dict[str, dict[int, str]] = {}
        for parsed in token_captions(_member(texts, TOKENS), TOKENS):
            if isinstance(parsed, Rejected):
                yield parsed
                continue
            name, number, caption = parsed
            if name not in members:
                yield Rejected(name, "caption without a picture", f"number {number}: {caption}")
            elif number in captions.setdefault(name, {}):
                yield Rejected(name, "caption repeated", f"number {number}: {caption}")
            else:
                captions[name][number] = caption
        for split, names in splits.items():
            for name in names:
                yield _picture(name, split, pictures, members, captions)
    listed = {name for names in splits.values() for name in names}
    outside = len(captions.keys() - listed)
    if outside:
        log.info("flickr8k: %d captioned pictures are in no split and left out", outside)


def _picture(
    name: str,
    split: str,
    pictures: Archive,
    members: dict[str, str],
    captions: dict[str, dict[int, str]],
) -> Picture | Rejected:
    if name not in members:
        return Rejected(name, "picture missing", f"named in {SPLIT_FILES[split]}")
    if name not in captions:
        return Rejected(name, "picture without captions", f"named in {SPLIT_FILES[split]}")
    try:
        data = pictures.read(members[name])
    except CaptionerError as error:
        return Rejected(name, "picture damaged in the archive", str(error))
    return Picture(name, split, data, tuple(text for _, text in sorted(captions[name].items())))


def token_captions(data: bytes, file_name: str) -> Iterator[tuple[str, int, str] | Rejected]:
    """(name, number, caption) of each line of a token file, in order; `Rejected` if malformed."""
    for number, line in enumerate(_lines(data), start=1):
        match = _TOKEN_LINE.fullmatch(line)
        if match and "\ufffd" not in line:
            yield match["name"], int(match["number"]), match["caption"]
        elif line:
            yield Rejected(
                f"{file_name}:{number}", "caption malformed", f"line {number}: {line[:100]}"
            )


def _lines(data: bytes) -> list[str]:
    """The lines of a text; bytes that are no UTF-8 become U+FFFD."""
    text = data.decode("utf-8-sig", "replace")
    # not splitlines: it also splits at characters that may stand inside a caption (U+2028, U+0085)
    return [line.rstrip("\r") for line in text.split("\n")]


def _member(texts: Archive, base_name: str) -> bytes:
    member = texts.find(base_name)
    if member is None:
        raise CaptionerError(f"{texts.path}: has no {base_name}; is it the published archive?")
    return texts.read(member)
