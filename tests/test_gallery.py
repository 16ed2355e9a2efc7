"""gallery.py and drawing.py: the right pictures, any captions, texts within their column."""

import io
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from captioner import drawing, gallery
from captioner.drawing import Page
from captioner.gallery import Exhibit, choose, choose_exhibits, draw_gallery

RED = np.full((8, 8, 3), (255, 0, 0), np.uint8)
HOSTILE = [
    "$x^2$ and $\\frac",
    "\\alpha \\n \\ end\\",
    "<b>bold</b> & co",
    "a\nb\tc\r\nd\x00e\x1b[31m",
    "a dog 🐕 日本 \u202e",
    "x" * 2000,
    "",
    " ",
    "word " * 400,
    "W" * 300,
]


def exhibits(number: int) -> list[Exhibit]:
    return [Exhibit(i, RED, f"caption {i}", ["one", "two"], "CIDEr-D 1.00") for i in range(number)]


def drawn(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert("RGB")).astype(int)


@pytest.mark.parametrize(
    ("number", "rows", "columns"), [(1, 1, 1), (4, 1, 4), (5, 2, 4), (13, 4, 4)]
)
def test_every_picture_is_shown_whole(tmp_path, number, rows, columns):
    draw_gallery(tmp_path / "gallery.png", exhibits(number), "title")
    pixels = drawn(tmp_path / "gallery.png")
    side = gallery.SIDE * drawing.DPI
    red = ((pixels[..., 0] > 200) & (pixels[..., 1:] < 60).all(-1)).sum()
    assert red == pytest.approx(number * side**2, rel=0.02)
    assert pixels.shape[1] == pytest.approx(
        100 * (columns * (gallery.SIDE + gallery.GAP) - gallery.GAP + 2 * drawing.MARGIN), abs=2
    )
    assert pixels.shape[0] > rows * side
    # Nothing touches the edge of the figure, so nothing is cut there.
    edge = round(drawing.MARGIN * drawing.DPI) - 6
    for border in (pixels[:edge], pixels[-edge:], pixels[:, :edge], pixels[:, -edge:]):
        assert (border == 255).all()


@pytest.mark.filterwarnings("error")
def test_hostile_captions_stay_in_their_column_and_clear_of_each_other(tmp_path):
    path = tmp_path / "gallery.png"
    shown = [Exhibit(0, RED, text, [text, "", text, text], text, text) for text in HOSTILE]
    draw_gallery(path, shown, HOSTILE[0] + " very long" * 99)
    pixels = drawn(path)
    # Below title and note the gaps between the columns are white from top to bottom.
    head = 2 * drawing.TITLE.height + drawing.NOTE.height + 0.3
    top = round((drawing.MARGIN + head) * drawing.DPI)
    for column in (1, 2, 3):
        right = drawing.MARGIN + column * (gallery.SIDE + gallery.GAP)
        gap = slice(round((right - gallery.GAP + 0.06) * 100), round((right - 0.06) * 100))
        assert (pixels[top:, gap] == 255).all()
    assert (pixels[-25:] == 255).all() and (pixels[:, -25:] == 255).all()


def broken(text: str) -> list[str]:
    style, lines = Page(5).broken(text, gallery.REFERENCE, gallery.SIDE)
    assert style == gallery.REFERENCE
    return lines


def test_lines_are_broken_between_words_and_the_rest_is_cut():
    assert broken("a red circle") == ["a red circle"]
    lines = broken("a small red circle left of a large blue star on a striped background")
    assert len(lines) == 2 and lines[1].startswith(gallery.REFERENCE.indent)
    text = " ".join(line.strip() for line in lines)
    assert text == "a small red circle left of a large blue star on a striped background"
    many = broken("word " * 100)
    assert len(many) == 3 and many[-1].endswith("word…") and "…" not in many[0]
    assert "".join(line.strip() for line in broken("x" * 60)) == "x" * 60
    chinese = broken("–  " + "字" * 40)  # no line with the dash alone
    assert chinese[0].startswith("–  字字字") and "".join(map(str.strip, chinese))[3:] == "字" * 40
    assert broken("") == broken(" \n ") == [""]


def test_a_full_stop_stands_with_its_word():
    captions = [f"a small red circle left of {'i' * number} ." for number in range(60)]
    counts = {len(broken(caption)) for caption in captions}
    assert counts == {1, 2}
    assert all(broken(caption)[-1].strip() != "." for caption in captions)


def test_a_text_may_be_as_wide_as_the_page_without_its_margins():
    wide, narrow = (Page(width).broken("word " * 99, drawing.TITLE)[1] for width in (12, 6))
    assert len(wide) == len(narrow) == drawing.TITLE.lines
    assert len(wide[0]) > 1.9 * len(narrow[0])
    assert Page(0.71).broken("word", drawing.SCORE)[1] == ["…"]  # no room for a letter


def test_more_text_makes_a_higher_figure(tmp_path):
    for name, caption in (("short", "a"), ("long", "many words " * 9)):
        draw_gallery(tmp_path / f"{name}.png", [Exhibit(0, RED, caption, ["a"], "1")], "t")
    higher = len(drawn(tmp_path / "long.png")) - len(drawn(tmp_path / "short.png"))
    assert higher == pytest.approx(3 * drawing.CAPTION.height * drawing.DPI, abs=2)


def test_the_nearest_picture_has_a_line_where_it_is_known(tmp_path, monkeypatch):
    pages = []
    monkeypatch.setattr(Page, "save", lambda page, path: pages.append(page))
    known = Exhibit(0, RED, "a caption", ["r1", "r2", "r3", "r4"], "CIDEr-D 1.00", "a red square")
    for nearest in ("a red square", None):
        draw_gallery(tmp_path / "gallery.png", [replace(known, nearest=nearest)], "title")
    texts = [[text.get_text() for text in page.figure.texts] for page in pages]
    common = ["title", "a caption", "CIDEr-D 1.00", "–  r1", "–  r2", "–  r3"]
    assert texts == [[*common, "nearest training picture: a red square"], common]
    assert pages[0].figure.texts[-1].get_color() == gallery.NEAREST.color
    assert not any(text.get_parse_math() for text in pages[0].figure.texts)


@pytest.mark.parametrize(
    ("reference", "boxes"),
    [
        ("a dog, café cafe\u0301, Ένας σκύλος, Чёрная собака, كلب أسود, –", False),
        ("一只黑狗", True),
        ("a dog 🐕", True),
    ],
)
def test_a_line_says_what_the_font_lacks(tmp_path, monkeypatch, reference, boxes):
    pages = []
    monkeypatch.setattr(Page, "save", lambda page, path: pages.append(page))
    shown = [Exhibit(0, RED, "a caption", ["a", reference], "CIDEr-D 1.00")] * 3
    draw_gallery(tmp_path / "gallery.png", shown, "title")
    texts = [text.get_text() for text in pages[0].figure.texts]
    assert texts[:2] == (["title", gallery.BOXES] if boxes else ["title", "a caption"])
    assert f"–  {reference[:4]}" in "".join(texts)


def test_the_font_for_pillow_has_the_letters_of_many_scripts():
    font = drawing.pillow_font(10)
    box = bytes(font.getmask("\U0010fffd"))
    for letter in "AéΩσЖя\u0639\u05d0":
        assert any(font.getmask(letter)) and bytes(font.getmask(letter)) != box
    assert bytes(font.getmask("字")) == box  # what there is no letter for is a box, not nothing


def test_same_exhibits_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        draw_gallery(tmp_path / f"{name}.png", exhibits(3), "title")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert b"matplotlib" not in (tmp_path / "a.png").read_bytes()  # no version in it


def test_a_gallery_of_nothing_is_its_title(tmp_path):
    draw_gallery(tmp_path / "gallery.png", [], "none")
    assert (drawn(tmp_path / "gallery.png") < 128).any()


def test_best_and_worst_take_ties_in_the_order_of_the_rows():
    cider_d = np.array([0.5, 2.0, 0.0, 2.0, 0.5, 0.0])
    assert choose(cider_d, "best", 3, seed=1).tolist() == [1, 3, 0]
    assert choose(cider_d, "worst", 3, seed=1).tolist() == [2, 5, 0]
    assert choose(cider_d, "best", 9, seed=1).tolist() == [1, 3, 0, 4, 2, 5]
    with pytest.raises(ValueError, match="'nicest': expected best, worst, random"):
        choose(cider_d, "nicest", 3, seed=1)


def test_the_random_choice_follows_the_seed():
    some = {seed: choose(np.zeros(100), "random", 6, seed).tolist() for seed in (1, 2)}
    assert some[1] == choose(np.arange(100.0), "random", 6, 1).tolist() != some[2]
    assert some[1] == sorted(set(some[1])) and len(some[1]) == 6
    assert choose(np.zeros(4), "random", 99, 1).tolist() == [0, 1, 2, 3]


def jpeg(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (number * 10, 0, 0)).save(stream, "JPEG", quality=100)
    return stream.getvalue()


@pytest.mark.parametrize("nearest", [True, False])
def test_each_prediction_has_its_own_picture_and_all_come_in_one_pass(monkeypatch, nearest):
    passes = []

    def jpegs(folder):
        passes.append(folder)
        return (jpeg(number) for number in range(20))

    monkeypatch.setattr(gallery, "jpegs", jpegs)
    rows = np.arange(10, 20)
    columns = {
        "caption": [f"picture {row}" for row in rows],
        "references": [[f"reference {row}"] for row in rows],
        "cider_d": [row / 10 for row in rows],
    }
    if nearest:
        columns["nearest_caption"] = [None, *(f"near {row}" for row in rows[1:])]
    chosen = choose_exhibits("images", pa.table(columns), rows, 4, seed=1)
    assert passes == ["images"]
    assert list(chosen) == ["best", "worst", "random"]
    assert [exhibit.place for exhibit in chosen["best"]] == [9, 8, 7, 6]
    assert [exhibit.place for exhibit in chosen["worst"]] == [0, 1, 2, 3]
    assert len({exhibit.place for exhibit in chosen["random"]}) == 4
    for exhibit in (exhibit for exhibits in chosen.values() for exhibit in exhibits):
        row = rows[exhibit.place]
        assert exhibit.caption == f"picture {row}"
        assert exhibit.references == [f"reference {row}"]
        assert exhibit.score == f"CIDEr-D {row / 10:.2f}"
        assert exhibit.nearest == (f"near {row}" if nearest and row > 10 else None)
        assert abs(int(exhibit.pixels[0, 0, 0]) - row * 10) <= 2
