"""A collection of pictures, undisturbed: made by `captioner index add` with a tiny bundle."""

import shutil
from pathlib import Path

import numpy as np

from benchmarks.reliability import commands
from benchmarks.reliability.cases import Wrong
from captioner import collection
from captioner.datasets.scene_drawing import draw, sample_facts
from captioner.embeddings import unit_vectors

PICTURES = 40


def draw_pictures(folder: Path, count: int, seed: int = 1) -> Path:
    """Drawn scenes as PNG files."""
    rng = np.random.default_rng(seed)
    commands.fresh(folder)
    for number in range(count):
        draw(sample_facts(rng), 40, rng).save(folder / f"{number:03d}.png")
    return folder


def write_random(folder: Path, count: int) -> None:
    """A collection of random vectors near a space of few dimensions, enough of them for faiss."""
    rng = np.random.default_rng(3)
    collection.begin(folder, None, "be" * 32, {"meaning": 24, "looks": 24})
    names = [f"{number:05d}.png" for number in range(count)]
    columns = {
        "image_id": names,
        "split": ["test"] * count,
        "caption": ["a drawn scene"] * count,
        "sha256": [f"{number:064x}" for number in range(count)],
        "perceptual_hash": [rng.bytes(80).hex() for _ in names],
    }
    vectors = [unit_vectors(rng.normal(size=(count, 24))) for _ in range(2)]
    collection.add_part(folder, columns, *vectors)


def content(index: Path) -> dict[str, tuple]:
    """Name -> sha256, caption and vectors of each picture; the files are verified.

    Raises:
        Wrong: a picture is there twice.
        CaptionerError: the collection is damaged.
    """
    opened = collection.open_collection(index)
    table = opened.pictures
    if not table["image_id"].is_unique or not table["sha256"].is_unique:
        raise Wrong(f"{len(table)} pictures in the collection, some of them twice")
    rows = np.arange(len(table))
    vectors = [opened.some(matrices, rows) for matrices in (opened.meaning, opened.looks)]
    columns = (table["image_id"], table["sha256"], table["caption"], *vectors)
    return {name: tuple(rest) for name, *rest in zip(*columns, strict=True)}


def compare(expected: dict[str, tuple], index: Path) -> None:
    """Raise Wrong where a collection holds something else; and where temporary files are left."""
    found = content(index)
    if found.keys() != expected.keys():
        missing = sorted(expected.keys() - found.keys())
        raise Wrong(f"{len(found)} pictures, expected {len(expected)}; missing: {missing[:5]}")
    for name, row in expected.items():
        same = row[:2] == found[name][:2]
        if not same or not all(map(np.allclose, row[2:], found[name][2:])):
            raise Wrong(f"{name} is another: {row[:2]} undisturbed, {found[name][:2]} now")
    left = [*index.rglob(".partial-*"), *index.parent.glob(".partial-*")]
    if left:
        raise Wrong(f"left behind: {left[0].name}")


class Undisturbed:
    """`index add` of a folder, whole and from half of it.

    Attributes:
        add: the command; folder: where it runs; seconds: that it takes.
    """

    def __init__(self, folder: Path, bundle: Path):
        self.folder = commands.fresh(folder)
        draw_pictures(folder / "pictures", PICTURES)
        self.index = folder / "place" / "index"
        options = ["--index", str(self.index), "--bundle", str(bundle)]
        self.add = [*commands.CAPTIONER, "index", "add", "pictures", *options]
        half = [f"pictures/{number:03d}.png" for number in range(PICTURES // 2)]
        self._run([*commands.CAPTIONER, "index", "add", *half, *options])
        shutil.copytree(self.index, folder / "half")
        shutil.rmtree(self.index)
        self.seconds = self._run(self.add)
        self.end = content(self.index)

    def _run(self, command: list[str]) -> float:
        self.index.parent.mkdir(exist_ok=True)
        ran = commands.run(command, self.folder)
        if ran.code != 0:
            raise SystemExit(f"reliability: undisturbed index add: {ran.err}")
        return ran.seconds

    def start(self, half: bool) -> Path:
        """The collection as before: absent, or with half of the pictures."""
        commands.fresh(self.index.parent)
        if half:
            shutil.copytree(self.folder / "half", self.index)
        return self.index

    def compare(self) -> None:
        compare(self.end, self.index)
