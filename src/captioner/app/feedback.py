"""What people think of captions, kept for the next training; off unless a folder is named.

votes.csv        every vote: when, picture, caption, vote (good, bad or written)
captions.csv     image, caption: what was called good or written instead. With `pictures` it is
                 a data set of your own for the row `table` of params.yaml
pictures/        the pictures, as the model saw them, named by their content
"""

import csv
import io
import os
import re
import threading
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from captioner import CaptionerError
from captioner.files import atomic_file

VOTES = ("good", "bad", "written")
LONGEST = 200  # characters of a caption


class Feedback:
    """Writes votes into a folder.

    Args:
        folder: made if it is not there.

    Raises:
        CaptionerError: it cannot be written to.
    """

    def __init__(self, folder: Path):
        self.folder, self._lock = folder, threading.Lock()
        try:
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
                header = ("time", "image", "caption", "vote")
                _append(self.folder / "votes.csv", header, (now, name, text, vote))
                if vote != "bad":
                    _append(self.folder / "captions.csv", ("image", "caption"), (name, text))
        except OSError as error:
            raise CaptionerError(f"{self.folder}: {error.strerror}") from None


def _append(path: Path, header: tuple[str, ...], row: tuple[str, ...]) -> None:
    """A whole row in one write, after the header in a new file."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    if not path.exists():
        writer.writerow(header)
    writer.writerow(row)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, stream.getvalue().encode())
    finally:
        os.close(file)
