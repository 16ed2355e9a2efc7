"""report.py: everything is written, each figure of what it should be; no grid, no attention."""

import io

import numpy as np
import pandas as pd
import pytest

from captioner.datasets import Picture
from captioner.datasets.scene_captions import captions
from captioner.datasets.scene_drawing import draw, sample_facts
from captioner.evaluation import Evaluation, predictions_table
from captioner.images import write_shards
from captioner.report import write_report

FIGURES = {"scores.png", "by_length.png", "by_word.png"}
TABLES = {"scores.csv", "by_length.csv", "by_word.csv", "caption_lengths.csv"}
GALLERIES = {"gallery.png", "gallery_best.png", "gallery_worst.png"}
STRIPS = {"attention_best.png", "attention_worst.png", "attention_random.png"}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Six test pictures behind two of training, captioned by one of their references."""
    folder = tmp_path_factory.mktemp("report") / "images"
    rng = np.random.default_rng(0)
    pictures = []
    for number in range(8):
        facts = sample_facts(rng)
        split = "train" if number < 2 else "test"
        stream = io.BytesIO()
        draw(facts, 32, rng).save(stream, "PNG")
        pictures.append(Picture(f"p{number}", split, stream.getvalue(), captions(facts, rng), None))
    write_shards(pictures, folder, size=32, fit="squash", jpeg_quality=90, max_pixels=10_000)
    tests = pictures[2:]
    said = [picture.captions[number % 5] for number, picture in enumerate(tests)]
    references = [list(picture.captions) for picture in tests]
    nearest = [pictures[0].captions[0]] * 6
    evaluation = Evaluation(said, references, list(pictures[0].captions), nearest, 1, 100)
    predictions = predictions_table(
        pd.DataFrame({"image_id": [p.image_id for p in tests], "split": "test"}),
        said,
        np.zeros(6),
        references,
        pd.DataFrame({"image_id": "p0", "caption": nearest}),
        evaluation.per_picture,
    )
    return folder, evaluation, predictions


def report(scored, folder, look) -> set[str]:
    images, evaluation, predictions = scored
    write_report(folder, "tiny", evaluation, predictions, images, np.arange(2, 8), 4, 1, look)
    return {path.name for path in folder.iterdir()}


def test_everything_is_there_and_the_page_shows_every_picture(scored, tmp_path):
    asked = []

    def look(places):
        asked.append(places)
        return np.full((len(places), 30, 4), 0.25)

    written = report(scored, tmp_path, look)
    assert written == FIGURES | TABLES | GALLERIES | STRIPS | {"captions.html"}
    assert len(asked) == 3 and all(len(places) == 3 for places in asked)
    cider_d = scored[1].scores.cider_d
    best, worst, _ = asked
    assert cider_d[best[0]] == cider_d.max() and cider_d[worst[0]] == cider_d.min()
    page = (tmp_path / "captions.html").read_text(encoding="utf-8")
    assert [f"<bdi>p{number}</bdi>" in page for number in range(2, 8)] == [True] * 6
    assert page.count("METEOR and SPICE are not among the scores: they need Java") == 1
    scores = pd.read_csv(tmp_path / "scores.csv")
    pd.testing.assert_frame_equal(scores, scored[1].table)


def test_without_a_grid_there_is_no_attention_to_draw(scored, tmp_path):
    assert report(scored, tmp_path, None) == FIGURES | TABLES | GALLERIES | {"captions.html"}
