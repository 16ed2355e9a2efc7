"""Splits by lot: what stays together, what does not matter, how large they are."""

import hashlib
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner import CaptionerError
from captioner.datasets import SPLITS
from captioner.datasets.splitting import draw_splits

shares = st.tuples(st.floats(0, 0.5), st.floats(0, 0.49))
seeds = st.integers(0, 2**31 - 1)
singles = st.integers(3, 200).map(lambda n: {f"{i}.jpg": f"unit {i}" for i in range(n)})
grouped = st.dictionaries(st.text(max_size=5), st.sampled_from("abcdefghij"), min_size=1)


def test_the_queue_worked_out_by_hand():
    units = {f"{letter}.jpg": letter for letter in "abcdefghij"}
    queue = sorted("abcdefghij", key=lambda unit: hashlib.sha256(f"7\0{unit}".encode()).hexdigest())
    splits = draw_splits(units, val=0.2, test=0.1, seed=7)
    assert [splits[f"{letter}.jpg"] for letter in queue] == ["val"] * 2 + ["test"] + ["train"] * 7
    assert draw_splits(units, val=0.2, test=0.1, seed=8) != splits


@settings(deadline=None)
@given(grouped, shares, seeds, st.randoms())
def test_the_order_of_the_pictures_does_not_matter(units, share, seed, chance):
    shuffled = list(units.items())
    chance.shuffle(shuffled)
    assert draw_splits(dict(shuffled), *share, seed) == draw_splits(units, *share, seed)


@settings(deadline=None)
@given(grouped, shares, seeds)
def test_a_unit_is_never_torn_apart_and_no_split_is_empty(units, share, seed):
    splits = draw_splits(units, *share, seed)
    assert splits.keys() == units.keys()
    of_units = {(units[picture], split) for picture, split in splits.items()}
    assert len(of_units) == len(set(units.values()))
    assert len({split for _, split in of_units}) == min(3, len(of_units))


@settings(deadline=None)
@given(singles, shares, seeds)
def test_single_pictures_make_splits_of_their_share(units, share, seed):
    counts = Counter(draw_splits(units, *share, seed).values())
    for split, part in zip(("val", "test"), share, strict=True):
        assert abs(counts[split] - part * len(units)) <= 1


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=20, max_size=40), st.floats(0.2, 0.4), st.floats(0.2, 0.3)
)
def test_groups_miss_their_share_by_half_the_largest_at_most(sizes, val, test):
    units = {f"{unit}-{n}": f"{unit}" for unit, size in enumerate(sizes) for n in range(size)}
    counts = Counter(draw_splits(units, val, test, seed=1).values())
    for split, share in (("val", val), ("test", test)):
        assert abs(counts[split] - share * len(units)) <= max(sizes) / 2 + 1e-9


@settings(deadline=None)
@given(singles, shares, seeds)
def test_one_picture_more_moves_three_at_most(units, share, seed):
    before = draw_splits(units, *share, seed)
    after = draw_splits(units | {"new.jpg": "new"}, *share, seed)
    assert sum(after[picture] != split for picture, split in before.items()) <= 3


def test_a_unit_may_overshoot_by_half_of_itself():
    units = {str(n): f"pair {n // 2}" for n in range(40)}
    # val is to have 3 pictures and takes two pairs; test is to have 2.8 and takes one
    assert Counter(draw_splits(units, 0.075, 0.07, 1).values()) == {
        "train": 34,
        "val": 4,
        "test": 2,
    }


def test_where_no_share_is_large_enough_the_smallest_units_are_given():
    units = {"a": "one", "b": "two", **{f"{n}.jpg": "large" for n in range(9)}}
    for seed in range(10):
        splits = draw_splits(units, 0, 0, seed)
        assert Counter(splits.values()) == {"train": 9, "val": 1, "test": 1}


def test_a_group_larger_than_val_and_test_is_trained_on():
    units = {f"{n}.jpg": "large" for n in range(90)} | {f"{n}.png": f"small {n}" for n in range(10)}
    for seed in range(20):
        splits = draw_splits(units, 0.05, 0.05, seed)
        assert {split for picture, split in splits.items() if picture.endswith("jpg")} == {"train"}
        assert Counter(splits.values()) == {"train": 90, "val": 5, "test": 5}


def test_what_is_too_little_for_three_splits_is_trained_on_first():
    assert draw_splits({}, 0.1, 0.1, 1) == {}
    assert draw_splits({"a": "a"}, 0.1, 0.1, 1) == {"a": "train"}
    assert sorted(draw_splits({"a": "a", "b": "b"}, 0.1, 0.1, 1).values()) == ["train", "val"]
    three = draw_splits({"a": "a", "b": "b", "c": "c"}, 0, 0, 1)
    assert sorted(three.values()) == sorted(SPLITS)


def test_shares_that_leave_nothing():
    with pytest.raises(CaptionerError, match=r"val 0\.5 and test 0\.5 leave nothing for train"):
        draw_splits({"a": "a"}, 0.5, 0.5, 1)
