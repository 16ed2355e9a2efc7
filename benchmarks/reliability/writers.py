"""Everything that writes, as commands with a folder to start from: exports, collections, stages."""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from benchmarks.reliability import ROOT, commands, indexes
from benchmarks.reliability.commands import CAPTIONER
from tests.test_pipeline import cloned

# Everything that is tried, and whether it starts TensorFlow.
KINDS = {
    "export parquet": False,
    "export npy": False,
    "export word2vec": False,
    "index remove": False,
    "check-data": False,
    "stage download": False,
    "stage preprocess": False,
    "stage tokenize": False,
    "index add": True,
    "index add, new": True,
    "bundle export": True,
    "stage encoder": True,
    "stage features": True,
    "stage train": True,
}


@dataclass
class Command:
    """Something that writes.

    Attributes:
        template: folder that it starts from; it runs in a copy.
        arguments: the command; outputs: what it writes, relative.
        collection: whether the output is one, whose parts may be whole while it is not finished.
        done: the exit code of success; of check-data on drawn pictures 1, since it has warnings.
        needs, whole: bytes it takes, and the digests of its outputs, undisturbed; measured.
    """

    name: str
    template: Path
    arguments: list[object]
    outputs: list[str]
    heavy: bool = False
    collection: bool = False
    done: int = 0
    needs: int = 0
    whole: dict[str, object] = field(default_factory=dict)


def make(folder: Path, bundle: Path) -> Iterator[Command]:
    """All commands, with the folders that they start from; the stages one after another."""
    plain = commands.fresh(folder / "plain")
    indexes.draw_pictures(plain / "pictures", 24)
    half = [f"pictures/{number:03d}.png" for number in range(12)]
    options = ["--index", "index", "--bundle", bundle]
    _must([*CAPTIONER, "index", "add", *half, *options], plain)
    table = "image,caption\n" + "".join(f"{n:03d}.png,a drawn scene\n" for n in range(24))
    (plain / "captions.csv").write_text(table, "utf-8")
    params = yaml.safe_load((ROOT / "params.yaml").read_text("utf-8"))
    source = {"captions": "captions.csv", "pictures": "pictures"}
    params["datasets"]["table"]["download"] |= source
    params["datasets"]["table"]["encoder"]["backbone"] = "cnn"
    (plain / "params.yaml").write_text(yaml.safe_dump(params), "utf-8")
    indexes.write_random(plain / "many", 2000)  # enough for files of many pages
    # What is replaced is there already in some of the templates.
    old = folder / "old"
    shutil.copytree(plain, old)
    np.save(old / "vectors.npy", np.zeros(3))
    (old / "vectors.npy.txt").write_text("old\n", "utf-8")
    (old / "vectors.parquet").write_bytes(b"old")
    for form, template, suffix in (("parquet", old, "parquet"), ("npy", old, "npy")):
        name = f"vectors.{suffix}"
        arguments = [*CAPTIONER, "export", "--format", form, "--output", name, "--force"]
        outputs = [name, f"{name}.txt"] if form == "npy" else [name]
        yield Command(f"export {form}", template, [*arguments, "--index", "many"], outputs)
    arguments = [*CAPTIONER, "export", "--format", "word2vec", "--output", "vectors.txt"]
    yield Command("export word2vec", plain, [*arguments, "--index", "many"], ["vectors.txt"])
    removed = [f"{number:05d}.png" for number in range(0, 2000, 5)]
    arguments = [*CAPTIONER, "index", "remove", *removed, "--index", "many"]
    yield Command("index remove", plain, arguments, ["many"], collection=True)
    arguments = [*CAPTIONER, "check-data", "--dataset", "table", "--report", "report"]
    yield Command("check-data", plain, arguments, ["report"], done=1)
    arguments = [*CAPTIONER, "index", "add", "pictures", *options]
    yield Command("index add", plain, arguments, ["index"], True, True)
    new = [*CAPTIONER, "index", "add", "pictures", "--index", "new", "--bundle", bundle]
    yield Command("index add, new", plain, new, ["new"], True, True)
    arguments = [*CAPTIONER, "bundle", "export", "--savedmodel", "served", "--bundle", bundle]
    yield Command("bundle export", plain, arguments, ["served"], True)
    stages = {
        "download": ["data/raw", "reports/download"],
        "preprocess": ["data/images", "data/captions.parquet", "reports/preprocess"],
        "tokenize": ["data/tokens", "reports/tokenize"],
        "encoder": ["models/encoder", "reports/encoder"],
        "features": ["data/features", "reports/features"],
        "train": ["models/captioner", "reports/train"],
    }
    place = cloned(commands.fresh(folder / "before-download")).folder
    shutil.rmtree(place / ".git")
    _must([sys.executable, "-m", "stages.inputs"], place)  # writes links and two names alone
    for stage, outputs in stages.items():
        template = folder / f"before-{stage}"
        if template != place:
            shutil.copytree(place, template)
        arguments = [sys.executable, "-m", f"stages.{stage}"]
        heavy = KINDS[f"stage {stage}"]
        yield Command(f"stage {stage}", template, arguments, outputs, heavy)
        done = folder / "done"
        if template == place:
            shutil.copytree(place, done)
            place = done
        _must(arguments, done)


def _must(arguments: list[object], folder: Path) -> None:
    env = commands.environment()
    if "stages." in str(arguments[-1]):
        del env["PYTHONPATH"]
    ran = commands.run(arguments, folder, env)
    if ran.code != 0:
        raise SystemExit(f"reliability: undisturbed {arguments[2:]}: {ran.out}{ran.err}")
