"""encoder: the CNN: trained here on the captions' words or on class labels, or ImageNet weights,
fine-tuned on the captions' words.
"""

from stages import check_room, digest_inputs, read_params, run_stage  # isort: skip  (puts src on it)
import captioner.quiet_tensorflow  # noqa: F401  # isort: skip

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from captioner import cnn, course_cnn, fine_tuning
from captioner.checkpoints import State
from captioner.classification import Classification, class_labels
from captioner.classification_report import write_classification_report
from captioner.datasets import SPLITS
from captioner.determinism import make_deterministic
from captioner.encoder import BACKBONES, build_encoder, save_encoder, save_words
from captioner.encoder_report import write_encoder_report
from captioner.files import atomic_file, checked_folder, write_json
from captioner.images import batches, jpegs, read_pictures
from captioner.inputs import WEIGHTS
from captioner.raster import decode
from captioner.word_labels import word_labels
from captioner.word_probe import word_probe

IMAGES, CAPTIONS = Path("data/images"), Path("data/captions.parquet")
REPORTS, SCRATCH = Path("reports/encoder"), Path("models/.encoder")
SHOWN, PROBED = 8, 512  # pictures in the figures, and for the word probe
FILES = ("*.json", "weights.weights.h5", "words.npz")
TRAINING = {"epochs", "batch_size", "learning_rate"}


def main() -> None:
    params = read_params()
    check_room(params)  # again: another backbone may keep far larger activations
    make_deterministic(params.seed)
    index = read_pictures(IMAGES, ["image_id", "split", "facts"])
    rows = {split: np.flatnonzero(index["split"] == split) for split in SPLITS}
    backbone = params.encoder.backbone
    published = tune_words if params.encoder.epochs else probe_words
    learn = {"cnn": learn_words, "course_cnn": learn_classes}.get(backbone, published)
    encoder, head, names, history = learn(params, index, rows)

    with checked_folder("models/encoder", FILES) as folder:
        weights = WEIGHTS / BACKBONES[backbone].weights if backbone in BACKBONES else None
        save_encoder(encoder, backbone, params.preprocess.side, folder, weights)
        if learn in (learn_words, tune_words):
            save_words(head, names, folder)
    with atomic_file(REPORTS / "history.csv") as path:
        history.to_csv(path, index=False)
    kept = history["val_loss"].idxmin() if learn is tune_words else -1
    metrics = {} if history.empty else history.drop(columns="epoch").iloc[kept].to_dict()
    metrics["parameters"] = encoder.count_params()
    metrics["cells"] = int(np.prod(encoder.output_shape[1:3]))
    metrics["channels"] = encoder.output_shape[3]
    write_json(REPORTS / "metrics.json", metrics)

    shown = spread(rows["val"], SHOWN)
    firsts = pd.read_parquet(CAPTIONS).drop_duplicates("picture").set_index("picture")["caption"]
    captions = firsts.reindex(shown, fill_value="").tolist()
    exclusive = backbone == "course_cnn"
    pictures = reader(shown)(shown)
    write_encoder_report(REPORTS, encoder, head, names, pictures, captions, exclusive=exclusive)
    if learn is probe_words:  # nothing is trained: what other settings left is of no use
        shutil.rmtree(SCRATCH, ignore_errors=True)


def learn_classes(params, index: pd.DataFrame, rows: dict[str, np.ndarray]) -> tuple:
    """The course's CNN, trained on the pictures' labels: encoder, head, classes, history."""
    labels, names = class_labels(index["image_id"], index["facts"], params.download.label)
    encoder = build_encoder("course_cnn", params.preprocess.side, classes=len(names))
    head, pictures = course_cnn.build_head(encoder), reader(index.index)
    test = rows["test"]
    # As in the course: all that is not for the test, since nothing is chosen by the rest.
    learnt = np.concatenate([rows["train"], rows["val"]])
    known, unknown = (learnt, labels[learnt]), (test, labels[test])
    epochs = course_cnn.train_course_cnn(
        encoder, head, pictures, known, unknown, **training(params), state=state_of(params)
    )
    history = record(epochs)
    said = course_cnn.predict(encoder, head, pictures, test, params.encoder.batch_size)
    write_classification_report(
        REPORTS,
        params.dataset,
        Classification(names, labels[test], said),
        index["image_id"].to_numpy()[test],
        lambda places: pictures(test[places]),
        history,
    )
    return encoder, head, names, history


def learn_words(params, index: pd.DataFrame, rows: dict[str, np.ndarray]) -> tuple:
    """The small CNN, trained on the captions' words: encoder, head, words, history."""
    labels, names = labels_of_words(params, index)
    encoder = build_encoder("cnn", params.preprocess.side)
    head = cnn.build_head(encoder, len(names), params.seed)
    train, val = ((rows[split], labels[rows[split]]) for split in ("train", "val"))
    options = training(params) | {"state": state_of(params)}
    epochs = cnn.train_cnn(encoder, head, reader(index.index), train, val, **options)
    return encoder, head, names, record(epochs)


def tune_words(params, index: pd.DataFrame, rows: dict[str, np.ndarray]) -> tuple:
    """ImageNet weights, fine-tuned on the captions' words: encoder, head, words, history."""
    backbone = params.encoder.backbone
    weights = WEIGHTS / BACKBONES[backbone].weights
    labels, names = labels_of_words(params, index)
    encoder = build_encoder(backbone, params.preprocess.side, weights)
    head = cnn.build_head(encoder, len(names), params.seed)
    train, val = ((rows[split], labels[rows[split]]) for split in ("train", "val"))
    pictures = batches(IMAGES, params.encoder.batch_size)
    cut, options = BACKBONES[backbone].cut, training(params) | {"state": state_of(params)}
    epochs = fine_tuning.fine_tune(encoder, head, cut, pictures, train, val, **options)
    return encoder, head, names, record(epochs)


def probe_words(params, index: pd.DataFrame, rows: dict[str, np.ndarray]) -> tuple:
    """ImageNet weights, and a probe of the captions' words: encoder, head, words, no history."""
    backbone = params.encoder.backbone
    weights = WEIGHTS / BACKBONES[backbone].weights
    encoder = build_encoder(backbone, params.preprocess.side, weights)
    labels, names = labels_of_words(params, index)
    probed = spread(rows["train"], PROBED)
    head = word_probe(encoder, reader(probed)(probed), labels[probed])
    return encoder, head, names, pd.DataFrame(columns=["epoch", "loss", "val_loss", "val_f1"])


def training(params) -> dict[str, float]:
    """The settings that all trainings have."""
    return params.encoder.model_dump(include=TRAINING) | {"seed": params.seed}


def state_of(params) -> State:
    """What a killed training left; that of other settings, data or code is removed."""
    settings = [params.seed, params.encoder, params.download.label]
    settings.append(params.tokenize.split_characters)
    return State.of(SCRATCH, settings, digest_inputs("encoder"))


def labels_of_words(params, index: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    captions, split = pd.read_parquet(CAPTIONS), params.tokenize.split_characters
    return word_labels(captions, len(index), params.encoder.labels, split)


def spread(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the rows, from the first to the last."""
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)]


def reader(rows: Iterable[int]) -> Callable[[np.ndarray], np.ndarray]:
    """From picture numbers, out of these rows, to pictures (n, size, size, 3) uint8."""
    wanted = set(rows)
    stored = {row: jpeg for row, jpeg in enumerate(jpegs(IMAGES)) if row in wanted}
    return lambda numbers: np.stack([decode(stored[number]) for number in numbers])


def record(epochs: Iterable) -> pd.DataFrame:
    """A row for each epoch, also printed."""
    history = []
    for number, epoch in enumerate(epochs, 1):
        history.append({"epoch": number, **vars(epoch)})
        values = ", ".join(f"{name} {value:.4f}" for name, value in vars(epoch).items())
        print(f"epoch {number}: {values}", flush=True)
    return pd.DataFrame(history)


if __name__ == "__main__":
    run_stage("encoder", main)
