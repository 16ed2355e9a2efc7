"""The stages train and joint, killed at their last moments and started again: equal bytes, one run.

In one process: what a kill leaves on the disk is what an exception leaves there.
"""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tensorflow as tf
import yaml

from captioner.files import CHECKSUMS, read_json, write_checksums
from captioner.images import write_table
from captioner.text import Vocabulary, encode_tokens
from stages import digest_inputs, joint, train

ROOT = Path(__file__).resolve().parent.parent
SPLITS = ["train"] * 4 + ["val"] * 2
CAPTIONS = [f"a {colour} {thing}" for colour in ("red", "blue") for thing in "xyz"]
SMALL = {
    "train": {
        "units": 8,
        "heads": 2,
        "pictures_per_batch": 4,
        "epochs": 2,
        "self_critical_epochs": 1,
        "self_critical_samples": 2,
        "self_critical_rate": 0.5,
        "members": [0, 1],
    },
    "joint": {"width": 8, "pictures_per_batch": 4, "epochs": 2},
    "tokenize": {"max_length": 4},
}


class Killed(BaseException):
    """Stands for kill -9."""


@pytest.fixture
def eager():
    """A few small steps are done sooner without compiling them."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """Features and tokens of six pictures, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for variable in ("MLFLOW_TRACKING_URI", "DVC_ROOT", "DVC_EXP_NAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("captioner.contrastive.LEAST_STEPS", 1)
    monkeypatch.setattr("captioner.contrastive.WORD_PASSES", 1)
    # Scores that cost nothing, and that tell other weights apart.
    monkeypatch.setattr(train, "validator", lambda model, *_: lambda: scores_of(model))
    monkeypatch.setattr(joint.contrastive, "validator", lambda model, *_: lambda: scores_of(model))
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for section, values in SMALL.items():
        params[section] |= values
    write_params(params)
    names = [f"{number}.jpg" for number in range(len(SPLITS))]
    Path("data/features").mkdir(parents=True)
    Path("data/tokens").mkdir()
    grid = np.random.default_rng(0).normal(0, 2, (len(names), 4, 6)).astype(np.float16)
    np.save("data/features/grid.npy", grid)
    index = pa.table({"image_id": names, "split": SPLITS})
    write_table(index, "data/features/index.parquet")
    words = [caption.split() for caption in CAPTIONS]
    vocabulary = Vocabulary.build(words, 1)
    vocabulary.save("data/tokens/vocabulary.json")
    np.save("data/tokens/captions.npy", encode_tokens(words, vocabulary, 4))
    pictures = np.arange(len(names), dtype=np.int32)
    np.save("data/tokens/pictures.npy", pictures)
    vectors = np.random.default_rng(1).normal(size=(len(vocabulary), 5))
    np.save("data/tokens/word_vectors.npy", vectors)
    for folder in ("data/features", "data/tokens"):
        write_checksums(Path(folder, CHECKSUMS))
    columns = {"image_id": names, "split": SPLITS, "picture": pictures, "caption": CAPTIONS}
    write_table(pa.table(columns), "data/captions.parquet")
    return tmp_path


def scores_of(model) -> dict[str, float]:
    total = sum(float(np.abs(weight.numpy()).sum()) for weight in model.weights)
    return dict.fromkeys(("val_loss", "val_cider_d", "val_recall"), total % 1)


def write_params(params: dict) -> None:
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def outputs(stage: str) -> dict[str, bytes]:
    folder = {"train": "models/captioner", "joint": "models/joint"}[stage]
    files = [*Path(folder).rglob("*"), *Path("reports", stage).rglob("*")]
    return {str(path): path.read_bytes() for path in sorted(files) if path.is_file()}


def forget(stage: str) -> None:
    """As DVC does before it runs a stage."""
    for path in {"train": "models/captioner", "joint": "models/joint"}[stage], f"reports/{stage}":
        shutil.rmtree(path, ignore_errors=True)


def runs() -> dict[str, str]:
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("captioner")
    found = client.search_runs([experiment.experiment_id])
    return {run.info.run_id: run.info.status for run in found}


def stop(patch: pytest.MonkeyPatch, owner, name: str, after: int = 0) -> None:
    """Let a function work so many times, and then kill."""
    original, calls = getattr(owner, name), []

    def stopped(*arguments, **options):
        calls.append(name)
        if len(calls) > after:
            raise Killed
        return original(*arguments, **options)

    patch.setattr(owner, name, stopped)


@pytest.mark.usefixtures("eager")
def test_training_killed_at_any_moment_is_written_again_with_the_same_bytes(
    project, monkeypatch, capsys
):
    train.main()
    whole, first = outputs("train"), runs()
    assert len(first) == 1 and set(first.values()) == {"FINISHED"}
    history = pd.read_csv("reports/train/history.csv")
    assert history["epoch"].tolist() == list(range(1, 7))  # two members of three epochs each
    best = read_json("reports/train/metrics.json")
    row = history[history["epoch"] == best["best_epoch"]].iloc[0]
    assert row["val_cider_d"] == pytest.approx(best["best_val_cider_d"])
    assert row["val_loss"] == pytest.approx(best["best_val_loss"])
    assert best["best_val_cider_d"] == pytest.approx(history["val_cider_d"].max())
    assert "are done" not in capsys.readouterr().out
    (state,) = Path("models/.training").iterdir()

    # After the end of the stage, before DVC has stored its outputs; nothing is trained again.
    forget("train")
    with monkeypatch.context() as patch:
        patch.setattr("captioner.training.Trainer._train_epoch", lambda *_: pytest.fail("trained"))
        train.main()
    assert outputs("train") == whole
    assert runs() == first
    said = capsys.readouterr().out
    assert f"are done, in {state}; remove that folder to train anew" in said

    for owner, name, after in (
        (train, "write_json", 0),  # after the last epoch, while outputs are written
        (train.State, "finish", 0),
        (train.model, "save_captioner", 0),  # between the members
        (train.training.Trainer, "_keep", 2),  # within the self-critical epoch of the first one
        (train.training.Trainer, "_keep", 4),
    ):
        shutil.rmtree("models")
        forget("train")
        before = runs()
        with monkeypatch.context() as patch, pytest.raises(Killed):
            stop(patch, owner, name, after)
            train.main()
        train.main()
        assert outputs("train") == whole, name
        assert len(runs()) == len(before) + 1 and set(runs().values()) == {"FINISHED"}


@pytest.mark.usefixtures("eager")
def test_a_finished_training_makes_way_for_one_of_other_settings(project, monkeypatch):
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["train"] |= {"members": [0], "self_critical_epochs": 0, "epochs": 1}
    write_params(params)
    train.main()
    first, (old,) = outputs("train"), Path("models/.training").iterdir()
    # Its run is complete: `track` has been there.
    from captioner.tracking.live import CLAIMED

    (run_id,) = runs()
    tag(run_id, CLAIMED, "fingerprint")
    forget("train")
    train.main()  # `dvc repro --force train`
    assert outputs("train") == first and list(runs()) == [run_id]

    write_params(params | {"seed": 2})
    forget("train")
    train.main()
    (new,) = Path("models/.training").iterdir()
    assert new != old and outputs("train") != first and len(runs()) == 2


def tag(run_id: str, name: str, value: str) -> None:
    from mlflow import MlflowClient

    MlflowClient().set_tag(run_id, name, value)


@pytest.mark.usefixtures("eager")
def test_joint_killed_at_any_moment_is_written_again_with_the_same_bytes(
    project, monkeypatch, capsys
):
    joint.main()
    whole = outputs("joint")
    forget("joint")
    with monkeypatch.context() as patch:
        patch.setattr(joint.training.Trainer, "_train_epoch", lambda *_: pytest.fail("trained"))
        patch.setattr(joint.contrastive, "_learn_words", lambda *_: pytest.fail("trained"))
        joint.main()
    assert outputs("joint") == whole
    assert "all 2 epochs are done, in models/.joint/" in capsys.readouterr().out
    for owner, name, after in (
        (joint, "write_json", 0),
        (joint.contrastive, "keep_references", 0),
        (joint.training.Trainer, "_keep", 1),
        (joint.training.Trainer, "_keep", 0),  # the words are learned, no epoch is
    ):
        shutil.rmtree("models")
        forget("joint")
        with monkeypatch.context() as patch, pytest.raises(Killed):
            stop(patch, owner, name, after)
            joint.main()
        joint.main()
        assert outputs("joint") == whole, name


def test_what_is_resumed_belongs_to_all_code_and_data_of_the_stage(tmp_path, monkeypatch):
    """A copy of the checkout, in which one file after the other changes."""
    import stages

    for name in ("src", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stages, "__file__", str(tmp_path / "stages" / "__init__.py"))
    deps = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for stage in ("train", "joint", "encoder"):
        for name in deps[stage]["deps"]:
            path = tmp_path / name
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("data")
        before = digest_inputs(stage)
        assert digest_inputs(stage) == before
        for name in deps[stage]["deps"]:
            path = tmp_path / name
            text = path.read_text()
            path.write_text(text + "\n")
            assert digest_inputs(stage) != before, f"{stage}: {name}"
            path.write_text(text)
        (tmp_path / "src/captioner/cli/app.py").write_text("changed")  # no part of any of them
        (tmp_path / "src/captioner/metrics/__pycache__").mkdir(exist_ok=True)
        (tmp_path / "src/captioner/metrics/__pycache__" / "cider.pyc").write_text(stage)
        assert digest_inputs(stage) == before
    assert "src/captioner/metrics/cider.py" in deps["train"]["deps"]
    assert "data/captions.parquet" in deps["train"]["deps"]
