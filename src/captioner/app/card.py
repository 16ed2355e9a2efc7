"""The page "About": the model's card, from its bundle and the MLflow run that made it.

After "Model Cards for Model Reporting" (Mitchell et al. 2019): what it is, what it was trained on,
how well it does and how surely, what it cannot do, and whose the data are.
"""

from collections.abc import Mapping
from html import escape
from pathlib import Path

from captioner import CaptionerError
from captioner.bundle import Captioner

MEASURES = {
    "cider_d": "CIDEr-D",
    "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "truthful": "Truthful",
}
FOUND = {
    "text_r1": "a sentence of the picture is first",
    "text_r10": "a sentence of the picture is among ten",
    "picture_r1": "the sentence's picture is first",
    "picture_r10": "the sentence's picture is among ten",
}
TERMS = {
    "scenes": "The scenes are drawn by the program: no licence, no terms.",
    "mnist": "MNIST: Creative Commons Attribution-Share Alike 3.0 (Yann LeCun and Corinna Cortes).",
    "flickr8k": "The photographs belong to those who took them: for non-commercial research and "
    "education only, and not to be passed on.",
    "flickr30k": "The photographs belong to those who took them, under Flickr's terms of use: for "
    "non-commercial research and education only.",
    "coco": "Captions: Creative Commons Attribution 4.0. The photographs are under Flickr's terms "
    "of use.",
    "table": "The pictures and captions are those of whoever trained this model: ask them.",
}
LIMITS = (
    "It knows the words of its training captions and no others, and says the most usual thing "
    "where it is unsure.",
    "Counts, colours of small things and who does what to whom go wrong most often.",
    "A high probability says that a sentence is usual for such a picture, not that it is true.",
    "It names no persons and reads no text. It is not made for decisions about people, nor as the "
    "only description for somebody who cannot see a picture.",
)


def describe(bundle: Path, captioner: Captioner, pictures: int | None) -> str:
    """The card as HTML.

    Args:
        bundle: the folder; captioner: what was loaded from it.
        pictures: in the collection, or None if there is none.
    """
    from captioner import tracking

    try:
        run = tracking.run_of_bundle(bundle)
        missing = "No MLflow run of this bundle was found: start the app in the pipeline's folder, "
        missing += "name the store with MLFLOW_TRACKING_URI, or write the run with `dvc repro`."
    except CaptionerError as error:
        run, missing = None, str(error)
    metrics = {} if run is None else run.data.metrics
    params = {} if run is None else run.data.params
    dataset = params.get("dataset", "")
    parts = [f"<h2>{escape(dataset) or 'Model'} {captioner.fingerprint[:8]}</h2>"]
    facts = {
        "words it knows": f"{len(captioner.vocabulary):,}",
        "sees pictures as": f"{captioner.preparation.size} x {captioner.preparation.size} pixels",
        "pictures to search in": "none" if pictures is None else f"{pictures:,}",
    }
    if run is not None:
        backbone, members = params.get("encoder.backbone", "?"), params.get("train.members", "[]")
        facts = {
            "data set": dataset,
            "trained on": _split(metrics, "train"),
            "settings chosen on": _split(metrics, "val"),
            "scores measured on": _split(metrics, "test"),
            "CNN": backbone,
            "LSTMs": str(members.count(",") + 1),
            "beam width": params.get("evaluate.beam_width", "?"),
            **facts,
            "MLflow run": f"{run.info.run_name} ({run.info.run_id})",
            "trained with": "TensorFlow " + run.data.tags.get("version.tensorflow", "?"),
            "on": run.data.tags.get("device", "?"),
        }
    parts.append(_table([], list(facts.items())))
    if run is None:
        parts.append(f"<p class='note'>{escape(missing)}</p>")
    else:
        parts += ["<h3>Scores of the test pictures</h3>", _scores(metrics), _retrieval(metrics)]
    parts.append("<h3>Limits</h3><ul>")
    parts += [f"<li>{escape(limit)}</li>" for limit in LIMITS]
    parts.append("</ul><h3>Licence of the data</h3>")
    parts.append(f"<p>{escape(TERMS.get(dataset, TERMS['table']))}</p>")
    return "".join(parts)


def _split(metrics: Mapping[str, float], split: str) -> str:
    count = metrics.get(f"preprocess.pictures_{split}")
    return "?" if count is None else f"{count:,.0f} pictures"


def _scores(metrics: Mapping[str, float]) -> str:
    rows = []
    for key, name in MEASURES.items():
        if (score := metrics.get(f"evaluate.{key}")) is None:
            continue
        low, high = (metrics.get(f"evaluate.{key}_{end}") for end in ("low", "high"))
        others = (metrics.get(f"evaluate.{of}_{key}") for of in ("floor", "nearest", "ceiling"))
        interval = "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
        cells = ["" if other is None else f"{other:.3f}" for other in others]
        rows.append((name, f"{score:.3f}", interval, *cells))
    head = ["", "score", "95% interval", "one sentence for all", "of the nearest picture", "people"]
    return _table(head, rows)


def _retrieval(metrics: Mapping[str, float]) -> str:
    rows = [
        (name, f"{metrics[f'evaluate.{key}']:.1%}")
        for key, name in FOUND.items()
        if f"evaluate.{key}" in metrics
    ]
    return _table(["of the searches", ""], rows) if rows else ""


def _table(head: list[str], rows: list[tuple[str, ...]]) -> str:
    shown = "".join(f"<th scope='col'>{escape(cell)}</th>" for cell in head)
    lines = [f"<thead><tr>{shown}</tr></thead>"] if head else []
    for first, *cells in rows:
        rest = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        lines.append(f"<tr><th scope='row'>{escape(first)}</th>{rest}</tr>")
    return f"<table class='card'>{''.join(lines)}</table>"
