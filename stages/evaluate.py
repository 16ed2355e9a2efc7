"""evaluate: captions of the test split and what they are worth, pages to look at; retrieval."""

from stages import read_params, run_stage  # isort: skip  (puts this checkout's src on the path)
import captioner.quiet_tensorflow  # noqa: F401  # isort: skip

from pathlib import Path

import numpy as np

from captioner.attention import attention_weights
from captioner.consensus import Consensus, read_told
from captioner.decoding import Decoder
from captioner.determinism import make_deterministic
from captioner.evaluation import Evaluation, predictions_table
from captioner.examples import read_features
from captioner.files import verify, write_json
from captioner.held_out import read_held_out
from captioner.images import write_table
from captioner.joint_embedding import JointEncoder, JointModel, load_joint
from captioner.metrics import java
from captioner.metrics.retrieval import retrieval_metrics
from captioner.model import load_captioners
from captioner.report import write_report
from captioner.text import Vocabulary

REPORTS = Path("reports/evaluate")
SEARCH = {"beam_width", "max_length", "length_penalty", "no_repeat", "word_evidence", "consensus"}


def main() -> None:
    params = read_params()
    verify("models/captioner", "models/joint", "data/features", "data/tokens")
    make_deterministic(params.seed)
    settings = params.evaluate
    models = load_captioners("models/captioner")
    vocabulary = Vocabulary.load("data/tokens/vocabulary.json")
    features = read_features("data/features", params.train.attention)
    test = read_held_out("data/captions.parquet", "data/images", "data/features/pooled.npy")

    joint = load_joint("models/joint")
    agreement = None
    if settings.consensus:
        told = read_told(joint.likelier, "data/features", "data/tokens")
        agreement = Consensus(joint.likelier, told)
    search = settings.model_dump(include=SEARCH) | {"batch_size": settings.batch_size}
    decode = Decoder(models, **search, seen=joint.evidence, agreement=agreement)
    words, log_probabilities = decode(features[test.rows[0] : test.rows[-1] + 1], progress=True)
    captions = [vocabulary.decode(row) for row in words]

    evaluation = Evaluation(
        captions,
        test.references,
        test.training_captions,
        test.nearest["caption"].tolist(),
        params.seed,
        settings.samples,
        settings.java_measures,
        test.truth(params.download.source),
        vocabulary.split_characters,
    )
    table = predictions_table(
        test.pictures,
        captions,
        log_probabilities,
        test.references,
        test.nearest,
        evaluation.per_picture,
    )
    write_table(table, Path("data/predictions.parquet"))

    def look(places: list[int]) -> np.ndarray:
        seen = [
            attention_weights(model, features[test.rows[places]], words[places]) for model in models
        ]
        return np.mean(seen, axis=0)

    grid = params.train.attention == "grid"
    shown = (settings.gallery, params.seed, look if grid else None)
    write_report(REPORTS, params.dataset, evaluation, table, "data/images", test.rows, *shown)
    metrics = evaluation.metrics | retrieval(joint, test.rows, params.seed, settings.samples)
    write_json(REPORTS / "metrics.json", metrics)
    if not settings.java_measures:
        how = java.missing(["meteor"]) or "evaluate.java_metrics: meteor switches it on"
        print(f"METEOR is not among the scores: {how}")


def retrieval(joint: JointModel, rows: np.ndarray, seed: int, samples: int) -> dict[str, float]:
    """How well the test pictures and people's captions of them find each other."""
    encode = JointEncoder(joint)
    features = read_features("data/features", "grid")[rows[0] : rows[-1] + 1]
    tokens, pictures = (np.load(f"data/tokens/{name}.npy") for name in ("captions", "pictures"))
    here = np.isin(pictures, rows)
    captions, owners = encode.sentences(tokens[here]), pictures[here] - rows[0]
    return retrieval_metrics(encode.pictures(features), captions, owners, seed, samples)


if __name__ == "__main__":
    run_stage("evaluate", main)
