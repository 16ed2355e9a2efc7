"""evaluate: free-running captions of the test split, what they are worth, and pages to look at."""

from stages import read_params, run_stage  # isort: skip  (puts this checkout's src on the path)
import captioner.quiet_tensorflow  # noqa: F401  # isort: skip

import json
from itertools import islice
from pathlib import Path

import numpy as np

from captioner import attention, breakdown, examples, figures, gallery, page
from captioner.datasets.scene_truth import truthful
from captioner.decoding import Decoder
from captioner.determinism import make_deterministic
from captioner.evaluation import Evaluation, nearest_rows, predictions_table
from captioner.files import atomic_file, write_json
from captioner.images import jpegs, read_pictures, write_table
from captioner.metrics import java
from captioner.model import load_captioner
from captioner.text import Vocabulary

REPORTS = Path("reports/evaluate")
GALLERIES = {"random": "gallery", "best": "gallery_best", "worst": "gallery_worst"}


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
    nearest = pictures.loc[neighbours].assign(caption=training.loc[neighbours].str[0])

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
    draw(params.dataset, evaluation)

    shown = gallery.choose_exhibits("data/images", table, rows, settings.gallery, params.seed)
    for choice, exhibits in shown.items():
        title = f"{params.dataset}: {choice} of {len(rows)} test pictures by CIDEr-D"
        if choice == "random":
            score = evaluation.metrics["cider_d"]
            title = f"{params.dataset}: CIDEr-D {score:.3f} on {len(rows)} test pictures"
        gallery.draw_gallery(REPORTS / f"{GALLERIES[choice]}.png", exhibits, title)
        if model.config.cells > 1:
            exhibits = exhibits[: attention.STRIPS]
            places = [exhibit.place for exhibit in exhibits]
            weights = attention.attention_weights(model, features[rows[places]], words[places])
            title = f"{params.dataset}: where the model looked, {choice} test pictures"
            attention.draw_strips(REPORTS / f"attention_{choice}.png", exhibits, weights, title)
    page.write_page(
        REPORTS / "captions.html",
        table,
        islice(jpegs("data/images"), int(rows[0]), int(rows[-1]) + 1),
        f"{params.dataset}: {len(rows)} test pictures",
        page.measures(evaluation.table),
    )
    write_json(REPORTS / "metrics.json", evaluation.metrics)
    if not settings.java_measures:
        how = java.missing(["meteor"]) or "evaluate.java_metrics: meteor switches it on"
        print(f"METEOR is not among the scores: {how}")


def draw(dataset: str, evaluation: Evaluation) -> None:
    """Tables of the scores and a figure of each."""
    captions, references = evaluation.captions, evaluation.references
    scores = evaluation.scores
    tables = {
        "scores": evaluation.table,
        "by_length": breakdown.by_length(captions, scores),
        "by_word": breakdown.by_word(captions, references, scores.cider_d),
        "caption_lengths": breakdown.length_shares(captions, references),
    }
    for name, table in tables.items():
        with atomic_file(REPORTS / f"{name}.csv") as path:
            table.to_csv(path, index=False)
    for name, figure, title in (
        ("scores", figures.draw_scores, "test scores, 95% intervals"),
        ("by_length", figures.draw_by_length, "scores by generated length"),
        ("by_word", figures.draw_by_word, "are the frequent words said?"),
    ):
        figure(REPORTS / f"{name}.png", tables[name], f"{dataset}: {title}")


if __name__ == "__main__":
    run_stage("evaluate", main)
