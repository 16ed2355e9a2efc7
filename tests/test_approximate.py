"""approximate.py: what faiss proposes is compared exactly; what it misses is measured."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from captioner import CaptionerError, approximate, collection
from captioner.approximate import build, open_index
from captioner.cli import main
from captioner.collection import open_collection
from captioner.embeddings import unit_vectors
from captioner.files import read_json
from captioner.recommend import Query, query_of, search, similar
from tests.test_collection import MODEL

NUMBER = 1500
faiss_there = pytest.mark.skipif(
    importlib.util.find_spec("faiss") is None, reason="faiss is not installed"
)


def add(folder: Path, first: int, last: int) -> None:
    """Random pictures near a plane of 6 dimensions, none a copy of another."""
    rng = np.random.default_rng(first)
    spaces = [
        unit_vectors(
            rng.normal(size=(last - first, 6)) @ np.random.default_rng(1).normal(size=(6, size))
        )
        for size in (16, 24)
    ]
    hashes = rng.integers(0, 256, (last - first, 80), np.uint8)
    columns = {
        "image_id": [f"{number:05}" for number in range(first, last)],
        "split": ["test"] * (last - first),
        "caption": ["a dog"] * (last - first),
        "sha256": [f"{number:064x}" for number in range(first, last)],
        "perceptual_hash": [row.tobytes().hex() for row in hashes],
    }
    collection.add_part(folder, columns, *spaces)


def begun(folder: Path) -> Path:
    collection.begin(folder, None, MODEL, {"meaning": 16, "looks": 24})
    add(folder, 0, 700)
    add(folder, 700, NUMBER)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = begun(tmp_path_factory.mktemp("approximate") / "built")
    with pytest.MonkeyPatch.context() as patch:
        # So few that they are not simply all pictures.
        patch.setattr(approximate, "EFFORTS", (16, 64, 256))
        build(folder)
    return folder


@pytest.fixture
def grown(built, tmp_path) -> Path:
    """A copy that may be changed."""
    folder = tmp_path / "grown"
    collection.begin(folder, built, MODEL, {})
    for path in (built / "approximate").iterdir():
        (folder / "approximate").mkdir(exist_ok=True)
        (folder / "approximate" / path.name).write_bytes(path.read_bytes())
    return folder


def opened(folder: Path):
    said = []
    found = open_collection(folder)
    index = open_index(found, said.append)
    assert said == [] and index is not None
    return found, index


def share_found(found, index, **options) -> float:
    """Of the exact ten nearest, what the index finds; what both find has the same numbers."""
    shares = []
    for row in range(0, NUMBER, 60):
        query = query_of(found, found.pictures["image_id"].iloc[row])
        exact = {one.image_id: one for one in similar(found, query, 10, **options)}
        near = similar(found, query, 10, index=index, **options)
        assert len(near) == len(exact) == 10
        for one in near:
            if one.image_id in exact:
                other = exact[one.image_id]
                # The index's mean and deviation are those of the pictures when it was built.
                assert one.score == pytest.approx(other.score, rel=0.05)
                assert one.looks_alike == pytest.approx(other.looks_alike, abs=1e-6)
                assert one.means_alike == pytest.approx(other.means_alike, abs=1e-6)
        shares.append(len({one.image_id for one in near} & set(exact)) / 10)
    return float(np.mean(shares))


@faiss_there
@pytest.mark.parametrize("blend", [0, 0.5, 1])
def test_what_is_found_is_nearly_all_and_compared_exactly(built, blend):
    assert share_found(*opened(built), blend=blend) >= 0.95


@faiss_there
def test_only_candidates_are_compared(built):
    found, index = opened(built)
    query = query_of(found, "00007")
    assert len(index.candidates({"meaning": query.meaning})) <= index.effort < NUMBER / 4
    assert 7 in index.candidates({"meaning": query.meaning})


@faiss_there
def test_mean_and_deviation_are_those_of_all_cosines(built):
    found, index = opened(built)
    query = query_of(found, "00100")
    cosines = found.cosines(found.looks, query.looks).astype(np.float64)
    assert index.spread("looks", query.looks) == pytest.approx((cosines.mean(), cosines.std()))


@faiss_there
def test_the_recall_is_measured_and_written_down(built):
    known = read_json(built / "approximate" / "index.json")
    assert known["rows"] == NUMBER and known["effort"] in (16, 64, 256)
    assert set(known["recall"]) == {"meaning", "looks", "both"}
    assert all(0.95 <= value <= 1 for value in known["recall"].values())


@faiss_there
def test_the_measured_recall_is_that_of_exact_search(built):
    """By hand for the queries that were held out."""
    found, index = opened(built)
    held = np.linspace(0, NUMBER - 1, approximate.HELD).astype(int)
    matrix = np.concatenate(found.looks)
    others = np.setdiff1d(np.arange(NUMBER), held)
    shares = []
    for row in held:
        truth = others[np.argsort(-(matrix[others] @ matrix[row]))[:10]]
        shares.append(np.isin(truth, index.candidates({"looks": matrix[row]})).mean())
    # The other held ones are in the index now, and take places among the candidates.
    assert np.mean(shares) == pytest.approx(index.recall["looks"], abs=0.05)


@faiss_there
def test_a_sentence_is_looked_up_by_meaning(built):
    found, index = opened(built)
    vector = query_of(found, "00007").meaning
    exact, near = (
        search(found, vector, "a dog", 10),
        search(found, vector, "a dog", 10, index=index),
    )
    assert [one.image_id for one in near] == [one.image_id for one in exact]
    assert near[0].image_id == "00007" and near[0].looks_alike is None
    assert near[0].score == exact[0].score


@faiss_there
def test_pictures_added_since_and_pictures_removed(grown):
    found = open_collection(grown)
    query = query_of(found, "00000")
    gone = [one.image_id for one in similar(found, query, 3)]
    collection.remove(grown, gone)
    add(grown, NUMBER, NUMBER + 40)
    found, index = opened(grown)
    assert len(found.pictures) == NUMBER + 37
    assert share_found(found, index) >= 0.95
    near = similar(found, query, 50, index=index)
    assert not set(gone) & {one.image_id for one in near}
    latest = query_of(found, f"{NUMBER + 39:05}")
    again = Query(latest.meaning, latest.looks, "")
    assert similar(found, again, 3, index=index)[0].image_id == latest.image_id


@faiss_there
def test_what_it_cannot_do_is_done_exactly(built):
    """More results than candidates, and filters."""
    found, index = opened(built)
    query = query_of(found, "00000")
    for top, filters in ((NUMBER - 1, {}), (5, {"image_id": ["00999", "00001"]})):
        exact = similar(found, query, top, filters=filters)
        assert similar(found, query, top, filters=filters, index=index) == exact
        assert len(exact) == min(top, 2) or len(exact) == NUMBER - 1


@faiss_there
def test_the_same_collection_gives_the_same_bytes(grown, built, monkeypatch):
    monkeypatch.setattr(approximate, "EFFORTS", (16, 64, 256))
    build(grown)
    for name in ("index.json", "meaning.faiss", "looks.faiss", "meaning.npy", "looks.npy"):
        one, other = (folder / "approximate" / name for folder in (grown, built))
        assert one.read_bytes() == other.read_bytes(), name


@faiss_there
@pytest.mark.parametrize("name", ["meaning.faiss", "looks.npy", "index.json"])
@pytest.mark.parametrize("damage", ["gone", "short", "flipped"])
def test_damage_is_said_before_faiss_reads(grown, name, damage):
    path = grown / "approximate" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    if damage == "gone" and name != "index.json":  # without that there is no index
        path.unlink()
    else:
        path.write_bytes(content if damage == "flipped" else content[:-20])
    with pytest.raises(CaptionerError, match=r"unusable index.*captioner index build") as caught:
        open_index(open_collection(grown), print)
    assert "\n" not in str(caught.value)


@faiss_there
def test_an_index_of_other_pictures_is_refused(grown, tmp_path):
    other = tmp_path / "other"
    collection.begin(other, None, MODEL, {"meaning": 16, "looks": 24})
    add(other, 1, NUMBER + 1)
    (grown / "approximate").rename(other / "approximate")
    with pytest.raises(CaptionerError, match="of other pictures"):
        open_index(open_collection(other), print)


@faiss_there
def test_too_few_found_is_no_index(grown, monkeypatch):
    before = {path: path.read_bytes() for path in (grown / "approximate").iterdir()}
    monkeypatch.setattr(approximate, "EFFORTS", (2,))
    with pytest.raises(CaptionerError, match=r"recall meaning 0\.\d+, looks .*0.95 is wanted"):
        build(grown)
    assert {path: path.read_bytes() for path in (grown / "approximate").iterdir()} == before


@faiss_there
def test_the_command_builds_it_and_similar_looks_into_it(tmp_path, capsys):
    folder = begun(tmp_path / "c")
    assert main(["index", "build", "--index", str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{folder}: of the ten nearest are found: by meaning ")
    assert main(["similar", "00007", "--index", str(folder), "--top", "3"]) == 0
    names = [line.split("\t")[1] for line in capsys.readouterr().out.splitlines()]
    found = open_collection(folder)
    assert names == [one.image_id for one in similar(found, query_of(found, "00007"), 3)]
    (folder / "approximate" / "looks.npy").unlink()
    assert main(["similar", "00007", "--index", str(folder)]) == 2
    assert "unusable index" in capsys.readouterr().err


@faiss_there
def test_few_pictures_need_no_index(tmp_path):
    collection.begin(tmp_path / "c", None, MODEL, {"meaning": 16, "looks": 24})
    add(tmp_path / "c", 0, 50)
    with pytest.raises(CaptionerError, match="50 pictures, an index takes 1000 or more"):
        build(tmp_path / "c")


def test_without_faiss_all_pictures_are_compared_and_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(approximate, "find_spec", lambda name: None)
    folder = begun(tmp_path / "c")
    with pytest.raises(CaptionerError, match=r"faiss is not installed: pip install .*\[faiss\]"):
        build(folder)
    found, said = open_collection(folder), []
    assert open_index(found, said.append) is None and said == []
    monkeypatch.setattr(approximate, "FROM", 1000)
    assert open_index(found, said.append) is None
    (folder / "approximate").mkdir()
    (folder / "approximate" / "index.json").write_text("{}")
    assert open_index(found, said.append) is None
    assert ["index build" in said[0], "not installed" in said[1], len(said)] == [True, True, 2]
