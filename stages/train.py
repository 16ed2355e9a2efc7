"""train: the captioning LSTM; after a kill it goes on from the last finished epoch.

What it keeps in models/.training stays until a training of other settings begins.
"""

from stages import digest_inputs, read_params, run_stage  # isort: skip  (puts src on the path)
import captioner.quiet_tensorflow  # noqa: F401  # isort: skip

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from captioner import examples, model, training
from captioner.checkpoints import State, assign
from captioner.cross_entropy import CrossEntropy
from captioner.determinism import make_deterministic
from captioner.files import atomic_file, checked_folder, verify, write_json
from captioner.self_critical import SelfCritical, sharpen
from captioner.text import Vocabulary
from captioner.tracking import TrainingRun
from captioner.validation import validator

REPORTS = Path("reports/train")
SETTINGS = set(training.Settings.__annotations__)
FILES = ("*.json", "*/config.json", "*/weights.weights.h5")


def main() -> None:
    params = read_params()
    verify("data/features", "data/tokens")
    looked_at = params.train.attention
    features, mirrored = examples.read_features("data/features", looked_at), None
    if params.features.mirrored:
        mirrored = examples.read_features("data/features", f"{looked_at}_mirrored")
    index, tokens = "data/features/index.parquet", "data/tokens"
    train = examples.read_examples(features, index, tokens, "train", mirrored)
    val = examples.read_examples(features, index, tokens, "val")
    references = examples.read_references("data/captions.parquet", "val").tolist()
    vocabulary = Vocabulary.load("data/tokens/vocabulary.json")
    # What another training left, of other settings, data or code, is removed.
    settings = [params.seed, params.train]
    state = State.of(Path("models/.training"), settings, digest_inputs("train"))
    # Of a training that is over no new run is opened: `track` writes one where one is wanted.
    run = TrainingRun.open(
        state.run_id, params.dataset, params.model_dump(), new=not state.finished
    )
    state.run_id = run.run_id

    history: list[dict] = []
    with checked_folder("models/captioner", FILES) as folder:
        for member in params.train.members:
            make_deterministic(params.seed + member)
            vectors = np.load("data/tokens/word_vectors.npy")
            sizes = (*vectors.shape, *features.shape[1:], params.train.units, params.train.heads)
            captioner = model.CaptionModel(model.ModelConfig(*sizes), vectors)
            score = validator(captioner, vocabulary, val, references)
            learn(captioner, train, params, member, state, score, reporter(run, history))
            (folder / str(member)).mkdir()
            model.save_captioner(captioner, folder / str(member))
    with atomic_file(REPORTS / "history.csv") as path:
        pd.DataFrame(history).to_csv(path, index=False)
    # A row of history.csv; under names of their own: MLflow's curves of these end with the last
    # epoch.
    best = max(history, key=lambda row: row["val_cider_d"])
    metrics = {f"best_{name}": best[name] for name in ("epoch", "val_loss", "val_cider_d")}
    metrics |= {"epochs": len(history), "parameters": captioner.count_params()}
    write_json(REPORTS / "metrics.json", metrics)
    run.sign(Path("models/captioner"))
    run.close()
    state.finish(*training.TO_GO_ON)


def learn(captioner, train, params, member: int, state: State, score, on_epoch) -> None:
    """Cross-entropy, then self-critical training; the better of the two is kept."""
    options = params.train
    settings = options.model_dump(include=SETTINGS) | {"seed": params.seed + member}
    objective = CrossEntropy(captioner, train, options.dropout, options.label_smoothing)
    trainer = training.Trainer(
        captioner, objective, training.Settings(**settings), state.phase(f"{member}-words")
    )
    rows = trainer.run(score, on_epoch).history
    if options.self_critical_epochs == 0:
        return
    words_alone = captioner.get_weights()
    # From the end: of a few noisy scores the best may be an early one, of a model half taught.
    assign(captioner.trainable_variables, [weight.numpy() for weight in trainer.averages])
    sharpen(captioner)
    settings |= {
        "epochs": options.self_critical_epochs,
        "learning_rate": options.self_critical_rate,
    }
    longest = params.tokenize.max_length
    objective = SelfCritical(
        captioner, train, options.dropout, options.self_critical_samples, longest
    )
    trainer = training.Trainer(
        captioner, objective, training.Settings(**settings), state.phase(f"{member}-captions")
    )
    more = trainer.run(score, on_epoch).history
    if max(row["val_cider_d"] for row in more) <= max(row["val_cider_d"] for row in rows):
        captioner.set_weights(words_alone)


def reporter(run: TrainingRun, history: list[dict]) -> Callable[[dict], None]:
    """Tell a person and MLflow of each epoch, numbered through all phases and members."""

    def report(row: dict[str, float]) -> None:
        row = row | {"epoch": len(history) + 1}
        history.append(row)
        run.log_epoch(row["epoch"], row)
        values = ", ".join(f"{name} {value:.3g}" for name, value in row.items() if name != "epoch")
        print(f"epoch {row['epoch']}: {values}", flush=True)

    return report


if __name__ == "__main__":
    run_stage("train", main)
