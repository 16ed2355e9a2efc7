"""cnn.py: the soft maximum over cells, learning from scratch."""

from itertools import chain

import keras
import numpy as np
import pytest
import tensorflow as tf

from captioner import CaptionerError
from captioner.checkpoints import State
from captioner.cnn import build_cnn, build_head, passes, train_cnn, warm_cosine
from captioner.determinism import make_deterministic

SIZE = 32
SETTINGS = {"epochs": 2, "batch_size": 8, "learning_rate": 0.005, "seed": 5}

CHANNELS = 128  # filters of the last convolution


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """48 noisy pictures, even numbers reddish, odd ones bluish."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 100, (48, SIZE, SIZE, 3))
    pictures[0::2, ..., 0] += 100
    pictures[1::2, ..., 2] += 100
    return pictures.astype(np.uint8)


def colour_labels(numbers: np.ndarray) -> np.ndarray:
    """red, blue."""
    return np.stack([numbers % 2 == 0, numbers % 2 == 1], 1).astype(np.uint8)


TRAIN, VAL = np.arange(32), np.arange(32, 43)  # the last batch of VAL is a small one


class Killed(Exception):
    """Stands for kill -9."""


class KilledAfterAnEpoch(State):
    def keep_arrays(self, *arguments):
        super().keep_arrays(*arguments)
        raise Killed


def train(pictures, **changes):
    """Returns encoder, head and epochs."""
    make_deterministic(5)
    encoder = build_cnn(SIZE)
    head = build_head(encoder, 2, seed=5)
    epochs = list(
        train_cnn(
            encoder,
            head,
            lambda numbers: pictures[numbers],
            (TRAIN, colour_labels(TRAIN)),
            (VAL, colour_labels(VAL)),
            **SETTINGS | changes,
        )
    )
    return encoder, head, epochs


@pytest.mark.parametrize("size", [32, 64, 100])
def test_grid_is_an_eighth_of_the_picture(size):
    assert build_cnn(size).output_shape == (None, size // 8, size // 8, CHANNELS)


def test_colours_are_learnt_and_the_same_seed_gives_the_same_bytes(pictures, tmp_path):
    saved = []
    with pytest.raises(Killed):
        train(pictures, state=KilledAfterAnEpoch(tmp_path))
    # Left alone; gone on with after a kill; and started again when it was over.
    for name, state in (("alone", None), ("killed", State(tmp_path)), ("over", State(tmp_path))):
        encoder, head, epochs = train(pictures, state=state)
        encoder.save_weights(tmp_path / f"{name}.weights.h5")
        saved.append((epochs, (tmp_path / f"{name}.weights.h5").read_bytes()))
    assert saved[0] == saved[1] == saved[2]
    assert len(epochs) == 2
    assert epochs[-1].loss < 0.2 < epochs[0].loss
    assert epochs[-1].val_f1 == 1.0
    logits = head(encoder(pictures[VAL].astype(np.float32), training=False)).numpy()
    np.testing.assert_array_equal(logits > 0, colour_labels(VAL) == 1)


@pytest.fixture
def eager():
    """A few steps are done sooner without compiling them."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.usefixtures("eager")
def test_validation_is_the_soft_maximum_over_the_cells(pictures):
    """With learning rate 0 the label layer keeps its start, so that numpy can do the same."""
    encoder, _, [epoch] = train(pictures, epochs=1, learning_rate=0.0)
    kernel = np.asarray(keras.initializers.GlorotUniform(5)((CHANNELS, 2)))
    grid = encoder(pictures[VAL].astype(np.float32), training=False).numpy()
    cells = grid.reshape(len(VAL), 16, CHANNELS) @ kernel
    logits = np.log(np.exp(cells).mean(1))
    truth = colour_labels(VAL)
    probability = 1 / (1 + np.exp(-logits))
    loss = -np.where(truth == 1, np.log(probability), np.log(1 - probability)).mean()
    assert epoch.val_loss == pytest.approx(loss, abs=1e-4)
    said = probability > 0.5
    hits = (said & (truth == 1)).sum()
    precision, recall = hits / max(1, said.sum()), hits / truth.sum()
    assert hits > 0
    assert epoch.val_f1 == pytest.approx(2 * precision * recall / (precision + recall))


@pytest.mark.usefixtures("eager")
def test_loss_that_is_no_number_stops_with_the_learning_rate(pictures):
    with pytest.raises(CaptionerError, match=r"^encoder: .* epoch 1: .*learning_rate \(1e\+30\)$"):
        train(pictures, learning_rate=1e30)


def test_a_pass_sees_each_picture_once_and_epochs_left_out_change_nothing_of_the_others():
    def seen(done: int) -> list[list]:
        calls = []

        def step(places):
            calls.append(places.tolist())
            return places.sum(), len(places)

        options = {"epochs": 3, "batch_size": 4, "learning_rate": 1.0, "seed": 3}
        results = list(passes(step, lambda places: [places], 10, done=done, **options))
        assert [number for epoch in results for number in epoch] == [
            [sum(call), len(call)] for call in calls
        ]
        return [calls[start : start + 3] for start in range(0, len(calls), 3)]

    epochs = seen(0)
    assert [[len(call) for call in epoch] for epoch in epochs] == [[4, 4, 2]] * 3
    assert all(sorted(chain.from_iterable(epoch)) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert seen(2) == epochs[2:]


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero():
    schedule = warm_cosine(0.5, epochs=3, steps=200)
    rates = [float(schedule(step)) for step in range(601)]
    assert rates[0] == pytest.approx(0.005)
    assert np.argmax(rates) == 100
    assert rates[100] == pytest.approx(0.5)
    assert rates[350] == pytest.approx(0.25)  # half way down
    assert rates[600] == pytest.approx(0, abs=1e-8)
    assert np.argmax([float(warm_cosine(0.5, 3, 20)(step)) for step in range(60)]) == 20
