"""The words of a caption, and a caption of words: blanks where a script has them, none elsewhere.

Words are what the evaluation's PTB tokenizer makes of a caption, so that the model learns to write
exactly the tokens that BLEU and CIDEr-D compare. Chinese and Japanese have no blanks, and a whole
clause would be one word; so their characters can be made words of their own (the param
`tokenize.split_characters`), as BERT does with Han characters (Devlin et al. 2019;
`_tokenize_chinese_chars` in `tokenization.py` of google-research/bert), here with kana as well.
Korean has blanks and is left as it is.
"""

import re
from collections.abc import Sequence
from itertools import zip_longest

from captioner.metrics.tokenizer import tokenize

_HAN = (
    "\u2e80-\u2fd5\u3005-\u3007\u3021-\u3029\u3038-\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_KANA = "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9d"
_OLD_KANA = "\U0001aff0-\U0001b16f"
_CHARACTER = f"[{_HAN}{_KANA}{_OLD_KANA}]"
# What belongs to the character before it: voicing of decomposed kana, variants of a Han character.
_MARK = "[\u3099\u309a\uff9e\uff9f\ufe00-\ufe0f\U000e0100-\U000e01ef]"
_PUNCTUATION = (
    "[\u3001-\u3004\u3008-\u3020\u3030\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]"
)
_WORD = re.compile(f"{_CHARACTER}{_MARK}*")
_NO_BLANK = re.compile(
    f"(?:(?<={_CHARACTER})|(?<={_CHARACTER}{_MARK})) (?={_CHARACTER}|{_PUNCTUATION})"
    f"|(?<={_PUNCTUATION}) (?={_CHARACTER})"
)


def words_of(caption: str, split_characters: bool, following: str | None = None) -> list[str]:
    """A caption's words: PTB tokens, between the split characters where these are wanted.

    They are what the tokenizer finds in `spaced(caption)`, but that it drops characters beyond
    U+FFFF and a few others (zero, some marks), which are words here.

    Args:
        caption: as a person or a model wrote it.
        split_characters: whether each Chinese and Japanese character is a word of its own.
        following: the next caption, see `captioner.metrics.tokenizer.tokenize`.
    """
    if not split_characters:
        return tokenize(caption, following)
    words, end = [], 0
    for match in _WORD.finditer(caption):
        words += tokenize(caption[end : match.start()], match.group())
        words.append(match.group())
        end = match.end()
    return words + tokenize(caption[end:], following)


def words_of_all(captions: Sequence[str], split_characters: bool) -> list[list[str]]:
    """The words of captions as the reference tokenizes a file of them, one after the other."""
    pairs = zip_longest(captions, captions[1:])
    return [words_of(caption, split_characters, following) for caption, following in pairs]


def split_lines(captions: Sequence[str]) -> list[str]:
    """The words of captions between blanks, each Chinese or Japanese character a word."""
    return [" ".join(words) for words in words_of_all(captions, True)]


def joined(words: Sequence[str], split_characters: bool) -> str:
    """The words as a caption: blanks between them, but where a split character meets another.

    Nor is there a blank between a split character and a punctuation mark of its script. So
    `words_of` finds the same words in the caption as in the words with blanks between all.
    """
    caption = " ".join(words)
    return _NO_BLANK.sub("", caption) if split_characters else caption


def spaced(caption: str) -> str:
    """A caption with single blanks around each Chinese and Japanese character.

    Programs that know words by blanks score such captions as the pipeline does.
    """
    return " ".join(_WORD.sub(r" \g<0> ", caption).split())
