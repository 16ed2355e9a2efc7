"""figures.py: every number stands where it belongs, whatever the table; no text on another."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from PIL import Image

from captioner.drawing import Page
from captioner.figures import MEASURES, SYSTEMS, draw_by_length, draw_by_word, draw_scores

NAN = float("nan")
SCORES = pd.DataFrame(
    [
        ("model", "bleu_4", 0.21, 0.19, 0.23),
        ("nearest", "bleu_4", 0.14, 0.12, 0.17),
        ("constant", "bleu_4", 0.05, NAN, NAN),
        ("human", "bleu_4", 0.21, NAN, NAN),
        ("model", "cider_d", 0.52, 0.48, 0.56),
        ("human", "cider_d", 0.89, NAN, NAN),
        ("model", "rouge_l", 0.45, NAN, NAN),
        ("model", "bleu_1", 0.63, 0.61, 0.65),
    ],
    columns=["system", "measure", "score", "low", "high"],
)
LENGTHS = pd.DataFrame(
    {
        "words": ["1-4", "5-6", "7+"],
        "pictures": [3, 40, 17],
        "bleu_4": [NAN, 0.2, 0.3],
        "rouge_l": [0.4, 0.5, 0.45],
        "cider_d": [0.1, 1.2, 0.9],
    }
)
WORDS = pd.DataFrame(
    {
        "word": ["dog", "$x^2$", "man", "W" * 60],
        "pictures": [20, 50, 50, 7],
        "said": [18, 60, 40, 0],
        "recall": [0.5, 0.75, 0.25, 0.0],
        "precision": [0.6, 0.7, 0.4, NAN],
        "cider_d": [0.31, 0.32, 0.33, 0.34],
    }
)
FIGURES = [(draw_scores, SCORES), (draw_by_length, LENGTHS), (draw_by_word, WORDS)]


@pytest.fixture
def pages(monkeypatch) -> list[Page]:
    """All pages that are saved."""
    saved, save = [], Page.save
    monkeypatch.setattr(Page, "save", lambda page, path: (saved.append(page), save(page, path)))
    return saved


def texts_of(page: Page) -> list[Text]:
    """All that can be read; matplotlib has labels beyond the ends of an axis, which it hides."""
    hidden = {
        tick.label1
        for axes in page.figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.get_major_ticks()
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }
    texts = [text for text in page.figure.findobj(Text) if text.get_text().strip()]
    return [text for text in texts if text.get_visible() and text not in hidden]


def check_texts(page: Page) -> None:
    """All in the page, none on another."""
    texts = texts_of(page)
    renderer = page.figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in texts]
    for text, box in zip(texts, boxes, strict=True):
        assert page.figure.bbox.contains(*box.p0) and page.figure.bbox.contains(*box.p1), text
    for (one, box), (other, other_box) in combinations(zip(texts, boxes, strict=True), 2):
        width = min(box.x1, other_box.x1) - max(box.x0, other_box.x0)
        height = min(box.y1, other_box.y1) - max(box.y0, other_box.y0)
        assert min(width, height) < 1, (one, other)


def markers(axes) -> dict[str, list[tuple[float, float]]]:
    """The marks of a plot by their shape: (x, y) of those that are there."""
    found: dict[str, list[tuple[float, float]]] = {}
    for line in axes.lines:
        if line.get_marker() != "None":
            points = np.array(line.get_xydata(), float)
            found.setdefault(line.get_marker(), []).extend(
                map(tuple, points[np.isfinite(points).all(1)].tolist())
            )
    return found


def bars(axes) -> list[tuple[float, float]]:
    """The ends of the intervals, where there are any."""
    ends = [tuple(line.get_xdata()) for line in axes.lines if line.get_marker() == "None"]
    return sorted(end for end in ends if np.isfinite(end).all() and end != (0, 1))


def test_scores_stand_in_the_row_of_their_measure(tmp_path, pages):
    draw_scores(tmp_path / "scores.png", SCORES, "title")
    fractions, cider = pages[0].figure.axes
    rows = [label.get_text() for label in fractions.get_yticklabels()]
    assert rows == ["BLEU-1", "BLEU-4", "ROUGE-L"]  # in the order of the field, not of the table
    assert [label.get_text() for label in cider.get_yticklabels()] == ["CIDEr-D"]
    found = {
        (rows[round(y)], marker): x
        for marker, points in markers(fractions).items()
        for x, y in points
    }
    shape = {system: marker for system, (_, _, marker) in SYSTEMS.items()}
    assert found == {
        ("BLEU-1", shape["model"]): 0.63,
        ("BLEU-4", shape["model"]): 0.21,
        ("BLEU-4", shape["nearest"]): 0.14,
        ("BLEU-4", shape["constant"]): 0.05,
        ("BLEU-4", shape["human"]): 0.21,
        ("ROUGE-L", shape["model"]): 0.45,
    }
    heights = [y for points in markers(fractions).values() for _, y in points]
    assert len(set(heights)) == len(heights)  # equal scores do not hide each other
    assert bars(fractions) == [(0.12, 0.17), (0.19, 0.23), (0.61, 0.65)]
    assert {shape["model"], shape["human"]} == set(markers(cider))
    assert bars(cider) == [(0.48, 0.56)]
    assert cider.get_xlim()[1] > 0.89 and 0.65 < fractions.get_xlim()[1] <= 0.7
    numbers = [text.get_text() for text in fractions.texts]
    assert numbers == ["0.630  [0.610, 0.650]", "0.210  [0.190, 0.230]", "0.450"]
    legend = [text.get_text() for text in pages[0].figure.legends[0].get_texts()]
    assert legend == [name for name, *_ in SYSTEMS.values()]


def test_every_measure_and_every_system_has_its_place(tmp_path, pages):
    rows = [(s, m, 1.0, 0.0, 1.0) for s in SYSTEMS for m in MEASURES]
    draw_scores(tmp_path / "a.png", pd.DataFrame(rows, columns=SCORES.columns), "long " * 99)
    fractions, cider = pages[0].figure.axes
    assert {len(points) for points in markers(fractions).values()} == {len(MEASURES) - 1}
    assert {len(points) for points in markers(cider).values()} == {1}
    check_texts(pages[0])


def test_curves_by_length_are_the_columns_of_the_table(tmp_path, pages):
    draw_by_length(tmp_path / "lengths.png", LENGTHS, "title")
    fractions, cider, pictures = pages[0].figure.axes
    assert markers(fractions) == {
        "o": [(1, 0.2), (2, 0.3)],  # BLEU-4 has no first point
        "s": [(0, 0.4), (1, 0.5), (2, 0.45)],
    }
    assert markers(cider) == {"D": [(0, 0.1), (1, 1.2), (2, 0.9)]}
    assert [bar.get_height() for bar in pictures.patches] == [3, 40, 17]
    assert [label.get_text() for label in pictures.get_xticklabels()] == ["1-4", "5-6", "7+"]
    assert [axes.get_ylabel() for axes in pages[0].figure.axes] == [
        "fraction of 1",
        "CIDEr-D",
        "pictures",
    ]
    names = [text.get_text() for text in pages[0].figure.legends[0].get_texts()]
    assert names == ["BLEU-4", "ROUGE-L", "CIDEr-D"]


def test_words_are_sorted_by_pictures_and_have_bar_mark_and_numbers(tmp_path, pages):
    draw_by_word(tmp_path / "words.png", WORDS, "title")
    (axes,) = pages[0].figure.axes
    words = [label.get_text() for label in axes.get_yticklabels()]
    assert words[:3] == ["$x^2$", "man", "dog"]  # equally frequent ones as they come
    assert words[3].startswith("WWW") and words[3].endswith("…")
    assert [bar.get_width() for bar in axes.patches] == [0.75, 0.25, 0.5, 0.0]
    assert [round(bar.get_y() + bar.get_height() / 2, 6) for bar in axes.patches] == [0, 1, 2, 3]
    assert markers(axes) == {"D": [(0.7, 0), (0.4, 1), (0.6, 2)]}
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first one on top
    columns: dict[float, list[str]] = {}
    for text in axes.texts:
        columns.setdefault(text.get_position()[0], []).append(text.get_text())
    assert list(columns.values()) == [
        ["pictures", "50", "50", "20", "7"],
        ["captions", "60", "40", "18", "0"],
        ["CIDEr-D", "0.32", "0.33", "0.31", "0.34"],
    ]


def test_thirty_words_are_enough(tmp_path, pages):
    table = pd.concat([WORDS[:1].assign(word=f"w{i}", pictures=i) for i in range(40)])
    draw_by_word(tmp_path / "words.png", table, "title")
    words = [label.get_text() for label in pages[0].figure.axes[0].get_yticklabels()]
    assert words == [f"w{i}" for i in range(39, 9, -1)]
    check_texts(pages[0])


@pytest.mark.parametrize(("draw", "table"), FIGURES)
def test_texts_stay_clear_of_each_other_and_are_no_formulas(tmp_path, pages, draw, table):
    column = {"word": "word", "words": "words"}.get(next(iter(table)))
    if column:
        table = table.assign(**{column: ["$x^2$", "<b>", "\\frac{"] + ["$$"] * (len(table) - 3)})
    draw(tmp_path / "figure.png", table, "$\\alpha$ {title} " * 30)
    check_texts(pages[0])
    shown = [text for text in texts_of(pages[0]) if "$" in text.get_text()]
    assert len(shown) >= (2 if column is None else 3)
    assert not any(text.get_parse_math() for text in shown)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("draw", "table"), FIGURES)
def test_any_table_gives_a_figure(tmp_path, pages, draw, table):
    numbers = table.select_dtypes("number").columns
    tables = {
        "nothing": table[:0],
        "one": table[:1],
        "zeros": table.assign(**dict.fromkeys(numbers, 0)),
        "nan": table.assign(**dict.fromkeys(numbers, NAN)),
        "many": table if "system" in table else pd.concat([table] * 9),
        "strange": table.replace({"dog": "犬 🐕", "1-4": "كلب"}),
    }
    for name, content in tables.items():
        draw(tmp_path / f"{name}.png", content, name)
        with Image.open(tmp_path / f"{name}.png") as image:
            pixels = np.array(image.convert("RGB"))
        assert pixels.shape[1] == round(pages[-1].width * 100)
        assert (pixels < 128).any()
        check_texts(pages[-1])


@pytest.mark.parametrize(("draw", "table"), FIGURES)
def test_same_table_gives_the_same_bytes_and_is_left_as_it_was(tmp_path, draw, table):
    before = table.copy()
    for name in ("a", "b"):
        draw(tmp_path / f"{name}.png", table, "title")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert b"matplotlib" not in (tmp_path / "a.png").read_bytes()  # no version in it
    pd.testing.assert_frame_equal(table, before)
