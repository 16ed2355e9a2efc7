"""Parquet shards of pictures: written, read back, decoded in batches."""

import hashlib
import io
import json
import threading

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from captioner import CaptionerError, images
from captioner.datasets import Picture, Rejected
from captioner.images import batches, jpegs, read_pictures, write_shards, write_table
from captioner.raster import decode

OPTIONS = {"size": 8, "fit": "squash", "jpeg_quality": 92, "max_pixels": 1000}


def picture(number: int, split: str = "train", captions: int = 2, **more) -> Picture:
    """The picture `number` is grey of that value."""
    stream = io.BytesIO()
    Image.new("RGB", (10, 6), (number,) * 3).save(stream, "PNG")
    texts = tuple(f"picture {number} caption {caption}" for caption in range(captions))
    return Picture(f"p{number}", split, stream.getvalue(), texts, **more)


def values(pixels: np.ndarray) -> list[int]:
    """The numbers of the pictures in a batch."""
    return pixels[:, 0, 0, 0].tolist()


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(images, "SHARD_SIZE", 4)
    monkeypatch.setattr(images, "ROW_GROUP", 2)


def test_rows_are_as_the_format_says(tmp_path):
    source = [
        picture(7, facts={"shape": "star", "count": 2}),
        picture(8, "val", captions=1),
        picture(9, "test", captions=3),
    ]
    captions, rejected, counts = write_shards(source, tmp_path / "images", **OPTIONS)
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["part-00000.parquet"]
    table = pd.read_parquet(tmp_path / "images")  # pandas reads the folder as one table
    assert table["image_id"].tolist() == ["p7", "p8", "p9"]
    assert table["split"].tolist() == ["train", "val", "test"]
    assert [decode(jpeg)[0, 0].tolist() for jpeg in table["jpeg"]] == [[n] * 3 for n in (7, 8, 9)]
    assert set(table["width"]) == set(table["height"]) == {8}
    assert (table["original_width"][0], table["original_height"][0]) == (10, 6)
    assert str(table["original_width"].dtype) == "int32"
    assert table["sha256"][1] == hashlib.sha256(source[1].data).hexdigest()
    # no pattern in one grey, and the grey of 16 fields
    assert table["perceptual_hash"].tolist() == ["00" * 32 + f"{n:02x}" * 48 for n in (7, 8, 9)]
    assert json.loads(table["facts"][0]) == {"shape": "star", "count": 2}
    assert table["facts"].isna().tolist() == [False, True, True]

    assert rejected == []
    assert counts == {
        "pictures_train": 1,
        "pictures_val": 1,
        "pictures_test": 1,
        "captions": 6,
        "rejected_pictures": 0,
        "rejected_captions": 0,
    }
    assert captions.column_names == ["image_id", "split", "picture", "caption_id", "caption"]
    assert [tuple(row.values()) for row in captions.to_pylist()] == [
        ("p7", "train", 0, 0, "picture 7 caption 0"),
        ("p7", "train", 0, 1, "picture 7 caption 1"),
        ("p8", "val", 1, 0, "picture 8 caption 0"),
        ("p9", "test", 2, 0, "picture 9 caption 0"),
        ("p9", "test", 2, 1, "picture 9 caption 1"),
        ("p9", "test", 2, 2, "picture 9 caption 2"),
    ]


@pytest.mark.usefixtures("small_shards")
def test_shards_keep_the_order_and_read_back(tmp_path):
    folder = tmp_path / "images"
    write_shards(map(picture, range(11)), folder, **OPTIONS, workers=3)
    assert sorted(path.name for path in folder.iterdir()) == [
        f"part-0000{number}.parquet" for number in range(3)
    ]
    assert [pq.read_metadata(path).num_rows for path in sorted(folder.iterdir())] == [4, 4, 3]
    table = read_pictures(folder, ["image_id", "width"])
    assert table.columns.tolist() == ["image_id", "width"]
    assert table.index.tolist() == list(range(11))
    assert table["image_id"].tolist() == [f"p{number}" for number in range(11)]
    assert [decode(jpeg)[0, 0, 0] for jpeg in jpegs(folder)] == list(range(11))


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("batch_size", [1, 3, 5, 11, 40])
@pytest.mark.parametrize("workers", [1, 4])
def test_batches_cover_all_pictures_in_order(tmp_path, batch_size, workers):
    write_shards(map(picture, range(11)), tmp_path / "images", **OPTIONS)
    seen = []
    for first, pixels in batches(tmp_path / "images", batch_size, workers):
        assert first == len(seen)
        assert pixels.shape[1:] == (8, 8, 3)
        assert pixels.dtype == np.uint8
        assert len(pixels) == min(batch_size, 11 - first)
        seen += values(pixels)
        pixels[:] = 0  # a consumer may write into its batch
    assert seen == list(range(11))


def test_what_is_bad_is_listed_and_does_not_shift_the_numbers(tmp_path):
    source = [
        picture(1),
        Rejected("line 3", "caption malformed", "no tab"),
        Picture("broken", "train", picture(2).data[:40], ("a", "b")),
        Picture("huge", "train", _png(40, 26), ("a",)),
        picture(3),
        picture(1, "val"),
        Rejected("gone", "picture missing", "named in a split"),
        picture(4, "val", captions=1),
    ]
    captions, rejected, counts = write_shards(source, tmp_path / "images", **OPTIONS)
    assert [(item.image_id, item.reason) for item in rejected] == [
        ("line 3", "caption malformed"),
        ("broken", "picture undecodable"),
        ("huge", "picture too large"),
        ("p1", "picture repeated"),
        ("gone", "picture missing"),
    ]
    assert rejected[3].detail == "already in train"
    assert "40 x 26" in rejected[2].detail
    assert counts == {
        "pictures_train": 2,
        "pictures_val": 1,
        "pictures_test": 0,
        "captions": 5,
        "rejected_pictures": 4,
        "rejected_captions": 1,
    }
    assert captions.column("picture").to_pylist() == [0, 0, 1, 1, 2]
    assert read_pictures(tmp_path / "images", ["image_id"])["image_id"].tolist() == [
        "p1",
        "p3",
        "p4",
    ]


def _png(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (width, height)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.usefixtures("small_shards")
def test_same_pictures_same_bytes(tmp_path):
    rng = np.random.default_rng(1)
    source = []
    for number in range(9):
        stream = io.BytesIO()
        noise = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(noise).save(stream, "PNG")
        facts = {"b": number, "a": [1, 2]}
        source.append(Picture(f"p{number}", "train", stream.getvalue(), ("x", "y"), facts))
    written = []
    for workers in (1, 4):
        folder = tmp_path / str(workers)
        captions, _, _ = write_shards(source, folder, **OPTIONS, workers=workers)
        write_table(captions, folder / "captions.parquet")
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert len(written[0]) == 4
    assert written[0] == written[1]


def test_splits_in_another_order_are_a_bug_of_the_reader(tmp_path):
    with pytest.raises(ValueError, match="p2: train after a later split"):
        write_shards([picture(1, "val"), picture(2, "train")], tmp_path / "images", **OPTIONS)


def test_an_error_half_way_leaves_the_old_folder_alone(tmp_path):
    folder = tmp_path / "images"
    write_shards([picture(5)], folder, **OPTIONS)

    def failing():
        yield from map(picture, range(100))
        raise CaptionerError("the archive is damaged")

    with pytest.raises(CaptionerError, match="the archive is damaged"):
        write_shards(failing(), folder, **OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
    assert read_pictures(folder, ["image_id"])["image_id"].tolist() == ["p5"]
    write_shards([picture(6)], folder, **OPTIONS)  # and a whole run replaces it
    assert read_pictures(folder, ["image_id"])["image_id"].tolist() == ["p6"]


def test_reading_ahead_is_bounded(tmp_path):
    """However slow the consumer is, no more than 16 items for each worker are under way."""
    taken = 0

    def items():
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield number

    results = images._in_order(lambda number: number * 2, items(), workers=2)
    assert [next(results) for _ in range(5)] == [0, 2, 4, 6, 8]
    assert taken == 5 + 32
    results.close()
    assert taken == 5 + 32


def test_a_consumer_that_stops_early_leaves_no_threads(tmp_path):
    write_shards(map(picture, range(50)), tmp_path / "images", **OPTIONS)
    before = threading.active_count()
    reader = batches(tmp_path / "images", 2, workers=3)
    next(reader)
    reader.close()
    assert threading.active_count() == before


def test_no_shards(tmp_path):
    with pytest.raises(CaptionerError, match=r"no pictures.*run the stage preprocess"):
        read_pictures(tmp_path, ["image_id"])
    with pytest.raises(CaptionerError, match="no pictures"):
        next(batches(tmp_path, 4))
