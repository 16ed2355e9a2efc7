"""What people think of captions, kept for the next training; off unless a folder is named.

votes.csv        every vote: when, picture, caption, vote (good, bad or written)
captions.csv     image, caption: what was called good or written instead. With `pictures` it is
                 a data set of your own for the row `table` of params.yaml
pictures/        the pictures, as the model saw them, named by their content
"""

import csv
import errno
import io
import os
import re
import threading
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from captioner import CaptionerError
from captioner.files import atomic_file, check_replaceable

VOTES_HEADER, CAPTIONS_HEADER = ("time", "image", "caption", "vote"), ("image", "caption")
VOTES = ("good", "bad", "written")
LONGEST = 200  # characters of a caption


class Feedback:
    """Writes votes into a folder.

    Args:
        folder: made if it is not there; else empty, or one that was made for feedback. What else
            lies in that one is left alone.

    Raises:
        CaptionerError: it cannot be written to, or holds other things.
    """

    def __init__(self, folder: Path):
        self.folder, self._lock = folder, threading.Lock()
        try:
            _check_ours(folder)
            (folder / "pictures").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CaptionerError(f"--feedback {folder}: {error.strerror}") from None

    def keep(self, pixels: np.ndarray, sha256: str, caption: str, vote: str) -> None:
        """Keep a vote.

        Args:
            pixels: (size, size, 3) uint8; sha256: of the file that was sent.
            caption: what was voted on, or written.
            vote: one of `VOTES`.

        Raises:
            CaptionerError: there is no caption, or the disk does not take it.
        """
        # No spreadsheet is to run it, and no caption begins with these (OWASP, "CSV Injection").
        text = " ".join(re.sub(r"[\x00-\x1f\x7f]+", " ", caption).split()).lstrip("=+-@'\" ")
        if not text or len(text) > LONGEST:
            raise CaptionerError(f"write a caption of 1 to {LONGEST} characters")
        if vote not in VOTES or not re.fullmatch("[0-9a-f]{64}", sha256):
            raise ValueError(f"{vote!r}, {sha256!r}: expected one of {VOTES}, and a sha256")
        name = f"{sha256}.jpg"
        now = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            with self._lock:
                if not (self.folder / "pictures" / name).exists():
                    with atomic_file(self.folder / "pictures" / name) as path:
                        Image.fromarray(pixels).save(path, "JPEG", quality=95)
                _append(self.folder / "votes.csv", VOTES_HEADER, (now, name, text, vote))
                if vote != "bad":
                    _append(self.folder / "captions.csv", CAPTIONS_HEADER, (name, text))
        except OSError as error:
            raise CaptionerError(f"{self.folder}: {error.strerror}") from None


def _check_ours(folder: Path) -> None:
    """Refuse a folder of somebody's own, whose files might be taken for these.

    Raises:
        CaptionerError: which file it is.
    """
    if not folder.is_dir():
        return  # absent, or mkdir says what it is
    for name, header in (("votes.csv", VOTES_HEADER), ("captions.csv", CAPTIONS_HEADER)):
        path = folder / name
        if os.path.lexists(path) and not (path.is_file() and _first_line(path) == ",".join(header)):
            raise CaptionerError(f"--feedback {path}: holds something else; name a new folder")
    if not (folder / "votes.csv").exists():  # no vote yet
        check_replaceable(folder, ["pictures/", "pictures/*.jpg"])


def _first_line(path: Path) -> str:
    with path.open("rb") as file:
        return file.readline(100).decode("utf-8-sig", "replace").strip()


def _append(path: Path, header: tuple[str, ...], row: tuple[str, ...]) -> None:
    """A whole row or none, in one write, after the header in a new file."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    if not path.exists():
        writer.writerow(header)
    writer.writerow(row)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        row_bytes = stream.getvalue().encode()
        written = os.write(file, row_bytes)
        if written < len(row_bytes):  # the disk is full
            os.ftruncate(file, os.fstat(file).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(file)
