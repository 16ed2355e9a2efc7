"""train: the captioning LSTM; after a kill it goes on from the last finished epoch."""

from stages import read_params, run_stage  # isort: skip  (puts this checkout's src on the path)
import captioner.quiet_tensorflow  # noqa: F401  # isort: skip

from pathlib import Path

import numpy as np
import pandas as pd

from captioner import decoding, examples, model, training
from captioner.determinism import make_deterministic
from captioner.files import atomic_file, atomic_folder, digest, write_json
from captioner.text import Vocabulary
from captioner.tracking import TrainingRun
from captioner.validation import validator

REPORTS = Path("reports/train")
SETTINGS = set(training.Settings.__annotations__)


def main() -> None:
    params = read_params()
    make_deterministic(params.seed)
    features = examples.read_features("data/features", params.train.attention)
    train, val = (
        examples.read_examples(features, "data/features/index.parquet", "data/tokens", split)
        for split in ("train", "val")
    )
    references = examples.read_references("data/captions.parquet", "val")
    vocabulary = Vocabulary.load("data/tokens/vocabulary.json")
    vectors = np.load("data/tokens/word_vectors.npy")
    config = model.ModelConfig(
        *vectors.shape, *features.shape[1:], params.train.units, params.train.attention_units
    )
    captioner = model.CaptionModel(config, vectors)
    settings = training.Settings(**params.train.model_dump(include=SETTINGS), seed=params.seed)
    # What a killed training left belongs to exactly these settings, data and code, or is removed.
    code = [module.__file__ for module in (decoding, examples, model, training)]
    state = training.State.of(
        Path("models/.training"), [config, settings], digest("data/features", "data/tokens", *code)
    )
    run = TrainingRun.open(state.run_id, params.dataset, params.model_dump())
    state.run_id = run.run_id

    trainer = training.Trainer(captioner, train, val, settings, state)
    progress = trainer.run(
        validator(captioner, vocabulary, val, references.tolist()),
        lambda row: report(run, row),
    )
    with atomic_folder("models/captioner") as folder:
        model.save_captioner(captioner, folder)
    with atomic_file(REPORTS / "history.csv") as path:
        pd.DataFrame(progress.history).to_csv(path, index=False)
    best = progress.history[progress.best_epoch - 1]
    # Under names of their own: MLflow's curves of these end with the last epoch.
    metrics = {f"best_{name}": best[name] for name in ("epoch", "loss", "val_loss", "val_cider_d")}
    metrics |= {"epochs": progress.epoch, "parameters": captioner.count_params()}
    write_json(REPORTS / "metrics.json", metrics)
    run.sign(Path("models/captioner"))
    run.close()
    state.remove()


def report(run: TrainingRun, row: dict[str, float]) -> None:
    run.log_epoch(row["epoch"], row)
    values = ", ".join(f"{name} {row[name]:.3f}" for name in ("loss", "val_loss", "val_cider_d"))
    print(f"epoch {row['epoch']}: {values}", flush=True)


if __name__ == "__main__":
    run_stage("train", main)
