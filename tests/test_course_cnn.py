"""course_cnn.py: the course's network to the last weight, taken apart and put together again."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from captioner import CaptionerError
from captioner.checkpoints import State
from captioner.course_cnn import (
    Epoch,
    build_course_cnn,
    build_head,
    predict,
    train_course_cnn,
)
from captioner.determinism import make_deterministic

SIZE = 12
SETTINGS = {"epochs": 3, "batch_size": 8, "learning_rate": 0.003, "seed": 5}
TRAIN, TEST = np.arange(40), np.arange(40, 51)  # the last batch of TEST is a small one


def course_network(size: int, classes: int) -> keras.Model:
    """The network as the course builds it."""
    return keras.Sequential(
        [
            keras.Input((size, size, 1)),
            keras.layers.Conv2D(64, kernel_size=3, activation="relu"),
            keras.layers.Conv2D(32, kernel_size=3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(classes, activation="softmax"),
        ]
    )


def noise(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(size).integers(0, 256, (count, size, size, 3), np.uint8)


def with_biases(encoder: keras.Model) -> keras.Model:
    """All weights drawn, so that a bias that is left out shows."""
    rng = np.random.default_rng(2)
    encoder.set_weights([rng.normal(0, 0.1, weight.shape) for weight in encoder.weights])
    return encoder


def grey(pictures: np.ndarray) -> np.ndarray:
    """(n, size, size, 1) in 0..1, as the course feeds it."""
    return pictures.mean(axis=-1, keepdims=True).astype(np.float32) / 255


@pytest.mark.parametrize(("size", "classes"), [(28, 10), (33, 3), (12, 2)])
def test_grid_and_head_are_the_course_network(size, classes):
    encoder = with_biases(build_course_cnn(size, classes))
    network = course_network(size, classes)
    assert encoder.count_params() == network.count_params()
    network.set_weights(encoder.get_weights())
    pictures = noise(5, size)
    expected = network(grey(pictures)).numpy()
    assert expected.std() > 0.01
    head = build_head(encoder)
    found = predict(encoder, head, lambda numbers: pictures[numbers], np.arange(5), 2)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_the_digits_network_has_the_weights_and_the_grid_of_the_course():
    encoder = build_course_cnn(28, 10)
    assert encoder.count_params() == 640 + 18_464 + 184_330
    assert encoder.output_shape == (None, 6, 6, 42)
    kernel = encoder.get_layer("evidence").kernel.numpy()
    # Glorot uniform of 18,432 inputs and 10 outputs: within sqrt(6 / 18,442), its variance a third.
    limit = np.sqrt(6 / (24 * 24 * 32 + 10))
    assert abs(kernel).max() <= limit
    assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.02)


@pytest.mark.parametrize(
    ("size", "block", "blocks"),
    [(9, 1, 5), (12, 1, 8), (28, 4, 6), (32, 4, 7), (33, 4, 8), (64, 10, 6)],
)
def test_a_block_is_its_own_cells_and_no_others(size, block, blocks):
    """Channels are means, evidence is sums, by plain loops; the last blocks hold what is left."""
    encoder = with_biases(build_course_cnn(size, 3))
    pictures = noise(2, size)
    maps = keras.Model(encoder.input, encoder.get_layer("conv_2").output)(
        pictures.astype(np.float32)
    ).numpy()
    side = size - 4
    kernel = encoder.get_layer("evidence").kernel.numpy().reshape(side, side, 32, 3)
    found = encoder(pictures.astype(np.float32)).numpy()
    assert found.shape == (2, blocks, blocks, 35)
    for row in range(blocks):
        for column in range(blocks):
            here = np.s_[row * block : (row + 1) * block, column * block : (column + 1) * block]
            cells = maps[:, here[0], here[1]]
            evidence = sum(
                cells[:, y, x] @ kernel[here][y, x]
                for y in range(cells.shape[1])
                for x in range(cells.shape[2])
            )
            expected = np.concatenate([cells.mean(axis=(1, 2)), evidence], axis=1)
            np.testing.assert_allclose(found[:, row, column], expected, rtol=1e-4, atol=1e-5)


def test_colours_are_seen_as_grey():
    encoder = with_biases(build_course_cnn(SIZE, 2))
    pictures = noise(3, SIZE).astype(np.float32)
    equal = np.repeat(pictures.mean(axis=-1, keepdims=True), 3, axis=-1)
    np.testing.assert_allclose(encoder(pictures), encoder(equal), rtol=1e-4, atol=1e-5)


def test_too_large_a_flat_layer_is_refused_before_it_is_built():
    with pytest.raises(CaptionerError, match=r"^encoder\.backbone course_cnn: 5000 classes"):
        build_course_cnn(1024, 5000)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """51 noisy pictures with a bright bar at the left, in the middle or at the right, by turns."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 80, (51, SIZE, SIZE, 1))
    for number in range(51):
        pictures[number, :, 4 * (number % 3) : 4 * (number % 3) + 4] += 150
    return np.repeat(pictures, 3, axis=-1).astype(np.uint8)


class Killed(Exception):
    """Stands for kill -9."""


class KilledAfterAnEpoch(State):
    def keep_arrays(self, *arguments):
        super().keep_arrays(*arguments)
        raise Killed


def train(pictures: np.ndarray, **changes) -> tuple[keras.Model, list[Epoch]]:
    make_deterministic(5)
    encoder = build_course_cnn(SIZE, 3)
    epochs = train_course_cnn(
        encoder,
        build_head(encoder),
        lambda numbers: pictures[numbers],
        (TRAIN, TRAIN % 3),
        (TEST, TEST % 3),
        **SETTINGS | changes,
    )
    return encoder, list(epochs)


def test_bars_are_learnt_and_the_same_seed_gives_the_same_bytes(pictures, tmp_path):
    saved = []
    with pytest.raises(Killed):
        train(pictures, state=KilledAfterAnEpoch(tmp_path))
    # Left alone; gone on with after a kill; and started again when it was over.
    for name, state in (("alone", None), ("killed", State(tmp_path)), ("over", State(tmp_path))):
        encoder, epochs = train(pictures, state=state)
        encoder.save_weights(tmp_path / f"{name}.weights.h5")
        saved.append((epochs, (tmp_path / f"{name}.weights.h5").read_bytes()))
    assert saved[0] == saved[1] == saved[2]
    assert len(epochs) == 3
    assert epochs[-1].loss < 0.3 < epochs[0].loss
    assert epochs[0].accuracy < epochs[-1].accuracy
    assert epochs[-1].test_accuracy == 1.0
    assert train(pictures, seed=6)[1] != epochs


@pytest.fixture
def eager():
    """A few steps are done sooner without compiling them."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.usefixtures("eager")
def test_training_is_that_of_keras(pictures):
    """One epoch of one batch: Adam and cross-entropy as `fit` has them."""
    network = course_network(SIZE, 3)
    make_deterministic(5)
    network.set_weights(build_course_cnn(SIZE, 3).get_weights())
    network.compile(
        keras.optimizers.Adam(0.003), loss="categorical_crossentropy", metrics=["accuracy"]
    )
    truth = np.eye(3)[TRAIN % 3]
    fitted = network.fit(grey(pictures[TRAIN]), truth, 40, shuffle=False, verbose=0).history
    test = network.evaluate(grey(pictures[TEST]), np.eye(3)[TEST % 3], verbose=0)
    encoder, [epoch] = train(pictures, epochs=1, batch_size=40)
    for found, expected in zip(encoder.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-4)
    assert epoch.loss == pytest.approx(fitted["loss"][0], rel=1e-4)
    assert epoch.accuracy == pytest.approx(fitted["accuracy"][0])
    assert [epoch.test_loss, epoch.test_accuracy] == pytest.approx(test, rel=1e-3)


@pytest.mark.usefixtures("eager")
def test_numbers_of_an_epoch_are_means_of_the_pictures_not_of_the_batches(pictures):
    """With learning rate 0 the network stays as it starts: 40 pictures in batches of 17, 17, 6."""
    encoder, [epoch] = train(pictures, epochs=1, batch_size=17, learning_rate=0.0)
    network = course_network(SIZE, 3)
    network.set_weights(encoder.get_weights())
    for rows, loss, accuracy in (
        (TRAIN, epoch.loss, epoch.accuracy),
        (TEST, epoch.test_loss, epoch.test_accuracy),
    ):
        probabilities = network(grey(pictures[rows])).numpy()
        of_truth = probabilities[np.arange(len(rows)), rows % 3]
        assert loss == pytest.approx(-np.log(of_truth).mean(), rel=1e-4)
        assert accuracy == pytest.approx((probabilities.argmax(1) == rows % 3).mean())


@pytest.mark.usefixtures("eager")
def test_loss_that_is_no_number_stops_with_the_learning_rate(pictures):
    with pytest.raises(CaptionerError, match=r"^encoder: .* epoch 1: .*learning_rate \(1e\+30\)$"):
        train(pictures, learning_rate=1e30)
