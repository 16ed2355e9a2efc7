"""What a training leaves on disk after each epoch, so that a kill costs an epoch at most.

It stays when the training is over, until one of other settings begins: DVC takes the outputs of a
stage into its cache after the stage has ended, and a kill in those seconds would cost the whole
training. Started again, the stage finds all epochs done and writes the same outputs once more.
"""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from captioner.files import read_json, write_json


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
    with np.load(path, allow_pickle=False) as stored:
        return [stored[f"arr_{number}"] for number in range(len(stored.files))]
