"""joint_embedding.py: against plain numpy, order, padding, round trip, damage."""

import json
import re

import keras
import numpy as np
import pytest

from captioner import CaptionerError
from captioner.joint_embedding import (
    HEADS,
    JointConfig,
    JointEncoder,
    JointModel,
    load_joint,
    save_joint,
)
from captioner.text import END, PAD, START

CONFIG = JointConfig(vocabulary=9, word_size=5, cells=4, channels=6, size=8, known=3, references=2)
TOKENS = np.array(
    [
        [START, 4, 5, 6, END],
        [START, 7, END, PAD, PAD],
        [START, END, PAD, PAD, PAD],  # says nothing
        [START, 8, 4, END, PAD],
        [START, 4, 5, 6, END],
    ],
    np.uint16,
)


@pytest.fixture(scope="module")
def model() -> JointModel:
    keras.utils.set_random_seed(2)
    rng = np.random.default_rng(2)
    model = JointModel(CONFIG, rng.normal(size=(9, 5)), np.array([4, 7, 8]))
    model.seen_words.kernel.assign(rng.normal(size=(6, 3)))
    model.shares.assign([0.5, 0.1, 0.02])
    model.words_share.assign(0.2)
    model.cell_scores.kernel.assign(model.cell_scores.kernel * 3)  # look somewhere
    return model


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def dense(layer, x: np.ndarray) -> np.ndarray:
    y = x @ layer.kernel.numpy()
    return y + layer.bias.numpy() if layer.use_bias else y


def test_a_sentence_is_read_to_its_last_word(model):
    """Word by word in numpy, without padding or packing."""

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    found = JointEncoder(model).sentences(TOKENS)
    assert found.dtype == np.float32 and found.shape == (5, 15)
    for row, tokens in enumerate(TOKENS):
        words = [word for word in tokens if word not in (PAD, END)]
        if len(words) == 1:
            assert not found[row].any()
            continue
        h = c = np.zeros(8)
        for word in words:
            x = dense(model.word_projection, model.words.embeddings.numpy()[word])
            i, f, o, g = np.split(dense(model.gates, x) + dense(model.recurrent, h), 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        first = unit(dense(model.sentence_projection, h))
        held = np.isin([4, 7, 8], words) * np.sqrt(-np.log([0.5, 0.1, 0.02]))
        expected = unit(np.concatenate([2 * first, unit(held)]))
        # The references are still zeros: nothing is near to everything.
        expected = np.concatenate([expected, np.array([1, 0, 0, 1]) / 2**0.5]) / 2**0.5
        np.testing.assert_allclose(found[row], expected, atol=2e-6)
    np.testing.assert_array_equal(found[0], found[4])


def test_a_picture_is_pooled_head_by_head(model):
    features = np.random.default_rng(1).normal(0, 2, (3, 4, 6)).astype(np.float16)
    found = JointEncoder(model).pictures(features)
    for row, picture in enumerate(features.astype(np.float32)):
        cells = np.maximum(dense(model.cell_projection, picture), 0)
        weights = np.exp(dense(model.cell_scores, cells))
        weights /= weights.sum(0)
        part = 8 // HEADS
        pooled = [weights[:, h] @ cells[:, h * part : (h + 1) * part] for h in range(HEADS)]
        first = unit(dense(model.picture_projection, np.concatenate(pooled)))
        logits = dense(model.seen_words, picture.mean(0))
        evidence = np.maximum(-np.log1p(np.exp(-logits)) - np.log([0.5, 0.1, 0.02]), 0)
        expected = unit(np.concatenate([2 * first, unit(evidence)]))
        expected = np.concatenate([expected, np.array([0, 1, 1, 0]) / 2**0.5]) / 2**0.5
        np.testing.assert_allclose(found[row], expected, atol=2e-6)
    shuffled = JointEncoder(model).pictures(features[:, ::-1])
    np.testing.assert_allclose(shuffled, found, atol=2e-6)  # wherever in the picture it is


def test_evidence_of_words(model):
    """log p(word | picture) / p(word) where the word is known and that is more than nothing."""
    features = np.random.default_rng(5).normal(size=(3, 4, 6)).astype(np.float16)
    found = model.evidence(features).numpy()
    logits = dense(model.seen_words, features.astype(np.float32).mean(1))
    likely = np.maximum(np.log(1 / (1 + np.exp(-logits)) / [0.5, 0.1, 0.02]), 0)
    assert (likely == 0).any() and (likely > 0).any()
    expected = np.zeros((3, 9))
    expected[:, [4, 7, 8]] = likely
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_is_near_to_everything_counts_for_less(monkeypatch):
    """The dot product is half of the cosine less half the mean cosine with the nearest."""
    monkeypatch.setattr("captioner.joint_embedding.NEAREST", 2)
    rng = np.random.default_rng(3)
    model = JointModel(
        JointConfig(9, 5, 4, 6, size=8, known=3, references=5), rng.normal(size=(9, 5)), [4, 7, 8]
    )
    features = rng.normal(0, 2, (6, 4, 6)).astype(np.float16)
    plain = JointEncoder(model)
    pictures, sentences = plain.pictures(features)[:, :11], plain.sentences(TOKENS)[:, :11]
    pictures, sentences = pictures * 2**0.5, sentences * 2**0.5
    references = unit(rng.normal(size=(2, 5, 11))).astype(np.float32)
    model.reference_pictures.assign(references[0])
    model.reference_sentences.assign(references[1])
    encoder = JointEncoder(model)
    found = encoder.pictures(features), encoder.sentences(TOKENS)
    np.testing.assert_allclose(np.linalg.norm(found[0], axis=1), 1, atol=1e-6)
    lengths = np.linalg.norm(found[1], axis=1)
    np.testing.assert_allclose(lengths, [1, 1, 0, 1, 1], atol=1e-6)  # one says nothing
    near_pictures = np.sort(pictures @ references[1].T)[:, -2:].mean(1)
    near_sentences = np.sort(sentences @ references[0].T)[:, -2:].mean(1)
    cosines = pictures @ sentences.T
    expected = (cosines - near_pictures[:, None] / 2 - near_sentences / 2) / 2
    said = [0, 1, 3, 4]
    np.testing.assert_allclose((found[0] @ found[1].T)[:, said], expected[:, said], atol=1e-6)


def test_many_are_as_one(model, monkeypatch):
    monkeypatch.setattr("captioner.joint_embedding.BATCH", 2)
    rng = np.random.default_rng(4)
    features = rng.normal(0, 2, (5, 4, 6)).astype(np.float16)
    encoder = JointEncoder(model)
    one_by_one = np.concatenate([encoder.pictures(features[[row]]) for row in range(5)])
    np.testing.assert_allclose(encoder.pictures(features), one_by_one, atol=1e-6)
    one_by_one = np.concatenate([encoder.sentences(TOKENS[[row]]) for row in range(5)])
    np.testing.assert_allclose(encoder.sentences(TOKENS), one_by_one, atol=1e-6)


def test_round_trip(model, tmp_path):
    save_joint(model, tmp_path)
    again = load_joint(tmp_path)
    assert again.config == CONFIG
    np.testing.assert_array_equal(
        JointEncoder(again).sentences(TOKENS), JointEncoder(model).sentences(TOKENS)
    )
    assert float(again.log_scale) == float(model.log_scale)


def test_parameters_are_counted_before_a_model_is_built():
    for config in (CONFIG, JointConfig(7, 3, 2, 11, size=12, known=5, references=6)):
        assert config.parameters == JointModel(config).count_params()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("weights.weights.h5", b"no HDF5"),
        ("config.json", b"{"),
        ("config.json", json.dumps(vars(CONFIG) | {"size": 12}).encode()),
        ("config.json", json.dumps(vars(CONFIG) | {"size": "8"}).encode()),
        ("config.json", json.dumps(vars(CONFIG) | {"more": 1}).encode()),
    ],
)
def test_damage_is_said_in_one_line(model, tmp_path, file, content):
    save_joint(model, tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(CaptionerError, match=re.escape(f"{tmp_path}: no usable joint")) as error:
        load_joint(tmp_path)
    assert "\n" not in str(error.value)
