"""Where the runs are: MLflow's store, the experiment in it, and how a run is opened and found.

An SQLite store is opened under a lock, since several processes that migrate one at the same time
spoil it; `database` makes and mends it. A new run says what it is made with: versions, commit,
processor and graphics cards.
"""

import getpass
import logging
import os
import platform
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib import metadata
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from filelock import FileLock

from captioner import CaptionerError
from captioner.tracking.database import (
    ARTIFACTS,
    EXPERIMENT,
    address,
    artifacts_folder,
    local_path,
    mover,
    prepare,
    relocate,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

DEFAULT_STORE = "sqlite:///mlflow.db"
# What the package and its bundle import: their versions are tags of a run, and the model's needs.
PACKAGES = ["tensorflow", "keras", "h5py", "numpy", "pandas", "pyarrow", "pillow", "pyyaml"]
PACKAGES += ["pydantic", "filelock"]

# MLflow's own defaults send usage data, and keep a training waiting for a dead server for minutes.
MLFLOW_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}


def connect(root: Path | None = None, write: bool = True) -> str:
    """Point MLflow at the store and its experiment `captioner`, made where missing; return its id.

    The store is MLFLOW_TRACKING_URI, else mlflow.db, in DVC_ROOT (DVC sets it for every stage, in
    temporary experiments to the parent repository), else in `root`, else in the working folder.
    Artifacts of local stores lie there under mlruns; a server decides for itself. The places that
    a store in this folder has recorded move along with the folder.

    Args:
        write: False for what only reads, which a store on a read-only disk serves as it is.

    Raises:
        CaptionerError: the store cannot be reached or written, or the experiment was deleted, or
            its artifacts have a local place that is gone.
    """
    for variable, value in MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    import mlflow

    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    root = _store_root(root)
    chosen = os.environ.get("MLFLOW_TRACKING_URI")
    uri = chosen or DEFAULT_STORE
    database = _database(uri, root)
    if database:  # a relative path is meant from the top folder
        uri = address(database)
    mlflow.set_tracking_uri(uri)
    if not chosen:  # MLflow sets it too; a second checkout in this process would take it for a wish
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    try:
        with _prepared(database, root, write):
            experiment_id = _experiment(mlflow.MlflowClient(), uri, root, write)
            mlflow.set_experiment(experiment_id=experiment_id)
    except CaptionerError:
        raise
    except Exception as error:  # the store's own: network, disk, SQL, versions
        raise CaptionerError(_remedy(uri, error)) from error
    return experiment_id


def _remedy(uri: str, error: Exception) -> str:
    """What to say of a store that cannot be opened."""
    if "MLFLOW_ALLOW_FILE_STORE" in str(error):
        return (
            f"MLFLOW_TRACKING_URI: {uri} is a folder, and this MLflow keeps runs in databases; "
            f"`mlflow migrate-filestore --source {uri} --target sqlite:///mlflow.db` copies them "
            "into one, or set MLFLOW_ALLOW_FILE_STORE=true"
        )
    return (
        f"MLflow at {public(uri)} does not answer; start or mend it, or choose another store "
        f"with MLFLOW_TRACKING_URI ({public(error)})"
    )


def is_there() -> bool:
    """Whether there is a store to read from, which `connect` would else make."""
    chosen = os.environ.get("MLFLOW_TRACKING_URI")
    return bool(chosen) or (_store_root(None) / DEFAULT_STORE.removeprefix("sqlite:///")).is_file()


def present_place(place: str) -> str:
    """A place of artifacts, as it is called now; on a read-only disk it is recorded as it was."""
    root, folder = _store_root(None), artifacts_folder(place)
    database = _database(os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_STORE, root)
    if folder is None or database is None or not database.is_relative_to(root):
        return place
    return mover(folder, root / ARTIFACTS)(place) or place


def _store_root(root: Path | None) -> Path:
    return Path(os.environ.get("DVC_ROOT") or root or Path.cwd()).resolve()


def _database(uri: str, root: Path) -> Path | None:
    """The file of an SQLite store, a relative path meant from the top folder."""
    path = uri.removeprefix("sqlite:///")
    return root / path if uri.startswith("sqlite:///") and path not in ("", ":memory:") else None


@contextmanager
def _prepared(database: Path | None, root: Path, write: bool) -> Iterator[None]:
    """A whole SQLite store, locked: several processes that migrate one at once spoil it."""
    if database is None:
        yield
        return
    own = database.is_relative_to(root)
    with ExitStack() as stack:
        try:
            if write:
                database.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(f"{database}.lock"))
            prepare(database, root, own)
            if own:
                relocate(database, root)
        except (OSError, sqlite3.OperationalError) as error:
            if write or not database.exists():
                raise CaptionerError(f"{database}: cannot be written ({public(error)})") from error
        yield


def track_lock(root: Path) -> FileLock:
    """One `track` at a time: two that end together must not both find the run missing."""
    return FileLock(_store_root(root) / "mlflow.db.track.lock")


def _experiment(client: "MlflowClient", uri: str, root: Path, write: bool) -> str:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        local = "://" not in uri or uri.startswith(("sqlite:", "file:"))
        # MLflow's default is ./mlruns, which a temporary experiment throws away with its folder.
        location = (root / ARTIFACTS / EXPERIMENT).as_uri() if local else None
        return client.create_experiment(EXPERIMENT, artifact_location=location)
    if experiment.lifecycle_stage == "deleted":
        raise CaptionerError(
            f"MLflow at {public(uri)}: the experiment `{EXPERIMENT}` was deleted; bring it back "
            f"with `mlflow experiments restore -x {experiment.experiment_id}` or empty the bin "
            "with `mlflow gc`"
        )
    place = experiment.artifact_location
    home = (artifacts_folder(place) or local_path(place) or root).parent
    if write and not home.is_dir():  # MLflow would make it anew
        raise CaptionerError(
            f"MLflow at {public(uri)}: files of runs go to {local_path(place)}, and there is no "
            f"{home}; bring it back, or choose another store with MLFLOW_TRACKING_URI"
        )
    return experiment.experiment_id


def viewer() -> str:
    """Return what shows the store to a person: a server's address, or the command to start one."""
    store = public(os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_STORE)
    return store if store.startswith("http") else f"mlflow ui --backend-store-uri {store}"


def public(message: object) -> str:
    """Return a message as one line of moderate length, with no password of a server's address."""
    line = " ".join(str(message).split()) or type(message).__name__
    line = re.sub(r"//[^/@\s]+@", "//", line)
    # The program's own messages are short, and end with the remedy.
    return line if isinstance(message, CaptionerError) else shorten(line, 300, placeholder=" ...")


def new_run(
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


def find(client: "MlflowClient", experiment_id: str, tag: str, state: str) -> "Run | None":
    """Return a run whose `tag` says `state`, a fingerprint; deleted runs do not count."""
    runs = client.search_runs([experiment_id], f"tags.`{tag}` = '{state}'", max_results=1)
    return runs[0] if runs else None
