"""evaluate: free-running captions of the test split, their scores, and a gallery to look at."""

from stages import run_stage  # isort: skip  (puts this checkout's src on the path)
import captioner.quiet_tensorflow  # noqa: F401  # isort: skip

import json
from pathlib import Path

import numpy as np

from captioner import examples
from captioner.datasets.scene_truth import truthful
from captioner.decoding import Decoder
from captioner.determinism import make_deterministic
from captioner.evaluation import evaluate_captions, length_histogram, predictions_table
from captioner.files import atomic_file, write_json
from captioner.gallery import choose_exhibits, draw_gallery
from captioner.images import read_pictures, write_table
from captioner.model import load_captioner
from captioner.params import load_params
from captioner.text import Vocabulary

REPORTS = Path("reports/evaluate")


def main() -> None:
    params = load_params()
    make_deterministic(params.seed)
    settings = params.evaluate
    model = load_captioner("models/captioner")
    vocabulary = Vocabulary.load("data/tokens/vocabulary.json")
    features = examples.read_features("data/features", params.train.attention)
    references = examples.read_references("data/captions.parquet", "test")
    training = examples.read_references("data/captions.parquet", "train").explode().tolist()
    pictures = read_pictures("data/images", ["image_id", "split", "facts"]).loc[references.index]

    decode = Decoder(
        model,
        settings.beam_width,
        settings.max_length,
        settings.length_penalty,
        settings.batch_size,
    )
    rows = np.asarray(references.index)
    words, log_probabilities = decode(features[rows[0] : rows[-1] + 1], progress=True)
    captions = [vocabulary.decode(row) for row in words]
    metrics, scores = evaluate_captions(captions, references.tolist(), training)
    if pictures["facts"].notna().all():
        facts = pictures["facts"].map(json.loads)
        metrics["truthful"] = float(np.mean(list(map(truthful, captions, facts))))

    table = predictions_table(pictures, captions, log_probabilities, references, scores)
    write_table(table, Path("data/predictions.parquet"))
    with atomic_file(REPORTS / "caption_lengths.csv") as path:
        length_histogram(captions, references.tolist()).to_csv(path, index=False)
    exhibits = choose_exhibits("data/images", table, rows, settings.gallery, params.seed)
    title = f"{params.dataset}: CIDEr-D {metrics['cider_d']:.3f} on {len(rows)} test pictures"
    draw_gallery(exhibits, REPORTS / "gallery.png", title)
    write_json(REPORTS / "metrics.json", metrics)


if __name__ == "__main__":
    run_stage("evaluate", main)
