"""How fast is training? Beside a tutorial's way, Keras' and PyTorch's, in one run.

All train one captioner without attention, so that the work is the same: the "merge" model of Tanti
et al. 2017 ("What is the role of recurrent neural networks in an image caption generator?"). An
LSTM reads the words, the picture's vector is added to its state, and a softmax says the next word.
Weights and batches are the same; the losses must agree to 1e-4 at the start, and to 1e-2 after one
step, so that gradients and Adam are the same too. Then they step in turns, each from word numbers
to changed weights.

    captioner   packed by `captioner.packing`, run by `captioner.recurrence`
    torch       LSTM over packed sequences, softmax over packed tokens alone
    keras       LSTM over captions padded to the longest of the batch, masked
    tutorial    each caption as prefixes, one example a word, padded; one-hot targets

Tokens are words and <end>; padding is work, but never counted. A last line, without a peer, is the
whole captioner: attention, two LSTMs, dropout.

    pip install -c constraints.txt -e ".[benchmark]"     for torch; without it its line is missing
    python benchmarks/training.py                        captions as long as those of Flickr8k
    python benchmarks/training.py data/tokens            or those of the tokenize stage
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from captioner import CaptionerError
from captioner.allocator import keep_large_blocks
from captioner.examples import captions_by_picture, shuffled_batches
from captioner.graph import graph_function
from captioner.text import END, PAD, SPECIALS, START

# Keras and PyTorch add epsilon in different places: it must be too small to matter.
LEARNING_RATE, EPSILON = 1e-3, 1e-10
CAPTIONS, CELLS = 5, 49  # of a picture
SUMMARY = (min, statistics.median, max)
Step = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Sizes:
    vocabulary: int
    words: int
    units: int
    channels: int


def main() -> int:
    keep_large_blocks()  # as the stages do; it counts for the peers too
    options = arguments()
    try:
        tokens = drawn_captions(options) if options.tokens is None else read_tokens(options.tokens)
    except CaptionerError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2
    # Read when TensorFlow starts.
    os.environ |= {"TF_NUM_INTRAOP_THREADS": str(options.threads), "TF_NUM_INTEROP_THREADS": "1"}
    from captioner import quiet_tensorflow  # noqa: F401

    sizes = Sizes(int(tokens.max()) + 1, options.words, options.units, options.channels)
    weights = initial_weights(sizes)
    steps = {"captioner": ours(weights)}
    try:
        steps["torch"] = torch_way(weights, options.threads)
    except ImportError:
        print('no PyTorch to compare with: pip install -c constraints.txt -e ".[benchmark]"')
    steps |= {"keras": keras_way(weights), "tutorial": tutorial(weights)}

    source = batches(tokens, options.pictures, sizes.channels)
    vectors, _, first = next(source)
    agreement = []
    # Keras' Adam squares the gradients of a word's places before it adds them up; hence near only.
    for moment, tolerance in (("at the start", 1e-4), ("after a step", 1e-2)):
        losses = {name: step(vectors, first) for name, step in steps.items()}
        agreement.append(max(losses.values()) - min(losses.values()))
        if not agreement[-1] <= tolerance:
            print(f"benchmark: the losses differ {moment}: {losses}", file=sys.stderr)
            return 1

    steps["with attention"] = whole_model(sizes)
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(options.repeats + 1):
        vectors, grids, captions = next(source)
        count = int((captions[..., 1:] != PAD).sum())
        for name, step in steps.items():
            started = time.perf_counter()
            step(grids if name == "with attention" else vectors, captions)
            if turn:  # the first one warms up
                rates[name].append(count / (time.perf_counter() - started))
    print(
        f"{options.pictures} pictures x {CAPTIONS} captions a step, {sizes.vocabulary} words, "
        f"vectors of {sizes.words}, {sizes.units} units, threads: {options.threads}"
    )
    print(f"{'tokens a second':16}{'min':>8}{'median':>8}{'max':>8}   captioner is faster")
    for name, values in rates.items():
        times = ""
        if name in losses and name != "captioner":
            pairs = zip(rates["captioner"], values, strict=True)
            times = f"{statistics.median(mine / theirs for mine, theirs in pairs):13.2f} times"
        print(f"{name:16}" + "".join(f"{f(values):8.0f}" for f in SUMMARY) + times)
    print("losses agree to {:.0e}, after a step to {:.0e}".format(*agreement))
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tokens", nargs="?", type=Path, help="folder that `tokenize` wrote")
    for name, default, what in (
        ("repeats", 10, "turns that count"),
        ("pictures", 32, "pictures a step"),
        ("threads", 1, "threads of each"),
        ("vocabulary", 2926, "words, without a folder of tokens"),
        ("words", 256, "length of the word vectors"),
        ("units", 512, "of the LSTM"),
        ("channels", 1280, "length of the picture's vector"),
    ):
        parser.add_argument(
            f"--{name}", type=int, default=default, help=f"{what} (default: {default})"
        )
    return parser.parse_args()


def drawn_captions(options: argparse.Namespace) -> np.ndarray:
    """Random words in captions of Flickr8k's lengths: (pictures, captions, length)."""
    rng = np.random.default_rng(0)
    shape = (4 * options.pictures, CAPTIONS)
    said = np.clip(np.rint(rng.normal(11, 3.7, shape)), 2, 22).astype(int)  # words and <end>
    tokens = rng.integers(len(SPECIALS), options.vocabulary, (*shape, said.max() + 1))
    tokens[0, 0, 1] = options.vocabulary - 1  # the sizes are read from the tokens
    tokens[..., 0] = START
    tokens[np.arange(tokens.shape[-1]) == said[..., None]] = END
    tokens[np.arange(tokens.shape[-1]) > said[..., None]] = PAD
    return tokens


def read_tokens(folder: Path) -> np.ndarray:
    """The captions of the tokenize stage, of pictures that have five."""
    try:
        captions, pictures = (
            np.load(folder / name, allow_pickle=False) for name in ("captions.npy", "pictures.npy")
        )
    except (OSError, ValueError) as error:
        raise CaptionerError(f"{folder}: no tokens ({error}); run the tokenize stage") from None
    tokens = captions_by_picture(captions, pictures, np.unique(pictures))[:, :CAPTIONS]
    return tokens[(tokens[..., 1] != PAD).all(1)]


def initial_weights(sizes: Sizes) -> dict[str, np.ndarray]:
    """Gates in the order of Keras and PyTorch: input, forget, candidate, output."""
    rng = np.random.default_rng(0)
    shapes = {
        "embedding": (sizes.vocabulary, sizes.words),
        "kernel": (sizes.words, 4 * sizes.units),
        "recurrent": (sizes.units, 4 * sizes.units),
        "bias": (4 * sizes.units,),
        "picture": (sizes.channels, sizes.units),
        "logits": (sizes.units, sizes.vocabulary),
        "logits_bias": (sizes.vocabulary,),
    }
    return {name: rng.normal(0, 0.05, shape).astype("f") for name, shape in shapes.items()}


def batches(
    tokens: np.ndarray, size: int, channels: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Batches without end, all of `size` pictures.

    Yields:
        random vectors (size, channels) float32 and grids (size, cells, channels) float16, and
        captions (size, captions, length).
    """
    rng = np.random.default_rng(0)
    while True:
        for chosen in shuffled_batches(len(tokens), size, rng):
            if len(chosen) == size:
                grids = rng.random((size, CELLS, channels), np.float32)
                yield grids[:, 0], grids.astype(np.float16), tokens[chosen]


def compiled(loss: Callable, variables: list, channels: tuple[int, ...], features_type) -> Step:
    """A training step of the captioner's own.

    Args:
        loss: of features, packed captions and a seed.
        channels: shape of a picture's features.
    """
    import keras
    import tensorflow as tf

    from captioner.packing import SIGNATURE, pack

    optimizer = keras.optimizers.Adam(LEARNING_RATE, epsilon=EPSILON)
    optimizer.build(variables)

    @graph_function(input_signature=[tf.TensorSpec((None, *channels), features_type), SIGNATURE])
    def step(features, captions):
        with tf.GradientTape() as tape:
            found = loss(features, captions, tf.stack([0, tf.cast(optimizer.iterations, tf.int32)]))
        # Dense, so that the gradients of a word's places are added up before Adam squares them.
        gradients = [tf.convert_to_tensor(one) for one in tape.gradient(found, variables)]
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return found

    return lambda features, tokens: float(step(features, pack(tokens)))


def ours(weights: dict[str, np.ndarray]) -> Step:
    import tensorflow as tf

    from captioner.cross_entropy import smoothed_cross_entropy
    from captioner.packing import of_picture
    from captioner.recurrence import packed_lstm

    def reordered(gates):  # the candidate is our last one
        i, f, g, o = np.split(gates, 4, -1)
        return np.concatenate([i, f, o, g], -1)

    lstm = {name: reordered(weights[name]) for name in ("kernel", "recurrent", "bias")}
    w = {name: tf.Variable(value) for name, value in (weights | lstm).items()}

    def loss(features, captions, seed):
        gates = tf.gather(w["embedding"], captions.inputs) @ w["kernel"] + w["bias"]
        nothing = tf.zeros((tf.size(captions.pictures), w["recurrent"].shape[0]))
        h, _ = packed_lstm(gates, w["recurrent"], nothing, nothing, captions.counts)
        merged = h + of_picture(tf.nn.relu(features @ w["picture"]), captions)
        logits = merged @ w["logits"] + w["logits_bias"]
        return smoothed_cross_entropy(logits, captions.targets, 0.0)[0]

    return compiled(loss, list(w.values()), weights["picture"].shape[:1], tf.float32)


def whole_model(sizes: Sizes) -> Step:
    import tensorflow as tf

    from captioner.cross_entropy import smoothed_cross_entropy
    from captioner.model import CaptionModel, Dropout, ModelConfig

    word_vectors = np.random.default_rng(0).normal(size=(sizes.vocabulary, 50))
    model = CaptionModel(
        ModelConfig(sizes.vocabulary, 50, CELLS, sizes.channels, sizes.units, heads=8),
        word_vectors,
    )

    def loss(features, captions, seed):
        logits = model.logits(features, captions, Dropout(0.5, seed))
        return smoothed_cross_entropy(logits, captions.targets, 0.1)[0]

    return compiled(loss, model.trainable_variables, (CELLS, sizes.channels), tf.float16)


def torch_way(weights: dict[str, np.ndarray], threads: int) -> Step:
    import torch
    from torch import nn
    from torch.nn.utils.rnn import pack_padded_sequence

    torch.set_num_threads(threads)
    vocabulary, words = weights["embedding"].shape
    channels, units = weights["picture"].shape
    embedding, lstm = nn.Embedding(vocabulary, words), nn.LSTM(words, units, batch_first=True)
    picture, logits = nn.Linear(channels, units, bias=False), nn.Linear(units, vocabulary)
    for parameter, name in (
        (embedding.weight, "embedding"),
        (lstm.weight_ih_l0, "kernel"),
        (lstm.weight_hh_l0, "recurrent"),
        (lstm.bias_ih_l0, "bias"),
        (picture.weight, "picture"),
        (logits.weight, "logits"),
        (logits.bias, "logits_bias"),
    ):
        value = weights[name] if name == "embedding" else weights[name].T
        parameter.data.copy_(torch.from_numpy(value.copy()))
    lstm.bias_hh_l0.data.zero_()
    lstm.bias_hh_l0.requires_grad_(False)  # a second bias is nothing but a longer step of the first
    model = nn.ModuleList([embedding, lstm, picture, logits])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, LEARNING_RATE, eps=EPSILON)

    def run(features, tokens):
        captions = tokens.reshape(-1, tokens.shape[-1])
        lengths = torch.from_numpy((captions != PAD).sum(1) - 1)
        number = torch.arange(len(captions)) // tokens.shape[1]
        captions = torch.from_numpy(captions.astype(np.int64))

        def packed(rows):
            return pack_padded_sequence(rows, lengths, batch_first=True, enforce_sorted=False)

        inputs, targets = packed(captions[:, :-1]), packed(captions[:, 1:])
        numbers = packed(number[:, None].expand(-1, captions.shape[1] - 1)).data
        h, _ = lstm(inputs._replace(data=embedding(inputs.data)))
        shown = torch.relu(picture(torch.from_numpy(features)))
        loss = nn.functional.cross_entropy(logits(h.data + shown[numbers]), targets.data)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


def merge_model(weights: dict[str, np.ndarray], every_step: bool):
    """The model in Keras' layers.

    Args:
        every_step: says the next word after each word, not only after the last one.
    """
    import keras
    from keras import layers

    vocabulary, words = weights["embedding"].shape
    channels, units = weights["picture"].shape
    picture, caption = keras.Input((channels,)), keras.Input((None,), dtype="int32")
    embedded = layers.Embedding(vocabulary, words, mask_zero=True, name="embedding")(caption)
    h = layers.LSTM(units, return_sequences=every_step, name="lstm")(embedded)
    shown = layers.Dense(units, "relu", use_bias=False, name="picture")(picture)
    if every_step:
        shown = layers.Reshape((1, units))(shown)
    merged = layers.Add()([h, shown])
    said = layers.Dense(vocabulary, None if every_step else "softmax", name="logits")(merged)
    model = keras.Model([picture, caption], said)
    model.get_layer("embedding").set_weights([weights["embedding"]])
    model.get_layer("lstm").set_weights([weights[n] for n in ("kernel", "recurrent", "bias")])
    model.get_layer("picture").set_weights([weights["picture"]])
    model.get_layer("logits").set_weights([weights["logits"], weights["logits_bias"]])
    return model


def fit_step(model, loss) -> Callable[[list, np.ndarray, np.ndarray | None], float]:
    """A step of `Model.fit`, without what fit does once."""
    import keras

    model.compile(keras.optimizers.Adam(LEARNING_RATE, epsilon=EPSILON), loss)

    def step(inputs, targets, weights=None):
        model.reset_metrics()  # else it returns the mean of all losses so far
        return float(model.train_on_batch(inputs, targets, weights))

    return step


def keras_way(weights: dict[str, np.ndarray]) -> Step:
    import keras

    step = fit_step(
        merge_model(weights, every_step=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )

    def run(features, tokens):
        captions = tokens.reshape(-1, tokens.shape[-1])
        captions = captions[:, : (captions != PAD).sum(1).max()]
        inputs, targets = captions[:, :-1], captions[:, 1:]
        there = (targets != PAD).astype("f")
        # Keras divides by all positions; we and PyTorch by the real ones.
        there *= there.size / there.sum()
        inputs = np.where(targets == PAD, PAD, inputs)
        return step([np.repeat(features, tokens.shape[1], 0), inputs], targets, there)

    return run


def tutorial(weights: dict[str, np.ndarray]) -> Step:
    import keras

    vocabulary = len(weights["embedding"])
    step = fit_step(merge_model(weights, every_step=False), "categorical_crossentropy")

    def run(features, tokens):
        pictures, prefixes, following = [], [], []
        for picture, group in zip(features, tokens, strict=True):
            for caption in group:
                for end in range(1, (caption != PAD).sum()):
                    pictures.append(picture)
                    prefixes.append(caption[:end])
                    following.append(caption[end])
        padded = keras.utils.pad_sequences(prefixes, tokens.shape[-1] - 1)
        targets = keras.utils.to_categorical(following, vocabulary)
        return step([np.array(pictures), padded], targets)

    return run


if __name__ == "__main__":
    sys.exit(main())
