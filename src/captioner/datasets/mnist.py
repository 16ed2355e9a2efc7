"""MNIST: 70,000 handwritten digits with labels, and captions that are made from the labels.

The archive holds four arrays of numpy: the pictures, white on black, and their digits, 60,000 to
learn from and 10,000 to test. They are read without numpy's loader, so that no array can be larger
than its bytes and no pickle is ever opened. Each picture's captions come from a generator of their
own, seeded with (seed, array, number): how many pictures validation gets changes no caption.
Source: LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document
Recognition", Proceedings of the IEEE 86 (1998).
"""

import io
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from captioner import CaptionerError
from captioner.archives import Archive
from captioner.datasets import SPLITS, Picture
from captioner.datasets.mnist_truth import WORDS
from captioner.datasets.published import MNIST

SIDE = 28  # of a picture, in pixels
CAPTIONS = 5  # a picture

# True of every picture of the data set: {digit} is a word or a numeral, {a} its article.
TEMPLATES = (
    "a handwritten {digit}",
    "the digit {digit}",
    "this is the number {digit}",
    "a white {digit} on black",
    "{a} {digit} written by hand",
    "the number {digit} on a black background",
    "a picture of the digit {digit}",
    "{a} {digit} in white strokes",
    "someone has written {a} {digit}",
    "the handwritten number {digit}",
    "a white handwritten {digit}",
    "it says {digit} in white on black",
)


def read(raw: Path, val: int, seed: int) -> Iterator[Picture]:
    """Yield the digits as PNG files, in the order train, val, test.

    Args:
        raw: folder with mnist.npz.
        val: the last so many of the training pictures are for validation.
        seed: of the captions.

    Raises:
        CaptionerError: the archive is missing, damaged or not of this kind, or `val` leaves no
            picture for training.
    """
    path = Path(raw) / MNIST.name
    with Archive(path) as archive:
        learning, test = (_labelled(archive, array) for array in ("train", "test"))
    train = len(learning[1]) - val
    if train < 1:
        raise CaptionerError(
            f"datasets.mnist.download.val: {val} of the {len(learning[1])} training pictures of "
            f"{path} leave none for training; write a smaller number"
        )
    for array, (pixels, digits) in (("train", learning), ("test", test)):
        for number, digit in enumerate(digits.tolist()):
            rng = np.random.default_rng([seed, SPLITS.index(array), number])
            png = io.BytesIO()
            Image.fromarray(pixels[number]).save(png, "PNG", compress_level=1)
            yield Picture(
                image_id=f"{array}-{number:05d}",
                split="val" if array == "train" and number >= train else array,
                data=png.getvalue(),
                captions=captions(digit, rng),
                facts={"digit": str(digit)},
            )


def captions(digit: int, rng: np.random.Generator) -> tuple[str, ...]:
    """Five different captions that name the digit once each."""
    chosen = rng.choice(len(TEMPLATES), CAPTIONS, replace=False)
    spelled = rng.random(CAPTIONS) < 0.5
    article = "an" if digit == 8 else "a"
    return tuple(
        TEMPLATES[template].format(digit=WORDS[digit] if word else digit, a=article)
        for template, word in zip(chosen, spelled, strict=True)
    )


def _labelled(archive: Archive, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (n, 28, 28) uint8 and their digits (n,) uint8."""
    pixels, digits = (_array(archive, f"{letter}_{name}.npy") for letter in "xy")
    if digits.ndim != 1 or pixels.shape != (len(digits), SIDE, SIDE):
        raise _other(
            archive,
            f"x_{name} has the shape {pixels.shape} and y_{name} {digits.shape}, expected "
            f"(n, {SIDE}, {SIDE}) and (n,)",
        )
    if wrong := np.flatnonzero(digits >= len(WORDS)).tolist():
        raise _other(archive, f"y_{name} has {digits[wrong[0]]} at {wrong[0]}, expected 0 to 9")
    return pixels, digits


def _array(archive: Archive, member: str) -> np.ndarray:
    """The array of a member; its header must declare just the bytes that are there."""
    if member not in archive.names:
        raise _other(archive, f"it has no {member}")
    stream = io.BytesIO(archive.read(member))
    try:
        version = np.lib.format.read_magic(stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, by_column, dtype = read_header(stream)
    except Exception as error:  # on damaged headers numpy raises nearly anything
        reason = " ".join(str(error).split())[:100]
        raise _other(archive, f"{member} is no array: {reason}") from None
    if dtype != np.uint8 or by_column:
        raise _other(archive, f"{member} is of the type {dtype}, expected uint8 row by row")
    values = np.frombuffer(stream.getbuffer(), np.uint8, offset=stream.tell())
    if len(values) != math.prod(shape) or min(shape, default=0) < 0:
        raise _other(archive, f"{member} declares the shape {shape} but holds {len(values)} bytes")
    return values.reshape(shape)


def _other(archive: Archive, problem: str) -> CaptionerError:
    return CaptionerError(
        f"{archive.path}: not the published digits ({problem}); delete it and run the download "
        "stage again"
    )
