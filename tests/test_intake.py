"""Limits on what is rejected, the table of it, and the contact sheet."""

import csv
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from captioner import CaptionerError
from captioner.datasets import Picture, Rejected
from captioner.images import write_shards
from captioner.intake import check_intake, contact_sheet, with_words, write_rejected
from captioner.words import words_of

COUNTS = {
    "pictures_train": 97,
    "pictures_val": 1,
    "pictures_test": 1,
    "captions": 495,
    "rejected_pictures": 1,
    "rejected_captions": 5,
}
BAD = [Rejected("a", "picture missing")] + [Rejected("b", "caption malformed")] * 5


def test_exactly_the_limit_is_allowed():
    check_intake(COUNTS, BAD, 0.01)  # 1 of 100 pictures, 5 of 500 captions


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rejected_pictures": 2}, r"2 of 101 pictures rejected.*max_rejected \(0\.01\)"),
        ({"rejected_captions": 6}, "6 of 501 captions rejected"),
    ],
)
def test_more_than_the_limit_stops_with_the_reasons(change, message):
    with pytest.raises(CaptionerError, match=message) as caught:
        check_intake(COUNTS | change, BAD, 0.01)
    assert "caption malformed (5), picture missing (1)" in str(caught.value)
    assert "reports/preprocess/rejected.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_empty_split_stops(split):
    counts = dict.fromkeys(COUNTS, 0) | {f"pictures_{s}": 5 for s in ("train", "val", "test")}
    check_intake(counts, [], 0.01)
    with pytest.raises(CaptionerError, match=f"split {split}: no picture left"):
        check_intake(counts | {f"pictures_{split}": 0}, [], 0.01)


def test_nothing_at_all_stops():
    with pytest.raises(CaptionerError, match="split train: no picture left"):
        check_intake(dict.fromkeys(COUNTS, 0), [], 0.01)


@pytest.mark.parametrize(
    ("caption", "split_characters", "has_a_word"),
    [
        ("...", False, False),
        ("\N{DOG}", False, False),
        (" \N{EM DASH} ", False, False),
        ("\N{ZERO WIDTH SPACE}", True, False),
        ("\u4e00\u53ea\u9ed1\u72d7", False, True),  # Chinese: one word of four characters,
        ("\u4e00\u53ea\u9ed1\u72d7", True, True),  # or four
        ("\U000282cb", False, False),  # a character that the reference's tokenizer drops,
        ("\U000282cb", True, True),  # and that is a word where characters are
        ("7", False, True),
        ("a dog \N{DOG}", False, True),
    ],
)
def test_a_caption_is_rejected_where_the_tokenizer_finds_no_word(
    caption, split_characters, has_a_word
):
    assert bool(words_of(caption, split_characters)) == has_a_word
    first = Picture("a.png", "train", b"", ("a dog", caption, "a cat"))
    alone = Picture("b.png", "val", b"", (caption,))
    found = list(with_words([Rejected("c", "odd"), first, alone], split_characters))
    if has_a_word:
        assert found == [Rejected("c", "odd"), first, alone]
        return
    assert found == [
        Rejected("c", "odd"),
        Rejected("a.png", "caption without words", repr(caption)),
        Picture("a.png", "train", b"", ("a dog", "a cat")),
        Rejected("b.png", "caption without words", repr(caption)),
        Rejected("b.png", "picture without captions", "split val, no caption has a word"),
    ]


def test_rejected_table_is_there_without_rows(tmp_path):
    write_rejected(tmp_path / "reports" / "rejected.csv", [])
    assert (tmp_path / "reports" / "rejected.csv").read_bytes() == b"image_id,reason,detail\n"


def test_rejected_table_survives_awkward_text_and_spreadsheets(tmp_path):
    texts = {
        "=1+1": "'=1+1",
        "+1": "'+1",
        "-1": "'-1",
        "@x": "'@x",
        " =1+1": "' =1+1",
        "\tx": "' x",
        "\r\n=1": "' =1",
        "plain = + - @": "plain = + - @",
        'a "b", c\nd': 'a "b", c d',
        "Größe": "Größe",
        "\udc80": "?",
        "": "",
    }
    write_rejected(tmp_path / "rejected.csv", [Rejected(text, "why", text) for text in texts])
    with (tmp_path / "rejected.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert rows == [[text, "why", text] for text in texts.values()]
    assert len(pd.read_csv(tmp_path / "rejected.csv")) == len(texts)


def test_contact_sheet_shows_each_split(tmp_path):
    """Red, green and blue splits: three rows of pictures of these colours, on white."""

    def pictures():
        splits = {"train": ("red", 9), "val": ("lime", 2), "test": ("blue", 1)}
        for split, (colour, count) in splits.items():
            for number in range(count):
                stream = io.BytesIO()
                Image.new("RGB", (32, 32), colour).save(stream, "PNG")
                texts = (f"a {colour} square, number {number} " + "very " * 50,)
                yield Picture(f"{split}{number}", split, stream.getvalue(), texts)

    captions, _, _ = write_shards(
        pictures(), tmp_path / "images", size=32, fit="pad", jpeg_quality=95, max_pixels=2000
    )
    for name in ("sheet.png", "again.png"):
        contact_sheet(tmp_path / "images", captions, tmp_path / name, columns=4, side=50)
    assert (tmp_path / "sheet.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet).astype(int)
    # Texts stay below their own picture: the gaps between the columns are white.
    assert all((pixels[:, 58 * column : 58 * column + 7] == 255).all() for column in range(5))
    areas = {}
    for name, colour in {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255)}.items():
        areas[name] = int((np.abs(pixels - colour).max(2) < 20).sum()) / 50**2
    assert areas == {"red": 4, "lime": 2, "blue": 1}
    assert (pixels.max(2) < 100).sum() > 200  # black letters
