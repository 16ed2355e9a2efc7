"""The training loop: epochs, learning rate, averaged weights, checkpoints that survive a kill.

What is minimised, and on what, is an `Objective`'s: for the captioner `cross_entropy.py`, then
`self_critical.py`; for the joint embedding `contrastive.py`. A batch is a number of pictures. All
randomness of an epoch (order, dropout, samples) comes from the seed and the number of the epoch,
never from what ran before; training killed after epoch 3 and resumed therefore ends with the same
bytes as training that was left alone.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from captioner import CaptionerError
from captioner.checkpoints import Progress, State, assign, load_arrays, save_weights
from captioner.examples import shuffled_batches
from captioner.files import atomic_folder, read_json, write_json
from captioner.graph import graph_function

BEST = "best.weights.h5"
TO_GO_ON = ("weights.npz", "optimizer.npz")  # of an epoch: needless when the training is over
WARM_UP = 100  # steps of linearly growing learning rate, or an epoch if that is shorter


@dataclass(frozen=True)
class Settings:
    """How to train; see the section `train` of params.yaml."""

    epochs: int
    pictures_per_batch: int
    learning_rate: float
    schedule: str
    clip_norm: float
    patience: int
    ema: float
    seed: int


class Objective(Protocol):
    """What is minimised, and on what.

    Attributes:
        name: in messages and bars.
        remedy: what to lower in params.yaml when the loss is no number any more.
        measure: what the reported value is called in the history.
        selects: the score of the validation split whose best epoch is kept.
        names: (pictures,) the ids of the training pictures.
        signature: of the tensors that make up a batch.
    """

    name: str
    remedy: str
    measure: str
    selects: str
    names: np.ndarray
    signature: tuple

    def batch(self, chosen: np.ndarray, seed: tuple[int, int]) -> tuple:
        """The tensors of a step.

        Args:
            chosen: (n,) which training pictures, ascending.
            seed: another one for each step.
        """

    def loss(self, batch: tuple, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """What is minimised, and a sum and a count whose ratio is reported; inside a tf.function.

        Args:
            batch: as `signature` says.
            seed: (2,) int32, another one for each step.
        """


class Trainer:
    """Trains a model epoch by epoch.

    Args:
        model: built and initialised.
        objective: what is minimised.
        settings: how to train.
        state: what a killed training left behind is resumed, each finished epoch is kept there.
    """

    def __init__(self, model: keras.Model, objective: Objective, settings: Settings, state: State):
        self.model, self.objective = model, objective
        self.settings, self.state = settings, state
        self.steps_per_epoch = -(-len(objective.names) // settings.pictures_per_batch)
        self.optimizer = keras.optimizers.Adam(
            settings.learning_rate, global_clipnorm=settings.clip_norm
        )
        self.optimizer.build(model.trainable_variables)
        self.averages = [tf.Variable(weight.value) for weight in model.trainable_variables]
        self.progress = Progress()
        # One graph for all batches, whatever the lengths of their captions.
        signature = [objective.signature, tf.TensorSpec((2,), tf.int32)]
        self._step = graph_function(self._train_step, input_signature=signature)

    def run(
        self, score: Callable[[], dict[str, float]], on_epoch: Callable[[dict], None]
    ) -> Progress:
        """Train from the last finished epoch to the end or until patience is out.

        The model ends with the weights of the epoch that the objective selects.

        Args:
            score: scores of the validation split, the one that selects among them; called after
                each epoch with the model as it would be kept.
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
            row[self.objective.measure] = self._train_epoch(epoch)
            with self._averaged() as own_weights:
                row |= score()
                if not np.isfinite(list(row.values())).all():  # the last step was one too far
                    raise self._diverged(epoch, self.steps_per_epoch - 1, "found in validation")
                self._keep(row, own_weights)
            on_epoch(self.progress.history[-1])
        with self.state.reading():
            self.model.load_weights(self.state.epoch(self.progress.epoch) / BEST)
        return self.progress

    def _done(self) -> bool:
        stale = self.progress.epoch - self.progress.best_epoch
        return self.progress.epoch >= self.settings.epochs or stale >= self.settings.patience

    def _learning_rate(self, epoch: int, step: int) -> float:
        """Linear warm-up, then cosine to a tenth, or by plateau."""
        done = epoch * self.steps_per_epoch + step
        total = self.settings.epochs * self.steps_per_epoch
        warm_up = min(1.0, (done + 1) / min(WARM_UP, self.steps_per_epoch))
        if self.settings.schedule == "cosine":
            factor = 0.1 + 0.45 * (1 + np.cos(np.pi * done / total))
        else:
            factor = self.progress.plateau_factor
        return float(self.settings.learning_rate * warm_up * factor)

    def _train_epoch(self, epoch: int) -> float:
        """Returns the mean of what the objective reports."""
        settings, objective = self.settings, self.objective
        rng = np.random.default_rng([settings.seed, epoch])
        total, count = 0.0, 0.0
        plan = list(shuffled_batches(len(objective.names), settings.pictures_per_batch, rng))
        title = f"{objective.name}, epoch {epoch + 1}/{settings.epochs}"
        bar = tqdm(plan, title, unit="batch", disable=None)
        for number, chosen in enumerate(bar):
            self.optimizer.learning_rate.assign(self._learning_rate(epoch, number))
            seed = (settings.seed, epoch * self.steps_per_epoch + number)
            batch = objective.batch(chosen, seed)
            found, words = map(float, self._step(batch, tf.constant(seed, tf.int32)))
            if not np.isfinite(found):
                raise self._diverged(epoch, number, f"pictures {_list(objective.names[chosen])}")
            total, count = total + found, count + words
            if number % 20 == 0:
                bar.set_postfix({objective.measure: f"{total / count:.3f}"}, refresh=False)
        return total / count

    def _train_step(self, batch, seed):
        weights = self.model.trainable_variables
        with tf.GradientTape() as tape:
            loss, found, count = self.objective.loss(batch, seed)
        # Dense, also of the word vectors: Adam would square the gradients of a word's places before
        # it adds them up, and move frequent words too far.
        gradients = map(tf.convert_to_tensor, tape.gradient(loss, weights))
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        # Averaged weights (Polyak and Juditsky 1992); the memory grows from one step to 1 / (1 -
        # ema).
        done = tf.cast(self.optimizer.iterations, tf.float32)
        keep = tf.minimum(self.settings.ema, done / (done + 10.0))
        for average, weight in zip(self.averages, weights, strict=True):
            average.assign_sub((1 - keep) * (average - weight))
        return found, count

    @contextmanager
    def _averaged(self) -> Iterator[list[np.ndarray]]:
        """The averaged weights in the model, inside the block; yields its own ones."""
        weights = self.model.trainable_variables
        own = [weight.numpy() for weight in weights]
        assign(weights, [average.numpy() for average in self.averages])
        try:
            yield own
        finally:
            assign(weights, own)

    def _keep(self, row: dict[str, float], own_weights: list[np.ndarray]) -> None:
        """Note an epoch in the history and write the state, whole or not at all.

        Called with the averaged weights in the model.
        """
        progress = self.progress
        previous = self.state.epoch(progress.epoch)
        selects = self.objective.selects
        best = max((past[selects] for past in progress.history), default=-1.0)
        # In the order in which JSON gives it back, lest a resumed history differ in its columns.
        progress.history.append(dict(sorted(row.items())))
        if row[selects] > best:
            progress.best_epoch = progress.epoch
        elif self.settings.schedule == "plateau":
            progress.plateau_factor /= 2
        with atomic_folder(self.state.epoch(progress.epoch)) as folder:
            if progress.best_epoch == progress.epoch:
                save_weights(self.model, folder / BEST)
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
        with self.state.reading():
            self.progress = Progress(**read_json(folder / "progress.json"))
            assign(self.averages, load_arrays(folder / "averages.npz"))
            if not self._done():  # else they may be gone, see `TO_GO_ON`
                assign(self.model.trainable_variables, load_arrays(folder / "weights.npz"))
                assign(self.optimizer.variables, load_arrays(folder / "optimizer.npz"))
        self.state.report(self.objective.name, self.progress.epoch, self._done())

    def _diverged(self, epoch: int, step: int, where: str) -> CaptionerError:
        rate = self._learning_rate(epoch, step)
        return CaptionerError(
            f"{self.objective.name}: the loss is no number in epoch {epoch + 1}, step {step + 1} "
            f"(learning rate {rate:.2g}, {where}): lower {self.objective.remedy}; "
            "the last finished epoch is kept"
        )


def _list(names: np.ndarray) -> str:
    shown = ", ".join(map(str, names[:5]))
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
