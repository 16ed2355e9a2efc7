"""What a run takes on the disk: against what runs took, Keras's own shapes and this very disk."""

import os
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from captioner import CaptionerError
from captioner.disk import (
    CUTS,
    EPOCH_BYTES,
    FIXED_BYTES,
    PIXEL_BYTES,
    ROW_BYTES,
    archive_bytes,
    check_disk,
    estimate,
    grid_shape,
    scratch,
)
from captioner.fetch import RemoteFile
from captioner.raster import prepare


@pytest.fixture(autouse=True)
def no_mirror(monkeypatch):
    monkeypatch.delenv("CAPTIONER_MIRROR", raising=False)


@pytest.fixture
def free(tmp_path) -> int:
    return shutil.disk_usage(tmp_path).free


@pytest.fixture
def copies(tmp_path) -> int:
    """How often DVC's outputs lie on this disk: once where files share blocks."""
    from dvc_objects.fs.system import reflink

    (tmp_path / "original").write_bytes(b"x")
    try:
        reflink(str(tmp_path / "original"), str(tmp_path / "copy"))
    except OSError:
        return 2
    return 1


def sparse(path: Path, size: float) -> None:
    """A file of that size that takes no room: all hole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(int(size))


def write_lock(folder: Path, dataset: str, size: float) -> None:
    """dvc.lock of a run whose data/raw lies in the cache and whose data/images does not."""
    raw = {"path": "data/raw", "hash": "md5", "md5": "ab12.dir", "size": int(size), "nfiles": 2}
    images = {"path": "data/images", "hash": "md5", "md5": "cd34.dir", "size": 10**18}
    stages = {
        "download": {"params": {"params.yaml": {"dataset": dataset}}, "outs": [raw]},
        "preprocess": {"outs": [images, {"path": "reports/plain", "cache": False}]},
        "track": {"cmd": "python -m stages.track"},
    }
    (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    listing = folder / ".dvc" / "cache" / "files" / "md5" / "ab" / "12.dir"
    listing.parent.mkdir(parents=True)
    listing.write_text("[]")


def test_estimate_by_hand():
    """1,000 pictures of 64 pixels, the small CNN: 8 x 8 cells of 128 channels in two bytes each."""
    picture = 0.53 * 64 * 64 + 1300 + 8 * 8 * 128 * 2 + 3 * 128 * 4 + 4000
    assert estimate(1000, 5000, 64, "cnn") == 5000 + round(1000 * picture) + FIXED_BYTES


def test_mirrored_pictures_have_a_grid_of_their_own():
    picture = 0.53 * 64 * 64 + 1300 + 2 * 8 * 8 * 128 * 2 + 3 * 128 * 4 + 4000
    found = estimate(1000, 5000, 64, "cnn", mirrored=True)
    assert found == 5000 + round(1000 * picture) + FIXED_BYTES


def test_scratch_by_hand():
    """14 x 14 cells of 96 channels and their mean in two bytes each, of pictures and mirrored."""
    assert scratch(1000, 224, "mobilenet_v2") - EPOCH_BYTES == 1000 * 2 * (14 * 14 + 1) * 96 * 2
    assert scratch(1000, 64, "cnn") == scratch(1000, 28, "course_cnn") == 0


@pytest.mark.parametrize("backbone", CUTS)
def test_scratch_is_of_what_lies_below_the_cuts_of_the_networks(backbone):
    from captioner.encoder import BACKBONES, build_encoder

    assert set(CUTS) == set(BACKBONES)
    for size in (75, 100, 224):
        network = build_encoder(backbone, size).layers[-1]
        _, height, width, channels = network.get_layer(BACKBONES[backbone].cut).output.shape
        of_picture = 2 * 2 * (height * width + 1) * channels
        assert scratch(7, size, backbone) - EPOCH_BYTES == 7 * of_picture


def test_estimate_against_a_run_on_flickr8k():
    """7,000 pictures and 105 MB of archives at 224 pixels: 1,298,061,320 bytes in data/,
    70,362,223 in models/, 12,601,226 in reports/."""
    took = 1_298_061_320 + 70_362_223 + 12_601_226
    said = estimate(7000, 105_484_458, 224, "mobilenet_v2")
    assert took < said < 1.3 * took


def test_estimate_against_a_run_on_scenes():
    """4,800 pictures of 64 pixels: 13.8 MB of pictures, 80.0 MB of features, 28.2 MB of
    embeddings, 1.3 MB of tokens, 1.9 MB of captions."""
    took = 13_772_975 + 79_994_507 + 28_163_469 + 1_272_530 + 1_888_252
    assert estimate(4800, 0, 64, "cnn") - FIXED_BYTES == pytest.approx(took, rel=0.05)


@pytest.mark.parametrize("size", [64, 224])
def test_stored_photographs_take_what_is_counted(shared, size):
    """Published photographs of Flickr8k in their original size."""
    with zipfile.ZipFile(shared / "data" / "flickr8k" / "originals_sample.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")][:30]
        stored = [prepare(archive.read(name), size, "squash", 92, 10**7).jpeg for name in names]
    counted = PIXEL_BYTES * size**2 + ROW_BYTES
    assert 0.8 * counted < np.mean([len(jpeg) for jpeg in stored]) < counted


@pytest.mark.parametrize(
    ("backbone", "sizes"),
    [
        ("cnn", (64, 75)),
        ("mobilenet_v2", (100, 224)),
        ("inception_v3", (75, 224, 299)),
        ("vgg16", (100, 224)),
        ("convnext_tiny", (200,)),
    ],
)
def test_grids_are_those_of_the_networks(backbone, sizes):
    from captioner.encoder import build_encoder

    for size in sizes:
        _, height, width, channels = build_encoder(backbone, size).output_shape
        assert grid_shape(backbone, size) == (height * width, channels)


@pytest.mark.parametrize(("size", "classes"), [(28, 10), (28, 32), (41, 32), (64, 20)])
def test_the_grid_of_the_course_s_network_is_bounded(size, classes):
    from captioner.encoder import build_encoder

    _, *grid = build_encoder("course_cnn", size, classes=classes).output_shape
    cells, channels = grid_shape("course_cnn", size)
    assert np.prod(grid) <= cells * channels <= 8 * np.prod(grid)


def test_archives_count_as_published_or_as_in_the_mirror(tmp_path, monkeypatch):
    files = [
        RemoteFile("glove.6B.zip", ()),
        RemoteFile("flickr30k-images.tar.gz", (), other_names=("flickr30k-images.zip",)),
        RemoteFile("unheard.of", ()),
    ]
    assert archive_bytes(files) == 863_000_000 + 4_440_000_000
    (tmp_path / "flickr30k-images.zip").write_bytes(bytes(7))
    monkeypatch.setenv("CAPTIONER_MIRROR", str(tmp_path))
    assert archive_bytes(files) == 863_000_000 + 7
    assert archive_bytes([]) == 0


def test_a_disk_too_small(tmp_path, free, copies):
    check_disk("coco", int(0.8 * free / copies), tmp_path)
    with pytest.raises(CaptionerError) as caught:
        check_disk("coco", int(1.2 * free / copies), tmp_path)
    message = str(caught.value)
    assert message.startswith(f"coco needs about {1.2 * free / 1e9:,.1f} GB")
    assert f"on the disk of {tmp_path}: 0.0 GB are there, " in message
    assert "missing; make room" in message
    assert "\n" not in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["original", "copy"][: 3 - copies]


def test_scratch_is_needed_once(tmp_path, free, copies):
    needed = int(0.4 * free / copies)
    check_disk("coco", needed, tmp_path, scratch=int(0.4 * free))
    with pytest.raises(CaptionerError, match="coco needs about"):
        check_disk("coco", needed, tmp_path, scratch=int(0.8 * free))


def test_the_missing_bytes_are_what_is_needed_less_what_is_free(tmp_path, free, copies):
    with pytest.raises(CaptionerError) as caught:
        check_disk("coco", 10 * free, tmp_path)
    missing = float(
        str(caught.value).split(" GB are missing")[0].rsplit(" ", 1)[1].replace(",", "")
    )
    assert missing == pytest.approx((10 * copies - 1) * free / 1e9, rel=0.05)


@pytest.mark.parametrize("place", ["raw", "images", "features", ".raw-partial", "embeddings/deep"])
def test_what_is_there_counts_as_there(tmp_path, free, copies, place):
    needed = int(1.2 * free / copies)
    sparse(tmp_path / "data" / "table" / "own.zip", 0.5 * free)  # no output: it stays
    with pytest.raises(CaptionerError, match=r": 0\.0 GB are there"):
        check_disk("coco", needed, tmp_path)
    sparse(tmp_path / "data" / place / "part.npy", 0.5 * free)
    check_disk("coco", needed, tmp_path)


def test_the_cache_of_the_same_data_set_counts_as_there(tmp_path, free, copies):
    if copies == 1:
        pytest.skip("files share their blocks here: the cache takes no room")
    needed = int(1.2 * free / copies)
    write_lock(tmp_path, "coco", 0.5 * free)
    check_disk("coco", needed, tmp_path)
    with pytest.raises(CaptionerError, match="flickr30k needs about"):
        check_disk("flickr30k", needed, tmp_path)
    (tmp_path / ".dvc" / "cache").rename(tmp_path / "elsewhere")
    check_disk("coco", needed, tmp_path, tmp_path / "elsewhere")
    # now the lock alone is a promise
    with pytest.raises(CaptionerError, match=r": 0\.0 GB are there"):
        check_disk("coco", needed, tmp_path)


def test_a_cache_on_another_disk(tmp_path):
    memory = Path("/dev/shm")
    if not (memory.is_dir() and os.access(memory, os.W_OK)):
        pytest.skip("no second disk that every user can write to")
    if memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("the tests run in memory")
    with tempfile.TemporaryDirectory(dir=memory) as other:
        checkout = Path(other)
        sizes = shutil.disk_usage(other).free, shutil.disk_usage(tmp_path).free
        needed = int(0.8 * min(sizes))
        (checkout / ".dvc").mkdir()
        with pytest.raises(CaptionerError, match="copies in DVC's cache"):
            check_disk("coco", needed, checkout)
        (checkout / ".dvc" / "cache").symlink_to(tmp_path)
        check_disk("coco", needed, checkout)
        with pytest.raises(CaptionerError, match="coco needs about"):
            check_disk("coco", int(1.2 * min(sizes)), checkout)
