"""An LSTM over captions of different lengths that spends nothing on padding.

The captions of a batch stand in the order of their lengths, longest first, and their tokens one
time step after the other ("packed", as PyTorch calls it): a step is a slice of rows, and each step
has as many rows as captions are still going on. What needs no state (the inputs' share of the
gates) is multiplied outside the loop in one product; so is, on the way back, the gradient of the
kernel, for which an automatic gradient would add up one large matrix a step.

Source: Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000; backward: Greff et
al. 2017, "LSTM: A Search Space Odyssey", appendix A (without peepholes).
"""

import tensorflow as tf

Pair = tuple[tf.Tensor, tf.Tensor]


def lstm_cell(gates: tf.Tensor, c: tf.Tensor) -> Pair:
    """One step.

    Args:
        gates: (..., 4 units), before their activations: input, forget, output, candidate.
        c: (..., units), the last cell state.

    Returns:
        h and c, both (..., units).
    """
    i, f, o, g = tf.split(gates, 4, -1)
    c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
    return tf.sigmoid(o) * tf.tanh(c), c


@tf.custom_gradient
def packed_lstm(
    gates: tf.Tensor, kernel: tf.Tensor, h: tf.Tensor, c: tf.Tensor, counts: tf.Tensor
) -> Pair:
    """All steps of all captions; for use inside a `tf.function`.

    Args:
        gates: (tokens, 4 units) the inputs' share of the gates, bias included, packed; order of the
            gates as in `lstm_cell`.
        kernel: (units, 4 units) what the last h is multiplied with.
        h, c: (captions, units) the first state.
        counts: (steps,) int32, captions that reach each step, never growing; their sum is `tokens`.

    Returns:
        h and c after each token, both (tokens, units), packed.
    """
    units = kernel.shape[0]
    captions, steps = tf.shape(h)[0], tf.size(counts)

    def store(size: tf.Tensor, width: int = units) -> tf.TensorArray:
        return tf.TensorArray(tf.float32, size, infer_shape=False, element_shape=[None, width])

    # A product for each gate: one for all would have to be taken apart, copy by copy, every step.
    shares, kernels = tf.split(gates, 4, 1), tf.split(kernel, 4, 1)
    activations = (tf.sigmoid, tf.sigmoid, tf.sigmoid, tf.tanh)

    def forward(t, first, h, c, hs, cs, *kept):
        count = counts[t]
        h, c = h[:count], c[:count]
        i, f, o, g = (
            activation(share[first : first + count] + tf.matmul(h, part))
            for activation, share, part in zip(activations, shares, kernels, strict=True)
        )
        c = f * c + i * g
        shown = tf.tanh(c)
        h = o * shown
        kept = (x.write(t, y) for x, y in zip(kept, (i, f, o, g, shown), strict=True))
        return t + 1, first + count, h, c, hs.write(t + 1, h), cs.write(t + 1, c), *kept

    # Both start with the first state, so that step t reads its last one at t.
    hs, cs = store(steps + 1).write(0, h), store(steps + 1).write(0, c)
    number, state, anything = map(tf.TensorShape, ([], [None, units], None))
    *_, hs, cs, i, f, o, g, shown = tf.while_loop(
        lambda t, *_: t < steps,
        forward,
        (0, 0, h, c, hs, cs, *[store(steps) for _ in range(5)]),
        shape_invariants=(number, number, state, state, *[anything] * 7),
    )
    kept = (i, f, o, g, shown, hs, cs)

    def gradient(from_h, from_c):
        # Where only some rows were used, TensorFlow hands over just these.
        from_h, from_c = map(tf.convert_to_tensor, (from_h, from_c))

        def backward(t, end, to_h, to_c, to_gates, read):
            count = counts[t]
            longer = [[0, count - tf.shape(to_h)[0]], [0, 0]]  # captions that end here join
            first = end - count
            to_h = tf.pad(to_h, longer) + from_h[first:end]
            to_c = tf.pad(to_c, longer) + from_c[first:end]
            i, f, o, g, shown, h, c = (tf.ensure_shape(x.read(t), [None, units]) for x in kept)
            to_c += to_h * o * (1 - shown * shown)
            to_z = tf.concat(
                [
                    to_c * g * i * (1 - i),
                    to_c * c[:count] * f * (1 - f),
                    to_h * shown * o * (1 - o),
                    to_c * i * (1 - g * g),
                ],
                1,
            )
            to_h = tf.matmul(to_z, kernel, transpose_b=True)
            return t - 1, first, to_h, to_c * f, to_gates.write(t, to_z), read.write(t, h[:count])

        none = tf.zeros((0, units))
        *_, to_h, to_c, to_gates, read = tf.while_loop(
            lambda t, *_: t >= 0,
            backward,
            (steps - 1, tf.shape(gates)[0], none, none, store(steps, 4 * units), store(steps)),
            shape_invariants=(number, number, state, state, anything, anything),
        )
        to_gates = tf.ensure_shape(to_gates.concat(), [None, 4 * units])
        read = tf.ensure_shape(read.concat(), [None, units])
        return to_gates, tf.matmul(read, to_gates, transpose_a=True), to_h, to_c, None

    outputs = (tf.ensure_shape(x.concat(), [None, units])[captions:] for x in (hs, cs))
    return tuple(outputs), gradient
