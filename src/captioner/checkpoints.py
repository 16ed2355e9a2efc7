"""What a training leaves on disk after each epoch, so that a kill costs an epoch at most."""

import hashlib
import re
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

    def phase(self, name: str) -> "State":
        """A state of its own for a part of the training."""
        return State(self.folder / name)

    def epoch(self, number: int) -> Path:
        return self.folder / f"epoch-{number:04d}"

    def newest(self) -> Path | None:
        """The folder of the last finished epoch."""
        return max(self.folder.glob("epoch-*"), default=None)

    def remove(self) -> None:
        """To be called when the outcome is stored elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)


def assign(variables: Sequence, values: Sequence[np.ndarray]) -> None:
    """Put values into variables of the same shapes."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def load_arrays(path: Path) -> list[np.ndarray]:
    """What `np.savez` wrote from positional arguments, in their order."""
    with np.load(path, allow_pickle=False) as stored:
        return [stored[f"arr_{number}"] for number in range(len(stored.files))]
