"""encoder_report.py: the figures keep their pixels."""

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from captioner import cnn, course_cnn
from captioner.drawing import DPI, MARGIN, Page
from captioner.encoder import build_encoder
from captioner.encoder_report import (
    LEFT,
    MAPS,
    draw_feature_maps,
    most_active,
    write_encoder_report,
)
from captioner.feature_maps import FeatureMaps, first_layer_filters
from captioner.grad_cam import grad_cam

FIGURES = ("feature_maps.png", "first_layer.png", "grad_cam.png")


def random_pictures(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(size).integers(0, 256, (count, size, size, 3), np.uint8)


@pytest.fixture
def pages(monkeypatch) -> dict[str, Page]:
    """All pages that are saved, by the name of their file."""
    saved, save = {}, Page.save
    monkeypatch.setattr(
        Page, "save", lambda page, path: (saved.update({path.name: page}), save(page, path))
    )
    return saved


def written(page: Page) -> list[str]:
    return [text.get_text() for text in page.figure.texts]


def test_the_report_of_words_shows_the_likeliest_and_repeats_itself(tmp_path, pages):
    keras.utils.set_random_seed(1)
    encoder = build_encoder("cnn", 32)
    head = cnn.build_head(encoder, 4, seed=1)
    head.layers[1].set_weights([head.layers[1].kernel.numpy() * 0, np.array([-1.0, 2, 0, 2])])
    arguments = (encoder, head, ["a", "b", "c", "d"], random_pictures(3, 32), ["x", "", "$y"])
    for folder in (tmp_path / "first", tmp_path / "second"):
        write_encoder_report(folder, *arguments)
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == sorted(FIGURES)
    for name in FIGURES:
        first, second = (tmp_path / folder / name for folder in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()
        with Image.open(first) as image:
            assert min(image.size) > 200
    texts = written(pages["grad_cam.png"])
    assert texts[0] == "cnn: where the evidence for the likeliest words lies (Grad-CAM)"
    start = texts.index("x")
    assert texts[start : start + 7] == ["x", "b", "88%", "d", "88%", "c", "50%"]
    assert len(written(pages["first_layer.png"])) >= 16
    texts = written(pages["feature_maps.png"])
    assert "32 × 32 × 3" in texts
    assert "convolution  32 × 32 × 16" in texts
    assert "pooling  4 × 4 × 128" in texts


def test_the_report_of_classes_with_a_flat_layer(tmp_path, pages):
    keras.utils.set_random_seed(1)
    encoder = course_cnn.build_course_cnn(8, 3)
    head = course_cnn.build_head(encoder)
    pictures = random_pictures(2, 8)
    write_encoder_report(tmp_path, encoder, head, "abc", pictures, "xy", top=9, exclusive=True)
    texts = written(pages["grad_cam.png"])
    assert texts[0] == "course_cnn: where the evidence for the likeliest classes lies (HiResCAM)"
    start = texts.index("x")
    shares = [float(text.rstrip("%")) for text in texts[start + 2 : start + 7 : 2]]
    assert sum(shares) == pytest.approx(100, abs=2)
    assert shares == sorted(shares, reverse=True)
    largest = grad_cam(encoder, head, pictures, np.tile(np.arange(3), (2, 1)), averaged=False).max()
    assert f"{largest:.2g}  evidence" in texts
    assert any("over the grey picture" in text for text in written(pages["first_layer.png"]))


def hand_made() -> keras.Model:
    """Eleven channels: number k is red less 10 k; then ReLU, then pooling."""
    pictures = keras.Input((4, 4, 3))
    x = layers.Conv2D(11, 1, name="conv")(pictures)
    x = layers.MaxPooling2D(2, name="pool")(layers.ReLU(name="relu")(x))
    encoder = keras.Model(pictures, x, name="hand")
    kernel = np.zeros((1, 1, 3, 11))
    kernel[0, 0, 0] = 1
    encoder.get_layer("conv").set_weights([kernel, -10.0 * np.arange(11)])
    return encoder


def test_maps_keep_their_pixels_and_zero_its_colour(tmp_path, pages):
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[..., 0] = np.arange(16).reshape(4, 4) * 6  # 0 to 90
    draw_feature_maps(tmp_path / "maps.png", hand_made(), picture)
    with Image.open(tmp_path / "maps.png") as image:
        drawn = np.array(image.convert("RGB")).astype(int)
    squares = {}
    for image in pages["maps.png"].figure.images:
        pixels = image.get_array()
        if pixels.shape[0] != pixels.shape[1]:  # a line or a scale
            continue
        top = drawn.shape[0] - round(image.oy) - len(pixels)
        left = round(image.ox)
        # The file has the very pixels that were meant.
        region = drawn[top : top + len(pixels), left : left + len(pixels)]
        np.testing.assert_array_equal(region, pixels)
        squares.setdefault(top, []).append((left, region))
    rows = [[region for _, region in sorted(row, key=lambda pair: pair[0])] for row in
            (squares[top] for top in sorted(squares))]  # fmt: skip
    assert [len(row) for row in rows] == [1, MAPS, MAPS, MAPS]
    assert min(left for row in squares.values() for left, _ in row) == round((MARGIN + LEFT) * DPI)
    cells = 128 // 4
    np.testing.assert_array_equal(rows[0][0][::cells, ::cells], picture)
    # Channels are equal in variance, so the first ones are shown; number 5 is red less 50.
    red, blue = (lambda pixels: pixels[..., 0] - pixels[..., 2]), (lambda pixels: pixels[..., 2])
    before, after = rows[1][5][::cells, ::cells], rows[2][5][::cells, ::cells]
    values = picture[..., 0].astype(int) - 50
    assert (red(before)[values > 5] > 0).all()
    assert (red(before)[values < -5] < 0).all()
    assert (blue(before)[values < -5] > 200).any()
    np.testing.assert_array_equal(before[values > 0], after[values > 0])  # ReLU leaves them alone
    assert len({tuple(color) for color in after[values < 0]}) == 1  # zero
    pooled = rows[3][5][::64, ::64]
    np.testing.assert_array_equal(pooled, after[1::2, 1::2])  # the largest is at the lower right
    texts = written(pages["maps.png"])
    assert texts.count("90") == 3  # on one scale
    assert texts.count("−70") == 0
    assert texts.count("−90") == 1
    assert [text for text in texts if text.startswith("channel ")] == [
        f"channel {number}" for number in range(MAPS)
    ]


def test_the_most_active_channels_are_those_of_largest_variance():
    maps = np.zeros((2, 2, 12), np.float32)
    maps[0, 0] = [0, 1, 5, 2, 2, 9, 0, -3, 0, 0, 0, 0]
    row = FeatureMaps("conv", "convolution", maps, "", 0)
    assert most_active([row]) == [5, 2, 7, 3, 4, 1, 0, 6]


def test_filters_are_drawn_with_zero_as_grey(tmp_path, pages):
    encoder = hand_made()
    head = keras.Sequential([keras.Input((2, 2, 11)), layers.Flatten(), layers.Dense(1)])
    write_encoder_report(tmp_path, encoder, head, ["a"], random_pictures(1, 4), ["x"])
    first = pages["first_layer.png"].figure.images
    assert len(first) == 11
    assert first_layer_filters(encoder).colors[0].tolist() == [[[1, 0, 0]]]
    for image in first:  # the weight of red is 1, of green and blue 0
        assert {tuple(color) for color in image.get_array().reshape(-1, 3)} == {(255, 128, 128)}
