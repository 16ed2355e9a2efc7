"""grad_cam.py: the equations against hand computations; a place that is known; the figure."""

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from captioner import cnn, course_cnn
from captioner.drawing import Page
from captioner.encoder import build_encoder
from captioner.grad_cam import draw_grad_cam, grad_cam, predict

PICTURES = np.random.default_rng(1).integers(0, 256, (3, 8, 8, 3), np.uint8)


def linear_head(encoder: keras.Model, labels: int, pooling=layers.GlobalAveragePooling2D):
    grid = keras.Input(encoder.output_shape[1:])
    return keras.Model(grid, layers.Dense(labels, name="linear")(pooling()(grid)))


def random_encoder(seed: int) -> keras.Model:
    """Nested as a network of keras.applications is: 2 x 2 cells of 5 channels, also below zero."""
    keras.utils.set_random_seed(seed)
    inner = keras.Input((8, 8, 3))
    network = keras.Model(inner, layers.Conv2D(5, 4, strides=4)(inner))
    pictures = keras.Input((8, 8, 3))
    return keras.Model(pictures, network(layers.Rescaling(1 / 255)(pictures)))


def test_with_a_linear_head_it_is_the_class_activation_map():
    encoder = random_encoder(1)
    head = linear_head(encoder, 4)
    kernel = head.get_layer("linear").kernel.numpy()  # (channels, labels)
    grid = encoder(PICTURES.astype(np.float32)).numpy()
    classes = np.array([[0, 3], [2, 2], [1, 0]])
    found = grad_cam(encoder, head, PICTURES, classes)
    assert found.shape == (3, 2, 2, 2)
    for number, row in enumerate(classes):
        for place, label in enumerate(row):
            activation_map = (grid[number] * kernel[:, label]).sum(-1) / 4  # cells
            np.testing.assert_allclose(
                found[number, place], np.maximum(activation_map, 0), rtol=1e-4, atol=1e-6
            )
    assert (found > 0).any()
    assert (found == 0).any()
    np.testing.assert_array_equal(found[1, 0], found[1, 1])


@pytest.mark.parametrize("averaged", [True, False])
def test_a_head_that_is_not_linear_against_differences(averaged):
    encoder = random_encoder(2)
    head = cnn.build_head(encoder, 3, seed=4)
    grid = encoder(PICTURES[:1].astype(np.float32)).numpy()
    steps = 1e-2 * np.eye(grid.size, dtype=np.float32).reshape(-1, *grid.shape[1:])
    for label in range(3):
        up, down = (head(grid + sign * steps).numpy()[:, label] for sign in (1, -1))
        gradient = ((up - down) / 2e-2).reshape(grid.shape[1:])
        weights = gradient.mean(axis=(0, 1)) if averaged else gradient
        expected = np.maximum((weights * grid[0]).sum(-1), 0)
        found = grad_cam(encoder, head, PICTURES[:1], np.array([[label]]), averaged=averaged)
        np.testing.assert_allclose(found[0, 0], expected, rtol=1e-2, atol=2e-4)


def test_batch_is_single():
    encoder = random_encoder(3)
    head = cnn.build_head(encoder, 6, seed=1)
    classes = np.array([[0, 1, 2], [3, 4, 5], [5, 0, 3]])
    together = grad_cam(encoder, head, PICTURES, classes)
    for number in range(3):
        for place in range(3):
            one = classes[number : number + 1, place : place + 1]
            alone = grad_cam(encoder, head, PICTURES[number : number + 1], one)
            np.testing.assert_allclose(alone[0, 0], together[number, place], atol=1e-6)


def corner_detector() -> tuple[keras.Model, keras.Model]:
    """Channel 0 is the brightness, channel 1 the darkness; "bright" asks for 0, "dark" for 1."""
    pictures = keras.Input((8, 8, 3))
    x = layers.Conv2D(2, 1, name="conv")(pictures)
    x = layers.ReLU()(layers.BatchNormalization(epsilon=0, name="norm")(x))
    encoder = keras.Model(pictures, layers.MaxPooling2D(4)(x))
    encoder.get_layer("conv").set_weights([np.full((1, 1, 3, 2), 1 / 3), np.zeros(2)])
    # (mean - 100) for one, and for the other (40 - mean)
    encoder.get_layer("norm").set_weights(np.array([[1, -1], [0, 0], [100, 40], [1, 1]]))
    head = linear_head(encoder, 2)
    head.get_layer("linear").set_weights([np.eye(2), np.zeros(2)])
    return encoder, head


def test_the_place_of_a_bright_corner_is_found_in_the_cells_of_the_last_convolution():
    encoder, head = corner_detector()
    pictures = np.full((2, 8, 8, 3), 70, np.uint8)  # neither bright nor dark
    pictures[0, :2, 6:] = 200
    pictures[1, 7, 0] = 10
    found = grad_cam(encoder, head, pictures, np.array([[0, 1], [0, 1]]))
    assert found.shape == (2, 2, 8, 8)  # though the encoder's grid is 2 x 2
    expected = np.zeros((2, 2, 8, 8))
    # The gradient of a mean of 4 cells goes to 4 of 64: the mean of it is 1 / 64.
    expected[0, 0, :2, 6:] = 100 / 64
    expected[1, 1, 7, 0] = 30 / 64
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_flat_layer_needs_the_weight_of_each_cell():
    keras.utils.set_random_seed(5)
    encoder = course_cnn.build_course_cnn(8, 3)
    head = course_cnn.build_head(encoder)
    evidence = encoder.get_layer("evidence")
    evidence.kernel.assign(abs(evidence.kernel))
    evidence.bias.assign([1, 2, 3])
    classes = np.tile([2, 0, 1], (3, 1))
    found = grad_cam(encoder, head, PICTURES, classes, averaged=False)
    assert found.shape == (3, 3, 4, 4)
    # Nothing counts against a class here, so the map adds up to the logit.
    logits = head(encoder(PICTURES.astype(np.float32))).numpy()
    np.testing.assert_allclose(found.sum((2, 3)), logits[:, [2, 0, 1]] - [3, 1, 2], rtol=1e-4)


def test_words_have_probabilities_of_their_own_and_classes_share_one():
    encoder, head = corner_detector()
    head.get_layer("linear").set_weights([np.zeros((2, 2)), np.log([3, 1])])
    np.testing.assert_allclose(predict(encoder, head, PICTURES, False), [[0.75, 0.5]] * 3)
    np.testing.assert_allclose(predict(encoder, head, PICTURES, True), [[0.75, 0.25]] * 3)


def test_a_pretrained_network_is_seen_at_its_grid():
    encoder = build_encoder("mobilenet_v2", 64)
    pictures = PICTURES.repeat(8, 1).repeat(8, 2)
    head = linear_head(encoder, 2)
    head.get_layer("linear").set_weights([np.ones((1280, 2)) * [1, -1], np.zeros(2)])
    found = grad_cam(encoder, head, pictures, np.array([[0, 1]] * 3))
    grid = encoder(pictures.astype(np.float32)).numpy()
    assert found.shape == (3, 2, 2, 2)
    np.testing.assert_allclose(found[:, 0], grid.sum(-1) / 4, rtol=1e-3)
    assert not found[:, 1].any()


@pytest.fixture
def pages(monkeypatch) -> list[Page]:
    """All pages that are saved."""
    saved, save = [], Page.save
    monkeypatch.setattr(Page, "save", lambda page, path: (saved.append(page), save(page, path)))
    return saved


def test_the_figure_shows_picture_caption_words_and_maps_on_one_scale(tmp_path, pages):
    maps = np.zeros((3, 2, 4, 4), np.float32)
    maps[0, 0, 0, 0], maps[2, 1, 3, 3] = 2.0, 1.0
    labels = [[("dog", 0.93), ("$x$", 0.5)]] * 3
    captions = ["a dog", "", "a <b> $cat$"]
    white = np.full((3, 8, 8, 3), 255, np.uint8)
    draw_grad_cam(tmp_path / "cam.png", white, captions, labels, maps, "title")
    (page,) = pages
    texts = [text.get_text() for text in page.figure.texts]
    assert texts[0] == "title"
    head = texts.index("0")
    assert texts[head + 1] == "2  evidence"
    assert texts[head + 2 : head + 7] == ["a dog", "dog", "93%", "$x$", "50%"]
    assert texts[head + 7] == "(empty)"
    assert not any(text.get_parse_math() for text in page.figure.texts)
    _, *tiles = [axes.images[0].get_array().astype(int) for axes in page.figure.axes]
    assert len(tiles) == 9
    corner = [tile[:15, :15].sum(-1).mean() for tile in (tiles[1], tiles[2])]
    assert corner[0] > corner[1] + 200
    half = tiles[8][-15:, -15:].sum(-1).mean()
    assert corner[1] + 50 < half < corner[0] - 50


@pytest.mark.filterwarnings("error")
def test_hostile_texts_stay_apart_and_equal_content_gives_equal_bytes(tmp_path, pages):
    captions = ["W" * 300, "日本 🐕 \u202e x", "wide " * 60]
    labels = [[("W" * 90, 1.0), ("日本", 0.001)]] * 3
    maps = np.random.default_rng(1).random((3, 2, 3, 3), np.float32)
    for name in ("a.png", "b.png"):
        draw_grad_cam(tmp_path / name, PICTURES, captions, labels, maps, "long " * 90)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        pixels = np.array(image.convert("RGB"))
    for border in (pixels[:25], pixels[-25:], pixels[:, :25], pixels[:, -25:]):
        assert (border == 255).all()
    texts = [text for text in pages[0].figure.texts if text.get_text().strip()]
    boxes = [text.get_window_extent() for text in texts]
    for number, box in enumerate(boxes):
        others = [other for other in boxes[number + 1 :] if box.overlaps(other)]
        assert not others, texts[number].get_text()
