"""The captioning LSTM: it reads a picture's features and says the next word.

Three layers, as in "Bottom-Up and Top-Down Attention" (Anderson et al. 2018, section 3.2): a first
LSTM reads the words said so far, its state asks the picture where to look, and a second LSTM reads
what was found there and chooses the next word. Unlike there nothing flows back from the second LSTM
to the first; so in training each layer runs over whole captions before the next one starts, and the
attention of all words is one matrix product. Attention is by scaled dot products in several heads
(Vaswani et al. 2017, section 3.2.2) over the cells of the CNN's grid. Word vectors start from GloVe
and pass through a projection.

What depends on the picture alone is computed once for all its captions or its whole beam. Training
and decoding have a layout each: captions "packed" without padding (`packing.Packed`), and
(pictures, sequences, ...) for one word of all hypotheses.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from captioner import CaptionerError
from captioner.checkpoints import check_weights, load_weights, save_weights
from captioner.files import read_json, write_json
from captioner.packing import Packed, by_picture, by_token, of_picture
from captioner.recurrence import lstm_cell, packed_lstm
from captioner.text import START

PROJECTED_WORD = 256  # words are projected to this length before they enter the LSTM


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the model, enough to build it before its weights are loaded.

    Attributes:
        vocabulary: number of words, special ones included.
        word_size: length of the (GloVe) word vectors.
        cells, channels: shape of a picture's features; one cell for pooled features.
        units: size of the LSTMs' states, and to which the channels of a cell are projected.
        heads: of the attention; they share the units among themselves.
    """

    vocabulary: int
    word_size: int
    cells: int
    channels: int
    units: int
    heads: int

    @property
    def parameters(self) -> int:
        """Number of weights."""
        words, units, projected = self.vocabulary, self.units, PROJECTED_WORD
        embedding = words * self.word_size + (self.word_size + 1) * projected
        picture = (self.channels + 1 + self.cells) * units  # projection, positions
        attention = 2 * units**2 + (units + 1) * 2 * units  # keys, query, initial state
        reader = (projected + 1 + 2 * units) * 4 * units
        speaker = (3 * units + 1) * 4 * units
        outputs = (2 * units + projected + 1) * units + (units + 1) * words
        return embedding + picture + attention + reader + speaker + outputs


class Memory(NamedTuple):
    """What depends on a picture alone.

    Attributes:
        cells: (pictures, heads, cells, units / heads), the projected grid, what attention finds.
        keys: of the same shape, what it compares with.
        gates: (pictures, 4 units), the picture's share of the first LSTM's gates.
    """

    cells: tf.Tensor
    keys: tf.Tensor
    gates: tf.Tensor


class CaptionModel(keras.Model):
    """An attention LSTM over a picture's features.

    Args:
        config: the sizes.
        word_vectors: (vocabulary, word_size) start values of the word vectors, or None if weights
            are loaded next.
    """

    def __init__(self, config: ModelConfig, word_vectors: np.ndarray | None = None):
        super().__init__(name="captioner")
        self.config = config
        start = "zeros" if word_vectors is None else keras.initializers.Constant(word_vectors)
        scatter = keras.initializers.RandomNormal(stddev=0.2)
        units = config.units
        self.words = layers.Embedding(
            config.vocabulary, config.word_size, embeddings_initializer=start, name="words"
        )
        self.word_projection = layers.Dense(PROJECTED_WORD, name="word_projection")
        self.cell_projection = layers.Dense(units, activation="relu", name="cell_projection")
        # The CNN's cells hardly know where they are; "left of" needs it.
        self.cell_positions = layers.Embedding(
            config.cells, units, embeddings_initializer=scatter, name="cell_positions"
        )
        self.keys = layers.Dense(units, use_bias=False, name="keys")
        self.query = layers.Dense(units, use_bias=False, name="query")
        self.initial_state = layers.Dense(2 * units, activation="tanh", name="initial_state")
        # Each LSTM's kernel in parts: what needs no state is multiplied outside the recurrence.
        self.reader_words = layers.Dense(4 * units, name="reader_words")
        self.reader_picture = layers.Dense(4 * units, use_bias=False, name="reader_picture")
        self.reader_recurrent = layers.Dense(4 * units, use_bias=False, name="reader_recurrent")
        self.speaker_inputs = layers.Dense(4 * units, name="speaker_inputs")
        self.speaker_recurrent = layers.Dense(4 * units, use_bias=False, name="speaker_recurrent")
        self.output_projection = layers.Dense(units, activation="tanh", name="output_projection")
        self.vocabulary_logits = layers.Dense(config.vocabulary, name="vocabulary_logits")
        self._build()

    def _build(self) -> None:
        """Create all weights at once, in a fixed order, so that they can be loaded and compared."""
        config, units = self.config, self.config.units
        memory, state = self.look(tf.zeros((1, config.cells, config.channels), tf.float16))
        self.next_word(memory, state, tf.zeros((1, 1), tf.int32))
        bias = np.zeros(4 * units, np.float32)
        bias[units : 2 * units] = 1.0  # forget gate (Jozefowicz et al. 2015)
        self.reader_words.bias.assign(bias)
        self.speaker_inputs.bias.assign(bias)
        self.built = True

    def look(self, features: tf.Tensor, drop=lambda x: x) -> tuple[Memory, tuple]:
        """What depends on the picture alone.

        Args:
            features: (pictures, cells, channels) float16.
            drop: applied to the picture's mean when training.

        Returns:
            the memory, and the state before the first word: h and c of both LSTMs, each
            (pictures, 1, units).
        """
        cells = self.cell_projection(tf.cast(features, tf.float32))
        mean = tf.reduce_mean(cells, 1)
        h, c = tf.split(self.initial_state(mean)[:, None], 2, -1)
        cells += self.cell_positions(tf.range(self.config.cells))
        keys, cells = self._heads(self.keys(cells)), self._heads(cells)
        nothing = tf.zeros_like(h)
        return Memory(cells, keys, self.reader_picture(drop(mean))), (h, c, nothing, nothing)

    def attend(self, memory: Memory, h: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Scaled dot-product attention.

        Args:
            memory: from `look`.
            h: (pictures, sequences, units), states of the first LSTM.

        Returns:
            context (pictures, sequences, units), and weights (pictures, heads, sequences, cells).
        """
        query = self._heads(self.query(h))
        scores = tf.matmul(query, memory.keys, transpose_b=True) / query.shape[-1] ** 0.5
        weights = tf.nn.softmax(scores)
        context = tf.transpose(tf.matmul(weights, memory.cells), (0, 2, 1, 3))
        return tf.reshape(context, tf.shape(h)), weights

    def _heads(self, x: tf.Tensor) -> tf.Tensor:
        """(pictures, n, units) to (pictures, heads, n, units / heads)."""
        heads, units = self.config.heads, self.config.units
        pictures, n = tf.unstack(tf.shape(x)[:2])
        return tf.transpose(tf.reshape(x, (pictures, n, heads, units // heads)), (0, 2, 1, 3))

    def embed(self, words: tf.Tensor) -> tf.Tensor:
        """Word numbers (...) to projected words (..., PROJECTED_WORD)."""
        return self.word_projection(self.words(words))

    def step(self, memory: Memory, state: tuple, words: tf.Tensor):
        """Read a word of each sequence.

        Args:
            memory, state: from `look` or the last step.
            words: (pictures, sequences) int32.

        Returns:
            state, outputs (pictures, sequences, 2 units + PROJECTED_WORD) for `word_logits`, and
            attention weights (pictures, heads, sequences, cells).
        """
        reader_h, reader_c, speaker_h, speaker_c = state
        words = self.embed(words)
        gates = self.reader_words(words) + memory.gates[:, None] + self.reader_recurrent(reader_h)
        reader_h, reader_c = lstm_cell(gates, reader_c)
        context, weights = self.attend(memory, reader_h)
        gates = self.speaker_inputs(tf.concat([context, reader_h], -1))
        speaker_h, speaker_c = lstm_cell(gates + self.speaker_recurrent(speaker_h), speaker_c)
        outputs = tf.concat([speaker_h, context, words], -1)
        return (reader_h, reader_c, speaker_h, speaker_c), outputs, weights

    def word_logits(self, outputs: tf.Tensor, drop=lambda x: x) -> tf.Tensor:
        """(..., 2 units + PROJECTED_WORD): h, context, word -> (..., vocabulary)."""
        return self.vocabulary_logits(drop(self.output_projection(drop(outputs))))

    def next_word(self, memory: Memory, state: tuple, words: tf.Tensor):
        """One step of decoding.

        Args:
            memory: from `look`; state: as `look` gives it, for each sequence.
            words: (pictures, sequences) int32, the last words.

        Returns:
            log-probabilities (pictures, sequences, vocabulary) and the new state.
        """
        state, outputs, _ = self.step(memory, state, words)
        return tf.nn.log_softmax(self.word_logits(outputs)), state

    def looked_at(self, features: tf.Tensor, words: tf.Tensor) -> tf.Tensor:
        """Where it looks as it chooses each word of given captions; for use inside a `tf.function`.

        Args:
            features: (pictures, cells, channels) float16.
            words: (pictures, length) int32, without <start>.

        Returns:
            (pictures, length, cells), attention weights, the mean of all heads.
        """
        memory, state = self.look(features)
        # `step` reads a word and then looks, and what it sees chooses the next word: the weights
        # of a word are those after reading the one before it, for the first word <start>.
        pictures, length = tf.unstack(tf.shape(words))
        read = tf.concat([tf.fill((pictures, 1), START), words[:, :-1]], 1)
        found = tf.TensorArray(tf.float32, length)

        def advance(position, state, found):
            state, _, weights = self.step(memory, state, read[:, position, None])
            return position + 1, state, found.write(position, tf.reduce_mean(weights[:, :, 0], 1))

        start = (tf.constant(0), state, found)
        *_, found = tf.while_loop(lambda position, *_: position < length, advance, start)
        return tf.transpose(found.stack(), (1, 0, 2))

    def logits(self, features: tf.Tensor, captions: Packed, dropout: "Dropout | None" = None):
        """Teacher forcing: logits of each next word of given captions.

        Args:
            features: (pictures, cells, channels) float16.
            captions: of these pictures, as tensors.
            dropout: applied to what the layers read and to the outputs when training.

        Returns:
            logits (tokens, vocabulary), for `captions.targets`.
        """
        drop = dropout or (lambda x: x)
        memory, state = self.look(features, drop)
        h, c, nothing, _ = (tf.gather(x[:, 0], captions.pictures) for x in state)
        words = drop(self.embed(captions.inputs))
        gates = self.reader_words(words) + of_picture(memory.gates, captions)
        kernel = tf.convert_to_tensor(self.reader_recurrent.kernel)
        heard, _ = packed_lstm(gates, kernel, h, c, captions.counts)
        context, _ = self.attend(memory, by_picture(heard, captions))
        context = by_token(context, captions)
        gates = self.speaker_inputs(drop(tf.concat([context, heard], -1)))
        kernel = tf.convert_to_tensor(self.speaker_recurrent.kernel)
        said, _ = packed_lstm(gates, kernel, nothing, nothing, captions.counts)
        return self.word_logits(tf.concat([said, context, words], -1), drop)


class Dropout:
    """Stateless dropout: the masks depend on the seed alone, so that a resumed training repeats
    them.

    Args:
        rate: share of values set to zero.
        seed: (2,) int32, another one for each training step.
    """

    def __init__(self, rate: float, seed: tf.Tensor):
        self.rate, self.seed, self.calls = rate, seed, 0

    def __call__(self, values: tf.Tensor) -> tf.Tensor:
        self.calls += 1
        seed = tf.random.experimental.stateless_fold_in(self.seed, self.calls)
        return tf.nn.experimental.stateless_dropout(values, self.rate, seed=seed)


def save_captioner(model: CaptionModel, folder: Path) -> None:
    """Write config.json and weights.weights.h5 into an existing folder."""
    write_json(folder / "config.json", asdict(model.config))
    save_weights(model, folder / "weights.weights.h5")


# h5py raises the first five, sizes that do not fit the others.
DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    RuntimeError,
    ArithmeticError,
    tf.errors.OpError,
)


def load_captioner(folder: Path | str) -> CaptionModel:
    """Read what `save_captioner` wrote.

    Raises:
        CaptionerError: a file is missing or damaged.
    """
    folder = Path(folder)
    try:
        config = ModelConfig(**read_json(folder / "config.json"))
        # Before it is built: wrong sizes would ask for any amount of memory.
        check_weights(folder / "weights.weights.h5", config.parameters)
        model = CaptionModel(config)
        load_weights(model, folder / "weights.weights.h5")
    except DAMAGE as error:
        reason = " ".join(str(error).split())[:200]
        raise CaptionerError(
            f"{folder}: no usable captioner ({reason}); run the train stage"
        ) from None
    return model


def load_captioners(folder: Path | str) -> list[CaptionModel]:
    """The captioners in the folders below this one, in the order of their numbers.

    Raises:
        CaptionerError: there is none, or a file is missing or damaged.
    """
    folders = sorted((part for part in Path(folder).glob("*/")), key=lambda part: int(part.name))
    if not folders:
        raise CaptionerError(f"{folder}: no captioner here; run the train stage")
    return [load_captioner(part) for part in folders]
