"""What a person looks at after an evaluation: tables, figures, galleries, attention, the page."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from captioner import attention, breakdown, figures, gallery, page
from captioner.evaluation import Evaluation
from captioner.files import atomic_file
from captioner.images import jpegs
from captioner.metrics import java
from captioner.words import spaced, words_of

# The same on every machine: the page is compared byte by byte.
NO_JAVA = (
    "METEOR and SPICE are not among the scores: they need Java and the extra java-metrics (pip "
    'install -c constraints.txt -e ".[java-metrics]"), then evaluate.java_metrics in params.yaml.'
)
GALLERIES = {"random": "gallery", "best": "gallery_best", "worst": "gallery_worst"}


def write_report(
    folder: Path,
    dataset: str,
    evaluation: Evaluation,
    predictions: pa.Table,
    images: Path | str,
    rows: np.ndarray,
    number: int,
    seed: int,
    look: Callable[[list[int]], np.ndarray] | None,
) -> None:
    """Write all of it into a folder.

    Args:
        dataset: its name, for the titles.
        evaluation, predictions: of the test pictures, in one order.
        images: the folder of the pictures' shards.
        rows: (pictures,) their picture numbers, one after the other without a gap.
        number, seed: pictures in each gallery, and which at random.
        look: places among the pictures -> attention weights (places, length, cells) of their
            captions; None where the model has no grid to look at.
    """
    write_tables(folder, dataset, evaluation)
    shown = gallery.choose_exhibits(images, predictions, rows, number, seed)
    score = evaluation.metrics["cider_d"]
    for choice, exhibits in shown.items():
        title = f"{dataset}: {choice} of {len(rows)} test pictures by CIDEr-D"
        if choice == "random":
            title = f"{dataset}: CIDEr-D {score:.3f} on {len(rows)} test pictures"
        gallery.draw_gallery(folder / f"{GALLERIES[choice]}.png", exhibits, title)
        if look:
            exhibits = exhibits[: attention.STRIPS]
            if evaluation.split_characters:  # a tile for each of the model's words
                exhibits = [replace(one, caption=spaced(one.caption)) for one in exhibits]
            weights = look([exhibit.place for exhibit in exhibits])
            title = f"{dataset}: where the model looked, {choice} test pictures"
            attention.draw_strips(folder / f"attention_{choice}.png", exhibits, weights, title)
    page.write_page(
        folder / "captions.html",
        predictions,
        islice(jpegs(images), int(rows[0]), int(rows[-1]) + 1),
        f"{dataset}: {len(rows)} test pictures",
        page.measures(evaluation.table),
        "" if evaluation.table["measure"].isin(java.METRICS).any() else NO_JAVA,
        partial(words_of, split_characters=evaluation.split_characters),
    )


def write_tables(folder: Path, dataset: str, evaluation: Evaluation) -> None:
    """Write the scores and their breakdown as CSV, and a figure of each."""
    captions, references = evaluation.captions, evaluation.references
    tables = {
        "scores": evaluation.table,
        "by_length": breakdown.by_length(captions, evaluation.scores),
        "by_word": breakdown.by_word(captions, references, evaluation.scores.cider_d),
        "caption_lengths": breakdown.length_shares(captions, references),
    }
    for name, table in tables.items():
        with atomic_file(folder / f"{name}.csv") as path:
            table.to_csv(path, index=False)
    for name, draw, title in (
        ("scores", figures.draw_scores, "test scores, 95% intervals"),
        ("by_length", figures.draw_by_length, "scores by generated length"),
        ("by_word", figures.draw_by_word, "are the frequent words said?"),
    ):
        draw(folder / f"{name}.png", tables[name], f"{dataset}: {title}")
