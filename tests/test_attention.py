"""attention.py: the weights are those of the decoder's own steps; the strips show them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from captioner import attention
from captioner.attention import attention_weights, draw_strips
from captioner.decoding import Decoder
from captioner.drawing import MARGIN, Page
from captioner.gallery import Exhibit
from captioner.model import CaptionModel, ModelConfig
from captioner.overlay import GAP, STEP, TILE, overlay
from captioner.text import END, PAD, START, UNK


def build_model(cells: int) -> CaptionModel:
    """A random model with strong opinions: else all weights are about equal."""
    keras.utils.set_random_seed(6)
    config = ModelConfig(vocabulary=9, word_size=5, cells=cells, channels=6, units=8, heads=2)
    model = CaptionModel(config, np.random.default_rng(3).normal(size=(9, 5)))
    strong = (model.reader_words, model.reader_recurrent, model.reader_picture, model.query)
    strong += (model.speaker_inputs, model.cell_projection, model.keys, model.initial_state)
    for layer in strong:
        layer.kernel.assign(layer.kernel * 3)
    model.vocabulary_logits.kernel.assign(model.vocabulary_logits.kernel * 6)
    return model


@pytest.fixture(scope="module")
def model() -> CaptionModel:
    return build_model(cells=4)


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    return np.random.default_rng(4).normal(0, 3, (7, 4, 6)).astype(np.float16)


@pytest.fixture(scope="module")
def words(model, features) -> np.ndarray:
    """Greedy captions, of different lengths."""
    return Decoder(model, 1, 6, 0.7, batch_size=7)(features)[0]


def replay(model: CaptionModel, picture: np.ndarray, words: list[int]):
    """One picture, step by step: the weights of each word, and the likeliest word there."""
    memory, state = model.look(picture[None])
    weights, likeliest = [], []
    for place, last in enumerate([START, *words[:-1]]):
        read = tf.constant([[last]])
        _, _, seen = model.step(memory, state, read)
        log_probabilities, state = model.next_word(memory, state, read)
        scores = log_probabilities.numpy()[0, 0]
        scores[[PAD, START, UNK, *([END] if place == 0 else [])]] = -np.inf
        weights.append((seen.numpy()[0, 0, 0] + seen.numpy()[0, 1, 0]) / 2)  # of both heads
        likeliest.append(int(scores.argmax()))
    return np.array(weights), likeliest


def test_the_weights_are_those_with_which_greedy_decoding_chose_the_words(model, features, words):
    found = attention_weights(model, features, words)
    assert found.shape == (7, 6, 4) and found.dtype == np.float32
    lengths = (words != PAD).sum(1)
    assert len(set(lengths)) > 1
    for picture, length in enumerate(lengths):
        caption = words[picture, :length].tolist()
        expected, likeliest = replay(model, features[picture], caption)
        assert likeliest == caption  # so this is how the caption came to be
        np.testing.assert_allclose(found[picture, :length], expected, atol=1e-5)
    # None of this would tell a thing if all weights were equal.
    assert found[words != PAD].std() > 0.1


def test_weights_of_a_word_sum_to_one_and_padding_has_none(model, features, words):
    sums = attention_weights(model, features, words).sum(-1)
    np.testing.assert_allclose(sums, words != PAD, atol=1e-5)


def test_a_word_changes_what_is_looked_at_after_it_alone(model, features):
    caption = np.full((1, 5), 5, np.int32)
    other = caption.copy()
    other[0, 2] = 6
    found = [attention_weights(model, features[:1], each)[0] for each in (caption, other)]
    np.testing.assert_array_equal(found[0][:3], found[1][:3])
    assert np.abs(found[0][3:] - found[1][3:]).max(1).min() > 1e-4


def test_batch_is_single_and_padding_does_not_matter(model, features, words):
    together = attention_weights(model, features, words)
    in_batches = attention_weights(model, features, words, batch_size=3)  # 3, 3 and 1
    np.testing.assert_allclose(in_batches, together, atol=1e-5)
    wider = np.pad(words, ((0, 0), (0, 4)), constant_values=PAD)
    padded = attention_weights(model, features, wider)
    np.testing.assert_allclose(padded[:, :6], together, atol=1e-5)
    assert (padded[:, 6:] == 0).all()
    alone = attention_weights(model, features[2:3], words[2:3])
    np.testing.assert_allclose(alone[0], together[2], atol=1e-5)


def test_features_may_be_a_memory_map_and_there_may_be_none(model, features, words, tmp_path):
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    expected = attention_weights(model, features, words)
    np.testing.assert_array_equal(attention_weights(model, mapped, words), expected)
    assert attention_weights(model, features[:0], words[:0]).shape == (0, 6, 4)


def test_the_one_cell_of_pooled_features_has_all_weight():
    words = np.array([[5, 6, PAD]], np.int32)
    found = attention_weights(build_model(cells=1), np.ones((1, 1, 6), np.float16), words)
    np.testing.assert_array_equal(found[0, :, 0], [1, 1, 0])


WHITE = np.full((8, 8, 3), 255, np.uint8)


def exhibit(caption: str, score: str = "CIDEr-D 1.00") -> Exhibit:
    return Exhibit(0, WHITE, caption, [], score)


def corner(words: int, *weights: float) -> np.ndarray:
    """(1, words, 9): the weight of the upper left cell of 3 x 3, for each word; else 0."""
    weights_of = np.zeros((1, words, 9), np.float32)
    weights_of[0, : len(weights), 0] = weights
    return weights_of


@pytest.fixture
def pages(monkeypatch) -> list[Page]:
    """All pages that are saved."""
    saved, save = [], Page.save
    monkeypatch.setattr(Page, "save", lambda page, path: (saved.append(page), save(page, path)))
    return saved


def drawn(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert("RGB")).astype(int)


def test_a_picture_is_bright_where_the_weights_are_large():
    weights = np.zeros((3, 3))
    weights[0, 2] = 0.5
    for pixels in (WHITE, WHITE * 0):  # also what is black can be seen to be looked at
        seen = overlay(pixels, weights, largest=0.5).astype(int).sum(-1)
        assert seen.shape == (TILE, TILE)
        third = TILE // 3
        bright, dark = seen[: third // 2, -third // 2 :], seen[third:, :third]
        assert bright.min() > dark.max() + 150
        half = overlay(pixels, weights, largest=1.0).astype(int).sum(-1)
        assert dark.max() < half[: third // 2, -third // 2 :].mean() < bright.mean() - 50
    np.testing.assert_array_equal(overlay(WHITE, weights * 0, 0.0), overlay(WHITE, weights * 0, 1))


def test_a_strip_shows_the_picture_and_then_each_word_on_one_scale(tmp_path, pages):
    weights = corner(6, 0.2, 0.8, 0.4)
    draw_strips(tmp_path / "strips.png", [exhibit("a $red$ dog")], weights, "title")
    (page,) = pages
    texts = [text.get_text() for text in page.figure.texts]
    assert texts[0] == "title"
    assert texts[-7:] == ["a $red$ dog", "CIDEr-D 1.00", "0", "0.80", "a", "$red$", "dog"]
    assert not any(text.get_parse_math() for text in page.figure.texts)
    images = [axes.images[0].get_array() for axes in page.figure.axes]
    original, _, *tiles = images  # the second is the scale
    assert (original == 255).all()
    brightness = [tile[:20, :20].astype(int).sum(-1).mean() for tile in tiles]
    assert brightness[1] > brightness[2] + 50 > brightness[0] + 100
    # Word and tile stand one below the other.
    pixels = drawn(tmp_path / "strips.png")
    for axes, text in zip(page.figure.axes[2:], page.figure.texts[-3:], strict=True):
        left, bottom = axes.get_position().p0
        assert text.get_position()[0] == pytest.approx(left)
        row, column = round((1 - bottom) * len(pixels)), round(left * pixels.shape[1])
        assert (pixels[row - 10, column + 10 : column + 120] < 200).any(-1).all()


def test_long_captions_go_on_below(tmp_path):
    sizes = []
    for number in (3, attention.WORDS, attention.WORDS + 1, 3 * attention.WORDS):
        weights = np.full((1, number, 4), 0.25)
        draw_strips(tmp_path / "strips.png", [exhibit("of " * number)], weights, "title")
        sizes.append(drawn(tmp_path / "strips.png").shape)
    few, full, two_lines, three_lines = sizes
    assert few[1] < full[1] == two_lines[1] == three_lines[1]
    assert full[1] == pytest.approx(100 * (2 * MARGIN + (attention.WORDS + 1) * STEP - GAP), abs=2)
    assert two_lines[0] - full[0] == pytest.approx(100 * attention.LINE, abs=2)
    assert three_lines[0] - two_lines[0] == pytest.approx(100 * attention.LINE, abs=2)


@pytest.mark.filterwarnings("error")
def test_hostile_captions_stay_in_the_page_and_clear_of_each_other(tmp_path, pages):
    captions = ["", "$x^2$ \\frac{ <b>", "日本 🐕 كلب \u202e x", "W" * 300 + " a", "wide " * 22]
    exhibits = [exhibit(caption, caption) for caption in captions]
    draw_strips(tmp_path / "a.png", exhibits, np.full((5, 22, 4), 0.25), "very long " * 50)
    draw_strips(tmp_path / "b.png", exhibits, np.full((5, 22, 4), 0.25), "very long " * 50)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    pixels = drawn(tmp_path / "a.png")
    for border in (pixels[:25], pixels[-25:], pixels[:, :30], pixels[:, -30:]):
        assert (border == 255).all()
    texts = [text for text in pages[0].figure.texts if text.get_text().strip()]
    boxes = [text.get_window_extent() for text in texts]
    for number, box in enumerate(boxes):
        others = [other for other in boxes[number + 1 :] if box.overlaps(other)]
        assert not others, texts[number].get_text()


def test_no_strips_give_a_page_and_what_cannot_be_drawn_says_so(tmp_path):
    draw_strips(tmp_path / "strips.png", [], np.zeros((0, 5, 4)), "none")
    assert (drawn(tmp_path / "strips.png") < 128).any()
    for cells in (1, 6):
        with pytest.raises(ValueError, match=f"{cells} cells are no square grid"):
            draw_strips(tmp_path / "a.png", [exhibit("a")], np.zeros((1, 5, cells)), "title")
    with pytest.raises(ValueError, match="a caption of 3 words has weights of 2 words"):
        draw_strips(tmp_path / "a.png", [exhibit("a b c")], np.zeros((1, 2, 4)), "title")
    assert not (tmp_path / "a.png").exists()
