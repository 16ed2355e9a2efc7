"""word_labels.py: which words a picture has, by its captions."""

import numpy as np
import pandas as pd

from captioner.word_labels import content_labels, word_labels


def test_labels_are_the_words_of_any_caption():
    captions = [
        [["a", "red", "circle"], ["a", "circle", "on", "red"]],
        [["two", "dogs"]],
        [],
        [["nothing", "known"], ["blue", "dogs"]],
    ]
    labels = content_labels(captions, ["circle", "red", "dogs", "blue"])
    assert labels.tolist() == [[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 1, 1]]
    assert labels.dtype == np.uint8


def captions_of(*rows: tuple[int, str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["picture", "split", "caption"])


def test_words_come_from_training_captions_and_labels_from_all():
    table = captions_of(
        (0, "train", "A red circle."),
        (0, "train", "the circle is RED"),
        (2, "train", "a circle and a box"),
        (3, "val", "a red star on a star, a star"),
    )
    labels, words = word_labels(table, 5, 2, split_characters=False)
    assert words == ["circle", "red"]  # three and two times; the star is in no training caption
    assert labels.tolist() == [[1, 1], [0, 0], [1, 0], [0, 1], [0, 0]]


def test_characters_are_words_where_they_are_split():
    table = captions_of((0, "train", "红色圆形"), (1, "train", "红色星星"))
    labels, words = word_labels(table, 2, 2, split_characters=True)
    assert set(words) < set("红色星")
    assert "红色圆形" in word_labels(table, 2, 9, split_characters=False)[1]
    assert labels[:, words.index("星")].tolist() == [0, 1]
