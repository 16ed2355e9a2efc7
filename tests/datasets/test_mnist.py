"""datasets/mnist.py: splits, captions that are true, and archives that are not what they say."""

import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from captioner import CaptionerError
from captioner.datasets import Picture
from captioner.datasets.mnist import CAPTIONS, TEMPLATES, captions, read
from captioner.datasets.mnist_truth import WORDS, truthful
from captioner.metrics.tokenizer import tokenize

DIGITS = {"train": [5, 0, 4, 1, 9, 2], "test": [7, 8]}


def arrays() -> dict[str, np.ndarray]:
    """Six noisy pictures to learn from and two to test."""
    rng = np.random.default_rng(3)
    made = {}
    for name, digits in DIGITS.items():
        made[f"x_{name}"] = rng.integers(0, 256, (len(digits), 28, 28), np.uint8)
        made[f"y_{name}"] = np.array(digits, np.uint8)
    return made


def write(raw: Path, **changes: np.ndarray | bytes | None) -> Path:
    """mnist.npz with some arrays changed, left out (None), or given as the bytes of a member."""
    with zipfile.ZipFile(raw / "mnist.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in (arrays() | changes).items():
            if isinstance(values, np.ndarray):
                stream = io.BytesIO()
                np.save(stream, values)
                values = stream.getvalue()
            if values is not None:
                archive.writestr(f"{name}.npy", values)
    return raw


def header(shape: str, descr: str = "'|u1'") -> bytes:
    """The beginning of a .npy file, as its format version 1.0 has it."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def test_last_training_pictures_are_for_validation(tmp_path):
    pictures = list(read(write(tmp_path), val=2, seed=1))
    assert all(isinstance(picture, Picture) for picture in pictures)
    assert [(p.image_id, p.split, p.facts) for p in pictures] == [
        ("train-00000", "train", {"digit": "5"}),
        ("train-00001", "train", {"digit": "0"}),
        ("train-00002", "train", {"digit": "4"}),
        ("train-00003", "train", {"digit": "1"}),
        ("train-00004", "val", {"digit": "9"}),
        ("train-00005", "val", {"digit": "2"}),
        ("test-00000", "test", {"digit": "7"}),
        ("test-00001", "test", {"digit": "8"}),
    ]


def test_pictures_are_grey_pngs_of_the_same_pixels(tmp_path):
    pictures = list(read(write(tmp_path), val=1, seed=1))
    expected = [*arrays()["x_train"], *arrays()["x_test"]]
    for picture, pixels in zip(pictures, expected, strict=True):
        with Image.open(io.BytesIO(picture.data), formats=["PNG"]) as image:
            assert image.mode == "L"
            np.testing.assert_array_equal(np.asarray(image), pixels)


def test_captions_depend_on_seed_and_number_alone(tmp_path):
    write(tmp_path)
    first = list(read(tmp_path, val=1, seed=1))
    assert list(read(tmp_path, val=1, seed=1)) == first
    assert [p.captions for p in read(tmp_path, val=4, seed=1)] == [p.captions for p in first]
    assert [p.captions for p in read(tmp_path, val=1, seed=2)] != [p.captions for p in first]
    # train-00000 and test-00000 have different generators: the digit put aside, they would agree.
    sevens = write(tmp_path, y_train=np.full(6, 7, np.uint8), y_test=np.full(2, 7, np.uint8))
    said = [picture.captions for picture in read(sevens, val=1, seed=1)]
    assert len(set(said)) == len(said)


@given(st.integers(0, 9), st.integers(0, 2**32))
def test_five_different_captions_name_the_digit_once_each(digit, seed):
    said = captions(digit, np.random.default_rng(seed))
    assert len(set(said)) == len(said) == CAPTIONS == 5
    for caption in said:
        tokens = tokenize(caption)
        assert tokens.count(str(digit)) + tokens.count(WORDS[digit]) == 1
        assert not {*WORDS, *"0123456789"} - {WORDS[digit], str(digit)} & set(tokens)
        assert [number for number in range(10) if truthful(caption, {"digit": str(number)})] == [
            digit
        ]
        assert not re.search(r"\ba (eight|8)\b|\ban (?!eight|8)", caption)


def test_all_wordings_are_used_with_word_and_numeral_equally():
    said = [text for seed in range(400) for text in captions(3, np.random.default_rng(seed))]
    assert {text.replace("three", "3") for text in said} == {
        template.format(digit=3, a="a") for template in TEMPLATES
    }
    assert 0.45 < np.mean(["three" in text for text in said]) < 0.55


@pytest.mark.parametrize(
    ("caption", "digits"),
    [
        ("A handwritten SEVEN.", "7"),
        ("the digit 7 is a seven", "7"),
        ("a white 7, not a 1", ""),
        ("a seven or a one", ""),
        ("the number 77", ""),
        ("7 of 10", ""),
        ("a white digit on black", ""),
        ("", ""),
        ("zero", "0"),
    ],
)
def test_true_captions_name_the_right_digit_and_no_other(caption, digits):
    assert "".join(d for d in "0123456789" if truthful(caption, {"digit": d})) == digits


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param({"y_test": None}, "it has no y_test.npy", id="missing"),
        pytest.param(
            {"x_train": np.zeros((6, 32, 32), np.uint8)}, r"x_train .*\(6, 32, 32\)", id="side"
        ),
        pytest.param(
            {"y_train": np.zeros(5, np.uint8)},
            r"y_train \(5,\), expected \(n, 28, 28\)",
            id="fewer",
        ),
        pytest.param({"y_train": np.zeros((6, 1), np.uint8)}, r"y_train \(6, 1\)", id="columns"),
        pytest.param({"x_test": np.zeros(())}, "type float64, expected uint8", id="floats"),
        pytest.param(
            {"y_test": np.array([7, 10], np.uint8)}, "y_test has 10 at 1, expected 0 to 9", id="ten"
        ),
        pytest.param(
            {"x_test": np.asfortranarray(np.zeros((2, 28, 28), np.uint8))}, "row by row", id="order"
        ),
        pytest.param({"x_test": b""}, "x_test.npy is no array", id="empty"),
        pytest.param({"x_test": header("(2, 28")}, "x_test.npy is no array", id="half a header"),
        pytest.param({"x_test": b"\x93NUMPY\x09\x00ab"}, "is no array", id="version"),
        pytest.param({"x_test": header("(2, 28, 28)")}, "holds 0 bytes", id="nothing behind"),
        pytest.param(
            {"x_test": header("(2, 28, 28)") + bytes(1569)}, "holds 1569 bytes", id="one more"
        ),
        pytest.param({"x_test": header("(9999999999, 28, 28)")}, "holds 0 bytes", id="huge"),
        pytest.param({"x_test": header("(-2, -28, 28)") + bytes(1568)}, "shape", id="negative"),
        pytest.param({"x_test": header("(" * 9000)}, "is no array", id="nested"),
    ],
)
def test_what_is_no_mnist_is_one_line_with_file_and_remedy(tmp_path, changes, problem):
    with pytest.raises(CaptionerError, match=problem) as caught:
        next(read(write(tmp_path, **changes), val=1, seed=1))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'mnist.npz'}: ")
    assert message.endswith("delete it and run the download stage again")
    assert "\n" not in message


class Bomb:
    """Would make a file if it was unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickles_are_never_opened(tmp_path):
    stream = io.BytesIO()
    np.save(stream, np.array([Bomb(tmp_path / "opened")], object), allow_pickle=True)
    with pytest.raises(CaptionerError, match="type object, expected uint8"):
        next(read(write(tmp_path, x_train=stream.getvalue()), val=1, seed=1))
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(None, id="missing"),
        pytest.param(b"<html>no such page</html>", id="page"),
        pytest.param(b"PK\x05\x06" + bytes(18), id="empty zip"),
    ],
)
def test_no_archive_is_an_error_that_names_it(tmp_path, data):
    if data is not None:
        (tmp_path / "mnist.npz").write_bytes(data)
    with pytest.raises(CaptionerError, match=re.escape(str(tmp_path / "mnist.npz"))):
        next(read(tmp_path, val=1, seed=1))


def test_declared_sizes_beyond_reason_are_refused_before_reading(tmp_path):
    with pytest.raises(CaptionerError, match=r"x_train.npy.* claims"):  # 8 MB of zeros in 8 kB
        next(read(write(tmp_path, x_train=np.zeros((10000, 28, 28), np.uint8)), val=1, seed=1))


@pytest.mark.parametrize("val", [6, 7])
def test_validation_must_leave_a_training_picture(tmp_path, val):
    with pytest.raises(CaptionerError, match=rf"^datasets\.mnist\.download\.val: {val} of the 6 "):
        next(read(write(tmp_path), val=val, seed=1))
    assert next(read(tmp_path, val=5, seed=1)).split == "train"


def test_real_digits_are_white_on_black(shared):
    pictures = read(shared / "data" / "mnist", val=5000, seed=1)
    first = [next(pictures) for _ in range(200)]
    assert {picture.split for picture in first} == {"train"}
    assert "".join(picture.facts["digit"] for picture in first[:10]) == "5041921314"
    for picture in first:
        pixels = np.asarray(Image.open(io.BytesIO(picture.data)))
        assert pixels[0].max() < 64 and pixels.max() > 200 and pixels.mean() < 100
