"""Where a score comes from: captions by their length, and the frequent words one by one.

Captions are lists of tokens; `references` holds those of each picture.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from captioner.metrics import CaptionScores
from captioner.text import FUNCTION_WORDS

WORDS = 30  # content words looked at one by one
LENGTHS = 2  # words a class of caption lengths

Captions = Sequence[Sequence[str]]


def length_shares(captions: Captions, references: Sequence[Captions]) -> pd.DataFrame:
    """How long captions are: columns words, generated and references (shares)."""
    own = [len(caption) for caption in captions]
    people = [len(caption) for group in references for caption in group]
    longest = max(own + people)
    shares = {
        name: np.bincount(lengths, minlength=longest + 1) / len(lengths)
        for name, lengths in (("generated", own), ("references", people))
    }
    return pd.DataFrame({"words": range(longest + 1), **shares})


def by_length(captions: Captions, scores: CaptionScores) -> pd.DataFrame:
    """Scores of captions of like length: columns words ("5-6"), pictures and the measures."""
    # 0 by itself, then 1-2, 3-4, ...
    group = -(-np.array([len(caption) for caption in captions]) // LENGTHS)
    rows = []
    for number in np.unique(group):
        chosen = np.flatnonzero(group == number)
        words = f"{(number - 1) * LENGTHS + 1}-{number * LENGTHS}" if number else "0"
        rows.append({"words": words, "pictures": len(chosen), **scores.of(chosen).corpus})
    return pd.DataFrame(rows)


def by_word(
    captions: Captions, references: Sequence[Captions], cider_d: np.ndarray
) -> pd.DataFrame:
    """How well the most frequent content words of the references are found.

    A picture has a word if one of its references says it.

    Args:
        captions: one for each picture; cider_d: (pictures,) of them.

    Returns:
        Columns word, pictures (that have it), said (captions that say it), recall (share of those
        pictures whose caption says it), precision (share of those captions whose picture has it;
        NaN where none says it), cider_d (mean over those pictures).
    """
    people = [{word for caption in group for word in caption} for group in references]
    own = [set(caption) for caption in captions]
    counts = Counter(word for words in people for word in words if _is_content(word))
    rows = []
    for word in sorted(counts, key=lambda word: (-counts[word], word))[:WORDS]:
        has = np.array([word in words for words in people])
        said = np.array([word in words for words in own])
        found = int((has & said).sum())
        rows.append(
            {
                "word": word,
                "pictures": int(has.sum()),
                "said": int(said.sum()),
                "recall": found / int(has.sum()),
                "precision": found / int(said.sum()) if said.any() else float("nan"),
                "cider_d": float(cider_d[has].mean()),
            }
        )
    columns = ["word", "pictures", "said", "recall", "precision", "cider_d"]
    return pd.DataFrame(rows, columns=columns)


def _is_content(word: str) -> bool:
    return word not in FUNCTION_WORDS and word[0].isalpha()
