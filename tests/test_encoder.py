"""encoder.py: backbones with the scaling of their publishers, features on disk, files."""

import io
import json
import zipfile

import keras
import numpy as np
import pytest
from keras import applications
from PIL import Image

from captioner import CaptionerError
from captioner.cnn import build_head as build_word_head
from captioner.course_cnn import build_head
from captioner.determinism import make_deterministic
from captioner.encoder import (
    BACKBONES,
    build_encoder,
    extract_features,
    fetch_weights,
    grid_function,
    load_encoder,
    load_words,
    save_encoder,
    save_words,
    word_function,
)

# Smallest picture each backbone takes here, the grid it makes of it, its publisher's scaling.
PUBLISHED = {
    "mobilenet_v2": (32, (1, 1, 1280), applications.mobilenet_v2.preprocess_input),
    "resnet50": (32, (1, 1, 2048), applications.resnet50.preprocess_input),
    "inception_v3": (75, (1, 1, 2048), applications.inception_v3.preprocess_input),
    "efficientnet_v2_b0": (32, (1, 1, 1280), applications.efficientnet_v2.preprocess_input),
    "vgg16": (32, (1, 1, 512), applications.vgg16.preprocess_input),
    "convnext_tiny": (32, (1, 1, 768), applications.convnext.preprocess_input),
}


def random_pictures(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(size).integers(0, 256, (count, size, size, 3), np.uint8)


@pytest.fixture(scope="module")
def cnn() -> keras.Model:
    make_deterministic(1)
    return build_encoder("cnn", 32)


@pytest.fixture(scope="module")
def course_cnn() -> keras.Model:
    """With a bias that is not zero, as after training."""
    make_deterministic(1)
    encoder = build_encoder("course_cnn", 12, classes=3)
    encoder.get_layer("evidence").bias.assign([0.5, -1.0, 2.0])
    return encoder


def test_every_backbone_is_tried_here():
    assert set(PUBLISHED) == set(BACKBONES)


@pytest.mark.parametrize("backbone", PUBLISHED)
def test_backbone_sees_pictures_as_its_publisher_scales_them(backbone):
    size, grid, preprocess = PUBLISHED[backbone]
    make_deterministic(1)
    encoder = build_encoder(backbone, size)
    assert encoder.output_shape == (None, *grid)
    assert not encoder.trainable_variables
    pictures = random_pictures(1, size)
    network = encoder.layers[-1]
    expected = network(preprocess(pictures.astype(np.float32)), training=False).numpy()
    assert expected.std() > 0
    found = encoder(pictures.astype(np.float32), training=False).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * abs(expected).max())


def test_features_are_those_of_the_encoder_rounded(cnn, tmp_path):
    pictures = random_pictures(7, 32)
    batches = [(first, pictures[first : first + 3]) for first in (0, 3, 6)]  # the last has one
    assert extract_features(cnn, batches, 7, 3, tmp_path) == (16, cnn.output_shape[-1])
    grid = np.load(tmp_path / "grid.npy", mmap_mode="r")
    pooled = np.load(tmp_path / "pooled.npy", mmap_mode="r")
    assert grid.dtype == pooled.dtype == np.float16
    expected = cnn(pictures.astype(np.float32), training=False).numpy().reshape(7, 16, -1)
    assert len({picture.tobytes() for picture in expected}) == 7
    np.testing.assert_allclose(grid, expected, rtol=2e-3, atol=1e-4)
    assert pooled.shape == (7, grid.shape[2])
    np.testing.assert_allclose(pooled, expected.mean(1), rtol=2e-3, atol=1e-4)

    again = tmp_path / "again"
    again.mkdir()
    extract_features(cnn, batches[::-1], 7, 3, again)  # in any order
    for name in ("grid.npy", "pooled.npy"):
        assert (again / name).read_bytes() == (tmp_path / name).read_bytes()


def test_cells_go_row_by_row(tmp_path):
    """An encoder that anyone can follow: each cell is the mean of two by two pixels."""
    pictures = keras.Input((4, 4, 3))
    encoder = keras.Model(pictures, keras.layers.AveragePooling2D(2)(pictures))
    picture = np.zeros((1, 4, 4, 3), np.uint8)
    picture[0, :2, 2:, 0] = 8  # top right, red
    picture[0, 3, 1, 2] = 200  # one pixel of the bottom left, blue
    extract_features(encoder, [(0, picture)], 1, 2, tmp_path)
    expected = [[0, 0, 0], [8, 0, 0], [0, 0, 50], [0, 0, 0]]
    assert np.load(tmp_path / "grid.npy").tolist() == [expected]
    assert np.load(tmp_path / "pooled.npy").tolist() == [[2, 0, 12.5]]


def test_mirrored_pictures_are_those_of_the_rows_asked_for(cnn, tmp_path):
    pictures = random_pictures(7, 32)
    batches = [(first, pictures[first : first + 3]) for first in (0, 3, 6)]
    chosen = np.array([1, 2, 6])  # two of the first batch, none of the second
    extract_features(cnn, batches, 7, 3, tmp_path, mirrored=chosen)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "grid.npy",
        "grid_mirrored.npy",
        "pooled.npy",
        "pooled_mirrored.npy",
    ]
    turned, again = np.stack([np.fliplr(picture) for picture in pictures[chosen]]), tmp_path / "x"
    again.mkdir()
    extract_features(cnn, [(0, turned)], 3, 3, again)
    for name in ("grid", "pooled"):
        found = np.load(tmp_path / f"{name}_mirrored.npy")
        expected = np.load(again / f"{name}.npy")
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-4)
        assert not np.allclose(found, np.load(tmp_path / f"{name}.npy")[chosen], rtol=2e-3)


def test_cells_of_a_mirrored_picture_go_from_the_left_of_what_is_seen(tmp_path):
    pictures = keras.Input((4, 4, 3))
    encoder = keras.Model(pictures, keras.layers.AveragePooling2D(2)(pictures))
    picture = np.zeros((1, 4, 4, 3), np.uint8)
    picture[0, :2, 2:, 0] = 8  # top right, red
    extract_features(encoder, [(0, picture)], 1, 2, tmp_path, mirrored=np.array([0]))
    cells = [[8, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]  # now top left
    assert np.load(tmp_path / "grid_mirrored.npy").tolist() == [cells]


def test_words_are_probabilities_of_the_stored_grid(cnn, tmp_path):
    pictures = random_pictures(5, 32)
    batches = [(0, pictures[:3]), (3, pictures[3:])]
    head = build_word_head(cnn, 4, seed=2)
    head.get_layer("word_logits").bias.assign([0.0, 1.0, -1.0, 3.0])
    extract_features(cnn, batches, 5, 3, tmp_path, head=head)
    grid = np.load(tmp_path / "grid.npy").astype(np.float64)
    kernel, bias = head.get_layer("word_logits").get_weights()
    odds = np.exp(grid @ kernel + bias).mean(axis=1)  # the soft maximum is the log of it
    words = np.load(tmp_path / "words.npy")
    assert words.dtype == np.float16
    assert len(np.unique(words)) > 10
    np.testing.assert_allclose(words, odds / (1 + odds), atol=1e-3)


def test_saved_and_loaded_words_give_equal_bytes_and_probabilities(cnn, tmp_path):
    head = build_word_head(cnn, 2, seed=2)
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    save_words(head, ["dog", "Hündin"], folders[0])
    loaded, words = load_words(folders[0], cnn)
    assert words == ["dog", "Hündin"]
    save_words(loaded, words, folders[1])
    for name in ("words.json", "words.npz"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    grid = grid_function(cnn, 3)(random_pictures(3, 32))
    found = word_function(loaded)(grid)
    assert found.std() > 0
    np.testing.assert_array_equal(found, word_function(head)(grid))


def test_an_encoder_that_learnt_no_words_has_none(cnn, tmp_path):
    save_encoder(cnn, "cnn", 32, tmp_path)
    assert load_words(tmp_path, cnn) == (None, [])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("words.json", b"{", id="no JSON"),
        pytest.param("words.json", b'"dog"', id="no list"),
        pytest.param("words.json", b"[1, 2]", id="no words"),
        pytest.param("words.json", b"[]", id="none"),
        pytest.param("words.json", b'["dog"]', id="too few"),
        pytest.param("words.npz", b"", id="no weights"),
    ],
)
def test_damaged_words_are_one_line_that_names_the_folder(cnn, tmp_path, name, content):
    save_words(build_word_head(cnn, 2, seed=2), ["dog", "cat"], tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CaptionerError) as caught:
        load_words(tmp_path, cnn)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: no usable word head (")
    assert message.endswith("run the encoder stage")
    assert "\n" not in message


def test_values_beyond_float16_stay_finite():
    pictures = keras.Input((8, 8, 3))
    encoder = keras.Model(pictures, keras.layers.Rescaling(1e6)(pictures))
    found = grid_function(encoder, 1)(np.full((1, 8, 8, 3), 255, np.uint8))
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, np.full((1, 64, 3), 6e4, np.float16))


def test_saved_and_loaded_encoder_gives_equal_bytes_and_features(cnn, tmp_path):
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    save_encoder(cnn, "cnn", 32, folders[0])
    loaded, size = load_encoder(folders[0])
    save_encoder(loaded, "cnn", size, folders[1])
    assert size == 32
    for name in ("config.json", "weights.weights.h5"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    pictures = random_pictures(2, 32)
    np.testing.assert_array_equal(
        grid_function(loaded, 2)(pictures), grid_function(cnn, 2)(pictures)
    )


def test_course_cnn_comes_back_with_its_classes_and_its_bias(course_cnn, tmp_path):
    save_encoder(course_cnn, "course_cnn", 12, tmp_path)
    loaded, size = load_encoder(tmp_path)
    assert size == 12
    assert loaded.output_shape == (None, 8, 8, 32 + 3)
    pictures = random_pictures(3, 12).astype(np.float32)
    logits = [build_head(encoder)(encoder(pictures)).numpy() for encoder in (course_cnn, loaded)]
    np.testing.assert_array_equal(*logits)
    assert abs(logits[0]).max() > 0.5
    np.testing.assert_array_equal(
        loaded.get_layer("evidence").bias, course_cnn.get_layer("evidence").bias
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param('"classes": 3', '"classes": 4', id="other number"),
        pytest.param('"classes": 3', '"classes": "3"', id="no number"),
        pytest.param('"classes": 3', '"classes": -3', id="negative"),
        pytest.param('"classes": 3', '"classes": null', id="null"),
        pytest.param('"classes": 3,', "", id="missing"),
        pytest.param('"size": 12', '"size": -12', id="negative size"),
        pytest.param('"size": 12', '"size": 100000', id="huge size"),
    ],
)
def test_damaged_course_cnn_is_an_error_not_a_crash(course_cnn, tmp_path, old, new):
    save_encoder(course_cnn, "course_cnn", 12, tmp_path)
    config = tmp_path / "config.json"
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new).replace(",\n}", "\n}"))
    with pytest.raises(CaptionerError, match="no usable encoder") as caught:
        load_encoder(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: ")


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        pytest.param("config.json", None, id="no config"),
        pytest.param("weights.weights.h5", None, id="no weights"),
        pytest.param("config.json", lambda good: b"{", id="no JSON"),
        pytest.param("config.json", lambda good: b"[]", id="no object"),
        pytest.param("config.json", lambda good: good.replace(b"cnn", b"rnn"), id="unknown"),
        pytest.param("config.json", lambda good: good.replace(b"32", b'"a"'), id="no number"),
        pytest.param("weights.weights.h5", lambda good: good[: len(good) // 2], id="cut"),
        pytest.param("weights.weights.h5", lambda good: good.replace(b"TREE", b"EERT"), id="tree"),
    ],
)
def test_damaged_folder_is_one_line_that_names_it(cnn, tmp_path, name, spoil):
    save_encoder(cnn, "cnn", 32, tmp_path)
    if spoil is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(spoil((tmp_path / name).read_bytes()))
    with pytest.raises(CaptionerError) as caught:
        load_encoder(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: no usable encoder (")
    assert message.endswith("run the encoder stage")
    assert "\n" not in message


def test_damaged_imagenet_weights_are_one_line_that_says_what_to_do(tmp_path):
    weights = tmp_path / BACKBONES["mobilenet_v2"].weights
    weights.write_bytes(b"\x89HDF\r\n\x1a\n and no more")
    with pytest.raises(CaptionerError) as caught:
        build_encoder("mobilenet_v2", 32, weights)
    message = str(caught.value)
    assert message.startswith("encoder.backbone mobilenet_v2: cannot load its ImageNet weights (")
    assert weights.name in message
    assert "CAPTIONER_MIRROR" in message
    assert "\n" not in message


def test_weights_come_from_the_mirror_else_from_keras(monkeypatch, tmp_path):
    """Keras's own file is there already: nothing is asked of the network."""
    name = BACKBONES["mobilenet_v2"].weights
    monkeypatch.setattr("captioner.encoder.keras_home", lambda: str(tmp_path / "home"))
    asked = []
    monkeypatch.setattr("captioner.encoder.build_encoder", lambda *args: asked.append(args))
    monkeypatch.setenv("CAPTIONER_MIRROR", str(tmp_path))
    assert fetch_weights("mobilenet_v2") == tmp_path / "home" / "models" / name
    assert asked == [("mobilenet_v2", 224, "imagenet")]
    stored = tmp_path / "keras" / name
    stored.parent.mkdir()
    stored.write_bytes(b"")
    assert fetch_weights("mobilenet_v2") == stored
    assert len(asked) == 1


def test_the_name_and_sha256_of_imagenet_weights_are_noted(tmp_path):
    """So that DVC sees other weights even where fine-tuning would end with the same ones."""
    encoder = build_encoder("mobilenet_v2", 32)
    source = tmp_path / "published.h5"
    source.write_bytes(b"abc")
    save_encoder(encoder, "mobilenet_v2", 32, tmp_path, source)
    assert json.loads((tmp_path / "config.json").read_text())["imagenet_weights"] == {
        "name": "published.h5",
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    }
    assert load_encoder(tmp_path)[1] == 32


def test_real_weights_tell_real_photographs_apart(shared, monkeypatch):
    monkeypatch.setenv("CAPTIONER_MIRROR", str(shared / "data" / "keras"))
    with zipfile.ZipFile(shared / "data" / "flickr8k" / "Flickr8k_Dataset.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")][:2]
        opened = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]
    pictures = np.stack([np.asarray(picture.resize((224, 224))) for picture in opened])
    weights = fetch_weights("mobilenet_v2")
    assert weights.is_relative_to(shared)
    grid = grid_function(build_encoder("mobilenet_v2", 224, weights), 2)(pictures).astype(float)
    assert grid.shape == (2, 49, 1280)
    assert np.isfinite(grid).all()
    assert (grid.std(axis=(1, 2)) > 0.1).all()
    assert (grid.std(axis=1) > 0).mean() > 0.2  # cells differ within a picture
    first, second = (picture.mean(0) for picture in grid)
    cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert 0 < cosine < 0.95
