"""A tiny pipeline, undisturbed: what it is before each stage, and all that it leaves at the end.

The params are those of tests/test_pipeline.py. MLflow's store holds absolute paths, so a pipeline
stays where it was made; what is there is replaced by a copy of an earlier state.
"""

import hashlib
import math
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from benchmarks.reliability import commands
from benchmarks.reliability.cases import Wrong
from tests.test_pipeline import STAGES, Pipeline, cloned, commit

STAGES = [*STAGES, "track"]
_mlflow = threading.Lock()  # its clients share state


class Undisturbed:
    """A pipeline that ran from the beginning to the end, stage by stage.

    Attributes:
        pipeline: where it lives, whatever state it is in now.
        seconds: of each stage, from DVC's first word of it to the end.
        end: what `observe` found at the end.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        place = commands.fresh(folder / "pipeline")
        self.env = commands.environment(DVC_SITE_CACHE_DIR=str(folder / "site"))
        del self.env["PYTHONPATH"]  # stages take the code of their own folder
        self.pipeline = cloned(place)
        self.seconds: dict[str, float] = {}
        for stage in STAGES:
            self._keep(f"before-{stage}")
            started = commands.Started(repro(stage), place, self.env)
            begun = None
            while started.running():
                if begun is None and running(stage) in started.out():
                    begun = started.age()
                time.sleep(0.02)
            ran = started.wait()
            if ran.code != 0 or begun is None:
                raise SystemExit(f"reliability: undisturbed {stage}: {ran.out}{ran.err}")
            self.seconds[stage] = ran.seconds - begun
        self.end = observe(self.pipeline)
        self._fill_caches()

    def _keep(self, name: str) -> None:
        shutil.copytree(self.pipeline.folder, commands.fresh(self.folder / name) / "pipeline")

    def _fill_caches(self) -> None:
        """Give the state before each stage what DVC's cache knows of the later stages.

        Then DVC restores them, and only the stage itself has to run.
        """
        cache = self.pipeline.folder / ".dvc" / "cache"
        for stage in STAGES:
            kept = self.folder / f"before-{stage}" / "pipeline" / ".dvc" / "cache"
            before = {path.relative_to(kept) for path in kept.rglob("*") if path.is_file()}
            shutil.copytree(cache, kept, dirs_exist_ok=True)
            own = set(self._objects(stage)) - before
            own -= {name for other in STAGES if other != stage for name in self._objects(other)}
            for name in own:
                (kept / name).unlink()
                if not any((kept / name).parent.iterdir()):  # DVC stumbles over an empty one
                    (kept / name).parent.rmdir()

    def _objects(self, stage: str) -> Iterator[Path]:
        """What the cache holds because of a stage, by names below .dvc/cache."""
        cache = self.pipeline.folder / ".dvc" / "cache"
        for entry in (cache / "runs").rglob("*"):
            if entry.is_file():
                command = yaml.safe_load(entry.read_text("utf-8"))["cmd"]
                if command == f"python -m stages.{stage}":
                    yield entry.relative_to(cache)
        lock = yaml.safe_load((self.pipeline.folder / "dvc.lock").read_text("utf-8"))
        for output in lock["stages"][stage]["outs"]:
            names = [output["md5"]]
            place = cache / _object(names[0])
            if names[0].endswith(".dir") and place.is_file():
                names += [entry["md5"] for entry in yaml.safe_load(place.read_text("utf-8"))]
            yield from (name for name in map(_object, names) if (cache / name).is_file())

    def restore(self, stage: str) -> None:
        """Put the pipeline into its state before a stage."""
        shutil.rmtree(self.pipeline.folder)
        shutil.rmtree(self.folder / "site", ignore_errors=True)
        shutil.copytree(self.folder / f"before-{stage}" / "pipeline", self.pipeline.folder)

    def commit(self) -> None:
        """Have git know all, as `dvc exp run` wants it."""
        commit(self.pipeline)


def repro(*stages: str) -> list[str]:
    """The command `dvc repro`."""
    return [commands.CAPTIONER[0], "-m", "dvc", "repro", *stages]


def running(stage: str) -> str:
    """What DVC prints as it starts a stage."""
    return f"Running stage '{stage}'"


def _object(md5: str) -> Path:
    return Path("files", "md5", md5[:2], md5[2:])


def observe(pipeline: Pipeline) -> dict[str, object]:
    """Everything that has to be equal after a disturbance, flat: a name and a value each.

    Raises:
        Wrong: what must not be whatever the values are: two runs of a state, half a file.
    """
    folder, facts = pipeline.folder, {}
    lock = yaml.safe_load((folder / "dvc.lock").read_text("utf-8"))
    facts |= {f"dvc.lock: {name}": entry for name, entry in lock["stages"].items()}
    for top in ("data", "models", "reports"):
        for path in sorted((folder / top).rglob("*")):
            name = path.relative_to(folder)
            hidden = any(part.startswith(".") and part != ".gitignore" for part in name.parts)
            timing = name.parts[:2] == ("reports", "timings") or name.name == "train_run.json"
            if path.is_file() and not hidden and not timing:
                facts[name.as_posix()] = _digest(path)
    # DVC never cleans up the copy of the project in which a killed experiment ran.
    copies = folder / ".dvc" / "tmp" / "exps"
    partial = [path for path in folder.rglob(".partial-*") if not path.is_relative_to(copies)]
    left = [str(path.relative_to(folder)) for path in partial]
    if left:
        raise Wrong(f"left behind: {', '.join(left[:5])}")
    cache = folder / ".dvc" / "cache" / "files" / "md5"
    for path in cache.glob("*/[!.]*"):  # not what DVC itself was copying when it was killed
        content = hashlib.md5(path.read_bytes()).hexdigest()  # DVC's choice
        if content != path.parent.name + path.name.removesuffix(".dir"):
            raise Wrong(f"damaged in DVC's cache: {path.relative_to(folder)}")
    state = (folder / "mlruns" / "state").read_text("utf-8").strip()
    with _mlflow:
        return facts | {"mlruns/state": state} | _observe_runs(pipeline, state)


def _observe_runs(pipeline: Pipeline, state: str) -> dict[str, object]:
    from captioner.tracking.record import BUNDLE, COMPLETE
    from captioner.tracking.store import MLFLOW_ENVIRONMENT

    for name, value in MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    client, runs = pipeline.client(), pipeline.runs().values()
    complete = [run for run in runs if run.data.tags.get(COMPLETE) == state]
    if len(complete) != 1:
        raise Wrong(f"{len(complete)} complete runs of the state among {len(runs)}")
    for run in runs:
        if run.info.status == "FINISHED" and COMPLETE not in run.data.tags:
            raise Wrong(f"run {run.info.run_id} is FINISHED and has no fingerprint")
    (run,) = complete
    run_id = run.info.run_id
    facts: dict[str, object] = {"run: status": run.info.status}
    facts |= {f"run: param {name}": value for name, value in run.data.params.items()}
    for name in run.data.metrics:
        points = client.get_metric_history(run_id, name)
        facts[f"run: metric {name}"] = sorted((point.step, point.value) for point in points)
    facts |= {f"run: tag {name}": run.data.tags.get(name) for name in (COMPLETE, BUNDLE)}
    datasets = sorted(used.dataset.digest for used in run.inputs.dataset_inputs)
    facts["run: data sets"] = datasets
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    for path in sorted(artifacts.rglob("*")):
        if path.is_file():
            name = path.relative_to(artifacts).as_posix()
            facts[f"run: artifact {name}"] = name == "dvc.lock" or _digest(path)
    models = run.outputs.model_outputs if run.outputs else []
    versions = client.search_model_versions(f"run_id = '{run_id}'")
    facts["run: models, versions"] = [len(models), [one.status for one in versions]]
    for one in models:
        model = client.get_logged_model(one.model_id)
        place = Path(model.artifact_location.removeprefix("file://"))
        facts["model: status"] = str(model.status)
        described = yaml.safe_load((place / "MLmodel").read_text("utf-8"))
        facts["model: flavors"] = sorted(described["flavors"])
        for path in sorted(place.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.name != "MLmodel":
                facts[f"model: {path.relative_to(place).as_posix()}"] = _digest(path)
    return facts


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(expected: dict[str, object], found: dict[str, object]) -> list[str]:
    """What is not equal; floats may differ by rounding in their text form."""
    names = sorted(expected.keys() | found.keys())
    return [
        f"{name}: {_short(expected.get(name))} undisturbed, {_short(found.get(name))} now"
        for name in names
        if not _alike(expected.get(name), found.get(name))
    ]


def _alike(one: object, other: object) -> bool:
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9) or (math.isnan(one) and math.isnan(other))
    return one == other


def _short(value: object) -> str:
    return "nothing" if value is None else f"{value!s:.100}"
