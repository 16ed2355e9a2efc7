"""What a full run takes on the disk, counted before it starts: hours later would be too late.

Archives, pictures and feature grids are nearly all of it, so a few numbers tell it well. Whatever
DVC tracks lies on the disk twice, in its place and in DVC's cache, unless the file system lets two
files share their blocks (reflinks: btrfs, XFS, APFS) or the cache is on another disk. Measured: an
output of 3.0 GB takes 6.0 GB, and no more than that while DVC takes it in.
"""

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import yaml

from captioner import CaptionerError
from captioner.fetch import RemoteFile, find_in_mirror

# Pictures in the splits of the published data sets.
PICTURES = {"mnist": 70_000, "flickr8k": 8_000, "flickr30k": 31_014, "coco": 123_287}
# Bytes of the published files, rounded up.
FILES = {
    "mnist.npz": 11_500_000,
    "Flickr8k_Dataset.zip": 1_120_000_000,
    "Flickr8k_text.zip": 2_400_000,
    "flickr30k-images.tar.gz": 4_440_000_000,
    "flickr30k.tar.gz": 10_000_000,
    "train2014.zip": 13_600_000_000,
    "val2014.zip": 6_700_000_000,
    "caption_datasets.zip": 37_000_000,
    "glove.6B.zip": 863_000_000,
}
# Backbone: channels, stride, and what is added to the side before it is divided: one less than the
# stride where odd rests are padded, nothing where they are cut off. (Inception pads nowhere.)
GRIDS = {
    "cnn": (128, 8, 0),
    "mobilenet_v2": (1280, 32, 31),
    "resnet50": (2048, 32, 31),
    "inception_v3": (2048, 32, -43),
    "efficientnet_v2_b0": (1280, 32, 31),
    "vgg16": (512, 32, 0),
    "convnext_tiny": (768, 32, 0),
}
# The same of the layers that end the lower parts of the pretrained ones (`encoder.Backbone.cut`).
CUTS = {
    "mobilenet_v2": (96, 16, 15),
    "resnet50": (1024, 16, 15),
    "inception_v3": (768, 16, -27),
    "efficientnet_v2_b0": (112, 16, 15),
    "vgg16": (512, 16, 0),
    "convnext_tiny": (768, 32, 0),
}
COURSE_GRID = (64, 64)  # cells and channels: a bound for up to 32 classes

# Stored JPEGs: 0.52 bytes a pixel at 224 pixels and quality 92 (originals of Flickr8k), 0.46 for
# drawn scenes at 64, and a row of Parquet with what every JPEG begins with.
PIXEL_BYTES, ROW_BYTES = 0.53, 1300
# Captions, their vectors of 50 numbers, tokens: 3.1 kB for the five of Flickr8k. Probabilities of
# 400 words: 0.8 kB.
CAPTION_BYTES = 4000
# Weights (of the largest backbone, in models/encoder and the bundle), vocabulary, reports.
FIXED_BYTES = 350_000_000

# Fine-tuning: weights, Adam's moments and the best weights of the largest upper part, for the epoch
# that is written and the one before.
EPOCH_BYTES = 550_000_000

# What takes room; a new run takes its place. The first holds unfinished downloads, the last what
# fine-tuning reads again and again.
OUTPUTS = (
    "data/.raw-partial",
    "data/raw",
    "data/images",
    "data/features",
    "data/embeddings",
    "models/.encoder",
)


def estimate(
    pictures: int, archive_bytes: int, size: int, backbone: str, mirrored: bool = False
) -> int:
    """Bytes that a full run writes, each output counted once.

    Args:
        archive_bytes: of what the stage download puts into data/raw.
        size: side of the stored pictures, in pixels.
        backbone: "course_cnn" or a key of `GRIDS`.
        mirrored: features of mirrored pictures, too.
    """
    cells, channels = grid_shape(backbone, size)
    vectors = 12 * channels  # pooled features, and embeddings as .npy and Parquet; float32 all
    grid = 2 * cells * channels * (1 + mirrored)  # float16
    picture = PIXEL_BYTES * size**2 + ROW_BYTES + grid + vectors + CAPTION_BYTES
    return archive_bytes + round(pictures * picture) + FIXED_BYTES


def scratch(pictures: int, size: int, backbone: str) -> int:
    """Bytes that fine-tuning keeps until it is done, in no output: activations and its own state.

    Args:
        size: side of the stored pictures, in pixels.
        backbone: a key of `CUTS`; all others leave nothing.
    """
    if backbone not in CUTS:
        return 0
    channels, stride, added = CUTS[backbone]
    cells = ((size + added) // stride) ** 2
    # Of each picture and its mirror image the activations and their mean, in float16.
    return pictures * 2 * 2 * (cells + 1) * channels + EPOCH_BYTES


def grid_shape(backbone: str, size: int) -> tuple[int, int]:
    """Cells and channels of a backbone's last feature map for pictures of `size` pixels."""
    if backbone == "course_cnn":
        return COURSE_GRID
    channels, stride, added = GRIDS[backbone]
    return ((size + added) // stride) ** 2, channels


def archive_bytes(files: Iterable[RemoteFile]) -> int:
    """Bytes of `files`: as they are in the mirror folder, else as they are published."""
    total = 0
    for file in files:
        names = (file.name, *file.other_names)
        found = next(filter(None, (find_in_mirror(name, None, None) for name in names)), None)
        total += found.stat().st_size if found else FILES.get(file.name, 0)
    return total


def check_disk(
    dataset: str,
    needed: int,
    folder: Path | str = ".",
    cache: Path | str | None = None,
    scratch: int = 0,
) -> None:
    """Refuse a run for which the disk is too small.

    Outputs that are there already count as there: the run takes their place, or keeps them.

    Args:
        dataset: its name in params.yaml.
        needed: what `estimate` says.
        folder: that of dvc.yaml.
        cache: DVC's; default: `.dvc/cache` in `folder`. (An experiment in a temporary folder uses
            that of the checkout it was started from.)
        scratch: what `scratch` says: bytes that DVC does not track.

    Raises:
        CaptionerError: how much is missing, and what can be done.
    """
    folder = Path(folder).resolve()
    cache = Path(cache or folder / ".dvc" / "cache").resolve()
    there = sum(_size(folder / name) for name in OUTPUTS)
    cached = _cached(folder / "dvc.lock", cache, dataset)
    cache = _existing(cache)
    if cache.stat().st_dev != folder.stat().st_dev:
        _check(dataset, "", needed + scratch, there, folder)
        _check(dataset, " for DVC's cache", needed, cached, cache)
    elif _shares_blocks(folder):
        _check(dataset, "", needed + scratch, there, folder)
    else:
        twice = " (outputs and their copies in DVC's cache)"
        _check(dataset, twice, 2 * needed + scratch, there + cached, folder)


def _check(dataset: str, what: str, needed: int, there: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    missing = needed - there - free
    if missing > 0:
        raise CaptionerError(
            f"{dataset} needs about {_gb(needed)}{what} on the disk of {folder}: {_gb(there)} are "
            f"there, {_gb(free)} are free, {_gb(missing)} are missing; make room, choose a smaller "
            "preprocess.side, or make .dvc/cache a link to a folder on another disk"
        )


def _gb(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def _size(path: Path) -> int:
    sizes = (Path(top, name).lstat().st_size for top, _, names in os.walk(path) for name in names)
    return sum(sizes)


def _cached(lock: Path, cache: Path, dataset: str) -> int:
    """Bytes in the cache of the outputs that dvc.lock names, if it is of this data set.

    DVC empties data/raw before the stage that fills it; the copies in the cache stay.
    """
    stages = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"] if lock.exists() else {}
    params = stages.get("download", {}).get("params", {}).get("params.yaml", {})
    if params.get("dataset") != dataset:
        return 0
    outs = [out for stage in stages.values() for out in stage.get("outs", []) if "md5" in out]
    objects = cache / "files" / "md5"
    return sum(out["size"] for out in outs if (objects / out["md5"][:2] / out["md5"][2:]).exists())


def _shares_blocks(folder: Path) -> bool:
    """Whether DVC's copies cost nothing here, tried with DVC's own function on a small file."""
    from dvc_objects.fs.system import reflink

    with tempfile.TemporaryDirectory(prefix=".reflink-", dir=folder) as scratch:
        original = Path(scratch) / "original"
        original.write_bytes(bytes(4096))
        try:
            reflink(str(original), str(Path(scratch) / "copy"))
        except OSError:
            return False
    return True
