"""contrastive.py: the loss by hand and by loops, and that it teaches what belongs together."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from captioner import contrastive
from captioner.checkpoints import State
from captioner.contrastive import (
    SHARES,
    Contrastive,
    choose_share,
    info_nce,
    keep_references,
    learn_words,
    sentences_of,
    validator,
)
from captioner.examples import Examples
from captioner.joint_embedding import JointConfig, JointModel
from captioner.packing import pack
from captioner.text import END, PAD, START
from captioner.training import Settings, Trainer


def test_loss_by_hand():
    """Two pictures, three captions; the first two captions are of the first picture."""
    e = np.exp
    scores = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 1.0]], np.float32)
    found = info_nce(tf.constant(scores), tf.constant([0, 0, 1])).numpy()
    of_pictures = np.log([e(2) + e(1), 1 + e(3), e(1) + e(1)]) - [2, 0, 1]
    # Caption 0 against caption 2 alone: caption 1 is right as well. Caption 2 against both.
    of_captions = np.log([e(2) + e(1), 1 + e(1), e(1) + e(1) + e(3)]) - [2, 0, 1]
    np.testing.assert_allclose(found, (of_pictures + of_captions) / 2, rtol=1e-5)


@given(
    hnp.arrays(np.float32, (6, 3), elements=st.floats(-30, 30, width=32)),
    st.lists(st.integers(0, 2), min_size=6, max_size=6),
)
def test_a_sibling_changes_nothing(scores, owners):
    """What another caption of the same picture scores with that picture is of no concern."""
    found = info_nce(tf.constant(scores), tf.constant(owners)).numpy()
    for row, owner in enumerate(owners):
        rivals = [other for other, its in enumerate(owners) if its != owner]
        column = np.array([scores[row, owner], *scores[rivals, owner]], np.float64)
        line = scores[row].astype(np.float64)
        expected = np.logaddexp.reduce(line) + np.logaddexp.reduce(column) - 2 * line[owner]
        assert found[row] == pytest.approx(expected / 2, abs=1e-4)


CLASSES = 12


def examples() -> Examples:
    """Pictures that show a thing in one of two cells, with captions that name it in two ways."""
    rng = np.random.default_rng(0)
    kind = np.arange(4 * CLASSES) % CLASSES
    features = rng.normal(0, 0.1, (len(kind), 2, CLASSES)).astype(np.float16)
    features[np.arange(len(kind)), rng.integers(0, 2, len(kind)), kind] = 3
    tokens = np.full((len(kind), 3, 4), PAD, np.uint16)
    tokens[:, 0, :3] = np.stack([np.full_like(kind, START), 4 + kind, np.full_like(kind, END)], 1)
    tokens[:, 1] = np.stack([tokens[:, 0, 0], tokens[:, 0, 1], kind * 0 + 4, kind * 0 + END], 1)
    names = np.array([f"{row}.jpg" for row in range(len(kind))])
    return Examples(features, np.arange(len(kind)), names, tokens)


def small_model(known: int) -> JointModel:
    """That knows the first so many things by name."""
    keras.utils.set_random_seed(1)
    config = JointConfig(4 + CLASSES, 8, 2, CLASSES, size=16, known=known, references=6)
    vectors = np.random.default_rng(2).normal(size=(4 + CLASSES, 8))
    return JointModel(config, vectors, np.arange(4, 4 + known))


def test_it_learns_which_words_pictures_show(tmp_path):
    train = examples()
    model = small_model(CLASSES)
    learn_words(model, train, 1, State(tmp_path))
    # Two captions each, and all second ones name the first thing, too.
    shares = model.shares.numpy()
    assert shares[0] == pytest.approx((4 + 4 * CLASSES - 4 + 4) / (8 * CLASSES))
    np.testing.assert_allclose(shares[1:], 8 / (8 * CLASSES), rtol=1e-5)
    features = tf.constant(train.features)
    likely = tf.sigmoid(model.words_seen(features)).numpy()
    for row in range(1, CLASSES):
        assert likely[row, row] > 0.3 and np.delete(likely[row], [0, row]).max() < 0.1
    half = model.pictures(features).numpy()[:, 16:]
    np.testing.assert_allclose(np.square(half).sum(1), 0.3, atol=1e-5)
    assert (half[1:CLASSES, 1:].argmax(1) + 1 == np.arange(1, CLASSES)).all()
    assert not model.seen_words.trainable_variables
    again = small_model(CLASSES)
    learn_words(again, train, 1, State(tmp_path / "again"))
    np.testing.assert_array_equal(again.seen_words.kernel.numpy(), model.seen_words.kernel.numpy())
    # What was learned once is taken from the state.
    kept = small_model(CLASSES)
    learn_words(kept, train, 2, State(tmp_path))
    for ours, theirs in zip(kept.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert not kept.seen_words.trainable_variables


def test_the_dropout_of_the_words_follows_the_seed(tmp_path, monkeypatch):
    """All pictures in one batch, in order: nothing else is left to chance."""
    monkeypatch.setattr(contrastive, "WORD_BATCH", 4 * CLASSES)
    monkeypatch.setattr(contrastive, "WORD_PASSES", 2)
    monkeypatch.setattr(contrastive, "LEAST_STEPS", 1)
    kernels = []
    for number, seed in enumerate((1, 1, 2)):
        model = small_model(CLASSES)
        learn_words(model, examples(), seed, State(tmp_path / str(number)))
        kernels.append(model.seen_words.kernel.numpy())
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert (kernels[0] != kernels[2]).any()


def test_it_learns_what_belongs_together(tmp_path):
    """With the name of one thing it cannot tell the others apart by names."""
    train = examples()
    val = Examples(train.features, train.rows[:CLASSES], train.names, train.tokens[:CLASSES])
    model = small_model(1)
    score = validator(model, val)
    before = score()
    learn_words(model, train, 1, State(tmp_path))
    words = model.seen_words.kernel.numpy()
    settings = Settings(24, CLASSES, 0.02, "cosine", 5.0, 99, 0.0, 1)
    objective = Contrastive(model, train, 0.1)
    progress = Trainer(model, objective, settings, State(tmp_path)).run(score, lambda row: None)
    after = score()
    assert before["val_recall"] < 0.7
    assert after["val_recall"] > 0.9  # half of a vector tells one thing only
    # The trainer leaves the weights of its best epoch.
    assert after["val_recall"] == max(row["val_recall"] for row in progress.history)
    assert progress.history[-1]["loss"] < progress.history[0]["loss"]
    np.testing.assert_array_equal(model.seen_words.kernel.numpy(), words)


def test_the_words_count_for_what_they_are_worth(tmp_path):
    """Names tell all things apart here, and the other part has learned nothing yet."""
    train = examples()
    model = small_model(CLASSES)
    learn_words(model, train, 1, State(tmp_path))
    seen = []

    def score() -> dict[str, float]:
        seen.append(float(model.words_share))
        return {"val_recall": -abs(seen[-1] - 0.3)}

    assert choose_share(model, score) == pytest.approx(0.3)
    assert float(model.words_share) == pytest.approx(0.3) and seen == pytest.approx(SHARES)
    assert choose_share(model, validator(model, train)) > 0


def test_references_are_training_pictures_with_a_caption_each():
    train = examples()
    model = small_model(3)
    keep_references(model, train)
    chosen = np.linspace(0, len(train.rows) - 1, 6).astype(int)
    features = tf.constant(train.features[chosen])
    expected = model.pictures(features).numpy()
    np.testing.assert_allclose(model.reference_pictures.numpy(), expected, atol=1e-6)
    packed = pack(train.tokens[chosen][:, :1].astype(np.int32))
    expected = np.empty_like(expected)
    expected[packed.captions] = model.sentences(packed).numpy()
    np.testing.assert_allclose(model.reference_sentences.numpy(), expected, atol=1e-6)


def test_captions_without_a_word_are_left_out():
    tokens = np.array([[[START, END, PAD], [START, 5, END]], [[START, 6, END], [PAD] * 3]])
    examples = Examples(np.zeros((2, 1, 1)), np.arange(2), np.array(["a", "b"]), tokens)
    found, owners = sentences_of(examples)
    assert found.tolist() == [[START, 5, END], [START, 6, END]] and owners.tolist() == [0, 1]
