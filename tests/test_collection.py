"""collection.py: round trip, parts, removal, crashes, damage and manifests from strangers."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captioner import CaptionerError, collection
from captioner.files import digest, sha256_of

ROOT = Path(__file__).parent.parent
MODEL = "ab" * 32
HASH = "00" * 80


def unit(rows: list[list[float]]) -> np.ndarray:
    vectors = np.array(rows, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def columns(*names: str) -> dict[str, list[str]]:
    count = len(names)
    return {
        "image_id": list(names),
        "split": ["test"] * count,
        "caption": [f"a picture of {name}" for name in names],
        "sha256": [name.encode().hex().zfill(64) for name in names],
        "perceptual_hash": [HASH] * count,
    }


MEANING = unit([[1, 0, 0], [0, 1, 0], [1, 1, 0]])
LOOKS = unit([[1, 0], [0, 1], [1, 2]])


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "index"
    collection.begin(folder, None, MODEL, {"meaning": 3, "looks": 2})
    collection.add_part(
        folder, columns("a", "b", "c") | {"colour": ["red", None, "blue"]}, MEANING, LOOKS
    )
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(CaptionerError) as caught:
        collection.open_collection(folder)
    line = str(caught.value)
    assert str(folder) in line and "\n" not in line and len(line) < 500
    return line


def test_what_was_written_is_there(folder):
    opened = collection.open_collection(folder)
    assert opened.model == MODEL and opened.pictures["image_id"].tolist() == ["a", "b", "c"]
    assert opened.pictures["colour"].tolist() == ["red", "", "blue"]
    np.testing.assert_array_equal(opened.cosines(opened.meaning, MEANING[0]), MEANING @ MEANING[0])
    np.testing.assert_array_equal(opened.some(opened.looks, np.array([2])), LOOKS[[2]])
    assert isinstance(opened.meaning[0], np.memmap)


def test_parts_are_one_collection(folder):
    before = {path: path.read_bytes() for path in (folder / "part-00000").iterdir()}
    collection.add_part(folder, columns("d", "e"), MEANING[:2], LOOKS[:2])
    opened = collection.open_collection(folder)
    assert opened.pictures["image_id"].tolist() == ["a", "b", "c", "d", "e"]
    expected = np.concatenate([LOOKS, LOOKS[:2]]) @ LOOKS[1]
    np.testing.assert_array_equal(opened.cosines(opened.looks, LOOKS[1]), expected)
    np.testing.assert_array_equal(opened.some(opened.meaning, np.array([4])), MEANING[[1]])
    assert {path: path.read_bytes() for path in (folder / "part-00000").iterdir()} == before


def test_removed_pictures_are_out_of_sight(folder):
    collection.add_part(folder, columns("d"), MEANING[:1], LOOKS[:1])
    collection.remove(folder, ["b", "d", "none"])
    opened = collection.open_collection(folder)
    assert opened.pictures["image_id"].tolist() == ["a", "c"]
    np.testing.assert_array_equal(
        opened.cosines(opened.meaning, MEANING[2]), MEANING[[0, 2]] @ MEANING[2]
    )
    np.testing.assert_array_equal(opened.some(opened.meaning, np.array([1])), MEANING[[2]])
    assert json.loads((folder / "manifest.json").read_text())["counts"]["pictures"] == 2
    # Back again with other content: the old row stays away.
    collection.add_part(folder, columns("b"), MEANING[2:], LOOKS[2:])
    opened = collection.open_collection(folder)
    assert opened.pictures["image_id"].tolist() == ["a", "c", "b"]
    np.testing.assert_array_equal(opened.some(opened.meaning, np.array([2])), MEANING[[2]])


def test_a_copy_is_a_collection_of_its_own(folder, tmp_path):
    (folder / ".lock").unlink()
    before = digest(folder)
    collection.begin(tmp_path / "copy", folder, MODEL, {})
    assert digest(tmp_path / "copy") == before
    collection.add_part(tmp_path / "copy", columns("d"), MEANING[:1], LOOKS[:1])
    assert digest(folder) == before
    assert len(collection.open_collection(tmp_path / "copy").pictures) == 4


def test_a_kill_leaves_the_old_collection(folder):
    """Killed when the new part is there and the manifest is about to be replaced."""
    code = (
        "import os, signal, sys\n"
        "from captioner import collection\n"
        "from tests.test_collection import LOOKS, MEANING, columns\n"
        "collection.write_json = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "collection.add_part(collection.Path(sys.argv[1]), columns('d'), MEANING[:1], LOOKS[:1])\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
    done = subprocess.run([sys.executable, "-c", code, folder], cwd=ROOT, env=environment)
    assert done.returncode == -signal.SIGKILL
    assert (folder / "part-00001").exists()
    assert collection.open_collection(folder).pictures["image_id"].tolist() == ["a", "b", "c"]
    collection.add_part(folder, columns("e"), MEANING[1:2], LOOKS[1:2])
    assert collection.open_collection(folder).pictures["image_id"].tolist() == ["a", "b", "c", "e"]


@pytest.mark.parametrize("name", ["pictures.parquet", "pictures.npy", "looks.npy"])
def test_missing_and_truncated_files_are_named(folder, name):
    path = folder / "part-00000" / name
    content = path.read_bytes()
    for damaged in (content[:-4], content[: len(content) // 2], b"", content + b"x"):
        path.write_bytes(damaged)
        assert f"part-00000/{name}" in refused(folder)
    path.unlink()
    assert f"part-00000/{name}" in refused(folder)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_vectors_that_are_nowhere_are_refused(folder, value):
    bad = MEANING[:1].copy()
    bad[:] = value
    collection.add_part(folder, columns("d"), bad, LOOKS[:1])
    assert "not of length one" in refused(folder)


def test_a_picture_in_which_the_cnn_sees_nothing_looks_like_no_other(folder):
    collection.add_part(folder, columns("d"), MEANING[:1], np.zeros_like(LOOKS[:1]))
    opened = collection.open_collection(folder)
    assert opened.cosines(opened.looks, LOOKS[0])[-1] == 0
    collection.add_part(folder, columns("e"), MEANING[:1], np.full_like(LOOKS[:1], np.nan))
    assert "vectors of looks are not of length one" in refused(folder)


def test_sizes_must_fit(folder):
    collection.add_part(folder, columns("d"), MEANING[:1], MEANING[:1])
    assert "looks.npy is (1, 3)" in refused(folder)


def edit(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"model": "x"},
        {"model": 3},
        {"parts": [{"folder": "../other"}]},
        {"parts": {}},
        {"parts": ["part-00000"]},
        {"words": {"/etc/passwd": "0" * 64}},
        {"words": []},
        {"dimensions": {"meaning": "3", "looks": 2}},
    ],
)
def test_manifests_from_strangers(folder, changes):
    edit(folder, **changes)
    refused(folder)


@pytest.mark.parametrize("place", ["../index/part-00000", "/part-00000", "part-0", "part-00000/."])
def test_parts_lie_in_the_folder(folder, place):
    (part,) = json.loads((folder / "manifest.json").read_text())["parts"]
    edit(folder, parts=[part | {"folder": place}])
    assert "holds what no collection has" in refused(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "[" * 9999, "\xff"])
def test_what_is_no_manifest(folder, text):
    (folder / "manifest.json").write_text(text, encoding="latin-1")
    assert "damaged collection" in refused(folder)


def test_no_collection(tmp_path):
    assert "no collection here" in refused(tmp_path)


def test_captions_and_words_are_there_or_missed(folder):
    opened = collection.open_collection(folder)
    with pytest.raises(CaptionerError, match=re.escape("has no words")):
        opened.extra("words")
    with pytest.raises(CaptionerError, match=re.escape("has no ../pictures")):
        opened.extra("../pictures")


def sign(folder: Path) -> None:
    """Write the checksums of changed files, as someone writes them who means harm."""
    parts = json.loads((folder / "manifest.json").read_text())["parts"]
    for part in parts:
        for name in part["sha256"]:
            part["sha256"][name] = sha256_of(folder / part["folder"] / name)
    edit(folder, parts=parts)


def header(shape: str) -> bytes:
    """The .npy header of float32 of a shape, as it is written there."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "content",
    [
        header("(99999999999, 3)"),
        header("(-1, 3)"),
        header("(3, 3)"),  # and nothing after it
        header("(" * 9000 + ")" * 9000),
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
        b"PK\x03\x04",
        b"",
    ],
)
def test_matrices_that_lie(folder, content):
    (folder / "part-00000" / "pictures.npy").write_bytes(content)
    sign(folder)
    refused(folder)


@pytest.mark.parametrize(
    ("count", "options", "reason"),
    [
        (9999, {}, "pictures.parquet has 9999 rows, not 3"),
        (3, {"use_dictionary": True}, "pictures.parquet is packed"),
        (3, {"compression": "zstd"}, "pictures.parquet is packed"),
        (3, {"column_encoding": "DELTA_BYTE_ARRAY"}, "pictures.parquet is packed"),
    ],
)
def test_a_small_table_stands_for_no_large_one(folder, count, options, reason):
    """Rows and texts that are all alike take next to no room in a packed file."""
    texts = pa.array(["x"] * 3).take(pa.array([0] * count))
    table = pa.table(dict.fromkeys(collection.COLUMNS, texts))
    plain = {"use_dictionary": False, "compression": "none"}
    pq.write_table(table, folder / "part-00000" / "pictures.parquet", **plain | options)
    sign(folder)
    assert reason in refused(folder)


def test_a_pipe_is_not_waited_for(folder):
    for target in ("/dev/zero", None):
        path = folder / "part-00000" / "looks.npy"
        path.unlink()
        path.symlink_to(target) if target else os.mkfifo(path)
        assert "looks.npy is no regular file" in refused(folder)
        path.unlink()
        path.touch()


@pytest.mark.parametrize("row", [-1, 2**31, 10**30])
def test_removed_rows_are_bounded(folder, row):
    (part,) = json.loads((folder / "manifest.json").read_text())["parts"]
    edit(folder, parts=[part | {"removed": [row]}])
    assert "holds what no collection has" in refused(folder)


def test_a_part_is_there_once(folder):
    (part,) = json.loads((folder / "manifest.json").read_text())["parts"]
    edit(folder, parts=[part] * 2)
    assert "holds what no collection has" in refused(folder)


def test_how_words_are_split_is_kept(folder, tmp_path):
    assert collection.open_collection(folder).split_characters is False
    collection.begin(tmp_path / "zh", None, MODEL, {"meaning": 3, "looks": 2}, True)
    collection.add_part(tmp_path / "zh", columns("d"), MEANING[:1], LOOKS[:1])
    collection.begin(tmp_path / "copy", tmp_path / "zh", MODEL, {})
    for name in ("zh", "copy"):
        assert collection.open_collection(tmp_path / name).split_characters is True
    edit(tmp_path / "zh", split_characters="no")
    assert "holds what no collection has" in refused(tmp_path / "zh")
    # As collections were written before.
    content = json.loads((folder / "manifest.json").read_text())
    del content["split_characters"]
    (folder / "manifest.json").write_text(json.dumps(content))
    assert collection.open_collection(folder).split_characters is False


def test_an_empty_collection_has_no_vectors(tmp_path):
    collection.begin(tmp_path / "new", None, MODEL, {"meaning": 3, "looks": 2})
    opened = collection.open_collection(tmp_path / "new")
    assert opened.some(opened.meaning, np.arange(0)).shape == (0, 0)
    assert opened.cosines(opened.looks, LOOKS[0]).shape == (0,)
