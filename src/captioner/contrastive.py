"""How the joint embedding learns: which words pictures show, then what belongs together.

The words' part (`joint_embedding`) is a logistic regression for each word, on the mean of a
picture's features: is it in a caption? It is learned first. The other part learns by InfoNCE in
both directions with a learned temperature (van den Oord et al. 2018; Radford et al. 2021, section
2.3): each caption picks its picture among the batch's, each picture its caption among those of the
other pictures. A picture's captions are no negatives of each other: all of them are right. Learned
together, each would leave to the other what it can do itself, and both would be worth less. How
much either counts is what finds most in the validation split.
"""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from captioner.checkpoints import State, assign, load_arrays
from captioner.examples import Examples
from captioner.files import atomic_file
from captioner.graph import graph_function
from captioner.joint_embedding import JointEncoder, JointModel
from captioner.metrics.retrieval import ranks
from captioner.model import Dropout
from captioner.packing import SIGNATURE, Packed, pack
from captioner.text import PAD

COLDEST = 0.01  # temperature, at least, as in Radford et al. 2021, section 2.5
CLIP_NORM, EMA = 5.0, 0.998  # as for the captioner; see the section `train` of params.yaml
KS = (1, 5, 10)
# Of the words: measured on Flickr8k's validation split; more passes or a hidden layer find less.
WORDS, WORD_PASSES, WORD_BATCH, WORD_RATE, WORD_DROPOUT = 1000, 10, 64, 0.001, 0.3
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
LEAST_STEPS = 1000  # of few pictures more passes


class Contrastive:
    """See `training.Objective`.

    Args:
        model: the joint embedding.
        examples: the training split.
        dropout: share of values set to zero.
    """

    name, measure, selects = "joint embedding", "loss", "val_recall"
    remedy = "joint.learning_rate"

    def __init__(self, model: JointModel, examples: Examples, dropout: float):
        self.model, self.examples, self.names = model, examples, examples.names
        self.dropout = dropout
        config = model.config
        features = tf.TensorSpec((None, config.cells, config.channels), tf.float16)
        self.signature = (features, SIGNATURE)

    def batch(self, chosen: np.ndarray, seed: tuple[int, int]) -> tuple:
        """The pictures' features, some of them mirrored, and their captions."""
        features = self.examples.load(chosen, np.random.default_rng(seed))
        return features, pack(self.examples.tokens[chosen])

    def loss(self, batch: tuple, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Reports the mean of both directions' losses a caption, in nats."""
        features, captions = batch
        drop = Dropout(self.dropout, seed)
        pictures = self.model.gist_of_pictures(features, drop)
        sentences = self.model.gist_of_sentences(captions, drop)
        scale = tf.exp(tf.minimum(tf.convert_to_tensor(self.model.log_scale), -np.log(COLDEST)))
        losses = info_nce(
            scale * tf.matmul(sentences, pictures, transpose_b=True), captions.pictures
        )
        return tf.reduce_mean(losses), tf.reduce_sum(losses), tf.size(losses)


def learn_words(model: JointModel, examples: Examples, seed: int, state: State) -> None:
    """Learn the words' part of a model, and leave it as it is from then on.

    Args:
        examples: the training split.
        seed: of the order of the pictures, of what is mirrored and of dropout.
        state: what was learned is kept there, and taken from there.
    """
    learned = [*model.seen_words.weights, model.shares]
    kept = state.folder / "words.npz"
    if kept.exists():
        with state.reading():
            assign(learned, load_arrays(kept))
    else:
        _learn_words(model, examples, seed)
        with atomic_file(kept) as path:
            np.savez(path, *[variable.numpy() for variable in learned])
    model.seen_words.trainable = False


def _learn_words(model: JointModel, examples: Examples, seed: int) -> None:
    known = model.config.known
    columns = model.columns.numpy()[examples.tokens.reshape(-1, examples.tokens.shape[-1])]
    pairs = np.unique(np.arange(len(columns))[:, None] * (known + 1) + columns)
    held = np.bincount(pairs % (known + 1), minlength=known + 1)[:known]
    captions = int((examples.tokens != PAD).any(-1).sum())
    shares = np.clip(held / captions, 0.5 / captions, 1 - 0.5 / captions)
    model.shares.assign(shares)
    model.seen_words.bias.assign(np.log(shares / (1 - shares)))
    weights = model.seen_words.trainable_variables
    optimizer = keras.optimizers.Adam(WORD_RATE)
    optimizer.build(weights)

    @graph_function(
        input_signature=[
            tf.TensorSpec((None, model.config.cells, model.config.channels), tf.float16),
            SIGNATURE,
            tf.TensorSpec((2,), tf.int32),
        ]
    )
    def step(features: tf.Tensor, captions: Packed, seed: tf.Tensor) -> None:
        owners = tf.one_hot(captions.pictures, tf.shape(features)[0])
        said = tf.matmul(owners, model.words_said(captions), transpose_a=True)
        target = said / tf.maximum(tf.reduce_sum(owners, 0), 1.0)[:, None]
        with tf.GradientTape() as tape:
            logits = model.words_seen(features, Dropout(WORD_DROPOUT, seed))
            losses = tf.nn.sigmoid_cross_entropy_with_logits(target, logits)
            loss = tf.reduce_mean(tf.reduce_sum(losses, 1))
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))

    rng = np.random.default_rng(seed)
    count, steps = len(examples.rows), 0
    passes = max(WORD_PASSES, -(-LEAST_STEPS * WORD_BATCH // count))
    with tqdm(total=passes * count, desc="words", unit="picture", disable=None) as bar:
        for _ in range(passes):
            order = rng.permutation(count)
            for start in range(0, count, WORD_BATCH):
                chosen = np.sort(order[start : start + WORD_BATCH])
                captions_of = pack(examples.tokens[chosen])
                step(examples.load(chosen, rng), captions_of, np.int32([seed, steps]))
                steps += 1
                bar.update(len(chosen))


def choose_share(model: JointModel, score: Callable[[], dict[str, float]]) -> float:
    """Let the words' part count for what gives the best recall; returns its share.

    Args:
        score: see `validator`.
    """
    found = []
    for share in SHARES:
        model.words_share.assign(share)
        found.append(score()["val_recall"])
    model.words_share.assign(SHARES[int(np.argmax(found))])
    return SHARES[int(np.argmax(found))]


def keep_references(model: JointModel, examples: Examples) -> None:
    """Keep some training pictures, and a caption of each, in a model that has learned.

    Args:
        examples: the training split; evenly spread ones are taken.
    """
    tokens, owners = sentences_of(examples)
    pictures, first = np.unique(owners, return_index=True)
    chosen = np.linspace(0, len(pictures) - 1, model.config.references).astype(int)
    features = tf.constant(examples.load(pictures[chosen]))
    model.reference_pictures.assign(model.pictures(features))
    packed = pack(tokens[first[chosen]][None].astype(np.int32))
    vectors = np.empty(model.reference_sentences.shape, np.float32)
    vectors[packed.captions] = graph_function(model.sentences)(packed)
    model.reference_sentences.assign(vectors)


def info_nce(scores: tf.Tensor, owners: tf.Tensor) -> tf.Tensor:
    """The loss of each caption, the mean of its two directions, in nats.

    Args:
        scores: (captions, pictures), how well they fit, over the temperature.
        owners: (captions,) int32, the picture of each.

    Returns:
        (captions,): minus the log-probability of its picture among all pictures, and of itself
        among itself and the captions of other pictures.
    """
    own = tf.gather(scores, owners, batch_dims=1)
    of_pictures = tf.reduce_logsumexp(scores, 1) - own
    mine = tf.one_hot(owners, tf.shape(scores)[1], on_value=True, off_value=False)
    others = tf.reduce_logsumexp(tf.where(mine, -1e9, scores), 0)  # (pictures,)
    of_captions = tf.nn.softplus(tf.gather(others, owners) - own)
    return (of_pictures + of_captions) / 2


def validator(model: JointModel, examples: Examples) -> Callable[[], dict[str, float]]:
    """Scores of a model in training on the validation split.

    Args:
        model: its weights of the moment count at each call.
        examples: the validation split.

    Returns:
        a function that gives `val_text_recall` and `val_picture_recall`, the means of R@1, R@5 and
        R@10 for the captions found for a picture and for the pictures found for a caption, and
        `val_recall`, the mean of both.
    """
    encoder = JointEncoder(model)
    tokens, owners = sentences_of(examples)
    # The rows of a split lie together: a slice of the memory map, no copy.
    features = examples.features[examples.rows[0] : examples.rows[-1] + 1]

    def score() -> dict[str, float]:
        found = ranks(encoder.pictures(features), encoder.sentences(tokens), owners)
        text, picture = (float(np.mean([(rank <= k).mean() for k in KS])) for rank in found)
        return {
            "val_recall": (text + picture) / 2,
            "val_text_recall": text,
            "val_picture_recall": picture,
        }

    return score


def sentences_of(examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """All captions that have a word: (captions, length) tokens, and the place of their picture."""
    pictures, most, length = examples.tokens.shape
    tokens = examples.tokens.reshape(pictures * most, length)
    owners = np.repeat(np.arange(pictures), most)
    there = (tokens != PAD).sum(1) > 2  # more than <start> and <end>
    return tokens[there], owners[there]
