"""captioner export: read back by numpy, Arrow and a reader of word2vec's own."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from captioner import collection
from captioner.cli import main
from captioner.files import CHECKSUMS, digest, write_checksums
from tests.test_recommend import DEGREES, circle, columns, write


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    names = ["a b.jpg", "b", "=c", "d\n", "ä", "f", "g"]
    return write(tmp_path / "index", {"image_id": names}).folder


def export(*arguments: str) -> int:
    return main(["export", "--index", "index", *arguments])


def test_parquet_has_all_columns(index):
    assert export("--format", "parquet", "--output", "out.parquet") == 0
    table = pq.read_table("out.parquet")
    assert table.column_names == [*columns(), "vector"]
    np.testing.assert_array_equal(
        np.array(table["vector"].to_pylist(), np.float32), circle(DEGREES)
    )


def test_npy_has_a_line_for_each_row(index):
    collection.remove(index, ["b"])
    assert export("--format", "npy", "--output", "pictures.vectors") == 0
    left = np.delete(np.arange(7), 1)
    np.testing.assert_array_equal(
        np.load("pictures.vectors", allow_pickle=False), circle(DEGREES)[left]
    )
    lines = Path("pictures.vectors.txt").read_text().split("\n")
    assert lines == ["a b.jpg", "=c", "d", "ä", "f", "g", ""]
    assert export("--format", "npy", "--what", "captions", "--output", "said.npy") == 0
    assert Path("said.npy.txt").read_text() == "a#0\nb#0\na#1\n"
    assert np.load("said.npy", allow_pickle=False).shape == (3, 2)


def read_word2vec(path: str) -> tuple[list[str], np.ndarray]:
    """As gensim and fastText read it: a name, then numbers, between blanks."""
    first, *lines = Path(path).read_text(encoding="utf-8").splitlines()
    words = [line.split(" ")[0] for line in lines]
    vectors = np.array([line.split(" ")[1:] for line in lines], np.float32)
    assert first == f"{len(words)} {vectors.shape[1]}"
    return words, vectors


def test_word2vec(index):
    assert export("--format", "word2vec", "--output", "pictures.txt") == 0
    words, vectors = read_word2vec("pictures.txt")
    assert words == ["a_b.jpg", "b", "=c", "d", "ä", "f", "g"]
    np.testing.assert_allclose(vectors, circle(DEGREES), atol=1e-6)
    assert export("--format", "word2vec", "--what", "words", "--output", "words.txt") == 0
    assert read_word2vec("words.txt")[0] == ["<unk>", "circle", "star", "cross", "a"]


def test_gensim_loads_it(index):
    models = pytest.importorskip("gensim.models", reason="gensim is not installed")
    assert export("--format", "word2vec", "--what", "words", "--output", "words.txt") == 0
    loaded = models.KeyedVectors.load_word2vec_format("words.txt")
    words, vectors = read_word2vec("words.txt")
    assert loaded.index_to_key == words
    np.testing.assert_array_equal(loaded.vectors, vectors)
    assert export("--format", "word2vec", "--output", "pictures.txt") == 0
    loaded = models.KeyedVectors.load_word2vec_format("pictures.txt")
    for name, vector in zip(["a_b.jpg", "b", "ä"], circle(DEGREES)[[0, 1, 4]], strict=True):
        np.testing.assert_allclose(loaded[name], vector, atol=1e-6)


def test_names_that_meet_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "index", {"image_id": ["a b", "a_b", "c", "d", "e", "f", "g"]})
    assert export("--format", "word2vec", "--output", "out.txt") == 2
    assert "'a_b': two names are the same" in capsys.readouterr().err
    assert not Path("out.txt").exists() and not list(tmp_path.glob(".partial*"))


def test_projector(index, capsys):
    assert export("--format", "projector", "--output", "logs") == 2
    assert "no projector files here" in capsys.readouterr().err
    (index / "projector").mkdir()
    for name in ("projector_config.pbtxt", "pictures.tsv"):
        (index / "projector" / name).write_text(name)
    write_checksums(index / "projector" / CHECKSUMS)
    assert export("--format", "projector", "--output", "logs") == 0
    assert digest("logs") == digest(index / "projector")
    (index / "projector" / "pictures.tsv").write_text("pictures.tsw")
    assert export("--format", "projector", "--output", "again") == 2
    assert "damaged ('pictures.tsv' is not as it was written" in capsys.readouterr().err
    assert not Path("again").exists()


def test_nothing_is_replaced_unasked(index, capsys):
    Path("out.npy").write_text("mine")
    assert export("--format", "npy", "--output", "out.npy") == 2
    assert Path("out.npy").read_text() == "mine"
    assert capsys.readouterr().err == "captioner: out.npy: is there already; --force replaces it\n"
    assert export("--format", "npy", "--output", "out.npy", "--force") == 0
    assert np.load("out.npy", allow_pickle=False).shape == (7, 2)


def test_an_empty_collection(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    collection.begin(tmp_path / "index", None, "ab" * 32, {"meaning": 2, "looks": 2})
    assert export("--format", "npy", "--output", "out.npy") == 2
    assert "the collection is empty" in capsys.readouterr().err
