"""Flickr8k out of its two archives: tiny ones made here, and the real ones where they are."""

import itertools
import logging
import zipfile
from pathlib import Path

import pytest

from captioner import CaptionerError
from captioner.datasets import Picture, Rejected, flickr

TRAIN, VAL, TEST = ["c.jpg", "a.jpg"], ["d.jpg"], ["b.jpg"]


def token_lines(*names: str, captions: int = 2) -> list[str]:
    return [f"{name}#{n}\tcaption {n} of {name} ." for name in names for n in range(captions)]


def write_archives(
    raw: Path,
    *,
    pictures: tuple[str, ...] = ("a.jpg", "b.jpg", "c.jpg", "d.jpg"),
    tokens: list[str] | bytes | None = None,
    folder: str = "",
    **splits: list[str],
) -> Path:
    """Both archives as published; `splits` replaces lists of names (None: no such file)."""
    raw.mkdir(exist_ok=True)
    with zipfile.ZipFile(raw / "Flickr8k_Dataset.zip", "w") as archive:
        archive.writestr("Flicker8k_Dataset/", "")
        for name in pictures:
            archive.writestr(f"__MACOSX/Flicker8k_Dataset/._{name}", b"fork")
            archive.writestr(f"__MACOSX/Flicker8k_Dataset/{name}", b"fork")
            archive.writestr(f"Flicker8k_Dataset/{name}", f"pixels of {name}")
    if tokens is None:
        tokens = token_lines("a.jpg", "b.jpg", "c.jpg", "d.jpg")
    if isinstance(tokens, list):
        tokens = "".join(line + "\n" for line in tokens).encode()
    names = {"train": TRAIN, "dev": VAL, "test": TEST} | splits
    with zipfile.ZipFile(raw / "Flickr8k_text.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__MACOSX/Flickr8k.token.txt", "fork")
        archive.writestr(f"{folder}Flickr8k.token.txt", tokens)
        archive.writestr(f"{folder}readme.txt", "hello")
        for split, listed in names.items():
            if listed is not None:
                text = "".join(name + "\n" for name in listed)
                archive.writestr(f"{folder}Flickr_8k.{split}Images.txt", text)
    return raw


def read(raw: Path) -> tuple[list[Picture], list[Rejected]]:
    items = list(flickr.read(raw))
    pictures = [item for item in items if isinstance(item, Picture)]
    return pictures, [item for item in items if isinstance(item, Rejected)]


@pytest.mark.parametrize("folder", ["", "Flickr8k_text/"])
def test_pictures_in_the_order_of_the_split_files(tmp_path, folder):
    pictures, rejected = read(write_archives(tmp_path, folder=folder))
    assert rejected == []
    assert [(item.image_id, item.split) for item in pictures] == [
        ("c.jpg", "train"),
        ("a.jpg", "train"),
        ("d.jpg", "val"),
        ("b.jpg", "test"),
    ]
    assert pictures[0] == Picture(
        "c.jpg",
        "train",
        b"pixels of c.jpg",
        ("caption 0 of c.jpg .", "caption 1 of c.jpg ."),
    )


def test_captions_are_sorted_by_number_and_left_as_they_are(tmp_path):
    tokens = [
        "a.jpg#10\t  odd   blanks ,",
        "a.jpg#2\tü \u2028 x",
        "a.jpg#0\t.",
        *token_lines("b.jpg"),
    ]
    pictures, _ = read(write_archives(tmp_path, tokens=tokens, train=["a.jpg"], dev=[]))
    assert pictures[0].captions == (".", "ü \u2028 x", "  odd   blanks ,")


def test_windows_line_ends_byte_order_mark_and_blank_lines(tmp_path):
    tokens = "\ufeffa.jpg#0\tone\r\n\r\nb.jpg#0\ttwo\r\n\n".encode()
    raw = write_archives(tmp_path, tokens=tokens, train=["a.jpg\r", "", " "], dev=[])
    pictures, rejected = read(raw)
    assert [item.captions for item in pictures] == [("one",), ("two",)]
    assert rejected == []


def test_malformed_lines_are_rejected_by_number(tmp_path):
    good = token_lines("a.jpg", "b.jpg", "c.jpg", "d.jpg")
    bad = [
        "no tab at all",
        "a.jpg\tno number",
        "a.jpg#x\tnumber is no number",
        "a.jpg#3\t",
        "a.jpg#3\t   ",
        "#3\tno name",
    ]
    raw = write_archives(tmp_path, tokens=[good[0], *bad, *good[1:]])
    pictures, rejected = read(raw)
    assert len(pictures) == 4
    assert {item.reason for item in rejected} == {"caption malformed"}
    assert [item.image_id for item in rejected] == [
        f"Flickr8k.token.txt:{number}" for number in range(2, 8)
    ]
    assert rejected[0].detail == "line 2: no tab at all"


def test_a_line_that_is_no_utf8_is_rejected_alone(tmp_path):
    tokens = b"a.jpg#0\tcaf\xe9\na.jpg#1\tplain\n"
    pictures, rejected = read(write_archives(tmp_path, tokens=tokens, train=["a.jpg"]))
    assert pictures[0].captions == ("plain",)
    assert rejected[0].image_id == "Flickr8k.token.txt:1"


def test_repeated_caption_number(tmp_path):
    tokens = [*token_lines("a.jpg", "b.jpg", "c.jpg", "d.jpg"), "a.jpg#1\tagain"]
    pictures, rejected = read(write_archives(tmp_path, tokens=tokens))
    assert rejected == [Rejected("a.jpg", "caption repeated", "number 1: again")]
    assert len(pictures[1].captions) == 2


def test_caption_whose_picture_is_missing(tmp_path):
    """As in the published archive: a name that ends in .1, in no split and without a picture."""
    names = ("a.jpg", "b.jpg", "c.jpg", "d.jpg", "x.jpg.1")
    pictures, rejected = read(write_archives(tmp_path, tokens=token_lines(*names)))
    assert len(pictures) == 4
    assert [(item.image_id, item.reason) for item in rejected] == [
        ("x.jpg.1", "caption without a picture")
    ] * 2
    assert rejected[0].detail == "number 0: caption 0 of x.jpg.1 ."


def test_split_name_without_a_picture_or_without_captions(tmp_path):
    raw = write_archives(
        tmp_path,
        pictures=("a.jpg", "b.jpg", "d.jpg"),
        tokens=token_lines("b.jpg", "c.jpg", "d.jpg"),
    )
    pictures, rejected = read(raw)
    assert [item.image_id for item in pictures] == ["d.jpg", "b.jpg"]
    assert [(item.image_id, item.reason) for item in rejected] == [
        ("c.jpg", "caption without a picture"),
        ("c.jpg", "caption without a picture"),
        ("c.jpg", "picture missing"),
        ("a.jpg", "picture without captions"),
    ]
    assert rejected[2].detail == "named in Flickr_8k.trainImages.txt"


def test_pictures_outside_the_splits_are_left_out_and_counted(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    pictures, rejected = read(write_archives(tmp_path, train=["a.jpg"]))
    assert [item.image_id for item in pictures] == ["a.jpg", "d.jpg", "b.jpg"]
    assert rejected == []
    assert "1 captioned pictures are in no split" in caplog.text


def test_a_picture_damaged_in_the_archive_is_set_aside(tmp_path):
    raw = write_archives(tmp_path)
    path = raw / "Flickr8k_Dataset.zip"
    path.write_bytes(path.read_bytes().replace(b"pixels of a.jpg", b"pixxls of a.jpg"))
    pictures, rejected = read(raw)
    assert [item.image_id for item in pictures] == ["c.jpg", "d.jpg", "b.jpg"]
    assert rejected[0].reason == "picture damaged in the archive"
    assert "Bad CRC" in rejected[0].detail


def test_pictures_are_read_one_by_one(tmp_path, monkeypatch):
    read_members = []
    original = flickr.Archive.read
    monkeypatch.setattr(
        flickr.Archive, "read", lambda self, name: read_members.append(name) or original(self, name)
    )
    stream = flickr.read(write_archives(tmp_path))
    first = list(itertools.islice(stream, 1))
    stream.close()
    assert [item.image_id for item in first] == ["c.jpg"]
    assert [name for name in read_members if name.endswith(".jpg")] == ["Flicker8k_Dataset/c.jpg"]


def test_missing_archives_and_members(tmp_path):
    with pytest.raises(CaptionerError, match=r"Flickr8k_Dataset\.zip: no such archive"):
        read(tmp_path)
    with pytest.raises(
        CaptionerError, match=r"Flickr8k_text\.zip: has no Flickr_8k\.devImages\.txt"
    ):
        read(write_archives(tmp_path, dev=None))
    (tmp_path / "Flickr8k_text.zip").write_bytes(b"<html>")
    with pytest.raises(CaptionerError, match=r"Flickr8k_text\.zip: damaged, or no zip archive"):
        read(tmp_path)


def test_the_real_archives(shared):
    """The practice copy: 6,000 + 500 + 500 pictures of 5 captions, and a name without a picture."""
    stream = flickr.read(shared / "data" / "flickr8k")
    first = list(itertools.islice(stream, 6))
    stream.close()
    assert [(item.image_id, item.reason) for item in first[:5]] == [
        ("2258277193_586949ec62.jpg.1", "caption without a picture")
    ] * 5
    assert (first[5].image_id, first[5].split) == ("2513260012_03d33305cf.jpg", "train")
    assert len(first[5].captions) == 5
    assert first[5].data.startswith(b"\xff\xd8")
