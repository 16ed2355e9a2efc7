"""The MLflow runs of handmade pipelines: real stores, no mocks."""

import base64
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from captioner import CaptionerError, tracking
from captioner.tracking import logged_model, record, served

PARAMS = {
    "dataset": "scenes",
    "seed": 1,
    "train": {"units": 8, "learning_rate": 0.0015},
    "evaluate": {"beam_width": 3},
}
VIEWER = "mlflow ui --backend-store-uri sqlite:///mlflow.db"
HISTORY = [(1, 2.5, 0.1), (2, 2.0, 0.25), (3, 1.5, 0.4)]  # epoch, loss, val_cider_d


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """A database with MLflow's tables and nothing in it: to make one takes a second."""
    from mlflow import MlflowClient

    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{database}").search_experiments()
    return database


@pytest.fixture
def root(tmp_path, monkeypatch, empty_store) -> Path:
    """A finished pipeline in the present folder; its path has a space in it."""
    root = tmp_path / "my pipeline"
    make_pipeline(root)
    shutil.copy(empty_store, root)
    monkeypatch.chdir(root)
    for variable in ("MLFLOW_TRACKING_URI", "DVC_ROOT", "DVC_EXP_NAME"):
        monkeypatch.delenv(variable, raising=False)
    return root


def make_pipeline(root: Path, beam_width: int = 3) -> None:
    files = {
        "params.yaml": f"evaluate: {{beam_width: {beam_width}}}\n",
        "dvc.yaml": "stages: {}\n",
        "models/captioner/weights.weights.h5": "weights",
        "models/bundle/config.json": "{}",
        "reports/download/metrics.json": '{"pictures": 2}',
        "reports/encoder/history.csv": "epoch,val_f1\n1,0.5\n2,0.75\n",
        "reports/encoder/metrics.json": '{"val_f1": 0.75, "channels": 64}',
        "reports/train/metrics.json": '{"epochs": 3, "val_cider_d": 0.4}',
        "reports/evaluate/metrics.json": '{"cider_d": 0.5, "bleu_4": 0.25}',
        "reports/evaluate/gallery.png": "picture",
        "reports/evaluate/captions.html": "<!doctype html>",
        "reports/evaluate/caption_lengths.csv": "length,captions\n2,2\n",
        "reports/abandoned/metrics.json": '{"old": 1}',
        "reports/train/history.csv": "epoch,loss,val_cider_d\n"
        + "".join(f"{epoch},{loss},{score}\n" for epoch, loss, score in HISTORY),
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "data").mkdir()
    write_predictions(root)
    write_lock(root, beam_width)


def write_predictions(root: Path) -> None:
    table = {
        "image_id": ["a", "b"],
        "split": ["test", "test"],
        "caption": ["a cat", "a dog"],
        "log_probability": [-1.5, -2.5],
        "references": [["a cat", "one cat"], ["a dog sits"]],
        "cider_d": [0.75, 0.25],
        "rouge_l": [1.0, 0.5],
    }
    pd.DataFrame(table).to_parquet(root / "data" / "predictions.parquet")


def write_lock(root: Path, beam_width: int, track_md5: str = "0") -> None:
    def outs(path: str, md5: str) -> list[dict]:
        return [{"path": path, "hash": "md5", "md5": md5, "size": 1}]

    stages = {
        "download": {"cmd": "d", "outs": outs("data/raw", "a" * 32 + ".dir")},
        "preprocess": {"cmd": "p", "outs": outs("data/captions.parquet", "b" * 32)},
        "encoder": {"cmd": "c"},
        "train": {"cmd": "t"},
        "evaluate": {"cmd": "e", "params": {"params.yaml": {"evaluate.beam_width": beam_width}}},
        "track": {"cmd": "k", "outs": outs("mlruns/state", track_md5)},
    }
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))


def train(run_id=None, epochs=HISTORY, finish=True) -> tracking.TrainingRun:
    """What the stage `train` does, in the present folder."""
    run = tracking.TrainingRun.open(run_id, "scenes", PARAMS)
    for epoch, loss, score in epochs:
        run.log_epoch(epoch, {"epoch": epoch, "loss": loss, "val_cider_d": score})
    if finish:
        run.close()
        run.sign(Path("models/captioner"))
    return run


def client():
    from mlflow import MlflowClient

    return MlflowClient()


def runs() -> list:
    """All runs that are not deleted, whatever their state."""
    experiment = client().get_experiment_by_name("captioner")
    return client().search_runs([experiment.experiment_id])


def curve(run_id: str, name: str) -> list[tuple[int, float]]:
    points = client().get_metric_history(run_id, name)
    return sorted((point.step, point.value) for point in points)


def assert_complete(run_id: str, root: Path, models: int = 1) -> None:
    run = client().get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.lifecycle_stage == "active"
    assert run.data.tags["captioner.fingerprint"] == tracking.fingerprint(root / "dvc.lock")
    assert run.data.params == {
        "dataset": "scenes",
        "seed": "1",
        "train.units": "8",
        "train.learning_rate": "0.0015",
        "evaluate.beam_width": "3",
    }
    # `val_cider_d` is a curve: the summary's value is no fourth point of it.
    assert curve(run_id, "train.val_cider_d") == [(e, score) for e, _, score in HISTORY]
    assert curve(run_id, "train.loss") == [(e, loss) for e, loss, _ in HISTORY]
    assert curve(run_id, "encoder.val_f1") == [(1, 0.5), (2, 0.75)]
    assert run.data.metrics == {
        "encoder.val_f1": 0.75,
        "encoder.channels": 64,
        "train.loss": 1.5,
        "train.val_cider_d": 0.4,
        "train.epochs": 3,
        "download.pictures": 2,
        "evaluate.cider_d": 0.5,
        "evaluate.bleu_4": 0.25,
    }
    artifacts = Path(client().download_artifacts(run_id, ""))
    files = {p.relative_to(artifacts).as_posix() for p in artifacts.rglob("*") if p.is_file()}
    assert files == {
        "params.yaml",
        "dvc.yaml",
        "dvc.lock",
        "captions.json",
        "predictions.parquet",
        "reports/evaluate/captions.html",
        "reports/encoder/history.csv",
        "reports/train/history.csv",
        "reports/evaluate/gallery.png",
        "reports/evaluate/caption_lengths.csv",
    }
    assert (artifacts / "dvc.lock").read_bytes() == (root / "dvc.lock").read_bytes()
    table = json.loads((artifacts / "captions.json").read_text())
    assert table["columns"] == [
        "image_id",
        "caption",
        "log_probability",
        "references",
        "cider_d",
        "rouge_l",
    ]
    assert table["data"] == [
        ["a", "a cat", -1.5, "a cat\none cat", 0.75, 1.0],
        ["b", "a dog", -2.5, "a dog sits", 0.25, 0.5],
    ]
    for name in ("predictions.parquet", "reports/evaluate/captions.html"):
        original = root / ("data" if name.endswith("parquet") else ".") / name
        assert (artifacts / name).read_bytes() == original.read_bytes(), name
    digests = {entry.dataset.name: entry.dataset.digest for entry in run.inputs.dataset_inputs}
    assert digests == {
        "scenes: data/raw": "a" * 32 + ".dir",
        "scenes: data/captions.parquet": "b" * 32,
    }
    assert run.data.tags["version.tensorflow"].count(".") == 2
    assert "cores" in run.data.tags["device"]
    assert len(run.outputs.model_outputs) == models
    state = (root / "mlruns" / "state").read_text()
    assert state == tracking.fingerprint(root / "dvc.lock") + "\n"


def test_predictions_come_back_from_a_run(root, tmp_path):
    tracked = tracking.track(root, PARAMS)
    (tmp_path / "fetched").mkdir()
    path = tracking.fetch_predictions(tracked.run_id, tmp_path / "fetched")
    assert path.read_bytes() == (root / "data" / "predictions.parquet").read_bytes()
    with pytest.raises(CaptionerError, match=f"MLflow run {'0' * 32}: no predictions.parquet"):
        tracking.fetch_predictions("0" * 32, tmp_path / "fetched")
    (root / "mlflow.db").rename(tmp_path / "elsewhere.db")
    with pytest.raises(CaptionerError, match=r"no mlflow.db here; go to the pipeline's top folder"):
        tracking.fetch_predictions(tracked.run_id, tmp_path / "fetched")
    assert not list(root.glob("mlflow.db"))  # asking makes no store
    (tmp_path / "elsewhere.db").rename(root / "mlflow.db")
    bare = train().run_id  # of a training that never came to its end
    with pytest.raises(CaptionerError, match=f"MLflow run {bare}: no predictions.parquet"):
        tracking.fetch_predictions(bare, tmp_path / "fetched")


def test_flatten_drops_the_other_data_sets_and_names_sections():
    params = {
        "dataset": "scenes",
        "datasets": {"flickr8k": {"train": {"units": 512}}},
        "train": {"units": 8, "deep": {"rate": 0.5}, "flag": True, "none": None, "list": [1, 2]},
    }
    assert tracking.flatten(params) == {
        "dataset": "scenes",
        "train.units": 8,
        "train.deep.rate": 0.5,
        "train.flag": "true",
        "train.none": "null",
        "train.list": "[1, 2]",
    }
    assert tracking.flatten(tracking.flatten(params)) == tracking.flatten(params)


def test_fingerprint_is_of_the_content_and_not_of_track(root):
    lock = root / "dvc.lock"
    first = tracking.fingerprint(lock)
    assert len(first) == 64

    write_lock(root, 3, track_md5="another")
    assert tracking.fingerprint(lock) == first
    content = yaml.safe_load(lock.read_text())
    content["stages"] = dict(reversed(content["stages"].items()))
    lock.write_text("# a comment\n" + json.dumps(content))  # another order and layout
    assert tracking.fingerprint(lock) == first
    # other code with the same outcome: DVC writes its hash, and sees no reason to run `track`
    content["stages"]["evaluate"]["deps"] = [{"path": "src/captioner/page.py", "md5": "c" * 32}]
    lock.write_text(json.dumps(content))
    assert tracking.fingerprint(lock) == first
    content["stages"]["download"]["outs"][0]["md5"] = "d" * 32
    lock.write_text(json.dumps(content))
    assert tracking.fingerprint(lock) != first
    write_lock(root, 4)
    assert tracking.fingerprint(lock) != first


def test_no_lock_names_the_remedy(root):
    (root / "dvc.lock").unlink()
    with pytest.raises(CaptionerError, match=r"dvc\.lock: no such file; `dvc repro`"):
        tracking.track(root, PARAMS)


def test_adopts_the_trainers_run_then_has_nothing_to_do(root):
    trainer = train()
    first = tracking.track(root, PARAMS)
    name = f"scenes-{tracking.fingerprint(root / 'dvc.lock')[:7]}"
    assert first == (trainer.run_id, name, True, VIEWER)
    assert_complete(first.run_id, root)

    state = (root / "mlruns" / "state").read_bytes()
    shutil.rmtree(root / "mlruns" / "captioner")  # a second call must not need or write artifacts
    (root / "mlruns" / "state").unlink()
    assert tracking.track(root, PARAMS) == (trainer.run_id, name, False, VIEWER)
    assert (root / "mlruns" / "state").read_bytes() == state
    assert not (root / "mlruns" / "captioner").exists()
    assert len(runs()) == 1


def test_new_run_with_replayed_curves_where_the_training_is_recorded_already(root):
    first = tracking.track(root, PARAMS)  # no trainer's run at all: the model came from the cache
    assert_complete(first.run_id, root)
    assert first.name == f"scenes-{tracking.fingerprint(root / 'dvc.lock')[:7]}"

    trainer = train()
    write_lock(root, beam_width=5)
    second = tracking.track(root, PARAMS | {"evaluate": {"beam_width": 5}})
    assert second.run_id == trainer.run_id
    write_lock(root, beam_width=7)
    third = tracking.track(root, PARAMS | {"evaluate": {"beam_width": 7}})
    assert third.run_id not in (first.run_id, second.run_id)  # the trainer's run is taken
    assert curve(third.run_id, "train.loss") == [(e, loss) for e, loss, _ in HISTORY]
    widths = [run.data.params["evaluate.beam_width"] for run in runs()]
    assert sorted(widths) == ["3", "5", "7"]

    write_lock(root, beam_width=3)  # put back
    assert tracking.track(root, PARAMS) == first._replace(new=False)
    assert len(runs()) == 3


@pytest.mark.parametrize("other", ["model", "params", "note", "deleted"])
def test_a_run_of_another_training_is_not_adopted(root, other):
    trainer = train()
    params = PARAMS
    if other == "model":
        (root / "models/captioner/weights.weights.h5").write_text("other weights")
    elif other == "params":
        params = PARAMS | {"train": {"units": 9, "learning_rate": 0.0015}}
    elif other == "note":
        (root / "reports/train_run.json").write_text("[]")
    else:
        client().delete_run(trainer.run_id)
    assert tracking.track(root, params).run_id != trainer.run_id


def test_resumed_training_continues_its_run_without_double_points(root):
    first = train(epochs=HISTORY[:2], finish=False)
    assert client().get_run(first.run_id).info.status == "RUNNING"
    # Killed after it logged epoch 2 and before it saved it: epoch 2 is trained again.
    second = train(first.run_id, HISTORY[1:])
    assert second.run_id == first.run_id
    assert curve(first.run_id, "train.loss") == [(1, 2.5), (2, 2.0), (3, 1.5)]
    params = client().get_run(first.run_id).data.params
    assert params == {
        "dataset": "scenes",
        "seed": "1",
        "train.units": "8",
        "train.learning_rate": "0.0015",
    }
    assert tracking.track(root, PARAMS).run_id == first.run_id
    assert_complete(first.run_id, root)


def test_a_run_that_is_gone_or_taken_is_not_resumed(root):
    taken = train()
    tracking.track(root, PARAMS)
    deleted = train(finish=False)
    client().delete_run(deleted.run_id)
    for run_id in (taken.run_id, deleted.run_id, "0" * 32, "no id"):
        run = train(run_id, HISTORY[:1], finish=False)
        assert run.run_id not in (None, taken.run_id, deleted.run_id, run_id)
    assert curve(taken.run_id, "train.loss") == [(e, loss) for e, loss, _ in HISTORY]


def test_dvc_names_the_run_and_keeps_the_store_in_the_parent_repository(root, monkeypatch):
    copy = root / ".dvc" / "tmp" / "exps" / "copy"
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns(".dvc", "mlflow.db"))
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(root))
    monkeypatch.setenv("DVC_EXP_NAME", "roomy-cake")
    trainer = train()
    run = tracking.track(copy, PARAMS)
    assert run == (trainer.run_id, "roomy-cake", True, VIEWER)
    assert (copy / "mlruns" / "state").is_file()
    assert not (copy / "mlflow.db").exists()
    assert not (root / "mlruns" / "state").exists()
    shutil.rmtree(copy)
    assert Path(client().download_artifacts(run.run_id, "captions.json")).is_file()
    assert (root / "mlflow.db").is_file()


def test_relative_address_of_a_store_is_meant_from_the_top_folder(root, monkeypatch):
    import mlflow

    (root / "mlflow.db").rename(root / "other.db")
    (root / "elsewhere").mkdir()
    monkeypatch.chdir(root / "elsewhere")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    tracking.connect(root)
    assert mlflow.get_tracking_uri() == f"sqlite:///{root}/other.db"
    assert [path.name for path in root.rglob("*.db")] == ["other.db"]


def run_track(root: str) -> None:
    """Body of a process of its own, which may be killed."""
    os.chdir(root)
    print(tracking.track(Path(root), PARAMS).run_id)


def open_and_log(root: str, name: str) -> None:
    """Body of one of several processes on a new store."""
    os.chdir(root)
    run = tracking.TrainingRun.open(None, name, PARAMS)
    run.log_epoch(1, {"loss": 1.0})
    run.close()
    assert run.run_id is not None, "the store was not to be had"


def spawn(target, *arguments) -> multiprocessing.Process:
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
    process.start()
    return process


def test_track_killed_halfway_is_replaced_by_a_complete_run(root):
    trainer = train()
    predictions = root / "data" / "predictions.parquet"
    predictions.unlink()
    os.mkfifo(predictions)  # whoever opens it waits for ever
    process = spawn(run_track, str(root))
    deadline = time.monotonic() + 300
    while "dvc.lock" not in [item.path for item in client().list_artifacts(trainer.run_id)]:
        assert process.is_alive() and time.monotonic() < deadline, "track did not get that far"
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (root / "mlruns" / "state").exists()
    assert "captioner.fingerprint" not in client().get_run(trainer.run_id).data.tags

    predictions.unlink()
    write_predictions(root)
    run = tracking.track(root, PARAMS)
    assert run.new
    assert_complete(run.run_id, root)
    assert [run.info.run_id for run in runs()] == [run.run_id]  # the half-written one is gone


def test_store_deleted_then_rebuilt(root, monkeypatch):
    train()
    lost = tracking.track(root, PARAMS)
    (root / "mlflow.db").unlink()
    shutil.rmtree(root / "mlruns")
    process = spawn(run_track, str(root))  # this process still holds the deleted file open
    process.join()
    assert process.exitcode == 0

    alias = root.with_name("alias")  # another address, so that MLflow opens the file afresh
    alias.symlink_to(root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{alias}/mlflow.db")
    tracking.connect()
    (run,) = runs()
    assert run.info.run_id != lost.run_id
    assert_complete(run.info.run_id, root)


def test_four_processes_at_once_on_a_new_store(root):
    (root / "mlflow.db").unlink()
    processes = [spawn(open_and_log, str(root), f"run {number}") for number in range(4)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    tracking.connect()
    assert sorted(run.info.run_name for run in runs()) == [f"run {number}" for number in range(4)]


def test_unreachable_server_stops_track_but_no_training(root, monkeypatch, capsys):
    # Nobody listens there; and nobody should read the password.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somebody:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = train()
    assert run.run_id is None
    errors = capsys.readouterr().err.strip()
    assert errors.count("\n") == 0
    assert "no live curves" in errors and "127.0.0.1:9" in errors
    assert not (root / "reports/train_run.json").exists()
    with pytest.raises(CaptionerError, match=r"http://127\.0\.0\.1:9 does not answer") as failure:
        tracking.track(root, PARAMS)
    assert "secret" not in errors + str(failure.value)

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert_complete(tracking.track(root, PARAMS).run_id, root)


def test_store_that_fails_in_the_middle_of_training(root, capsys):
    run = train(epochs=HISTORY[:1], finish=False)
    database = root / "mlflow.db"
    whole = database.read_bytes()
    database.write_bytes(b"no database" * 100)
    for epoch, loss, score in HISTORY[1:]:
        run.log_epoch(epoch, {"loss": loss, "val_cider_d": score})
    run.close()
    run.sign(Path("models/captioner"))
    assert capsys.readouterr().err.count("\n") == 1
    database.write_bytes(whole)
    assert tracking.track(root, PARAMS).run_id == run.run_id
    assert_complete(run.run_id, root)  # with the two epochs that it missed


def test_failure_of_the_store_in_the_middle_of_track_is_one_line_and_leaves_no_run(root):
    report = root / "reports" / "evaluate" / "metrics.json"
    metrics = report.read_text()
    report.write_text('{"a*b": 1}')  # a name that MLflow refuses
    with pytest.raises(CaptionerError, match=r"MLflow failed halfway .*a\*b.* `dvc repro`"):
        tracking.track(root, PARAMS)
    assert not (root / "mlruns" / "state").exists()
    report.write_text(metrics)
    run = tracking.track(root, PARAMS)
    assert_complete(run.run_id, root)
    assert len(runs()) == 1


def test_deleted_experiment_names_the_remedy(root):
    experiment_id = tracking.connect()
    client().delete_experiment(experiment_id)
    with pytest.raises(CaptionerError, match=f"restore -x {experiment_id}"):
        tracking.connect()


def test_pyfunc_turns_base64_and_bytes_into_pictures_and_opens_no_path(tmp_path):
    from captioner import bundle
    from captioner.pyfunc import CaptionerModel
    from tests.test_bundle import picture, write

    model = CaptionerModel()
    folder = write(tmp_path / "bundle")
    model.load_context(type("Context", (), {"artifacts": {"bundle": str(folder)}}))
    pictures = [picture(1), picture(2)]
    frame = pd.DataFrame({"image": [pictures[0], base64.b64encode(pictures[1]).decode()]})
    captioner = bundle.load(folder)
    captions, meaning, _ = captioner.describe([captioner.prepare(data) for data in pictures])
    found = model.predict(None, frame)
    assert found["caption"].tolist() == [caption.text for caption in captions]
    assert found["embedding"].tolist() == meaning.tolist()
    assert [[one["caption"] for one in row] for row in found["alternatives"]] == [
        [caption.text] for caption in captions
    ]
    several = model.predict(None, frame, {"number": 3})
    assert [len(row) for row in several["alternatives"]] == [3, 3]
    assert [row[0]["caption"] for row in several["alternatives"]] == several["caption"].tolist()
    path = tmp_path / "picture.jpg"
    path.write_bytes(pictures[0])
    with pytest.raises(CaptionerError, match=r"image, row 1: expected a picture's bytes"):
        model.predict(None, pd.DataFrame({"image": [pictures[0], str(path)]}))
    with pytest.raises(CaptionerError, match=r"image, row 0: no picture: expected JPEG"):
        model.predict(None, pd.DataFrame({"image": [b"<html>"]}))
    with pytest.raises(CaptionerError, match="number: 21, expected 1 to 20"):
        model.predict(None, frame, {"number": 21})
    with pytest.raises(CaptionerError, match="number: 'x', expected 1 to 20"):
        model.predict(None, frame, {"number": "x"})


def test_a_bundle_leads_to_the_run_that_made_it(root):
    (root / "mlflow.db").unlink()
    assert tracking.run_of_bundle(root / "models" / "bundle") is None
    assert not (root / "mlflow.db").exists()  # asking makes no store
    tracked = tracking.track(root, PARAMS)
    assert tracking.run_of_bundle(root / "models" / "bundle").info.run_id == tracked.run_id
    (root / "models" / "bundle" / "bundle.json").write_text("another one")
    assert tracking.run_of_bundle(root / "models" / "bundle") is None


def test_models_are_registered_once_each(root):
    def registered() -> list[str]:
        return [v.run_id for v in client().search_model_versions("name = 'captioner'")]

    first = tracking.track(root, PARAMS).run_id
    tracking.track(root, PARAMS)
    assert registered() == [first]
    client().delete_tag(first, "captioner.fingerprint")  # as if it had been killed at the end
    second = tracking.track(root, PARAMS).run_id
    assert second != first and registered() == [second]


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A copy of the package, which the logged models take their code from."""
    package = tmp_path / "copy" / "captioner"
    shutil.copytree(served.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(served, "PACKAGE", package)
    return package


def versions() -> dict[int, str]:
    """The run of each registered version."""
    found = client().search_model_versions("name = 'captioner'")
    return {int(version.version): version.run_id for version in found}


def registered_code(version: int) -> Path:
    place = client().get_model_version_download_uri("captioner", str(version))
    return Path(place.removeprefix("file://").replace("%20", " ")) / "code" / "captioner"


def change(path: Path) -> None:
    path.write_text(path.read_text() + "# changed\n")


def test_logged_model_carries_the_code_that_it_runs_and_no_other(root):
    tracking.track(root, PARAMS)
    code = registered_code(1)
    found = {path.relative_to(code).as_posix() for path in code.rglob("*") if path.is_file()}
    assert found == set(served.served_files())
    assert {"pyfunc.py", "bundle.py", "metrics/__init__.py", "serving.py"} <= found
    assert not found & {"params.py", "tracking/record.py", "page.html", "cli/__init__.py"}


def test_changed_code_of_the_served_model_is_a_new_version_and_no_new_run(root, package):
    first = tracking.track(root, PARAMS)
    for name in ("tracking/record.py", "page.html", "report.py"):  # not the served model's
        change(package / name)
    (package / "new_module.py").write_text("")
    tracking.track(root, PARAMS)
    assert versions() == {1: first.run_id}

    change(package / "bundle.py")
    for _ in range(2):  # the second time there is nothing to do
        assert tracking.track(root, PARAMS) == first._replace(new=False)
        assert versions() == {1: first.run_id, 2: first.run_id}
    assert "# changed" in (registered_code(2) / "bundle.py").read_text()
    assert "# changed" not in (registered_code(1) / "bundle.py").read_text()
    (run,) = runs()
    (latest,) = client().search_model_versions("name = 'captioner' AND version_number = 2")
    assert run.data.tags["captioner.code"] == latest.tags["captioner.code"]
    assert_complete(first.run_id, root, models=2)

    shutil.copy(registered_code(1) / "bundle.py", package / "bundle.py")  # taken back
    tracking.track(root, PARAMS)
    assert versions() == dict.fromkeys((1, 2, 3), first.run_id)
    assert "# changed" not in (registered_code(3) / "bundle.py").read_text()


class Killed(BaseException):
    """Nothing catches it, like a kill."""


@pytest.mark.parametrize("step", range(1, 6))
def test_new_version_that_was_broken_off_is_made_once(root, package, monkeypatch, step):
    from mlflow import MlflowClient
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository as Local

    first = tracking.track(root, PARAMS)
    change(package / "bundle.py")
    count = itertools.count(1)

    def until(owner, name, before=True):
        method = getattr(owner, name)

        def called(*arguments, **options):
            done = None if before else method(*arguments, **options)
            if next(count) == step:
                raise Killed
            return method(*arguments, **options) if before else done

        patched.setattr(owner, name, called)

    with monkeypatch.context() as patched:
        until(Local, "log_artifacts")  # a model that is PENDING
        until(MlflowClient, "create_model_version")
        until(logged_model, "_register", before=False)
        until(MlflowClient, "set_tag")
        until(record, "atomic_file")
        with pytest.raises(Killed):
            tracking.track(root, PARAMS)
    tracking.track(root, PARAMS)
    assert versions() == {1: first.run_id, 2: first.run_id}
    assert "# changed" in (registered_code(2) / "bundle.py").read_text()
    models = logged_model.models_of(client(), client().get_run(first.run_id))
    assert [model.status for model in models] == ["READY", "READY"]


def test_served_files_are_found_wherever_they_are_imported(tmp_path):
    package = tmp_path / "captioner"
    sources = {
        "__init__.py": "",
        "entry.py": "import captioner.top\nfrom captioner import name, in_package\n"
        "def f():\n    from captioner.deep import later\n"
        "if TYPE_CHECKING:\n    import captioner.only_types\nelse:\n    import captioner.never\n",
        "top.py": "import importlib\nimportlib.import_module('captioner.by_name')\n",
        "in_package.py": "PAGE = 'page.html'\nOTHER = 'else.html'",
        "by_name.py": "import numpy",
        "never.py": "",
        "only_types.py": "",
        "page.html": "",
        "unused.html": "",
        "unused.py": "import captioner.entry",
        "deep/__init__.py": "from .beside import x",
        "deep/later.py": "from .. import upper\nfrom ..other import y\n",
        "deep/beside.py": "",
        "deep/unused.py": "",
        "upper.py": "import captioner.top",  # in a circle with nothing lost
        "other.py": "import captioner.upper",
    }
    for name, source in sources.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(source)
    assert served.served_files(package, "entry.py") == [
        "__init__.py",
        "by_name.py",
        "deep/__init__.py",
        "deep/beside.py",
        "deep/later.py",
        "entry.py",
        "in_package.py",
        "never.py",
        "other.py",
        "page.html",
        "top.py",
        "upper.py",
    ]


def test_training_that_is_finished_again_is_one_run(root):
    first = train(finish=False)
    first.sign(Path("models/captioner"))  # killed before `close`
    assert train(first.run_id).run_id == first.run_id
    assert train(first.run_id).run_id == first.run_id  # killed before DVC took the outputs
    assert tracking.track(root, PARAMS).run_id == first.run_id
    assert_complete(first.run_id, root)

    again = train(first.run_id)  # `dvc repro --force`: the complete run is left alone
    assert again.run_id != first.run_id
    tracked = tracking.track(root, PARAMS)
    assert tracked.run_id == first.run_id and not tracked.new
    assert [run.info.run_id for run in runs()] == [first.run_id]
    assert_complete(first.run_id, root)


@pytest.mark.parametrize("step", [2, 4, 6, 8, 9])  # of nine calls
def test_track_broken_off_at_any_step_is_one_complete_run(root, monkeypatch, step):
    from mlflow import MlflowClient

    train()
    count = itertools.count(1)

    def until(name):
        method = getattr(MlflowClient, name)

        def called(*arguments, **options):
            if next(count) == step:
                raise Killed
            return method(*arguments, **options)

        patched.setattr(MlflowClient, name, called)

    with monkeypatch.context() as patched:
        for name in ("set_tag", "update_run", "log_inputs", "set_terminated"):
            until(name)
        until("create_model_version")
        with pytest.raises(Killed):
            tracking.track(root, PARAMS)
    for run in runs():
        whole = "captioner.fingerprint" in run.data.tags
        assert whole or run.info.status == "RUNNING" or step == 1
    run = tracking.track(root, PARAMS)
    assert_complete(run.run_id, root)
    assert versions() == {max(versions()): run.run_id}
    assert [found.info.run_id for found in runs()] == [run.run_id]
