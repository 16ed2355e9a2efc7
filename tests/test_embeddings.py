"""embeddings.py: weights by hand, files that agree row by row, captions that hold anything."""

import json
import re
import subprocess
import sysconfig
import threading
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from captioner.embeddings import (
    PROJECTED,
    SPRITE_SIDE,
    caption_vectors,
    fact_columns,
    projected_rows,
    unit_vectors,
    write_projector,
    write_vectors,
)
from captioner.files import CHECKSUMS, digest, verify
from captioner.text import END, PAD, SPECIALS, START, UNK, Vocabulary

# Of 1000 real tokens 999 are "a" and one is "dog"; <start> and the others count nothing.
VOCABULARY = Vocabulary((*SPECIALS, "a", "dog"), (0, 500, 500, 77, 999, 1))
A, DOG = 4, 5


def test_unit_vectors_have_length_one_and_zero_rows_stay():
    vectors = unit_vectors(np.array([[3, 4], [0, 0], [-2, 0]], np.float16))
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0, 0], [-1, 0]], rtol=1e-6)
    assert vectors.dtype == np.float32


def test_frequent_words_weigh_less_as_worked_out_by_hand():
    words = np.zeros((6, 2), np.float32)
    words[A], words[DOG] = (1, 0), (0, 1)
    tokens = np.array([[START, A, DOG, END], [START, A, A, END], [START, DOG, END, PAD]], np.uint16)
    vectors = caption_vectors(tokens, words, VOCABULARY)
    # a / (a + p): 0.001 / (0.001 + 0.999) for "a", 0.001 / (0.001 + 0.001) for "dog"
    both = np.array([0.001, 0.5])
    expected = [both / np.linalg.norm(both), (1, 0), (0, 1)]
    np.testing.assert_allclose(vectors, expected, rtol=1e-5)
    assert vectors.dtype == np.float32


def test_special_words_count_nothing():
    words = np.ones((6, 3), np.float32)
    tokens = np.array([[START, UNK, END, PAD], [PAD, PAD, PAD, PAD]], np.uint16)
    assert (caption_vectors(tokens, words, VOCABULARY) == 0).all()


def test_facts_become_columns_and_scenes_stay_out():
    facts = [
        '{"digit": "7", "vector": "up"}',
        None,
        '{"digit": 3, "year": null, "objects": [{"shape": "star"}]}',
    ]
    columns = fact_columns(facts, ["image_id", "vector"])
    assert {name: column.to_pylist() for name, column in columns.items()} == {
        "digit": ["7", None, "3"],
        "fact_vector": ["up", None, None],
        "year": [None, None, None],
    }
    assert {str(column.type) for column in columns.values()} == {"string"}
    assert fact_columns([None, None], []) == {}


def test_two_facts_never_share_a_column():
    columns = fact_columns(['{"split": "a", "fact_split": "b"}'], ["split", "fact_split"])
    values = {name: column.to_pylist() for name, column in columns.items()}
    assert values == {"fact_fact_split": ["a"], "fact_fact_fact_split": ["b"]}


def test_parquet_and_npy_hold_the_same_rows(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float16)
    columns = {"word": ("a", "b", "c", "d"), "count": (4, 3, 2, 1)}
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        write_vectors(folder, "words", columns, vectors)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    array = np.load(tmp_path / "one" / "words.npy")
    table = pd.read_parquet(tmp_path / "one" / "words.parquet")
    assert list(table) == ["word", "count", "vector"]
    assert list(table["word"]) == ["a", "b", "c", "d"] and list(table["count"]) == [4, 3, 2, 1]
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, vectors.astype(np.float32))
    np.testing.assert_array_equal(np.stack(table["vector"]), array)


@given(st.integers(1, 50000), st.integers(8, 256))
@settings(deadline=None)
def test_projected_rows_fit_the_sprite_and_are_spread_evenly(pictures, thumbnail):
    rows = projected_rows(pictures, thumbnail)
    fit = min(PROJECTED, (SPRITE_SIDE // thumbnail) ** 2)
    assert len(rows) == min(pictures, fit)
    assert rows[0] == 0 and rows[-1] == (pictures - 1 if len(rows) > 1 else 0)
    steps = np.diff(rows)
    assert len(steps) == 0 or (steps.min() >= 1 and steps.max() - steps.min() <= 1)
    assert np.ceil(np.sqrt(len(rows))) * thumbnail <= SPRITE_SIDE


CAPTIONS = ['a\t"red"\ndog', "a\r\n\r\nb", "=1+1", "é 日 \\ \x1b[0m\u2028x", None, "", "plain"]


@pytest.fixture
def projector(tmp_path):
    """Seven pictures, each of one grey, with hostile captions."""
    folder = tmp_path / "projector"
    write(folder)
    return folder


def write(folder):
    folder.mkdir()
    number = len(CAPTIONS)
    pictures = unit_vectors(np.random.default_rng(0).normal(size=(number, 3)))
    thumbnails = [np.full((8, 8, 3), 10 + 30 * i, np.uint8) for i in range(number)]
    metadata = pd.DataFrame(
        {"image_id": [f"p{i}" for i in range(number)], "split": "test", "caption": CAPTIONS}
    )
    words = unit_vectors(np.random.default_rng(1).normal(size=(6, 4)))
    write_projector(folder, pictures, metadata, thumbnails, words, VOCABULARY)
    return pictures, words


def test_projector_rows_agree(projector, tmp_path):
    pictures, words = write(tmp_path / "again")
    assert digest(tmp_path / "again") == digest(projector)
    found = np.loadtxt(projector / "pictures.tsv", delimiter="\t")
    np.testing.assert_allclose(found, pictures, atol=1e-5)
    found = np.loadtxt(projector / "words.tsv", delimiter="\t")
    np.testing.assert_allclose(found, words[len(SPECIALS) :], atol=1e-5)
    assert (projector / "words_metadata.tsv").read_text() == "a\ndog\n"  # one column: no header
    # Split as TensorBoard does: no quotes, no escapes.
    text = (projector / "pictures_metadata.tsv").read_bytes().decode()
    rows = [line.split("\t") for line in text.removesuffix("\n").split("\n")]
    assert rows[0] == ["image_id", "split", "caption"] and len(rows) == 1 + len(CAPTIONS)
    assert [row[:2] for row in rows[1:]] == [[f"p{i}", "test"] for i in range(len(CAPTIONS))]
    assert [row[2] for row in rows[1:]] == [
        'a "red" dog',
        "a    b",
        "=1+1",
        "é 日 \\  [0m x",
        "",
        "",
        "plain",
    ]


def test_sprite_holds_each_thumbnail_in_its_place(projector):
    with Image.open(projector / "sprite.png") as sprite:
        pixels = np.array(sprite)
    assert pixels.shape == (24, 24, 3)  # 3 x 3 places for 7 thumbnails of 8 pixels
    for number in range(9):
        row, column = divmod(number, 3)
        tile = pixels[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        assert (tile == (10 + 30 * number if number < 7 else 0)).all()


def test_projector_config_is_a_text_protobuf_that_names_files_that_are_there(projector):
    text = (projector / "projector_config.pbtxt").read_text()
    tokens = re.findall(r'"[^"]*"|[\w.]+:?|[{}]', text)
    assert "".join(tokens) == re.sub(r"\s+", "", text)  # there is nothing else

    def message(tokens: list[str]) -> list[tuple]:
        fields = []
        while tokens and tokens[0] != "}":
            name = tokens.pop(0)
            if tokens[0] == "{":
                tokens.pop(0)
                fields.append((name, message(tokens)))
                assert tokens.pop(0) == "}"
            else:
                assert name.endswith(":")
                fields.append((name[:-1], tokens.pop(0).strip('"')))
        return fields

    (first, pictures), (second, words) = message(tokens)
    assert first == second == "embeddings" and not tokens
    assert pictures == [
        ("tensor_name", "pictures"),
        ("tensor_path", "pictures.tsv"),
        ("metadata_path", "pictures_metadata.tsv"),
        (
            "sprite",
            [
                ("image_path", "sprite.png"),
                ("single_image_dim", "8"),
                ("single_image_dim", "8"),
            ],
        ),
    ]
    assert words == [
        ("tensor_name", "words"),
        ("tensor_path", "words.tsv"),
        ("metadata_path", "words_metadata.tsv"),
    ]
    named = set(re.findall(r'path: "([^"]+)"', text)) | {"projector_config.pbtxt", CHECKSUMS}
    assert named == {path.name for path in projector.iterdir()}
    verify(projector)


@pytest.fixture
def tensorboard(projector):
    """The address of a TensorBoard that shows the projector's folder."""
    program = Path(sysconfig.get_path("scripts")) / "tensorboard"
    if not program.exists():
        pytest.skip("TensorBoard is not installed (it is in the extra `test`)")
    command = [program, "--logdir", projector, "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            lines = []
            for line in process.stderr:
                lines.append(line)
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    break
            else:
                raise AssertionError("".join(lines))
            # What it still says must not fill the pipe.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield f"{found[0]}/data/plugin/projector"
        finally:
            process.terminate()


def test_the_real_tensorboard_shows_pictures_and_words(projector, tensorboard):
    def get(what: str) -> bytes:
        with urlopen(f"{tensorboard}/{what}", timeout=60) as answer:
            return answer.read()

    (run,) = json.loads(get("runs"))
    info = json.loads(get(f"info?run={quote(run)}"))
    assert [entry["tensorName"] for entry in info["embeddings"]] == ["pictures", "words"]
    for name in ("pictures", "words"):
        written = np.loadtxt(projector / f"{name}.tsv", delimiter="\t", dtype=np.float32)
        sent = np.frombuffer(get(f"tensor?run={quote(run)}&name={name}"), np.float32)
        np.testing.assert_array_equal(sent.reshape(written.shape), written)
        metadata = get(f"metadata?run={quote(run)}&name={name}")
        assert metadata.decode() == (projector / f"{name}_metadata.tsv").read_text()
        assert len(metadata.decode().splitlines()) == len(written) + (name == "pictures")
    sprite = get(f"sprite_image?run={quote(run)}&name=pictures")
    assert sprite == (projector / "sprite.png").read_bytes()
