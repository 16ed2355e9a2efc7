"""The tokenizer on examples of every family of rules, and the laws it keeps."""

import shutil
import string
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from captioner.metrics import tokenizer
from captioner.metrics.tokenizer import PUNCTUATION, tokenize, tokenize_all


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
        (
            "blue, red-hot shoes, but blue,red-hot ones - yes",
            "blue red-hot shoes but blue,red-hot ones yes",
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
        # Companies: one letter of these is of one case, unless limited.
        ("Ptys. ptYs. pptE. ppte. a", "ptys. ptys ppte ppte. a"),
        ("Mfg. mTg. mtg. mFg. a", "mfg. mtg mtg. mfg a"),
        ("PTY. Ltd. PTY. a ptE.\tlimited", "pty. ltd. pty a pte. limited"),
        # The longest match counts, not the first: an ampersand's name, a path after www.
        ("K&K&Amp;K S&AMP;K1 K&AMP", "k&k&k s&k 1 k&amp"),
        ("www.x.com/a.html' www.x.com/a.html-ish", "www.x.com/a.html' www.x.com/a.html-ish"),
        ("x.com.net/a.b' X.com.nets", "x.com.net/a.b' x.com.nets"),
        # White space inside a token stays, but goes from the end of the line.
        ("http://x.y/\xa0 http://x.y/\u3000", "http://x.y/\xa0 http://x.y/"),
        ("http://x.y/\xa0 .", "http://x.y/\xa0"),
        ("http://x.y/\xa0 —", "http://x.y/\xa0"),
        ("http://x.y/\xa0 \x01", "http://x.y/"),
        # A smiley that the reference wrote down wrongly, so that it may hold anything.
        ("x.[^x= - two(2) <>] y x.[^x=<]", "x.[^x= two-lrb-2-rrb- <>] y x. -lsb- ^ x = < -rsb-"),
        # Java sees a final sigma only where its own idea of a word ends.
        ("ΑΣ ΑΣ-Β ΑΣ1 ΑΣ1Β ΑΣ. -Σ ΑΣ’ς", "ας ασ-β ας1 ασ1β ας σ ας ς"),
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
@given(st.text(st.characters(exclude_categories=())))  # even halves of characters
@example("\ud83d\ude00 http://x.y/\ud83d\U0001f600\x00")
def test_no_text_crashes(caption):
    assert all(token and not {" ", "\n"} & set(token) for token in tokenize(caption))


HOSTILE = "a- ' . < & 1/ @ 7 _ a, a. A.\xa0 <a\xa0 <!a a=\"\xa0 é 😀 n't www. a.com/ x.[^x= &amp;"


@pytest.mark.parametrize("piece", HOSTILE.split(" "))
def test_the_work_for_a_long_text_is_bounded(piece, monkeypatch):
    """Every step looks at a bounded stretch and moves on, whatever the text."""
    pattern, rewrites = tokenizer._scanner()
    stretches = []

    class Recorder:
        def match(self, text, start, end):
            stretches.append((start, end))
            return pattern.match(text, start, end)

    monkeypatch.setattr(tokenizer, "_scanner", lambda: (Recorder(), rewrites))
    text = piece.replace("\xa0", " ") * (6000 // len(piece))
    assert all(len(token) <= tokenizer.LONGEST_TOKEN for token in tokenize(text))
    assert all(end - start <= tokenizer.LONGEST_TOKEN for start, end in stretches)
    assert all(before < after for (before, _), (after, _) in pairwise(stretches))

    # A caption of a human length never meets the bound.
    short = text[:1500]
    bounded = tokenize(short)
    monkeypatch.setattr(tokenizer, "LONGEST_TOKEN", 10**9)
    assert tokenize(short) == bounded


def test_a_longer_token_is_cut():
    long = "b" * (tokenizer.LONGEST_TOKEN + 5) + "!"
    assert tokenize(f"a {long} c") == ["a", "b" * tokenizer.LONGEST_TOKEN, "bbbbb", "c"]


# A line between two captions that closes whatever the first left open, and starts a sentence.
FENCE = "A zqzq < \" ' \" '"
WORDS = (
    "The man's dog doesn't run. U.S. No. 5 o'clock 5'10\" T-shirt, AT&T (red) black/white plan B"
)


def reference_lines(text, folder):
    """Run the reference once over a file of captions, as `ptbtokenizer.py` does."""
    name = "pycocoevalcap.tokenizer.ptbtokenizer"
    reference = pytest.importorskip(name, reason="pycocoevalcap is not installed")
    if shutil.which("java") is None:
        pytest.skip("there is no java to run the reference tokenizer")
    jar = Path(reference.__file__).with_name(reference.STANFORD_CORENLP_3_4_1_JAR)
    path = folder / "captions.txt"
    path.write_bytes(text.encode())
    command = ["java", "-cp", jar, "edu.stanford.nlp.process.PTBTokenizer"]
    run = subprocess.run(
        [*command, "-preserveLines", "-lowerCase", path], capture_output=True, check=True
    )
    return run.stdout.decode().split("\n")


def reference_tokens(captions, folder):
    """The reference's tokens of each caption by itself."""
    lines = reference_lines("\n".join(f"{caption}\n{FENCE}" for caption in captions), folder)
    # Other line breaks than \n split a caption into several lines, up to the next fence.
    tokens, parts = [], []
    for line in lines:
        if line.startswith("a zqzq "):
            words = " ".join(parts).rstrip().split(" ")
            tokens.append([word for word in words if word and word not in PUNCTUATION])
            parts = []
        else:
            parts.append(line.removesuffix(" "))
    return tokens


@pytest.mark.parametrize(
    ("caption", "following", "last"),
    [
        ("this is plan B.", None, "b"),
        ("this is plan B.", "A dog runs.", "b"),
        ("this is plan B.", "Two dogs run.", "b."),
        ("this is plan B.", "Aunt Mary", "b."),
        ("this is plan B. ", "an old man", "b."),  # sentences begin with capitals
        ("he says no.", "2 dogs", "no."),
        ("he says no.", "Two dogs", "no"),
        ("a work of art.", "3", "art."),
        ("a dog.", "2 dogs", "dog"),
    ],
)
def test_the_next_caption_decides_about_a_period(caption, following, last):
    assert tokenize(caption, following)[-1] == last


def test_a_file_of_captions_is_looked_at_as_a_whole():
    captions = ["plan B.", "Two say no.", "2 say B.", "A dog"]
    expected = [["plan", "b."], ["two", "say", "no."], ["2", "say", "b"], ["a", "dog"]]
    assert tokenize_all(captions) == expected
    assert tokenize_all([]) == []


def test_a_file_of_captions_against_the_reference(tmp_path):
    random = np.random.default_rng(0)
    starts = ["A", "Two", "2", "the", "There", "<b>", "He", "Ltd", "12", "'A", "(A", "It", "As", ""]
    ends = ["plan B.", "x.", "says no.", "art.", "fig.", "no .", "t. ", "U.S.", "pty.", "e.g.", "."]
    captions = [
        " ".join([random.choice(starts), "dogs run to", random.choice(ends)]).strip()
        for _ in range(2000)
    ]
    lines = reference_lines("\n".join(captions), tmp_path)[: len(captions)]
    expected = [[w for w in line.split() if w not in PUNCTUATION] for line in lines]
    for number, (found, tokens) in enumerate(zip(tokenize_all(captions), expected, strict=True)):
        assert found == tokens, captions[number : number + 2]


def test_random_captions_against_the_reference(tmp_path):
    random = np.random.default_rng(0)
    pieces = [*PIECES.split(" "), *WORDS.split(" "), *HOSTILE.split(" "), *string.printable[:95]]
    captions = []
    for _ in range(2000):
        chosen = random.choice(pieces, size=random.integers(1, 9))
        blanks = random.choice(["", " "], size=len(chosen))
        captions.append("".join(a + b for a, b in zip(chosen, blanks, strict=True)))
    expected = reference_tokens(captions, tmp_path)
    assert len(expected) == len(captions)
    for caption, tokens in zip(captions, expected, strict=True):
        assert tokenize(caption) == tokens, caption


@settings(deadline=None)
@given(
    st.text(alphabet=string.ascii_letters + " ,-", max_size=60), st.sampled_from(["", ".", " . "])
)
@example("I cannot", ".")
@example("at the dept", ".")
@example("plan B", ".")
@example("pro-life a-b-c X-Mr cannot-x x-gonna Canada-U", ".")
@example("red,blue-green ,a-b -c d- e--f", ".")
def test_short_cut_and_scanner_agree(words, end):
    assert tokenize(words + end) == tokenizer._scan(words + end, None)


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
