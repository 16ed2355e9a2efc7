"""A classifier in tables and figures: what it takes for what, its worst mistakes, how it learnt.

Blue is right and training, orange wrong and test (see `figures` on the colours). Numbers stand in
the cells of the matrix, since hues alone cannot tell one mistake from three.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from captioner.classification import Classification, rates, write_tables
from captioner.drawing import DPI, MARGIN, NOTE, TITLE, Page, Style, height_of, pillow_font
from captioner.figures import BLUE, GREY, INK, LIGHT, ORANGE, SIZE

CELL = 0.5  # side of a cell of the matrix, in inches
MOST_CLASSES = 20  # of a readable matrix
NAME = Style(SIZE, INK)
NAME_WIDTH = 1.6  # of a class's name, in inches
MATRIX_NOTE = (
    "Rows are the truth, columns the answers, numbers are pictures. Blue is right, orange wrong: "
    "the darker, the more frequent."
)

COLUMNS, SIDE, GAP = 6, 1.45, 0.25  # pictures a row; of a picture and between them, in inches
MOST_MISTAKES = 24
ANSWER = Style(10, ORANGE, "bold", lines=2)
TRUTH = Style(9.5, INK, lines=2)


def write_classification_report(
    folder: Path,
    dataset: str,
    found: Classification,
    image_ids: Sequence[str],
    decode: Callable[[np.ndarray], np.ndarray],
    history: pd.DataFrame,
) -> None:
    """Write the tables of `classification` and confusion.png, mistakes.png and training.png.

    Args:
        folder: for the files.
        dataset: its name, for the titles.
        found: truth and answers of the test pictures.
        image_ids: of the same pictures.
        decode: places among them (n,) to pictures (n, size, size, 3) uint8; n is never 0.
        history: as for `draw_training`.
    """
    write_tables(folder, image_ids, found)
    pictures, wrong = len(found.truth), found.mistakes
    right = f"{found.accuracy:.2%} of {pictures:,} test pictures right"
    draw_confusion(folder / "confusion.png", found, f"{dataset}: {right}")
    shown = decode(wrong[:MOST_MISTAKES]) if len(wrong) else ()
    title = f"{dataset}: the most confident of {len(wrong):,} mistakes"
    draw_mistakes(folder / "mistakes.png", found, shown, title)
    draw_training(folder / "training.png", history, f"{dataset}: training of the classifier")


def draw_confusion(path: Path | str, found: Classification, title: str) -> None:
    """Draw the confusion matrix with each class's recall; of many classes the most confused.

    Args:
        path: of the PNG.
        found: truth and answers.
        title: one line or two.
    """
    confusion = found.confusion
    mistakes = confusion * (1 - np.eye(len(confusion), dtype=int))
    confused = np.argsort(-(mistakes.sum(axis=0) + mistakes.sum(axis=1)), kind="stable")
    shown = np.sort(confused[:MOST_CLASSES])
    recall = rates(confusion)[0][shown]
    confusion, mistakes = (matrix[np.ix_(shown, shown)] for matrix in (confusion, mistakes))
    note = MATRIX_NOTE
    if len(shown) < len(found.names):
        note += f" The {len(shown)} most confused of {len(found.names)} classes."

    side = CELL * len(shown)
    names, width = _names(Page(1), [found.names[number] for number in shown])
    left = MARGIN + width + 0.15
    page = Page(max(left + side + 1.1, 6.5))
    head = [page.broken(title, TITLE), page.broken(note, NOTE)]
    # Names that are wider than a cell stand upright below the matrix.
    upright = width > CELL - 0.1
    top = MARGIN + height_of(head) + 0.4
    page.set_height(top + side + (width if upright else 0.25) + 0.2 + MARGIN)
    page.write(MARGIN, MARGIN, head)
    axes = page.axes(left, top, side, side)
    axes.imshow(_colours(confusion, mistakes, recall), interpolation="nearest")
    for row, column in zip(*np.nonzero(confusion), strict=True):
        share = recall[row] if row == column else confusion[row, column] / mistakes.max()
        look = {"ha": "center", "va": "center", "size": 9}
        color = "white" if share > 0.7 else INK
        axes.text(column, row, str(confusion[row, column]), color=color, **look)
    beside = {"transform": axes.get_yaxis_transform(), "va": "center", "size": SIZE}
    axes.text(1 + 0.12 / side, -0.85, "recall", color=GREY, **beside)
    for row, value in enumerate(recall):
        text = f"{value:.3f}" if np.isfinite(value) else "-"
        axes.text(1 + 0.12 / side, row, text, color=INK, **beside)
    places = np.arange(len(shown))
    axes.set_xticks(places, names, rotation=90 if upright else 0, parse_math=False)
    axes.set_yticks(places, names, parse_math=False)
    axes.set_xticks(places[1:] - 0.5, minor=True)
    axes.set_yticks(places[1:] - 0.5, minor=True)
    axes.grid(which="minor", color=LIGHT, linewidth=0.8)
    axes.tick_params(which="both", length=0, labelsize=SIZE, labelcolor=INK)
    for spine in axes.spines.values():
        spine.set_color(LIGHT)
    page.save(path)


def _names(page: Page, names: Sequence[str]) -> tuple[list[str], float]:
    """Names cut to `NAME_WIDTH`, and the width of the widest, in inches."""
    font = pillow_font(math.ceil(NAME.size * DPI / 72))
    lines = [page.broken(name, NAME, NAME_WIDTH)[1][0] for name in names]
    return lines, max(map(font.getlength, lines)) / DPI


def _colours(confusion: np.ndarray, mistakes: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """(classes, classes, 3) colours, 0 to 1: white to blue by recall, to orange by mistakes."""
    from matplotlib.colors import to_rgb

    shares = mistakes / max(1, mistakes.max())
    colours = 1 - shares[..., None] * (1 - np.array(to_rgb(ORANGE)))
    diagonal = np.arange(len(confusion))
    colours[diagonal, diagonal] = 1 - np.nan_to_num(recall)[:, None] * (1 - np.array(to_rgb(BLUE)))
    return colours


def draw_mistakes(
    path: Path | str, found: Classification, pictures: Sequence[np.ndarray], title: str
) -> None:
    """Draw the most confident mistakes.

    Args:
        path: of the PNG.
        found: truth and answers.
        pictures: (n, size, size, 3) uint8 of the first n of `found.mistakes`; n may be 0.
        title: one line or two.
    """
    page = Page(COLUMNS * (SIDE + GAP) - GAP + 2 * MARGIN)
    note = "The wrong answers of which the classifier was most certain, with their probability."
    head = [page.broken(title, TITLE), page.broken(note if len(pictures) else "None.", NOTE)]
    answers = found.answers
    texts = []
    for place in found.mistakes[: len(pictures)]:
        answer, truth = found.names[answers[place]], found.names[found.truth[place]]
        said = f"said {answer}, {found.probabilities[place].max():.1%}"
        texts.append([page.broken(said, ANSWER, SIDE), page.broken(f"is {truth}", TRUTH, SIDE)])
    rows = [range(len(texts))[start : start + COLUMNS] for start in range(0, len(texts), COLUMNS)]
    heights = [SIDE + max(height_of(texts[place]) for place in row) + GAP for row in rows]
    top = MARGIN + height_of(head) + 0.15
    page.set_height(top + sum(heights) + MARGIN)
    page.write(MARGIN, MARGIN, head)
    for row, height in zip(rows, heights, strict=True):
        for column, place in enumerate(row):
            left = MARGIN + column * (SIDE + GAP)
            page.picture(left, top, SIDE, pictures[place])
            page.write(left, top + SIDE, texts[place])
        top += height
    page.save(path)


def draw_training(path: Path | str, history: pd.DataFrame, title: str) -> None:
    """Draw loss and accuracy by epoch.

    Args:
        path: of the PNG.
        history: a row for each epoch: epoch, loss and test_loss (nats a picture), accuracy and
            test_accuracy (fractions of 1).
        title: one line or two.
    """
    from matplotlib.ticker import MaxNLocator

    page = Page(9)
    note = "Training: the mean while the epoch went on. Test: after it, only looked at."
    head = [page.broken(title, TITLE), page.broken(note, NOTE)]
    top = MARGIN + height_of(head) + 0.4
    page.set_height(top + 2.6 + 0.65)
    page.write(MARGIN, MARGIN, head)
    for number, (column, label) in enumerate(
        (("loss", "cross-entropy a picture (nats)"), ("accuracy", "share of right answers"))
    ):
        axes = page.axes(1.05 + 4.3 * number, top, 3.3, 2.6)
        for prefix, name, color, marker in (
            ("", "training", BLUE, "o"),
            ("test_", "test", ORANGE, "s"),
        ):
            values = history[prefix + column].to_numpy(float)
            axes.plot(history["epoch"], values, color=color, marker=marker, label=name)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(GREY)
        axes.grid(axis="y", color=LIGHT, linewidth=0.8)
        axes.tick_params(labelsize=SIZE, labelcolor=INK, length=0, pad=7)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch", size=SIZE, color=INK)
        axes.set_ylabel(label, size=SIZE, color=INK)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=SIZE)
    page.save(path)
