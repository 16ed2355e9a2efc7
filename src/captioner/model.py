"""The captioning LSTM: it reads a picture's features and says the next word.

After "Show, Attend and Tell" (Xu et al. 2015, sections 3.1.2 and 3.3): at every step additive
attention (Bahdanau et al. 2014) weighs the cells of the CNN's feature grid by the LSTM's state; the
weighted mean, the context, helps to choose the next word and feeds the LSTM together with it. Word
vectors start from GloVe and pass through a projection.

Everything is laid out picture by picture: axis 0 counts pictures, axis 1 counts sequences of one
picture (its five captions in training, its beam in decoding). What depends on the picture alone is
computed once for all its sequences, and the work over words that needs no state (word projection,
vocabulary softmax) is done outside the loop over time, in one matrix product.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from captioner import CaptionerError
from captioner.files import read_json, write_json
from captioner.text import PAD


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the model, enough to build it before its weights are loaded.

    Attributes:
        vocabulary: number of words, special ones included.
        word_size: length of the (GloVe) word vectors.
        cells, channels: shape of a picture's features; one cell for pooled features.
        units: size of the LSTM state, and to which the channels of a cell are projected.
        attention_units: size of the space in which states and cells are compared.
    """

    vocabulary: int
    word_size: int
    cells: int
    channels: int
    units: int
    attention_units: int


PROJECTED_WORD = 256  # words are projected to this length before they enter the LSTM


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
        self.attention_keys = layers.Dense(config.attention_units, name="attention_keys")
        self.attention_query = layers.Dense(
            config.attention_units, use_bias=False, name="attention_query"
        )
        self.attention_coverage = layers.Dense(
            config.attention_units, use_bias=False, name="attention_coverage"
        )
        self.attention_score = layers.Dense(1, use_bias=False, name="attention_score")
        self.initial_state = layers.Dense(2 * units, activation="tanh", name="initial_state")
        # One LSTM kernel in two parts, since the words' share needs no state (gates: i, f, g, o).
        self.lstm_words = layers.Dense(4 * units, name="lstm_words")
        self.lstm_recurrent = layers.Dense(
            4 * units, use_bias=False, kernel_initializer="glorot_uniform", name="lstm_recurrent"
        )
        self.output_projection = layers.Dense(units, name="output_projection")
        self.vocabulary_logits = layers.Dense(config.vocabulary, name="vocabulary_logits")
        self._build()

    def _build(self) -> None:
        """Create all weights at once, in a fixed order, so that they can be loaded and compared."""
        features = tf.zeros((1, self.config.cells, self.config.channels), tf.float16)
        self.logits(features, tf.zeros((1, 1, 2), tf.int32))
        units = self.config.units
        bias = np.zeros(4 * units, np.float32)
        bias[units : 2 * units] = 1.0  # forget gate (Jozefowicz et al. 2015)
        self.lstm_words.bias.assign(bias)
        self.built = True

    def look(self, features: tf.Tensor) -> tuple[tuple[tf.Tensor, tf.Tensor], tuple]:
        """What depends on the picture alone.

        Args:
            features: (pictures, cells, channels) float16.

        Returns:
            memory: projected cells (pictures, cells, units) and their keys
                (pictures, cells, attention_units).
            state: h and c of the LSTM, each (pictures, 1, units), the first context: the mean
                cell (pictures, 1, units), and coverage (pictures, 1, cells), zeros.
        """
        cells = self.cell_projection(tf.cast(features, tf.float32))
        cells += self.cell_positions(tf.range(self.config.cells))
        mean = tf.reduce_mean(cells, 1, keepdims=True)
        h, c = tf.split(self.initial_state(mean), 2, -1)
        return (cells, self.attention_keys(cells)), (
            h,
            c,
            mean,
            tf.zeros_like(cells[:, None, :, 0]),
        )

    def attend(self, memory: tuple[tf.Tensor, tf.Tensor], h: tf.Tensor, coverage: tf.Tensor):
        """Additive attention with coverage: score = v . tanh(W cell + U h + w coverage).

        Coverage, the sum of a cell's weights so far, tells what was looked at already (See et al.
        2017, section 2.3): else the second object of a scene is all too often the first again.

        Args:
            memory: from `look`.
            h: (pictures, sequences, units).
            coverage: (pictures, sequences, cells).

        Returns:
            context (pictures, sequences, units), weights (pictures, sequences, cells).
        """
        cells, keys = memory
        query = self.attention_query(h)
        covered = self.attention_coverage(coverage[..., None])
        scores = self.attention_score(tf.tanh(keys[:, None] + query[:, :, None] + covered))[..., 0]
        weights = tf.nn.softmax(scores)
        return tf.matmul(weights, cells), weights

    def step(self, memory: tuple, state: tuple, gates_of_words: tf.Tensor):
        """One step: the LSTM reads the last word and context, then looks at the picture anew.

        Looking after reading, the attention knows the word just said (Luong et al. 2015, section
        3.3, input feeding); in Xu et al. 2015 it looks first, for the shape of "a red ..." before
        it knows that "red" was said.

        Args:
            memory, state: from `look` or the last step.
            gates_of_words: (pictures, sequences, 4 units), `lstm_words` of the projected words.

        Returns:
            state, attention weights (pictures, sequences, cells).
        """
        h, c, context, coverage = state
        gates = gates_of_words + self.lstm_recurrent(tf.concat([context, h], -1))
        i, f, g, o = tf.split(gates, 4, -1)
        c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
        h = tf.sigmoid(o) * tf.tanh(c)
        context, weights = self.attend(memory, h, coverage)
        return (h, c, context, coverage + weights), weights

    def logits(self, features: tf.Tensor, tokens: tf.Tensor, dropout: "Dropout | None" = None):
        """Teacher forcing: logits of each real next word of given captions.

        Args:
            features: (pictures, cells, channels) float16.
            tokens: (pictures, sequences, length) int32: <start>, words, <end>, then <pad>.
            dropout: applied to words and outputs when training.

        Returns:
            logits (real tokens, vocabulary) and targets (real tokens,), picture by picture.
        """
        drop = dropout or (lambda x: x)
        memory, state = self.look(features)
        inputs, targets = tokens[:, :, :-1], tokens[:, :, 1:]
        words = drop(self.word_projection(self.words(inputs)))
        gates = tf.unstack(self.lstm_words(words), tokens.shape[2] - 1, axis=2)
        sequences = tf.shape(tokens)[1]
        state = tuple(tf.repeat(x, sequences, axis=1) for x in state)
        outputs = []
        for gates_now in gates:  # unrolled: one graph for each padded length
            state, _ = self.step(memory, state, gates_now)
            h, _, context, _ = state
            outputs.append(tf.concat([h, context], -1))
        outputs = tf.concat([tf.stack(outputs, axis=2), words], -1)
        real = targets != PAD  # the vocabulary softmax costs most: real words only
        logits = self.word_logits(tf.boolean_mask(outputs, real), drop)
        return logits, tf.boolean_mask(targets, real)

    def word_logits(self, outputs: tf.Tensor, drop=lambda x: x) -> tf.Tensor:
        """(..., units + units + PROJECTED_WORD): h, context, word -> (..., vocabulary)."""
        return self.vocabulary_logits(drop(tf.tanh(self.output_projection(drop(outputs)))))

    def next_word(self, memory: tuple, state: tuple, words: tf.Tensor):
        """One step of decoding.

        Args:
            memory: from `look`; state: as `look` gives it, for each sequence.
            words: (pictures, sequences) int32, the last words.

        Returns:
            log-probabilities (pictures, sequences, vocabulary) and the new state.
        """
        projected = self.word_projection(self.words(words))
        state, _ = self.step(memory, state, self.lstm_words(projected))
        h, _, context, _ = state
        logits = self.word_logits(tf.concat([h, context, projected], -1))
        return tf.nn.log_softmax(logits), state


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
    model.save_weights(folder / "weights.weights.h5")


def load_captioner(folder: Path | str) -> CaptionModel:
    """Read what `save_captioner` wrote.

    Raises:
        CaptionerError: a file is missing or damaged.
    """
    folder = Path(folder)
    try:
        model = CaptionModel(ModelConfig(**read_json(folder / "config.json")))
        model.load_weights(folder / "weights.weights.h5")
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:  # h5py raises all
        reason = " ".join(str(error).split())[:200]
        raise CaptionerError(
            f"{folder}: no usable captioner ({reason}); run the train stage"
        ) from None
    return model
