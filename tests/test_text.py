"""text.py and the tokenize stage: vocabulary, encoding, padding, files that lie."""

import csv
import json
import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from captioner import CaptionerError
from captioner.glove import SPREAD
from captioner.text import (
    END,
    PAD,
    SPECIALS,
    START,
    UNK,
    Vocabulary,
    encode_captions,
    encode_tokens,
    token_statistics,
)
from captioner.words import words_of

ROOT = Path(__file__).resolve().parent.parent
CAPTIONS = [["a", "red", "dog"], ["a", "dog", "runs"], ["a", "blue", "dog", "sits"], []]
words = st.text("abc'-$é1", min_size=1, max_size=4)
captions = st.lists(st.lists(words, max_size=8), max_size=12)


def test_words_are_ordered_by_count_then_alphabet():
    vocabulary = Vocabulary.build(CAPTIONS, min_count=1)
    assert vocabulary.words == (*SPECIALS, "a", "dog", "blue", "red", "runs", "sits")
    assert vocabulary.counts == (0, 4, 4, 0, 3, 3, 1, 1, 1, 1)


def test_rare_words_are_counted_as_unknown():
    vocabulary = Vocabulary.build(CAPTIONS, min_count=2)
    assert vocabulary.words == (*SPECIALS, "a", "dog")
    assert vocabulary.counts[UNK] == 4
    assert vocabulary.encode(["a", "red", "dog"], 9) == [START, 4, UNK, 5, END]


@given(captions, st.randoms(use_true_random=False))
def test_order_of_captions_does_not_matter(drawn, shuffler: random.Random):
    drawn = [["always"], *drawn]
    shuffled = drawn[:]
    shuffler.shuffle(shuffled)
    assert Vocabulary.build(shuffled, 1) == Vocabulary.build(drawn, 1)


@given(captions, st.integers(1, 9))
def test_round_trip_padding_and_cut(drawn, max_length):
    vocabulary = Vocabulary.build([["always"], *drawn], 1)
    encoded = encode_tokens(drawn, vocabulary, max_length)
    assert encoded.shape == (len(drawn), max_length + 2)
    assert encoded.dtype == np.uint16
    for row, caption in zip(encoded, drawn, strict=True):
        length = min(len(caption), max_length)
        assert vocabulary.decode(row) == " ".join(caption[:max_length])
        assert row[0] == START and row[length + 1] == END
        assert (row[length + 2 :] == PAD).all() and PAD not in row[: length + 2]


def test_decode_stops_at_end_and_drops_specials():
    vocabulary = Vocabulary.build(CAPTIONS, min_count=1)
    assert vocabulary.decode([START, 4, UNK, PAD, 5, END, 4, 4]) == "a dog"


def test_special_names_in_captions_are_plain_unknown_text():
    vocabulary = Vocabulary.build([["<end>", "<pad>", "<start>", "<unk>", "a"]] * 5, min_count=1)
    assert vocabulary.words == (*SPECIALS, "a")
    assert vocabulary.counts == (0, 5, 5, 20, 5)
    assert vocabulary.encode(["a", "<end>", "<pad>", "a"], 9) == [START, 4, UNK, UNK, 4, END]
    [row] = encode_captions(["a <end> a <pad> <start> a"], vocabulary, 8)
    assert list(row) == [START, 4, UNK, 4, UNK, UNK, 4, END, PAD, PAD]


def test_tokens_that_no_file_could_hold_are_unknown():
    vocabulary = Vocabulary.build([["a", "b c", "d\n", "\ud800", ""]], min_count=1)
    assert vocabulary.words == (*SPECIALS, "a")


def test_captions_are_tokenized_as_the_measures_do():
    vocabulary = Vocabulary.build([["it", "'s", "a", "dog"]], min_count=1)
    [row] = encode_captions(["It's a DOG."], vocabulary, 5)
    assert vocabulary.decode(row) == "it 's a dog"


def test_chinese_is_encoded_by_characters_and_decoded_without_blanks():
    captions = ["一只黑狗", "一只 Dog 跑。"]
    vocabulary = Vocabulary.build([words_of(one, True) for one in captions], 1, True)
    assert vocabulary.words[4:] == ("一", "只", "dog", "。", "狗", "跑", "黑")
    assert vocabulary.words_of("黑狗跑") == ["黑", "狗", "跑"]
    encoded = encode_captions(captions, vocabulary, 6)
    assert list(encoded[0]) == [START, 4, 5, 10, 8, END, PAD, PAD]
    assert [vocabulary.decode(row) for row in encoded] == ["一只黑狗", "一只 dog 跑。"]
    assert vocabulary.words_at(encoded[1]) == ["一", "只", "dog", "跑", "。"]
    whole = Vocabulary.build([["一只黑狗"], ["跑"]], 1)
    assert whole.words_of("一只黑狗 跑") == ["一只黑狗", "跑"]
    assert whole.decode([4, 5, END]) == "一只黑狗 跑"


def test_content_words():
    vocabulary = Vocabulary.build(
        [["the", "dog", "on", "a", "red", "$", "-lrb-", "dog"]], min_count=1
    )
    assert vocabulary.content_words(9) == ["dog", "red"]
    assert vocabulary.content_words(1) == ["dog"]


def test_vocabulary_without_words_names_the_key():
    with pytest.raises(CaptionerError, match=r"tokenize\.min_count: 4 leaves no word of 4"):
        Vocabulary.build(CAPTIONS, min_count=4)


def test_vocabulary_larger_than_uint16_names_the_key():
    numbers = [[str(i) for i in range(2**16 - len(SPECIALS))]]
    assert len(Vocabulary.build(numbers, min_count=1)) == 2**16
    with pytest.raises(CaptionerError, match=r"tokenize\.min_count: 1 leaves 65533 words"):
        Vocabulary.build([*numbers, ["more"]], min_count=1)


@given(captions, st.booleans())
def test_save_and_load(tmp_path_factory, drawn, split_characters):
    path = tmp_path_factory.mktemp("tokens") / "vocabulary.json"
    vocabulary = Vocabulary.build([["always"], *drawn], 1, split_characters)
    vocabulary.save(path)
    assert Vocabulary.load(path) == vocabulary
    assert set(json.loads(path.read_text())) == {"words", "counts", "split_characters"}


GOOD = {
    "words": [*SPECIALS, "a", "dog"],
    "counts": [0, 2, 2, 0, 2, 1],
    "split_characters": False,
}
HOSTILE = {
    "no JSON": "{",
    "empty": "",
    "deep": "[" * 100_000,
    "list": "[]",
    "further key": json.dumps({**GOOD, "more": 1}),
    "words no list": json.dumps({**GOOD, "words": "abcdef"}),
    "lengths": json.dumps({**GOOD, "counts": [0, 2, 2, 0, 2]}),
    "only specials": json.dumps({**GOOD, "words": SPECIALS, "counts": [0] * 4}),
    "of before the split": json.dumps({k: GOOD[k] for k in ("words", "counts")}),
    "split no truth value": json.dumps({**GOOD, "split_characters": 0}),
    "specials shuffled": json.dumps({**GOOD, "words": [*SPECIALS[::-1], "a", "dog"]}),
    "special twice": json.dumps({**GOOD, "words": [*SPECIALS, "a", "<end>"]}),
    "word twice": json.dumps({**GOOD, "words": [*SPECIALS, "a", "a"]}),
    "word no text": json.dumps({**GOOD, "words": [*SPECIALS, "a", ["dog"]]}),
    "word empty": json.dumps({**GOOD, "words": [*SPECIALS, "a", ""]}),
    "word with blank": json.dumps({**GOOD, "words": [*SPECIALS, "a", "b c"]}),
    "word with escape": json.dumps({**GOOD, "words": [*SPECIALS, "a", "\x1b[2J"]}),
    "lone surrogate": json.dumps({**GOOD, "words": [*SPECIALS, "a", "\ud800"]}),
    "negative": json.dumps({**GOOD, "counts": [0, 2, 2, 0, 2, -1]}),
    "fraction": json.dumps({**GOOD, "counts": [0, 2, 2, 0, 2, 1.5]}),
    "truth value": json.dumps({**GOOD, "counts": [0, 2, 2, 0, 2, True]}),
    "not a number": json.dumps({**GOOD, "counts": [0, 2, 2, 0, 2, float("nan")]}),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_vocabulary_is_named(tmp_path, content):
    path = tmp_path / "vocabulary.json"
    path.write_text(json.dumps(GOOD))
    assert Vocabulary.load(path).words[-1] == "dog"
    path.write_text(content)
    with pytest.raises(CaptionerError, match=r"vocabulary\.json: not a vocabulary") as caught:
        Vocabulary.load(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "vocabulary.json"
    path.write_bytes(b'{"words": ["\xff"]}')
    with pytest.raises(CaptionerError, match="not a vocabulary"):
        Vocabulary.load(path)


def test_missing_vocabulary_names_the_stage(tmp_path):
    with pytest.raises(CaptionerError, match="dvc repro tokenize"):
        Vocabulary.load(tmp_path / "vocabulary.json")


def test_statistics():
    vocabulary = Vocabulary.build(CAPTIONS[:2], min_count=1)  # a dog red runs
    splits = ["train", "train", "val", "val"]
    assert token_statistics(CAPTIONS, splits, vocabulary, max_length=3) == {
        "vocabulary": 8,
        "captions": 4,
        "tokens": 10,
        "mean_length": 2.5,
        "longest_caption": 4,
        "cut_captions": 1,
        "captions_train": 2,
        "captions_val": 2,
        "unknown_tokens_train": 0.0,
        "unknown_tokens_val": 0.5,
    }


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A working folder with six captions and vectors for three of their words."""
    texts = ["A red dog.", "A dog (wet) runs", "a red cat", "A blue dog", "A zebra.", "a cat <end>"]
    table = pd.DataFrame(
        {
            "image_id": list("xxyzzw"),
            "split": ["train"] * 3 + ["val"] * 2 + ["test"],
            "picture": np.array([0, 0, 1, 2, 2, 3], np.int32),
            "caption_id": [0, 1, 0, 0, 1, 0],
            "caption": texts,
        }
    )
    (tmp_path / "data/raw").mkdir(parents=True)
    table.to_parquet(tmp_path / "data/captions.parquet")
    with zipfile.ZipFile(tmp_path / "data/raw/glove.6B.zip", "w") as archive:
        numbers = np.arange(150.0).reshape(3, 50)
        lines = zip(["a", "dog", "red"], numbers, strict=True)
        text = "".join(f"{word} {' '.join(map(str, row))}\n" for word, row in lines)
        archive.writestr("glove.6B.50d.txt", text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_tokenize(
    folder: Path, source: str, max_length: int = 4, split_characters: bool = False
) -> dict[str, bytes]:
    """Run the stage with a glove source; the bytes of all that it wrote."""
    from stages.tokenize import main

    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["dataset"] = "scenes"
    params["tokenize"] |= {"min_count": 1, "max_length": max_length}
    params["tokenize"]["split_characters"] = split_characters
    params["glove"] |= {"source": source, "dimensions": 50}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    main()
    files = [*folder.glob("data/tokens/*"), *folder.glob("reports/tokenize/*")]
    return {path.name: path.read_bytes() for path in files}


def test_stage_with_published_vectors(checkout):
    first = run_tokenize(checkout, "file")
    assert run_tokenize(checkout, "file") == first  # byte for byte
    vocabulary = Vocabulary.load("data/tokens/vocabulary.json")
    assert vocabulary.words[4:] == ("a", "dog", "red", "-lrb-", "-rrb-", "cat", "runs", "wet")
    encoded = np.load("data/tokens/captions.npy")
    assert encoded.shape == (6, 6)
    assert list(encoded[1]) == [START, 4, 5, 7, 11, END]  # "runs" does not fit
    assert list(encoded[5]) == [START, 4, 9, UNK, END, PAD]
    pictures = np.load("data/tokens/pictures.npy")
    assert pictures.dtype == np.int32 and list(pictures) == [0, 0, 1, 2, 2, 3]
    matrix = np.load("data/tokens/word_vectors.npy")
    assert matrix.shape == (12, 50) and matrix.dtype == np.float32
    assert list(matrix[5]) == list(range(50, 100))
    metrics = json.loads(first["metrics.json"])
    assert metrics["coverage_types"] == 3 / 8
    assert metrics["coverage_tokens"] == pytest.approx(7 / 12)
    assert metrics["unknown_tokens_val"] == pytest.approx(2 / 5)
    assert metrics["unknown_tokens_test"] == pytest.approx(1 / 3)
    missing = list(csv.reader(first["missing_words.csv"].decode().splitlines()))
    assert missing[:3] == [["word", "count"], ["'-lrb-", "1"], ["'-rrb-", "1"]]


def test_stage_with_trained_vectors(checkout):
    (checkout / "data/raw/glove.6B.zip").unlink()
    first = run_tokenize(checkout, "train")
    assert run_tokenize(checkout, "train") == first
    metrics = json.loads(first["metrics.json"])
    # Cut captions are trained on as the captioner sees them: without "-rrb-" and "runs".
    assert metrics["coverage_tokens"] == pytest.approx(10 / 12)
    assert 0 < metrics["glove_loss"] < 1
    near = list(csv.DictReader(first["neighbours.csv"].decode().splitlines()))
    assert {row["word"] for row in near} == {"dog", "red", "cat", "runs", "wet"}
    assert all(-1 <= float(row["cosine"]) <= 1 for row in near)


def test_stage_with_vectors_drawn_at_random(checkout):
    (checkout / "data/raw/glove.6B.zip").unlink()
    first = run_tokenize(checkout, "none")
    assert run_tokenize(checkout, "none") == first
    matrix = np.load("data/tokens/word_vectors.npy")
    assert matrix.shape == (12, 50) and not matrix[PAD].any()
    assert matrix[1:].std() == pytest.approx(SPREAD, rel=0.1)
    metrics = json.loads(first["metrics.json"])
    assert metrics["coverage_types"] == metrics["coverage_tokens"] == 0
    assert "glove_loss" not in metrics
    assert first["neighbours.csv"] == b"word,neighbour,cosine\n"
    missing = list(csv.reader(first["missing_words.csv"].decode().splitlines()))
    assert [word for word, _ in missing[1:4]] == ["a", "dog", "red"]


def test_stage_on_other_scripts(checkout):
    table = pd.read_parquet("data/captions.parquet")
    texts = ["Ένας μαύρος σκύλος", "一只黑狗跑", "一只狗", "一只黑狗。", "ένας σκύλος", "黑狗"]
    table.assign(caption=texts).to_parquet("data/captions.parquet")
    first = run_tokenize(checkout, "train", 9, split_characters=True)
    vocabulary = Vocabulary.load("data/tokens/vocabulary.json")
    assert vocabulary.split_characters
    assert vocabulary.words[4:] == (*"一只狗", "ένας", "μαύρος", "σκύλος", "跑", "黑")
    encoded = np.load("data/tokens/captions.npy")
    decoded = [vocabulary.decode(row) for row in encoded]
    assert decoded[:3] == ["ένας μαύρος σκύλος", "一只黑狗跑", "一只狗"]
    metrics = json.loads(first["metrics.json"])
    assert metrics["coverage_types"] == 1
    assert metrics["unknown_tokens_val"] == pytest.approx(1 / 7)  # the full stop
    with pytest.raises(
        CaptionerError, match=r"none of the 12 words has a vector.* write train .* or none"
    ):
        run_tokenize(checkout, "file", 9, split_characters=True)
    table.assign(caption="一只黑狗跑").to_parquet("data/captions.parquet")
    with pytest.raises(CaptionerError, match=r"write none .*, or tokenize\.split_char"):
        run_tokenize(checkout, "train", 9)


def test_stage_as_people_run_it(checkout):
    run_tokenize(checkout, "file")
    (checkout / "data/raw/glove.6B.zip").unlink()
    before = {path: path.read_bytes() for path in checkout.glob("data/tokens/*")}
    code = (
        "import runpy, sys; sys.argv = ['tokenize']\n"
        "try: runpy.run_module('stages.tokenize', run_name='__main__', alter_sys=True)\n"
        "finally:\n"
        "    import tokenize; assert tokenize.generate_tokens, 'the standard library is hidden'\n"
        "    assert 'tensorflow' not in sys.modules\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2, ran.stderr
    assert ran.stderr.count("\n") == 1
    assert ran.stderr.startswith("tokenize: data/raw/glove.6B.zip: no such file")
    assert {path: path.read_bytes() for path in checkout.glob("data/tokens/*")} == before
