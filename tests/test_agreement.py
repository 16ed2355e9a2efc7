"""agreement.py: shares counted by hand, TF-IDF against scikit-learn's way of writing it."""

import numpy as np
import pytest

from captioner import agreement, collection
from captioner.agreement import by_tf_idf, classes_of
from captioner.text import END, PAD, SPECIALS, START
from tests.test_collection import MODEL
from tests.test_recommend import circle, columns, hashes

FIRST = len(SPECIALS)


def test_only_columns_that_sort_pictures_count():
    facts = {
        "kind": ["a", "b", "a", None, "b", "b"],
        "same": ["x"] * 6,
        "number": list("123456"),
        "none": [None] * 6,
    }
    found = classes_of(facts)
    assert list(found) == ["kind"]
    assert found["kind"].tolist() == [0, 1, 0, -1, 1, 1]


def captions(*texts: list[int]) -> np.ndarray:
    rows = np.full((len(texts), 6), PAD)
    for row, words in zip(rows, texts, strict=True):
        row[: len(words) + 2] = [START, *(FIRST + word for word in words), END]
    return rows


def test_tf_idf_by_hand():
    """Three documents; word 0 is in all of them and tells nothing; word 1 twice in one caption."""
    tokens = captions([0, 1, 1], [0, 2], [0, 1], [2])
    owners = np.array([0, 1, 2, 1])
    one, two = np.log(3 / 2), np.log(3)
    documents = np.array([[2 * one, 0], [0, 2 * two], [one, 0]])
    units = documents / np.linalg.norm(documents, axis=1, keepdims=True)
    expected = units @ units.T
    (nearest,) = by_tf_idf(tokens, owners, 3, np.array([0]))
    assert nearest.tolist() == [2, 1] and expected[0, 2] > expected[0, 1]


def test_tf_idf_is_the_same_in_blocks(monkeypatch):
    rng = np.random.default_rng(1)
    tokens = captions(*(rng.integers(0, 9, 4).tolist() for _ in range(40)))
    owners = rng.integers(0, 30, 40)
    queries = np.arange(0, 30, 3)
    whole = by_tf_idf(tokens, owners, 30, queries)
    monkeypatch.setattr(agreement, "BLOCK", 7)
    assert np.array_equal(whole, by_tf_idf(tokens, owners, 30, queries))
    for query, found in zip(queries, whole, strict=True):
        assert query not in found and len(set(found)) == agreement.TOP


@pytest.fixture
def opened(tmp_path) -> collection.Collection:
    """Two groups that look and mean alike, and two pictures of each that people call the same."""
    degrees = np.array([0, 2, 4, 6, 80, 82, 84, 86])
    said = {name: values * 2 for name, values in columns().items() if name != "colour"}
    said = {name: values[:8] for name, values in said.items()}
    said |= {"image_id": list("abcdefgh"), "perceptual_hash": hashes(8)}
    said["sha256"] = [f"{number:064x}" for number in range(8)]
    folder = tmp_path / "index"
    collection.begin(folder, None, MODEL, {"meaning": 2, "looks": 2})
    collection.add_part(folder, said, circle(degrees), circle(degrees))
    return collection.open_collection(folder)


def test_shares_by_hand(opened, monkeypatch):
    monkeypatch.setattr(agreement, "TOP", 3)
    facts = {"group": list("xxxxyyyy"), "rare": ["p", "p", None, "q", "p", "q", None, "p"]}
    tokens = captions([0, 1], [0, 2], [0, 3], [0, 4], [0, 1], [0, 2], [0, 3], [0, 4])
    table = agreement.agreement(
        opened, classes_of(facts), tokens, np.arange(8), np.array([0, 2, 4])
    ).set_index("system")
    assert list(table.index) == ["random", "captions", "looks", "meaning", "blend"]
    assert table.loc["random", "group"] == pytest.approx(3 / 7)
    assert table.loc["random", "rare"] == pytest.approx(3 / 7)  # the second has no value
    for system in ("looks", "meaning", "blend"):
        assert table.loc[system, "group"] == 1
    # Of a's three b has the value, c none, d another; of e's three h has it, g none, f another.
    assert table.loc["blend", "rare"] == pytest.approx(1 / 3)
    # By captions the counterpart in the other group comes first, then the first of those that tie.
    assert table.loc["captions", "group"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
