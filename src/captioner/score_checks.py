"""Signs that caption scores mean nothing, though every one of them is computed as it should be.

A score of 0 can say that a model is bad, or that the tokenizer took each Chinese clause for one
word, or that two files describe different pictures; a perfect score, that the references were
scored against themselves. What can be told from the tokens is told here, one line each.
"""

import re
import warnings
from collections.abc import Iterator, Sequence

from captioner.metrics import CaptionScorer, CaptionScores

# What pandas and other programs write where a caption is missing.
PLACEHOLDER = re.compile(r"\s*(?:nan|none|null|n/a|#n/a|<na>|undefined)\s*", re.IGNORECASE)

# Scripts without blanks between words, and the characters a token that no single word has, mean.
_UNSEGMENTED = (
    (
        "Chinese or Japanese",
        re.compile("[\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9d]"),
        3,
        "repeat with --split-characters, which makes each character a word",
    ),
    (
        "Thai, Lao, Tibetan, Burmese or Khmer",
        re.compile("[\u0e01-\u0fff\u1000-\u109f\u1780-\u17ff]"),
        12,
        "put blanks between the words of all captions",
    ),
)


def scorer_and_warnings(
    references: Sequence[Sequence[str]], tokenized: bool
) -> tuple[CaptionScorer, list[str]]:
    """A `CaptionScorer`, and what it warns of, as lines in the place of Python's warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        scorer = CaptionScorer(references, tokenized=tokenized)
    return scorer, [str(warning.message) for warning in caught]


def score_warnings(
    image_ids: Sequence[str],
    references: Sequence[Sequence[Sequence[str]]],
    hypotheses: Sequence[Sequence[str]],
    scores: CaptionScores,
) -> list[str]:
    """What makes scores meaningless or doubtful.

    Args:
        image_ids: (pictures,) to name pictures by.
        references: for each picture its reference captions, each a list of tokens.
        hypotheses: for each picture the tokens of its generated caption.
        scores: of these hypotheses.

    Returns:
        One line each, with the remedy; none where nothing is found.
    """
    return list(_warnings(image_ids, references, hypotheses, scores))


def _warnings(
    image_ids: Sequence[str],
    references: Sequence[Sequence[Sequence[str]]],
    hypotheses: Sequence[Sequence[str]],
    scores: CaptionScores,
) -> Iterator[str]:
    number = len(hypotheses)
    empty = sum(not _has_word(tokens) for tokens in hypotheses)
    if empty:
        yield f"{empty:,} of {number:,} hypotheses have no word and score 0"
    wordless = [
        image_id
        for image_id, group in zip(image_ids, references, strict=True)
        if not all(map(_has_word, group))
    ]
    if wordless:
        yield (
            f"{len(wordless):,} of {number:,} pictures have a reference without a word "
            f"({wordless[0]:.80}, for example), which no caption can agree with; leave these out"
        )
    everything = [*hypotheses, *(tokens for group in references for tokens in group)]
    filled = sum(bool(PLACEHOLDER.fullmatch(" ".join(tokens))) for tokens in everything)
    if filled:
        yield (
            f"{filled:,} captions are a word such as nan or None, which programs write for a "
            "missing caption; leave these out"
        )
    unsegmented = list(_unsegmented(everything))
    yield from unsegmented
    if number > 1 and all(
        list(tokens) in list(map(list, group)) and tokens
        for tokens, group in zip(hypotheses, references, strict=True)
    ):
        yield (
            "every hypothesis is one of its picture's references, word for word: were the "
            "references given as hypotheses?"
        )
    if not unsegmented and empty < number and not scores.bleu_counts[:, 0].any():
        yield (
            "no hypothesis shares a word with its references: are both in one language, and do "
            "the ids mean the same pictures in both?"
        )


def _has_word(tokens: Sequence[str]) -> bool:
    return any(character.isalnum() for token in tokens for character in token)


def _unsegmented(captions: Sequence[Sequence[str]]) -> Iterator[str]:
    """Which scripts are most of the text and stand in tokens too long for single words."""
    letters = sum(map(str.isalpha, "".join(map("".join, captions))))
    for script, pattern, longest, remedy in _UNSEGMENTED:
        found = [len(pattern.findall(token)) for tokens in captions for token in tokens]
        found = [characters for characters in found if characters]
        if 2 * sum(found) > letters and sum(found) > longest * len(found):
            yield (
                f"{script} without blanks between words: a whole clause counts as one word, so "
                f"that the scores say next to nothing; {remedy}"
            )
