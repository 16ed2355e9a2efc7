"""captioner.inspection: every flaw of a data set is found, counted and told."""

import csv
import io
import json
import weakref
import zipfile
from collections import Counter
from collections.abc import Iterator
from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from captioner import CaptionerError
from captioner.datasets import Picture, Rejected
from captioner.images import _cores
from captioner.inspection import FILES, inspect
from captioner.inspection.captions import ODD, caption_facts, characters
from captioner.inspection.pictures import Copy, columns, counted, find_copies, sizes
from captioner.inspection.telling import lines
from captioner.leaks import PATTERN_LIMIT
from captioner.sections import Glove, Preprocess, Tokenize
from captioner.words import words_of

PREPROCESS = Preprocess(
    side=32, fit="squash", jpeg_quality=92, max_pixels=10**5, max_rejected=0.2, allow_leaks=False
)
TOKENIZE = Tokenize(min_count=1, max_length=8, split_characters=False)
GLOVE = Glove(source="none", dimensions=50, window=8, epochs=1)
NUMBERS = ["one", "two", "three", "four", "five", "six"]
NUMBERS += ["seven", "eight", "nine", "ten", "eleven", "twelve"]


def encoded(seed: int, size: tuple[int, int] = (48, 40), kind: str = "PNG") -> bytes:
    """A picture of fields of random colours, another one for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.NEAREST).save(stream, kind)
    return stream.getvalue()


def clean() -> list[Picture]:
    """12 + 3 + 3 pictures; no caption twice, and no word in val or test that train lacks."""
    texts = {
        "train": [f"{number} red shoes" for number in NUMBERS],
        "val": [f"{number} shoes" for number in NUMBERS[:3]],
        "test": [f"red {number}" for number in NUMBERS[:3]],
    }
    named = [(split, number, text) for split in texts for number, text in enumerate(texts[split])]
    return [
        Picture(f"{split}{number}.png", split, encoded(seed), (text,))
        for seed, (split, number, text) in enumerate(named)
    ]


def but(changes: dict[int, dict]) -> list[Picture]:
    """The clean pictures, some with other attributes."""
    pictures = clean()
    for place, change in changes.items():
        pictures[place] = Picture(**(vars(pictures[place]) | change))
    return pictures


def saying(*captions: str) -> list[Picture]:
    """The clean pictures, the first training picture with further captions."""
    return but({0: {"captions": ("one red shoes", *captions)}})


def look(items, folder, *, archive=None, label=None, **changes) -> dict:
    """`inspect` with some keys of the sections changed, and all lines of its text."""
    sections = {"preprocess": PREPROCESS, "tokenize": TOKENIZE, "glove": GLOVE}
    for name, section in sections.items():
        keys = {key: changes[key] for key in changes if key in type(section).model_fields}
        sections[name] = type(section)(**(section.model_dump() | keys))
    report = inspect(iter(items), folder, archive=archive, label=label, seed=1, **sections)
    text = list(lines(report, sections["preprocess"], sections["tokenize"]))
    return report | {"text": text}


def rows(path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "report"


# --- clean, and as a whole ---------------------------------------------------------------------


def test_a_clean_data_set(folder):
    report = look(clean(), folder)
    text = report.pop("text")
    assert report["errors"] == report["warnings"] == []
    assert text[-1] == "nothing to worry about"
    assert json.loads((folder / "report.json").read_text()) == report
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    for name in ("rejected.csv", "leaks.csv", "duplicates.csv"):
        assert rows(folder / name) == []
    assert report["pictures"] == report["captions"] == {"train": 12, "val": 3, "test": 3}
    assert report["captions_per_picture"] == {"least": 1, "mean": 1.0, "most": 1}
    assert report["formats"] == {"PNG": 18}
    none = {"number": 0, "first": []}
    assert report["sizes"] == {
        **{key: [48, 40] for key in ("smallest", "median", "largest")},
        **dict.fromkeys(("enlarged", "enlarged_twice", "elongated"), none),
    }
    assert report["words"] == {
        "mean": pytest.approx((12 * 3 + 6 * 2) / 18),
        "longest": 3,
        "cut": 0,
        "histogram": [[n, n, {2: 6, 3: 12}.get(n, 0)] for n in range(9)] + [[9, None, 0]],
        "distinct": 18,
        "most_frequent": report["words"]["most_frequent"],
    }
    assert report["vocabulary"] == {
        "words": 14,
        "rare": 0,
        "kept": 14,
        "unknown_tokens_train": 0,
        "unknown_tokens_val": 0,
        "unknown_tokens_test": 0,
    }
    letters = sum(c.isalpha() for picture in clean() for c in picture.captions[0])
    assert report["characters"]["scripts"] == {"Latin": letters}
    assert "pictures          12         3         3" in text
    assert "         3        12  " + "#" * 40 in text
    assert "         2         6  " + "#" * 20 in text


def test_equal_data_sets_give_equal_bytes(tmp_path):
    for name in "ab":
        look(clean(), tmp_path / name)
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_an_older_report_is_replaced_only_by_a_whole_one(folder):
    look(clean(), folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def broken():
        yield from clean()[:5]
        raise CaptionerError("captions.csv: line 6: damaged")

    with pytest.raises(CaptionerError, match="line 6"):
        look(broken(), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_the_pictures_are_read_once_and_not_kept(folder):
    """Of many pictures a few for each core are alive at any time."""
    alive: weakref.WeakSet[Picture] = weakref.WeakSet()
    most, number = 0, 16 * _cores() + 150

    def pictures() -> Iterator[Picture]:
        nonlocal most
        for seed in range(number):
            split = {number - 2: "val", number - 1: "test"}.get(seed, "train")
            item = Picture(f"{seed}.png", split, encoded(seed, (32, 32)), (f"{seed} shoes",))
            alive.add(item)
            yield item
            del item
            most = max(most, len(alive))

    report = look(pictures(), folder)
    assert sum(report["pictures"].values()) == number
    assert 0 < most <= 16 * _cores() + 4


# --- errors: the pipeline would stop -------------------------------------------------------------


def test_rejected_pictures_and_captions_are_named_by_reason(folder):
    items = [
        Rejected("lost.png", "picture missing", "captions.csv: line 3: no such file"),
        Rejected("lost2.png", "picture missing", "captions.csv: line 4: no such file"),
        Rejected("a.png", "caption missing", "captions.csv: line 5"),
        *but({1: {"data": encoded(1)[:300]}, 2: {"data": encoded(2, (400, 300))}}),
    ]
    report = look(items, folder, max_rejected=0.2)
    assert report["rejected_pictures"] == 4 and report["rejected_captions"] == 1
    assert report["pictures"]["train"] == 10
    assert report["rejected"] == {
        "caption missing": {"number": 1, "first": ["a.png"]},
        "picture missing": {"number": 2, "first": ["lost.png", "lost2.png"]},
        "picture too large": {"number": 1, "first": ["train2.png"]},
        "picture undecodable": {"number": 1, "first": ["train1.png"]},
    }
    assert [row[:2] for row in rows(folder / "rejected.csv")] == [
        ["lost.png", "picture missing"],
        ["lost2.png", "picture missing"],
        ["a.png", "caption missing"],
        ["train1.png", "picture undecodable"],
        ["train2.png", "picture too large"],
    ]
    assert report["errors"] == []
    assert "rejected: 4 pictures and 1 captions cannot be used" in report["warnings"][0]
    assert "  picture missing: 2 (lost.png, lost2.png)" in report["text"]

    report = look(items, folder, max_rejected=0.1)
    (error,) = report["errors"]
    assert error.startswith("4 of 20 pictures rejected") and "see rejected.csv" in error
    assert report["text"][-1] == "the pipeline would stop"


def test_an_empty_split(folder):
    report = look(clean()[:15], folder)
    assert [error.split(":")[0] for error in report["errors"]] == ["split test"]


def test_no_picture_at_all(folder):
    report = look([Rejected("a.png", "picture missing")], folder)
    assert "1 of 1 pictures rejected" in report["errors"][0]
    assert "leaves no word of 0 training captions" in report["errors"][1]
    assert report["sizes"] is None and report["captions_per_picture"] is None
    assert report["warnings"] == []
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_the_same_bytes_in_two_splits(folder):
    copied = but({13: {"data": encoded(4)}})
    report = look(copied, folder)
    (error,) = report["errors"]
    assert error.startswith("pictures with the same bytes in two splits: 1 (val 'val1.png' = train")
    assert report["leaks"]["pairs"] == {"same bytes": 1, "looks the same": 0}
    assert rows(folder / "leaks.csv") == [["same bytes", "val", "val1.png", "train", "train4.png"]]
    report = look(copied, folder, allow_leaks=True)
    assert report["errors"] == []
    (warning,) = report["warnings"]
    assert warning.startswith("leaks: of pairs of pictures in two splits 1 have the same bytes")


def test_no_word_is_frequent_enough(folder):
    report = look(clean(), folder, min_count=13)
    assert report["errors"] == [
        "tokenize.min_count: 13 leaves no word of 12 training captions; use a smaller number, or "
        "look at the captions"
    ]
    assert report["vocabulary"] == {"words": 14, "rare": 14}


def test_glove_cannot_be_trained_on_captions_of_one_word(folder):
    single = [Picture(**(vars(p) | {"captions": (p.captions[0].split()[0],)})) for p in clean()]
    assert look(clean(), folder, source="train")["errors"] == []
    (error,) = look(single, folder, source="train")["errors"]
    assert error.startswith("glove.source: train needs captions of two words or more")


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({}, "18 of 18 pictures, train0.png the first, have no 'kind'"),
        ({"kind": "shoe"}, "all pictures have the same 'kind'"),
    ],
)
def test_classes_that_cannot_be_learnt(folder, facts, message):
    pictures = [Picture(**(vars(p) | {"facts": facts or None})) for p in clean()]
    assert message in look(pictures, folder, label="kind")["errors"][0]
    assert look(pictures, folder)["errors"] == []


# --- pictures ------------------------------------------------------------------------------------


def test_small_and_long_pictures(folder):
    pictures = but(
        {
            0: {"data": encoded(0, (15, 100))},  # enlarged twice; longer than 2:1
            1: {"data": encoded(1, (31, 40))},  # enlarged
            2: {"data": encoded(2, (128, 64), "JPEG")},  # just 2:1
            3: {"data": encoded(3, (129, 64), "GIF")},
        }
    )
    report = look(pictures, folder)
    assert report["sizes"] == {
        "smallest": [31, 40],
        "median": [48, 40],
        "largest": [129, 64],
        "enlarged": {"number": 2, "first": ["train0.png", "train1.png"]},
        "enlarged_twice": {"number": 1, "first": ["train0.png"]},
        "elongated": {"number": 2, "first": ["train0.png", "train3.png"]},
    }
    assert report["formats"] == {"GIF": 1, "JPEG": 1, "PNG": 16}
    small, long = report["warnings"]
    assert small.startswith("small: 1 pictures (train0.png) would be enlarged more than twice")
    assert "long: 2 pictures (train0.png, train3.png) are longer than 2:1" in long
    assert "distorted" in long and "mostly bars" in look(pictures, folder, fit="pad")["warnings"][0]


def test_where_pictures_are_padded_the_longer_side_counts():
    index = pd.DataFrame({"image_id": ["a"], "original_width": [30000], "original_height": [90000]})
    for fit, number in (("squash", 1), ("crop", 1), ("pad", 0)):
        found = sizes(index, 60000, fit)
        assert found["enlarged"]["number"] == number
        assert found["largest"] == [30000, 90000]  # an area beyond 32 bits


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_formats_are_told_by_their_first_bytes(kind):
    formats = Counter()
    items = [Picture("a", "train", encoded(1, kind=kind), ()), Rejected("b", "picture missing")]
    assert list(counted(items, formats)) == items
    assert formats == {kind: 1}


def test_duplicates_within_a_split(folder):
    smaller = Image.open(io.BytesIO(encoded(5))).resize((46, 38), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    smaller.save(stream, "JPEG", quality=90)
    pictures = but(
        {7: {"data": encoded(3)}, 8: {"data": encoded(3)}, 9: {"data": stream.getvalue()}}
    )
    report = look(pictures, folder)
    assert report["copies"] == {"same bytes": 2, "looks the same": 1}
    assert rows(folder / "duplicates.csv") == [
        ["same bytes", "train", "train7.png", "train3.png"],
        ["same bytes", "train", "train8.png", "train3.png"],
        ["looks the same", "train", "train9.png", "train5.png"],
    ]
    (warning,) = report["warnings"]
    assert warning.startswith("duplicates: 3 pictures")
    assert "duplicates within a split: 2 same bytes, 1 looks the same" in report["text"]


@given(st.lists(st.sampled_from([0, 2**8 - 1, 2**20 - 1, 2**30 - 1, 2**60 - 1]), max_size=12))
def test_a_picture_is_a_copy_where_an_earlier_one_is_alike_and_only_there(patterns):
    """Compared with all pairs, one by one."""
    table = [
        (str(row), split, f"{row}", (pattern.to_bytes(32, "big") + bytes(48)).hex())
        for row, (pattern, split) in enumerate(product(patterns, ("train", "test")))
    ]
    index = pd.DataFrame(table, columns=["image_id", "split", "sha256", "perceptual_hash"])
    alike = {
        (later, earlier)
        for earlier, later in combinations(range(len(table)), 2)
        if table[earlier][1] == table[later][1]
        and (patterns[earlier // 2] ^ patterns[later // 2]).bit_count() <= PATTERN_LIMIT
    }
    copies = find_copies(index)
    assert {(int(copy.image_id), int(copy.other_image_id)) for copy in copies} <= alike
    named = [int(copy.image_id) for copy in copies]
    assert sorted(named) == sorted({later for later, _ in alike})


def test_a_copy_by_its_bytes_is_not_one_by_its_looks_as_well():
    rows = [(name, "val", data, "00" * 80) for name, data in zip("cab", "xxy", strict=True)]
    index = pd.DataFrame(rows, columns=["image_id", "split", "sha256", "perceptual_hash"])
    assert find_copies(index) == [
        Copy("same bytes", "val", "a", "c"),
        Copy("looks the same", "val", "b", "c"),
    ]


def test_extra_columns(folder):
    facts = [{"kind": "boot", "price": 3, "tags": ["a"]}, {"kind": "boot"}, {"kind": ""}, None]
    texts = [None if fact is None else json.dumps(fact) for fact in facts]
    assert columns(texts) == {
        "kind": {"pictures": 2, "values": 1, "most_frequent": [["boot", 2]]},
        "price": {"pictures": 1, "values": 1, "most_frequent": [["3", 1]]},
        "tags": {"pictures": 1, "values": 1, "most_frequent": []},
    }
    report = look(but({0: {"facts": facts[0]}, 5: {"facts": facts[1]}}), folder)
    assert report["columns"]["kind"]["pictures"] == 2
    assert "column kind: 1 values: boot (2)" in report["text"]


# --- captions ------------------------------------------------------------------------------------


def test_lengths(folder):
    report = look(saying("red " * 8, "red " * 9, " . ", "!"), folder)
    words = report["words"]
    assert (words["longest"], words["cut"]) == (9, 1)
    assert words["histogram"][0] == [0, 0, 0]
    assert words["histogram"][-2:] == [[8, 8, 1], [9, None, 1]]
    empty, long = report["warnings"]
    assert long.startswith("long captions: 1 (5.0%) have more than 8 words")
    assert empty.startswith("rejected: 2 captions cannot be used")
    assert report["rejected"] == {"caption without words": {"number": 2, "first": ["train0.png"]}}
    assert report["captions_per_picture"] == {"least": 1, "mean": 20 / 18, "most": 3}


@given(st.lists(st.integers(0, 130), max_size=40), st.integers(1, 100))
def test_the_histogram_counts_every_caption_once(lengths, max_length):
    facts = caption_facts([["a"] * length for length in lengths], max_length)
    assert len(facts["histogram"]) <= 13
    assert facts["histogram"][-1][2] == facts["cut"]
    for start, end, number in facts["histogram"]:
        last = 200 if end is None else end
        assert number == sum(start <= length <= last for length in lengths)
    assert sum(number for *_, number in facts["histogram"]) == len(lengths)


def test_the_same_caption_again_and_again(folder):
    report = look(saying("Red shoes!", "red shoes.", "red shoes"), folder)
    assert report["words"]["most_frequent"][0] == ["red shoes", 3]
    assert report["words"]["distinct"] == 19
    (warning,) = report["warnings"]
    assert warning.startswith("repeated: 14% of the captions are 'red shoes'")
    assert "        3 (14.3%)  red shoes" in report["text"]


def test_test_captions_that_are_training_captions(folder):
    same = {15: {"captions": ("One red shoes.",)}, 16: {"captions": ("two red shoes",)}}
    report = look(but(same), folder)
    assert report["leaks"]["leaked_captions_test"] == 2
    (warning,) = report["warnings"]
    assert warning.startswith("test captions: 67% are training captions")


def test_vocabulary_and_unknown_words(folder):
    report = look(but({16: {"captions": ("ein roter Schuh",)}}), folder, min_count=2)
    # red and shoes 12 times, the twelve numbers once each
    assert report["vocabulary"]["words"] == 14
    assert report["vocabulary"]["rare"] == 12
    assert report["vocabulary"]["kept"] == 2
    assert report["vocabulary"]["unknown_tokens_train"] == pytest.approx(12 / 36)
    assert report["vocabulary"]["unknown_tokens_val"] == pytest.approx(3 / 6)
    assert report["vocabulary"]["unknown_tokens_test"] == pytest.approx(5 / 7)
    val, test = report["warnings"]
    assert val.startswith("unknown words: 50.0% of the words in the val captions")
    assert test.startswith("unknown words: 71.4% of the words in the test captions")


def test_published_word_vectors(folder, tmp_path):
    vectors = {word: np.ones(50) * place for place, word in enumerate(["red", "one", "two"])}
    text = "".join(f"{word} {' '.join(map(str, v))}\n" for word, v in vectors.items())
    archive = tmp_path / "glove.6B.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("glove.6B.50d.txt", text)
    report = look(clean(), folder, source="file", archive=archive)
    found = report["word_vectors"]
    assert found["types"] == pytest.approx(3 / 14)
    assert found["tokens"] == pytest.approx(14 / 36)
    assert found["missing"][:2] == [["shoes", 12], ["eight", 1]]
    (warning,) = report["warnings"]
    assert warning.startswith("word vectors: 61.1% of the training words have none")
    assert any("has 21.4% of the words, which are 38.9%" in line for line in report["text"])

    greek = [Picture(**(vars(p) | {"captions": ("ένα σκυλί",)})) for p in clean()]
    errors = look(greek, folder, source="file", archive=archive)["errors"]
    assert "none of the 6 words has a vector there" in errors[0]
    archive.write_bytes(b"PK\3\4")
    errors = look(clean(), folder, source="file", archive=archive)["errors"]
    assert "cannot be unpacked" in errors[0]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("none", "drawn at random"),
        ("train", "trained on the training captions"),
        ("file", "not looked up; no glove.6B.zip could be read"),
    ],
)
def test_where_there_are_no_published_word_vectors_it_is_said(folder, source, told):
    report = look(clean(), folder, source=source)
    assert report["errors"] == report["warnings"] == []
    assert report["word_vectors"] == {"source": source}
    assert any(line.startswith(f"word vectors: {told}") for line in report["text"])


# --- characters ----------------------------------------------------------------------------------


def found_in(*captions: str, split: bool = False) -> dict:
    return characters(captions, [words_of(caption, split) for caption in captions])


@pytest.mark.parametrize(
    ("letters", "script"),
    [
        ("aZéßĳ", "Latin"),
        ("ＡＢ", "Latin"),  # full width
        ("αΩς", "Greek"),
        ("яЁ", "Cyrillic"),
        ("狗々㐀𠮷", "Han"),
        ("ひら", "Hiragana"),
        ("カーｶ", "Katakana"),
        ("한글", "Hangul"),
        ("كلب", "Arabic"),
        ("สน", "Thai"),
        ("क", "Devanagari"),
        ("𝐀ªʰ", "other"),
    ],
)
def test_scripts(letters, script):
    assert found_in(letters, letters, "12 ,.")["scripts"] == {script: 2 * len(letters)}


def test_characters_that_the_tokenizer_loses():
    found = found_in("a 🐕 runs 🐕", "½ cup – “quoted”…", "🐕 Ünï Σίσυφος", "été", "dog's 100%")
    assert found["lost"] == [["🐕", 2], ["½", 1]]
    assert found["captions_with_lost"] == 3
    assert found_in("𠮷 狗")["lost"] == [["𠮷", 1]]
    assert found_in("𠮷 狗", split=True)["lost"] == []


@pytest.mark.parametrize("placeholder", ["nan", "None", " NULL", "<NA>", "#N/A"])
def test_words_that_programs_write_for_a_missing_caption(placeholder):
    odd = found_in("a dog", placeholder, "a nan bread", "none of them")["odd"]
    assert odd["placeholders"] == {"captions": 1, "example": placeholder}


@pytest.mark.parametrize(
    ("damaged", "kind"),
    [
        ("a dog\x07", "control characters"),
        ("\x1b[31ma dog", "control characters"),
        ("a caf\ufffd", "replacement characters"),
        *(
            (text.encode().decode(wrong, "ignore"), "mojibake")
            for text in (
                "a café",
                "the dog’s",
                "ein großer Hund",
                "20 °C",
                "собака",
                "σκυλί",
                "黑狗",
            )
            for wrong in ("cp1252", "latin-1")
        ),
    ],
)
def test_damaged_text_is_counted_with_an_example(damaged, kind):
    odd = found_in("a dog", damaged, "a cat", damaged + " runs")["odd"]
    assert odd[kind] == {"captions": 2, "example": damaged}


@pytest.mark.parametrize(
    "whole",
    [
        "«CAFÉ» d’Été – là-bas…",
        "ÇA VA ? À L’ÂGE « d’or »",
        "ESPAÑA’S DOG",
        "20 °C, ½ cup, £5, ™ ©",
        "SÃO PAULO, São, maçã",
        "σκυλί, «γάτα»",
        "собака “бежит”",
        "“狗”、黑",
        "line\nfeed\ttab",
    ],
)
def test_whole_text_is_not_taken_for_damaged(whole):
    assert {kind: found["captions"] for kind, found in found_in(whole)["odd"].items()} == (
        dict.fromkeys(ODD, 0)
    )


@pytest.mark.parametrize(
    ("caption", "warning"),
    [
        ("a dog \x07 runs", "control characters: in 1 captions, for example 'a dog \\x07 runs'"),
        ("a caf\ufffd", "replacement characters: in 1 captions"),
        ("nan", "placeholders: in 1 captions, for example 'nan'; programs write such words for a"),
        ("a cafÃ©", "mojibake: in 1 captions, for example 'a cafÃ©'"),
        (
            "a 🐕 runs",
            "lost characters: the tokenizer drops or replaces some in 1 captions: 🐕 (1)",
        ),
        ("一只黑狗在草地上跑", "script: Han without blanks between words"),
        ("สุนัขวิ่งในสวน", "script: Thai without blanks between words"),
    ],
)
def test_warnings_about_characters(folder, caption, warning):
    (found,) = look(saying(caption), folder)["warnings"]
    assert found.startswith(warning)


def test_split_characters_is_the_remedy_for_han_and_kana(folder):
    items = saying("一只黑狗在草地上跑", "いぬがはしる カ")
    (warning,) = look(items, folder)["warnings"]
    assert "Han, Hiragana" in warning and "write tokenize.split_characters: true" in warning
    assert look(items, folder, split_characters=True, max_length=9)["warnings"] == []


# --- the contact sheet, and hostile texts --------------------------------------------------------


def test_the_contact_sheet_shows_ten_pictures_of_all(folder):
    """Pictures of one pure colour: ten squares of 230 pixels, below each dark letters."""

    def pictures(number: int) -> Iterator[Picture]:
        for place in range(number):
            stream = io.BytesIO()
            Image.new("RGB", (32, 32), (255, 0, place)).save(stream, "PNG")
            split = {number - 2: "val", number - 1: "test"}.get(place, "train")
            yield Picture(f"{place}", split, stream.getvalue(), (f"a red {place}", "b"))

    for number, shown in ((12, 10), (4, 4)):
        look(pictures(number), folder, allow_leaks=True)
        with Image.open(folder / "contact_sheet.png") as sheet:
            pixels = np.asarray(sheet.convert("RGB")).astype(int)
        red = (pixels[..., 0] > 200) & (pixels[..., 1:] < 60).all(-1)
        assert red.sum() == pytest.approx(shown * 230**2, rel=0.02)
        assert pixels.shape[1] == 1332
        edges = pixels[:30], pixels[-25:], pixels[:, :30], pixels[:, -30:]
        assert all((edge == 255).all() for edge in edges)


@pytest.mark.filterwarnings("error")
def test_hostile_names_and_captions(folder):
    name, text = "=cmd\x1b[2J\n../../etc", "=1+1\x1b[31m <b>$x^2$\nWARNING  forged " + "w" * 500
    pictures = but({0: {"image_id": name, "captions": (text, text, text)}})
    pictures[1] = Picture("copy\r", "train", pictures[0].data, ("one \u202e two",))
    rejected = [Rejected(f"\udcff{name}", "picture missing", "\x07")]
    report = look([*rejected, *pictures], folder, max_rejected=0.5)
    assert [row[2:] for row in rows(folder / "duplicates.csv")] == [
        ["copy ", "'=cmd [2J ../../etc"]
    ]
    assert rows(folder / "rejected.csv")[0][0].startswith("?=cmd [2J")
    assert report["rejected"]["picture missing"]["first"] == [f"?{name}"]
    assert report["characters"]["odd"]["control characters"]["captions"] == 3
    assert all(len(line) < 600 for line in report["text"])
