"""fine_tuning.py: what is trained and what is not, what is read, what a kill leaves."""

from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from captioner import CaptionerError
from captioner.checkpoints import State
from captioner.cnn import Epoch, build_head
from captioner.determinism import make_deterministic
from captioner.encoder import BACKBONES, build_encoder
from captioner.fine_tuning import fine_tune, halves

SIZE = 32
SETTINGS = {"epochs": 2, "batch_size": 8, "learning_rate": 0.003, "seed": 5}
TRAIN, VAL = np.arange(1, 25), np.arange(25, 36)  # neither begins with 0; 40 pictures in all


def random_pictures(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(size).integers(0, 256, (count, size, size, 3), np.uint8)


def is_moving(weight: keras.Variable) -> bool:
    return weight.name.startswith("moving_")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_halves_of_every_backbone_are_the_whole(backbone):
    size = 75 if backbone == "inception_v3" else SIZE
    make_deterministic(1)
    encoder = build_encoder(backbone, size)
    pictures = random_pictures(2, size).astype(np.float32)
    whole = encoder(pictures, training=False).numpy()
    lower, upper = halves(encoder, BACKBONES[backbone].cut)
    between = lower(pictures, training=False)
    assert len(between.shape) == 4
    assert between.shape[1] >= whole.shape[1]
    np.testing.assert_allclose(upper(between, training=False), whole, rtol=1e-4, atol=1e-6)
    assert whole.std() > 0
    of_both = [{id(weight) for weight in half.weights} for half in (lower, upper)]
    assert not of_both[0] & of_both[1]
    assert of_both[0] | of_both[1] == {id(weight) for weight in encoder.weights}
    assert 0.1 < upper.count_params() / encoder.count_params() < 0.8


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """40 noisy pictures, even numbers reddish, odd ones bluish."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 100, (40, SIZE, SIZE, 3))
    pictures[0::2, ..., 0] += 150
    pictures[1::2, ..., 2] += 150
    return pictures.astype(np.uint8)


def colour_labels(numbers: np.ndarray) -> np.ndarray:
    """red, blue, and a word of all."""
    return np.stack([numbers % 2 == 0, numbers % 2 == 1, numbers >= 0], 1).astype(np.uint8)


def in_batches(pictures: np.ndarray, size: int = 7) -> Iterator[tuple[int, np.ndarray]]:
    return ((first, pictures[first : first + size]) for first in range(0, len(pictures), size))


def build() -> tuple[keras.Model, keras.Model]:
    """Random weights; means and variances of BatchNorm as after training on noise.

    Those of the start let next to nothing through to the grid.
    """
    make_deterministic(5)
    encoder = build_encoder("mobilenet_v2", SIZE)
    norms = [part for part in encoder.layers[-1].layers if hasattr(part, "momentum")]
    for norm in norms:
        norm.trainable, norm.momentum = True, 0.0
    encoder(random_pictures(40, SIZE).astype(np.float32), training=True)
    for norm in norms:
        norm.trainable = False
    return encoder, build_head(encoder, 3, seed=5)


def tune(folder: Path, batches, **changes) -> tuple[keras.Model, keras.Model, Iterator[Epoch]]:
    encoder, head = build()
    epochs = fine_tune(
        encoder,
        head,
        BACKBONES["mobilenet_v2"].cut,
        batches,
        (TRAIN, colour_labels(TRAIN)),
        (VAL, colour_labels(VAL)),
        State(folder),
        **SETTINGS | changes,
    )
    return encoder, head, epochs


def weights_of(*models: keras.Model) -> bytes:
    return b"".join(weight.tobytes() for model in models for weight in model.get_weights())


def test_colours_are_learnt_above_the_cut_alone(pictures, tmp_path):
    before, _ = build()
    encoder, head, epochs = tune(tmp_path, in_batches(pictures), epochs=4)
    epochs = list(epochs)
    assert len(epochs) == 4
    assert epochs[-1].loss < 0.5 * epochs[0].loss
    lower, _ = halves(encoder, "block_12_add")
    lower = {id(weight) for weight in lower.weights}
    for old, new in zip(before.weights, encoder.weights, strict=True):
        # Neither the lower part nor, anywhere, the means and variances of BatchNorm.
        still = id(new) in lower or is_moving(new) or "BN" in new.path or "_bn" in new.path
        assert np.array_equal(old, new) == still, new.path
    assert not encoder.trainable_variables
    # What is kept is the epoch of least validation loss.
    logits = head(encoder(pictures[VAL].astype(np.float32), training=False)).numpy()
    truth = colour_labels(VAL)
    loss = (np.logaddexp(0, logits) - truth * logits).mean()
    assert loss == pytest.approx(min(epoch.val_loss for epoch in epochs), rel=0.02)


@pytest.fixture
def eager():
    """A few steps are done sooner without compiling them."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("killed_after", [0, 1, 2])
def test_a_killed_training_ends_with_the_same_bytes(pictures, tmp_path, killed_after):
    encoder, head, epochs = tune(tmp_path / "whole", in_batches(pictures))
    history, whole = list(epochs), weights_of(encoder, head)

    _, _, epochs = tune(tmp_path / "killed", in_batches(pictures))
    for _ in range(killed_after):
        next(epochs)
    if killed_after == 0:  # in the middle of the activations
        with pytest.raises(RuntimeError, match="killed"):
            list(tune(tmp_path / "killed", kill_after(in_batches(pictures), 2))[2])
        assert not (tmp_path / "killed" / "activations").exists()
    batches = in_batches(pictures)
    encoder, head, epochs = tune(tmp_path / "killed", batches)
    assert list(epochs) == history
    assert weights_of(encoder, head) == whole
    # The pictures are looked at again only where their activations were not kept.
    assert (next(batches, None) is not None) == bool(killed_after)
    # The gigabytes are gone; the last epoch is there, should the kill come before DVC has stored
    # the outputs.
    left = [path.relative_to(tmp_path / "killed") for path in (tmp_path / "killed").rglob("*.*")]
    assert sorted(map(str, left)) == [
        "epoch-0002/best.npz",
        "epoch-0002/history.json",
        "finished.json",
    ]


def kill_after(batches: Iterator, count: int) -> Iterator:
    for _ in range(count):
        yield next(batches)
    raise RuntimeError("killed")


@pytest.mark.usefixtures("eager")
def test_the_seed_matters(pictures, tmp_path):
    first = list(tune(tmp_path / "a", in_batches(pictures), epochs=1)[2])
    assert list(tune(tmp_path / "b", in_batches(pictures), epochs=1, seed=6)[2]) != first


@pytest.mark.usefixtures("eager")
def test_activations_are_of_the_pictures_and_their_mirror_images(pictures, tmp_path):
    encoder, _, epochs = tune(tmp_path, in_batches(pictures), epochs=1)
    next(epochs)
    lower, _ = halves(encoder, "block_12_add")
    stored = {
        name: np.load(tmp_path / "activations" / f"{name}.npy")
        for name in ("grid", "grid_mirrored")
    }
    assert len(stored["grid"]) == VAL[-1] + 1  # nothing of the test pictures behind
    for name, seen in (("grid", pictures[: VAL[-1] + 1]), ("grid_mirrored", pictures[TRAIN])):
        seen = seen[:, :, ::-1] if name == "grid_mirrored" else seen
        expected = lower(seen.astype(np.float32), training=False).numpy()
        assert stored[name].dtype == np.float16
        np.testing.assert_allclose(
            stored[name].reshape(expected.shape), expected, rtol=2e-3, atol=1e-3 * expected.max()
        )


@pytest.mark.usefixtures("eager")
def test_the_first_loss_is_that_of_the_words_frequency(pictures, tmp_path):
    """With no learning rate and no weights: every word at its share of the training pictures."""
    encoder, head = build()
    kernel = head.get_layer("word_logits").kernel
    kernel.assign(np.zeros(kernel.shape))
    labels = np.zeros((40, 3), np.uint8)
    labels[::4, 0] = labels[:, 1] = 1
    [epoch] = fine_tune(
        encoder,
        head,
        "block_12_add",
        in_batches(pictures),
        (TRAIN, labels[TRAIN]),
        (VAL, labels[VAL]),
        State(tmp_path),
        **SETTINGS | {"epochs": 1, "learning_rate": 0.0},
    )
    # Six of 24 training pictures and two of eleven (28 and 32) have the first word.
    first = [-(share * np.log(0.25) + (1 - share) * np.log(0.75)) for share in (6 / 24, 2 / 11)]
    assert [epoch.loss, epoch.val_loss] == pytest.approx([loss / 3 for loss in first], abs=2e-3)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    ("batch_size", "where"),
    [
        pytest.param(8, "in step [23] of epoch 1", id="in a step"),
        pytest.param(24, "in the validation of epoch 1", id="after the last step"),
    ],
)
def test_loss_that_is_no_number_names_the_place_and_the_remedy(
    pictures, tmp_path, batch_size, where
):
    _, _, epochs = tune(tmp_path, in_batches(pictures), learning_rate=3e37, batch_size=batch_size)
    remedy = r": lower encoder\.learning_rate \(3e\+37\)$"
    with pytest.raises(CaptionerError, match=f"^encoder: .* {where}{remedy}"):
        list(epochs)


def write_activations(folder: Path, plain: float | None, mirrored: float | None) -> None:
    """As a killed training leaves them; noise in place of None."""
    (folder / "activations").mkdir(parents=True)
    for name, value, count in (("grid", plain, 36), ("grid_mirrored", mirrored, len(TRAIN))):
        array = np.random.default_rng(1).random((count, 4, 96))
        array = array if value is None else np.full_like(array, value)
        np.save(folder / "activations" / f"{name}.npy", array.astype(np.float16))


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("values", [(np.nan, None), (None, np.nan)], ids=["plain", "mirrored"])
def test_each_step_sees_pictures_and_mirror_images(tmp_path, values):
    """What is no number in one of the two files is met in the very first step."""
    write_activations(tmp_path, *values)
    _, _, epochs = tune(tmp_path, iter(()), learning_rate=0.0)
    with pytest.raises(CaptionerError, match="in step 1 of epoch 1"):
        next(epochs)


@pytest.mark.usefixtures("eager")
def test_dropout_is_of_training_alone(tmp_path):
    """Pictures that are all alike, mirrored or not: only what is dropped can tell them apart."""
    write_activations(tmp_path, 0.5, 0.5)
    encoder, head, epochs = tune(tmp_path, iter(()), learning_rate=0.0, epochs=1)
    [epoch] = epochs
    _, upper = halves(encoder, BACKBONES["mobilenet_v2"].cut)
    logits = head(upper(np.full((1, 2, 2, 96), 0.5, np.float32), training=False)).numpy()
    truths = {"loss": colour_labels(TRAIN), "val_loss": colour_labels(VAL)}
    kept = {name: (np.logaddexp(0, logits) - t * logits).mean() for name, t in truths.items()}
    assert epoch.val_loss == pytest.approx(kept["val_loss"], rel=1e-4)
    assert abs(epoch.loss / kept["loss"] - 1) > 0.001
    assert epoch.loss == pytest.approx(kept["loss"], rel=0.5)
