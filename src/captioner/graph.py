"""Functions that are compiled to a graph, without AutoGraph.

The loops of this package are `tf.while_loop`, so nothing is left for AutoGraph to do. Yet it would
read and rewrite the source of all that a function calls, Keras and TensorFlow included: with it the
first call of a beam search takes 6 s in place of 1.
"""

from functools import partial

import tensorflow as tf

graph_function = partial(tf.function, autograph=False)
