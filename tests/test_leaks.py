"""Pictures and captions in two splits: found, counted, listed, drawn, and a reason to stop."""

import csv
import hashlib
import io
from itertools import product

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from captioner import CaptionerError, leaks
from captioner.datasets import Picture
from captioner.images import CAPTION_SCHEMA, read_pictures, write_shards
from captioner.leaks import COLUMNS, Leak, check_leaks, draw_leaks, find_leaks, summary, write_leaks

NO_CAPTIONS = CAPTION_SCHEMA.empty_table()
GREY = 128


def landscape(seed: int, side: int = 96) -> Image.Image:
    """A picture of fields of random colours, another one for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.NEAREST)


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def stored(folder, *pictures: tuple[str, str, bytes]) -> pd.DataFrame:
    """The table of pictures (image_id, split, file) that went through the shards."""
    items = [Picture(image_id, split, data, ("a",)) for image_id, split, data in pictures]
    write_shards(items, folder, size=64, fit="squash", jpeg_quality=92, max_pixels=10**6)
    return read_pictures(folder, COLUMNS)


def row(image_id: str, split: str, data: int, pattern: int = 0, colour: int = GREY) -> tuple:
    """A picture by hand: its bytes, its 256 bits of pattern, its only colour."""
    digest = hashlib.sha256(bytes([data])).hexdigest()
    return image_id, split, digest, (pattern.to_bytes(32, "big") + bytes([colour] * 48)).hex()


def found(*rows: tuple) -> list[Leak]:
    return find_leaks(pd.DataFrame(rows, columns=COLUMNS), NO_CAPTIONS)[0]


def captions(**texts: list[str]) -> pa.Table:
    rows = [
        {"image_id": "p", "split": split, "picture": 0, "caption_id": 0, "caption": text}
        for split, texts_ in texts.items()
        for text in texts_
    ]
    return pa.Table.from_pylist(rows, schema=CAPTION_SCHEMA)


# --- pictures ----------------------------------------------------------------------------------


def test_same_bytes_a_copy_encoded_anew_and_other_pictures(tmp_path):
    small = landscape(2).resize((80, 70), Image.Resampling.BICUBIC)
    table = stored(
        tmp_path,
        ("one", "train", encode(landscape(1))),
        ("two", "train", encode(landscape(2))),
        ("three", "train", encode(landscape(3))),
        ("four", "val", encode(small, "JPEG", quality=85)),
        ("five", "test", encode(landscape(1))),
        ("six", "test", encode(landscape(6))),
    )
    pairs, counts = find_leaks(table, NO_CAPTIONS)
    assert pairs == [
        Leak("same bytes", "test", "five", "train", "one"),
        Leak("looks the same", "val", "four", "train", "two"),
    ]
    assert counts["leaked_pictures_same_bytes"] == counts["leaked_pictures_same_hash"] == 1


def test_the_same_drawing_in_other_colours_is_another_picture(tmp_path):
    """A shoe in green and in black: the patterns of light and dark are nearly equal."""

    def shoe(colour: str) -> bytes:
        image = Image.new("RGB", (64, 64), "white")
        image.paste(colour, (10, 30, 50, 50))
        image.paste(colour, (20, 12, 28, 30))
        return encode(image)

    table = stored(tmp_path, ("g", "train", shoe("green")), ("b", "test", shoe("black")))
    assert find_leaks(table, NO_CAPTIONS)[0] == []
    table = stored(tmp_path, ("g", "train", shoe("green")), ("h", "test", shoe("#048204")))
    assert [leak.image_id for leak in find_leaks(table, NO_CAPTIONS)[0]] == ["h"]


def test_twice_within_one_split_is_no_leak():
    assert found(row("a", "train", 1), row("b", "train", 1), row("c", "val", 2, -1 % 2**256)) == []


@pytest.mark.parametrize(
    ("bits", "colour", "alike"),
    [(0, 0, True), (16, 12, True), (17, 0, False), (0, 13, False), (256, 0, False)],
)
@pytest.mark.parametrize("end", ["first", "last"])
def test_the_limits(bits, colour, alike, end):
    pattern = 2**bits - 1 << (256 - bits if end == "first" else 0)
    pair = row("a", "train", 1), row("b", "test", 2, pattern, GREY + colour)
    assert bool(found(*pair)) == alike


def test_one_pair_a_picture_and_earlier_split_the_nearest():
    """Bytes before hashes, few bits before many, then the first image_id."""
    assert found(
        row("t1", "train", 1, pattern=0b1),
        row("t2", "train", 2, pattern=0b11),
        row("t3", "train", 3, pattern=0b111),
        row("t0", "train", 3, pattern=0b111),
        row("v", "val", 4, pattern=0b11),
        row("x", "test", 3, pattern=0b0),
        row("y", "test", 9, pattern=0b11111),
    ) == [
        Leak("same bytes", "test", "x", "train", "t0"),
        Leak("looks the same", "test", "x", "val", "v"),
        Leak("looks the same", "test", "y", "train", "t0"),
        Leak("looks the same", "test", "y", "val", "v"),
        Leak("looks the same", "val", "v", "train", "t2"),
    ]


def test_pictures_of_val_and_test_are_counted_once_against_train():
    table = [row("t", "train", 1), row("v", "val", 1), row("x", "test", 1), row("y", "test", 2)]
    pairs, counts = find_leaks(pd.DataFrame(table, columns=COLUMNS), NO_CAPTIONS)
    assert len(pairs) == 5  # x and y are in val, too
    assert counts["leaked_pictures_same_bytes"] == 2
    assert counts["leaked_pictures_same_hash"] == 1


@pytest.mark.parametrize("at_once", [1, 7, 2**19])
def test_any_order_and_any_portion_find_what_plain_loops_find(monkeypatch, at_once):
    """60 pictures whose patterns differ in few bits and whose colours are near one another."""
    monkeypatch.setattr(leaks, "PAIRS", at_once)
    rng = np.random.default_rng(5)
    rows = [
        row(
            f"p{number:02d}",
            ["train", "val", "test"][number % 3],
            number,
            sum(1 << int(bit) for bit in rng.choice(256, rng.integers(4, 14), replace=False)),
            GREY + int(rng.integers(0, 20)),
        )
        for number in range(60)
    ]
    expected = {}
    for one, other in product(rows, rows):
        later, earlier = (["train", "val", "test"].index(r[1]) for r in (one, other))
        bits = (int(one[3][:64], 16) ^ int(other[3][:64], 16)).bit_count()
        shift = abs(int(one[3][-2:], 16) - int(other[3][-2:], 16))
        if later > earlier and bits <= 16 and shift <= 12:
            key = one[1], one[0], other[1]
            expected[key] = min(expected.get(key, (999, "")), (bits, other[0]))
    assert 20 < len(expected) < 80
    for _ in range(3):
        rng.shuffle(rows)
        pairs = found(*map(tuple, rows))
        assert {(p.split, p.image_id, p.other_split): p.other_image_id for p in pairs} == {
            key: image_id for key, (_, image_id) in expected.items()
        }
        assert pairs == sorted(pairs)


# --- captions ----------------------------------------------------------------------------------


def test_captions_are_compared_as_the_metrics_see_them():
    table = captions(
        train=["A dog runs .", "a dog runs", "Two cats!", "."],
        val=["a bird sings"],
        test=["a Dog runs", "two cats", "a bird sings", "a dog ran", "a dog runs."],
    )
    pairs, counts = find_leaks(pd.DataFrame([], columns=COLUMNS), table)
    assert pairs == []
    assert counts == {
        "leaked_pictures_same_bytes": 0,
        "leaked_pictures_same_hash": 0,
        "leaked_captions_test": 3,
        "leaked_captions_test_share": 0.6,
    }
    assert summary(counts, table) == (
        "leaks: 0 pictures of val or test have the bytes of a training picture, 0 look the same; "
        "3 of 5 test captions are also training captions"
    )
    mixed = table.take([8, 3, 5, 0, 2, 9, 7, 1, 6, 4])
    assert find_leaks(pd.DataFrame([], columns=COLUMNS), mixed)[1] == counts


def test_captions_without_a_word_are_no_leak():
    table = captions(train=[".", ""], test=[".", "", "!"])
    counts = find_leaks(pd.DataFrame([], columns=COLUMNS), table)[1]
    assert counts["leaked_captions_test"] == 0


# --- what is done about it ---------------------------------------------------------------------

SAME = [Leak("same bytes", "test", f"t{number}.jpg", "train", "a.jpg") for number in range(5)]
ALIKE = [Leak("looks the same", "val", "v.jpg", "train", "b.jpg")]


def test_same_bytes_stop_with_count_pairs_list_and_remedy():
    with pytest.raises(CaptionerError) as caught:
        check_leaks(SAME + ALIKE, allow=False)
    assert str(caught.value) == (
        "pictures with the same bytes in two splits: 5 (test 't0.jpg' = train 'a.jpg', "
        "test 't1.jpg' = train 'a.jpg', test 't2.jpg' = train 'a.jpg', ...); see "
        "reports/preprocess/leaks.csv, then remove them from one split, or set "
        "preprocess.allow_leaks: true in params.yaml"
    )


def test_what_does_not_stop():
    check_leaks(SAME, allow=True)
    check_leaks(ALIKE, allow=False)
    check_leaks([], allow=False)


def test_val_and_test_that_share_a_picture_stop_too():
    pairs = found(row("v", "val", 1), row("x\n", "test", 1))
    with pytest.raises(CaptionerError, match=r"two splits: 1 \(test 'x\\n' = val 'v'\)"):
        check_leaks(pairs, allow=False)


def test_the_list_has_a_header_always_and_no_formulas(tmp_path):
    write_leaks(tmp_path / "leaks.csv", [])
    header = ["kind", "split", "image_id", "other_split", "other_image_id"]
    assert (tmp_path / "leaks.csv").read_text() == ",".join(header) + "\n"
    write_leaks(tmp_path / "leaks.csv", [Leak("same bytes", "test", "=1+1", "train", "a\n,b")])
    with (tmp_path / "leaks.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [header, ["same bytes", "test", "'=1+1", "train", "a ,b"]]


def test_the_figure_shows_pairs_side_by_side(tmp_path):
    """A red and a blue picture in two pairs: two areas of each colour, at most as many as asked."""
    colours = {"r": "red", "b": "blue"}
    splits = {"r": "train", "b": "test"}
    files = {name: encode(Image.new("RGB", (32, 32), colour)) for name, colour in colours.items()}
    stored(tmp_path / "images", *((name, splits[name], files[name]) for name in "rb"))
    pairs = [Leak("looks the same", "test", "b", "train", "r")] * 2
    for most, areas in ((12, 2), (1, 1)):
        draw_leaks(tmp_path / "images", pairs, tmp_path / "leaks.png", most=most, side=50)
        with Image.open(tmp_path / "leaks.png") as figure:
            pixels = np.asarray(figure).astype(int)
        for colour in ((255, 0, 0), (0, 0, 255)):
            assert (np.abs(pixels - colour).max(2) < 20).sum() == areas * 50**2
        assert (pixels.max(2) < 100).sum() > 50  # black letters


def test_no_figure_without_pairs(tmp_path):
    draw_leaks(tmp_path / "images", [], tmp_path / "leaks.png")
    assert list(tmp_path.iterdir()) == []
