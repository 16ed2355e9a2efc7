"""The complete run of a state of the pipeline, and everything that is logged in it.

The fingerprint of a state is of the params and outputs in dvc.lock. A run counts only once its tag
`captioner.fingerprint` is there, which is set when all is in it; its status is FINISHED after that.
So a killed `track` leaves nothing that looks complete.
"""

import csv
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from captioner import CaptionerError
from captioner.files import atomic_file, digest, read_json
from captioner.tracking.live import CLAIMED, TRAINER_RUN, flatten, is_open, log_curves, log_params
from captioner.tracking.logged_model import delete, log_model
from captioner.tracking.store import (
    connect,
    find,
    is_there,
    new_run,
    present_place,
    public,
    track_lock,
    viewer,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

COMPLETE = "captioner.fingerprint"  # tag of a complete run
BUNDLE = "captioner.bundle"  # tag with the digest of the run's bundle
PREDICTIONS = "predictions.parquet"  # artifact with a caption for each test picture


class Tracked(NamedTuple):
    """The complete run of the pipeline's state; whether it is new; what opens the store."""

    run_id: str
    name: str
    new: bool
    viewer: str


def track(root: Path, params: Mapping[str, Any]) -> Tracked:
    """Make sure that one complete MLflow run describes the state of the pipeline in `root`.

    A complete run with the state's fingerprint is kept; it gets a new logged model where the code
    that the model runs has changed. A half-written run is deleted. Then the trainer's run is
    completed, if it trained the present model and no other state has taken it; else a new run gets
    the recorded curves. Last, mlruns/state is written: the fingerprint.

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
    try:
        with track_lock(root):
            run = find(client, experiment_id, COMPLETE, state)
            new = run is None
            if run is None:
                run = _new_complete_run(client, experiment_id, root, params, state)
            else:
                if again := _adopt(client, root, params):  # the same training, done once more
                    delete(client, again)
                if log_model(client, run, root / "models" / "bundle"):
                    print(f"track: {run.info.run_name}: new model version, for its code changed")
            if run.info.status != "FINISHED":
                client.set_terminated(run.info.run_id, "FINISHED")
    except (MlflowException, OSError) as error:  # a server that went away, a full disk
        raise CaptionerError(
            f"MLflow failed halfway ({public(error)}); `dvc repro` writes the run anew"
        ) from error
    with atomic_file(root / "mlruns" / "state") as temporary:
        temporary.write_text(state + "\n", encoding="utf-8")
    return Tracked(run.info.run_id, run.info.run_name or "", new, viewer())


def _new_complete_run(
    client: "MlflowClient", experiment_id: str, root: Path, params: Mapping[str, Any], state: str
) -> "Run":
    """Complete the trainer's run or a new one; what a killed `track` began is deleted before."""
    while half_written := find(client, experiment_id, CLAIMED, state):
        delete(client, half_written)
    name = os.environ.get("DVC_EXP_NAME") or f"{params['dataset']}-{state[:7]}"
    run = _adopt(client, root, params) or new_run(
        client, experiment_id, name, root, {CLAIMED: state}
    )
    client.update_run(run.info.run_id, status="RUNNING", name=name)
    client.set_tag(run.info.run_id, CLAIMED, state)
    _complete(client, run.info.run_id, root, params)
    client.set_tag(run.info.run_id, COMPLETE, state)
    return client.get_run(run.info.run_id)


def fingerprint(lock: Path) -> str:
    """Return the sha256 of what dvc.lock says of the params and outputs of every stage but `track`.

    Not of the code: where other code has the same outcome, DVC runs no `track`, and a fingerprint
    of the code would be another one only in a rebuild from nothing.
    """
    stages = {
        name: {part: value for part, value in entry.items() if part != "deps"}
        for name, entry in _stages(lock).items()
    }
    text = json.dumps(stages, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _stages(lock: Path) -> dict[str, Any]:
    """The stages of dvc.lock but `track`, whose own entry is written after it ran."""
    try:
        content = yaml.safe_load(lock.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CaptionerError(f"{lock}: no such file; `dvc repro` writes it") from None
    return {name: entry for name, entry in content["stages"].items() if name != "track"}


def _adopt(client: "MlflowClient", root: Path, params: Mapping[str, Any]) -> "Run | None":
    """Return the trainer's run if it trained the present model, under the present params."""
    try:
        note = read_json(root / TRAINER_RUN)
        run_id, model = str(note["run_id"]), note["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # the model came from DVC's cache
    if model != digest(root / "models" / "captioner") or not is_open(client, run_id):
        return None
    run = client.get_run(run_id)
    logged = run.data.params
    if any(logged.get(key, str(value)) != str(value) for key, value in params.items()):
        return None  # MLflow's params cannot be changed
    return run


def _complete(client: "MlflowClient", run_id: str, root: Path, params: Mapping[str, Any]) -> None:
    """Write everything into a run that has at most the trainer's params and epochs."""
    stages = _stages(root / "dvc.lock")
    log_params(client, run_id, params)
    for stage in sorted(stages):
        _log_report(client, run_id, root / "reports" / stage)
    for name in ("params.yaml", "dvc.yaml", "dvc.lock"):
        client.log_artifact(run_id, str(root / name))
    _log_captions(client, run_id, root / "data" / "predictions.parquet")
    _log_datasets(client, run_id, str(params["dataset"]), stages)
    client.set_tag(run_id, BUNDLE, digest(root / "models" / "bundle"))
    log_model(client, client.get_run(run_id), root / "models" / "bundle")


def _log_report(client: "MlflowClient", run_id: str, folder: Path) -> None:
    """Log a stage's curves and metrics under its name, its figures and tables as artifacts."""
    curves = _read_curves(folder / "history.csv")
    if (folder / "metrics.json").is_file():
        for name, value in read_json(folder / "metrics.json").items():
            # What has a curve keeps to it: a point at step 0 would be an epoch that never was.
            curves.setdefault(f"{folder.name}.{name}", {0: value})
    log_curves(client, run_id, curves, {})
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".png", ".csv", ".html"):
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
    """Log the predictions as a table that the UI shows, and as the file they are."""
    import pandas as pd

    table = pd.read_parquet(predictions).drop(columns="split")
    table["references"] = ["\n".join(references) for references in table["references"]]
    client.log_table(run_id, table, "captions.json")
    client.log_artifact(run_id, str(predictions))  # exact, for `captioner compare`


def fetch_predictions(run_id: str, folder: Path) -> Path:
    """Download the predictions of a run into a folder.

    Raises:
        CaptionerError: no such run in the store, or it holds no predictions.
    """
    if not is_there():
        raise CaptionerError(
            f"MLflow run {run_id}: no mlflow.db here; go to the pipeline's top folder, or name the "
            "store with MLFLOW_TRACKING_URI"
        )
    connect(write=False)
    from mlflow import MlflowClient, MlflowException
    from mlflow.artifacts import download_artifacts

    try:
        place = present_place(MlflowClient().get_run(run_id).info.artifact_uri)
        return Path(download_artifacts(f"{place}/{PREDICTIONS}", dst_path=str(folder)))
    except (MlflowException, OSError) as error:
        raise CaptionerError(f"MLflow run {run_id}: no {PREDICTIONS} ({public(error)})") from None


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


def run_of_bundle(bundle: Path) -> "Run | None":
    """The newest complete run that made a bundle; None where there is no store, or no such run.

    Raises:
        CaptionerError: no answer from the store.
    """
    if not is_there():
        return None
    experiment_id = connect(write=False)
    from mlflow import MlflowClient

    wanted = f"tags.`{BUNDLE}` = '{digest(bundle)}'"
    runs = MlflowClient().search_runs([experiment_id], wanted)
    return next((run for run in runs if COMPLETE in run.data.tags), None)
