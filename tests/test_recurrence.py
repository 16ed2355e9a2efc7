"""recurrence.py: the packed LSTM against a plain loop, automatic gradients and Keras' layer."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from captioner.graph import graph_function
from captioner.recurrence import lstm_cell, packed_lstm

UNITS = 3
FLOATS = [tf.TensorSpec((None, 4 * UNITS)), tf.TensorSpec((UNITS, 4 * UNITS))]
FLOATS += [tf.TensorSpec((None, UNITS))] * 2
NUMBERS = tf.TensorSpec((None,), tf.int32)


def arguments(lengths: list[int], seed: int = 0) -> list[tf.Tensor]:
    """Random gates, kernel, h and c for captions of these lengths, and their counts."""
    rng = np.random.default_rng(seed)
    captions, tokens = len(lengths), sum(lengths)
    shapes = ((tokens, 4 * UNITS), (UNITS, 4 * UNITS), (captions, UNITS), (captions, UNITS))
    counts = [sum(length > step for length in lengths) for step in range(max(lengths))]
    values = [tf.constant(rng.normal(size=shape), tf.float32) for shape in shapes]
    return [*values, tf.constant(counts, tf.int32)]


def plain_loop(gates, kernel, h, c, counts):
    """The equations, a step after the other."""
    hs, cs, first = [], [], 0
    for count in counts.numpy():
        z = gates[first : first + count] + h[:count] @ kernel
        first += count
        i, f, o = (tf.sigmoid(z[:, n * UNITS : (n + 1) * UNITS]) for n in range(3))
        c = f * c[:count] + i * tf.tanh(z[:, 3 * UNITS :])
        h = o * tf.tanh(c)
        hs.append(h)
        cs.append(c)
    return tf.concat(hs, 0), tf.concat(cs, 0)


def values_and_gradients(lstm, share_of_h, share_of_c, *arguments):
    """h, c and the gradients of something uneven of them by gates, kernel and first state."""
    with tf.GradientTape() as tape:
        tape.watch(arguments[:4])
        h, c = lstm(*arguments)
        loss = share_of_h * tf.reduce_sum(tf.sin(2 * h)) + share_of_c * tf.reduce_sum(c**3)
    return h, c, *tape.gradient(loss, arguments[:4], unconnected_gradients="zero")


# Compiled once: every example below runs through one graph, whatever its shapes.
SCALAR = tf.TensorSpec(())
COMPILED = graph_function(
    lambda *given: values_and_gradients(packed_lstm, *given),
    input_signature=[SCALAR, SCALAR, *FLOATS, NUMBERS],
)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=7),
    st.sampled_from([(1.0, 1.0), (1.0, 0.0), (0.0, 1.0)]),
    st.integers(0, 99),
)
@example([1], (1.0, 1.0), 0)  # one caption of one step
@example([1, 1, 1], (1.0, 1.0), 1)  # one step
@example([5], (1.0, 1.0), 2)  # one caption
@example([4, 4, 4], (1.0, 1.0), 3)  # all equally long
@example([6, 3, 3, 1], (1.0, 1.0), 4)
def test_values_and_all_gradients_are_those_of_a_plain_loop(lengths, shares, seed):
    given_values = arguments(sorted(lengths, reverse=True), seed)
    shares = tuple(map(tf.constant, shares))
    found = COMPILED(*shares, *given_values)
    expected = values_and_gradients(plain_loop, *shares, *given_values)
    names = ("h", "c", "gates", "kernel", "first h", "first c")
    for name, one, other in zip(names, found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("lengths", [[1], [5, 4, 4, 2, 1], [3, 3]])
def test_it_is_the_lstm_of_keras(lengths):
    """Keras pads and masks; its gates come in another order: input, forget, candidate, output."""
    rng = np.random.default_rng(5)
    there = np.arange(max(lengths))[:, None] < np.array(lengths)  # (steps, captions)
    inputs = rng.normal(size=(*there.shape, 2)).astype("f")
    layer = keras.layers.LSTM(UNITS, return_sequences=True, bias_initializer="random_normal")
    _, kernel, h, c, counts = arguments(lengths)
    layer.build((None, None, 2))
    i, f, o, g = np.split(kernel, 4, 1)
    layer.cell.recurrent_kernel.assign(np.concatenate([i, f, g, o], 1))
    expected = layer(inputs.swapaxes(0, 1), mask=there.T, initial_state=[h, c])

    i, f, g, o = np.split(inputs[there] @ layer.cell.kernel.numpy() + layer.cell.bias.numpy(), 4, 1)
    lstm = graph_function(packed_lstm, input_signature=[*FLOATS, NUMBERS])
    found, _ = lstm(np.concatenate([i, f, o, g], 1), kernel, h, c, counts)
    np.testing.assert_allclose(found, expected.numpy().swapaxes(0, 1)[there], atol=1e-6)


@pytest.mark.parametrize(
    ("gates", "c", "expected"),
    [  # input, forget, output, candidate
        ([0, 0, 0, 0], 2, (0.5 * np.tanh(1), 1)),  # all gates half open, nothing to read
        ([99, -99, 99, 99], 2, (np.tanh(1), 1)),  # forgets, reads
        ([-99, 99, 99, 99], 2, (np.tanh(2), 2)),  # keeps, does not read
        ([99, 99, -99, -99], 2, (0, 1)),  # adds -1, shows nothing
    ],
)
def test_a_step_by_hand(gates, c, expected):
    h, c = lstm_cell(tf.constant([gates], tf.float32), tf.constant([[c]], tf.float32))
    np.testing.assert_allclose([h[0, 0], c[0, 0]], expected, atol=1e-6)
