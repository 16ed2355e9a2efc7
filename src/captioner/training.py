"""Cross-entropy training of the captioning model, picture by picture, with checkpoints that survive
a kill.

A batch is a number of pictures, each with all its captions, so that a picture's projections are
computed once; there is one compiled step for each padded length (see `examples.batches`). All
randomness of an epoch (order, dropout) comes from the seed and the number of the epoch, never from
what ran before; training killed after epoch 3 and resumed therefore ends with the same bytes as
training that was left alone.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from captioner import CaptionerError
from captioner.examples import Examples, batches
from captioner.files import atomic_folder, read_json, write_json
from captioner.model import CaptionModel, Dropout

BEST = "best.weights.h5"


@dataclass(frozen=True)
class Settings:
    """How to train; see the section `train` of params.yaml."""

    epochs: int
    pictures_per_batch: int
    learning_rate: float
    schedule: str
    clip_norm: float
    dropout: float
    label_smoothing: float
    patience: int
    ema: float
    seed: int


@dataclass
class Progress:
    """What must survive a kill beside the weights."""

    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    plateau_factor: float = 1.0

    @property
    def epoch(self) -> int:
        return len(self.history)


class State:
    """The folder in which a killed training finds what it needs to go on.

    Attributes:
        folder: holds epoch-0001 or the like, whole or not at all, and run.json.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    @classmethod
    def of(cls, parent: Path, settings: object, inputs: str) -> "State":
        """The state of the training with exactly these settings and inputs; others are removed.

        Args:
            parent: folder of states.
            settings: anything with a stable `repr`.
            inputs: digest of the data and the code.
        """
        name = hashlib.sha256(f"{settings!r} {inputs}".encode()).hexdigest()[:16]
        for other in parent.glob("*/"):  # folders alone
            if other.name != name:
                shutil.rmtree(other)
        return cls(parent / name)

    @property
    def run_id(self) -> str | None:
        """The MLflow run that logs this training, once it is noted."""
        note = self.folder / "run.json"
        return read_json(note)["run_id"] if note.exists() else None

    @run_id.setter
    def run_id(self, run_id: str | None) -> None:
        write_json(self.folder / "run.json", {"run_id": run_id})

    def epoch(self, number: int) -> Path:
        return self.folder / f"epoch-{number:04d}"

    def newest(self) -> Path | None:
        """The folder of the last finished epoch."""
        return max(self.folder.glob("epoch-*"), default=None)

    def remove(self) -> None:
        """To be called when the outcome is stored elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Trainer:
    """Trains a model epoch by epoch.

    Args:
        model: built and initialised.
        train, val: the examples; val is used for its loss.
        settings: how to train.
        state: what a killed training left behind is resumed, each finished epoch is kept there.
    """

    def __init__(
        self,
        model: CaptionModel,
        train: Examples,
        val: Examples,
        settings: Settings,
        state: State,
    ):
        self.model, self.train, self.val = model, train, val
        self.settings, self.state = settings, state
        self.steps_per_epoch = -(-len(train.rows) // settings.pictures_per_batch)
        self.optimizer = keras.optimizers.Adam(
            settings.learning_rate,
            global_clipnorm=settings.clip_norm,
        )
        self.optimizer.build(model.trainable_variables)
        self.averages = [tf.Variable(weight.value) for weight in model.trainable_variables]
        self.progress = Progress()
        self._compiled: dict[tuple[str, int], Callable] = {}

    def run(
        self, score: Callable[[], dict[str, float]], on_epoch: Callable[[dict], None]
    ) -> Progress:
        """Train from the last finished epoch to the end or until patience is out.

        The model ends with the weights of the epoch whose `val_cider_d` was best.

        Args:
            score: free-running scores of the validation split, `val_cider_d` among them; called
                after each epoch with the model as it would be kept.
            on_epoch: gets each row of the history, also those of before a kill: it may have come
                after an epoch was kept and before anyone was told.

        Raises:
            CaptionerError: the loss is no number any more.
        """
        self._resume()
        for row in self.progress.history:
            on_epoch(row)
        while not self._done():
            epoch = self.progress.epoch
            row = {"epoch": epoch + 1, "learning_rate": self._learning_rate(epoch, 0)}
            row["loss"] = self._train_epoch(epoch)
            with self._averaged() as own_weights:
                row["val_loss"] = self._validate(epoch)
                row |= score()
                self._keep(row, own_weights)
            on_epoch(row)
        self.model.load_weights(self.state.epoch(self.progress.epoch) / BEST)
        return self.progress

    def _done(self) -> bool:
        stale = self.progress.epoch - self.progress.best_epoch
        return self.progress.epoch >= self.settings.epochs or stale >= self.settings.patience

    def _learning_rate(self, epoch: int, step: int) -> float:
        """Linear warm-up over (at most) 100 steps, then cosine to a tenth, or by plateau."""
        done = epoch * self.steps_per_epoch + step
        total = self.settings.epochs * self.steps_per_epoch
        warm_up = min(1.0, (done + 1) / min(100, self.steps_per_epoch))
        if self.settings.schedule == "cosine":
            factor = 0.1 + 0.45 * (1 + np.cos(np.pi * done / total))
        else:
            factor = self.progress.plateau_factor
        return float(self.settings.learning_rate * warm_up * factor)

    def _train_epoch(self, epoch: int) -> float:
        """Returns the mean cross-entropy a word (nats), without smoothing."""
        rng = np.random.default_rng([self.settings.seed, epoch])
        total, words = 0.0, 0
        plan = list(batches(self.train.tokens, self.settings.pictures_per_batch, rng))
        bar = tqdm(plan, f"epoch {epoch + 1}/{self.settings.epochs}", unit="batch", disable=None)
        for number, (chosen, length) in enumerate(bar):
            rate = self._learning_rate(epoch, number)
            self.optimizer.learning_rate.assign(rate)
            seed = tf.constant([self.settings.seed, epoch * self.steps_per_epoch + number])
            loss, count = self._function("train", length)(
                *self._load(self.train, chosen, length), seed
            )
            loss, count = float(loss), int(count)
            if not np.isfinite(loss):
                pictures = ", ".join(map(str, self.train.rows[chosen][:5]))
                raise _diverged(loss, epoch, number, rate, f"pictures {pictures} ...")
            total, words = total + loss, words + count
            if number % 20 == 0:
                bar.set_postfix(loss=f"{total / words:.3f}", refresh=False)
        return total / words

    def _validate(self, epoch: int) -> float:
        total, words = 0.0, 0
        for chosen, length in batches(self.val.tokens, self.settings.pictures_per_batch, None):
            loss, count = self._function("val", length)(*self._load(self.val, chosen, length))
            total, words = total + float(loss), words + int(count)
        if not np.isfinite(total):  # the last step of the epoch was one too far
            last = self.steps_per_epoch - 1
            rate = self._learning_rate(epoch, last)
            raise _diverged(total, epoch, last, rate, "found in validation")
        return total / words

    def _load(self, examples: Examples, chosen: np.ndarray, length: int):
        """Only a batch of the memory map is read, in ascending order."""
        features = np.asarray(examples.features[examples.rows[chosen]])
        return features, examples.tokens[chosen, :, :length].astype(np.int32)

    def _function(self, kind: str, length: int) -> Callable:
        """The compiled step for one padded length."""
        if (kind, length) not in self._compiled:
            config = self.model.config
            signature = [
                tf.TensorSpec((None, config.cells, config.channels), tf.float16),
                tf.TensorSpec((None, None, length), tf.int32),
            ]
            if kind == "train":
                signature.append(tf.TensorSpec((2,), tf.int32))
            function = self._train_step if kind == "train" else self._val_step
            self._compiled[kind, length] = tf.function(function, input_signature=signature)
        return self._compiled[kind, length]

    def _train_step(self, features, tokens, seed):
        weights = self.model.trainable_variables
        with tf.GradientTape() as tape:
            dropout = Dropout(self.settings.dropout, seed)
            logits, targets = self.model.logits(features, tokens, dropout)
            objective, loss = smoothed_cross_entropy(logits, targets, self.settings.label_smoothing)
        self.optimizer.apply_gradients(zip(tape.gradient(objective, weights), weights, strict=True))
        # Averaged weights (Polyak and Juditsky 1992); the memory grows from one step to 1 / (1 -
        # ema).
        done = tf.cast(self.optimizer.iterations, tf.float32)
        keep = tf.minimum(self.settings.ema, done / (done + 10.0))
        for average, weight in zip(self.averages, weights, strict=True):
            average.assign(keep * average + (1 - keep) * weight)
        return loss, tf.size(targets)

    def _val_step(self, features, tokens):
        logits, targets = self.model.logits(features, tokens)
        _, loss = smoothed_cross_entropy(logits, targets, 0.0)
        return loss, tf.size(targets)

    @contextmanager
    def _averaged(self) -> Iterator[list[np.ndarray]]:
        """The averaged weights in the model, inside the block; yields its own ones."""
        weights = self.model.trainable_variables
        own = [weight.numpy() for weight in weights]
        _assign(weights, [average.numpy() for average in self.averages])
        try:
            yield own
        finally:
            _assign(weights, own)

    def _keep(self, row: dict[str, float], own_weights: list[np.ndarray]) -> None:
        """Note an epoch in the history and write the state, whole or not at all.

        Called with the averaged weights in the model.
        """
        progress = self.progress
        previous = self.state.epoch(progress.epoch)
        best = max((past["val_cider_d"] for past in progress.history), default=-1.0)
        # In the order in which JSON gives it back, lest a resumed history.csv differ in columns.
        progress.history.append(dict(sorted(row.items())))
        if row["val_cider_d"] > best:
            progress.best_epoch = progress.epoch
        elif self.settings.schedule == "plateau":
            progress.plateau_factor /= 2
        with atomic_folder(self.state.epoch(progress.epoch)) as folder:
            if progress.best_epoch == progress.epoch:
                self.model.save_weights(folder / BEST)
            else:
                shutil.copyfile(previous / BEST, folder / BEST)
            np.savez(folder / "weights.npz", *own_weights)
            np.savez(folder / "optimizer.npz", *[v.numpy() for v in self.optimizer.variables])
            np.savez(folder / "averages.npz", *[v.numpy() for v in self.averages])
            write_json(folder / "progress.json", asdict(progress))
        shutil.rmtree(previous, ignore_errors=True)

    def _resume(self) -> None:
        """Go on from the newest finished epoch, if there is one."""
        folder = self.state.newest()
        if folder is None:
            return
        _assign(self.model.trainable_variables, _load_arrays(folder / "weights.npz"))
        _assign(self.optimizer.variables, _load_arrays(folder / "optimizer.npz"))
        _assign(self.averages, _load_arrays(folder / "averages.npz"))
        self.progress = Progress(**read_json(folder / "progress.json"))
        print(f"going on after epoch {self.progress.epoch}", flush=True)


def smoothed_cross_entropy(
    logits: tf.Tensor, targets: tf.Tensor, smoothing: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """What training minimises, and the plain cross-entropy that is reported.

    Args:
        logits: (words, vocabulary); targets: (words,) int32.
        smoothing: probability mass spread evenly over the vocabulary (Szegedy et al. 2016,
            section 7).

    Returns:
        The mean smoothed cross-entropy, and the sum of the plain ones, in nats.
    """
    log_probabilities = tf.nn.log_softmax(logits)
    loss = -tf.gather(log_probabilities, targets, batch_dims=1)
    uniform = -tf.reduce_mean(log_probabilities, -1)
    return tf.reduce_mean((1 - smoothing) * loss + smoothing * uniform), tf.reduce_sum(loss)


def _diverged(loss: float, epoch: int, step: int, rate: float, where: str) -> CaptionerError:
    return CaptionerError(
        f"training: the loss is {loss} in epoch {epoch + 1}, step {step + 1} (learning rate "
        f"{rate:.2g}, {where}): lower train.learning_rate or train.clip_norm; the last finished "
        "epoch is kept"
    )


def _assign(variables: Sequence, values: Sequence[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _load_arrays(path: Path) -> list[np.ndarray]:
    with np.load(path, allow_pickle=False) as stored:
        return [stored[f"arr_{number}"] for number in range(len(stored.files))]
