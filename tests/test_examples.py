"""examples.py: captions grouped by picture, batches of like length."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioner.examples import (
    LENGTH_STEP,
    batches,
    captions_by_picture,
    read_examples,
    read_features,
    read_references,
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


def padded(lengths: list[int], width: int) -> np.ndarray:
    """One caption for each picture, of given numbers of tokens."""
    return np.array([[[9] * length + [PAD] * (width - length)] for length in lengths])


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


def test_batches_in_fixed_order_go_by_length():
    plan = list(batches(padded([3, 9, 4, 8], 10), 2, None))
    # Lengths 3 and 4 fit into 4 tokens; 8 and 9 would take 12, but no caption is longer than 10.
    assert [(chosen.tolist(), length) for chosen, length in plan] == [([0, 2], 4), ([1, 3], 10)]


lengths = st.lists(st.integers(2, 17), min_size=1, max_size=40)


@given(lengths, st.integers(1, 9), st.none() | st.integers(0, 99))
def test_an_epoch_holds_every_picture_once_and_cuts_no_caption(lengths, size, seed):
    tokens = padded(lengths, 17)
    rng = None if seed is None else np.random.default_rng(seed)
    plan = list(batches(tokens, size, rng))
    assert sorted(number for chosen, _ in plan for number in chosen) == list(range(len(lengths)))
    assert sorted(len(chosen) for chosen, _ in plan)[1:] == [size] * (len(plan) - 1)
    for chosen, length in plan:
        longest = max(lengths[number] for number in chosen)
        assert longest <= length < longest + LENGTH_STEP
        assert length % LENGTH_STEP == 0 or length == 17
        assert chosen.tolist() == sorted(chosen)


def test_longest_caption_of_a_picture_decides():
    tokens = np.array([[[1, 4, 2, 0, 0, 0], [1, 4, 4, 4, 2, 0]]])
    assert [length for _, length in batches(tokens, 1, None)] == [6]


def test_order_comes_from_the_generator_alone():
    tokens = padded([3, 4, 5, 6, 7, 8] * 5, 8)

    def plan(seed):
        return [
            (chosen.tolist(), length)
            for chosen, length in batches(tokens, 4, np.random.default_rng(seed))
        ]

    first = plan([1, 0])
    np.random.seed(5)  # noqa: NPY002  (whatever else drew numbers before)
    list(batches(tokens, 3, np.random.default_rng(7)))
    assert plan([1, 0]) == first
    assert plan([1, 1]) != first


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
    assert examples.tokens[:, 0].tolist() == [[START, 4, END, PAD], [START, 5, END, PAD]]
    assert examples.tokens.shape == (2, 3, 4)


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
