"""The scores as figures: beside floor and ceiling, by length of caption, and word by word.

Colours are from the set of Okabe and Ito (2008, "Color Universal Design"), which all kinds of
colour vision tell apart; markers differ as well. A score that is NaN leaves its place empty.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from captioner.drawing import MARGIN, NOTE, TITLE, Page, Style, height_of

BLUE, SKY, ORANGE, GREEN = "#0072B2", "#a6cfe8", "#D55E00", "#009E73"
INK, GREY, LIGHT = "#222222", "#707070", "#dddddd"
SIZE = 10  # of the plots' texts, in points

# Name in a table: name in the figure, colour, marker. Systems from worst to best, as a rule.
SYSTEMS = {
    "constant": ("one caption for all (floor)", GREY, "v"),
    "nearest": ("caption of the nearest training picture", ORANGE, "s"),
    "model": ("the model", BLUE, "o"),
    "human": ("one person against the others", GREEN, "D"),
}
MEASURES = {
    "bleu_1": "BLEU-1",
    "bleu_2": "BLEU-2",
    "bleu_3": "BLEU-3",
    "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "meteor": "METEOR",
    "spice": "SPICE",
    "truthful": "truthful",
    "cider_d": "CIDEr-D",
}
CURVES = {
    "bleu_4": ("BLEU-4", BLUE, "o"),
    "rouge_l": ("ROUGE-L", ORANGE, "s"),
    "cider_d": ("CIDEr-D", GREEN, "D"),
}
MEASURE_ROW, WORD_ROW = 0.55, 0.27  # height of a row, in inches
LEGEND, AXIS = 0.4, 0.65  # room for a legend, and for what stands below a plot, in inches
MOST_WORDS = 30
WORD = Style(SIZE, INK)
WORD_NOTE = (
    "Recall: of the pictures that people describe with the word, the share that the model does. "
    "Precision: of the captions in which the model says it, the share where people do."
)


def draw_scores(path: Path | str, table: pd.DataFrame, title: str) -> None:
    """Draw the model's scores with their intervals beside floor, nearest picture and people.

    Args:
        path: of the PNG.
        table: columns system (of `SYSTEMS`), measure (of `MEASURES`), score, and low and high, the
            ends of the 95% interval, NaN where there is none. CIDEr-D has a panel and a scale of
            its own, the others are fractions of 1.
        title: one line or two.
    """
    measures = [measure for measure in MEASURES if (table["measure"] == measure).any()]
    systems = [system for system in SYSTEMS if (table["system"] == system).any()]
    panels = [
        ("fraction of 1", [measure for measure in measures if measure != "cider_d"]),
        ("CIDEr-D, at most 10", [measure for measure in measures if measure == "cider_d"]),
    ]
    panels = [(label, rows) for label, rows in panels if rows]
    page = Page(10)
    head = [
        page.broken(title, TITLE),
        page.broken("Marks are scores of all pictures, bars their 95% intervals.", NOTE),
    ]
    top = MARGIN + height_of(head)
    page.set_height(top + LEGEND + sum(MEASURE_ROW * len(rows) + AXIS for _, rows in panels))
    page.write(MARGIN, MARGIN, head)
    _legend(page, top, [SYSTEMS[system] for system in systems])
    top += LEGEND
    for label, rows in panels:
        axes = page.axes(1.2, top, 6.7, MEASURE_ROW * len(rows))
        _plain(axes, "x", label)
        _plot_systems(axes, table, rows, systems)
        top += MEASURE_ROW * len(rows) + AXIS
    page.save(path)


def _plot_systems(axes, table: pd.DataFrame, measures: list[str], systems: list[str]) -> None:
    """A row for each measure, in it a mark for each system; the model's numbers at the right."""
    table = table[table["measure"].isin(measures)]
    for row, measure in enumerate(measures):
        for order, system in enumerate(systems):
            found = table[(table["measure"] == measure) & (table["system"] == system)]
            for score, low, high in found[["score", "low", "high"]].astype(float).to_numpy():
                # One below the other in the row: equal scores must not hide each other.
                y = row + (order - (len(systems) - 1) / 2) * 0.2
                _, color, marker = SYSTEMS[system]
                size, line = (8, 2.5) if system == "model" else (6, 1.5)
                axes.plot([low, high], [y, y], color=color, linewidth=line, clip_on=False)
                axes.plot([score], [y], marker, color=color, markersize=size, clip_on=False)
                if system == "model" and np.isfinite(score):
                    interval = f"  [{low:.3f}, {high:.3f}]" if np.isfinite(low + high) else ""
                    _beside(axes, 1.03, row, f"{score:.3f}{interval}", color)
    for border in range(len(measures) - 1):
        axes.axhline(border + 0.5, color=LIGHT, linewidth=0.8)
    axes.set_ylim(len(measures) - 0.5, -0.5)
    axes.set_yticks(range(len(measures)), [MEASURES[measure] for measure in measures])
    axes.set_xlim(0, _upper_end(table[["score", "high"]]))


def draw_by_length(path: Path | str, table: pd.DataFrame, title: str) -> None:
    """Draw how the scores change with the length of the captions.

    Args:
        path: of the PNG.
        table: a row for each group of lengths, in order: words (its label, such as "5-6"),
            pictures (how many), bleu_4 and rouge_l (fractions of 1), cider_d.
        title: one line or two.
    """
    panels = [  # height in inches, label, columns
        (2.1, "fraction of 1", ["bleu_4", "rouge_l"]),
        (1.5, "CIDEr-D", ["cider_d"]),
        (1.0, "pictures", ["pictures"]),
    ]
    gap, left = 0.25, 1.05
    page = Page(8.5)
    head = [page.broken(title, TITLE)]
    top = MARGIN + height_of(head)
    page.set_height(top + LEGEND + sum(height + gap for height, *_ in panels) - gap + AXIS)
    page.write(MARGIN, MARGIN, head)
    _legend(page, top, list(CURVES.values()))
    top += LEGEND
    places = np.arange(len(table))
    for height, label, columns in panels:
        axes = page.axes(left, top, page.width - left - MARGIN, height)
        _plain(axes, "y", label)
        for column in columns:
            values = table[column].to_numpy(float)
            if column == "pictures":
                axes.bar(places, values, color=GREY, width=0.6)
                axes.yaxis.get_major_locator().set_params(integer=True)
            else:
                _, color, marker = CURVES[column]
                axes.plot(places, values, marker=marker, color=color, markersize=7, clip_on=False)
        axes.yaxis.set_label_coords(-0.085, 0.5)
        axes.set_ylim(0, _upper_end(table[columns]))
        axes.set_xlim(-0.6, max(len(table), 1) - 0.4)
        axes.set_xticks(places, [""] * len(places))
        top += height + gap
    every = max(1, -(-len(table) // 12))  # labels of more groups would touch each other
    axes.set_xticks(places[::every], table["words"].astype(str).iloc[::every], parse_math=False)
    axes.set_xlabel("length of the caption, in words", size=SIZE, color=INK)
    page.save(path)


def draw_by_word(path: Path | str, table: pd.DataFrame, title: str) -> None:
    """Draw how well the frequent words are said where they should be, and only there.

    Args:
        path: of the PNG.
        table: a row for each word: word, pictures (how many have it in a reference), said (how
            many captions have it), recall and precision (fractions of 1), cider_d (mean of the
            pictures that have it). Those of most pictures are shown, at most 30.
        title: one line or two.
    """
    table = table.sort_values("pictures", ascending=False, kind="stable").head(MOST_WORDS)
    left, width = 1.65, 4.7
    page = Page(9.5)
    head = [page.broken(title, TITLE), page.broken(WORD_NOTE, NOTE)]
    top = MARGIN + height_of(head)
    rows = np.arange(len(table))
    height = WORD_ROW * max(len(table), 1)
    page.set_height(top + LEGEND + 0.2 + height + AXIS)
    page.write(MARGIN, MARGIN, head)
    _legend(page, top, [("recall", SKY, "s"), ("precision", ORANGE, "D")])
    axes = page.axes(left, top + LEGEND + 0.2, width, height)
    _plain(axes, "x", "fraction of 1")
    axes.barh(rows, table["recall"].to_numpy(float), color=SKY, height=0.74)
    axes.plot(table["precision"].to_numpy(float), rows, "D", color=ORANGE, clip_on=False)
    words = [page.broken(str(word), WORD, left - MARGIN - 0.1)[1][0] for word in table["word"]]
    axes.set_yticks(rows, words, parse_math=False)
    axes.set_xlim(0, 1)
    axes.set_ylim(height / WORD_ROW - 0.5, -0.5)
    columns = [("pictures", "pictures", "{:.0f}"), ("said", "captions", "{:.0f}")]
    columns += [("cider_d", "CIDEr-D", "{:.2f}")]
    for number, (column, name, form) in enumerate(columns):
        right = 1.2 + 0.19 * number
        _beside(axes, right, -0.9, name, GREY, "right")
        for row, value in enumerate(table[column].to_numpy(float)):
            if np.isfinite(value):
                _beside(axes, right, row, form.format(value), INK, "right")
    page.save(path)


def _beside(axes, x: float, y: float, text: str, color: str, align: str = "left") -> None:
    """A text at the right of a plot: x in widths of the plot, y on its scale."""
    place = {"transform": axes.get_yaxis_transform(), "ha": align, "va": "center"}
    axes.text(x, y, text, size=SIZE, color=color, **place)


def _plain(axes, direction: str, label: str) -> None:
    """Axes without a box, light lines across the scale of that direction, and its name."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
    axes.grid(axis=direction, color=LIGHT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=SIZE, labelcolor=INK, length=0, pad=7)
    (axes.set_xlabel if direction == "x" else axes.set_ylabel)(label, size=SIZE, color=INK)


def _legend(page: Page, top: float, entries: Sequence[tuple[str, str, str]]) -> None:
    """A line of markers with their names: (name, colour, marker)."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="", markersize=7, label=name)
        for name, color, marker in entries
    ]
    page.figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=page.box(MARGIN, top + 0.08, 0, 0)[:2],
        ncols=max(1, len(handles)),
        frameon=False,
        fontsize=SIZE,
        borderpad=0,
        borderaxespad=0,
        handletextpad=0.2,
        columnspacing=1.5,
    )


def _upper_end(scores: pd.DataFrame) -> float:
    """Of a scale from 0 on that shows all these numbers, with some room."""
    values = scores.to_numpy(float)
    largest = values[np.isfinite(values)].max(initial=0)
    return float(largest) * 1.06 or 1.0
