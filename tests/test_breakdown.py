"""breakdown.py: scores by length and words one by one, worked out by hand."""

import numpy as np
import pytest

from captioner.breakdown import by_length, by_word, length_shares
from captioner.metrics import caption_scores
from tests.test_evaluation import REFERENCES


def split(*captions):
    return [caption.split() for caption in captions]


def test_length_histogram_by_hand():
    captions = split("a", "a b c", "a b c")
    table = length_shares(captions, [split("a b", "a b c d"), split("", "a b"), split("x", "x")])
    assert list(table) == ["words", "generated", "references"]
    assert list(table["words"]) == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(table["generated"], [0, 1 / 3, 0, 2 / 3, 0])
    np.testing.assert_allclose(table["references"], [1 / 6, 2 / 6, 2 / 6, 0, 1 / 6])


def test_scores_by_length_are_those_of_the_pictures_with_such_captions():
    captions = ["a red circle", "", "two green hearts on beige", "a cross here"]
    scores = caption_scores(REFERENCES, captions)
    table = by_length(split(*captions), scores).set_index("words")
    assert list(table.index) == ["0", "3-4", "5-6"]
    assert table["pictures"].tolist() == [1, 2, 1]
    cider = scores.cider_d
    assert table["cider_d"].tolist() == pytest.approx([0, cider[[0, 3]].mean(), cider[2]])
    # BLEU of the two captions together, three of three and two of three words: not a mean
    assert table.loc["3-4", "bleu_1"] == pytest.approx(5 / 6)


def test_recall_and_precision_of_words_by_hand():
    captions = ["a red star", "a blue star on grey", "two hearts", "a red cross"]
    cider = caption_scores(REFERENCES, captions).cider_d
    groups = [split(*group) for group in REFERENCES]
    table = by_word(split(*captions), groups, cider).set_index("word")
    # said by people of how many pictures; function words (a, one, two, on, of) are left out
    assert table["pictures"].to_dict() == {
        **dict.fromkeys(("beige", "big", "grey"), 2),
        **dict.fromkeys(("black", "blue", "circle", "cross", "green", "hearts"), 1),
        **dict.fromkeys(("pair", "red", "small", "star"), 1),
    }
    assert list(table.index)[:3] == ["beige", "big", "grey"]
    assert table.loc["grey", ["said", "recall", "precision"]].tolist() == [1, 0.5, 1]
    assert table.loc["red", ["said", "recall", "precision"]].tolist() == [2, 1, 0.5]
    assert table.loc["star", ["said", "recall", "precision"]].tolist() == [2, 1, 0.5]
    assert table.loc["pair", ["said", "recall"]].tolist() == [0, 0]
    assert np.isnan(table.loc["pair", "precision"])
    assert table.loc["grey", "cider_d"] == pytest.approx(cider[:2].mean())
