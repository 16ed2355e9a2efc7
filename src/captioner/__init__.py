"""Image captioning from pictures to embeddings; every module of this package is one idea."""

__version__ = "0.1.0"


class CaptionerError(Exception):
    """A mistake of the person or of the input, not of the program.

    The message is one line that names the file or key, the value met and what to do. Stages and the
    command line print it without a traceback and leave with exit code 2.
    """
