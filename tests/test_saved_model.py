"""saved_model.py: the same captions from plain TensorFlow, in a process without this package."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from captioner import bundle
from captioner.cli import main
from captioner.raster import decode, prepare
from captioner.saved_model import _orientation, _prepared
from tests.test_bundle import PREPARATION, picture, write

PROGRAM = """
import json, sys
sys.modules["captioner"] = None  # an import of it would fail
import tensorflow as tf
caption = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
pictures = [open(path, "rb").read() for path in sys.argv[2:]]
found = caption(tf.constant(pictures))
print(json.dumps([[text.decode() for text in found["caption"].numpy()],
                  found["log_probability"].numpy().tolist()]))
"""


def jpeg(seed: int, exif: bytes = b"", size: tuple[int, int] = (50, 40)) -> bytes:
    stream = io.BytesIO()
    with Image.open(io.BytesIO(picture(seed, size))) as image:
        image.save(stream, "JPEG", quality=95, subsampling=0, exif=exif)
    return stream.getvalue()


def orientation(value: int, byte_order: str = "<") -> bytes:
    exif = Image.Exif()
    exif.endian = byte_order
    exif[0x010E] = "a picture"
    exif[0x0112] = value
    return exif.tobytes()


def test_captions_without_this_package(tmp_path, capsys):
    model = write(tmp_path / "bundle", seeds=(5, 6))
    command = ["bundle", "export", "--bundle", str(model), "--savedmodel", str(tmp_path / "served")]
    assert main(command) == 0
    assert "signature serving_default" in capsys.readouterr().out
    assert main(command) == 2
    assert "is there already; --force replaces it" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0

    pictures = [jpeg(seed, orientation(1 + seed)) for seed in range(4)]
    paths = [tmp_path / f"{number}.jpg" for number in range(4)]
    for path, data in zip(paths, pictures, strict=True):
        path.write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "served"), *map(str, paths)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr
    captions, log_probabilities = json.loads(done.stdout.splitlines()[-1])
    expected = bundle.load(model, batch_size=4).caption(pictures)
    assert captions == [caption.text for caption in expected]
    # The models are random ones: a level of brightness moves them a little.
    np.testing.assert_allclose(
        log_probabilities, [caption.log_probability for caption in expected], rtol=0.05
    )


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
@pytest.mark.parametrize("turn", [1, 6])
def test_pictures_are_prepared_as_for_training(fit, turn):
    settings = {"size": 32, "fit": fit, "jpeg_quality": 92}
    data = jpeg(3, orientation(turn))
    expected = decode(prepare(data, **settings, max_pixels=10**6).jpeg)
    preparation = bundle.Preparation(**settings, max_pixels=10**6)
    found = _prepared(tf.constant(data), preparation).numpy()
    assert found.shape == (32, 32, 3) and found.dtype == np.uint8
    # The tests' pictures are blocks with sharp borders: there the filters differ most.
    assert np.abs(found.astype(int) - expected).mean() < 4


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("value", range(1, 9))
def test_orientation(value, byte_order):
    assert int(_orientation(tf.constant(jpeg(1, orientation(value, byte_order))))) == value


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",  # a directory behind the end of everything
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\0" * 24,  # 65,535 entries
        orientation(9),
        orientation(0),
    ],
)
def test_nothing_sound_is_no_turn(exif):
    assert int(_orientation(tf.constant(jpeg(1, exif)))) == 1
    assert int(_orientation(tf.constant(b"\xff\xd8\xff\xe1\0\x10" + exif))) == 1


def test_all_turns_are_those_of_training():
    for turn in range(1, 9):
        data = jpeg(8, orientation(turn), (32, 32))
        wanted = decode(prepare(data, **vars(PREPARATION)).jpeg)
        found = _prepared(tf.constant(data), PREPARATION).numpy()
        assert np.abs(found.astype(int) - wanted).mean() < 2, turn
