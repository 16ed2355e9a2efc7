"""What a data set's captions are like: lengths, repetition, vocabulary, scripts, odd characters."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np

from captioner.score_checks import PLACEHOLDER
from captioner.sections import Tokenize
from captioner.text import SPECIALS, Vocabulary, token_statistics

BARS = 11  # of the histogram, between captions without a word and those that are cut
FIRST = 5  # captions or characters in the report

# How bytes 0x80 to 0xBF look that were read as Latin-1 or Windows-1252: UTF-8 goes on with them.
_ON = "[\x80-\xbf" + bytes(range(0x80, 0xA0)).decode("cp1252", "ignore") + "]"
ODD = {
    "control characters": re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"),
    "replacement characters": re.compile("\ufffd"),  # what some program could not read before
    # "é" as "Ã©", "’" as "â€™"; of other alphabets two in a row, since "Ñ»" alone can be meant
    "mojibake": re.compile(f"[ÂÃ]{_ON}|â{_ON}{{2}}|(?:[Î-Ñ]{_ON}|[ã-í]{_ON}{{2}}){{2}}"),
    "placeholders": re.compile(rf"\A(?:{PLACEHOLDER.pattern})\Z", re.IGNORECASE),
}
# In names of characters, after the name of their script.
_IN_SCRIPT = re.compile(r"LETTER|LIGATURE|IDEOGRAPH|SYLLAB|CHARACTER|VOWEL")
_SCRIPTS = {"Cjk": "Han", "Ideographic": "Han", "Katakana-Hiragana": "Katakana"}


def caption_facts(words: Sequence[Sequence[str]], max_length: int) -> dict:
    """Lengths and repetition.

    Args:
        words: of each caption.
        max_length: longer captions are cut, in words.

    Returns:
        `mean` and `longest` length, captions `cut`; `histogram`, a list of [from, to, captions],
        the last one without an end (None); `distinct` captions, word for word, and the
        `most_frequent` as [caption, number].
    """
    lengths = np.array([len(caption) for caption in words], int)
    step = -(-max_length // BARS)
    starts = [0, *range(1, max_length + 1, step), max_length + 1]
    ends = [start - 1 for start in starts[1:]]
    numbers = np.histogram(lengths, [*starts, np.inf])[0].tolist()
    same = Counter(" ".join(caption) for caption in words if caption)
    return {
        "mean": float(lengths.mean()) if len(lengths) else 0.0,
        "longest": int(lengths.max(initial=0)),
        "cut": int((lengths > max_length).sum()),
        "histogram": [list(row) for row in zip(starts, [*ends, None], numbers, strict=True)],
        "distinct": len(same),
        "most_frequent": [list(pair) for pair in same.most_common(FIRST)],
    }


def vocabulary_facts(
    words: Sequence[Sequence[str]],
    splits: Sequence[str],
    vocabulary: Vocabulary | None,
    tokenize: Tokenize,
) -> dict:
    """The different words of the training captions, and what becomes of them.

    Returns:
        `words`, the `rare` ones among them (below tokenize.min_count), how many are `kept`, and for
        each split `unknown_tokens_SPLIT`, the share of its tokens that become <unk>; without the
        last two where there is no vocabulary.
    """
    training = (caption for caption, split in zip(words, splits, strict=True) if split == "train")
    counter = Counter(word for caption in training for word in caption)
    rare = sum(number < tokenize.min_count for number in counter.values())
    facts: dict[str, float] = {"words": len(counter), "rare": rare}
    if vocabulary is not None:
        facts["kept"] = len(vocabulary) - len(SPECIALS)
        statistics = token_statistics(words, splits, vocabulary, tokenize.max_length)
        facts |= {name: statistics[name] for name in statistics if name.startswith("unknown")}
    return facts


def characters(captions: Sequence[str], words: Sequence[Sequence[str]]) -> dict:
    """Scripts, what the tokenizer loses, and signs that a text was damaged on its way.

    Args:
        captions: as people wrote them.
        words: of each.

    Returns:
        `scripts`: letters of each; `lost`: letters, digits and pictorial signs that are in a
        caption but in none of its words, each with the number of captions, most frequent first,
        and `captions_with_lost`; `odd`: for each of `ODD` the number of captions and an example.
    """
    letters: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    odd = {kind: {"captions": 0, "example": None} for kind in ODD}
    with_lost = 0
    for caption, caption_words in zip(captions, words, strict=True):
        letters.update(caption)
        for kind, pattern in ODD.items():
            if pattern.search(caption):
                odd[kind]["captions"] += 1
                odd[kind]["example"] = odd[kind]["example"] or caption
        if caption.isascii():
            continue
        kept = set("".join(caption_words).replace("ς", "σ"))
        missing = set(caption.lower().replace("ς", "σ")) - kept
        missing = sorted(filter(_has_meaning, missing))
        lost.update(missing)
        with_lost += bool(missing)
    scripts: Counter[str] = Counter()
    for letter, number in letters.items():
        if letter.isalpha():
            scripts[_script(letter)] += number
    return {
        "scripts": dict(scripts),
        "lost": [list(pair) for pair in lost.most_common(FIRST)],
        "captions_with_lost": with_lost,
        "odd": odd,
    }


def _script(letter: str) -> str:
    """The script by the letter's name in Unicode: LATIN SMALL LETTER A is Latin."""
    first, _, rest = unicodedata.name(letter, "").partition(" ")
    if first in ("HALFWIDTH", "FULLWIDTH"):
        first, _, rest = rest.partition(" ")
    if first.title() in _SCRIPTS:
        return _SCRIPTS[first.title()]
    return first.title() if _IN_SCRIPT.search(rest) and first != "MODIFIER" else "other"


@cache
def _has_meaning(character: str) -> bool:
    """Whether a reader would miss it: letters, digits and emoji; not punctuation."""
    category = unicodedata.category(character)
    return (category[0] in "LN" or category == "So") and character != "\ufffd"
