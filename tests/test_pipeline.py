"""The whole pipeline with real DVC and real MLflow, in a copy of this checkout, on a tiny data set.

The tests share one finished pipeline, since each stage that needs TensorFlow takes seconds. Each
counts the runs before and after and puts back what it changes, so that any of them may run alone.
"""

import base64
import contextlib
import io
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np
import pandas as pd
import pytest
import yaml

from captioner import tracking
from captioner.datasets.scene_captions import captions
from captioner.datasets.scene_drawing import draw, sample_facts
from captioner.params import load_params

ROOT = Path(__file__).resolve().parent.parent
STAGES = ["download", "preprocess", "encoder", "features", "tokenize", "train", "joint"]
STAGES += ["evaluate", "export"]
EPOCHS = 4
# Small, yet it learns something in each epoch: the best weights are not those of the first one.
TINY = {
    "datasets.scenes.download": {
        "source": "scenes",
        "train": 48,
        "val": 16,
        "test": 16,
        "side": 32,
    },
    "datasets.scenes.preprocess": {"side": 32},
    "datasets.table.preprocess": {"side": 32},
    "datasets.table.encoder.backbone": "cnn",
    "datasets.table.features.mirrored": False,
    "encoder.epochs": 1,
    "glove.epochs": 2,
    "tokenize.max_length": 18,
    "train.units": 16,
    # The second phase of training for two of the data sets: it takes a while to compile.
    "datasets.scenes.train.self_critical_epochs": 1,
    "datasets.flickr8k.train.self_critical_epochs": 1,
    "train.self_critical_samples": 2,
    "train.pictures_per_batch": 8,
    "train.learning_rate": 0.02,
    "train.dropout": 0.1,
    "joint.width": 16,
    "joint.epochs": 2,
    "joint.pictures_per_batch": 16,
    "train.label_smoothing": 0.0,
    "train.ema": 0.5,
    "train.epochs": EPOCHS,
    "evaluate.gallery": 2,
    "evaluate.samples": 200,
    "evaluate.beam_width": 2,
}
EVALUATED = {"captions.html", "metrics.json", "caption_lengths.csv", "scores.csv", "scores.png"}
EVALUATED |= {"gallery.png", "gallery_best.png", "gallery_worst.png"}
EVALUATED |= {f"attention_{choice}.png" for choice in ("best", "worst", "random")}
EVALUATED |= {f"{name}.{kind}" for name in ("by_length", "by_word") for kind in ("csv", "png")}
fresh_look = itertools.count(1)


class Pipeline:
    """A git repository of its own with a pipeline in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        hidden = ("MLFLOW_", "DVC_", "GIT_", "PYTHONPATH")
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
        self.environment |= {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
        }

    def start(self, *command: str) -> subprocess.Popen:
        """Start a program as the leader of a group of processes that can be killed together."""
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def call(self, *command: str) -> str:
        process = self.start(*command)
        output, _ = process.communicate()
        assert process.returncode == 0, f"{' '.join(command)}:\n{output}"
        return output

    def dvc(self, *arguments: str) -> str:
        return self.call(sys.executable, "-m", "dvc", *arguments)

    def set_params(self, values: dict[str, object]) -> None:
        path = self.folder / "params.yaml"
        params = yaml.safe_load(path.read_text())
        for name, value in values.items():
            *sections, key = name.split(".")
            target = params
            for section in sections:
                target = target[section]
            target[key] = value
        path.write_text(yaml.safe_dump(params, sort_keys=False))

    def client(self):
        """A client that sees the store as it is now, also after it was deleted and made again."""
        from mlflow import MlflowClient

        return MlflowClient(f"sqlite:///{self.folder}/{'./' * next(fresh_look)}mlflow.db")

    def runs(self) -> dict:
        client = self.client()
        experiment = client.get_experiment_by_name("captioner")
        return {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}


def cloned(folder: Path) -> Pipeline:
    """A copy of this checkout with small params, committed; nothing has run in it."""
    pipeline = Pipeline(folder)
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, names.decode().split("\0")):
        if (ROOT / name).is_file():
            (pipeline.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, pipeline.folder / name)
    pipeline.set_params(TINY)
    pipeline.call("git", "init", "-q")
    pipeline.call("git", "config", "user.name", "A Person")
    pipeline.call("git", "config", "user.email", "person@example.org")
    commit(pipeline)
    return pipeline


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Pipeline:
    """The pipeline after the first `dvc repro`, committed."""
    pipeline = cloned(tmp_path_factory.mktemp("pipeline") / "clone")
    pipeline.dvc("repro")
    commit(pipeline)
    pipeline.first = list(pipeline.runs().values())
    report = pipeline.folder / "reports" / "evaluate" / "metrics.json"
    pipeline.first_scores = json.loads(report.read_text())
    return pipeline


def commit(pipeline: Pipeline) -> None:
    pipeline.call("git", "add", "-A")
    pipeline.call("git", "commit", "-q", "--allow-empty", "-m", "state of the pipeline")


def assert_complete(pipeline: Pipeline, run) -> None:
    """The run holds everything that the pipeline in its present state has to say about itself."""
    folder, client = pipeline.folder, pipeline.client()
    assert run.info.status == "FINISHED"
    params = tracking.flatten(load_params(folder / "params.yaml"))
    assert run.data.params == {name: str(value) for name, value in params.items()}
    curves = assert_curves(client, run.info.run_id, folder)
    for stage in STAGES:
        metrics = json.loads((folder / "reports" / stage / "metrics.json").read_text())
        assert metrics, stage
        for name, value in metrics.items():
            if f"{stage}.{name}" not in curves:
                assert run.data.metrics[f"{stage}.{name}"] == value, (stage, name)
    assert {"evaluate.cider_d", "evaluate.truthful"} <= run.data.metrics.keys()

    artifacts = Path(client.download_artifacts(run.info.run_id, ""))
    figures = [path.relative_to(folder) for path in (folder / "reports/evaluate").iterdir()]
    assert {path.name for path in figures} == EVALUATED
    for name in ("params.yaml", "dvc.yaml", *figures):
        if Path(name).name != "metrics.json":
            assert (artifacts / name).read_bytes() == (folder / name).read_bytes(), name
    lock = yaml.safe_load((artifacts / "dvc.lock").read_text())
    assert lock["stages"].keys() - {"track"} == {"inputs", *STAGES}
    # What `track` saw in the middle of `dvc repro` is what dvc.lock says after it.
    state = run.data.tags["captioner.fingerprint"]
    assert state == tracking.fingerprint(folder / "dvc.lock")
    assert state == tracking.fingerprint(artifacts / "dvc.lock")
    table = json.loads((artifacts / "captions.json").read_text())
    predictions = pd.read_parquet(folder / "data" / "predictions.parquet")
    assert [row[:2] for row in table["data"]] == predictions[
        ["image_id", "caption"]
    ].to_numpy().tolist()
    assert len(run.inputs.dataset_inputs) == 3  # data/raw, data/images, data/captions.parquet
    (model,) = run.outputs.model_outputs
    assert client.get_logged_model(model.model_id).status == "READY"


def assert_curves(client, run_id: str, folder: Path) -> set[str]:
    """Every epoch of the trainings is there, once; returns the metrics that are curves."""
    names = set()
    for stage in ("encoder", "train"):
        history = pd.read_csv(folder / "reports" / stage / "history.csv")
        for name in history.columns.drop("epoch"):
            points = client.get_metric_history(run_id, f"{stage}.{name}")
            curve = sorted((point.step, point.value) for point in points)
            known = history.dropna(subset=name)  # a loss belongs to some epochs, a reward to others
            assert [step for step, _ in curve] == known["epoch"].tolist()
            assert [value for _, value in curve] == pytest.approx(known[name].tolist(), rel=1e-9)
            names.add(f"{stage}.{name}")
    assert history["epoch"].tolist() == list(range(1, EPOCHS + 2))  # one of them self-critical
    return names


def test_fresh_repro_is_one_complete_run(pipeline):
    (run,) = pipeline.first
    assert_complete(pipeline, run)
    state = (pipeline.folder / "mlruns" / "state").read_text()
    assert state == run.data.tags["captioner.fingerprint"] + "\n"


def test_logged_model_captions_pictures(pipeline, tmp_path):
    """In another folder, with no other source of the package than the model's own copy.

    The served code has changed since the run was made, in a module that no other stage depends on.
    """
    (run,) = pipeline.first
    before = pipeline.runs().keys()
    module = pipeline.folder / "src" / "captioner" / "uploads.py"
    source = module.read_text()
    module.write_text(source + "\nMENDED = True\n")
    output = pipeline.dvc("repro")
    module.write_text(source)
    assert [line for line in output.splitlines() if "Running stage" in line] == [
        "Running stage 'track':"
    ]
    assert pipeline.runs().keys() == before
    pictures = pd.read_parquet(pipeline.folder / "data" / "images" / "part-00000.parquet")
    (tmp_path / "picture.jpg").write_bytes(pictures["jpeg"].iloc[-1])
    program = f"""
import base64, mlflow, pandas
mlflow.set_tracking_uri("sqlite:///{pipeline.folder}/mlflow.db")
model = mlflow.pyfunc.load_model("models:/captioner/2")
assert model.metadata.run_id == "{run.info.run_id}"
import captioner.uploads
assert captioner.uploads.MENDED
assert captioner.__file__.endswith("/code/captioner/__init__.py"), captioner.__file__
picture = open("picture.jpg", "rb").read()
frame = pandas.DataFrame({{"image": [picture, base64.b64encode(picture).decode()]}})
found = model.predict(frame, params={{"number": 2}})
assert list(found) == ["caption", "log_probability", "alternatives", "embedding"]
assert [len(rows) for rows in found["alternatives"]] == [2, 2]
assert found["alternatives"][0][0]["caption"] == found["caption"][0]
print("captions:", *found["caption"], sep="|")
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, cwd=tmp_path, env=pipeline.environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    _, first, second = done.stdout.strip().splitlines()[-1].split("|")
    assert first == second != ""
    pipeline.dvc("repro")  # with the code as it was
    assert pipeline.call("git", "status", "--porcelain") == ""


def test_no_change_no_new_run(pipeline):
    before = pipeline.runs().keys()
    lock = (pipeline.folder / "dvc.lock").read_bytes()
    assert "up to date" in pipeline.dvc("repro")
    assert "up to date" in pipeline.dvc("status")
    assert pipeline.runs().keys() == before
    assert (pipeline.folder / "dvc.lock").read_bytes() == lock


def test_files_of_a_data_set_that_is_not_chosen_need_not_be_there(pipeline):
    before = (pipeline.folder / "params.yaml").read_bytes()
    gone = {
        f"datasets.table.download.{name}": f"/no/disk/{name}" for name in ("captions", "pictures")
    }
    pipeline.set_params(gone)
    try:
        assert "Running stage" not in pipeline.dvc("repro", "preprocess")
        assert "up to date" in pipeline.dvc("status", "preprocess")
    finally:
        (pipeline.folder / "params.yaml").write_bytes(before)


def test_dvc_shows_metrics_and_plots(pipeline, tmp_path):
    shown = json.loads(pipeline.dvc("metrics", "show", "--json"))[""]["data"]
    assert shown.keys() == {f"reports/{stage}/metrics.json" for stage in STAGES}
    score = shown["reports/evaluate/metrics.json"]["data"]["cider_d"]
    assert score == pipeline.first[0].data.metrics["evaluate.cider_d"]
    pipeline.dvc("plots", "show", "--out", str(tmp_path))
    page = (tmp_path / "index.html").read_text()
    for text in ("val_loss", "val_cider_d", "generated", "gallery.png"):
        assert text in page


def test_another_beam_width_is_one_more_run_and_no_training(pipeline):
    before = pipeline.runs().keys()
    pipeline.set_params({"evaluate.beam_width": 3})
    output = pipeline.dvc("repro")
    assert "Running stage 'evaluate'" in output
    assert "Running stage 'train'" not in output
    runs = pipeline.runs()
    (new,) = runs.keys() - before
    assert runs[new].data.params["evaluate.beam_width"] == "3"
    assert_complete(pipeline, runs[new])
    # The captions of both, by git revision through DVC, as a file, and by MLflow runs: all the same
    state = pipeline.first[0].data.tags["captioner.fingerprint"]
    (old,) = [i for i, run in runs.items() if run.data.tags.get("captioner.fingerprint") == state]
    sides = [("HEAD", "data/predictions.parquet"), (old, new)]
    said = {pipeline.call("captioner", "compare", "--json", *names) for names in sides}
    (compared,) = map(json.loads, said)
    scores = json.loads((pipeline.folder / "reports/evaluate/metrics.json").read_text())
    assert compared["pictures"] == 16
    for name, by in compared["measures"].items():
        assert by["b"] == pytest.approx(scores[name], abs=1e-12)
        assert by["a"] == pytest.approx(pipeline.first_scores[name], abs=1e-12)

    pipeline.set_params({"evaluate.beam_width": TINY["evaluate.beam_width"]})
    output = pipeline.dvc("repro")
    assert "Running stage 'evaluate'" not in output  # the cache has it
    assert pipeline.runs().keys() == runs.keys()
    assert pipeline.call("git", "diff", "dvc.lock") == ""


def test_deleted_store_is_rebuilt_by_track(pipeline):
    for path in pipeline.folder.glob("mlflow.db*"):
        path.unlink()
    shutil.rmtree(pipeline.folder / "mlruns")
    output = pipeline.dvc("repro", "track")
    assert [line for line in output.splitlines() if "Running stage" in line] == [
        "Running stage 'track':"
    ]
    (run,) = pipeline.runs().values()
    assert_complete(pipeline, run)


def test_temporary_experiment_is_one_run_that_survives(pipeline):
    before = pipeline.runs().keys()
    name = "slow-learner"
    pipeline.dvc("exp", "run", "--temp", "--name", name, "-S", "train.learning_rate=0.001")
    runs = pipeline.runs()
    (new,) = runs.keys() - before
    assert runs[new].info.run_name == name
    assert runs[new].data.params["train.learning_rate"] == "0.001"
    assert not list((pipeline.folder / ".dvc" / "tmp" / "exps").glob("temp/*"))  # the copy is gone
    assert pipeline.call("git", "status", "--porcelain") == ""

    compared = json.loads(pipeline.call("captioner", "compare", "HEAD", name, "--json"))
    for measure, by in compared["measures"].items():
        assert by["a"] == pytest.approx(pipeline.first_scores[measure], abs=1e-12)
        assert by["b"] == pytest.approx(runs[new].data.metrics[f"evaluate.{measure}"], abs=1e-12)

    pipeline.dvc("exp", "apply", name)
    try:
        assert_complete(pipeline, runs[new])
        output = pipeline.dvc("repro")  # mlruns/state is not in DVC's cache
        assert "Running stage 'export'" not in output
        assert pipeline.runs().keys() == runs.keys()
    finally:
        pipeline.call("git", "checkout", "-q", "--", ".")
        pipeline.dvc("repro")


def test_training_killed_in_a_rebuild_from_nothing_goes_on_to_the_same_bytes(pipeline):
    """Nothing but git's files is left; training is killed after its first epoch; then once more."""
    for name in (".dvc/cache", ".dvc/tmp", "data", "models", "reports", "mlruns"):
        shutil.rmtree(pipeline.folder / name)
    for path in pipeline.folder.glob("mlflow.db*"):
        path.unlink()
    process = pipeline.start(sys.executable, "-m", "dvc", "repro")
    states = pipeline.folder / "models" / ".training"
    while not list(states.glob("**/epoch-*")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (pipeline.folder / "models" / "captioner").exists(), "the kill came too late"
    (killed,) = pipeline.runs()

    output = pipeline.dvc("repro")
    assert "going on after epoch" in output
    assert "Running stage 'features'" not in output
    (run,) = pipeline.runs().values()
    assert run.info.run_id == killed
    assert_complete(pipeline, run)
    assert pipeline.call("git", "diff", "dvc.lock") == ""  # equal bytes, also of the weights


# What starts a server, and where it is asked.
SERVERS = {"mlflow ui": "/", "captioner app": "/health", "mlflow models serve": "/invocations"}


def commands(page: Path) -> list[str]:
    """The lines of a page's blocks of shell commands."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def run_all(pipeline: Pipeline, lines: list[str], expected: dict[str, str]) -> dict[str, str]:
    """Run commands of a page, and see in what each prints what begins like it is to print."""
    said = {}
    for line in lines:
        if served := [path for start, path in SERVERS.items() if start in line]:
            said[line] = answer(pipeline, line, *served)
        else:
            said[line] = pipeline.call("bash", "-c", line)
    for line, output in said.items():
        (text,) = [text for start, text in expected.items() if line.startswith(start)]
        assert text in output, line
    assert len(said) == len(expected)
    return said


def tiny_flickr(folder: Path) -> None:
    """Flickr8k, GloVe and MobileNetV2 in the layout of the published files, in a few kilobytes."""
    import h5py
    import keras
    from keras.src.legacy.saving import legacy_h5_format

    from captioner.encoder import BACKBONES

    rng = np.random.default_rng(8)
    names, tokens = [], []
    with zipfile.ZipFile(folder / "Flickr8k_Dataset.zip", "w") as archive:
        for number in range(20):
            facts = sample_facts(rng)
            names.append(f"{1000 + number}_{number:010x}.jpg")
            buffer = io.BytesIO()
            draw(facts, 96, rng).save(buffer, "JPEG")
            archive.writestr(f"Flicker8k_Dataset/{names[-1]}", buffer.getvalue())
            for place, caption in enumerate(captions(facts, rng)):
                tokens.append(f"{names[-1]}#{place}\t{caption} .\n")
    with zipfile.ZipFile(folder / "Flickr8k_text.zip", "w") as archive:
        archive.writestr("Flickr8k.token.txt", "".join(tokens))
        for split, first, last in (("train", 0, 12), ("dev", 12, 16), ("test", 16, 20)):
            listing = "".join(f"{name}\n" for name in names[first:last])
            archive.writestr(f"Flickr_8k.{split}Images.txt", listing)
    with zipfile.ZipFile(folder / "glove.6B.zip", "w") as archive:
        lines = []
        for word in ("a", "small", "large", "red", "blue", "circle", "star", "square"):
            lines.append(" ".join([word, *(f"{x:.4f}" for x in rng.normal(size=50))]) + "\n")
        archive.writestr("glove.6B.50d.txt", "".join(lines))
    keras.utils.set_random_seed(8)
    network = keras.applications.MobileNetV2(
        input_shape=(224, 224, 3), include_top=False, weights=None
    )
    with h5py.File(folder / BACKBONES["mobilenet_v2"].weights, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, network)


def test_every_command_of_the_readme(pipeline):
    """Those that set up are what CI does: it takes the test command out of the README itself."""
    lines = commands(ROOT / "README.md")
    set_up = [line for line in lines if line.startswith(("python3 -m venv", "pip "))]
    assert len(set_up) == 3
    assert set_up[1].endswith("&& dvc repro") and set_up[2].endswith("&& pytest")
    (pipeline.folder / "holidays").mkdir()
    rng = np.random.default_rng(3)
    for name in ("beach.png", "hills.jpg"):
        draw(sample_facts(rng), 120, rng).save(pipeline.folder / "holidays" / name)

    expected = {
        "captioner caption holidays/ --beam 5": "holidays/hills.jpg\t",
        "captioner caption holidays/hills.jpg -n 5": "holidays/hills.jpg\t",
        "captioner search": "means ",
        "captioner similar": "looks ",
        "captioner sentences": "\t",
        "captioner words red": "\t",
        "captioner index add": "2 pictures added, 0 pictures already there: my_index",
        "captioner index list": "holidays/beach.png\t",
        "dvc exp run -S train.units=512": "Running stage 'train'",
        "dvc exp show": "workspace",
        "dvc params diff": "train.units",
        "dvc metrics show": "cider_d",
        "dvc plots show": "index.html",
        "captioner score": "16 pictures, 80 references",
        "captioner compare HEAD": "16 pictures",
        "mlflow ui": "<title>MLflow</title>",
        "captioner app": '"status":"ok"',
        "MLFLOW_TRACKING_URI=sqlite:///mlflow.db mlflow models serve": '"predictions"',
        "captioner bundle export": "signature serving_default",
    }
    of_data_sets = ("captioner check-data", "dvc exp run -S dataset=")  # in test_pages.py
    lines = [line for line in lines if line not in set_up and not line.startswith(of_data_sets)]
    said = run_all(pipeline, lines, expected)
    (serving,) = [line for line in said if "mlflow models serve" in line]
    (prediction,) = json.loads(said[serving])["predictions"]
    (line,) = [line for line in said if line.endswith("holidays/hills.jpg -n 5")]
    best = said[line].split("\t")[1]
    assert len({one["caption"] for one in prediction["alternatives"]}) == 3
    assert prediction["caption"] == best and len(prediction["embedding"]) > 16

    output = pipeline.dvc("exp", "run", "-S", "dataset=scenes")  # back: all from the cache
    running = {line for line in output.splitlines() if line.startswith("Running stage")}
    assert running <= {"Running stage 'track':"}


def answer(pipeline: Pipeline, command: str, path: str) -> str:
    """What the server that `command` starts says, on a free port; then it is stopped.

    A served model is asked for captions of a picture in Base64.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    request = Request(f"http://127.0.0.1:{port}{path}")
    if path == "/invocations":
        picture = (pipeline.folder / "holidays" / "hills.jpg").read_bytes()
        records = [{"image": base64.b64encode(picture).decode()}]
        body = json.dumps({"dataframe_records": records, "params": {"number": 3}})
        headers = {"Content-Type": "application/json"}
        request = Request(request.full_url, body.encode(), headers)
    log = pipeline.folder / "server.log"
    process = pipeline.start("bash", "-c", f"exec env {command} --port {port} > {log} 2>&1")
    try:
        for _ in range(1200):
            assert process.poll() is None, log.read_text()
            with (
                contextlib.suppress(ConnectionError, URLError),
                urlopen(request, timeout=60) as page,
            ):
                return page.read().decode()
            time.sleep(0.1)
        raise AssertionError(f"no answer: {log.read_text()}")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate()
