"""Imports TensorFlow without its chatter; to be imported before anything that imports it.

Some of TensorFlow's native messages (processor features, missing graphics card) come before its own
log level counts. They are held back while it is imported and looks for devices, and shown if that
fails. Afterwards everything is as usual: errors of the native code reach the terminal.

Keras imports scikit-learn and Matplotlib only to see whether they are there, which takes a third of
the seconds of every start; meanwhile they are not.
"""

import os
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


UNUSED = ("sklearn", "matplotlib", "matplotlib.pyplot")


def _import() -> None:
    hidden = [name for name in UNUSED if name not in sys.modules]
    sys.modules |= dict.fromkeys(hidden)  # None: an import fails
    try:
        _import_in_silence()
    finally:
        for name in hidden:
            del sys.modules[name]


def _import_in_silence() -> None:
    with tempfile.TemporaryFile() as held_back:
        sys.stderr.flush()
        terminal = os.dup(2)
        os.dup2(held_back.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_logical_devices()
        except BaseException:
            held_back.seek(0)
            os.write(terminal, held_back.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


_import()
