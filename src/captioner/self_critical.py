"""The second objective: captions that people would agree with, found by trial.

"Self-critical Sequence Training for Image Captioning" (Rennie et al. 2017): the model draws
captions of each training picture, CIDEr-D says what they are worth, and what scores above the
picture's other samples (the baseline of Luo 2020, "A Better Variant of Self-Critical Sequence
Training") becomes likelier. Document frequencies come from the training split, and <end> counts as
a word, else the reward teaches captions to break off after "with a" (Rennie et al. 2017, section
5).

Cross-entropy with smoothed labels leaves a model that puts a tenth of its mass on words that do not
fit. Samples of that are noise, and all that training would learn from them is to put less mass
there, where beam search never looks anyway: the reward of the samples grows while the captions get
worse. So the model is made sharper first (`sharpen`), and learns among captions that it might say.
"""

import numpy as np
import tensorflow as tf

from captioner.cross_entropy import features_signature
from captioner.examples import Examples, people
from captioner.graph import graph_function
from captioner.metrics.cider import CiderD
from captioner.metrics.ngrams import ReferenceNGrams
from captioner.model import CaptionModel, Dropout
from captioner.packing import SIGNATURE, pack
from captioner.sampling import sample
from captioner.text import END, PAD, START

SHARPNESS = 2.0  # the logits' factor, the inverse of a softmax temperature


class SelfCritical:
    """Minimise minus the expected CIDEr-D of sampled captions; see `training.Objective`.

    Args:
        model: trained with cross-entropy, and sharpened.
        examples: the training split.
        dropout: share of values set to zero while learning; samples are drawn without.
        samples: captions drawn for each picture, at least 2.
        max_length: words of the longest sample.
    """

    name, measure, selects = "self-critical training", "reward", "val_cider_d"
    remedy = "train.self_critical_rate or train.clip_norm"

    def __init__(
        self,
        model: CaptionModel,
        examples: Examples,
        dropout: float,
        samples: int,
        max_length: int,
    ):
        self.model, self.examples, self.names = model, examples, examples.names
        self.dropout, self.samples = dropout, samples
        numbers = tf.TensorSpec([None], tf.float32)
        self.signature = (features_signature(model), SIGNATURE, numbers, numbers)
        self.scorer = CiderD(ReferenceNGrams([people(group) for group in examples.tokens]))

        @graph_function(input_signature=[features_signature(model), tf.TensorSpec((2,), tf.int32)])
        def draw(features, seed):
            words, _ = sample(model.next_word, *model.look(features), samples, max_length, seed)
            return words

        self._draw = draw

    def batch(self, chosen: np.ndarray, seed: tuple[int, int]) -> tuple:
        """Features, the samples, and for each of their tokens how much better its caption is."""
        features = self.examples.load(chosen, np.random.default_rng(seed))
        tokens = with_ends(self._draw(features, np.array(seed, np.int32)).numpy())
        captions = [caption for picture in tokens for caption in people(picture)]
        rewards = self.scorer.score(captions, np.repeat(chosen, self.samples))
        packed = pack(tokens)
        worth = advantages(rewards.reshape(-1, self.samples)).ravel()[packed.captions]
        there = [worth[:count] for count in packed.counts]
        return features, packed, np.concatenate(there).astype(np.float32), np.float32(rewards)

    def loss(self, batch: tuple, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Reports the mean CIDEr-D of the samples."""
        features, captions, worth, rewards = batch
        logits = self.model.logits(features, captions, Dropout(self.dropout, seed))
        said = tf.gather(tf.nn.log_softmax(logits), captions.targets, batch_dims=1)
        return -tf.reduce_mean(worth * said), tf.reduce_sum(rewards), tf.size(rewards)


def sharpen(model: CaptionModel) -> None:
    """Multiply the logits by `SHARPNESS`, for good: the likeliest word stays the likeliest."""
    for weight in model.vocabulary_logits.weights:
        weight.assign(SHARPNESS * weight)


def advantages(rewards: np.ndarray) -> np.ndarray:
    """(pictures, samples): each reward less the mean of the picture's other samples."""
    others = rewards.sum(1, keepdims=True) - rewards
    return rewards - others / (rewards.shape[1] - 1)


def with_ends(words: np.ndarray) -> np.ndarray:
    """(pictures, samples, length) words, padded -> (..., length + 2) with <start> and <end>."""
    tokens = np.pad(words, ((0, 0), (0, 0), (1, 1)), constant_values=PAD)
    tokens[..., 0] = START
    last = 1 + (words != PAD).sum(-1, keepdims=True)
    np.put_along_axis(tokens, last, END, -1)
    return tokens
