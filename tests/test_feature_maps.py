"""feature_maps.py: filters in the picture's colours, and what each layer made of a picture."""

from itertools import pairwise

import keras
import numpy as np
import pytest
from keras import layers

from captioner.encoder import build_encoder
from captioner.feature_maps import feature_maps, first_layer_filters

PICTURE = np.zeros((4, 4, 3), np.uint8)
PICTURE[:2, 2:, 0] = 10  # upper right, red
PICTURE[3, 0, 0] = 4  # one pixel at the lower left


def chain(*stack: layers.Layer, size: int = 4, name: str = "hand") -> keras.Model:
    pictures = x = keras.Input((size, size, 3))
    for layer in stack:
        x = layer(x)
    return keras.Model(pictures, x, name=name)


def nested(network: keras.Model, before: layers.Layer | None = None) -> keras.Model:
    """As `build_encoder` does with a network of keras.applications."""
    pictures = keras.Input(network.input_shape[1:])
    return keras.Model(pictures, network(pictures if before is None else before(pictures)))


def red_less_five(**options) -> layers.Conv2D:
    """A convolution of 1 x 1: red less 5, and its opposite."""
    layer = layers.Conv2D(2, 1, **options)
    layer.build((None, 4, 4, 3))
    layer.set_weights([np.array([[[[1, -1], [0, 0], [0, 0]]]]), np.array([-5, 5])])
    return layer


def wild(encoder: keras.Model, seed: int = 1) -> keras.Model:
    """The encoder with random weights, those of its normalisations too."""
    rng = np.random.default_rng(seed)
    for weight in encoder.weights:
        weight.assign(rng.uniform(0.5, 1.5, weight.shape) * rng.choice([-1, 1], weight.shape[-1:]))
    for layer in encoder.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.moving_variance.assign(abs(layer.moving_variance))
    return encoder


BEFORE = [[-5, -5, 5, 5], [-5, -5, 5, 5], [-5, -5, -5, -5], [-1, -5, -5, -5]]
AFTER = [[0, 0, 5, 5], [0, 0, 5, 5], [0, 0, 0, 0], [0, 0, 0, 0]]
POOLED = [[0, 5], [0, 0]]
OPPOSITE = [[5, 0], [5, 5]]


@pytest.mark.parametrize(
    "encoder",
    [
        chain(red_less_five(name="c"), layers.ReLU(name="r"), layers.MaxPooling2D(2, name="p")),
        chain(red_less_five(name="c", activation="relu"), layers.MaxPooling2D(2, name="p")),
        nested(chain(red_less_five(name="c"), layers.ReLU(name="r"), layers.MaxPooling2D(2))),
        nested(
            chain(red_less_five(name="c"), layers.Activation("relu"), layers.MaxPooling2D(2)),
            layers.Rescaling(1.0),
        ),
    ],
    ids=["layers", "built-in activation", "nested", "nested after scaling"],
)
def test_convolution_relu_and_pooling_as_worked_out_by_hand(encoder):
    for _ in range(2):  # looking changes nothing
        found = feature_maps(encoder, PICTURE)
    assert [row.kind for row in found] == ["convolution", "activation", "pooling"]
    assert [row.chain for row in found] == [0, 0, 0]
    for row, expected in zip(found, (BEFORE, AFTER, POOLED), strict=True):
        assert row.maps[..., 0].tolist() == expected
    assert found[0].maps[..., 1].tolist() == (-np.array(BEFORE)).tolist()
    assert found[2].maps[..., 1].tolist() == OPPOSITE
    assert found[0].name == "c"
    assert [row.text for row in found] == [
        "2 filters of 1 × 1 slide over 3 channels.",
        "ReLU: everything below zero becomes 0; 50% of the values were.",
        "Of each block of 2 × 2, in steps of 2, only the largest value stays.",
    ]


def test_average_pooling_strides_and_one_channel_are_told():
    grey = layers.Conv2D(1, 1, name="grey")
    encoder = chain(grey, layers.Conv2D(4, 2, strides=2), layers.AveragePooling2D(2))
    first, second, third = feature_maps(encoder, PICTURE)
    assert [first.chain, second.chain, third.chain] == [0, 1, 1]
    assert second.text == "4 filters of 2 × 2 slide in steps of 2 over 1 channel."
    assert third.text == "Of each block of 2 × 2, in steps of 2, only the mean stays."
    mean = second.maps.mean(axis=(0, 1))
    np.testing.assert_allclose(third.maps[0, 0], mean, rtol=1e-5)


def test_what_is_seen_before_an_activation_is_what_goes_into_it():
    encoder = wild(build_encoder("cnn", 32))
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    output = encoder(picture[None].astype(np.float32), training=False).numpy()
    found = feature_maps(encoder, picture)
    kinds = ["convolution", "activation"]
    assert [row.kind for row in found] == [
        *kinds, "pooling", *kinds, *kinds, "pooling", *kinds, *kinds, "pooling"
    ]  # fmt: skip
    assert [row.chain for row in found] == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 4]
    for before, after in pairwise(found):
        if after.kind == "activation":
            np.testing.assert_allclose(np.maximum(before.maps, 0), after.maps, rtol=1e-4)
            share = f"{(before.maps < 0).mean():.0%} of the values were"
            assert share in after.text
            assert ", then normalised" in before.text
    np.testing.assert_array_equal(found[-1].maps, output[0])
    again = encoder(picture[None].astype(np.float32), training=False).numpy()
    np.testing.assert_array_equal(again, output)


ROWS = {  # names and grids of 32 x 32 pictures
    "mobilenet_v2": [
        *(("Conv1", 16), ("Conv1_relu", 16), ("block_1_expand_relu", 16)),
        *(("block_3_expand_relu", 8), ("block_6_expand_relu", 4), ("block_13_expand_relu", 2)),
        ("out_relu", 1),
    ],
    "resnet50": [
        *(("conv1_conv", 16), ("conv1_relu", 16), ("pool1_pool", 8), ("conv2_block3_out", 8)),
        *(("conv3_block4_out", 4), ("conv4_block6_out", 2), ("conv5_block3_out", 1)),
    ],
    "vgg16": [
        *(("block1_conv1", 32), ("block1_conv1", 32), ("block1_conv2", 32), ("block1_pool", 16)),
        *(("block2_conv2", 16), ("block3_conv3", 8), ("block4_conv3", 4), ("block5_conv3", 2)),
        ("block5_pool", 1),
    ],
    "convnext_tiny": [
        *(("convnext_tiny_stem", 8), ("convnext_tiny_stage_0_block_2_gelu", 8)),
        *(("convnext_tiny_stage_1_block_2_gelu", 4), ("convnext_tiny_stage_2_block_8_gelu", 2)),
        ("convnext_tiny_stage_3_block_2_gelu", 1),
    ],
    "efficientnet_v2_b0": [  # not the single cells of its squeeze and excite
        *(("stem_conv", 16), ("stem_activation", 16), ("block1a_project_activation", 16)),
        *(("block2b_expand_activation", 8), ("block4a_expand_activation", 4)),
        *(("block6a_expand_activation", 2), ("top_activation", 1)),
    ],
}


@pytest.mark.parametrize("backbone", ROWS)
def test_deep_networks_are_shown_by_a_choice_of_layers(backbone):
    keras.utils.set_random_seed(2)
    encoder = build_encoder(backbone, 32)
    picture = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    found = feature_maps(encoder, picture)
    assert [(row.name, row.maps.shape[0]) for row in found] == ROWS[backbone]
    if found[1].kind == "activation" and found[1].chain == 0:
        positive = np.clip(found[0].maps, 0, 6 if backbone == "mobilenet_v2" else None)
        if "RELU" in found[1].text.upper():
            np.testing.assert_allclose(found[1].maps, positive, atol=1e-5)
    if backbone != "convnext_tiny":  # which normalises at its end
        output = encoder(picture[None].astype(np.float32), training=False).numpy()[0]
        np.testing.assert_allclose(found[-1].maps, output, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet50", "vgg16", "cnn"])
def test_filters_are_in_the_colours_of_the_picture(backbone):
    keras.utils.set_random_seed(3)
    found = first_layer_filters(build_encoder(backbone, 32))
    assert found.kernels.shape[2] == 3
    expected = found.kernels.transpose(3, 0, 1, 2)
    if backbone in ("resnet50", "vgg16"):  # their weights expect blue first
        expected = expected[..., ::-1]
    largest = abs(expected).max(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(found.colors, expected / largest, atol=1e-4)


def test_a_network_that_sees_grey_has_grey_filters():
    encoder = chain(layers.Lambda(lambda x: x[..., :1]), layers.Conv2D(2, 2, name="first"))
    kernel = np.array([[[[2, 0]], [[-4, 0]]], [[[0, 0]], [[1, 0]]]])
    encoder.get_layer("first").set_weights([kernel, np.zeros(2)])
    found = first_layer_filters(encoder)
    assert found.name == "first"
    np.testing.assert_array_equal(found.kernels, kernel)
    for color in range(3):
        assert found.colors[0, ..., color].tolist() == [[0.5, -1], [0, 0.25]]
    assert not found.colors[1].any()  # a filter of zeros stays zero


def test_the_first_convolution_may_stand_in_a_model_within_the_network():
    found = first_layer_filters(build_encoder("convnext_tiny", 32))
    assert found.name == "convnext_tiny_stem_conv"
    assert found.colors.shape == (96, 4, 4, 3)
    assert abs(found.colors).max(axis=(1, 2, 3)) == pytest.approx(np.ones(96))


def test_a_network_without_convolutions_says_so_or_shows_what_it_has():
    encoder = chain(layers.AveragePooling2D(2, name="mean"), name="none")
    with pytest.raises(ValueError, match="none has no convolution"):
        first_layer_filters(encoder)
    (row,) = feature_maps(encoder, PICTURE)
    assert row.maps[..., 0].tolist() == [[0, 10], [1, 0]]
    assert feature_maps(chain(layers.Rescaling(2.0)), PICTURE) == []
