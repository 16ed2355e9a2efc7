"""page.py: everything is on the page and nothing on it runs but the page's own script."""

import base64
import hashlib
import io
import os
import re
import shutil
import subprocess
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from captioner import page
from captioner.page import Measure, write_page
from captioner.words import words_of

HOSTILE = [
    "</script><script>alert(1)</script>",
    '<img src=x onerror="alert(1)">',
    "\" onload='alert(1)' x=\"",
    "</li></ol></body></html><style>*{display:none}</style>",
    "<!-- &lt; &amp; &#60; ]]> -->",
    "javascript:alert(1)",
    "{{title}} {{rows}} \\1 \\g<0>",
    "قطة سوداء \u202e ab",
    "a dog 🐕 日本",
]


def jpeg(side: int, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def predictions(captions: list[str], references: list[list[str]] | None = None, **more) -> pa.Table:
    """The columns that must be there, and more."""
    ids = [f"test-{number:06d}" for number in range(len(captions))]
    references = [["a red circle"]] * len(captions) if references is None else references
    listed = pa.array(references, pa.list_(pa.string()))
    return pa.table({"image_id": ids, "caption": captions, "references": listed} | more)


def written(folder, table: pa.Table, title: str = "title", summary=(), side: int = 8) -> str:
    write_page(folder / "page.html", table, [jpeg(side)] * len(table), title, summary)
    return (folder / "page.html").read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Collects what a browser would see: elements, and their texts by class or tag."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.texts: list[tuple[str, str]] = []  # the innermost class, else tag, and its text
        self._open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        assert len(attributes) == len(attrs), f"an attribute twice in {attrs}"
        self.elements.append((tag, attributes))
        if tag not in ("meta", "link", "img", "input"):
            self._open.append("" if tag == "u" else attributes.get("class", tag))
        if self._open and self._open[-1]:
            self.texts.append((self._name(), ""))  # a new text begins, also if it stays empty

    def handle_endtag(self, tag):
        self._open.pop()

    def handle_data(self, data):
        if self.texts and self.texts[-1][0] == self._name():
            data = self.texts.pop()[1] + data
        self.texts.append((self._name(), data))

    def _name(self) -> str:
        return next((name for name in reversed(self._open) if name), "")

    def all(self, name: str) -> list[str]:
        return [text for found, text in self.texts if found == name]

    def of(self, tag: str) -> list[dict]:
        return [attributes for found, attributes in self.elements if found == tag]


def shown_rows(html: str) -> list[dict]:
    return [row for row in Reader(html).of("li") if row.get("class") == "row"]


def marked(html: str) -> list[str]:
    return re.findall("<u>(.*?)</u>", html)


def test_hostile_texts_are_shown_as_they_are_and_add_no_markup(tmp_path):
    number = len(HOSTILE)
    quiet = predictions(["x"] * number, [["x", "y"]] * number)
    quiet = quiet.append_column("nearest_image_id", quiet["image_id"])
    quiet = quiet.append_column("nearest_caption", quiet["caption"])
    loud = pa.table(
        {
            "image_id": HOSTILE,
            "caption": HOSTILE,
            "references": [[text, text] for text in HOSTILE],
            "nearest_image_id": HOSTILE,
            "nearest_caption": HOSTILE,
        }
    )
    summary = [Measure("x", 1.0)]
    expected = Reader(written(tmp_path, quiet, "x", summary))
    html = written(tmp_path, loud, HOSTILE[0], [Measure(HOSTILE[1], 1.0)])
    read = Reader(html)
    assert [tag for tag, _ in read.elements] == [tag for tag, _ in expected.elements]
    assert [sorted(names) for _, names in read.elements] == [
        sorted(names) for _, names in expected.elements
    ]
    assert not [name for _, names in read.elements for name in names if name.startswith("on")]
    assert not [names for _, names in read.elements if "style" in names]
    assert read.of("link") == [{"rel": "icon", "href": "data:,"}] and not read.of("a")
    assert len(read.of("script")) == len(read.of("style")) == 1
    assert read.all("caption") == HOSTILE
    assert read.all("nearest") == HOSTILE
    assert read.all("bdi") == [text for text in HOSTILE for _ in range(2)]
    listed = [text for name, text in read.texts if name == "li"]
    assert listed == [text for text in HOSTILE for _ in range(2)]
    assert [image["alt"] for image in read.of("img")] == HOSTILE
    assert read.all("title") == read.all("h1") == [HOSTILE[0]]
    assert HOSTILE[1] in read.all("th")


def test_line_breaks_are_blanks_and_other_controls_a_replacement_character(tmp_path):
    assert page.text("a\tb\r\nc\x85d\u2028e") == "a b  c d e"
    assert page.text("\0 \x1b[31m \x7f \x9f \ud800 \udfff \uffff") == "� �[31m � � � � �"
    html = written(tmp_path, predictions(["a\0b\nc"], image_id=["\"\0'"]), "lone \udc80 half")
    read = Reader(html)
    assert (read.all("caption"), read.all("bdi"), read.all("h1")) == (
        ["a�b c"],
        ["\"�'"],
        ["lone � half"],
    )


def test_policy_names_the_two_blocks_and_forbids_the_rest(tmp_path):
    html = written(tmp_path, predictions(["a dog"]))
    (content,) = [m["content"] for m in Reader(html).of("meta") if "http-equiv" in m]
    directives = dict(part.split(" ", 1) for part in content.split("; "))
    assert directives["default-src"] == "'none'"
    assert directives["img-src"] == "data:"
    assert "unsafe" not in content
    for tag in ("style", "script"):
        (block,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
        assert directives[f"{tag}-src"] == f"'sha256-{digest}'"


def test_nothing_is_loaded_from_anywhere(tmp_path):
    table = predictions(["a dog"], nearest_image_id=["train-1"], nearest_caption=["a cat"])
    html = written(tmp_path, table, summary=[Measure("CIDEr-D", 0.5, (0.4, 0.6), 0.1, 0.2, 0.9)])
    assert not re.search(r"https?://|\burl\(|@import|\bfetch\(|localStorage", html)
    addresses = [e[a] for _, e in Reader(html).elements for a in ("src", "href") if a in e]
    assert len(addresses) == 2  # the icon, which is empty, and the picture
    assert all(address.startswith("data:") for address in addresses)


def test_every_row_and_reference_is_there_in_the_order_of_the_table(tmp_path):
    number = 250  # more than are read at once
    captions = [f"caption {i}" for i in range(number)]
    references = [[f"reference {i}-{j}" for j in range(i % 4)] for i in range(number)]
    table = predictions(captions, references)
    thumbnails = [jpeg(8, seed) for seed in range(number)]
    write_page(tmp_path / "page.html", table, iter(thumbnails), "title")
    read = Reader((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert read.all("caption") == captions
    assert read.all("li") == [text for texts in references for text in texts]
    assert read.all("bdi") == table["image_id"].to_pylist()
    pictures = [image["src"].removeprefix("data:image/jpeg;base64,") for image in read.of("img")]
    assert [base64.b64decode(picture) for picture in pictures] == thumbnails


def test_scores_that_are_there_are_shown_and_can_be_sorted_by(tmp_path):
    table = predictions(
        ["a red dog", "two dogs"],
        cider_d=[1.234, None],
        rouge_l=[0.5, float("nan")],
        log_probability=pa.array([-3.21, -0.5], pa.float32()),
        truthful=[False, True],
        spice=[0.25, 0.75],
    )
    html = written(tmp_path, table)
    first, second = shown_rows(html)
    assert first == {
        "class": "row",
        "data-cider_d": "1.234",
        "data-rouge_l": "0.5",
        "data-spice": "0.25",
        "data-truthful": "0",
        "data-log_probability": "-3.21",
        "data-words": "3",
    }
    assert second.keys() == first.keys() - {"data-cider_d", "data-rouge_l"}
    read = Reader(html)
    names = ["CIDEr-D", "ROUGE-L", "SPICE", "truthful", "log p", "words"]
    assert read.all("dt") == [*names, *names[2:]]
    assert read.all("dd") == [
        *("1.23", "0.50", "0.25", "no", "−3.21", "3"),
        *("0.75", "yes", "−0.50", "2"),
    ]
    keys = [option["value"] for option in read.of("option")]
    scores = ["cider_d", "rouge_l", "spice", "truthful", "log_probability", "words"]
    assert keys == ["place", *scores, "image_id"]


def test_a_table_with_no_more_than_it_must_have(tmp_path):
    html = written(tmp_path, predictions([""], [[]]))
    read = Reader(html)
    assert [option["value"] for option in read.of("option")] == ["place", "words", "image_id"]
    assert read.all("empty") == ["(empty caption)"]
    assert [image["alt"] for image in read.of("img")] == ["empty caption"]
    assert not read.of("table") and "Nearest" not in html and not marked(html)
    assert shown_rows(html) == [{"class": "row", "data-words": "0"}]


def test_the_nearest_training_picture_is_named_where_there_is_one(tmp_path):
    table = predictions(
        ["a", "b"], nearest_image_id=["train-7", None], nearest_caption=["a cat", None]
    )
    read = Reader(written(tmp_path, table))
    assert read.all("nearest") == ["a cat"]
    assert "train-7" in read.all("bdi") and "None" not in read.all("bdi")


def test_a_note_stands_below_the_summary_as_text(tmp_path):
    path = tmp_path / "page.html"
    write_page(path, predictions(["a"]), [jpeg(8)], "title", note='<b>not "measured"</b> here')
    (notes,) = re.findall(r'<p class="notes">(.*?)</p>', path.read_text(encoding="utf-8"))
    assert notes.endswith("&lt;b&gt;not &quot;measured&quot;&lt;/b&gt; here")


def test_summary_has_the_columns_that_are_known(tmp_path):
    table = predictions(["a dog"])
    summary = [Measure("CIDEr-D", 0.5, (0.25, 0.75), constant=-0.125), Measure("BLEU-4", 0.3)]
    read = Reader(written(tmp_path, table, summary=summary))
    heads = ["measure", "score", "95% interval", "constant caption", "CIDEr-D", "BLEU-4"]
    assert read.all("th") == heads
    assert read.all("td") == ["0.500", "0.250 – 0.750", "−0.125", "0.300", "–", "–"]
    (notes,) = read.all("notes")
    assert "Constant caption" in notes and "Nearest" not in notes


@pytest.mark.parametrize(
    ("caption", "references", "words"),
    [
        ("a red dog", ["A dog.", "the Dog runs"], ["red"]),
        ("A Red dog, red", ["a dog"], ["Red", "red"]),
        ("a dogs dog", ["a dog"], ["dogs"]),
        ("the dog isn't red", ["the dog is red"], ["n&#x27;t"]),
        ('a "big" dog', ["a dog"], ["big"]),
        ("İ saw a dog", ["i saw a cat"], ["dog"]),
        ("<b> & dog", ["a dog"], ["&lt;b&gt;", "&amp;"]),
        ("a dog", ["", "a dog"], []),
        ("a dog", [], []),
    ],
)
def test_words_that_no_reference_has_are_marked(tmp_path, caption, references, words):
    html = written(tmp_path, predictions([caption], [references]))
    assert marked(html) == words
    assert Reader(html).all("caption") == [caption]


def test_with_split_characters_each_is_a_word_that_is_marked_and_counted(tmp_path):
    table = predictions(["一只黑狗在跑 fast"], [["一只白狗在跳 fast"]])
    page_of = partial(write_page, tmp_path / "page.html", table, [jpeg(8)], "title")
    page_of(words_of=partial(words_of, split_characters=True))
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert marked(html) == ["黑", "跑"]
    assert Reader(html).all("caption") == ["一只黑狗在跑 fast"]
    assert shown_rows(html)[0]["data-words"] == "7"
    page_of()
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert marked(html) == ["一只黑狗在跑"] and shown_rows(html)[0]["data-words"] == "2"


def test_larger_pictures_are_reduced_and_others_kept(tmp_path):
    for side in (64, 128):
        assert page.reduced(jpeg(side)) == jpeg(side)
    assert len(page.reduced(jpeg(299))) < len(jpeg(299)) / 4
    for side in (129, 224, 299):
        with Image.open(io.BytesIO(page.reduced(jpeg(side)))) as image:
            assert (image.format, image.size) == ("JPEG", (128, 128))
    stream = io.BytesIO()
    Image.new("L", (300, 150), 90).save(stream, "JPEG")
    with Image.open(io.BytesIO(page.reduced(stream.getvalue()))) as image:
        assert (image.mode, image.size) == ("RGB", (128, 64))
        assert abs(np.array(image).astype(int) - 90).max() <= 2
    html = written(tmp_path, predictions(["a dog"]), side=224)
    assert base64.b64encode(page.reduced(jpeg(224))).decode() in html


def test_equal_input_gives_equal_bytes(tmp_path):
    table = predictions(["a dog", "two dogs"], cider_d=[0.5, 1 / 3])
    summary = [Measure("CIDEr-D", 1 / 3, (0.25, 0.5))]
    once, again = (written(tmp_path, table, summary=summary, side=200) for _ in range(2))
    assert once == again
    in_chunks = pa.concat_tables([table[:1], table[1:]])
    assert written(tmp_path, in_chunks, summary=summary, side=200) == once
    assert b"\r" not in (tmp_path / "page.html").read_bytes()


@pytest.mark.parametrize("thumbnails", [1, 3])
def test_another_number_of_pictures_than_rows_leaves_no_page(tmp_path, thumbnails):
    with pytest.raises(ValueError):
        write_page(tmp_path / "page.html", predictions(["a", "b"]), [jpeg(8)] * thumbnails, "title")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium to run the page")
def test_the_script_searches_and_sorts_as_the_address_says(tmp_path):
    captions = ["a small dog", "A DOG and a woman", "a cat", "a dog and a man", "hotdogs and a man"]
    references = [["one"], ["two"], ["not a dog"], ["four"], ["five"]]
    table = predictions(captions, references, cider_d=[0.5, None, 3.0, 10.0, 2.0])
    written(tmp_path, table)

    def shown(fragment: str) -> list[str]:
        """The captions in sight, from the top."""
        options = (
            "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
            "--disable-background-networking --disable-component-update --dump-dom"
        )
        address = f"{(tmp_path / 'page.html').as_uri()}#{fragment}"
        command = ["chromium", *options.split(), f"--user-data-dir={tmp_path / 'profile'}", address]
        done = subprocess.run(
            command, capture_output=True, timeout=120, check=True, env=os.environ | {"LANG": "C"}
        )
        html = done.stdout.decode()
        assert '<div class="controls" id="controls" role="search">' in html
        hidden = ["hidden" in row for row in shown_rows(html)]
        pairs = zip(Reader(html).all("caption"), hidden, strict=True)
        result = [caption for caption, out_of_sight in pairs if not out_of_sight]
        assert f'<span id="count">{len(result)} of 5</span>' in html
        return result

    assert shown("") == captions
    assert shown("q=dog+a&sort=cider_d") == [captions[i] for i in (3, 2, 4, 0, 1)]
    assert shown("q=dog&only=1&sort=cider_d&order=up") == [captions[i] for i in (0, 4, 3, 1)]
    assert shown("q=%22a+dog%22+%22man%22&sort=words&order=down") == [captions[3]]
    assert shown("q=TEST-000002") == [captions[2]]
