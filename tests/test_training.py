"""training.py: what is learnt, what is kept, and that a kill leaves no trace in the result."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from captioner import CaptionerError, training
from captioner.checkpoints import State, load_arrays
from captioner.cross_entropy import CrossEntropy, features_signature, smoothed_cross_entropy
from captioner.decoding import Decoder
from captioner.determinism import make_deterministic
from captioner.examples import Examples
from captioner.model import CaptionModel, Dropout, ModelConfig
from captioner.text import END, START
from captioner.training import Settings, Trainer

CONFIG = ModelConfig(vocabulary=11, word_size=5, cells=4, channels=6, units=32, heads=2)
SETTINGS = Settings(
    epochs=4,
    pictures_per_batch=2,
    learning_rate=0.02,
    schedule="cosine",
    clip_norm=5.0,
    patience=4,
    ema=0.9,
    seed=3,
)


def examples() -> Examples:
    """Seven pictures and their mirror images; each has one caption of two words, twice."""
    features = np.random.default_rng(0).normal(0, 2, (7, 4, 6)).astype(np.float16)
    mirrored = features[:, [1, 0, 3, 2]]  # the cells are a grid of 2 x 2
    captions = np.array([[START, 4 + n, 4 + (n + 2) % 7, END] for n in range(7)], np.uint16)
    tokens = np.stack([captions, captions], axis=1)
    return Examples(features, np.arange(7), np.array(list("abcdefg")), tokens, mirrored)


EXAMPLES = examples()
STEPS = 4  # an epoch: 7 pictures, 2 a batch
ONE_STEP = {"pictures_per_batch": 7}


class FirstWord:
    """The smallest objective: the first word of a picture's captions. It needs no compiling."""

    name, measure, selects = "first words", "surprise", "val_cider_d"
    remedy = "section.rate or train.clip_norm"

    def __init__(self, model: CaptionModel, dropout: float = 0.3):
        self.model, self.dropout, self.names = model, dropout, EXAMPLES.names
        self.signature = (features_signature(model), tf.TensorSpec((None,), tf.int32))
        self.seen = []

    def batch(self, chosen, seed):
        self.seen.append((chosen.tolist(), seed))
        features = EXAMPLES.load(chosen, np.random.default_rng(seed))
        return features, EXAMPLES.tokens[chosen, 0, 1].astype(np.int32)

    def loss(self, batch, seed):
        features, targets = batch
        memory, state = self.model.look(features)
        _, outputs, _ = self.model.step(memory, state, tf.fill((tf.size(targets), 1), START))
        logits = self.model.word_logits(outputs[:, 0], Dropout(self.dropout, seed))
        return *smoothed_cross_entropy(logits, targets, 0.1), tf.size(targets)


def new_model() -> CaptionModel:
    make_deterministic(SETTINGS.seed)
    return CaptionModel(CONFIG, np.random.default_rng(1).normal(size=(11, 5)))


def new_trainer(folder, objective=FirstWord, **changes) -> Trainer:
    """Each trainer has everything of its own, as each process has."""
    model, settings = new_model(), replace(SETTINGS, **changes)
    return Trainer(model, objective(model), settings, State(folder))


def nothing(row: dict) -> None:
    """Nobody listens."""


def script(trainer: Trainer, *scores: float):
    """Scores written down beforehand, epoch by epoch."""
    return lambda: scores_of(scores[trainer.progress.epoch])


def scores_of(cider_d: float) -> dict[str, float]:
    return {"val_loss": 1.0, "val_cider_d": cider_d}


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


PATIENT = {"epochs": 20, "patience": 20}


def captions_of(model: CaptionModel) -> CrossEntropy:
    """The real objective, of the mirror images too."""
    return CrossEntropy(model, EXAMPLES, dropout=0.1, label_smoothing=0.0)


def correct(trainer: Trainer):
    """How many of the captions' words greedy decoding gives back, and how sure it is."""
    decode = Decoder(trainer.model, 1, 4, 0.0, batch_size=7)

    def score() -> dict[str, float]:
        words, log_probabilities = decode(EXAMPLES.features)
        share = float((words[:, :2] == EXAMPLES.tokens[:, 0, 1:3]).mean())
        return {"val_cider_d": share + float(np.exp(log_probabilities).mean())}

    return decode, score


@pytest.fixture(scope="module")
def memorised(tmp_path_factory):
    """A training that is left alone, and a copy of what a kill in its last epoch would leave."""
    folder = tmp_path_factory.mktemp("memorised")
    trainer = new_trainer(folder / "state", captions_of, **PATIENT)
    decode, score = correct(trainer)

    def copy(row: dict) -> None:
        if row["epoch"] == PATIENT["epochs"] - 1:
            shutil.copytree(folder / "state", folder / "copy")

    progress = trainer.run(score, copy)
    return trainer, progress, decode, folder / "copy"


def test_small_task_is_memorised(memorised):
    trainer, progress, decode, _ = memorised
    losses = pd.DataFrame(progress.history)
    assert losses["loss"].iloc[0] > 1.0  # a guess costs log 11 = 2.4
    assert losses["loss"].iloc[-1] < 0.2
    for features in (EXAMPLES.features, EXAMPLES.mirrored):
        words, log_probabilities = decode(features)
        assert (words[:, :2] == EXAMPLES.tokens[:, 0, 1:3]).all()
        assert not words[:, 2:].any()
        assert (log_probabilities > np.log(0.5)).all()
    # The cosine ends where its formula says, at about a tenth.
    steps = PATIENT["epochs"] * STEPS
    rate = 0.02 * (0.1 + 0.9 * (1 + np.cos(np.pi * (steps - 1) / steps)) / 2)
    assert float(trainer.optimizer.learning_rate.numpy()) == pytest.approx(rate, rel=1e-5)
    assert rate == pytest.approx(0.002, rel=0.02)


def test_last_epoch_repeated_from_the_state_is_bytes_equal(memorised):
    """The compiled steps too depend on nothing but the state."""
    trainer, progress, _, copy = memorised
    resumed = new_trainer(copy, captions_of, **PATIENT)
    assert resumed.run(correct(resumed)[1], nothing) == progress
    assert files_of(resumed.state) == files_of(trainer.state)


class Killed(Exception):
    """Stands for kill -9: nothing of the process is used afterwards."""


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    ("schedule", "scores", "best_epoch"),
    [("cosine", (0.3, 0.5, 0.4), 2), ("plateau", (0.3, 0.2, 0.1), 1)],
)
def test_killed_in_and_after_every_epoch_is_bytes_equal_to_undisturbed(
    tmp_path, schedule, scores, best_epoch
):
    changes = {"schedule": schedule, "epochs": 3, **ONE_STEP}
    whole = new_trainer(tmp_path / "whole", **changes)
    expected = whole.run(script(whole, *scores), nothing)

    folder, told, columns = tmp_path / "killed", [], set()

    def run_until(killed_in: int, killed_after: int) -> Trainer:
        """Another process: killed within one epoch or after the end of one."""
        trainer = new_trainer(folder, **changes)

        def score() -> dict[str, float]:
            if trainer.progress.epoch + 1 == killed_in:
                raise Killed
            return scores_of(scores[trainer.progress.epoch])

        def listen(row: dict) -> None:
            told.append(row["epoch"])
            columns.add(tuple(row))
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
    assert len(columns) == 1  # in one order, or the bytes of history.csv would differ
    assert resumed.progress == expected
    assert expected.best_epoch == best_epoch
    tables = [pd.DataFrame(p.history).to_csv(index=False) for p in (expected, resumed.progress)]
    assert tables[0] == tables[1]
    for ours, theirs in zip(weights_of(resumed), weights_of(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert files_of(resumed.state) == files_of(whole.state)


@pytest.mark.usefixtures("eager")
def test_killed_in_the_middle_of_an_epoch_repeats_its_batches(tmp_path):
    changes = {"epochs": 2, "pictures_per_batch": 4}  # two steps an epoch
    whole = new_trainer(tmp_path / "whole", **changes)
    whole.run(script(whole, 0.1, 0.2), nothing)

    class Interrupted(FirstWord):
        def batch(self, chosen, seed):
            if len(self.seen) == 3:
                raise Killed
            return super().batch(chosen, seed)

    killed = new_trainer(tmp_path / "killed", Interrupted, **changes)
    with pytest.raises(Killed):
        killed.run(script(killed, 0.1, 0.2), nothing)
    resumed = new_trainer(tmp_path / "killed", **changes)
    resumed.run(script(resumed, 0.1, 0.2), nothing)
    assert resumed.objective.seen == whole.objective.seen[2:]
    assert files_of(resumed.state) == files_of(whole.state)


@pytest.mark.usefixtures("eager")
def test_each_epoch_takes_each_picture_once_in_another_order_and_each_step_another_seed(tmp_path):
    trainer = new_trainer(tmp_path / "state", epochs=2, pictures_per_batch=3)
    trainer.run(script(trainer, 0.1, 0.2), nothing)
    batches, seeds = zip(*trainer.objective.seen, strict=True)
    assert list(map(len, batches)) == [3, 3, 1, 3, 3, 1]
    for epoch in (batches[:3], batches[3:]):
        assert sorted(number for batch in epoch for number in batch) == list(range(7))
    assert batches[:3] != batches[3:]
    assert len(set(seeds)) == 6
    other = new_trainer(tmp_path / "other", epochs=1, pictures_per_batch=3, seed=4)
    other.run(script(other, 0.1), nothing)
    assert other.objective.seen[0][0] != batches[0]
    assert not {seed for _, seed in other.objective.seen} & set(seeds)


@pytest.mark.usefixtures("eager")
def test_what_is_reported_is_the_mean_over_all_batches(tmp_path):
    """With no step taken (learning rate 0) it is the start's, although the last batch is small."""
    trainer = new_trainer(
        tmp_path / "state", lambda model: FirstWord(model, dropout=0.0), epochs=1, learning_rate=0.0
    )
    progress = trainer.run(script(trainer, 0.1), nothing)
    model, surprises = new_model(), []
    for chosen, seed in trainer.objective.seen:
        features = EXAMPLES.load(np.array(chosen), np.random.default_rng(seed))
        said, _ = model.next_word(*model.look(features), np.full((len(chosen), 1), START))
        surprises += [-said.numpy()[row, 0, 4 + n] for row, n in enumerate(chosen)]
    assert len(surprises) == 7
    assert np.std(surprises) > 0.1
    assert progress.history == [
        {
            "epoch": 1,
            "learning_rate": 0.0,
            "surprise": pytest.approx(np.mean(surprises), rel=1e-5),
            **scores_of(0.1),
        }
    ]


@pytest.mark.usefixtures("eager")
def test_weights_of_the_best_epoch_are_kept_and_patience_stops(tmp_path):
    trainer = new_trainer(tmp_path / "state", epochs=9, patience=2, **ONE_STEP)
    scored = []

    def score() -> dict[str, float]:
        scored.append(weights_of(trainer))
        return {"val_cider_d": (0.2, 0.6, 0.6, 0.1, 0.9)[trainer.progress.epoch]}

    progress = trainer.run(score, nothing)
    # Epoch 2 is best; as good is no better; after two epochs without a better one it is over.
    assert (progress.best_epoch, progress.epoch) == (2, 4)
    changed = 0
    for kept, best, last in zip(weights_of(trainer), scored[1], scored[3], strict=True):
        np.testing.assert_array_equal(kept, best)
        changed += (kept != last).any()
    assert changed > len(scored[1]) / 2
    # Finished training that is started again (killed before its outcome was stored) is over.
    again = new_trainer(tmp_path / "state", epochs=9, patience=2, **ONE_STEP)
    assert again.run(lambda: pytest.fail("trained on"), nothing) == progress
    for kept, best in zip(weights_of(again), scored[1], strict=True):
        np.testing.assert_array_equal(kept, best)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    ("ema", "old"),
    [
        pytest.param(0.9, 1 / 11, id="the memory starts small"),
        pytest.param(0.05, 0.05, id="and ends at what is set"),
        pytest.param(0.0, 0.0, id="without a memory the last step is kept"),
    ],
)
def test_what_is_scored_and_kept_is_the_average_of_the_steps(tmp_path, ema, old):
    """One step: `old` is the share of what was before it."""
    trainer = new_trainer(tmp_path / "state", epochs=1, ema=ema, **ONE_STEP)
    before = [weight.numpy() for weight in trainer.model.trainable_variables]
    scored = []

    def score() -> dict[str, float]:
        scored.extend(weight.numpy() for weight in trainer.model.trainable_variables)
        return {"val_cider_d": 0.1}

    trainer.run(score, nothing)
    after = load_arrays(trainer.state.newest() / "weights.npz")
    changes = 0
    for start, step, average in zip(before, after, scored, strict=True):
        np.testing.assert_allclose(average, old * start + (1 - old) * step, atol=1e-6)
        changes += (np.abs(start - step) > 0.01).any()
    assert changes > len(before) / 2
    for kept, average in zip(trainer.model.trainable_variables, scored, strict=True):
        np.testing.assert_array_equal(kept, average)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(("clip_norm", "least", "most"), [(5.0, 0.0199, 0.0201), (1e-9, 0, 2e-4)])
def test_gradients_are_clipped(tmp_path, clip_norm, least, most):
    """Adam's first step is the learning rate wherever the gradient is far above its epsilon 1e-7,
    and a hundredth of it at most where it was cut to 1e-9."""
    trainer = new_trainer(tmp_path / "state", epochs=1, ema=0.0, clip_norm=clip_norm, **ONE_STEP)
    before = weights_of(trainer)
    trainer.run(script(trainer, 0.1), nothing)
    pairs = zip(before, weights_of(trainer), strict=True)
    assert least <= max(np.abs(new - old).max() for old, new in pairs) <= most


@pytest.mark.usefixtures("eager")
def test_learning_rate_halves_on_a_plateau(tmp_path):
    trainer = new_trainer(tmp_path / "state", epochs=5, schedule="plateau", patience=9, **ONE_STEP)
    progress = trainer.run(script(trainer, 0.3, 0.2, 0.4, 0.4, 0.1), nothing)
    rates = [row["learning_rate"] for row in progress.history]
    # Halved after epoch 2 and, as good being no better, after epoch 4.
    assert rates == pytest.approx([0.02, 0.02, 0.01, 0.01, 0.005])


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    ("warm_up", "growing"),
    [
        pytest.param(2, [1 / 2, 1, 1], id="steps"),
        pytest.param(100, [1 / 3, 2 / 3, 1], id="an epoch where that is shorter"),
    ],
)
def test_learning_rate_warms_up_and_follows_a_cosine(tmp_path, monkeypatch, warm_up, growing):
    monkeypatch.setattr(training, "WARM_UP", warm_up)
    rates = []

    class Watching(FirstWord):
        def batch(self, chosen, seed):
            rates.append(float(trainer.optimizer.learning_rate.numpy()))
            return super().batch(chosen, seed)

    trainer = new_trainer(tmp_path / "state", Watching, epochs=2, pictures_per_batch=3)
    progress = trainer.run(script(trainer, 0.1, 0.2), nothing)
    cosine = 0.02 * (0.1 + 0.9 * (1 + np.cos(np.pi * np.arange(6) / 6)) / 2)
    assert rates == pytest.approx(cosine * [*growing, 1, 1, 1], rel=1e-5)
    # An epoch reports the rate it starts with; half-way the cosine is half-way from 1 to a tenth.
    reported = [row["learning_rate"] for row in progress.history]
    assert reported == pytest.approx([0.02 * growing[0], 0.02 * 0.55])


@pytest.mark.usefixtures("eager")
def test_loss_that_is_no_number_stops_and_the_last_epoch_stays(tmp_path):
    trainer = new_trainer(tmp_path / "state", epochs=3, **ONE_STEP)

    def spoil(row: dict) -> None:
        trainer.model.vocabulary_logits.bias.assign([np.nan] * 11)

    with pytest.raises(CaptionerError) as caught:
        trainer.run(script(trainer, 0.1, 0.2, 0.3), spoil)
    assert str(caught.value) == (
        "first words: the loss is no number in epoch 2, step 1 (learning rate 0.016, pictures "
        "a, b, c, d, e and 2 more): lower section.rate or train.clip_norm; the last finished epoch "
        "is kept"
    )
    assert trainer.state.newest().name == "epoch-0001"
    again = new_trainer(tmp_path / "state", epochs=1, **ONE_STEP)  # what stayed is sound
    again.run(script(again), nothing)
    assert all(np.isfinite(weight).all() for weight in weights_of(again))


@pytest.mark.usefixtures("eager")
def test_loss_that_is_no_number_names_the_pictures_of_its_batch(tmp_path):
    class Spoilt(FirstWord):
        def batch(self, chosen, seed):
            features, targets = super().batch(chosen, seed)
            return np.where(len(self.seen) == 3, np.float16(np.nan), features), targets

    trainer = new_trainer(tmp_path / "state", Spoilt)
    with pytest.raises(CaptionerError) as caught:
        trainer.run(script(trainer), nothing)
    first, second = EXAMPLES.names[trainer.objective.seen[2][0]]
    assert f"in epoch 1, step 3 (learning rate 0.014, pictures {first}, {second}): " in str(
        caught.value
    )
    assert trainer.state.newest() is None


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("val_loss", [np.nan, np.inf])
def test_scores_that_are_no_numbers_stop_and_are_not_kept(tmp_path, val_loss):
    trainer = new_trainer(tmp_path / "state")
    with pytest.raises(CaptionerError) as caught:
        trainer.run(lambda: {"val_cider_d": 0.1, "val_loss": val_loss}, nothing)
    assert "in epoch 1, step 4 (learning rate 0.018, found in validation)" in str(caught.value)
    assert trainer.state.newest() is None


@pytest.mark.usefixtures("eager")
def test_weights_broken_by_the_last_step_are_not_kept(tmp_path):
    trainer = new_trainer(tmp_path / "state", learning_rate=1e38, **ONE_STEP)

    def score() -> dict[str, float]:
        batch = trainer.objective.batch(np.arange(7), (0, 0))
        return {"val_cider_d": 0.1, "val_loss": float(trainer.objective.loss(batch, (0, 0))[1])}

    with pytest.raises(CaptionerError, match=r"epoch 1, step 1 \(learning rate 1e\+38"):
        trainer.run(score, nothing)
    assert trainer.state.newest() is None
