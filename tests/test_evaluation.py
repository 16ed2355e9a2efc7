"""evaluation.py: scores between their floor and ceiling, and what the captions are like."""

import numpy as np
import pandas as pd
import pytest

from captioner.evaluation import evaluate_captions, length_histogram, predictions_table
from captioner.metrics import caption_scores

REFERENCES = [
    ["a red circle", "one red circle on grey", "a big red circle"],
    ["a blue star", "a small blue star", "one blue star on grey"],
    ["two green hearts", "two green hearts on beige", "a pair of green hearts"],
    ["a black cross", "a big black cross", "one black cross on beige"],
]
TRAINING = ["a blue star", "a blue star", "a red heart", "a green circle", "two hearts"]
SCORES = ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d"]


def test_people_lie_between_the_floor_and_perfection():
    best = [picture[0] for picture in REFERENCES]
    metrics, scores = evaluate_captions(best, REFERENCES, TRAINING)
    for name in SCORES:
        assert (
            metrics[f"floor_{name}"] < metrics[name] and metrics[f"ceiling_{name}"] < metrics[name]
        )
    # Four pictures are too few for BLEU of longer n-grams to tell a constant from a person.
    for name in ("bleu_1", "rouge_l", "cider_d"):
        assert metrics[f"floor_{name}"] < metrics[f"ceiling_{name}"]
    assert [metrics["bleu_1"], metrics["bleu_3"]] == pytest.approx([1, 1])
    assert metrics["rouge_l"] == pytest.approx(1)
    assert metrics["cider_d"] == pytest.approx(scores.per_picture["cider_d"].mean())
    assert all(isinstance(value, (int, float)) for value in metrics.values())


def test_the_floor_is_the_best_constant_caption():
    metrics, _ = evaluate_captions(["a blue star"] * 4, REFERENCES, TRAINING)
    for name in SCORES:
        assert metrics[name] == pytest.approx(metrics[f"floor_{name}"])


def test_worse_captions_score_lower():
    right = [picture[1] for picture in REFERENCES]
    wrong = [*right[1:], right[0]]
    good, _ = evaluate_captions(right, REFERENCES, TRAINING)
    bad, _ = evaluate_captions(wrong, REFERENCES, TRAINING)
    for name in ("bleu_1", "bleu_4", "rouge_l", "cider_d"):
        assert bad[name] < good[name]


def test_shares_and_lengths_counted_by_hand():
    captions = ["A blue star.", "a blue star", "red", "a red heart on a blue star"]
    metrics, _ = evaluate_captions(captions, REFERENCES, TRAINING)
    # as tokens the first two are equal, and copied from the training captions
    assert metrics["distinct_captions"] == 3 / 4
    assert metrics["copied_captions"] == 2 / 4
    assert metrics["vocabulary_used"] == len({"a", "blue", "star", "red", "heart", "on"})
    assert metrics["mean_length"] == (3 + 3 + 1 + 7) / 4


def test_without_two_references_there_is_no_ceiling():
    references = [*REFERENCES[:3], REFERENCES[3][:1]]
    metrics, _ = evaluate_captions([r[0] for r in references], references, TRAINING)
    assert [name for name in metrics if name.startswith("ceiling_")] == []
    assert {f"floor_{name}" for name in SCORES} <= set(metrics)


def test_an_empty_caption_is_scored():
    metrics, scores = evaluate_captions(["", "a blue star", "", ""], REFERENCES, TRAINING)
    assert metrics["mean_length"] == 3 / 4 and metrics["distinct_captions"] == 2 / 4
    assert scores.per_picture["cider_d"][0] == 0 < scores.per_picture["cider_d"][1]


def test_length_histogram_by_hand():
    table = length_histogram(["a", "a b c", "a b c"], [["a b", "a b c d"], ["", "a, b."]])
    assert list(table) == ["words", "generated", "references"]
    assert list(table["words"]) == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(table["generated"], [0, 1 / 3, 0, 2 / 3, 0])
    np.testing.assert_allclose(table["references"], [1 / 4, 0, 2 / 4, 0, 1 / 4])  # no punctuation
    assert table["generated"].sum() == pytest.approx(1)
    assert table["references"].sum() == pytest.approx(1)


def test_predictions_are_one_row_for_each_picture():
    captions = [picture[0] for picture in REFERENCES]
    scores = caption_scores(REFERENCES, captions)
    pictures = pd.DataFrame({"image_id": list("wxyz"), "split": "test"}, index=[7, 8, 9, 10])
    log_probabilities = np.array([-1.5, -2, -3, -4], np.float32)
    table = predictions_table(pictures, captions, log_probabilities, REFERENCES, scores)
    assert str(table.schema.field("references").type).startswith("list<")
    rows = table.to_pylist()
    assert list(rows[0]) == [
        "image_id",
        "split",
        "caption",
        "log_probability",
        "references",
        "cider_d",
        "rouge_l",
    ]
    assert rows[0] | {"cider_d": 0, "rouge_l": 0} == {
        "image_id": "w",
        "split": "test",
        "caption": "a red circle",
        "log_probability": -1.5,
        "references": REFERENCES[0],
        "cider_d": 0,
        "rouge_l": 0,
    }
    for name in ("cider_d", "rouge_l"):
        assert [row[name] for row in rows] == list(scores.per_picture[name])
