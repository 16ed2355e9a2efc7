"""evaluate: free-running captions of the test split, what they are worth, and pages to look at."""

from stages import read_params, run_stage  # isort: skip  (puts this checkout's src on the path)
import captioner.quiet_tensorflow  # noqa: F401  # isort: skip

import json
from pathlib import Path

import numpy as np

from captioner import examples
from captioner.attention import attention_weights
from captioner.datasets.scene_truth import truthful
from captioner.decoding import Decoder
from captioner.determinism import make_deterministic
from captioner.evaluation import Evaluation, nearest_rows, predictions_table
from captioner.files import write_json
from captioner.images import read_pictures, write_table
from captioner.metrics import java
from captioner.model import load_captioner
from captioner.report import write_report
from captioner.text import Vocabulary

REPORTS = Path("reports/evaluate")


def main() -> None:
    params = read_params()
    make_deterministic(params.seed)
    settings = params.evaluate
    model = load_captioner("models/captioner")
    vocabulary = Vocabulary.load("data/tokens/vocabulary.json")
    features = examples.read_features("data/features", params.train.attention)
    references = examples.read_references("data/captions.parquet", "test")
    training = examples.read_references("data/captions.parquet", "train")
    pictures = read_pictures("data/images", ["image_id", "split", "facts"])
    rows = np.asarray(references.index)

    decode = Decoder(
        model,
        settings.beam_width,
        settings.max_length,
        settings.length_penalty,
        settings.batch_size,
    )
    words, log_probabilities = decode(features[rows[0] : rows[-1] + 1], progress=True)
    captions = [vocabulary.decode(row) for row in words]
    pooled = np.load("data/features/pooled.npy", mmap_mode="r")
    neighbours = nearest_rows(pooled, np.asarray(training.index), rows)
    nearest = pictures.loc[neighbours].assign(caption=training.loc[neighbours].str[0].array)

    others = {}
    if (facts := pictures["facts"].loc[rows]).notna().all():
        scenes = [json.loads(one) for one in facts]
        others["truthful"] = lambda said: np.array(list(map(truthful, said, scenes)), float)
    evaluation = Evaluation(
        captions,
        references.tolist(),
        training.explode().tolist(),
        nearest["caption"].tolist(),
        params.seed,
        settings.samples,
        settings.java_measures,
        others,
    )
    table = predictions_table(
        pictures.loc[rows],
        captions,
        log_probabilities,
        references.tolist(),
        nearest,
        evaluation.per_picture,
    )
    write_table(table, Path("data/predictions.parquet"))

    def look(places: list[int]) -> np.ndarray:
        return attention_weights(model, features[rows[places]], words[places])

    write_report(
        REPORTS,
        params.dataset,
        evaluation,
        table,
        "data/images",
        rows,
        settings.gallery,
        params.seed,
        look if params.train.attention == "grid" else None,
    )
    write_json(REPORTS / "metrics.json", evaluation.metrics)
    if not settings.java_measures:
        how = java.missing(["meteor"]) or "evaluate.java_metrics: meteor switches it on"
        print(f"METEOR is not among the scores: {how}")


if __name__ == "__main__":
    run_stage("evaluate", main)
