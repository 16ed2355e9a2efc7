"""Every command of the pages on data sets, in a copy of this checkout, on tiny data sets.

A file of its own, so that it runs beside `test_pipeline.py`.
"""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import yaml

from captioner.datasets.scene_captions import captions
from captioner.datasets.scene_drawing import draw, sample_facts
from tests.test_pipeline import ROOT, cloned, commands, commit, run_all, tiny_flickr


def tiny_digits(folder: Path) -> None:
    """mnist.npz in its published layout: 6 digits of each kind to learn from, 2 to test."""
    from PIL import Image, ImageDraw, ImageFont

    rng = np.random.default_rng(5)
    arrays = {}
    for split, each in (("train", 6), ("test", 2)):
        labels = np.tile(np.arange(10, dtype=np.uint8), each)
        pictures = []
        for label in labels:
            picture = Image.new("L", (28, 28))
            corner = tuple(rng.integers(4, 10, 2))
            ImageDraw.Draw(picture).text(corner, str(label), 255, ImageFont.load_default(18))
            # No two the same: the same bytes in two splits stop the pipeline.
            pictures.append(np.asarray(picture) ^ rng.integers(0, 8, (28, 28), np.uint8))
        arrays |= {f"x_{split}": np.stack(pictures), f"y_{split}": labels}
    np.savez(folder / "mnist.npz", **arrays)


def tiny_karpathy(folder: Path) -> None:
    """Flickr30k and COCO as they are published, with Karpathy's lists of both."""
    rng = np.random.default_rng(9)
    archives: dict[str, dict[str, bytes]] = {"flickr30k-images": {}, "train2014": {}, "val2014": {}}
    lists: dict[str, list[dict]] = {"flickr30k": [], "coco": []}

    def add(dataset: str, archive: str, name: str, split: str, **more: str) -> None:
        facts, buffer = sample_facts(rng), io.BytesIO()
        draw(facts, 64, rng).save(buffer, "JPEG")
        archives[archive][f"{archive}/{name}"] = buffer.getvalue()
        sentences = [{"raw": text, "tokens": text.split()} for text in captions(facts, rng)]
        entry = {"filename": name, "split": split, "sentences": sentences, **more}
        lists[dataset].append(entry)

    for number, split in enumerate(["train"] * 12 + ["val"] * 4 + ["test"] * 4):
        add("flickr30k", "flickr30k-images", f"{1000 + number}.jpg", split)
        place = "train2014" if number < 8 else "val2014"
        name = f"COCO_{place}_{number:012d}.jpg"
        split = "restval" if 8 <= number < 12 else split
        add("coco", place, name, split, filepath=place)
    with tarfile.open(folder / "flickr30k-images.tar.gz", "w:gz") as archive:
        for name, data in archives["flickr30k-images"].items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    for place in ("train2014", "val2014"):
        with zipfile.ZipFile(folder / f"{place}.zip", "w") as archive:
            for name, data in archives[place].items():
                archive.writestr(name, data)
    with zipfile.ZipFile(folder / "caption_datasets.zip", "w") as archive:
        for dataset, images in lists.items():
            text = json.dumps({"images": images, "dataset": dataset})
            archive.writestr(f"dataset_{dataset}.json", text)


DATASET_PAGES = {
    "scenes": {},  # its command is the README's
    "mnist": {"dvc exp run": "mnist, test pictures"},
    "flickr8k": {"dvc exp run": "flickr8k, test pictures"},
    "flickr30k": {"dvc exp run": "flickr30k, test pictures"},
    "coco": {"dvc exp run": "coco, test pictures"},
    "table": {
        "captioner check-data": "nothing to worry about",
        "dvc exp run": "table, test pictures",
    },
}


def test_every_command_of_the_pages_on_data_sets(tmp_path):
    """With small pictures, and the small CNN but for one of them; those of the README as well."""
    rows = yaml.safe_load((ROOT / "params.yaml").read_text())["datasets"]
    pages = {page.stem: page for page in (ROOT / "docs" / "datasets").glob("*.md")}
    assert pages.keys() == rows.keys() == DATASET_PAGES.keys()
    published = tmp_path / "published"
    published.mkdir()
    tiny_flickr(published)
    tiny_digits(published)
    tiny_karpathy(published)
    pipeline = cloned(tmp_path / "clone")
    pipeline.environment["CAPTIONER_MIRROR"] = str(published)
    small = {"datasets.mnist.download.val": 10, "train.epochs": 1, "joint.epochs": 1}
    for name in ("flickr30k", "coco"):
        small |= {
            f"datasets.{name}.preprocess.side": 32,
            f"datasets.{name}.encoder.backbone": "cnn",
            f"datasets.{name}.train.self_critical_epochs": 0,
        }
    small |= {"datasets.flickr8k.preprocess.side": 96, "datasets.flickr8k.train.members": [0]}
    pipeline.set_params(small)
    commit(pipeline)
    readme = [line for line in commands(ROOT / "README.md") if " dataset=" in line]
    on_pages = [line for page in pages.values() for line in commands(page)]
    assert set(readme) <= set(on_pages)
    assert commands(pages.pop("scenes")) == ["dvc repro"]
    for name in pages:
        expected = DATASET_PAGES[name]
        run_all(pipeline, commands(pages[name]), expected)
