"""basics.py: numbers worked out by hand, Keras's layers, and laws that hold for any numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from captioner.basics import convolve, max_pool, relu, softmax

ONE = np.array(  # a picture of a 1
    [
        [0, 0, 9, 0, 0],
        [0, 9, 9, 0, 0],
        [0, 0, 9, 0, 0],
        [0, 0, 9, 0, 0],
        [0, 9, 9, 9, 0],
    ]
)
LEFT_EDGE = np.array([[-1, 0, 1]] * 3)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def test_convolution_by_hand():
    # Right column of a window less its left one; the columns' sums of three rows are 0, 9, 27, 0, 0
    # twice, then 0, 9, 27, 9, 0.
    expected = [[27, -9, -27], [27, -9, -27], [27, 0, -27]]
    assert convolve(ONE, LEFT_EDGE).tolist() == expected
    assert convolve(ONE, np.array([[1]])).tolist() == ONE.tolist()
    # Not turned around: the 1 of the kernel is taken at its own place.
    assert convolve(np.arange(4).reshape(2, 2), np.array([[0, 0], [0, 1]])).tolist() == [[3]]


def test_channels_add_up_and_filters_stand_apart():
    picture = np.arange(12).reshape(2, 2, 3)
    kernel = np.zeros((2, 2, 3, 2), int)
    kernel[0, 0, :, 0] = 1  # the three channels of the upper left cell: 0 + 1 + 2
    kernel[1, 1, 2, 1] = 10  # ten times the last channel of the lower right cell, 11
    assert convolve(picture, kernel).tolist() == [[[3, 110]]]


def test_bytes_do_not_overflow():
    bright = np.full((3, 3), 255, np.uint8)
    assert convolve(bright, np.full((3, 3), 255, np.uint8)).item() == 9 * 255**2
    picture, kernel = bright[..., None], np.full((3, 3, 1, 1), 255, np.uint8)
    assert convolve(picture, kernel).item() == 9 * 255**2


def test_kernel_must_fit():
    with pytest.raises(ValueError):
        convolve(ONE, np.ones((6, 1)))
    with pytest.raises(ValueError):
        convolve(np.ones((5, 5, 3)), np.ones((3, 3, 2, 4)))


def test_pooling_by_hand():
    maps = np.array([[1, 2, 5, 3], [0, 4, -1, 0], [7, 1, -2, -3], [2, 6, -9, -4]])
    assert max_pool(maps, 2).tolist() == [[4, 5], [7, -2]]
    assert max_pool(ONE, 2).tolist() == [[9, 9], [0, 9]]  # the last row and column fill no block
    assert max_pool(maps[..., None] * [1, -1], 4).tolist() == [[[7, 9]]]


def test_relu_and_softmax_by_hand():
    assert relu(np.array([[-2, 0], [0.5, 3]])).tolist() == [[0, 0], [0.5, 3]]
    # e^2, e, 1 and 1/e are 7.3891, 2.7183, 1 and 0.3679; their sum is 11.4752.
    found = softmax(np.array([2, 1, 0, -1]))
    assert found == pytest.approx([0.6439, 0.2369, 0.0871, 0.0321], abs=5e-5)
    assert softmax(np.log([[1, 3], [2, 2]])) == pytest.approx(np.array([[0.25, 0.75], [0.5, 0.5]]))


def test_the_same_as_layers_of_keras():
    from keras import layers

    picture, kernel, bias = random(11, 8, 3), random(3, 2, 3, 5), random(5)
    convolution = layers.Conv2D(5, (3, 2))
    convolution.build((None, 11, 8, 3))
    convolution.set_weights([kernel, bias])
    maps = np.asarray(convolution(picture[None]))[0]
    assert convolve(picture, kernel) + bias == pytest.approx(maps, abs=1e-5)
    assert relu(maps) == pytest.approx(np.asarray(layers.ReLU()(maps)))
    for side in (2, 3):
        pooled = np.asarray(layers.MaxPooling2D(side)(maps[None]))[0]
        assert max_pool(maps, side) == pytest.approx(pooled)
    logits = random(4, 10) * 20
    assert softmax(logits) == pytest.approx(np.asarray(layers.Softmax()(logits)), abs=1e-6)


numbers = st.floats(-1e3, 1e3, width=32)


@given(
    arrays(np.float64, (6, 7), elements=numbers),
    arrays(np.float64, (2, 3), elements=numbers),
    st.integers(0, 2),
    st.integers(0, 2),
)
def test_convolution_moves_with_the_picture(picture, kernel, down, right):
    maps = convolve(picture, kernel)
    assert convolve(picture[down:, right:], kernel) == pytest.approx(maps[down:, right:])


@given(arrays(np.float64, (3, 5), elements=st.floats(-1e6, 1e6)), st.floats(-1e6, 1e6))
def test_softmax_gives_probabilities_in_the_order_of_the_logits(logits, shift):
    found = softmax(logits)
    assert found.sum(axis=-1) == pytest.approx(np.ones(3))
    assert (found >= 0).all()
    largest = np.take_along_axis(found, logits.argmax(axis=-1)[:, None], -1)
    assert (found <= largest).all()
    # Below the precision of numbers of a million the shifted logits are not the same any more.
    assert softmax(logits + shift) == pytest.approx(found, abs=1e-8)
