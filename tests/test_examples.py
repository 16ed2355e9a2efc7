"""examples.py: captions grouped by picture, mirror images, random batches."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioner.examples import (
    Examples,
    captions_by_picture,
    read_examples,
    read_features,
    read_references,
    shuffled_batches,
)
from captioner.text import END, PAD, START

CAPTIONS = np.array(
    [
        [START, 4, END, PAD],  # of picture 0
        [START, 5, END, PAD],  # of picture 2
        [START, 5, 6, END],
        [START, 7, END, PAD],
        [START, 8, END, PAD],  # of picture 3
    ],
    np.uint16,
)
PICTURES = np.array([0, 2, 2, 2, 3], np.int32)


def test_captions_are_grouped_by_picture_and_filled_up_with_padding():
    grouped = captions_by_picture(CAPTIONS, PICTURES, np.array([0, 2]))
    nothing = [PAD] * 4
    assert grouped.tolist() == [
        [[START, 4, END, PAD], nothing, nothing],
        [[START, 5, END, PAD], [START, 5, 6, END], [START, 7, END, PAD]],
    ]
    assert grouped.dtype == np.uint16


def test_pictures_of_other_splits_and_without_captions_do_not_shift_the_rest():
    grouped = captions_by_picture(CAPTIONS, PICTURES, np.array([1, 3]))
    assert grouped.tolist() == [[[PAD] * 4], [[START, 8, END, PAD]]]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.data())
def test_grouping_loses_and_invents_no_caption(counts, data):
    pictures = np.repeat(np.arange(len(counts)), counts)
    captions = np.arange(4, 4 + len(pictures))[:, None]
    rows = np.flatnonzero([data.draw(st.booleans()) for _ in counts])
    grouped = captions_by_picture(captions, pictures, rows)
    for row, group in zip(rows, grouped, strict=True):
        assert group[group != PAD].tolist() == captions[pictures == row].ravel().tolist()


@given(st.integers(0, 40), st.integers(1, 9), st.integers(0, 99))
def test_an_epoch_holds_every_picture_once_in_batches_of_one_size(pictures, size, seed):
    plan = list(shuffled_batches(pictures, size, np.random.default_rng(seed)))
    assert sorted(number for chosen in plan for number in chosen) == list(range(pictures))
    assert all(len(chosen) == size for chosen in plan[:-1])
    assert all(1 <= len(chosen) <= size for chosen in plan)
    assert all(chosen.tolist() == sorted(chosen) for chosen in plan)


def test_order_comes_from_the_generator_alone():
    def plan(*seed):
        rng = np.random.default_rng(seed)
        return [chosen.tolist() for chosen in shuffled_batches(30, 4, rng)]

    first = plan(1, 0)
    np.random.seed(5)  # noqa: NPY002  (whatever else drew numbers before)
    list(shuffled_batches(30, 3, np.random.default_rng(7)))
    assert plan(1, 0) == first
    assert plan(1, 1) != first
    assert first[0] != [0, 1, 2, 3]


def numbered(pictures: int) -> Examples:
    """Every second row of all; features hold the row, those of mirror images it below zero."""
    rows = np.arange(0, 2 * pictures, 2)
    features = np.arange(2 * pictures, dtype=np.float16)[:, None, None] * np.ones((1, 2, 3))
    names = rows.astype(str)
    return Examples(features, rows, names, np.zeros((pictures, 1, 4)), -features[rows] - 1)


def test_features_are_those_of_the_chosen_rows():
    examples = numbered(5)
    for rng in (None, np.random.default_rng(1)):
        loaded = replace(examples, mirrored=None).load(np.array([1, 4]), rng)
        assert loaded.shape == (2, 2, 3)
        assert loaded[:, 1, 2].tolist() == [2, 8]
    assert examples.load(np.array([1, 4]))[:, 0, 0].tolist() == [2, 8]  # without chance no mirror


def test_a_mirrored_picture_is_its_own_mirror_image_and_the_original_stays():
    examples = numbered(200)
    chosen = np.arange(0, 200, 2)
    original = examples.features.copy()
    loaded = examples.load(chosen, np.random.default_rng(1))[:, 0, 0]
    turned = loaded < 0
    assert 25 < turned.sum() < 75  # five standard deviations
    np.testing.assert_array_equal(np.where(turned, -1 - loaded, loaded), 2 * chosen)
    again = examples.load(chosen, np.random.default_rng(1))[:, 0, 0]
    np.testing.assert_array_equal(again, loaded)
    np.testing.assert_array_equal(examples.features, original)


@pytest.fixture
def stored(tmp_path):
    """What the stages features and tokenize leave: four pictures, of which 0 and 2 train."""
    np.save(tmp_path / "grid.npy", np.arange(4 * 2 * 3, dtype=np.float16).reshape(4, 2, 3))
    np.save(tmp_path / "pooled.npy", np.arange(4 * 3, dtype=np.float16).reshape(4, 3))
    np.save(tmp_path / "captions.npy", CAPTIONS)
    np.save(tmp_path / "pictures.npy", PICTURES)
    split = ["train", "val", "train", "test"]
    pd.DataFrame({"image_id": list("abcd"), "split": split}).to_parquet(tmp_path / "index.parquet")
    return tmp_path


def test_features_are_mapped_and_pooled_ones_are_one_cell(stored):
    grid, pooled = (read_features(stored, attention) for attention in ("grid", "pooled"))
    assert isinstance(grid, np.memmap)
    assert grid.shape == (4, 2, 3)
    assert pooled.shape == (4, 1, 3)
    assert pooled[2, 0].tolist() == [6, 7, 8]


def test_examples_of_a_split(stored):
    features = read_features(stored, "grid")
    examples = read_examples(features, stored / "index.parquet", stored, "train")
    assert examples.features is features
    assert examples.rows.tolist() == [0, 2]
    assert examples.names.tolist() == ["a", "c"]
    assert examples.tokens[:, 0].tolist() == [[START, 4, END, PAD], [START, 5, END, PAD]]
    assert examples.tokens.shape == (2, 3, 4)
    assert examples.mirrored is None
    loaded = examples.load(np.array([1]))
    assert loaded.tolist() == [[[12, 13, 14], [15, 16, 17]]]
    assert loaded.dtype == np.float16
    assert not isinstance(loaded, np.memmap)  # it has left the disk


def test_mirror_images_of_a_split_stand_in_its_order(stored):
    features = read_features(stored, "grid")
    np.save(stored / "mirrored.npy", 100 + features[[0, 2]])
    mirrored = np.load(stored / "mirrored.npy", mmap_mode="r")
    examples = read_examples(features, stored / "index.parquet", stored, "train", mirrored)
    seen = {tuple(examples.load(np.array([1]), np.random.default_rng(n))[0, 0]) for n in range(20)}
    assert seen == {(12, 13, 14), (112, 113, 114)}


def test_references_come_by_picture_in_the_order_of_the_table(tmp_path):
    table = pd.DataFrame(
        {
            "split": ["val", "train", "val", "val"],
            "picture": np.array([2, 3, 7, 7], np.int32),
            "caption": ["a dog", "no", "z first", "a second"],
        }
    )
    table.to_parquet(tmp_path / "captions.parquet")
    references = read_references(tmp_path / "captions.parquet", "val")
    assert references.to_dict() == {2: ["a dog"], 7: ["z first", "a second"]}
