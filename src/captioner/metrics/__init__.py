"""Caption scores as the COCO caption reference prints them, between a floor and a ceiling.

BLEU-1 to 4, ROUGE-L and CIDEr-D of generated captions (Chen et al. 2015, "Microsoft COCO Captions",
section 4), in pure Python and numpy. A score means little alone: `CaptionScorer.human_ceiling`
scores people against each other, `constant_floor` one caption said of every picture, and
`bootstrap` says how far another sample of pictures would have moved it.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np

from captioner import CaptionerError
from captioner.metrics.bleu import bleu_counts, bleu_of_counts
from captioner.metrics.cider import CiderD
from captioner.metrics.ngrams import ORDERS, ReferenceNGrams
from captioner.metrics.rouge import rouge_l
from captioner.metrics.tokenizer import tokenize_all

__all__ = ["MEASURES", "CaptionScorer", "CaptionScores", "caption_scores", "constant_floor"]

BLEU = [f"bleu_{order}" for order in range(1, ORDERS + 1)]
MEASURES = (*BLEU, "rouge_l", "cider_d")
_CANDIDATES = 20


@dataclass(frozen=True)
class CaptionScores:
    """Scores of one caption for each picture.

    Attributes:
        bleu_counts: what BLEU adds up, (pictures, 10), see `bleu.bleu_counts`.
        rouge_l: (pictures,) float64, fractions of 1.
        cider_d: (pictures,) float64, from 0 to 10.
    """

    bleu_counts: np.ndarray
    rouge_l: np.ndarray
    cider_d: np.ndarray

    @cached_property
    def corpus(self) -> dict[str, float]:
        """Each of `MEASURES`: BLEU of all pictures' counts, the means of ROUGE-L and CIDEr-D."""
        bleu = bleu_of_counts(self.bleu_counts.sum(axis=0)).tolist()
        means = (float(self.rouge_l.mean()), float(self.cider_d.mean()))
        return dict(zip(MEASURES, (*bleu, *means), strict=True))

    @cached_property
    def per_picture(self) -> dict[str, np.ndarray]:
        """Each of `MEASURES` for each picture, (pictures,) float64."""
        bleu = bleu_of_counts(self.bleu_counts).T
        return dict(zip(MEASURES, (*bleu, self.rouge_l, self.cider_d), strict=True))

    def of(self, pictures: np.ndarray) -> "CaptionScores":
        """The scores of some pictures, with the document frequencies of all."""
        parts = (self.bleu_counts, self.rouge_l, self.cider_d)
        return CaptionScores(*(part[pictures] for part in parts))


class CaptionScorer:
    """Scores captions against fixed references, whose side is worked out once."""

    def __init__(self, references: Sequence[Sequence[str]], *, tokenized: bool = False) -> None:
        """Tokenize and count the references.

        Args:
            references: for each picture its reference captions.
            tokenized: captions, these and the generated ones, are tokens joined by blanks already;
                leave them as they are.

        Raises:
            CaptionerError: no pictures, or a picture without a reference.
        """
        check_references(references)
        self._tokenized = tokenized
        tokens = iter(_tokens([one for group in references for one in group], tokenized))
        self._set([list(islice(tokens, len(group))) for group in references])
        if not self._cider.telling:
            pictures = "one picture" if len(references) == 1 else "references that are all alike"
            warnings.warn(
                f"with {pictures} CIDEr-D is 0 by definition: every n-gram is in all pictures "
                "(log 1)",
                stacklevel=2,
            )

    def _set(self, references: list[list[list[str]]]) -> None:
        self.references = references  # as tokens
        self._ngrams = ReferenceNGrams([[_split(caption) for caption in g] for g in references])
        self._cider = CiderD(self._ngrams)

    def score(self, hypotheses: Sequence[str]) -> CaptionScores:
        """Score one caption for each picture.

        Raises:
            CaptionerError: not one caption a picture.
        """
        if len(hypotheses) != len(self.references):
            raise CaptionerError(
                f"{len(hypotheses)} captions for {len(self.references)} pictures; give one for each"
            )
        return self.score_tokens(self.tokens(hypotheses))

    def tokens(self, captions: Sequence[str]) -> list[list[str]]:
        """The tokens of captions, as those of the references were found."""
        return _tokens(captions, self._tokenized)

    def score_tokens(self, hypotheses: Sequence[list[str]]) -> CaptionScores:
        """Score one tokenized caption for each picture."""
        matches = self._ngrams.match([_split(caption) for caption in hypotheses])
        return CaptionScores(
            bleu_counts(self._ngrams, matches),
            rouge_l(self.references, hypotheses)[1],
            self._cider.score_matches(matches),
        )

    def human_ceiling(self) -> list[CaptionScores]:
        """Score people: each picture's first reference against its others, then the second, ...

        Returns:
            The rounds, whose mean is the ceiling. There are as many as the picture with the fewest
            references has references, so that all pictures take part in each.

        Raises:
            CaptionerError: a picture has fewer than two references.
        """
        for number, picture_references in enumerate(self.references):
            if len(picture_references) < 2:
                raise CaptionerError(
                    f"picture {number} has 1 reference caption; a human ceiling needs 2 or more"
                )
        rounds = []
        for left_out in range(min(map(len, self.references))):
            others = object.__new__(CaptionScorer)
            others._set([group[:left_out] + group[left_out + 1 :] for group in self.references])
            rounds.append(others.score_tokens([group[left_out] for group in self.references]))
        return rounds


def check_references(references: Sequence[Sequence[str]]) -> None:
    """Raise CaptionerError where there are no pictures, or one has no list of references."""
    if not references:
        raise CaptionerError("there are no pictures to score; give at least one")
    for number, picture_references in enumerate(references):
        if isinstance(picture_references, str):
            raise CaptionerError(f"references of picture {number} are one text; give a list")
        if not picture_references:
            raise CaptionerError(f"picture {number} has no reference caption; leave it out")


def _tokens(captions: Sequence[str], tokenized: bool) -> list[list[str]]:
    return [caption.split(" ") for caption in captions] if tokenized else tokenize_all(captions)


def _split(tokens: list[str]) -> list[str]:
    """Split at every kind of blank: the reference does so for BLEU and CIDEr-D, not for ROUGE-L."""
    return " ".join(tokens).split()


def mean_scores(rounds: Sequence[CaptionScores]) -> dict[str, float]:
    """The mean of the corpus scores of several rounds, such as those of `human_ceiling`."""
    return {name: float(np.mean([one.corpus[name] for one in rounds])) for name in MEASURES}


def caption_scores(
    references: Sequence[Sequence[str]], hypotheses: Sequence[str], *, tokenized: bool = False
) -> CaptionScores:
    """Score one generated caption for each picture, once; see `CaptionScorer`."""
    return CaptionScorer(references, tokenized=tokenized).score(hypotheses)


def constant_floor(
    train_captions: Sequence[str], scorer: CaptionScorer, *, tokenized: bool = False
) -> tuple[str, CaptionScores]:
    """Score the best single caption for all pictures.

    The candidates are the 20 most frequent captions of the training split (as tokens; equally
    frequent ones in alphabetical order). The highest CIDEr-D wins, then the highest ROUGE-L, then
    the most frequent: a floor that knows the answers, so it is not set too low.

    Returns:
        The caption (tokens joined by blanks) and its scores.

    Raises:
        CaptionerError: no training captions.
    """
    if not train_captions:
        raise CaptionerError("there are no training captions to choose a constant caption from")
    counts = Counter(map(" ".join, _tokens(train_captions, tokenized)))
    candidates = sorted(counts, key=lambda caption: (-counts[caption], caption))[:_CANDIDATES]
    everywhere = [[caption.split(" ")] * len(scorer.references) for caption in candidates]
    scores = [scorer.score_tokens(captions) for captions in everywhere]
    merit = [(one.corpus["cider_d"], one.corpus["rouge_l"]) for one in scores]
    best = max(range(len(candidates)), key=merit.__getitem__)
    return candidates[best], scores[best]
