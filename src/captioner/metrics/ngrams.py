"""The n-grams of one to four tokens that captions share with their references, counted in numpy.

BLEU and CIDEr-D both ask, for each n-gram of a caption, how often each reference of its picture
holds it. Here n-grams are numbered: one of order n is the pair (number of its first n - 1 tokens,
last token), found by binary search among the references' own. So a whole corpus is counted, and
looked up, in a few sorts, and the reference side is worked out once for any number of captions.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from captioner import CaptionerError

ORDERS = 4
_SHIFT = 31  # bits for the last token in the key of an n-gram


@dataclass(frozen=True)
class Matches:
    """What hypotheses share with the references of their pictures.

    Arrays of one length, an entry for each different n-gram of each hypothesis, hypothesis by
    hypothesis; `pairs` for each hypothesis with each of its references in order.

    Attributes:
        lengths: (hypotheses,) in tokens.
        hypothesis, order, count: whose n-gram, its order less one, how often it is there.
        ngram: its number, `ReferenceNGrams.distinct` or above where no reference at all holds it.
        group: its place in `ReferenceNGrams.group_*`, -1 where no reference of its picture has it.
        pair_hypothesis, pair_reference: (pairs,) numbers.
        first_pair: (hypotheses,) of each hypothesis.
    """

    lengths: np.ndarray
    hypothesis: np.ndarray
    order: np.ndarray
    count: np.ndarray
    ngram: np.ndarray
    group: np.ndarray
    pair_hypothesis: np.ndarray
    pair_reference: np.ndarray
    first_pair: np.ndarray


class ReferenceNGrams:
    """The n-grams of reference captions, by picture.

    A group is one n-gram in all references of one picture; its entries, one for each reference that
    holds it, lie together.

    Attributes:
        pictures: how many.
        distinct: how many different n-grams there are; they are numbered from 0.
        order: (distinct,) order of each n-gram less one.
        document_frequency: (distinct,) in how many pictures some reference holds it.
        lengths: (references,) in tokens, picture by picture.
        first: (pictures + 1,) number of each picture's first reference.
        group_start: (groups + 1,) each group's first entry; group_most: (groups,) highest count.
        reference, ngram, count: of each entry.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[Hashable]]]) -> None:
        """Count.

        Args:
            references: for each picture its reference captions, each a list of tokens (words or
                word numbers).

        Raises:
            CaptionerError: a picture has no reference.
        """
        for number, picture_references in enumerate(references):
            if not picture_references:
                raise CaptionerError(f"picture {number} has no reference caption; leave it out")
        captions = [caption for picture in references for caption in picture]
        self.pictures = len(references)
        self.first = np.cumsum([0, *map(len, references)])
        self.lengths = np.array([len(caption) for caption in captions], np.int64)
        self._words = {
            word: number for number, word in enumerate(dict.fromkeys(chain.from_iterable(captions)))
        }
        self._tables: list[np.ndarray] = []  # sorted keys of the n-grams of orders 2, 3, 4
        ngram, reference, _ = self._numbered(captions, learn=True)
        sizes = [len(self._words), *map(len, self._tables)]
        self._starts = np.cumsum([0, *sizes])
        self.distinct = int(self._starts[-1])
        self.order = np.repeat(np.arange(ORDERS), sizes)

        # One sorted number for each (picture, n-gram, reference of the picture).
        picture = np.repeat(np.arange(self.pictures), np.diff(self.first))[reference]
        most = int(np.diff(self.first).max(initial=1))
        group = picture * self.distinct + ngram
        keys, self.count = np.unique(
            group * most + reference - self.first[picture], return_counts=True
        )
        self._groups, starts = np.unique(keys // most, return_index=True)
        self.group_start = np.append(starts, len(keys))
        entry = np.repeat(self._groups, np.diff(self.group_start))
        picture, self.ngram = np.divmod(entry, max(self.distinct, 1))
        self.reference = self.first[picture] + keys % most
        self.group_most = np.maximum.reduceat(self.count, starts) if len(keys) else self.count
        self.document_frequency = np.bincount(self.ngram[starts], minlength=self.distinct)

    def _numbered(
        self, captions: Sequence[Sequence[Hashable]], learn: bool = False
    ) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """The number of each n-gram of captions, its caption's, and where new numbers start.

        The references' n-grams are numbered order by order, then those that no reference holds, for
        this call alone, order by order too from the four starts on.
        """
        known, new = self._words, {}
        words = np.array(
            [
                known[word] if word in known else new.setdefault(word, len(known) + len(new))
                for word in chain.from_iterable(captions)
            ],
            np.int64,
        )
        lengths = np.array([len(caption) for caption in captions], np.int64)
        caption = np.repeat(np.arange(len(captions)), lengths)
        left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))  # tokens to its end
        start, place, size = np.arange(len(words)), words, len(known)
        numbers, captions_of, known_start, new_starts = [], [], 0, [0 if learn else self.distinct]
        for order in range(ORDERS):
            if order:
                longer = left[start] > order
                start = start[longer]
                key = place[longer] << _SHIFT | words[start + order]
                if learn:
                    self._tables.append(np.unique(key))
                place, size = _find(self._tables[order - 1], key), len(self._tables[order - 1])
            is_new = place >= size
            numbers.append(place + np.where(is_new, new_starts[-1] - size, known_start))
            captions_of.append(caption[start])
            known_start += size
            new_starts.append(new_starts[-1] + max(0, int(place.max(initial=0)) + 1 - size))
        return np.concatenate(numbers), np.concatenate(captions_of), new_starts[:-1]

    def match(
        self, hypotheses: Sequence[Sequence[Hashable]], pictures: Sequence[int] | None = None
    ) -> Matches:
        """Count hypotheses and look their n-grams up.

        Args:
            hypotheses: generated captions, each a list of tokens.
            pictures: for each hypothesis the number of its picture; without it there is one
                hypothesis for each picture, in order.

        Raises:
            CaptionerError: the numbers of hypotheses and pictures differ.
        """
        picture = np.arange(self.pictures) if pictures is None else np.asarray(pictures, np.int64)
        if len(picture) != len(hypotheses):
            raise CaptionerError(
                f"{len(hypotheses)} captions for {len(picture)} pictures; give one for each"
            )
        ngram, hypothesis, new_starts = self._numbered(hypotheses)
        span = max(self.distinct, int(ngram.max(initial=0))) + 1
        keys, count = np.unique(hypothesis * span + ngram, return_counts=True)
        hypothesis, ngram = keys // span, keys % span
        starts = [*self._starts[:-1], *new_starts]
        order = (np.searchsorted(starts, ngram, "right") - 1) % ORDERS
        group = np.full(len(keys), -1)
        known = np.flatnonzero(ngram < self.distinct)
        if len(self._groups):
            wanted = picture[hypothesis[known]] * self.distinct + ngram[known]
            place = np.minimum(np.searchsorted(self._groups, wanted), len(self._groups) - 1)
            group[known] = np.where(self._groups[place] == wanted, place, -1)
        references = self.first[picture + 1] - self.first[picture]
        first_pair = np.cumsum(references) - references
        pair_hypothesis = np.repeat(np.arange(len(picture)), references)
        pair_reference = ranges(self.first[picture], references)
        return Matches(
            np.array([len(caption) for caption in hypotheses], np.int64),
            hypothesis,
            order,
            count,
            ngram,
            group,
            pair_hypothesis,
            pair_reference,
            first_pair,
        )


def _find(table: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Places of keys in a sorted table; those not there are numbered from its end on."""
    place = np.minimum(np.searchsorted(table, key), max(len(table) - 1, 0))
    missing = table[place] != key if len(table) else np.ones(len(key), bool)
    if missing.any():
        place[missing] = len(table) + np.unique(key[missing], return_inverse=True)[1]
    return place


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The numbers start, start + 1, ... of several ranges, one after the other."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + lengths, lengths)
