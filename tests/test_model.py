"""model.py: the captioning LSTM against numpy, teacher forcing against single steps, files."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from captioner import CaptionerError
from captioner.cross_entropy import features_signature
from captioner.graph import graph_function
from captioner.model import (
    CaptionModel,
    Dropout,
    ModelConfig,
    load_captioner,
    save_captioner,
)
from captioner.packing import SIGNATURE, Packed, pack
from captioner.text import END, PAD, START

CONFIG = ModelConfig(vocabulary=10, word_size=6, cells=4, channels=5, units=8, heads=2)


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
def logits(model):
    """Teacher forcing, compiled once for all captions: it may not run otherwise."""

    def logits(features, captions):
        return model.logits(features, captions)

    return graph_function(logits, input_signature=[features_signature(model), SIGNATURE])


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


def by_caption(values, packed: Packed) -> dict[int, np.ndarray]:
    """Packed (tokens, ...) as (words, ...) of each caption, by its place."""
    values = np.asarray(values)
    first = np.cumsum(packed.counts) - packed.counts
    return {
        int(caption): values[first[packed.counts > row] + row]
        for row, caption in enumerate(packed.captions)
    }


def numpy_steps(model, features, caption) -> list[np.ndarray]:
    """The whole model once more, in float64, for one caption of one picture.

    Sources: Anderson et al. 2018, section 3.2, without what flows back from the second LSTM;
    Vaswani et al. 2017, section 3.2; Hochreiter and Schmidhuber 1997 with forget gates.

    Returns:
        for each word read: logits (words, vocabulary), attention weights (words, heads, cells),
        outputs (words, 2 units + 256) and states (words, 4, units).
    """

    def dense(name, x):
        kernel, *bias = (weight.astype(np.float64) for weight in getattr(model, name).get_weights())
        return x @ kernel + (bias[0] if bias else 0.0)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def lstm(gates, c):
        i, f, o, g = gates.reshape(4, CONFIG.units)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c

    words = model.words.get_weights()[0].astype(np.float64)
    cells = np.maximum(dense("cell_projection", features.astype(np.float64)), 0)
    mean = cells.mean(0)
    cells = cells + model.cell_positions.get_weights()[0]
    keys = dense("keys", cells)
    reader_h, reader_c = np.tanh(dense("initial_state", mean)).reshape(2, CONFIG.units)
    speaker_h, speaker_c = np.zeros((2, CONFIG.units))
    size = CONFIG.units // CONFIG.heads
    found = []
    for word in caption[:-1]:
        projected = dense("word_projection", words[word])
        gates = dense("reader_words", projected) + dense("reader_picture", mean)
        reader_h, reader_c = lstm(gates + dense("reader_recurrent", reader_h), reader_c)
        query, context, weights = dense("query", reader_h), [], []
        for head in range(CONFIG.heads):
            own = slice(head * size, (head + 1) * size)
            scores = np.exp([key @ query[own] / np.sqrt(size) for key in keys[:, own]])
            weights.append(scores / scores.sum())
            context.append(weights[-1] @ cells[:, own])
        gates = dense("speaker_inputs", np.concatenate([*context, reader_h]))
        speaker_h, speaker_c = lstm(gates + dense("speaker_recurrent", speaker_h), speaker_c)
        outputs = np.concatenate([speaker_h, *context, projected])
        logits = dense("vocabulary_logits", np.tanh(dense("output_projection", outputs)))
        found.append((logits, weights, outputs, (reader_h, reader_c, speaker_h, speaker_c)))
    return [np.array(part) for part in zip(*found, strict=True)]


def test_logits_agree_with_numpy_caption_by_caption(model, logits, features):
    packed = pack(TOKENS)
    found = by_caption(logits(features, packed), packed)
    assert sorted(found) == [0, 1, 2, 3, 4]  # the last picture has one caption only
    for place, rows in found.items():
        caption = [word for word in TOKENS.reshape(6, 6)[place] if word != PAD]
        expected, *_ = numpy_steps(model, features[place // 2], caption)
        assert expected.std() > 0.5  # else agreeing would be easy
        np.testing.assert_allclose(rows, expected, atol=2e-5)


def test_steps_agree_with_numpy_and_each_head_has_weights_of_its_own(model, features):
    """Two captions of each picture, which never touch each other."""
    captions = np.array([[[START, 4, 5, 9], [START, 6, 6, 7]]] * 3)
    memory, state = model.look(features)
    state = tuple(tf.repeat(part, 2, axis=1) for part in state)
    expected = [
        [numpy_steps(model, features[picture], [*caption, END]) for caption in captions[picture]]
        for picture in range(3)
    ]
    for t in range(4):
        said, following = model.next_word(memory, state, captions[:, :, t])
        state, outputs, weights = model.step(memory, state, captions[:, :, t])
        for ours, theirs in zip(following, state, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert weights.shape == (3, 2, 2, 4)
        np.testing.assert_allclose(weights.numpy().sum(-1), 1, atol=1e-6)
        assert np.abs(weights[:, 0] - weights[:, 1]).max() > 0.1
        for place in np.ndindex(3, 2):
            picture, caption = place
            logits, looked, read, states = (part[t] for part in expected[picture][caption])
            probabilities = np.exp(logits) / np.exp(logits).sum()
            np.testing.assert_allclose(np.exp(said[place]), probabilities, atol=1e-5)
            np.testing.assert_allclose(weights[picture, :, caption], looked, atol=1e-5)
            np.testing.assert_allclose(outputs[place], read, atol=1e-5)
            np.testing.assert_allclose([part[place] for part in state], states, atol=1e-5)


def test_teacher_forcing_equals_single_steps(model, logits, features):
    packed = pack(TOKENS)
    forced = by_caption(tf.nn.log_softmax(logits(features, packed)), packed)
    memory, state = model.look(features)
    state = tuple(tf.repeat(part, 2, axis=1) for part in state)
    for position in range(5):
        steps, state = model.next_word(memory, state, TOKENS[:, :, position])
        for picture, caption in np.argwhere(TOKENS[:, :, position + 1] != PAD):
            expected = forced[2 * picture + caption][position]
            np.testing.assert_allclose(steps[picture, caption], expected, atol=1e-5)


def test_gradients_of_teacher_forcing_are_those_of_single_steps(model, features):
    """The ways back that the packed layout has of its own, through the whole model."""

    def dense(gradients):
        return [tf.convert_to_tensor(gradient).numpy() for gradient in gradients]

    @graph_function(input_signature=[features_signature(model), SIGNATURE])
    def forced(features, captions):
        with tf.GradientTape() as tape:
            said = tf.nn.log_softmax(model.logits(features, captions))
            total = tf.reduce_sum(tf.gather(said, captions.targets, batch_dims=1))
        return tape.gradient(total, model.trainable_variables)

    with tf.GradientTape() as tape:
        memory, state = model.look(features)
        state = tuple(tf.repeat(part, 2, axis=1) for part in state)
        total = 0.0
        for position in range(5):
            said, state = model.next_word(memory, state, TOKENS[:, :, position])
            targets = TOKENS[:, :, position + 1]
            chosen = tf.gather(said, targets, batch_dims=2)
            total += tf.reduce_sum(tf.where(targets != PAD, chosen, 0.0))
    expected = dense(tape.gradient(total, model.trainable_variables))
    found = dense(forced(features, pack(TOKENS)))
    for weight, ours, theirs in zip(model.trainable_variables, found, expected, strict=True):
        assert np.abs(theirs).max() > 1e-3, weight.path  # everything is learnt
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4, err_msg=weight.path)


def test_more_padding_changes_nothing(logits, features):
    wide = np.pad(TOKENS, ((0, 0), (0, 1), (0, 3)), constant_values=PAD)
    found, expected = logits(features, pack(wide)), logits(features, pack(TOKENS))
    np.testing.assert_array_equal(found, expected)


def test_order_of_pictures_and_their_number_change_nothing(logits, features):
    packed = pack(TOKENS)
    together = by_caption(logits(features, packed), packed)
    for order in ([2, 0, 1], [1], [2]):
        packed = pack(TOKENS[order])
        found = by_caption(logits(features[order], packed), packed)
        for place, rows in found.items():
            original = 2 * order[place // 2] + place % 2
            np.testing.assert_allclose(rows, together[original], atol=2e-5)


def test_position_of_a_cell_matters(logits, features):
    packed = pack(TOKENS)
    swapped = features[:, [1, 0, 2, 3]]
    difference = logits(features, packed) - logits(swapped, packed)
    assert abs(difference).numpy().max() > 1e-3


def test_start_of_training():
    """Word vectors are the given ones, forget gates are open, all else is closed."""
    vectors = np.random.default_rng(3).normal(size=(10, 6)).astype(np.float32)
    model = CaptionModel(CONFIG, vectors)
    np.testing.assert_array_equal(model.words.embeddings, vectors)
    for layer in (model.reader_words, model.speaker_inputs):
        np.testing.assert_array_equal(layer.bias, np.repeat([0, 1, 0, 0], 8))
    biases = [w for w in model.weights if w.path.endswith("/bias")]
    assert sum(float(tf.reduce_sum(abs(bias.value))) for bias in biases) == 16


def test_dropout_follows_its_seed(model, features):
    signature = [features_signature(model), SIGNATURE, tf.TensorSpec((2,), tf.int32)]

    @graph_function(input_signature=signature)
    def logits(features, captions, seed):
        return model.logits(features, captions, Dropout(0.5, seed))

    def dropped(*seed):
        return logits(features, pack(TOKENS), tf.constant(seed)).numpy()

    first = dropped(7, 1)
    np.testing.assert_array_equal(dropped(7, 1), first)
    for other in ((7, 2), (8, 1)):
        assert np.abs(dropped(*other) - first).max() > 0.1


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
    said = [m.next_word(*m.look(features), np.full((3, 1), START))[0] for m in (model, loaded)]
    np.testing.assert_array_equal(*said)


def test_parameters_are_counted_before_a_model_is_built():
    for config in (CONFIG, ModelConfig(7, 3, 1, 11, 12, 4)):
        assert config.parameters == CaptionModel(config).count_params()


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
        pytest.param(spoil_config(heads=3), id="no whole share of the units"),
        pytest.param(spoil_config(heads=0), id="no head"),
        pytest.param(spoil_config(cells=-1), id="below zero"),
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
