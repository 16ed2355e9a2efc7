"""encoder: the CNN: ImageNet weights, or a small network trained here on the captions' words."""

from stages import read_params, run_stage  # isort: skip  (puts this checkout's src on the path)
import captioner.quiet_tensorflow  # noqa: F401  # isort: skip

from pathlib import Path

import numpy as np
import pandas as pd

from captioner.cnn import content_labels, train_cnn
from captioner.determinism import make_deterministic
from captioner.encoder import (
    BACKBONES,
    build_encoder,
    find_weights,
    save_encoder,
)
from captioner.files import atomic_file, atomic_folder, write_json
from captioner.images import jpegs, read_pictures
from captioner.metrics.tokenizer import tokenize
from captioner.raster import decode
from captioner.text import Vocabulary

REPORTS = Path("reports/encoder")


def main() -> None:
    params = read_params()
    make_deterministic(params.seed)
    backbone, size = params.encoder.backbone, params.preprocess.size
    weights = find_weights(backbone) if backbone in BACKBONES else None
    encoder = build_encoder(backbone, size, weights)
    metrics, history = {}, []
    if backbone == "cnn":
        history = train_from_scratch(encoder, params)
        metrics = {name: value for name, value in history[-1].items() if name != "epoch"}
    metrics["parameters"] = encoder.count_params()
    metrics["cells"] = int(np.prod(encoder.output_shape[1:3]))
    metrics["channels"] = encoder.output_shape[3]
    with atomic_folder("models/encoder") as folder:
        save_encoder(encoder, backbone, size, folder)
    columns = ["epoch", "loss", "val_loss", "val_f1"]
    with atomic_file(REPORTS / "history.csv") as path:
        pd.DataFrame(history, columns=columns).to_csv(path, index=False)
    write_json(REPORTS / "metrics.json", metrics)


def train_from_scratch(encoder, params) -> list[dict]:
    splits = read_pictures("data/images", ["split"])["split"].to_numpy()
    table = pd.read_parquet("data/captions.parquet")
    captions = [[] for _ in splits]
    for picture, caption in zip(table["picture"], table["caption"], strict=True):
        captions[picture].append(tokenize(caption))
    train, val = (np.flatnonzero(splits == split) for split in ("train", "val"))
    vocabulary = Vocabulary.build([words for i in train for words in captions[i]], 1)
    labels = content_labels(captions, vocabulary.content_words(params.encoder.labels))
    stored = list(jpegs("data/images"))
    epochs = train_cnn(
        encoder,
        lambda numbers: np.stack([decode(stored[number]) for number in numbers]),
        (train, labels[train]),
        (val, labels[val]),
        epochs=params.encoder.epochs,
        batch_size=params.encoder.batch_size,
        learning_rate=params.encoder.learning_rate,
        seed=params.seed,
    )
    history = []
    for number, epoch in enumerate(epochs, 1):
        history.append({"epoch": number, **vars(epoch)})
        print(
            f"epoch {number}: loss {epoch.loss:.4f}, val_loss {epoch.val_loss:.4f}, "
            f"val_f1 {epoch.val_f1:.3f}",
            flush=True,
        )
    return history


if __name__ == "__main__":
    run_stage("encoder", main)
