"""packing.py: the packed layout by hand, against plain Python, and its gradients."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.graph import graph_function
from captioner.packing import SIGNATURE, Packed, by_picture, by_token, of_picture, pack
from captioner.text import END, PAD, START

# Two captions of the first picture, one of the second.
TOKENS = np.array(
    [
        [[START, 5, END, PAD, PAD], [START, 6, 7, 8, END]],
        [[START, 9, 6, END, PAD], [PAD] * 5],
    ]
)
LENGTH = 6


@st.composite
def tokens(draw) -> np.ndarray:
    """(pictures, captions, LENGTH): some captions fill the row and so have lost their <end>."""
    caption = st.lists(st.integers(4, 20), min_size=1, max_size=LENGTH)
    groups = draw(st.lists(st.lists(caption, max_size=4), min_size=1, max_size=4).filter(any))
    rows = np.full((len(groups), max(map(len, groups)), LENGTH), PAD)
    for picture, group in enumerate(groups):
        # A caption may be missing anywhere in its group.
        places = sorted(draw(st.permutations(range(rows.shape[1])))[: len(group)])
        for place, words in zip(places, group, strict=True):
            row = [START, *words, END][:LENGTH]
            rows[picture, place, : len(row)] = row
    return rows


def test_by_hand():
    packed = pack(TOKENS)
    expected = Packed(
        # Longest first: 6 7 8 (row 1), 9 6 (row 2), 5 (row 0).
        inputs=[START, START, START, 6, 9, 5, 7, 6, 8],
        targets=[6, 9, 5, 7, 6, END, 8, END, END],
        counts=[3, 3, 2, 1],
        pictures=[0, 1, 0],
        captions=[1, 2, 0],
        # Tokens 0 2 3 5 6 8 are the first picture's, 1 4 7 the second one's; 9 is none.
        places=[0, 6, 1, 2, 7, 3, 4, 8, 5],
        slots=[[0, 2, 3, 5, 6, 8], [1, 4, 7, 9, 9, 9]],
    )
    for name, found in packed._asdict().items():
        assert found.dtype == np.int32, name
        np.testing.assert_array_equal(found, getattr(expected, name), err_msg=name)


@settings(deadline=None)
@given(tokens())
def test_the_packed_captions_are_the_captions(rows):
    """Taken apart again step by step, they are what was packed: each token once, in order."""
    packed = pack(rows)
    read = {number: [] for number in packed.captions}
    said = {number: [] for number in packed.captions}
    token = 0
    for count in packed.counts:
        for caption in packed.captions[:count]:
            read[caption].append(packed.inputs[token])
            said[caption].append(packed.targets[token])
            token += 1
    assert token == len(packed.inputs) == len(packed.targets) == packed.counts.sum()
    flat = rows.reshape(-1, LENGTH)
    captions = {n: [word for word in row if word != PAD] for n, row in enumerate(flat)}
    captions = {n: words for n, words in captions.items() if words}
    assert read == {n: words[:-1] for n, words in captions.items()}
    assert said == {n: words[1:] for n, words in captions.items()}
    # Longest first, equally long ones as they came.
    assert packed.captions.tolist() == sorted(captions, key=lambda n: (-len(captions[n]), n))
    assert packed.pictures.tolist() == [n // rows.shape[1] for n in packed.captions]


@settings(deadline=None)
@given(tokens())
def test_the_places_by_picture(rows):
    """Each token has one place, in its picture's row and in order; the other places are empty."""
    packed = pack(rows)
    pictures = [packed.pictures[n] for count in packed.counts for n in range(count)]
    expected = [
        [token for token, owner in enumerate(pictures) if owner == picture]
        for picture in range(len(rows))
    ]
    most = max(map(len, expected))
    nothing = len(pictures)
    assert packed.slots.tolist() == [x + [nothing] * (most - len(x)) for x in expected]
    assert packed.slots.ravel()[packed.places].tolist() == list(range(nothing))


def dense(packed: Packed) -> np.ndarray:
    """(pictures, places, tokens): 1 where a token has its place."""
    return (packed.slots[..., None] == np.arange(len(packed.inputs))).astype("f")


@settings(deadline=None, max_examples=30)
@given(tokens(), st.integers(0, 99))
def test_by_picture_and_by_token_are_a_product_with_a_permutation(rows, seed):
    """Values and gradients, against TensorFlow's own for the product."""
    packed, rng = pack(rows), np.random.default_rng(seed)
    table = dense(packed)
    one = tf.constant(rng.normal(size=(len(packed.inputs), 2)), tf.float32)
    other = tf.constant(rng.normal(size=(*packed.slots.shape, 2)), tf.float32)
    for ours, product, values in (
        (by_picture, "pst,tn->psn", one),
        (by_token, "pst,psn->tn", other),
    ):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(values)
            found = ours(values, packed)
            expected = tf.einsum(product, table, values)
            losses = [tf.reduce_sum(tf.sin(3 * x)) for x in (found, expected)]
        np.testing.assert_array_equal(found, expected)
        gradients = [tape.gradient(loss, values) for loss in losses]
        np.testing.assert_allclose(*gradients, atol=1e-6)
    np.testing.assert_array_equal(by_token(by_picture(one, packed), packed), one)


@settings(deadline=None, max_examples=30)
@given(tokens())
def test_of_picture_repeats_the_pictures_values(rows):
    packed = pack(rows)
    values = tf.constant(np.arange(2.0 * len(rows)).reshape(-1, 2), tf.float32)
    expected = np.einsum("pst,pn->tn", dense(packed), values)
    np.testing.assert_array_equal(of_picture(values, packed), expected)


def test_one_graph_takes_all_shapes():
    """What a training step relies on: packed batches are arguments of one compiled function."""
    there_and_back = graph_function(
        lambda values, packed: by_token(by_picture(values, packed), packed),
        input_signature=[tf.TensorSpec((None, 1)), SIGNATURE],
    )
    for rows in (TOKENS, TOKENS[:1], TOKENS[1:, :1]):
        packed = pack(rows)
        values = np.arange(1.0, 1 + len(packed.inputs), dtype="f")[:, None]
        np.testing.assert_array_equal(there_and_back(values, packed), values)
    assert there_and_back.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("kind", [np.uint16, np.int64])
def test_the_kind_of_integers_does_not_matter(kind):
    for one, other in zip(pack(TOKENS.astype(kind)), pack(TOKENS), strict=True):
        np.testing.assert_array_equal(one, other)
