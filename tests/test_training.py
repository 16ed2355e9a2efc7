"""training.py: what is minimised, what is kept, and that a kill leaves no trace in the result."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from captioner import CaptionerError
from captioner.decoding import Decoder
from captioner.determinism import make_deterministic
from captioner.examples import Examples
from captioner.model import CaptionModel, ModelConfig
from captioner.text import END, START
from captioner.training import Settings, State, Trainer, smoothed_cross_entropy

CONFIG = ModelConfig(vocabulary=9, word_size=5, cells=4, channels=6, units=64, attention_units=8)
SETTINGS = Settings(
    epochs=4,
    pictures_per_batch=2,
    learning_rate=0.02,
    schedule="cosine",
    clip_norm=5.0,
    dropout=0.3,
    label_smoothing=0.1,
    patience=4,
    ema=0.9,
    seed=3,
)


def examples() -> Examples:
    """Five pictures; each has one caption of two words of its own, twice."""
    features = np.random.default_rng(0).normal(0, 2, (5, 4, 6)).astype(np.float16)
    captions = np.array([[START, 4 + n, 4 + (n + 2) % 5, END] for n in range(5)], np.uint16)
    return Examples(features, np.arange(5), np.stack([captions, captions], axis=1))


EXAMPLES = examples()
STEPS = 3  # an epoch: 5 pictures, 2 a batch


def new_model() -> CaptionModel:
    make_deterministic(SETTINGS.seed)
    return CaptionModel(CONFIG, np.random.default_rng(1).normal(size=(9, 5)))


def new_trainer(folder, **changes) -> Trainer:
    """Each trainer has everything of its own, as each process has."""
    settings = replace(SETTINGS, **changes)
    return Trainer(new_model(), EXAMPLES, EXAMPLES, settings, State(folder))


def nothing(row: dict) -> None:
    """Nobody listens."""


def script(trainer: Trainer, *scores: float):
    """Scores written down beforehand, epoch by epoch."""
    return lambda: {"val_cider_d": scores[trainer.progress.epoch]}


def weights_of(trainer: Trainer) -> list[np.ndarray]:
    return [weight.numpy() for weight in trainer.model.weights]


def files_of(state: State) -> dict[str, bytes]:
    folder = state.newest()
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def eager():
    """Single steps are done sooner without compiling them."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def test_label_smoothing_by_hand():
    """P = (1/2, 1/4, 1/8, 1/8), target 1, a tenth spread: 0.9 * 2 bits + 0.1 * mean 2.25 bits."""
    logits = np.log(2.0) * np.array([[-1, -2, -3, -3], [2, 1, 0, 0]])  # the same P, shifted
    objective, loss = smoothed_cross_entropy(tf.constant(logits), tf.constant([1, 0]), 0.1)
    first, second = 0.9 * 2 + 0.1 * 2.25, 0.9 * 1 + 0.1 * 2.25
    assert float(objective) == pytest.approx(np.log(2) * (first + second) / 2)
    assert float(loss) == pytest.approx(np.log(2) * (2 + 1))
    plain, loss = smoothed_cross_entropy(tf.constant(logits), tf.constant([1, 0]), 0.0)
    assert float(plain) == pytest.approx(float(loss) / 2)


PATIENT = {"epochs": 20, "dropout": 0.1, "label_smoothing": 0.0, "patience": 20}


def correct(trainer: Trainer):
    """How many of the captions' words greedy decoding gives back, and how sure it is."""
    decode = Decoder(trainer.model, 1, 4, 0.0, batch_size=5)

    def score() -> dict[str, float]:
        words, log_probabilities = decode(EXAMPLES.features)
        share = float((words[:, :2] == EXAMPLES.tokens[:, 0, 1:3]).mean())
        return {"val_cider_d": share + float(np.exp(log_probabilities).mean())}

    return decode, score


@pytest.fixture(scope="module")
def memorised(tmp_path_factory):
    """A training that is left alone, and a copy of what a kill in its last epoch would leave."""
    folder = tmp_path_factory.mktemp("memorised")
    trainer = new_trainer(folder / "state", **PATIENT)
    decode, score = correct(trainer)

    def copy(row: dict) -> None:
        if row["epoch"] == PATIENT["epochs"] - 1:
            shutil.copytree(folder / "state", folder / "copy")

    progress = trainer.run(score, copy)
    return trainer, progress, decode, folder / "copy"


def test_small_task_is_memorised(memorised):
    trainer, progress, decode, _ = memorised
    losses = pd.DataFrame(progress.history)
    assert losses["loss"].iloc[0] > 1.0  # a guess costs log 9 = 2.2
    assert losses["loss"].iloc[-1] < 0.2
    assert losses["val_loss"].iloc[-1] < 0.1
    words, log_probabilities = decode(EXAMPLES.features)
    assert (words[:, :2] == EXAMPLES.tokens[:, 0, 1:3]).all()
    assert not words[:, 2:].any()
    assert (log_probabilities > -0.5).all()
    # The cosine ends where its formula says, at about a tenth.
    steps = PATIENT["epochs"] * STEPS
    rate = 0.02 * (0.1 + 0.9 * (1 + np.cos(np.pi * (steps - 1) / steps)) / 2)
    assert float(trainer.optimizer.learning_rate.numpy()) == pytest.approx(rate, rel=1e-5)
    assert rate == pytest.approx(0.002, rel=0.02)


def test_last_epoch_repeated_from_the_state_is_bytes_equal(memorised):
    """The compiled steps too depend on nothing but the state."""
    trainer, progress, _, copy = memorised
    resumed = new_trainer(copy, **PATIENT)
    assert resumed.run(correct(resumed)[1], nothing) == progress
    assert files_of(resumed.state) == files_of(trainer.state)


class Killed(Exception):
    """Stands for kill -9: nothing of the process is used afterwards."""


@pytest.mark.usefixtures("eager")
def test_killed_in_and_after_every_epoch_is_bytes_equal_to_undisturbed(tmp_path):
    scores = (0.3, 0.5, 0.4)
    changes = {"epochs": 3, "pictures_per_batch": 3}
    whole = new_trainer(tmp_path / "whole", **changes)
    expected = whole.run(script(whole, *scores), nothing)

    folder, told = tmp_path / "killed", []

    def run_until(killed_in: int, killed_after: int) -> Trainer:
        """Another process: killed within one epoch or after the end of one."""
        trainer = new_trainer(folder, **changes)

        def score() -> dict[str, float]:
            if trainer.progress.epoch + 1 == killed_in:
                raise Killed
            return {"val_cider_d": scores[trainer.progress.epoch]}

        def listen(row: dict) -> None:
            told.append(row["epoch"])
            if row["epoch"] == killed_after:
                raise Killed

        trainer.run(score, listen)
        return trainer

    for killed_in, killed_after in [(0, 1), (2, 0), (0, 2), (0, 3)]:
        with pytest.raises(Killed):
            run_until(killed_in, killed_after)
        assert len(list(folder.iterdir())) == 1  # the last finished epoch, nothing half done
    resumed = run_until(0, 0)

    # Whoever listens hears of earlier epochs again, since the last one may not have been heard.
    assert told == [1, 1, 1, 2, 1, 2, 3, 1, 2, 3]
    assert resumed.progress == expected
    assert expected.best_epoch == 2
    tables = [pd.DataFrame(p.history).to_csv(index=False) for p in (expected, resumed.progress)]
    assert tables[0] == tables[1]
    for ours, theirs in zip(weights_of(resumed), weights_of(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert files_of(resumed.state) == files_of(whole.state)


@pytest.mark.usefixtures("eager")
def test_weights_of_the_best_epoch_are_kept_and_patience_stops(tmp_path):
    trainer = new_trainer(tmp_path / "state", epochs=9, patience=2, pictures_per_batch=5)
    scored = []

    def score() -> dict[str, float]:
        scored.append(weights_of(trainer))
        return {"val_cider_d": (0.2, 0.6, 0.6, 0.1, 0.9)[trainer.progress.epoch]}

    progress = trainer.run(score, nothing)
    # Epoch 2 is best; as good is no better; after two epochs without a better one it is over.
    assert (progress.best_epoch, progress.epoch) == (2, 4)
    for kept, best, last in zip(weights_of(trainer), scored[1], scored[3], strict=True):
        np.testing.assert_array_equal(kept, best)
        assert (kept != last).any()
    # Finished training that is started again (killed before its outcome was stored) is over.
    again = new_trainer(tmp_path / "state", epochs=9, patience=2, pictures_per_batch=5)
    assert again.run(lambda: pytest.fail("trained on"), nothing) == progress
    for kept, best in zip(weights_of(again), scored[1], strict=True):
        np.testing.assert_array_equal(kept, best)


@pytest.mark.usefixtures("eager")
def test_what_is_scored_and_kept_is_the_average_of_the_steps(tmp_path):
    """One step: the memory starts at 1 / (1 + 10) for what was before the first step."""
    trainer = new_trainer(tmp_path / "state", epochs=1, pictures_per_batch=5)
    before = [weight.numpy() for weight in trainer.model.trainable_variables]
    scored = []

    def score() -> dict[str, float]:
        scored.extend(weight.numpy() for weight in trainer.model.trainable_variables)
        return {"val_cider_d": 0.1}

    trainer.run(score, nothing)
    with np.load(trainer.state.newest() / "weights.npz") as stored:
        after = [stored[f"arr_{number}"] for number in range(len(before))]
    changes = 0
    for start, step, average in zip(before, after, scored, strict=True):
        np.testing.assert_allclose(average, start / 11 + step * 10 / 11, atol=1e-6)
        changes += (start != step).any()
    assert changes > len(before) / 2


@pytest.mark.usefixtures("eager")
def test_without_averaging_the_last_step_is_kept(tmp_path):
    trainer = new_trainer(tmp_path / "state", epochs=1, ema=0.0, pictures_per_batch=5)
    trainer.run(script(trainer, 0.1), nothing)
    with np.load(trainer.state.newest() / "weights.npz") as stored:
        last = [stored[f"arr_{number}"] for number in range(len(stored.files))]
    for kept, own in zip(trainer.model.trainable_variables, last, strict=True):
        np.testing.assert_array_equal(kept, own)


@pytest.mark.usefixtures("eager")
def test_learning_rate_halves_on_a_plateau(tmp_path):
    trainer = new_trainer(
        tmp_path / "state", epochs=5, schedule="plateau", patience=9, pictures_per_batch=5
    )
    progress = trainer.run(script(trainer, 0.3, 0.2, 0.4, 0.4, 0.1), nothing)
    rates = [row["learning_rate"] for row in progress.history]
    # Halved after epoch 2 and, as good being no better, after epoch 4.
    assert rates == pytest.approx([0.02, 0.02, 0.01, 0.01, 0.005])


@pytest.mark.usefixtures("eager")
def test_learning_rate_warms_up_and_follows_a_cosine(tmp_path):
    trainer = new_trainer(tmp_path / "state", epochs=2)
    progress = trainer.run(script(trainer, 0.1, 0.2), nothing)
    rates = [row["learning_rate"] for row in progress.history]
    # The first of three steps warms up; half-way the cosine is half-way from 1 to a tenth.
    assert rates == pytest.approx([0.02 / 3, 0.02 * 0.55])


@pytest.mark.usefixtures("eager")
def test_loss_that_is_no_number_stops_and_the_last_epoch_stays(tmp_path):
    trainer = new_trainer(tmp_path / "state", epochs=3, pictures_per_batch=5)

    def spoil(row: dict) -> None:
        trainer.model.vocabulary_logits.bias.assign([np.nan] * 9)

    with pytest.raises(CaptionerError) as caught:
        trainer.run(script(trainer, 0.1, 0.2, 0.3), spoil)
    message = str(caught.value)
    assert message.startswith("training: the loss is nan in epoch 2, step 1 (learning rate 0.016")
    assert "train.learning_rate" in message
    assert "\n" not in message
    assert trainer.state.newest().name == "epoch-0001"
    again = new_trainer(tmp_path / "state", epochs=1, pictures_per_batch=5)  # what stayed is sound
    again.run(script(again), nothing)
    assert all(np.isfinite(weight).all() for weight in weights_of(again))


@pytest.mark.usefixtures("eager")
def test_weights_broken_by_the_last_step_are_not_kept(tmp_path):
    trainer = new_trainer(tmp_path / "state", pictures_per_batch=5, learning_rate=1e38)
    with pytest.raises(CaptionerError, match=r"epoch 1, step 1 \(learning rate 1e\+38"):
        trainer.run(script(trainer, 0.1), nothing)
    assert trainer.state.newest() is None


@pytest.mark.usefixtures("eager")
def test_validation_loss_is_the_mean_over_the_words(tmp_path):
    """With no step taken (learning rate 0) it is the start's, whatever the batches."""
    trainer = new_trainer(tmp_path / "state", epochs=1, learning_rate=0.0)
    progress = trainer.run(script(trainer, 0.1), nothing)
    logits, targets = new_model().logits(EXAMPLES.features, EXAMPLES.tokens.astype(np.int32))
    probabilities = tf.nn.softmax(logits).numpy()[np.arange(30), targets.numpy()]
    assert progress.history[0]["val_loss"] == pytest.approx(-np.log(probabilities).mean(), rel=1e-4)


def test_state_belongs_to_settings_and_inputs(tmp_path):
    state = State.of(tmp_path, SETTINGS, "digest")
    assert state.newest() is None
    assert state.run_id is None
    state.run_id = "abc"
    state.epoch(9).mkdir()
    state.epoch(10).mkdir()
    (tmp_path / "stray file").write_text("")

    same = State.of(tmp_path, replace(SETTINGS), "digest")
    assert same.run_id == "abc"
    assert same.newest() == state.folder / "epoch-0010"

    others = [State.of(tmp_path, replace(SETTINGS, dropout=0.4), "digest")]
    assert not state.folder.exists()  # one state at a time
    others.append(State.of(tmp_path, SETTINGS, "other data"))
    assert len({s.folder for s in (state, *others)}) == 3
    assert all(other.newest() is None and other.run_id is None for other in others)
    assert [path.name for path in tmp_path.iterdir()] == ["stray file"]


def test_removed_state_is_gone(tmp_path):
    state = State.of(tmp_path, SETTINGS, "digest")
    state.remove()  # nothing there yet
    state.run_id = "abc"
    state.remove()
    assert not state.folder.exists()
