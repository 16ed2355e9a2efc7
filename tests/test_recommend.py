"""recommend.py: neighbours worked out by hand, the blend, copies, filters, reasons."""

from pathlib import Path

import numpy as np
import pytest

from captioner import CaptionerError, collection, recommend
from captioner.embeddings import write_vectors
from captioner.recommend import Query
from tests.test_collection import MODEL, unit

# Seven pictures at angles of the circle: meaning in degrees, looks the other way round.
DEGREES = np.array([0, 10, 20, 40, 60, 80, 90])
CAPTIONS = [
    "a red circle above a star",
    "a red star",
    "two red circles",
    "a blue star",
    "a green cross",
    "a green square",
    "the white square",
]


def circle(degrees: np.ndarray) -> np.ndarray:
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], 1).astype(np.float32)


def hashes(number: int) -> list[str]:
    """Perceptual hashes that differ in every bit and colour from each other."""
    rng = np.random.default_rng(5)
    return [rng.integers(0, 256, 80, np.uint8).tobytes().hex() for _ in range(number)]


def columns() -> dict[str, list]:
    return {
        "image_id": list("abcdefg"),
        "split": ["train"] * 4 + ["test"] * 3,
        "caption": CAPTIONS,
        "sha256": [f"{number:064x}" for number in range(7)],
        "perceptual_hash": hashes(7),
        "colour": ["red", "red", "red", "blue", "green", "green", "=white"],
    }


def write(folder: Path, changed: dict[str, list] | None = None) -> collection.Collection:
    folder.mkdir()
    said = dict(columns()) | (changed or {})
    part = collection.write_part(folder, said, circle(DEGREES), circle(90 - DEGREES[::-1]))
    captions = {"image_id": ["a", "b", "a"], "caption": ["one", "two", "one"]}
    write_vectors(folder, "captions", captions, circle(np.array([0, 50, 1])))
    words = {"word": ["<unk>", "circle", "star", "cross", "a"], "count": [0, 5, 4, 3, 99]}
    write_vectors(folder, "words", words, unit([[1, 0], [1, 0.1], [1, 0.3], [0, 1], [-1, 0]]))
    collection.write_manifest(folder, MODEL, {"meaning": 2, "looks": 2}, [{"folder": "."} | part])
    return collection.open_collection(folder)


@pytest.fixture
def opened(tmp_path) -> collection.Collection:
    return write(tmp_path / "index")


def ids(results: list[recommend.Result]) -> str:
    return "".join(result.image_id for result in results)


def test_by_meaning_alone(opened):
    found = recommend.similar(opened, recommend.query_of(opened, "c"), 4, blend=0)
    assert found[0].image_id == "b" and found[3].image_id == "e"  # 10 and 40 degrees away
    assert {found[1].image_id, found[2].image_id} == {"a", "d"}  # both 20
    assert found[0].means_alike == pytest.approx(np.cos(np.radians(10)), abs=1e-6)
    assert [result.score for result in found] == sorted((r.score for r in found), reverse=True)


def test_by_looks_alone(opened):
    """Looks stand at 0, 10, 30, 50, 70, 80, 90 degrees."""
    found = recommend.similar(opened, recommend.query_of(opened, "a"), 3, blend=1)
    assert ids(found) == "bcd"
    expected = np.cos(np.radians([10, 30, 50]))
    assert [result.looks_alike for result in found] == pytest.approx(expected, abs=1e-6)


def test_the_blend_weighs_standard_deviations(opened):
    query = Query(circle(np.array([0]))[0], circle(np.array([90]))[0], "")
    looks, means = np.cos(np.radians(90 - (90 - DEGREES[::-1]))), np.cos(np.radians(DEGREES))
    expected = (
        0.3 * (looks - looks.mean()) / looks.std() + 0.7 * (means - means.mean()) / means.std()
    )
    found = recommend.similar(opened, query, 7, blend=0.3)
    assert ids(found) == "".join("abcdefg"[row] for row in np.argsort(-expected))
    assert [result.score for result in found] == pytest.approx(np.sort(expected)[::-1], abs=1e-5)


def test_search_by_a_sentence(opened):
    found = recommend.search(
        opened, circle(np.array([85]))[0], "A green square, and a green one", 2
    )
    assert ids(found) == "fg" and found[0].looks_alike is None
    assert found[0].shared == ["green", "square"] and found[1].shared == ["square"]
    assert found[0].score == found[0].means_alike == pytest.approx(np.cos(np.radians(5)), abs=1e-6)


def test_reasons_are_content_words_in_the_order_of_the_query(opened):
    found = recommend.similar(opened, recommend.query_of(opened, "a"), 6, blend=0)
    shared = {result.image_id: result.shared for result in found}
    assert shared["b"] == ["red", "star"] and shared["d"] == ["star"] and shared["g"] == []


@pytest.mark.parametrize(
    ("split", "shared"), [(True, ["黑", "狗", "草"]), (False, [])], ids=["characters", "blanks"]
)
def test_reasons_are_words_as_the_vocabulary_splits_them(tmp_path, opened, split, shared):
    captions = ["黑狗在草地上跑", "黄草上的黑狗", *["red"] * 5]
    columns_of = columns() | {"caption": captions}
    collection.begin(tmp_path / "zh", None, MODEL, {"meaning": 2, "looks": 2}, split)
    collection.add_part(tmp_path / "zh", columns_of, circle(DEGREES), circle(DEGREES))
    there = collection.open_collection(tmp_path / "zh")
    found = recommend.similar(there, recommend.query_of(there, "a"), 6)
    words = {result.image_id: result.shared for result in found}["b"]
    assert [word for word in words if word != "上"] == shared


@pytest.mark.parametrize("what", ["sha256", "perceptual_hash"])
def test_copies_are_folded_and_never_recommended_for_themselves(tmp_path, what):
    values = columns()[what]
    changed = {what: [values[0], values[1], values[0], values[3], values[4], values[3], values[6]]}
    opened = write(tmp_path / "index", changed)
    found = recommend.similar(opened, recommend.query_of(opened, "a"), 9, blend=0)
    assert ids(found) == "bdeg"  # c is a again, f is d again
    assert [result.copies for result in found] == [[], ["f"], [], []]
    # A file that is in the collection under another name.
    query = Query(circle(np.array([60]))[0], circle(np.array([0]))[0], "", **{what: values[4]})
    assert "e" not in ids(recommend.similar(opened, query, 9))
    assert ids(recommend.search(opened, circle(np.array([0]))[0], "", 2)) == "ab"


def test_a_crowd_of_copies_does_not_hide_the_others(tmp_path, opened):
    folder = tmp_path / "many"
    collection.begin(folder, opened.folder, MODEL, {})
    many = 100
    said = {name: [values[0]] * many for name, values in columns().items()}
    said["image_id"] = [f"copy {number}" for number in range(many)]
    collection.add_part(
        folder,
        said,
        np.repeat(circle(np.array([1])), many, 0),
        np.repeat(circle(np.array([1])), many, 0),
    )
    found = recommend.search(collection.open_collection(folder), circle(np.array([0]))[0], "", 3)
    assert ids(found) == "abc" and len(found[0].copies) == many


def test_filters(opened):
    query = recommend.query_of(opened, "a")
    found = recommend.similar(opened, query, 9, 0, {"colour": ["red", "green"], "split": ["test"]})
    assert ids(found) == "ef"
    # The spread is that of the whole collection: a filter changes no score.
    everything = {r.image_id: r.score for r in recommend.similar(opened, query, 9, 0)}
    assert [result.score for result in found] == [everything["e"], everything["f"]]
    with pytest.raises(
        CaptionerError, match="--filter size: no such column; image_id, split, colour"
    ):
        recommend.similar(opened, query, 9, 0, {"size": ["small"]})
    with pytest.raises(
        CaptionerError, match="colour=pink: no picture has it; there are =white, blue"
    ):
        recommend.similar(opened, query, 9, 0, {"colour": ["pink"]})


def test_sentences_for_a_picture(opened):
    found = recommend.sentences(opened, circle(np.array([0]))[0], 5)
    assert [(caption, image_id) for caption, _, image_id in found] == [("one", "a"), ("two", "b")]
    assert [cosine for _, cosine, _ in found] == pytest.approx(
        [1, np.cos(np.radians(50))], abs=1e-6
    )
    assert len(recommend.sentences(opened, circle(np.array([0]))[0], 1)) == 1


def test_words_like_a_word(opened):
    found = recommend.neighbours(opened, "circle", 9)
    assert [word for word, *_ in found] == ["star", "cross", "a"] and found[0][2] == 4
    with pytest.raises(CaptionerError, match=r"'circel' is no word .* did you mean circle"):
        recommend.neighbours(opened, "circel", 3)
    with pytest.raises(CaptionerError, match=r"is no word of the training captions$"):
        recommend.neighbours(opened, "zzzzzzz", 3)


def test_a_picture_that_is_not_there(opened):
    with pytest.raises(CaptionerError, match="z: neither a file nor a picture of"):
        recommend.query_of(opened, "z")


def test_an_empty_collection_finds_nothing(tmp_path):
    collection.begin(tmp_path / "empty", None, MODEL, {"meaning": 2, "looks": 2})
    empty = collection.open_collection(tmp_path / "empty")
    assert recommend.search(empty, circle(np.array([0]))[0], "a", 3) == []
    query = Query(circle(np.array([60]))[0], circle(np.array([0]))[0], "")
    assert recommend.similar(empty, query, 3) == []
