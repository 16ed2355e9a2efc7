"""gallery.py: any captions, any number of pictures, equal bytes; texts stay within their column."""

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from captioner import gallery
from captioner.gallery import Exhibit, choose_exhibits, draw_gallery

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
    return [Exhibit(RED, f"caption {i}", ["one", "two"], "CIDEr-D 1.00") for i in range(number)]


def drawn(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert("RGB")).astype(int)


@pytest.mark.parametrize(
    ("number", "rows", "columns"), [(1, 1, 1), (4, 1, 4), (5, 2, 4), (13, 4, 4)]
)
def test_every_picture_is_shown_whole(tmp_path, number, rows, columns):
    draw_gallery(exhibits(number), tmp_path / "gallery.png", "title")
    pixels = drawn(tmp_path / "gallery.png")
    side = gallery.SIDE * gallery.DPI
    red = ((pixels[..., 0] > 200) & (pixels[..., 1:] < 60).all(-1)).sum()
    assert red == pytest.approx(number * side**2, rel=0.02)
    assert pixels.shape[1] == pytest.approx(
        100 * (columns * (gallery.SIDE + gallery.GAP) - gallery.GAP + 2 * gallery.MARGIN), abs=2
    )
    assert pixels.shape[0] > rows * side
    # Nothing touches the edge of the figure, so nothing is cut there.
    edge = round(gallery.MARGIN * gallery.DPI) - 6
    for border in (pixels[:edge], pixels[-edge:], pixels[:, :edge], pixels[:, -edge:]):
        assert (border == 255).all()


@pytest.mark.filterwarnings("error")
def test_hostile_captions_stay_in_their_column_and_clear_of_each_other(tmp_path):
    path = tmp_path / "gallery.png"
    shown = [Exhibit(RED, text, [text, "", text, text], text) for text in HOSTILE]
    draw_gallery(shown, path, HOSTILE[0] + " very long" * 99)
    pixels = drawn(path)
    # Below the title the gaps between the columns are white from top to bottom.
    top = round((gallery.MARGIN + 2 * gallery.TITLE.height + 0.2) * gallery.DPI)
    for column in (1, 2, 3):
        right = gallery.MARGIN + column * (gallery.SIDE + gallery.GAP)
        gap = slice(round((right - gallery.GAP + 0.06) * 100), round((right - 0.06) * 100))
        assert (pixels[top:, gap] == 255).all()
    assert (pixels[-25:] == 255).all() and (pixels[:, -25:] == 255).all()


def broken(text: str, style=gallery.REFERENCE) -> list[str]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    renderer = FigureCanvasAgg(Figure(dpi=gallery.DPI)).get_renderer()
    return gallery._broken(text, style, gallery.SIDE, renderer)


def test_lines_are_broken_between_words_and_the_rest_is_cut():
    assert broken("a red circle") == ["a red circle"]
    lines = broken("a small red circle left of a large blue star on a striped background")
    assert len(lines) == 2 and lines[1].startswith(gallery.REFERENCE.indent)
    text = " ".join(line.strip() for line in lines)
    assert text == "a small red circle left of a large blue star on a striped background"
    many = broken("word " * 100)
    assert len(many) == 3 and many[-1].endswith("word…") and "…" not in many[0]
    assert "".join(line.strip() for line in broken("x" * 60)) == "x" * 60
    assert broken("") == broken(" \n ") == [""]


def test_more_text_makes_a_higher_figure(tmp_path):
    for name, caption in (("short", "a"), ("long", "many words " * 9)):
        draw_gallery([Exhibit(RED, caption, ["a"], "1")], tmp_path / f"{name}.png", "t")
    higher = len(drawn(tmp_path / "long.png")) - len(drawn(tmp_path / "short.png"))
    assert higher == pytest.approx(3 * gallery.CAPTION.height * gallery.DPI, abs=2)


def test_same_exhibits_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        draw_gallery(exhibits(3), tmp_path / f"{name}.png", "title")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert b"matplotlib" not in (tmp_path / "a.png").read_bytes()  # no version in it


def test_the_choice_takes_each_prediction_with_its_own_picture(monkeypatch):
    def jpeg(number: int) -> bytes:
        stream = io.BytesIO()
        Image.new("RGB", (8, 8), (number * 10, 0, 0)).save(stream, "JPEG", quality=100)
        return stream.getvalue()

    monkeypatch.setattr(gallery, "jpegs", lambda folder: (jpeg(number) for number in range(20)))
    rows = np.arange(10, 20)
    predictions = pa.table(
        {
            "caption": [f"picture {row}" for row in rows],
            "references": [[f"reference {row}"] for row in rows],
            "cider_d": [row / 10 for row in rows],
        }
    )
    chosen = choose_exhibits("images", predictions, rows, 6, seed=1)
    assert len({exhibit.caption for exhibit in chosen}) == 6
    for exhibit in chosen:
        row = int(exhibit.caption.removeprefix("picture "))
        assert exhibit.references == [f"reference {row}"]
        assert exhibit.score == f"CIDEr-D {row / 10:.2f}"
        assert abs(int(exhibit.pixels[0, 0, 0]) - row * 10) <= 2

    def captions(number: int, seed: int) -> list[str]:
        return [e.caption for e in choose_exhibits("images", predictions, rows, number, seed)]

    assert captions(6, 1) == [exhibit.caption for exhibit in chosen] != captions(6, 2)
    assert captions(99, 1) == predictions["caption"].to_pylist()
