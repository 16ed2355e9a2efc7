"""The tokenizer on examples of every family of rules, and the laws it keeps."""

import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from captioner.metrics import tokenizer
from captioner.metrics.tokenizer import PUNCTUATION, tokenize


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        # Plain words, with the punctuation that goes.
        ("A man, a plan , and a dog .", "a man a plan and a dog"),
        ("Two dogs run.", "two dogs run"),
        ("Stop! Why? Wait: go; now -- or - never", "stop why wait go now or never"),
        # Contractions and apostrophes.
        ("The man's dog doesn't know they've won", "the man 's dog does n't know they 've won"),
        ("Dogs' toys and the girl’s hat", "dogs toys and the girl 's hat"),
        ("It isn’t O'Neil's rock 'n' roll", "it is n't o'neil 's rock 'n' roll"),
        ("Y'all, d'you c'mon o'clock", "y' all d'you c'mon o'clock"),
        # Joined words; one of them before a period takes the long way round.
        ("I cannot, wanna and gonna", "i can not wan na and gon na"),
        ("They cannot.", "they can not"),
        ("'Tis 'twas", "'t is 't was"),
        # Abbreviations keep the period, other words lose it.
        ("Mr. Smith vs. Dr. No on Jan. 5th etc.", "mr. smith vs. dr. no on jan. 5th etc."),
        ("Wash. is a state, but wash. it", "wash. is a state but wash it"),
        ("No. 5 but no. Not", "no. 5 but no not"),
        ("At 5 p.m. in the U.S. The end", "at 5 p.m. in the u.s. the end"),
        ("vitamin B. The dog", "vitamin b the dog"),
        ("vitamin B. and", "vitamin b. and"),
        ("a shirt with a B.", "a shirt with a b"),
        # Numbers.
        ("1,000.5 at 3:30 for -5", "1,000.5 at 3:30 for -5"),
        ("2 1/2 or ½ of 10/12/2012", "2\xa01/2 or 1/2 of 10/12/2012"),
        ("$5, US$6, £7, €8, 50%", "$ 5 us$ 6 # 7 $ 8 50 %"),
        ("the '90s, the 90's, 5'10\"", "the '90s the 90 's 5 10"),
        ("call (555) 555-1234", "call -lrb-555-rrb-\xa0555-1234"),
        # Hyphens, slashes, joined names.
        (
            "a well-known black/white T-shirt-wearing boy",
            "a well-known black/white t-shirt-wearing boy",
        ),
        ("AT&T, R&amp;B and C++", "at&t r&b and c++"),
        # Brackets: the reference drops none of them, for it looks for upper-case names.
        ("(a) [b] {c} <d> 3 < 4", "-lrb- a -rrb- -lsb- b -rsb- -lcb- c -rcb- <d> 3 < 4"),
        # Addresses, file names, handles.
        ("see http://x.y/z?q=1, www.x.com.", "see http://x.y/z?q=1 www.x.com"),
        ("mail me@x.com or @me #dog", "mail me@x.com or @me #dog"),
        ("IMG_1.jpg and 1.jpg", "img_1 jpg and 1.jpg"),
        # Quotes, dashes, ellipses.
        ("\"a\" 'b' “c” ‘x’ «e» ``f''", "a b c x e f"),
        ("a—b – c ... dog. . . e… ----- f", "a b c dog e ----- f"),
        # Beyond ASCII.
        ("Café naïve ÜBER 日本 5°", "café naïve über 日本 5 °"),
        ("soft\xadhyphen zero\u200bwidth", "softhyphen zero width"),
        ("a dog 😀 runs http://x.y/😀/z", "a dog runs http://x.y/😀/z"),
        ("caf&eacute; &lt;b&gt; &nbsp; &quot;q&quot;", "caf&eacute; < b > q"),
        # Line breaks are blanks.
        ("one\ntwo\r\nthree\tfour", "one two three four"),
    ],
)
def test_example(caption, expected):
    assert tokenize(caption) == expected.split(" ")


@pytest.mark.parametrize("caption", ["", " ", "\n", ".", " . ", "...", "?", "''", "\x00", "😀"])
def test_nothing_left(caption):
    assert tokenize(caption) == []


# Pieces that rules look at, so that random texts meet many rules at once.
PIECES = (
    "a B. U.S. etc. don't 'n' cannot gonna 1/2 3:30 (555) 555-1234 <b> &amp; @ # www. .com x.jpg "
    "-- ... '' `` ’ “ é \xad \u200b \xa0 😀 :) - / \\ _ * $"
)
CAPTION = st.lists(
    st.one_of(st.sampled_from(PIECES.split(" ")), st.text(max_size=4), st.just(" ")), max_size=8
).map("".join)


@settings(deadline=None)
@given(CAPTION)
@example("x.[^x=~<>]")
def test_tokens_are_lower_case_without_blanks_or_punctuation(caption):
    for token in tokenize(caption):
        assert token
        assert " " not in token
        assert "\n" not in token
        assert token == token.lower() or "ς" in token or "σ" in token  # final sigma needs a word
        assert token not in PUNCTUATION


@settings(deadline=None)
@given(
    st.text(alphabet=string.ascii_letters + " ,", max_size=60), st.sampled_from(["", ".", " . "])
)
@example("I cannot", ".")
@example("at the dept", ".")
@example("plan B", ".")
def test_short_cut_and_scanner_agree(words, end):
    assert tokenize(words + end) == tokenizer._scan(words + end)


@settings(deadline=None)
@given(st.lists(st.text(alphabet=string.ascii_lowercase, min_size=1), max_size=8))
def test_plain_words_stay_and_tokenizing_again_changes_nothing(words):
    words = [word for word in words if word not in tokenizer._SPLIT_WORDS]
    assert tokenize(" ".join(words)) == words


@settings(deadline=None)
@given(CAPTION, st.integers(min_value=1, max_value=3))
def test_blanks_at_the_end_do_not_matter(caption, blanks):
    assert tokenize(caption + " " * blanks) == tokenize(caption)


def test_only_whole_words_and_one_case_are_state_names():
    assert tokenize("Ore. ore.x Miss. miss. a") == ["ore.", "ore.x", "miss.", "miss", "a"]
