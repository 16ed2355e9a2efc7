"""A full disk, a read-only one, missing permission, a file in the way: one line, outputs whole."""

import contextlib
import errno
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from captioner import CaptionerError, collection, files, page
from captioner.app.feedback import Feedback
from captioner.cli import main
from captioner.datasets import Picture
from captioner.drawing import Page
from captioner.encoder import extract_features
from captioner.files import (
    CHECKSUMS,
    atomic_file,
    atomic_folder,
    failure,
    write_checksums,
    write_json,
)
from captioner.images import write_shards, write_table
from captioner.intake import write_csv
from stages import run_stage
from tests.test_bundle import picture
from tests.test_collection import LOOKS, MEANING, MODEL, columns

ROOT = Path(__file__).resolve().parent.parent
FULL, READ_ONLY = os.strerror(errno.ENOSPC), os.strerror(errno.EROFS)
MANY = np.random.default_rng(1).random((300, 300), np.float32)  # 360 kB, more than the disk has


def mount(*arguments: object) -> None:
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small disk is mounted for this test, which is not allowed: {done.stderr}")


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A disk of 256 kB."""
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("a small disk is mounted for this test, which takes root")
    place = tmp_path / "disk"
    place.mkdir()
    mount("-t", "tmpfs", "-o", "size=256k", "tmpfs", place)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def arrays(path: Path) -> None:
    with atomic_folder(path, ["*.npy"]) as new:
        np.save(new / "a.npy", MANY)


def archives(path: Path) -> None:
    with atomic_folder(path, ["*.npz"]) as new:
        np.savez(new / "a.npz", MANY)


def weights(path: Path) -> None:
    with atomic_folder(path, ["*.h5"]) as new:
        keras.Sequential([keras.Input((300,)), keras.layers.Dense(300)]).save_weights(
            new / "a.weights.h5"
        )


def features(path: Path) -> None:
    encoder = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 1)])
    batch = np.zeros((2, 8, 8, 3), np.uint8)
    with atomic_folder(path, ["*.npy"]) as new:
        extract_features(encoder, [(0, batch)], 2000, 2, new)


def shards(path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (512, 512, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")
    many = [Picture("a", "train", stream.getvalue(), ("a dog",))]
    write_shards(many, path, size=512, fit="crop", jpeg_quality=100, max_pixels=10**6)


def drawn(path: Path) -> None:
    sheet = Page(9)
    sheet.set_height(9)
    sheet.picture(0, 0, 9, np.random.default_rng(1).integers(0, 255, (300, 300, 3), np.uint8))
    sheet.save(path.with_suffix(".png"))


def shown(path: Path) -> None:
    rows = pa.table({"image_id": ["a"] * 900, "caption": ["b" * 300] * 900})
    rows = rows.append_column("references", pa.array([["c"]] * 900))
    page.write_page(path, rows, [picture(1, kind="JPEG")] * 900, "title")


WRITERS = {
    "JSON": lambda path: write_json(path, MANY.tolist()),
    "CSV": lambda path: write_csv(path, ["a"], [["b" * 1000]] * 400),
    "Parquet": lambda path: write_table(pa.table({"a": MANY.ravel()}), path),
    "HTML": shown,
    "PNG": drawn,
    **{f.__name__: f for f in (arrays, archives, weights, features, shards)},
}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_named_and_what_was_there_stays(disk, writer):
    WRITERS[writer](disk.parent / "elsewhere")  # where there is room
    with pytest.raises(CaptionerError) as caught:
        WRITERS[writer](disk / "out")
    assert str(caught.value).removesuffix(f": cannot be written: {FULL}") in (
        str(disk / "out"),
        str(disk / "out.png"),
        str(disk / "out" / "part-00000.parquet"),
    )
    assert names(disk) == []


def test_a_collection_is_whole_on_a_full_disk(disk, capsys):
    mine = disk / "mine"
    collection.begin(mine, None, MODEL, {"meaning": 3, "looks": 2})
    collection.add_part(mine, columns("a", "b", "c"), MEANING, LOOKS)
    many = columns(*(f"n{n}" for n in range(9000)))
    with pytest.raises(CaptionerError, match=FULL):
        collection.add_part(mine, many, np.tile(MEANING, (3000, 1)), np.tile(LOOKS, (3000, 1)))
    with pytest.raises(CaptionerError, match=FULL), atomic_file(disk / "rest") as rest:
        rest.write_bytes(bytes(2**20))
    (disk / "rest").write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize))
    for command in (
        ["index", "remove", "a", "--index", mine],
        ["export", "--format", "npy", "--index", mine, "--output", disk / "v.npy"],
        ["export", "--format", "parquet", "--index", mine, "--output", disk / "v.parquet"],
        ["export", "--format", "word2vec", "--index", mine, "--output", disk / "v.txt"],
    ):
        assert main([str(word) for word in command]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and FULL in err and str(disk) in err
    assert collection.open_collection(mine).pictures["image_id"].tolist() == ["a", "b", "c"]
    assert [path.name for path in sorted(disk.iterdir())] == ["mine", "rest"]


def test_a_vote_is_kept_whole_or_not_at_all(disk):
    feedback = Feedback(disk / "votes")
    pixels = np.zeros((8, 8, 3), np.uint8)
    feedback.keep(pixels, "ab" * 32, "a dog", "good")
    before = (disk / "votes" / "votes.csv").read_bytes()
    (disk / "rest").write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize))
    with pytest.raises(CaptionerError, match=FULL):
        for _ in range(100):  # the rest of a block is still free
            feedback.keep(pixels, "ab" * 32, "a" * 199, "good")
    rows = (disk / "votes" / "votes.csv").read_text().splitlines()
    assert rows[:2] == before.decode().splitlines()
    assert all(row.endswith(",good") and row.count(",") == 3 for row in rows[1:])


def test_a_read_only_disk(disk, capsys, monkeypatch):
    collection.begin(disk / "mine", None, MODEL, {"meaning": 3, "looks": 2})
    collection.add_part(disk / "mine", columns("a", "b", "c"), MEANING, LOOKS)
    mount("-o", "remount,ro", disk)
    assert main(["index", "list", "--index", str(disk / "mine")]) == 0  # it can be read
    capsys.readouterr()
    for command in (
        ["index", "remove", "a", "--index", disk / "mine"],
        ["export", "--format", "npy", "--index", disk / "mine", "--output", disk / "v.npy"],
    ):
        assert main([str(word) for word in command]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and READ_ONLY in err and str(disk) in err
    monkeypatch.chdir(disk)
    for writer in (*WRITERS.values(), Feedback):
        with pytest.raises(CaptionerError, match=READ_ONLY):
            writer(Path("new"))


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="root becomes another user here"
)
def test_another_users_folders(capsys):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        collection.begin(folder / "mine", None, MODEL, {"meaning": 3, "looks": 2})
        collection.add_part(folder / "mine", columns("a", "b", "c"), MEANING, LOOKS)
        (folder / "secret").mkdir(mode=0o700)
        export = ["export", "--format", "npy", "--index", str(folder / "mine"), "--output"]
        assert main([*export, str(folder / "v.npy")]) == 0
        before = names(folder)
        commands = [
            [*export, str(folder / "w.npy")],
            [*export, str(folder / "v.npy"), "--force"],
            [*export, str(folder / "secret" / "v.npy")],
            ["index", "remove", "a", "--index", str(folder / "mine")],
            ["index", "list", "--index", str(folder / "secret" / "mine")],
        ]
        for command in commands:
            with nobody():
                assert main(command) == 2
            err = capsys.readouterr().err
            assert err.count("\n") == 1 and "Permission denied" in err and name in err
        with nobody(), pytest.raises(CaptionerError, match="Permission denied"):
            Feedback(folder / "votes")
        assert names(folder) == before
        assert len(collection.open_collection(folder / "mine").pictures) == 3


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("file/out", "file: is a file; a folder is wanted"),
        ("n" * 300, "File name too long"),
        ("n" * 250, "too long"),
    ],
)
def test_files_in_the_way_and_names_that_are_too_long(tmp_path, capsys, monkeypatch, place, why):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    collection.begin(Path("mine"), None, MODEL, {"meaning": 3, "looks": 2})
    collection.add_part(Path("mine"), columns("a", "b", "c"), MEANING, LOOKS)
    (tmp_path / "mine" / "projector").mkdir()
    (tmp_path / "mine" / "projector" / "projector_config.pbtxt").write_text("embeddings {")
    write_checksums(tmp_path / "mine" / "projector" / CHECKSUMS)
    before = names(tmp_path)
    for kind in ("parquet", "npy", "word2vec", "projector"):
        assert main(["export", "--format", kind, "--index", "mine", "--output", place]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and why in err
    for writer in WRITERS.values():
        with pytest.raises(CaptionerError, match=why):
            writer(Path(place))
    if len(place) != 250:  # which a folder may be called
        with pytest.raises(CaptionerError, match=r"Not a directory|name too long"):
            Feedback(Path(place))
    assert [name for name in names(tmp_path) if name != ".lock"] == before[1:]


def test_a_rename_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    write_json(tmp_path / "a.json", 1)
    for name in ("_flush", "_swap"):

        def refused(*_):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(files, name, refused)
    with pytest.raises(CaptionerError, match="Input/output error"):
        write_json(tmp_path / "a.json", 2)
    with pytest.raises(CaptionerError, match="Input/output error"), atomic_folder(tmp_path / "b"):
        pass
    assert names(tmp_path) == ["a.json"] and files.read_json(tmp_path / "a.json") == 1


def test_stages_say_it_in_a_line_and_faults_of_the_program_are_shown(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    errors = [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        PermissionError(errno.EACCES, os.strerror(errno.EACCES), "data/raw/a.zip"),
        FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "data/captions.parquet"),
        RuntimeError(f"faiss: write error in x: 1 != 2 ({FULL})"),
    ]
    for error in errors:
        with pytest.raises(SystemExit) as caught:
            run_stage("train", lambda error=error: _raise(error))
        err = capsys.readouterr().err
        assert caught.value.code == 2 and err.count("\n") == 1 and err.startswith("train: ")
        assert (getattr(error, "filename", None) or "No space left") in err
    own = str(ROOT / "src" / "captioner" / "page.html")
    for error in (
        FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), own),
        ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED)),
        ValueError("a fault"),
        OSError("a fault"),
    ):
        assert failure(error) is None
        with pytest.raises(type(error)):
            run_stage("train", lambda error=error: _raise(error))


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize(
    ("shell", "line", "unbuffered"),
    [
        ("{} --help > /dev/full", f"captioner: standard output: {FULL}\n", ""),
        ("{} index list --index mine > /dev/full", f"captioner: standard output: {FULL}\n", ""),
        ("{} index list --index mine > /dev/full", "captioner: standard output or ", "1"),
        ("{} index list --index mine >&-", "captioner: standard output is closed; ", ""),
        ("{} index list --index none 2>&-", "", ""),
        ("{} index list --index none 2> /dev/full", "", ""),
    ],
)
def test_standard_output_that_takes_nothing(tmp_path, shell, line, unbuffered):
    collection.begin(tmp_path / "mine", None, MODEL, {"meaning": 3, "looks": 2})
    collection.add_part(tmp_path / "mine", columns("a", "b", "c"), MEANING, LOOKS)
    code = "import sys; from captioner.cli import main; sys.exit(main())"
    command = shell.format(f'"{sys.executable}" -c "{code}"')
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(
        command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(line) and done.stderr.count("\n") == bool(line)
