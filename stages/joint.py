"""joint: one space for pictures and sentences; after a kill it goes on from the last epoch."""

from stages import digest_inputs, read_params, run_stage  # isort: skip  (puts src on the path)
import captioner.quiet_tensorflow  # noqa: F401  # isort: skip

from pathlib import Path

import numpy as np
import pandas as pd

from captioner import contrastive, examples, joint_embedding, training
from captioner.checkpoints import State
from captioner.determinism import make_deterministic
from captioner.files import atomic_file, checked_folder, verify, write_json
from captioner.text import UNK, Vocabulary

REPORTS = Path("reports/joint")
FILES = ("*.json", "weights.weights.h5")


def main() -> None:
    params = read_params()
    verify("data/features", "data/tokens")
    make_deterministic(params.seed)
    options = params.joint
    features, mirrored = examples.read_features("data/features", "grid"), None
    if params.features.mirrored:
        mirrored = examples.read_features("data/features", "grid_mirrored")
    index, tokens = "data/features/index.parquet", "data/tokens"
    train = examples.read_examples(features, index, tokens, "train", mirrored)
    val = examples.read_examples(features, index, tokens, "val")

    vectors = np.load("data/tokens/word_vectors.npy")
    vocabulary = Vocabulary.load("data/tokens/vocabulary.json")
    known = [vocabulary.ids[word] for word in vocabulary.content_words(contrastive.WORDS)]
    known = known or [UNK]  # captions of function words alone
    references = min(joint_embedding.REFERENCES, len(train.rows))
    sizes = (*vectors.shape, *features.shape[1:], options.width, len(known), references)
    model = joint_embedding.JointModel(joint_embedding.JointConfig(*sizes), vectors, known)
    # What another training left, of other settings, data or code, is removed.
    state = State.of(Path("models/.joint"), [params.seed, options], digest_inputs("joint"))
    settings = training.Settings(
        epochs=options.epochs,
        pictures_per_batch=options.pictures_per_batch,
        learning_rate=options.learning_rate,
        schedule="cosine",
        clip_norm=contrastive.CLIP_NORM,
        patience=options.epochs,
        ema=contrastive.EMA,
        seed=params.seed,
    )
    contrastive.learn_words(model, train, params.seed, state)
    objective = contrastive.Contrastive(model, train, options.dropout)
    trainer = training.Trainer(model, objective, settings, state)
    score = contrastive.validator(model, val)
    history = trainer.run(score, report).history
    share = contrastive.choose_share(model, score)
    contrastive.keep_references(model, train)

    with checked_folder("models/joint", FILES) as folder:
        joint_embedding.save_joint(model, folder)
    with atomic_file(REPORTS / "history.csv") as path:
        pd.DataFrame(history).to_csv(path, index=False)
    best = max(history, key=lambda row: row["val_recall"])
    metrics = {f"best_{name}": best[name] for name in ("epoch", "val_recall")}
    metrics |= {
        "epochs": len(history),
        "known_words": len(known),
        "words_share": share,
        "parameters": model.count_params(),
    }
    metrics["temperature"] = float(np.exp(-model.log_scale.numpy()))
    write_json(REPORTS / "metrics.json", metrics)
    state.finish(*training.TO_GO_ON)


def report(row: dict[str, float]) -> None:
    values = ", ".join(f"{name} {value:.3g}" for name, value in row.items() if name != "epoch")
    print(f"epoch {row['epoch']}: {values}", flush=True)


if __name__ == "__main__":
    run_stage("joint", main)
