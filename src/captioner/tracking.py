"""The logbook: one MLflow run for one state of the pipeline (Zaharia et al. 2018, MLflow).

The trainer opens a run and logs every epoch live (`TrainingRun`); at the end of the pipeline
`track` completes it. The fingerprint of a state is dvc.lock without the `track` stage. A run counts
only once its tag `captioner.fingerprint` is there, which is set last, so that a killed `track`
leaves nothing that looks complete. Importing mlflow takes seconds, so it happens inside functions,
and nowhere else but in `pyfunc.py`, the wrapper that MLflow itself loads.
"""

import csv
import getpass
import hashlib
import json
import logging
import os
import platform
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from filelock import FileLock

from captioner import CaptionerError
from captioner.files import atomic_file, digest, read_json, write_json

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT = "captioner"
DEFAULT_STORE = "sqlite:///mlflow.db"
MODEL = "captioner"  # a run's model is runs:/RUN_ID/captioner
COMPLETE = "captioner.fingerprint"  # tag of a complete run
CLAIMED = "captioner.tracking"  # tag of a run that `track` has begun to write
TRAINER_RUN = Path("reports/train_run.json")  # no output of DVC: run ids differ from run to run
# What the package and its bundle import: their versions are tags of a run, and the model's needs.
PACKAGES = ["tensorflow", "keras", "h5py", "numpy", "pandas", "pyarrow", "pillow", "pyyaml"]
PACKAGES += ["pydantic", "filelock"]
AFTER_TRAINING = ("evaluate.", "export.")  # params that may still change before `track` runs

# MLflow's own defaults send usage data, and keep a training waiting for a dead server for minutes.
MLFLOW_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}


def connect(root: Path | None = None) -> str:
    """Point MLflow at the store and its experiment `captioner`, made where missing; return its id.

    The store is MLFLOW_TRACKING_URI, else mlflow.db, in DVC_ROOT (DVC sets it for every stage, in
    temporary experiments to the parent repository), else in `root`, else in the working folder.
    Artifacts of local stores lie there under mlruns; a server decides for itself.

    Raises:
        CaptionerError: the store cannot be reached, or the experiment was deleted.
    """
    for variable, value in MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    import mlflow

    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    root = _store_root(root)
    chosen = os.environ.get("MLFLOW_TRACKING_URI")
    uri = chosen or DEFAULT_STORE
    if uri.startswith("sqlite:///"):  # a relative path is meant from the top folder
        uri = f"sqlite:///{(root / uri.removeprefix('sqlite:///')).as_posix()}"
    mlflow.set_tracking_uri(uri)
    if not chosen:  # MLflow sets it too; a second checkout in this process would take it for a wish
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    try:
        with _database_lock(uri):
            experiment_id = _experiment(mlflow.MlflowClient(), uri, root)
            mlflow.set_experiment(experiment_id=experiment_id)
    except CaptionerError:
        raise
    except Exception as error:  # the store's own: network, disk, SQL, versions
        raise CaptionerError(
            f"MLflow at {_public(uri)} does not answer; start or mend it, or choose another store "
            f"with MLFLOW_TRACKING_URI ({_public(error)})"
        ) from error
    return experiment_id


def _store_root(root: Path | None) -> Path:
    return Path(os.environ.get("DVC_ROOT") or root or Path.cwd()).resolve()


def _database_lock(uri: str) -> Any:
    """A lock beside an SQLite database, which several processes would else migrate at once."""
    if not uri.startswith("sqlite:///"):
        return nullcontext()
    database = Path(uri.removeprefix("sqlite:///"))
    database.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{database}.lock")


def _experiment(client: "MlflowClient", uri: str, root: Path) -> str:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        local = "://" not in uri or uri.startswith(("sqlite:", "file:"))
        # MLflow's default is ./mlruns, which a temporary experiment throws away with its folder.
        location = (root / "mlruns" / EXPERIMENT).as_uri() if local else None
        return client.create_experiment(EXPERIMENT, artifact_location=location)
    if experiment.lifecycle_stage == "deleted":
        raise CaptionerError(
            f"MLflow at {_public(uri)}: the experiment `{EXPERIMENT}` was deleted; bring it back "
            f"with `mlflow experiments restore -x {experiment.experiment_id}` or empty the bin "
            "with `mlflow gc`"
        )
    return experiment.experiment_id


def _public(message: object) -> str:
    """Return a message as one line of moderate length, with no password of a server's address."""
    line = " ".join(str(message).split()) or type(message).__name__
    return re.sub(r"//[^/@\s]+@", "//", line)[:200]


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
    def open(cls, run_id: str | None, name: str | None, params: Mapping[str, Any]) -> "TrainingRun":
        """Resume the run `run_id` if it is there and still the trainer's, else open a new one.

        Args:
            run_id: the id that an interrupted training left behind, or None.
            name: a new run's name, unless DVC names the experiment.
            params: nested or flattened; those of later stages are left to `track`.
        """
        run = cls(run_id)
        with run._at_best():
            experiment_id = connect()
            from mlflow import MlflowClient

            client = MlflowClient()
            if run_id is not None and _is_open(client, run_id):
                client.update_run(run_id, status="RUNNING")
            else:
                run.run_id = _new_run(client, experiment_id, name, Path.cwd()).info.run_id
                early = {
                    key: value
                    for key, value in flatten(params).items()
                    if not key.startswith(AFTER_TRAINING)
                }
                _log_params(client, run.run_id, early)
            run._client = client
        return run

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log a row of the history at step `epoch`; an epoch already there is left alone."""
        if self._client is not None and self.run_id is not None:
            row = {name: value for name, value in metrics.items() if name != "epoch"}
            curves = {f"train.{name}": {epoch: value} for name, value in row.items()}
            with self._at_best():
                _log_curves(self._client, self.run_id, curves, self._steps)

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
                f"train: no live curves from here on ({_public(error)}); `track` logs all epochs",
                file=sys.stderr,
            )


def _is_open(client: "MlflowClient", run_id: str) -> bool:
    """Whether the run exists, is not deleted, and `track` has not begun with it."""
    from mlflow import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return False
        raise
    return run.info.lifecycle_stage == "active" and CLAIMED not in run.data.tags


def _new_run(
    client: "MlflowClient",
    experiment_id: str,
    name: str | None,
    checkout: Path,
    tags: Mapping[str, str] | None = None,
) -> "Run":
    """Open a run, named by DVC's experiment or else `name`; tags say what it is made with."""
    tags = {**(tags or {}), "mlflow.source.name": Path(sys.argv[0]).name, "device": _device()}
    tags["version.python"] = platform.python_version()
    for package in ("captioner", "mlflow", "dvc", *PACKAGES):
        with suppress(metadata.PackageNotFoundError):
            tags[f"version.{package}"] = metadata.version(package)
    with suppress(OSError, KeyError):  # a container may run under a number without a name
        tags["mlflow.user"] = getpass.getuser()
    with suppress(OSError, subprocess.CalledProcessError):  # no git, or no repository
        tags["mlflow.source.git.commit"] = _git(checkout, "rev-parse", "HEAD")
        tags["git.changed_files"] = str(len(_git(checkout, "status", "--porcelain").splitlines()))
    name = os.environ.get("DVC_EXP_NAME") or name
    return client.create_run(experiment_id, tags=tags, run_name=name)


def _device() -> str:
    """Processor, cores and graphics cards, as the kernel names them: TensorFlow is slow to ask."""
    processor = platform.processor() or platform.machine()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    cards = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    models = [card.read_text(encoding="utf-8").splitlines()[0] for card in cards]
    names = [model.partition(":")[2].strip() for model in models]
    return ", ".join([processor, f"{os.cpu_count()} cores", *names])


def _git(checkout: Path, *arguments: str) -> str:
    command = ["git", "-C", str(checkout), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


class Tracked(NamedTuple):
    """The complete run of the pipeline's state; whether it is new; what opens the store."""

    run_id: str
    name: str
    new: bool
    viewer: str


def track(root: Path, params: Mapping[str, Any]) -> Tracked:
    """Make sure that one complete MLflow run describes the state of the pipeline in `root`.

    A complete run with the state's fingerprint is left alone; a half-written one is deleted. Then
    the trainer's run is completed, if it trained the present model and no other state has taken it;
    else a new run gets the recorded curves. Last, mlruns/state is written: the fingerprint.

    Args:
        root: folder of dvc.lock, params.yaml, reports/ and models/; of a temporary experiment the
            copy, whereas the store stays in the parent repository.
        params: nested or flattened, resolved for the chosen data set.

    Raises:
        CaptionerError: no dvc.lock, or no answer from the store.
    """
    root, params = root.resolve(), flatten(params)
    state = fingerprint(root / "dvc.lock")
    experiment_id = connect(root)
    from mlflow import MlflowClient, MlflowException

    client = MlflowClient()
    # One at a time: two experiments that end together must not both find the run missing.
    with FileLock(_store_root(root) / "mlflow.db.track.lock"):
        run = _find(client, experiment_id, COMPLETE, state)
        new = run is None
        if run is None:
            while half_written := _find(client, experiment_id, CLAIMED, state):
                _delete(client, half_written)
            name = os.environ.get("DVC_EXP_NAME") or f"{params['dataset']}-{state[:7]}"
            run = _adopt(client, root, params) or _new_run(
                client, experiment_id, name, root, {CLAIMED: state}
            )
            client.set_tag(run.info.run_id, CLAIMED, state)
            client.update_run(run.info.run_id, status="RUNNING", name=name)
            try:
                _complete(client, run.info.run_id, root, params)
            except MlflowException as error:  # a server that went away, a full disk
                raise CaptionerError(
                    f"MLflow failed halfway ({_public(error)}); `dvc repro` writes the run anew"
                ) from error
            client.set_tag(run.info.run_id, COMPLETE, state)
            run = client.get_run(run.info.run_id)
    with atomic_file(root / "mlruns" / "state") as temporary:
        temporary.write_text(state + "\n", encoding="utf-8")
    store = _public(os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_STORE)
    viewer = store if store.startswith("http") else f"mlflow ui --backend-store-uri {store}"
    return Tracked(run.info.run_id, run.info.run_name or "", new, viewer)


def fingerprint(lock: Path) -> str:
    """Return the sha256 of what dvc.lock says of every stage but `track`."""
    text = json.dumps(_stages(lock), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _stages(lock: Path) -> dict[str, Any]:
    """The stages of dvc.lock but `track`, whose own entry is written after it ran."""
    try:
        content = yaml.safe_load(lock.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CaptionerError(f"{lock}: no such file; `dvc repro` writes it") from None
    return {name: entry for name, entry in content["stages"].items() if name != "track"}


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


def _find(client: "MlflowClient", experiment_id: str, tag: str, state: str) -> "Run | None":
    runs = client.search_runs([experiment_id], f"tags.`{tag}` = '{state}'", max_results=1)
    return runs[0] if runs else None


def _delete(client: "MlflowClient", run: "Run") -> None:
    for model in run.outputs.model_outputs if run.outputs else ():
        client.delete_logged_model(model.model_id)
    client.delete_run(run.info.run_id)


def _adopt(client: "MlflowClient", root: Path, params: Mapping[str, Any]) -> "Run | None":
    """Return the trainer's run if it trained the present model, under the present params."""
    try:
        note = read_json(root / TRAINER_RUN)
        run_id, model = str(note["run_id"]), note["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # the model came from DVC's cache
    if model != digest(root / "models" / "captioner") or not _is_open(client, run_id):
        return None
    run = client.get_run(run_id)
    logged = run.data.params
    if any(logged.get(key, str(value)) != str(value) for key, value in params.items()):
        return None  # MLflow's params cannot be changed
    return run


def _complete(client: "MlflowClient", run_id: str, root: Path, params: Mapping[str, Any]) -> None:
    """Write everything into a run that has at most the trainer's params and epochs."""
    stages = _stages(root / "dvc.lock")
    _log_params(client, run_id, params)
    for stage in sorted(stages):
        _log_report(client, run_id, root / "reports" / stage)
    for name in ("params.yaml", "dvc.yaml", "dvc.lock"):
        client.log_artifact(run_id, str(root / name))
    _log_captions(client, run_id, root / "data" / "predictions.parquet")
    _log_datasets(client, run_id, str(params["dataset"]), stages)
    _log_model(run_id, root / "models" / "bundle")
    client.set_terminated(run_id, "FINISHED")


def _log_params(client: "MlflowClient", run_id: str, params: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    entries = [Param(key, str(value)) for key, value in sorted(params.items())]
    for start in range(0, len(entries), 100):  # MLflow's limit for one call
        client.log_batch(run_id, params=entries[start : start + 100])


def _log_curves(
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


def _log_report(client: "MlflowClient", run_id: str, folder: Path) -> None:
    """Log a stage's curves and metrics under its name, its figures and tables as artifacts."""
    curves = _read_curves(folder / "history.csv")
    if (folder / "metrics.json").is_file():
        for name, value in read_json(folder / "metrics.json").items():
            # What has a curve keeps to it: a point at step 0 would be an epoch that never was.
            curves.setdefault(f"{folder.name}.{name}", {0: value})
    _log_curves(client, run_id, curves, {})
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".png", ".csv"):
            place = Path("reports") / folder.name / path.relative_to(folder)
            client.log_artifact(run_id, str(path), place.parent.as_posix())


def _read_curves(history: Path) -> dict[str, dict[int, float]]:
    """Read a CSV of `epoch` and one column a measure as STAGE.MEASURE -> epoch -> value."""
    curves: dict[str, dict[int, float]] = {}
    if history.is_file():
        with history.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                epoch = int(row.pop("epoch"))
                for name, cell in row.items():
                    if cell:
                        curve = curves.setdefault(f"{history.parent.name}.{name}", {})
                        curve[epoch] = float(cell)
    return curves


def _log_captions(client: "MlflowClient", run_id: str, predictions: Path) -> None:
    import pandas as pd

    columns = ["image_id", "caption", "references", "cider_d"]
    table = pd.read_parquet(predictions, columns=columns)
    table["references"] = ["\n".join(references) for references in table["references"]]
    client.log_table(run_id, table, "captions.json")


def _log_datasets(
    client: "MlflowClient", run_id: str, dataset: str, stages: Mapping[str, Any]
) -> None:
    """Log the data's identity: DVC's MD5 of what `download` and `preprocess` wrote."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = []
    for stage in ("download", "preprocess"):
        for output in stages[stage]["outs"]:
            path = output["path"]
            if path.startswith("data/"):
                source = json.dumps({"uri": path})
                entry = Dataset(f"{dataset}: {path}", output["md5"], "local", source)
                inputs.append(DatasetInput(entry, [InputTag("mlflow.data.context", stage)]))
    client.log_inputs(run_id, inputs)


def _log_model(run_id: str, bundle: Path) -> None:
    """Log the bundle as a pyfunc model whose code is this package: no pickle."""
    import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema

    package = Path(__file__).resolve().parent
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*input example")
        Model.log(
            artifact_path=None,
            name=MODEL,
            flavor=mlflow.pyfunc,
            run_id=run_id,
            python_model=str(package / "pyfunc.py"),
            artifacts={"bundle": str(bundle)},
            code_paths=[str(package)],
            signature=ModelSignature(
                inputs=Schema([ColSpec("binary", "image")]), outputs=Schema([ColSpec("string")])
            ),
            # Named here, else MLflow loads the model in a new process to see what it imports.
            pip_requirements=[
                f"{name}=={metadata.version(name)}" for name in ("mlflow", *PACKAGES)
            ],
        )
