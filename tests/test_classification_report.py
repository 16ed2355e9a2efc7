"""classification_report.py: what the figures show, and that nothing overlaps or is cut."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from captioner.classification import Classification
from captioner.classification_report import (
    MOST_CLASSES,
    MOST_MISTAKES,
    draw_confusion,
    write_classification_report,
)
from captioner.drawing import Page
from tests.test_figures import check_texts, texts_of

HISTORY = pd.DataFrame(
    {
        "epoch": [1, 2, 3],
        "loss": [0.15, 0.05, 0.04],
        "accuracy": [0.95, 0.98, 0.99],
        "test_loss": [0.06, 0.05, 0.05],
        "test_accuracy": [0.98, 0.983, 0.985],
    }
)
DIGITS = [str(digit) for digit in range(10)]


@pytest.fixture
def pages(monkeypatch) -> dict[str, Page]:
    """All pages that are saved, by the file's name."""
    saved, save = {}, Page.save
    monkeypatch.setattr(
        Page, "save", lambda page, path: (saved.update({Path(path).stem: page}), save(page, path))
    )
    return saved


def some(names: list[str], pictures: int, right: float) -> Classification:
    """Classes at random, so many of the answers right."""
    rng = np.random.default_rng(1)
    truth = rng.integers(0, len(names), pictures)
    answers = np.where(rng.random(pictures) < right, truth, rng.integers(0, len(names), pictures))
    logits = rng.random((pictures, len(names))) + 5 * np.eye(len(names))[answers]
    return Classification(names, truth, logits / logits.sum(axis=1, keepdims=True))


def report(folder: Path, found: Classification) -> None:
    pictures = np.random.default_rng(2).integers(0, 256, (len(found.truth), 8, 8, 3), np.uint8)
    ids = [f"test-{number}" for number in range(len(pictures))]
    write_classification_report(folder, "mnist", found, ids, lambda rows: pictures[rows], HISTORY)


NAMES = {
    "digits": DIGITS,
    "two": ["yes", "no"],
    "shoes": ["Sandals", "$x^2$ & <b>", "W" * 80, "Casual Shoes for Men", "靴"],
    "many": [f"class {number}" for number in range(33)],
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_all_texts_can_be_read_whatever_the_names(pages, tmp_path, names):
    report(tmp_path, some(names, 2000, 0.8))
    assert set(pages) == {"confusion", "mistakes", "training"}
    for name, page in pages.items():
        check_texts(page)
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.size[0] >= 600 and "Software" not in image.info
    names_on_both_sides = pages["confusion"].figure.axes[0].get_xticklabels()
    assert len(names_on_both_sides) == min(len(names), MOST_CLASSES)
    pictures = [axes for axes in pages["mistakes"].figure.axes if axes.images]
    assert len(pictures) == MOST_MISTAKES


def test_matrix_has_its_numbers_in_their_cells_and_no_zeros(pages, tmp_path):
    found = Classification(
        ["a", "b", "c"], np.array([0, 0, 0, 1, 1, 2]), np.eye(3)[[0, 1, 1, 1, 0, 2]]
    )
    draw_confusion(tmp_path / "confusion.png", found, "title")
    (axes,) = pages["confusion"].figure.axes
    cells = {
        text.get_position(): text.get_text() for text in axes.texts if text.get_text().isdigit()
    }
    assert cells == {(0, 0): "1", (1, 0): "2", (0, 1): "1", (1, 1): "1", (2, 2): "1"}
    assert [text.get_text() for text in axes.texts[-3:]] == ["0.333", "0.500", "1.000"]
    colours = axes.images[0].get_array()
    assert colours[0, 2].tolist() == [1, 1, 1]  # none
    assert colours[0, 1, 0] > colours[0, 1, 2] and colours[2, 2, 2] > colours[2, 2, 0]
    assert colours[1, 0, 2] > colours[0, 1, 2]  # one mistake is paler than two


def test_of_many_classes_the_most_confused_are_shown(pages, tmp_path):
    """25 classes, of which 0 to 4 are never confused with any."""
    truth = np.repeat(np.arange(25), 4)
    answers = truth.copy()
    answers[20::4] = np.roll(np.arange(5, 25), 1)
    names = [f"n{number}" for number in range(25)]
    draw_confusion(tmp_path / "c.png", Classification(names, truth, np.eye(25)[answers]), "title")
    labels = pages["c"].figure.axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == names[5:]
    assert any("20 most confused of 25" in text.get_text() for text in texts_of(pages["c"]))


def test_mistakes_are_shown_with_truth_answer_and_probability(pages, tmp_path):
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.02, 0.98]])
    report(tmp_path, Classification(["cat", "dog"], np.array([0, 0, 0]), probabilities))
    shown = [text.get_text() for text in texts_of(pages["mistakes"])][-4:]
    assert shown == ["said dog, 98.0%", "is cat", "said dog, 80.0%", "is cat"]
    for name, words in (("mistakes", "2 mistakes"), ("confusion", "33.33% of 3 test pictures")):
        assert any(words in text.get_text() for text in texts_of(pages[name]))


def test_no_mistake_at_all_is_no_problem(pages, tmp_path):
    report(tmp_path, Classification(["a", "b"], np.array([0, 1, 1]), np.eye(2)[[0, 1, 1]]))
    assert [text.get_text() for text in texts_of(pages["mistakes"])][1:] == ["None."]
    assert (tmp_path / "mistakes.csv").read_text() == "image_id,truth,answer,probability\n"


def test_curves_are_those_of_the_history(pages, tmp_path):
    report(tmp_path, some(DIGITS, 50, 0.9))
    loss, accuracy = pages["training"].figure.axes
    for axes, columns in ((loss, ("loss", "test_loss")), (accuracy, ("accuracy", "test_accuracy"))):
        assert [line.get_label() for line in axes.lines] == ["training", "test"]
        for line, column in zip(axes.lines, columns, strict=True):
            assert line.get_xdata().tolist() == [1, 2, 3]
            assert line.get_ydata().tolist() == HISTORY[column].tolist()


def test_equal_content_gives_equal_bytes(tmp_path):
    for name in ("a", "b"):
        report(tmp_path / name, some(DIGITS, 60, 0.7))
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert len(names) == 6
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
