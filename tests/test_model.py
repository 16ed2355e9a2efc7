"""model.py: the captioning LSTM against numpy, teacher forcing against single steps, files."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from captioner import CaptionerError
from captioner.model import (
    CaptionModel,
    Dropout,
    ModelConfig,
    load_captioner,
    save_captioner,
)
from captioner.text import END, PAD, START

CONFIG = ModelConfig(vocabulary=10, word_size=6, cells=4, channels=5, units=8, attention_units=7)


@pytest.fixture(scope="module")
def model() -> CaptionModel:
    """All weights random and of a size at which every part matters."""
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(1)
    model = CaptionModel(CONFIG, rng.normal(size=(10, 6)))
    for weight in model.trainable_variables:
        scale = 1 / np.sqrt(weight.shape[0]) if len(weight.shape) == 2 else 0.3
        weight.assign(rng.normal(0, 2 * scale, weight.shape))
    return model


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    return np.random.default_rng(2).normal(size=(3, 4, 5)).astype(np.float16)


# Three pictures with two captions each; the last picture has one only.
TOKENS = np.array(
    [
        [[START, 4, 5, 6, END, PAD], [START, 7, END, PAD, PAD, PAD]],
        [[START, 9, 9, 3, 4, END], [START, 8, 4, END, PAD, PAD]],
        [[START, 5, END, PAD, PAD, PAD], [PAD] * 6],
    ],
    np.int32,
)


def logits_of(model, features, caption) -> np.ndarray:
    """The logits of one caption of one picture, nothing else in the batch: (words, vocabulary)."""
    caption = [word for word in caption if word != PAD]
    logits, targets = model.logits(features[None], np.array([[caption]], np.int32))
    assert targets.numpy().tolist() == caption[1:]
    return logits.numpy()


def numpy_logits(model, features, caption) -> tuple[np.ndarray, np.ndarray]:
    """The whole model once more, in float64, for one caption: logits and attention weights.

    Sources: Xu et al. 2015, section 3.1.2, but looking after reading (Luong et al. 2015) and
    with coverage (See et al. 2017, section 2.3);
    Hochreiter and Schmidhuber 1997 with forget gates.
    """

    def dense(name, x):
        kernel, *bias = (weight.astype(np.float64) for weight in getattr(model, name).get_weights())
        return x @ kernel + (bias[0] if bias else 0.0)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    words = model.words.get_weights()[0].astype(np.float64)
    cells = np.maximum(dense("cell_projection", features.astype(np.float64)), 0)
    cells = cells + model.cell_positions.get_weights()[0]
    state = np.tanh(dense("initial_state", cells.mean(0)))
    h, c = state[: CONFIG.units], state[CONFIG.units :]
    context, coverage, keys = cells.mean(0), np.zeros(len(cells)), dense("attention_keys", cells)
    rows, attention = [], []
    for word in caption[:-1]:
        projected = dense("word_projection", words[word])
        gates = dense("lstm_words", projected)
        gates = gates + dense("lstm_recurrent", np.concatenate([context, h]))
        i, f, g, o = gates.reshape(4, CONFIG.units)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        query = dense("attention_query", h)
        scores = np.array(
            [
                dense("attention_score", np.tanh(key + query + dense("attention_coverage", seen)))[
                    0
                ]
                for key, seen in zip(keys, coverage[:, None], strict=True)
            ]
        )
        weights = np.exp(scores) / np.exp(scores).sum()
        coverage = coverage + weights
        context = sum(weight * cell for weight, cell in zip(weights, cells, strict=True))
        output = np.tanh(dense("output_projection", np.concatenate([h, context, projected])))
        rows.append(dense("vocabulary_logits", output))
        attention.append(weights)
    return np.array(rows), np.array(attention)


def test_model_agrees_with_numpy(model, features):
    caption = [START, 4, 5, 9, 6, END]
    expected, _ = numpy_logits(model, features[0], caption)
    assert expected.std() > 0.5  # else agreeing would be easy
    np.testing.assert_allclose(logits_of(model, features[0], caption), expected, atol=1e-5)


def test_attention_agrees_with_numpy_and_sums_to_one(model, features):
    memory, state = model.look(features)
    gates = model.lstm_words(model.word_projection(model.words(tf.fill((3, 1), START))))
    (_, _, context, coverage), weights = model.step(memory, state, gates)
    np.testing.assert_array_equal(coverage, weights)  # nothing was looked at before
    for picture in range(3):
        _, expected = numpy_logits(model, features[picture], [START, END])
        np.testing.assert_allclose(weights[picture], expected, atol=1e-5)
    np.testing.assert_allclose(weights.numpy().sum(-1), 1, atol=1e-6)
    assert weights.numpy().max() > 0.3  # the cells are told apart
    np.testing.assert_allclose(context, weights.numpy() @ memory[0].numpy(), atol=1e-5)


def test_teacher_forcing_equals_single_steps(model, features):
    memory, state = model.look(features)
    state = tuple(tf.repeat(part, 2, axis=1) for part in state)
    for position in range(5):
        steps, state = model.next_word(memory, state, TOKENS[:, :, position])
        for picture, caption in np.argwhere(TOKENS[:, :, position + 1] != PAD):
            logits = logits_of(model, features[picture], TOKENS[picture, caption])
            np.testing.assert_allclose(
                steps[picture, caption], tf.nn.log_softmax(logits[position]), atol=1e-5
            )


def test_logits_are_those_of_the_real_words_picture_by_picture(model, features):
    logits, targets = model.logits(features, TOKENS)
    assert targets.numpy().tolist() == [4, 5, 6, END, 7, END, 9, 9, 3, 4, END, 8, 4, END, 5, END]
    alone = [
        logits_of(model, features[picture], caption)
        for picture, captions in enumerate(TOKENS)
        for caption in captions
        if caption.any()
    ]
    np.testing.assert_allclose(logits, np.concatenate(alone), atol=1e-5)


def test_more_padding_changes_nothing(model, features):
    expected, _ = model.logits(features, TOKENS)
    wide = np.pad(TOKENS, ((0, 0), (0, 1), (0, 3)), constant_values=PAD)
    logits, _ = model.logits(features, wide)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_order_of_pictures_is_the_order_of_outputs(model, features):
    order = [2, 0, 1]
    logits, targets = model.logits(features[order], TOKENS[order])
    expected, _ = model.logits(features, TOKENS)
    rows = np.split(np.arange(16), [6, 14])  # the words of each picture
    rows = np.concatenate([rows[picture] for picture in order])
    np.testing.assert_allclose(logits, expected.numpy()[rows], atol=1e-5)
    assert targets.numpy().tolist()[:2] == [5, END]


def test_position_of_a_cell_matters(model, features):
    caption = [START, 4, END]
    swapped = features[0][[1, 0, 2, 3]]
    difference = logits_of(model, features[0], caption) - logits_of(model, swapped, caption)
    assert abs(difference).max() > 1e-3


def test_start_of_training(features):
    """Word vectors are the given ones, the forget gate is open, all else closed."""
    vectors = np.random.default_rng(3).normal(size=(10, 6)).astype(np.float32)
    model = CaptionModel(CONFIG, vectors)
    np.testing.assert_array_equal(model.words.embeddings, vectors)
    np.testing.assert_array_equal(model.lstm_words.bias, np.repeat([0, 1, 0, 0], 8))


@pytest.mark.parametrize("same", [True, False])
def test_dropout_follows_its_seed(model, features, same):
    def dropped(seed):
        return model.logits(features, TOKENS, Dropout(0.5, tf.constant([7, seed])))[0].numpy()

    equal = np.array_equal(dropped(1), dropped(1 if same else 2))
    assert equal == same


def test_dropout_drops_its_share_and_keeps_the_mean():
    dropout = Dropout(0.3, tf.constant([1, 2]))
    ones = tf.ones((200, 200))
    first, second = dropout(ones).numpy(), dropout(ones).numpy()
    assert np.unique(first).tolist() == pytest.approx([0, 1 / 0.7])
    assert (first == 0).mean() == pytest.approx(0.3, abs=0.01)  # four standard deviations
    assert (first != second).mean() == pytest.approx(2 * 0.3 * 0.7, abs=0.01)  # another mask


def test_saved_twice_is_equal_bytes_and_loaded_is_equal_outputs(model, features, tmp_path):
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    save_captioner(model, folders[0])
    loaded = load_captioner(folders[0])
    save_captioner(loaded, folders[1])
    for name in ("config.json", "weights.weights.h5"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    assert loaded.config == CONFIG
    np.testing.assert_array_equal(
        loaded.logits(features, TOKENS)[0], model.logits(features, TOKENS)[0]
    )


def spoil_config(**changes):
    def spoil(folder):
        path = folder / "config.json"
        config = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))

    return spoil


def spoil_weights(change):
    def spoil(folder):
        path = folder / "weights.weights.h5"
        path.write_bytes(change(path.read_bytes()))

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda folder: (folder / "config.json").unlink(), id="no config"),
        pytest.param(lambda folder: (folder / "weights.weights.h5").unlink(), id="no weights"),
        pytest.param(lambda folder: (folder / "config.json").write_text("{"), id="no JSON"),
        pytest.param(lambda folder: (folder / "config.json").write_text("[1]"), id="no object"),
        pytest.param(spoil_config(units=None), id="key missing"),
        pytest.param(spoil_config(extra=1), id="key too many"),
        pytest.param(spoil_config(units=9), id="another size"),
        pytest.param(spoil_config(units="many"), id="no number"),
        pytest.param(spoil_weights(lambda good: b""), id="empty"),
        pytest.param(spoil_weights(lambda good: good[: len(good) // 2]), id="cut"),
        pytest.param(spoil_weights(lambda good: good[:-1]), id="last byte"),
        # The first tree of the file's groups: h5py answers with a RuntimeError.
        pytest.param(spoil_weights(lambda good: good.replace(b"TREE", b"EERT")), id="tree"),
    ],
)
def test_damaged_folder_is_one_line_that_names_it(model, tmp_path, spoil):
    save_captioner(model, tmp_path)
    spoil(tmp_path)
    with pytest.raises(CaptionerError) as caught:
        load_captioner(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: no usable captioner (")
    assert message.endswith("run the train stage")
    assert "\n" not in message
