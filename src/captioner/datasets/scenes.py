"""Drawn scenes, the default data set: made by the program, so no network and no licence.

Each scene is a picture (`scene_drawing`), five captions (`scene_captions`) and the facts, against
which a generated caption can be checked (`scene_truth`). Every scene comes from its own random
generator, seeded with (seed, split, number): more pictures in one split change no other picture.
"""

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from captioner import CaptionerError
from captioner.datasets import SPLITS, Picture, Rejected
from captioner.datasets.scene_captions import captions
from captioner.datasets.scene_drawing import draw, sample_facts
from captioner.files import atomic_file

ARCHIVE = "scenes.zip"


def draw_archive(path: Path, counts: dict[str, int], size: int, seed: int) -> None:
    """Draw all scenes into one archive; equal arguments give equal bytes.

    The archive holds `pictures/train-000000.png` ... and `scenes.jsonl`, a line of JSON a picture
    with image_id, split, captions and facts, in the order train, val, test.

    Args:
        path: the zip file to write; it appears whole or not at all.
        counts: pictures of each split.
        size: side of the pictures in pixels.
        seed: chooses the scenes.
    """
    numbers = [(split, number) for split in SPLITS for number in range(counts.get(split, 0))]
    lines = []
    # Stored, not deflated: PNG is compressed already.
    with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for split, number in tqdm(numbers, desc="drawing scenes", unit="scene", disable=None):
            rng = np.random.default_rng([seed, SPLITS.index(split), number])
            facts = sample_facts(rng)
            image_id = f"{split}-{number:06d}"
            png = io.BytesIO()
            draw(facts, size, rng).save(png, "PNG", compress_level=1)
            _store(archive, f"pictures/{image_id}.png", png.getvalue())
            record = {"image_id": image_id, "split": split, "captions": captions(facts, rng)}
            lines.append(json.dumps({**record, "facts": facts}) + "\n")
        _store(archive, "scenes.jsonl", "".join(lines).encode())


def _store(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    # ZipInfo's own date is 1 January 1980: the bytes do not depend on the day.
    archive.writestr(zipfile.ZipInfo(name), data)


def read(raw: Path) -> Iterator[Picture | Rejected]:
    """Yield the scenes out of `raw`/scenes.zip one by one, in the order train, val, test.

    Raises:
        CaptionerError: the archive is missing or damaged.
    """
    path = raw / ARCHIVE
    try:
        with zipfile.ZipFile(path) as archive:
            for line in archive.read("scenes.jsonl").decode().splitlines():
                record = json.loads(line)
                yield Picture(
                    image_id=record["image_id"],
                    split=record["split"],
                    data=archive.read(f"pictures/{record['image_id']}.png"),
                    captions=tuple(record["captions"]),
                    facts=record["facts"],
                )
    except FileNotFoundError as error:
        raise CaptionerError(f"{path}: there is no such file; run the download stage") from error
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, EOFError, OSError) as error:
        detail = f"{path}: not a whole archive of scenes ({error}); "
        raise CaptionerError(detail + "delete it and run the download stage again") from error
