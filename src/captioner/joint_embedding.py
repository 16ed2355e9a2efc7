"""One space for pictures and sentences: what belongs together lies close together there.

As in "Unifying Visual-Semantic Embeddings with Multimodal Neural Language Models" (Kiros et al.
2014) a picture and a sentence each become a vector of length one, and their dot product says how
well they fit. A picture is pooled from its grid by attention in several heads, each with a query of
its own (Lin et al. 2017, "A Structured Self-attentive Sentence Embedding"), since a mean over the
cells drowns what is small. A sentence is read by an LSTM over word vectors that start from GloVe.

Such vectors know what a sentence is about, and mix up what it names. So a part of each vector is
about words: for a picture how much more likely each of the frequent words is than in any caption,
log p(word | picture) / p(word), where that is more; for a sentence which of them it holds, rare
ones counting for more. How both parts learn is in `contrastive.py`.

Some pictures and sentences are near to everything, and would be found for everything. So what
counts is not the cosine alone, but less half the mean cosine of either side with its nearest ones
among a thousand of the training split (Conneau et al. 2018, section 2.3). Four more numbers a
vector make the dot product just that, and keep all vectors at length one; see `_cross_domain`.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from captioner import CaptionerError
from captioner.checkpoints import check_weights, load_weights, save_weights
from captioner.files import read_json, write_json
from captioner.graph import graph_function
from captioner.model import DAMAGE, PROJECTED_WORD
from captioner.packing import SIGNATURE, Packed, pack
from captioner.recurrence import packed_lstm
from captioner.text import PAD

HEADS = 4  # of the pooling of a grid
TEMPERATURE = 0.07  # at the start, as in Radford et al. 2021, section 2.3
BATCH = 256  # pictures or sentences a call
REFERENCES = 1000  # training pictures, and captions, that tell what is near to everything
NEAREST = 10  # of them


@dataclass(frozen=True)
class JointConfig:
    """Sizes of the model, enough to build it before its weights are loaded.

    Attributes:
        vocabulary: number of words, special ones included.
        word_size: length of the (GloVe) word vectors.
        cells, channels: shape of a picture's features; one cell for pooled features.
        size: length of the first part of the vectors, and of the LSTM's state.
        known: number of words that the second part is about.
        references: number of training pictures, and of captions; see the module.
    """

    vocabulary: int
    word_size: int
    cells: int
    channels: int
    size: int
    known: int
    references: int

    @property
    def parameters(self) -> int:
        """Number of weights."""
        size, known = self.size, self.known
        embedding = self.vocabulary * self.word_size + (self.word_size + 1) * PROJECTED_WORD
        sentence = (PROJECTED_WORD + 1 + size) * 4 * size + (size + 1) * size
        picture = (self.channels + 1) * size + (size + 1) * (HEADS + size)
        words = (self.channels + 1) * known + self.vocabulary + known  # columns, shares
        references = 2 * self.references * (size + known)
        return embedding + sentence + picture + words + references + 2  # scale, words_share

    @property
    def dimensions(self) -> int:
        """Length of the vectors."""
        return self.size + self.known + 4


class JointModel(keras.Model):
    """Pictures and sentences to vectors of length one.

    Args:
        config: the sizes.
        word_vectors: (vocabulary, word_size) start values of the word vectors, or None if weights
            are loaded next.
        known: (known,) ids of the words that the second part is about; None likewise.
    """

    def __init__(
        self,
        config: JointConfig,
        word_vectors: np.ndarray | None = None,
        known: np.ndarray | None = None,
    ):
        super().__init__(name="joint")
        self.config = config
        size = config.size
        start = "zeros" if word_vectors is None else keras.initializers.Constant(word_vectors)
        self.words = layers.Embedding(
            config.vocabulary, config.word_size, embeddings_initializer=start, name="words"
        )
        self.word_projection = layers.Dense(PROJECTED_WORD, name="word_projection")
        self.gates = layers.Dense(4 * size, name="gates")
        self.recurrent = layers.Dense(4 * size, use_bias=False, name="recurrent")
        self.sentence_projection = layers.Dense(size, name="sentence_projection")
        self.cell_projection = layers.Dense(size, activation="relu", name="cell_projection")
        self.cell_scores = layers.Dense(HEADS, name="cell_scores")
        self.picture_projection = layers.Dense(size, name="picture_projection")
        self.log_scale = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(-np.log(TEMPERATURE)), name="scale"
        )
        self.seen_words = layers.Dense(config.known, kernel_initializer="zeros", name="seen_words")
        self.columns = self.add_weight(
            shape=(config.vocabulary,), dtype="int32", initializer="zeros", trainable=False
        )  # of the second part; `known` for words that it is not about
        self.shares = self.add_weight(
            shape=(config.known,), initializer=keras.initializers.Constant(0.5), trainable=False
        )  # of the captions that hold each of its words
        self.words_share = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(0.3), trainable=False
        )  # of the second part in the square of a vector's length
        shape = (config.references, config.size + config.known)
        self.reference_pictures = self.add_weight(shape=shape, initializer="zeros", trainable=False)
        self.reference_sentences = self.add_weight(
            shape=shape, initializer="zeros", trainable=False
        )
        self._build()
        if known is not None:
            columns = np.full(config.vocabulary, config.known, np.int32)
            columns[known] = np.arange(config.known)
            self.columns.assign(columns)

    def _build(self) -> None:
        """Create all weights at once, in a fixed order, so that they can be loaded and compared."""
        config = self.config
        nothing = tf.zeros((1, config.cells, config.channels), tf.float16)
        self.gist_of_pictures(nothing)
        self.words_seen(nothing)
        read = self.word_projection(self.words(tf.zeros((1,), tf.int32)))
        self.gates(read)
        state = tf.zeros((1, config.size))
        self.recurrent(state)
        self.sentence_projection(state)
        bias = np.zeros(4 * config.size, np.float32)
        bias[config.size : 2 * config.size] = 1.0  # forget gate (Jozefowicz et al. 2015)
        self.gates.bias.assign(bias)
        self.built = True

    def pictures(self, features: tf.Tensor) -> tf.Tensor:
        """(pictures, cells, channels) float16 to (pictures, size + known) of length one."""
        return self._parts(self.gist_of_pictures(features), self.likelier(features))

    def evidence(self, features: tf.Tensor) -> tf.Tensor:
        """What a picture says for each word that a caption may hold, see `beam_search`.

        Args:
            features: (pictures, cells, channels) float16; one cell for pooled features.

        Returns:
            (pictures, vocabulary), log p(word | picture) / p(word), or 0 where that is less, or
            where the second part is not about the word.
        """
        likely = tf.pad(self.likelier(features), ((0, 0), (0, 1)))
        return tf.gather(likely, self.columns, axis=1)

    def likelier(self, features: tf.Tensor) -> tf.Tensor:
        """The same, (pictures, known), for the words that the second part is about alone."""
        likely = tf.math.log_sigmoid(self.words_seen(features)) - tf.math.log(self.shares)
        return tf.nn.relu(likely)

    def sentences(self, captions: Packed) -> tf.Tensor:
        """Packed sentences to (sentences, size + known) of length one, in their packed order.

        For use inside a `tf.function`.
        """
        weights = tf.sqrt(-tf.math.log(self.shares))
        return self._parts(self.gist_of_sentences(captions), weights * self.words_said(captions))

    def _parts(self, first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
        """Both parts side by side, or one alone where the other is nothing."""
        share = tf.convert_to_tensor(self.words_share)
        second = tf.math.l2_normalize(second, -1)
        both = tf.concat([tf.sqrt(1 - share) * first, tf.sqrt(share) * second], -1)
        return tf.math.l2_normalize(both, -1)

    def gist_of_pictures(self, features: tf.Tensor, drop=lambda x: x) -> tf.Tensor:
        """The first part: (pictures, cells, channels) float16 to (pictures, size) of length one.

        Args:
            drop: applied to what is projected when training.
        """
        features = tf.cast(features, tf.float32)
        cells = self.cell_projection(drop(features))
        weights = tf.nn.softmax(self.cell_scores(cells), 1)
        # Each head pools its own part of the channels.
        parts = tf.reshape(cells, (-1, self.config.cells, HEADS, self.config.size // HEADS))
        pooled = tf.reshape(tf.einsum("pch,pchd->phd", weights, parts), (-1, self.config.size))
        return tf.math.l2_normalize(self.picture_projection(drop(pooled)), -1)

    def gist_of_sentences(self, captions: Packed, drop=lambda x: x) -> tf.Tensor:
        """The first part of packed sentences, (sentences, size) of length one."""
        words = drop(self.word_projection(self.words(captions.inputs)))
        count = tf.size(captions.captions)
        nothing = tf.zeros((count, self.config.size))
        kernel = tf.convert_to_tensor(self.recurrent.kernel)
        read, _ = packed_lstm(self.gates(words), kernel, nothing, nothing, captions.counts)
        # Where the last word of each sentence stands among the tokens.
        lengths = tf.reduce_sum(tf.cast(captions.counts[:, None] > tf.range(count), tf.int32), 0)
        starts = tf.cumsum(captions.counts, exclusive=True)
        last = tf.gather(starts, lengths - 1) + tf.range(count)
        return tf.math.l2_normalize(self.sentence_projection(drop(tf.gather(read, last))), -1)

    def words_seen(self, features: tf.Tensor, drop=lambda x: x) -> tf.Tensor:
        """(pictures, cells, channels) float16 to (pictures, known): logits of the probability that
        a caption holds the word."""
        return self.seen_words(drop(tf.reduce_mean(tf.cast(features, tf.float32), 1)))

    def words_said(self, captions: Packed) -> tf.Tensor:
        """(sentences, known): 1.0 for the words that packed sentences hold."""
        # The step of each token, and from it the sentence.
        starts = tf.cumsum(captions.counts, exclusive=True)
        tokens = tf.range(tf.size(captions.inputs))
        steps = tf.searchsorted(starts, tokens, side="right") - 1
        places = tf.stack(
            [tokens - tf.gather(starts, steps), tf.gather(self.columns, captions.inputs)], 1
        )
        shape = (tf.size(captions.captions), self.config.known + 1)
        counts = tf.scatter_nd(places, tf.ones(tf.shape(places)[0]), shape)
        return tf.minimum(counts[:, :-1], 1.0)


class JointEncoder:
    """Vectors of any number of pictures and sentences, one compiled function for each.

    Args:
        model: its weights of the moment count at each call, but for the references.
    """

    def __init__(self, model: JointModel):
        self.config = config = model.config
        features = tf.TensorSpec((None, config.cells, config.channels), tf.float16)
        self._pictures = graph_function(model.pictures, input_signature=[features])
        self._sentences = graph_function(model.sentences, input_signature=[SIGNATURE])
        self._near_pictures = model.reference_sentences.numpy()
        self._near_sentences = model.reference_pictures.numpy()

    def pictures(self, features: np.ndarray) -> np.ndarray:
        """(pictures, cells, channels) float16, perhaps a memory map, to (pictures, dimensions)."""
        found = np.empty((len(features), self.config.dimensions), np.float32)
        for start in range(0, len(features), BATCH):
            chosen = slice(start, start + BATCH)
            vectors = self._pictures(np.asarray(features[chosen])).numpy()
            found[chosen] = _cross_domain(vectors, self._near_pictures, picture=True)
        return found

    def sentences(self, tokens: np.ndarray) -> np.ndarray:
        """Sentences to vectors.

        Args:
            tokens: (sentences, length) integer as `text.encode_captions` gives them.

        Returns:
            (sentences, dimensions); zeros for a sentence without a word.
        """
        # What is said twice is read once: rounding differs with the place in a batch, and would
        # rank equal sentences.
        tokens, which = np.unique(tokens, axis=0, return_inverse=True)
        found = np.zeros((len(tokens), self.config.dimensions), np.float32)
        said = np.flatnonzero((tokens != PAD).sum(1) > 2)  # more than <start> and <end>
        for start in range(0, len(said), BATCH):
            chosen = said[start : start + BATCH]
            packed = pack(tokens[chosen][None].astype(np.int32))
            vectors = self._sentences(packed).numpy()
            found[chosen[packed.captions]] = _cross_domain(
                vectors, self._near_sentences, picture=False
            )
        return found[which]


def _cross_domain(vectors: np.ndarray, references: np.ndarray, picture: bool) -> np.ndarray:
    """Four more numbers, such that half of cosine less both sides' nearness is the dot product.

    With r a vector's mean cosine with the nearest of the other kind, b = r / sqrt(2) and
    c = sqrt(1 / 2):

        picture   [p, -b_p, c, sqrt(1 / 2 - b_p^2), 0] / sqrt(2)
        sentence  [s, c, -b_s, 0, sqrt(1 / 2 - b_s^2)] / sqrt(2)

    Their dot product is (p s - r_p / 2 - r_s / 2) / 2; each is of length one.

    Args:
        vectors: (n, size + known) of length one.
        references: (references, size + known) of the other kind, of length one or zeros.
    """
    near = vectors @ references.T
    most = min(NEAREST, near.shape[1])
    nearness = np.partition(near, -most, axis=1)[:, -most:].mean(1, keepdims=True) / 2**0.5
    one, none = np.full_like(nearness, 0.5**0.5), np.zeros_like(nearness)
    rest = np.sqrt(np.maximum(0.5 - np.square(nearness), 0))
    more = (-nearness, one, rest, none) if picture else (one, -nearness, none, rest)
    return np.concatenate([vectors, *more], 1) / 2**0.5


def save_joint(model: JointModel, folder: Path) -> None:
    """Write config.json and weights.weights.h5 into an existing folder."""
    write_json(folder / "config.json", asdict(model.config))
    save_weights(model, folder / "weights.weights.h5")


def load_joint(folder: Path | str) -> JointModel:
    """Read what `save_joint` wrote.

    Raises:
        CaptionerError: a file is missing or damaged.
    """
    folder = Path(folder)
    try:
        config = JointConfig(**read_json(folder / "config.json"))
        # Before it is built: wrong sizes would ask for any amount of memory.
        check_weights(folder / "weights.weights.h5", config.parameters)
        model = JointModel(config)
        load_weights(model, folder / "weights.weights.h5")
    except DAMAGE as error:
        reason = " ".join(str(error).split())[:200]
        raise CaptionerError(
            f"{folder}: no usable joint embedding ({reason}); run the joint stage"
        ) from None
    return model
