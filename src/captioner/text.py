"""The words that the captioner knows, and captions as rows of their numbers.

What a caption's words are is said in `captioner.words`; a vocabulary keeps whether Chinese and
Japanese characters are words of their own. It comes from the training captions alone; rarer words
become <unk>, as in Karpathy and Fei-Fei 2015 (section 4: words seen at least 5 times).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from captioner import CaptionerError
from captioner.files import read_json, write_json
from captioner.words import joined, words_of

SPECIALS = ("<pad>", "<start>", "<end>", "<unk>")
PAD, START, END, UNK = range(len(SPECIALS))
MAX_WORDS = np.iinfo(np.uint16).max + 1  # captions are stored as uint16
_KEYS = ("words", "counts", "split_characters")  # of a vocabulary file

# Words that carry grammar rather than content: left out where frequent words are to mean things.
_FUNCTION_WORDS = """
    a an the this that these those some another other each all both and or but while as when where
    of in on at to from into onto by for with without up down out off over under through near next
    behind beside between around along across above below front top back left right there
    is are was were be being been has have having does do it its he she they him her them his their
    who which what one two three four several many 's n't
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


@dataclass(frozen=True)
class Vocabulary:
    """Words in the order of their ids, each with how often the training captions hold it.

    Attributes:
        words: the four `SPECIALS`, then words by falling count, ties in alphabetical order.
        counts: as many; 0 for <pad>, the number of captions for <start> and <end>, the number of
            tokens that no word stands for under <unk>.
        split_characters: whether Chinese and Japanese characters are words of their own.
    """

    words: tuple[str, ...]
    counts: tuple[int, ...]
    split_characters: bool = False

    @classmethod
    def build(
        cls, captions: Iterable[Sequence[str]], min_count: int, split_characters: bool = False
    ) -> "Vocabulary":
        """The words that the captions hold at least `min_count` times.

        Args:
            captions: the words of each caption, of the training split only.
            min_count: rarer words become <unk>.
            split_characters: whether Chinese and Japanese characters are words of their own.

        Raises:
            CaptionerError: no word is frequent enough, or more words than a uint16 can number.
        """
        counter: Counter[str] = Counter()
        number_of_captions = 0
        for words in captions:
            counter.update(words)
            number_of_captions += 1
        kept = [(w, n) for w, n in counter.items() if n >= min_count and _is_word(w)]
        kept.sort(key=lambda item: (-item[1], item[0]))
        if not kept:
            raise CaptionerError(
                f"tokenize.min_count: {min_count} leaves no word of {number_of_captions} training "
                "captions; use a smaller number, or look at the captions"
            )
        if len(SPECIALS) + len(kept) > MAX_WORDS:
            raise CaptionerError(
                f"tokenize.min_count: {min_count} leaves {len(kept)} words, at most "
                f"{MAX_WORDS - len(SPECIALS)} are possible; use a larger number"
            )
        unknown = counter.total() - sum(n for _, n in kept)
        return cls(
            (*SPECIALS, *(w for w, _ in kept)),
            (0, number_of_captions, number_of_captions, unknown, *(n for _, n in kept)),
            split_characters,
        )

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def ids(self) -> dict[str, int]:
        """Word -> id, without the specials: the text "<end>" in a caption must not end anything."""
        return {word: i for i, word in enumerate(self.words) if i >= len(SPECIALS)}

    def words_of(self, caption: str) -> list[str]:
        """The words of a caption as people write it, known or not."""
        return words_of(caption, self.split_characters)

    def encode(self, words: Sequence[str], max_length: int) -> list[int]:
        """<start>, the ids of the first `max_length` words, <end>; unknown words are <unk>."""
        return [START, *(self.ids.get(word, UNK) for word in words[:max_length]), END]

    def words_at(self, ids: Iterable[int]) -> list[str]:
        """The words up to the first <end>, without specials."""
        words = []
        for i in ids:
            if i == END:
                break
            if i >= len(SPECIALS):
                words.append(self.words[i])
        return words

    def decode(self, ids: Iterable[int]) -> str:
        """The words up to the first <end>, without specials, as people write a caption."""
        return joined(self.words_at(ids), self.split_characters)

    def content_words(self, number: int) -> list[str]:
        """The `number` most frequent words that mean things: no grammar, signs or -lrb-."""
        words = self.words[len(SPECIALS) :]
        return [w for w in words if w not in FUNCTION_WORDS and w[0].isalnum()][:number]

    def save(self, path: Path | str) -> None:
        """Write an object with the three attributes as JSON."""
        write_json(path, {name: getattr(self, name) for name in _KEYS})

    @classmethod
    def load(cls, path: Path | str) -> "Vocabulary":
        """Read what `save` wrote.

        Raises:
            CaptionerError: the file is missing, or is no vocabulary, or an old one without the key
                `split_characters`.
        """
        try:
            return _checked(read_json(path))
        except FileNotFoundError:
            raise CaptionerError(f"{path}: no such file; dvc repro tokenize writes it") from None
        except (ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise CaptionerError(
                f"{path}: not a vocabulary ({reason}); dvc repro --force tokenize writes it anew"
            ) from None


def _is_word(word: str) -> bool:
    """Whether a token may stand in a vocabulary: printable, no blank, not the text of a special."""
    return bool(word) and word.isprintable() and " " not in word and word not in SPECIALS


def _checked(content: object) -> Vocabulary:
    """The vocabulary in a file's content; ValueError says what is wrong with it."""
    if not isinstance(content, dict) or set(content) != set(_KEYS):
        raise ValueError(f"an object with the keys {', '.join(_KEYS)} is expected")
    words, counts, split_characters = (content[key] for key in _KEYS)
    if not isinstance(split_characters, bool):
        raise ValueError(f"split_characters is {split_characters!r:.40}, expected true or false")
    if not isinstance(words, list) or not isinstance(counts, list) or len(words) != len(counts):
        raise ValueError("words and counts must be lists of one length")
    if not len(SPECIALS) < len(words) <= MAX_WORDS:
        raise ValueError(f"{len(words)} words, {len(SPECIALS) + 1} to {MAX_WORDS} are possible")
    if tuple(words[: len(SPECIALS)]) != SPECIALS:
        raise ValueError(f"the first words must be {' '.join(SPECIALS)}")
    for i, word in enumerate(words[len(SPECIALS) :], start=len(SPECIALS)):
        if not isinstance(word, str) or not _is_word(word):
            raise ValueError(f"word {i} is {word!r:.40}")
    if len(set(words)) != len(words):
        word, _ = Counter(words).most_common(1)[0]
        raise ValueError(f"{word!r} is there twice")
    for word, count in zip(words, counts, strict=True):
        if type(count) is not int or count < 0:  # True is an int, too
            raise ValueError(f"the count of {word!r} is {count!r:.40}")
    return Vocabulary(tuple(words), tuple(counts), split_characters)


def encode_tokens(
    captions: Sequence[Sequence[str]], vocabulary: Vocabulary, max_length: int
) -> np.ndarray:
    """Encode tokenized captions: (captions, max_length + 2) uint16, <pad> after <end>."""
    encoded = np.full((len(captions), max_length + 2), PAD, dtype=np.uint16)
    for row, words in zip(encoded, captions, strict=True):
        ids = vocabulary.encode(words, max_length)
        row[: len(ids)] = ids
    return encoded


def encode_captions(captions: Sequence[str], vocabulary: Vocabulary, max_length: int) -> np.ndarray:
    """Encode captions as people wrote them: (captions, max_length + 2) uint16."""
    words = [vocabulary.words_of(caption) for caption in captions]
    return encode_tokens(words, vocabulary, max_length)


def token_statistics(
    captions: Sequence[Sequence[str]],
    splits: Sequence[str],
    vocabulary: Vocabulary,
    max_length: int,
) -> dict[str, float]:
    """What there is to know about tokenized captions and the vocabulary made from them.

    Returns:
        `vocabulary` (specials included), `captions` and `tokens` counted, the mean and greatest
        length in words, captions cut at `max_length`; for each split `captions_SPLIT` and
        `unknown_tokens_SPLIT`, the share of its tokens that are <unk>.
    """
    lengths = np.array([len(words) for words in captions])
    statistics = {
        "vocabulary": len(vocabulary),
        "captions": len(captions),
        "tokens": int(lengths.sum()),
        "mean_length": float(lengths.mean()),
        "longest_caption": int(lengths.max()),
        "cut_captions": int((lengths > max_length).sum()),
    }
    tokens, unknown = Counter(), Counter()
    for words, split in zip(captions, splits, strict=True):
        tokens[split] += len(words)
        unknown[split] += sum(word not in vocabulary.ids for word in words)
    for split, number in sorted(Counter(splits).items()):
        statistics[f"captions_{split}"] = number
        statistics[f"unknown_tokens_{split}"] = unknown[split] / max(tokens[split], 1)
    return statistics
