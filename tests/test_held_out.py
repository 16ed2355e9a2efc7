"""held_out.py: the test split beside what its captions are compared with; truth where known."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from captioner.datasets import Picture
from captioner.datasets.scene_captions import captions
from captioner.datasets.scene_drawing import sample_facts
from captioner.held_out import nearest_rows, read_held_out
from captioner.images import write_shards, write_table


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (32, 32)).save(stream, "PNG")
    return stream.getvalue()


def read(folder, pictures, pooled):
    table, _, _ = write_shards(
        pictures, folder / "images", size=32, fit="pad", jpeg_quality=90, max_pixels=2000
    )
    write_table(table, folder / "captions.parquet")
    np.save(folder / "pooled.npy", np.array(pooled, np.float16))
    return read_held_out(folder / "captions.parquet", folder / "images", folder / "pooled.npy")


@pytest.fixture
def digits(tmp_path):
    """Two pictures of training, one of validation, two of test."""
    rows = [
        ("a", "train", ("a seven", "seven"), "7"),
        ("b", "train", ("an eight",), "8"),
        ("c", "val", ("a nine",), "9"),
        ("d", "test", ("an eight", "an 8"), "8"),
        ("e", "test", ("a seven",), "7"),
    ]
    pictures = [
        Picture(image_id, split, png(), texts, {"digit": digit})
        for image_id, split, texts, digit in rows
    ]
    # What is most like d is the picture of validation, which is none to look up in.
    return read(tmp_path, pictures, [[1, 0], [1, 2], [0, 1], [0, 2], [5, 1]])


def test_the_test_split_and_its_neighbours(digits):
    assert digits.rows.tolist() == [3, 4]
    assert digits.pictures["image_id"].tolist() == ["d", "e"]
    assert digits.pictures["split"].tolist() == ["test", "test"]
    assert digits.references == [["an eight", "an 8"], ["a seven"]]
    assert digits.nearest["image_id"].tolist() == ["b", "a"]
    assert digits.nearest["caption"].tolist() == ["an eight", "a seven"]
    assert digits.training_captions == ["a seven", "seven", "an eight"]


def test_truth_is_asked_of_the_data_set(digits):
    truthful = digits.truth("mnist")["truthful"]
    assert truthful(["a handwritten eight", "an eight"]).tolist() == [1, 0]
    assert truthful(["the number 8", "a 7"]).tolist() == [1, 1]


@pytest.mark.parametrize("source", ["table", "flickr8k", "flickr30k", "coco"])
def test_columns_of_a_table_and_photographs_know_no_truth(digits, source):
    assert digits.truth(source) == {}


def test_scenes_are_checked_by_the_parser(tmp_path):
    rng = np.random.default_rng(2)
    facts = [sample_facts(rng) for _ in range(4)]
    said = [captions(one, rng) for one in facts]
    pictures = [
        Picture(str(i), split, png(), said[i], facts[i])
        for i, split in enumerate(["train", "test", "test", "test"])
    ]
    test = read(tmp_path, pictures, np.eye(4))
    assert [json.loads(one) for one in test.pictures["facts"]] == facts[1:]
    truthful = test.truth("scenes")["truthful"]
    assert truthful([texts[0] for texts in said[1:]]).tolist() == [1, 1, 1]
    assert truthful(["no sentence", said[2][0], "two of them"]).tolist() == [0, 1, 0]


def test_the_nearest_picture_is_that_of_the_smallest_angle():
    features = np.array([[1, 0], [0, 5], [3, 3], [9, 1], [0.1, 0.2], [0, 0]], np.float16)
    found = nearest_rows(features, np.array([0, 1, 2]), np.array([3, 4, 5]))
    assert found.tolist() == [0, 2, 0]  # (0.1, 0.2) is nearer to the diagonal; of equals the first
    many = np.random.default_rng(0).normal(size=(1300, 8)).astype(np.float16)
    among, rows = np.arange(600), np.arange(600, 1300)
    unit = many.astype(float) / np.linalg.norm(many.astype(float), axis=1, keepdims=True)
    assert (
        nearest_rows(many, among, rows).tolist() == (unit[rows] @ unit[among].T).argmax(1).tolist()
    )
