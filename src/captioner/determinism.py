"""One source of randomness: equal seed, code and kind of machine give equal bytes."""

import keras
import tensorflow as tf


def make_deterministic(seed: int) -> None:
    """Seed Python, numpy and TensorFlow, and allow only operations that repeat themselves exactly.

    To be called before anything is built.
    """
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
