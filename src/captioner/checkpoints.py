"""Weights on disk: what a training leaves after each epoch, so that a kill costs an epoch at most,
and files of weights that may come from a stranger.

The state of a training stays when it is over, until one of other settings begins: DVC takes the
outputs of a stage into its cache after the stage has ended, and a kill in those seconds would cost
the whole training. Started again, the stage finds all epochs done and writes its outputs once more.
"""

import hashlib
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import h5py
import numpy as np

from captioner import CaptionerError
from captioner.files import atomic_folder, read_json, reserve, write_json

LAST = "last.npz"  # of `State.keep_arrays`: needless when the training is over

LARGEST = 1e9  # of a weight; those of trained networks stay far below, a flipped exponent does not
MOST_ENTRIES, DEEPEST = 10_000, 32  # of a file of weights; InceptionV3 has a thousand, 5 deep
HDF5_OBJECT = 2**13  # bytes, at most, that HDF5 adds for an array


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
        folder: holds epoch-0001 or the like, whole or not at all, run.json, and finished.json once
            the training is over.
    """

    def __init__(self, folder: Path, top: Path | None = None):
        self.folder = folder
        self.top = top or folder  # of all phases

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
            # No folder that somebody else put here, and no link to one.
            ours = re.fullmatch("[0-9a-f]{16}", other.name) and not other.is_symlink()
            if ours and other.name != name:
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

    def keep_arrays(
        self, history: list[dict[str, float]], variables: Sequence, best: Sequence[np.ndarray]
    ) -> None:
        """Keep an epoch of a training that is no `training.Trainer`'s, in place of the last one.

        Args:
            history: a row for each epoch so far.
            variables: all that the next epoch begins with: weights and the optimizer's.
            best: weights that the training would end with if this were its last epoch.
        """
        previous = self.newest()
        with atomic_folder(self.epoch(len(history))) as folder:
            np.savez(folder / LAST, *[variable.numpy() for variable in variables])
            np.savez(folder / "best.npz", *best)
            write_json(folder / "history.json", history)
        if previous is not None:
            shutil.rmtree(previous)

    def resume_arrays(
        self, name: str, variables: Sequence, epochs: int
    ) -> tuple[list[dict[str, float]], list[np.ndarray]]:
        """Go on from what `keep_arrays` kept: its history and best weights, empty where none is.

        Args:
            name: of what is trained.
            variables: take their values, unless all epochs are done.
            epochs: how many there are to be.
        """
        newest = self.newest()
        if newest is None:
            return [], []
        with self.reading():
            history = read_json(newest / "history.json")
            if len(history) < epochs:
                assign(variables, load_arrays(newest / LAST))
            best = load_arrays(newest / "best.npz")
        self.report(name, len(history), over=len(history) == epochs)
        return history, best

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn what damaged files raise inside the block into a `CaptionerError`."""
        try:
            yield
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            reason = " ".join(str(error).split())[:200]
            raise CaptionerError(
                f"{self.folder}: damaged ({reason}); remove {self.top} to train from the beginning"
            ) from error

    def phase(self, name: str) -> "State":
        """A state of its own for a part of the training."""
        return State(self.folder / name, self.top)

    def epoch(self, number: int) -> Path:
        return self.folder / f"epoch-{number:04d}"

    def newest(self) -> Path | None:
        """The folder of the last finished epoch."""
        return max(self.folder.glob("epoch-*"), default=None)

    @property
    def finished(self) -> bool:
        """Whether the training came to its end and its outputs were written."""
        return (self.folder / "finished.json").exists()

    def finish(self, *names: str) -> None:
        """Note the end of the training, and keep no more than its outputs are made of.

        Args:
            names: of files and folders, at any depth, that only further epochs would need.
        """
        write_json(self.folder / "finished.json", {})
        for path in [found for name in names for found in self.folder.rglob(name)]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def report(self, name: str, epochs: int, over: bool) -> None:
        """Print where a training goes on.

        Args:
            name: of what is trained.
            epochs: how many are done.
            over: whether no further one is to come.
        """
        if over:
            text = f"all {epochs} epochs are done, in {self.top}; remove that folder to train anew"
        else:
            text = f"going on after epoch {epochs}"
        print(f"{name}: {text}", flush=True)


def assign(variables: Sequence, values: Sequence[np.ndarray]) -> None:
    """Put values into variables of the same shapes."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def load_arrays(path: Path) -> list[np.ndarray]:
    """What `np.savez` wrote from positional arguments, in their order."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        return [stored[f"arr_{number}"] for number in range(len(stored.files))]


def save_weights(model, path: Path) -> None:
    """Write the weights of a Keras model as .weights.h5.

    HDF5 crashes the process where the disk becomes full under it, so the room is taken first.

    Raises:
        OSError: there is no room.
    """
    size = sum(variable.numpy().nbytes + HDF5_OBJECT for variable in model.variables)
    with path.open("wb") as file:
        file.truncate(size + HDF5_OBJECT)
    reserve(path)
    model.save_weights(path)


def load_weights(model, path: Path) -> None:
    """Load what `model.save_weights` wrote into a model of Keras.

    Raises:
        OSError, ValueError, KeyError, RuntimeError: h5py and Keras raise these for files that are
            damaged or do not fit; ValueError also for a weight that is no number or too large.
    """
    check_weights(path)
    model.load_weights(path)
    for variable in model.variables:
        values = np.abs(variable.numpy())
        if not values.max(initial=0) <= LARGEST:  # NaN is not, either
            raise ValueError(
                f"{path.name}: {variable.path} holds {values.max()}, which no weight is"
            )


def check_weights(path: Path, parameters: int | None = None) -> None:
    """Refuse HDF5 that Keras does not write: links, and more values than the file has bytes for.

    A few bytes of HDF5 can stand for any number of values (filters, fill values, chunks that are
    not there), and for the content of other files. Reads no values.

    Args:
        path: a file of weights.
        parameters: how many values there are to be.

    Raises:
        OSError, KeyError, RuntimeError: it is no HDF5, or damaged.
        ValueError: as above; the reason.
    """
    values, size = 0, 0
    with h5py.File(path, "r") as file:
        places = {h5py.h5o.get_info(file.id).addr}
        waiting = [(file, 0)]
        while waiting:
            group, depth = waiting.pop()
            for name in group:
                kind, entry = group.get(name, getlink=True), None
                if isinstance(kind, h5py.HardLink):
                    entry = group[name]
                    # A second link to the same place may lead round in a circle.
                    place = h5py.h5o.get_info(entry.id).addr
                if entry is None or place in places or depth == DEEPEST:
                    raise ValueError(f"{path.name}: {name:.60} is a link")
                places.add(place)
                if len(places) > MOST_ENTRIES:
                    raise ValueError(f"{path.name} has more than {MOST_ENTRIES} entries")
                if isinstance(entry, h5py.Group):
                    waiting.append((entry, depth + 1))
                    continue
                stored = entry.id.get_create_plist()
                if (
                    entry.dtype.kind not in "fiu"
                    or stored.get_layout() != h5py.h5d.CONTIGUOUS
                    or stored.get_external_count()
                    or entry.id.get_storage_size() != entry.size * entry.dtype.itemsize
                ):
                    raise ValueError(f"{path.name}: {entry.name:.60} is not stored as Keras does")
                values, size = values + entry.size, size + entry.id.get_storage_size()
    if size > path.stat().st_size:
        raise ValueError(f"{path.name} has no room for {values:,} values")
    if parameters not in (None, values):
        raise ValueError(f"{path.name} holds {values:,} values, expected {parameters:,}")
