"""The run of a training, live: every epoch is in MLflow's curves as soon as it is over.

The weights do not depend on any of it, and MLflow may fail at any time without harm to a training.
The order is the trainer's: open (or resume) the run, log epochs, sign the model, close. What opens
here is completed in `record`, which logs params and curves by the same two functions.
"""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.files import digest, write_json
from captioner.tracking.store import connect, new_run, public

if TYPE_CHECKING:
    from mlflow import MlflowClient

CLAIMED = "captioner.tracking"  # tag of a run that `track` has begun to write
TRAINER_RUN = Path("reports/train_run.json")  # no output of DVC: run ids differ from run to run
AFTER_TRAINING = ("evaluate.", "export.")  # params that may still change before `track` runs


class TrainingRun:
    """The live MLflow run of a training. It never stops the training.

    When MLflow fails, one line on stderr says so and the training goes on without it: `track` adds
    the missing epochs from the recorded history.

    Attributes:
        run_id: the run's id; None where a new run was wanted and MLflow could not be reached.
    """

    def __init__(self, run_id: str | None) -> None:
        self.run_id = run_id
        self._client: MlflowClient | None = None
        self._steps: dict[str, set[int]] = {}

    @classmethod
    def open(
        cls,
        run_id: str | None,
        name: str | None,
        params: Mapping[str, Any],
        *,
        new: bool = True,
    ) -> "TrainingRun":
        """Resume the run `run_id` if it is there and still the trainer's, else open a new one.

        Args:
            run_id: the id that an interrupted training left behind, or None.
            name: a new run's name, unless DVC names the experiment.
            params: nested or flattened; those of later stages are left to `track`.
            new: whether to open a new one; if not, nothing more is logged where the run is gone or
                complete.
        """
        run = cls(run_id)
        with run._at_best():
            experiment_id = connect()
            from mlflow import MlflowClient

            client = MlflowClient()
            if run_id is not None and is_open(client, run_id):
                client.update_run(run_id, status="RUNNING")
            elif not new:
                return run
            else:
                run.run_id = new_run(client, experiment_id, name, Path.cwd()).info.run_id
                early = {
                    key: value
                    for key, value in flatten(params).items()
                    if not key.startswith(AFTER_TRAINING)
                }
                log_params(client, run.run_id, early)
            run._client = client
        return run

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log a row of the history at step `epoch`; an epoch already there is left alone."""
        if self._client is not None and self.run_id is not None:
            row = {name: value for name, value in metrics.items() if name != "epoch"}
            curves = {f"train.{name}": {epoch: value} for name, value in row.items()}
            with self._at_best():
                log_curves(self._client, self.run_id, curves, self._steps)

    def close(self, status: str = "FINISHED") -> None:
        """End the run with one of MLflow's statuses: FINISHED, FAILED, KILLED."""
        if self._client is not None and self.run_id is not None:
            with self._at_best():
                self._client.set_terminated(self.run_id, status)

    def sign(self, model: Path) -> None:
        """Leave word for `track` that this run trained what lies in the folder `model`."""
        if self.run_id is not None:
            write_json(TRAINER_RUN, {"run_id": self.run_id, "model": digest(model)})

    @contextmanager
    def _at_best(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever it is, it is not worth an hour of training
            self._client = None
            print(
                f"train: no live curves from here on ({public(error)}); `track` logs all epochs",
                file=sys.stderr,
            )


def is_open(client: "MlflowClient", run_id: str) -> bool:
    """Whether the run exists, is not deleted, and `track` has not begun with it."""
    from mlflow import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return False
        raise
    return run.info.lifecycle_stage == "active" and CLAIMED not in run.data.tags


def flatten(params: Any) -> dict[str, str | int | float]:
    """Return nested params (a mapping or a pydantic model) as `section.key`, without `datasets`."""
    nested = params if isinstance(params, Mapping) else params.model_dump()
    flat: dict[str, str | int | float] = {}
    for key, value in nested.items():
        if key == "datasets":  # the rows of data sets that were not chosen
            continue
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": leaf for inner, leaf in flatten(value).items()}
        elif isinstance(value, str | int | float) and not isinstance(value, bool):
            flat[key] = value
        else:
            flat[key] = json.dumps(value)
    return flat


def log_params(client: "MlflowClient", run_id: str, params: Mapping[str, Any]) -> None:
    """Log flattened params; MLflow takes those that the run has already if they are equal."""
    from mlflow.entities import Param

    entries = [Param(key, str(value)) for key, value in sorted(params.items())]
    for start in range(0, len(entries), 100):  # MLflow's limit for one call
        client.log_batch(run_id, params=entries[start : start + 100])


def log_curves(
    client: "MlflowClient",
    run_id: str,
    curves: Mapping[str, Mapping[int, float]],
    steps: dict[str, set[int]],
) -> None:
    """Log the points whose step the run has not yet, so that no epoch appears twice.

    Args:
        steps: for each metric the steps known to be in the run; asked for where missing, and kept.
    """
    from mlflow.entities import Metric

    milliseconds = int(time.time() * 1000)
    points = []
    for name, curve in sorted(curves.items()):
        if name not in steps:
            steps[name] = {point.step for point in client.get_metric_history(run_id, name)}
        missing = sorted(curve.keys() - steps[name])
        points += [Metric(name, float(curve[step]), milliseconds, step) for step in missing]
    for start in range(0, len(points), 1000):  # MLflow's limit for one call
        client.log_batch(run_id, metrics=points[start : start + 1000])
    for point in points:
        steps[point.key].add(point.step)
