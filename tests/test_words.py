"""words.py: captions become words and words captions, with and without blanks between them."""

import re
import sys
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from captioner.metrics.tokenizer import tokenize, tokenize_all
from captioner.words import joined, spaced, words_of, words_of_all

# Han (also beyond U+FFFF), kana, marks that belong to them, their punctuation, and others' text.
MIXED = "红黑狗々〇𨋢あカーｶ\u3099ﾞ\ufe0f，。、！「」abB.no 5'é\u0301한кك-<>!🐕\xa0 "
mixed = st.text(MIXED, max_size=30)


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("一只黑狗在草地上跑", "一 只 黑 狗 在 草 地 上 跑"),
        ("a 红 shoe", "a 红 shoe"),
        ("A红SHOES.", "a 红 shoes"),
        ("2只狗", "2 只 狗"),
        ("コーヒーを飲む", "コ ー ヒ ー を 飲 む"),
        ("佐々木、〇", "佐 々 木 、 〇"),
        ("か\u3099ｶﾞ葛\U000e0100", "か\u3099 ｶﾞ 葛\U000e0100"),  # two signs, one character
        ("𠮷野家 𨋢 豈", "𠮷 野 家 𨋢 豈"),
        ("개 한 마리 강아지", "개 한 마리 강아지"),
        ("It's a dog.", "it 's a dog"),
        ("", ""),
    ],
)
def test_characters_are_words_of_their_own(caption, words):
    assert words_of(caption, True) == words.split()


def test_the_characters_are_those_that_unicode_names_so():
    """By their names, all of them, and no letter or digit of another script."""
    kinds = (
        "CJK UNIFIED IDEOGRAPH|CJK COMPATIBILITY IDEOGRAPH|CJK RADICAL|KANGXI RADICAL|HANGZHOU"
        "|(HALFWIDTH )?(HIRAGANA|HENTAIGANA|KATAKANA)\\b(?!.* MARK$)|KATAKANA.* ITERATION MARK"
        "|HIRAGANA.* ITERATION MARK|(VERTICAL )?IDEOGRAPHIC (ITERATION|CLOSING|NUMBER)"
        "|KATAKANA-HIRAGANA PROLONGED|HALFWIDTH KATAKANA-HIRAGANA PROLONGED"
    )
    wrong = []
    for code in range(0x80, sys.maxunicode + 1):
        name = unicodedata.name(chr(code), "")
        expected = bool(re.match(kinds, name)) and not name.endswith(("MIDDLE DOT", "HYPHEN"))
        if name and (spaced(f"x{chr(code)}x") == f"x {chr(code)} x") != expected:
            wrong.append(name)
    assert wrong == []


@given(mixed)
def test_without_the_split_words_are_tokens(caption):
    assert words_of(caption, False) == tokenize(caption)
    assert words_of_all([caption, "A dog", caption], False) == tokenize_all(
        [caption, "A dog", caption]
    )


@given(st.text(MIXED.replace("𨋢", "").replace("〇", "").replace("<", "")))
@example("plan B.红 no.5")
def test_the_split_is_what_the_tokenizer_finds_between_blanks(caption):
    bare = re.sub("[\u3099ﾞ\ufe0f]", "", caption)  # the tokenizer drops these marks
    assert words_of(bare, True) == tokenize(re.sub("([红黑狗々あカーｶ])", r" \1 ", bare))


@pytest.mark.parametrize(
    ("words", "caption"),
    [
        ("一 只 黑 狗 在 草 地 上 跑", "一只黑狗在草地上跑"),
        ("a 红 shoe", "a 红 shoe"),
        ("两 只 狗 ， 2 只 猫 。", "两只狗， 2 只猫。"),
        ("红 、 蓝 ！ ！", "红、蓝！ ！"),
        ("カ ー か\u3099 赤", "カーか\u3099赤"),
        ("개 한 마리", "개 한 마리"),
        ("a dog 's tail", "a dog 's tail"),
        ("", ""),
    ],
)
def test_between_characters_stands_no_blank(words, caption):
    assert joined(words.split(), True) == caption
    assert joined(words.split(), False) == words


@given(mixed)
def test_a_caption_of_words_has_the_words_that_blanks_between_all_would_give(caption):
    words = words_of(caption, True)
    line = " ".join(words)
    assert words_of(joined(words, True), True) == words_of(line, True)
    assert spaced(joined(words, True)) == " ".join(line.split())


@given(st.lists(st.sampled_from([*"红黑狗𨋢あカー。，", "か\u3099", "dog", "a", "Ελλάς".lower()])))
def test_round_trip_of_words(words):
    assert words_of(joined(words, True), True) == words


@given(mixed)
def test_spacing_is_idempotent_and_changes_no_words(caption):
    assert spaced(spaced(caption)) == spaced(caption)
    plain = caption.replace("<", "").replace("\xa0", "")
    assert words_of(spaced(plain), True) == words_of(plain, True)
