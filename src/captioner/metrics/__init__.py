"""Caption scores as the COCO caption reference prints them, between a floor and a ceiling.

BLEU-1 to 4, ROUGE-L and CIDEr-D of generated captions (Chen et al. 2015, "Microsoft COCO Captions",
section 4), in pure Python and numpy. A score means little alone: `human_ceiling` scores people
against each other, `constant_floor` one caption said of every picture.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from captioner import CaptionerError
from captioner.metrics.bleu import bleu
from captioner.metrics.cider import CiderD
from captioner.metrics.rouge import rouge_l
from captioner.metrics.tokenizer import tokenize

__all__ = ["CaptionScores", "caption_scores", "constant_floor", "human_ceiling"]

_CANDIDATES = 20


@dataclass(frozen=True)
class CaptionScores:
    """Scores of a set of captions.

    Attributes:
        corpus: bleu_1 ... bleu_4, rouge_l (fractions of 1) and cider_d (times 10, as usual).
        per_picture: rouge_l and cider_d of each picture, (pictures,) float64.
    """

    corpus: dict[str, float]
    per_picture: dict[str, np.ndarray]


def _tokens(caption: str, tokenized: bool) -> list[str]:
    return caption.split(" ") if tokenized else tokenize(caption)


def _split(tokens: list[str]) -> list[str]:
    """Split at every kind of blank: the reference does so for BLEU and CIDEr-D, not for ROUGE-L."""
    return " ".join(tokens).split()


def _check(references: Sequence[Sequence[str]]) -> None:
    if not references:
        raise CaptionerError("there are no pictures to score; give at least one")
    for number, picture_references in enumerate(references):
        if isinstance(picture_references, str):
            raise CaptionerError(f"references of picture {number} are one text; give a list")
        if not picture_references:
            raise CaptionerError(f"picture {number} has no reference caption; leave it out")
    if len(references) == 1:
        warnings.warn(
            "with one picture CIDEr-D is 0 by definition: every n-gram is in all pictures (log 1)",
            stacklevel=3,
        )


def _scores(references: list[list[list[str]]], hypotheses: list[list[str]]) -> CaptionScores:
    rouge, rouge_per_picture = rouge_l(references, hypotheses)
    references = [[_split(reference) for reference in picture] for picture in references]
    hypotheses = [_split(hypothesis) for hypothesis in hypotheses]
    cider = CiderD(references).score(hypotheses)
    corpus = {f"bleu_{n}": score for n, score in enumerate(bleu(references, hypotheses), start=1)}
    corpus |= {"rouge_l": rouge, "cider_d": float(cider.mean())}
    return CaptionScores(corpus, {"rouge_l": rouge_per_picture, "cider_d": cider})


def caption_scores(
    references: Sequence[Sequence[str]], hypotheses: Sequence[str], *, tokenized: bool = False
) -> CaptionScores:
    """Score one generated caption for each picture.

    Args:
        references: for each picture its reference captions.
        hypotheses: for each picture the generated caption.
        tokenized: the captions are tokens joined by blanks already; leave them as they are.

    Raises:
        CaptionerError: no pictures, a picture without a reference, or not one caption a picture.
    """
    if len(references) != len(hypotheses):
        raise CaptionerError(
            f"{len(hypotheses)} captions for {len(references)} pictures; give one for each"
        )
    _check(references)
    return _scores(
        [[_tokens(reference, tokenized) for reference in picture] for picture in references],
        [_tokens(hypothesis, tokenized) for hypothesis in hypotheses],
    )


def human_ceiling(references: Sequence[Sequence[str]], *, tokenized: bool = False) -> CaptionScores:
    """Score people: the first reference of each picture against its others, the second, ...

    The result is the mean of these rounds. There are as many as the picture with the fewest
    references has references, so that all pictures take part in each.

    Raises:
        CaptionerError: no pictures, or a picture with fewer than two references.
    """
    _check(references)
    for number, picture_references in enumerate(references):
        if len(picture_references) < 2:
            raise CaptionerError(
                f"picture {number} has 1 reference caption; a human ceiling needs 2 or more"
            )
    tokens = [[_tokens(caption, tokenized) for caption in picture] for picture in references]
    rounds = [
        _scores(
            [picture[:left_out] + picture[left_out + 1 :] for picture in tokens],
            [picture[left_out] for picture in tokens],
        )
        for left_out in range(min(map(len, tokens)))
    ]
    first = rounds[0]
    return CaptionScores(
        {key: float(np.mean([one.corpus[key] for one in rounds])) for key in first.corpus},
        {
            key: np.mean([one.per_picture[key] for one in rounds], axis=0)
            for key in first.per_picture
        },
    )


def constant_floor(
    train_captions: Sequence[str], references: Sequence[Sequence[str]], *, tokenized: bool = False
) -> tuple[str, CaptionScores]:
    """Score the best single caption for all pictures.

    The candidates are the 20 most frequent captions of the training split (as tokens; equally
    frequent ones in alphabetical order). The highest CIDEr-D on `references` wins, then the highest
    ROUGE-L, then the most frequent: a floor that knows the answers, so it is not set too low.

    Returns:
        The caption (tokens joined by blanks) and its scores.

    Raises:
        CaptionerError: no training captions, no pictures, or a picture without a reference.
    """
    if not train_captions:
        raise CaptionerError("there are no training captions to choose a constant caption from")
    _check(references)
    counts = Counter(" ".join(_tokens(caption, tokenized)) for caption in train_captions)
    candidates = sorted(counts, key=lambda caption: (-counts[caption], caption))[:_CANDIDATES]
    tokens = [[_tokens(caption, tokenized) for caption in picture] for picture in references]
    cider = CiderD([[_split(caption) for caption in picture] for picture in tokens])

    def merit(caption: str) -> tuple[float, float]:
        same = [caption.split(" ")] * len(tokens)
        return cider.score([caption.split()] * len(tokens)).mean(), rouge_l(tokens, same)[0]

    best = max(candidates, key=merit)
    return best, _scores(tokens, [best.split(" ")] * len(tokens))
