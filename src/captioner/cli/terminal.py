"""What the commands say on the terminal: one line each, whatever the names in it hold."""

import os
import sys
from collections.abc import Sequence
from typing import TextIO


def complain(text: str) -> None:
    """One line on stderr; where that cannot be written to, the exit code has to do."""
    try:
        print(f"captioner: {printable(text)}", file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


def silence(stream: TextIO) -> None:
    """Let a stream that cannot be written to lead nowhere: at exit, Python tries again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def printable(text: str) -> str:
    r"""Text on one line without control characters.

    Names of files come from strangers: a line feed would forge a line of output, an escape sequence
    would command the terminal. They are shown as in Python: \n, \x1b.
    """
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def pictures(count: int) -> str:
    return f"{count:,} picture" + ("s" if count != 1 else "")


def name_pictures(image_ids: Sequence[str], have: str) -> None:
    """Say on stderr how many pictures have what (or lack it), and name the first five; or none."""
    if image_ids:
        first = ", ".join(f"{image_id:.80}" for image_id in image_ids[:5])
        verb = "has" if len(image_ids) == 1 else "have"
        more = " ..." if len(image_ids) > 5 else ""
        complain(f"{pictures(len(image_ids))} {verb} {have}: {first}{more}")
