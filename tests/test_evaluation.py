"""evaluation.py: scores beside floor, neighbour and ceiling; what the captions are like."""

import numpy as np
import pandas as pd
import pytest

from captioner.evaluation import Evaluation, predictions_table
from captioner.metrics import MEASURES, CaptionScorer, caption_scores, mean_scores
from captioner.metrics.bootstrap import confidence_intervals
from captioner.metrics.java import Meteor
from captioner.words import spaced
from tests.conftest import needs_meteor

REFERENCES = [
    ["a red circle", "one red circle on grey", "a big red circle"],
    ["a blue star", "a small blue star", "one blue star on grey"],
    ["two green hearts", "two green hearts on beige", "a pair of green hearts"],
    ["a black cross", "a big black cross", "one black cross on beige"],
]
TRAINING = ["a blue star", "a blue star", "a red heart", "a green circle", "two hearts"]
NEAREST = ["a red heart", "a blue star", "two hearts", "a green circle"]


def evaluate(captions, references=REFERENCES, **options) -> Evaluation:
    return Evaluation(captions, references, TRAINING, NEAREST[: len(captions)], 1, 200, **options)


def test_people_lie_between_the_floor_and_perfection():
    best = [picture[0] for picture in REFERENCES]
    found = evaluate(best)
    metrics = found.metrics
    for name in MEASURES:
        assert metrics[f"floor_{name}"] < metrics[name]
        assert metrics[f"ceiling_{name}"] < metrics[name]
        assert metrics[f"nearest_{name}"] < metrics[name]
        assert metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"]
    # Four pictures are too few for BLEU of longer n-grams to tell a constant from a person.
    for name in ("bleu_1", "rouge_l", "cider_d"):
        assert metrics[f"floor_{name}"] < metrics[f"ceiling_{name}"]
    assert [metrics["bleu_1"], metrics["bleu_3"]] == pytest.approx([1, 1])
    assert metrics["cider_d"] == pytest.approx(found.per_picture["cider_d"].mean())
    assert all(type(value) in (int, float) for value in metrics.values())


def test_the_table_holds_each_system_as_the_metrics_module_scores_it():
    captions = [picture[1] for picture in REFERENCES]
    table = evaluate(captions).table.set_index(["system", "measure"])
    assert sorted({system for system, _ in table.index}) == [
        "constant",
        "human",
        "model",
        "nearest",
    ]
    own, nearest = (caption_scores(REFERENCES, said) for said in (captions, NEAREST))
    people = CaptionScorer(REFERENCES).human_ceiling()
    expected = {
        "model": (own.corpus, [own]),
        "nearest": (nearest.corpus, [nearest]),
        "human": (mean_scores(people), people),
    }
    for system, (scores, rounds) in expected.items():
        intervals = confidence_intervals(rounds, 1, 200)
        for name in MEASURES:
            row = table.loc[(system, name)]
            assert row["score"] == pytest.approx(scores[name])
            assert (row["low"], row["high"]) == pytest.approx(intervals[name])


def test_the_floor_is_the_best_constant_caption():
    found = evaluate(["a blue star"] * 4)
    assert found.constant == "a blue star"
    for name in MEASURES:
        assert found.metrics[name] == pytest.approx(found.metrics[f"floor_{name}"])


def test_worse_captions_score_lower():
    right = [picture[1] for picture in REFERENCES]
    good, bad = evaluate(right).metrics, evaluate([*right[1:], right[0]]).metrics
    for name in ("bleu_1", "bleu_4", "rouge_l", "cider_d"):
        assert bad[name] < good[name]


def test_shares_and_lengths_counted_by_hand():
    metrics = evaluate(["A blue star.", "a blue star", "red", "a red heart on a blue star"]).metrics
    # as tokens the first two are equal, and copied from the training captions
    assert metrics["distinct_captions"] == 3 / 4
    assert metrics["copied_captions"] == 2 / 4
    assert metrics["vocabulary_used"] == len({"a", "blue", "star", "red", "heart", "on"})
    assert metrics["mean_length"] == (3 + 3 + 1 + 7) / 4
    assert metrics["references_mean_length"] == (3 + 5 + 4 + 3 + 4 + 5 + 3 + 5 + 5 + 3 + 4 + 5) / 12


def test_without_two_references_there_is_no_ceiling():
    references = [*REFERENCES[:3], REFERENCES[3][:1]]
    metrics = evaluate([r[0] for r in references], references).metrics
    assert [name for name in metrics if name.startswith("ceiling_")] == []
    assert {f"floor_{name}" for name in MEASURES} <= set(metrics)


def test_an_empty_caption_is_scored():
    found = evaluate(["", "a blue star", "", ""])
    assert found.metrics["mean_length"] == 3 / 4 and found.metrics["distinct_captions"] == 2 / 4
    assert found.per_picture["cider_d"][0] == 0 < found.per_picture["cider_d"][1]


def test_other_measures_are_taken_of_every_system():
    """A measure that people satisfy twice in three times: they are all asked in turn."""

    def colour_first(said):
        second = [caption.split()[1] for caption in said]
        return np.array([word in ("red", "blue", "black") for word in second], float)

    found = evaluate(
        ["a red circle", "a star", "a blue heart", "a cross"], others={"c": colour_first}
    )
    rows = found.table[found.table["measure"] == "c"].set_index("system")
    assert rows["score"].to_dict() == pytest.approx(
        {"model": 2 / 4, "constant": 1, "nearest": 2 / 4, "human": (3 + 1 + 2) / 12}
    )
    assert found.per_picture["c"].tolist() == [1, 0, 1, 0]
    assert found.metrics["c_low"] <= 0.5 <= found.metrics["c_high"]
    assert found.metrics["ceiling_c"] == pytest.approx(6 / 12)


@needs_meteor
def test_meteor_of_every_system_by_one_program():
    captions = [picture[1] for picture in REFERENCES]
    found = evaluate(captions, java_measures=["meteor"])
    rows = found.table[found.table["measure"] == "meteor"].set_index("system")
    with Meteor() as meteor:  # all captions here are tokens joined by blanks
        corpus, each = meteor.scores(REFERENCES, captions)
        nearest, _ = meteor.scores(REFERENCES, NEAREST)
        people = [
            meteor.scores(
                [[*group[:one], *group[one + 1 :]] for group in REFERENCES],
                [group[one] for group in REFERENCES],
            )[0]
            for one in range(3)
        ]
    assert rows.loc["model", "score"] == corpus > nearest == rows.loc["nearest", "score"]
    assert found.per_picture["meteor"].tolist() == each.tolist()
    assert rows.loc["human", "score"] == pytest.approx(np.mean(people))
    assert (rows["low"] <= rows["score"]).all() and (rows["score"] <= rows["high"]).all()


def test_recall_of_content_words_counts_each_as_often_as_pictures_have_it():
    captions = ["a red star", "a blue star on grey", "two hearts", "a red cross"]
    found = {"blue", "cross", "hearts", "red", "star"}  # all their pictures; and grey, one of two
    # 13 words, three of which two pictures have
    assert evaluate(captions).metrics["content_word_recall"] == pytest.approx((len(found) + 1) / 16)


def test_split_characters_score_as_words_between_blanks_do():
    """With a Chinese character for each English word and no blanks, every number is the same."""
    words = sorted(
        {w for group in [*REFERENCES, TRAINING, NEAREST] for c in group for w in c.split()}
    )
    characters = {word: chr(0x4E00 + number) for number, word in enumerate(words)}

    def chinese(captions):
        return ["".join(characters[word] for word in caption.split()) for caption in captions]

    captions = [group[1] for group in REFERENCES[:2]] + ["a red heart", "a blue star"]
    english = evaluate(captions)
    references = [chinese(group) for group in REFERENCES]
    training, nearest = chinese(TRAINING), chinese(NEAREST)
    split = Evaluation(
        chinese(captions), references, training, nearest, 1, 200, split_characters=True
    )
    assert split.metrics.keys() == english.metrics.keys()
    grammar = {"content_word_recall"}  # "a" and "on" are no content, which nobody knows of Chinese
    for name in english.metrics.keys() - grammar:
        assert split.metrics[name] == english.metrics[name], name
    assert split.constant == chinese([english.constant])[0]
    assert split.captions[0] == list(chinese(captions)[0])
    whole = Evaluation(chinese(captions), references, training, nearest, 1, 200)
    assert whole.metrics["mean_length"] == 1 < split.metrics["mean_length"]
    spaced_out = [spaced(one) for one in chinese(captions)]  # as `captioner score` would be given
    scores = caption_scores([list(map(spaced, group)) for group in references], spaced_out)
    assert scores.corpus == split.scores.corpus


def test_predictions_are_one_row_for_each_picture():
    captions = [picture[0] for picture in REFERENCES]
    found = evaluate(captions)
    pictures = pd.DataFrame({"image_id": list("wxyz"), "split": "test"}, index=[7, 8, 9, 10])
    nearest = pd.DataFrame({"image_id": list("abcd"), "caption": NEAREST}, index=[3, 1, 0, 2])
    log_probabilities = np.array([-1.5, -2, -3, -4], np.float32)
    table = predictions_table(
        pictures, captions, log_probabilities, REFERENCES, nearest, found.per_picture
    )
    assert str(table.schema.field("references").type).startswith("list<")
    rows = table.to_pylist()
    assert rows[0] | dict.fromkeys(MEASURES, 0) == {
        "image_id": "w",
        "split": "test",
        "caption": "a red circle",
        "log_probability": -1.5,
        "references": REFERENCES[0],
        "nearest_image_id": "a",
        "nearest_caption": "a red heart",
        **dict.fromkeys(MEASURES, 0),
    }
    for name in MEASURES:
        assert [row[name] for row in rows] == list(found.per_picture[name])
