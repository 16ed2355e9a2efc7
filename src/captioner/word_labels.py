"""What a CNN can learn from captions: which of their frequent words fit a picture.

As in "From Captions to Visual Concepts and Back" (Fang et al. 2015, section 3): a picture has a
word if any of its captions holds it.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from captioner.text import Vocabulary
from captioner.words import words_of


def word_labels(
    captions: pd.DataFrame, pictures: int, number: int, split_characters: bool
) -> tuple[np.ndarray, list[str]]:
    """The most frequent content words of the training captions, and which pictures have them.

    Args:
        captions: columns picture (its number), split and caption.
        pictures: how many there are.
        number: of words, at most.
        split_characters: as for `captioner.words.words_of`.

    Returns:
        (pictures, words) uint8 as from `content_labels`, and the words.
    """
    words = [words_of(caption, split_characters) for caption in captions["caption"]]
    training = np.flatnonzero(captions["split"] == "train")
    chosen = Vocabulary.build([words[row] for row in training], 1).content_words(number)
    of_pictures = [[] for _ in range(pictures)]
    for picture, caption in zip(captions["picture"], words, strict=True):
        of_pictures[picture].append(caption)
    return content_labels(of_pictures, chosen), chosen


def content_labels(captions: Sequence[Sequence[Sequence[str]]], words: Sequence[str]) -> np.ndarray:
    """Which words each picture's captions hold.

    Args:
        captions: for each picture its captions, as words.
        words: the labels.

    Returns:
        (pictures, labels) uint8, 1 where any caption of the picture holds the word.
    """
    column = {word: number for number, word in enumerate(words)}
    labels = np.zeros((len(captions), len(words)), np.uint8)
    for row, picture in enumerate(captions):
        for caption in picture:
            for word in caption:
                if word in column:
                    labels[row, column[word]] = 1
    return labels
