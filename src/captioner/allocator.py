"""Memory that TensorFlow gives back in one step and asks for again in the next one.

The C library hands blocks of more than 64 MB back to the system as soon as they are free, and takes
them anew, page by page and filled with zeros, when they are needed again: on two cores that is half
of the time a CNN takes. Told to keep them, it is faster, and needs no more memory at its peak.
"""

import ctypes
import os

# Parameters of mallopt(3), GNU C library: <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def keep_large_blocks() -> None:
    """For programs of our own, as the first thing they do; where there is no mallopt, nothing.

    Before numpy or TensorFlow start a thread: how many arenas there may be is settled then, and
    only the first one has room for large blocks.
    """
    mallopt = None if os.name == "nt" else getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
        mallopt(M_ARENA_MAX, 1)
