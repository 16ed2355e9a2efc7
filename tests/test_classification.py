"""classification.py: numbers worked out by hand, whatever the names."""

import csv
import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioner import CaptionerError
from captioner.classification import Classification, class_labels, rates, write_tables

# Truth a a a b b c; answers a b b b a c, of which the second mistake is the surest.
PROBABILITIES = [
    [0.8, 0.1, 0.1],
    [0.3, 0.5, 0.2],
    [0.05, 0.9, 0.05],
    [0.2, 0.6, 0.2],
    [0.5, 0.4, 0.1],
    [0.1, 0.2, 0.7],
]
FOUND = Classification(["a", "b", "c"], np.array([0, 0, 0, 1, 1, 2]), np.array(PROBABILITIES))


def facts(*values: object) -> list[str]:
    return [json.dumps({"kind": value}) for value in values]


def test_numbers_by_hand():
    assert FOUND.answers.tolist() == [0, 1, 1, 1, 0, 2]
    assert FOUND.accuracy == pytest.approx(3 / 6)
    assert FOUND.confusion.tolist() == [[1, 2, 0], [1, 1, 0], [0, 0, 1]]
    recall, precision = rates(FOUND.confusion)
    assert recall == pytest.approx([1 / 3, 1 / 2, 1])
    assert precision == pytest.approx([1 / 2, 1 / 3, 1])
    assert FOUND.mistakes.tolist() == [2, 1, 4]  # 0.9, then two of 0.5 in their order


def test_a_class_without_pictures_has_no_rate():
    recall, precision = rates(np.array([[2, 0], [0, 0]]))
    assert (recall[0], precision[0]) == (1, 1)
    assert math.isnan(recall[1]) and math.isnan(precision[1])


@given(
    st.integers(2, 6).flatmap(
        lambda classes: st.lists(
            st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1)), min_size=1
        ).map(lambda pairs: (classes, pairs))
    )
)
def test_confusion_counts_the_pairs(drawn):
    classes, pairs = drawn
    truth, answers = np.array(pairs).T
    found = Classification(list("abcdef"[:classes]), truth, np.eye(classes)[answers])
    counts = Counter(pairs)
    assert {
        (row, column): found.confusion[row, column]
        for row, column in zip(*np.nonzero(found.confusion), strict=True)
    } == counts
    assert found.accuracy == pytest.approx(np.trace(found.confusion) / len(pairs))
    assert len(found.mistakes) == sum(n for (a, b), n in counts.items() if a != b)


def test_classes_are_the_values_of_a_fact_sorted():
    labels, names = class_labels(["1", "2", "3", "4"], facts("shoe", "boot", " shoe ", "7"), "kind")
    assert names == ["7", "boot", "shoe"]
    assert labels.tolist() == [2, 1, 2, 0]
    assert class_labels(["1", "2"], facts(True, 3), "kind")[1] == ["3", "True"]


@pytest.mark.parametrize("value", [None, "", "  ", ["shoe"], {"shoe": 1}])
def test_a_picture_without_a_class_is_named(value):
    texts = facts("boot", value, "shoe", value)
    with pytest.raises(CaptionerError, match=r"2 of 4 pictures, two\.jpg the first, .* 'kind'"):
        class_labels(["one.jpg", "two.jpg", "three.jpg", "four.jpg"], texts, "kind")


def test_pictures_without_facts_or_with_one_class_cannot_be_learnt():
    with pytest.raises(CaptionerError, match=r"2 of 2 pictures, a the first"):
        class_labels(["a", "b"], [None, json.dumps({"other": 1})], "kind")
    with pytest.raises(CaptionerError, match=r"all pictures have the same 'kind'"):
        class_labels(["a", "b"], facts("shoe", "shoe"), "kind")


def test_tables_hold_the_same_numbers(tmp_path):
    write_tables(tmp_path, ["p0", "p1", "p2", "p3", "p4", "p5"], FOUND)
    assert (tmp_path / "confusion.csv").read_text().splitlines() == [
        "truth,answer,pictures", "a,a,1", "a,b,2", "b,a,1", "b,b,1", "c,c,1",
    ]  # fmt: skip
    assert (tmp_path / "classes.csv").read_text().splitlines() == [
        "class,pictures,recall,precision", "a,3,0.3333,0.5000", "b,2,0.5000,0.3333",
        "c,1,1.0000,1.0000",
    ]  # fmt: skip
    assert (tmp_path / "mistakes.csv").read_text().splitlines() == [
        "image_id,truth,answer,probability", "p2,a,b,0.9000", "p1,a,b,0.5000", "p4,b,a,0.5000",
    ]  # fmt: skip


def test_no_table_holds_a_formula(tmp_path):
    names = ["=1+1", "@cmd", '+"x"\n']
    found = Classification(names, FOUND.truth, FOUND.probabilities)
    write_tables(tmp_path, ["-2", *"bcdef"], found)
    for path in tmp_path.iterdir():
        with path.open(newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert not [cell for cell in cells if cell[:1] in "=+-@" and cell]
        assert len({"'=1+1", "'@cmd"} & set(cells)) == 2
