"""What the layers of a CNN compute: the kernels of its first convolution, and its feature maps.

After "Visualizing and Understanding Convolutional Networks" (Zeiler and Fergus 2014): a channel of
a layer is a picture of its own, which says where in the picture the layer has found what it looks
for. The layers are those of the encoder, or of the network of `keras.applications` inside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from captioner.graph import graph_function

Kind = Literal["convolution", "activation", "pooling"]
ORDER: tuple[Kind, ...] = ("convolution", "activation", "pooling")

MOST_LAYERS = 14  # networks of more show a choice of them

CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)  # Dense: of 1 × 1
ACTIVATIONS = (layers.Activation, layers.ReLU)
POOLINGS = (layers.MaxPooling2D, layers.AveragePooling2D)
NORMALIZATIONS = (layers.BatchNormalization, layers.LayerNormalization)


def network_of(encoder: keras.Model) -> keras.Model:
    """The model that has the layers: the encoder, or the network that is its last layer."""
    last = encoder.layers[-1]
    return last if isinstance(last, keras.Model) else encoder


def watch(
    encoder: keras.Model, tensors: Sequence[keras.KerasTensor], pictures: np.ndarray
) -> list[np.ndarray]:
    """The values of tensors inside of `network_of` an encoder, for pictures.

    Keras does not connect the inside of a nested network to the pictures outside. So a second model
    of the network's own layers, with these tensors as outputs, is called in the network's place.
    """
    network = network_of(encoder)
    watched = keras.Model(network.input, list(tensors))
    if network is not encoder:
        before = encoder.operations[-2].output  # what the encoder feeds to the network
        watched = keras.Model(encoder.input, watched(before))
    values = graph_function(watched)(tf.constant(pictures, tf.float32), training=False)
    return [np.asarray(value) for value in keras.tree.flatten(values)]


@dataclass(frozen=True)
class Filters:
    """The first convolution.

    Attributes:
        name: of the layer.
        kernels: (rows, columns, channels, filters), as the layer has them.
        colors: (filters, rows, columns, 3), the weights of the picture's red, green and blue, and
            equal ones where the network sees grey; the largest of a filter is 1 or -1.
    """

    name: str
    kernels: np.ndarray
    colors: np.ndarray


def first_layer_filters(encoder: keras.Model) -> Filters:
    """The kernels of the first convolution, in the colours of the picture.

    What stands before the convolution may reorder and stretch the channels (the ImageNet weights of
    some networks expect blue first). So it is asked: what each colour does to each channel, taken
    from pictures that are all black, red, green and blue, goes into the kernels.

    Raises:
        ValueError: the encoder has no convolution with kernels over all channels.
    """
    for holder in network_of(encoder).layers:
        for layer in _layers_in(holder):
            if isinstance(layer, layers.Conv2D):
                kernels = np.asarray(layer.kernel)
                colors = np.einsum("hwcf,pc->fhwp", kernels, _mixture(encoder, holder.input))
                largest = np.abs(colors).max(axis=(1, 2, 3), keepdims=True)
                return Filters(layer.name, kernels, colors / np.where(largest > 0, largest, 1))
    raise ValueError(f"{encoder.name} has no convolution with kernels over all channels")


def _mixture(encoder: keras.Model, tensor: keras.KerasTensor) -> np.ndarray:
    """(3, channels): what one step of red, green or blue adds to each channel of a tensor."""
    channels = tensor.shape[-1]
    if channels == 1:
        return np.ones((3, 1))
    plain = np.zeros((4, *encoder.input_shape[1:]), np.float32)
    plain[[1, 2, 3], ..., [0, 1, 2]] = 255
    (seen,) = watch(encoder, [tensor], plain)
    center = seen[:, seen.shape[1] // 2, seen.shape[2] // 2]  # clear of any padding
    return (center[1:] - center[0]).reshape(3, channels)


def _layers_in(layer: layers.Layer) -> list[layers.Layer]:
    """The layer, or those of a model within the network (ConvNeXt has such)."""
    if isinstance(layer, keras.Model):
        return [inner for part in layer.layers for inner in _layers_in(part)]
    return [layer]


@dataclass(frozen=True)
class FeatureMaps:
    """What one layer made of a picture.

    Attributes:
        name: of the layer.
        kind: what it is.
        maps: (rows, columns, channels) float32.
        text: what it did, in a sentence.
        chain: layers of equal number follow one another and have the same channels.
    """

    name: str
    kind: Kind
    maps: np.ndarray
    text: str
    chain: int


@dataclass(frozen=True)
class _Step:
    """A layer to be shown: its output, and for an activation its input."""

    layer: layers.Layer
    kind: Kind
    tensor: keras.KerasTensor
    source: keras.KerasTensor
    normalized: bool = False

    @property
    def grid(self) -> tuple[int, int]:
        return tuple(self.tensor.shape[1:3])

    def follows(self, other: "_Step") -> bool:
        """Whether it goes on with the channels of the step before it."""
        same = self.tensor.shape[-1] == other.tensor.shape[-1]
        return same and ORDER.index(self.kind) > ORDER.index(other.kind)


def feature_maps(encoder: keras.Model, picture: np.ndarray) -> list[FeatureMaps]:
    """What the layers make of one picture, in the order of the network.

    Shown are convolutions (with the normalisation behind them, so that what goes into an activation
    is what is seen before it), activations and poolings. Of a network with many of them: the first
    convolution and the first pooling with their activations, of each grid the last activation, and
    a pooling that ends the network.

    Args:
        encoder: pictures (n, size, size, 3) to a grid.
        picture: (size, size, 3) uint8.
    """
    steps = _choose(_steps(network_of(encoder)))
    if not steps:
        return []
    tensors = [tensor for step in steps for tensor in (step.tensor, step.source)]
    values = [value[0] for value in watch(encoder, tensors, picture[None])]
    shown, chain = [], 0
    for number, step in enumerate(steps):
        chain += number > 0 and not step.follows(steps[number - 1])
        maps, source = values[2 * number : 2 * number + 2]
        shown.append(FeatureMaps(step.layer.name, step.kind, maps, _text(step, source), chain))
    return shown


def _steps(network: keras.Model) -> list[_Step]:
    """All convolutions, activations and poolings of a network."""
    steps = []
    for layer in network.layers:
        if isinstance(layer, layers.InputLayer) or len(layer.output.shape) != 4:
            continue
        last = steps[-1] if steps else None
        if any(isinstance(inner, CONVOLUTIONS) for inner in _layers_in(layer)):
            steps.append(_Step(layer, "convolution", layer.output, layer.input))
            if getattr(layer, "activation", keras.activations.linear) != keras.activations.linear:
                before = _without_activation(layer)
                steps[-1] = _Step(layer, "convolution", before, layer.input)
                steps.append(_Step(layer, "activation", layer.output, before))
        elif isinstance(layer, NORMALIZATIONS) and last and layer.input is last.tensor:
            if last.kind == "convolution":
                steps[-1] = _Step(last.layer, last.kind, layer.output, last.source, True)
        elif isinstance(layer, ACTIVATIONS) and _function(layer) != "linear":
            steps.append(_Step(layer, "activation", layer.output, layer.input))
        elif isinstance(layer, POOLINGS):
            steps.append(_Step(layer, "pooling", layer.output, layer.input))
    return steps


def _without_activation(layer: layers.Layer) -> keras.KerasTensor:
    """The output of a layer that has its activation built in, before that."""
    name = f"{layer.name}_before_activation"
    plain = type(layer).from_config(layer.get_config() | {"activation": "linear", "name": name})
    before = plain(layer.input)
    plain.set_weights(layer.get_weights())
    return before


def _choose(steps: list[_Step]) -> list[_Step]:
    # A grid that becomes finer again later is a branch's (squeeze and excite), not the network's.
    steps = [
        step
        for number, step in enumerate(steps)
        if all(later.grid <= step.grid for later in steps[number + 1 :])
    ]
    if len(steps) <= MOST_LAYERS:
        return steps
    chosen = {0, *takewhile(lambda n: steps[n].follows(steps[n - 1]), range(1, len(steps)))}
    pooling = next((n for n, step in enumerate(steps) if step.kind == "pooling"), 0)
    if pooling and steps[pooling].follows(steps[pooling - 1]):
        chosen |= {pooling - 1, pooling}
    last = {}  # of each grid: the last activation, or the last convolution where there is none
    for kind in ORDER[:2]:
        last |= {step.grid: n for n, step in enumerate(steps) if step.kind == kind}
    if steps[-1].kind == "pooling":
        chosen.add(len(steps) - 1)
    return [steps[number] for number in sorted(chosen | set(last.values()))]


def _text(step: _Step, source: np.ndarray) -> str:
    """What a layer did, in a sentence; `source` is what went into it."""
    layer = step.layer
    if step.kind == "activation":
        below = f"{np.mean(source < 0):.0%} of the values were"
        function = _function(layer)
        if function == "relu":
            return f"ReLU: everything below zero becomes 0; {below}."
        if function == "relu6":
            return f"ReLU up to 6: everything below zero becomes 0 ({below}), above 6 becomes 6."
        smooth = ": what is far below zero becomes nearly 0" * (function in ("gelu", "silu"))
        return f"{function.upper()}{smooth}; {below} below zero."
    if step.kind == "pooling":
        kept = "largest value" if isinstance(layer, layers.MaxPooling2D) else "mean"
        block = _times(layer.pool_size)
        return f"Of each block of {block}, in steps of {layer.strides[0]}, only the {kept} stays."
    inner = next(inner for inner in _layers_in(layer) if isinstance(inner, CONVOLUTIONS))
    channels, (stride, *_) = step.source.shape[-1], getattr(inner, "strides", (1,))
    size = _times(getattr(inner, "kernel_size", (1, 1)))
    steps = f" in steps of {stride}" if stride > 1 else ""
    slide = f"slide{steps} over {channels} channel{'s' if channels > 1 else ''}"
    # A model within the network (of ConvNeXt) is a convolution with its normalisation.
    normalized = ", then normalised" * (step.normalized or layer is not inner)
    if isinstance(layer, layers.DepthwiseConv2D):
        return f"Filters of {size} {slide}, one for each{normalized}."
    return f"{step.tensor.shape[-1]} filters of {size} {slide}{normalized}."


def _times(sides: Sequence[int]) -> str:
    return " × ".join(map(str, sides))


def _function(layer: layers.Layer) -> str:
    """The name of an activation."""
    if isinstance(layer, layers.ReLU):
        return "relu" if layer.max_value is None else f"relu{layer.max_value:g}"
    return layer.activation.__name__
