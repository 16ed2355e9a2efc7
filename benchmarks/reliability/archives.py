"""Hostile archives: mutated headers, names that lead elsewhere, links, devices, bombs."""

import bz2
import functools
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import numpy as np

from benchmarks.reliability.captions import NAMES, check_data, one_line
from benchmarks.reliability.cases import Outside, Wrong
from benchmarks.reliability.images import seeds as images
from benchmarks.reliability.mutations import mutate
from captioner import CaptionerError
from captioner.archives import open_pictures
from captioner.caption_files import read_rows

SECRET = b"what no archive may show"
TABLE = "image,caption\n" + "".join(f"{name},a drawn scene\n" for name in NAMES)
LEADING = ["../secret.txt", "/etc/passwd", "a/../../secret.txt", "C:\\x.jpg", "..\\secret.txt"]
LEADING += ["a\0b.jpg", "", ".", "..", "//x", "a" * 5000, "\x1b[2J.jpg", "a\nb.jpg", "/dev/zero"]
PACK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@functools.cache
def _members() -> tuple[tuple[str, bytes], ...]:
    pictures = [
        (f"pictures/{name}", data) for name, (_, data) in zip(NAMES, images(), strict=False)
    ]
    return (*pictures, ("captions.csv", TABLE.encode()))


def _zip(members, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in members:
            info = name
            if isinstance(data, int):  # the mode of what is no plain file
                info, data = zipfile.ZipInfo(name), b"../secret.txt"
                info.external_attr, info.create_system = 0o120777 << 16, 3
            archive.writestr(info, data)
    return stream.getvalue()


def _tar(members, form: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if isinstance(data, int):
                info.type, info.linkname = bytes([data]), "../secret.txt"
                archive.addfile(info)
            else:
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def _build(rng: np.random.Generator) -> tuple[str, bytes, str]:
    """Suffix, bytes and what is wrong with it."""
    kind = str(rng.choice(["zip", "zip", "tar", "tar.gz", "tar.bz2", "tar.xz"]))
    fault = str(rng.choice(["mutated", "mutated", "names", "links", "bomb", "twice", "crowd"]))
    members = list(_members())
    place = int(rng.integers(len(members)))
    if fault == "names":
        members.insert(place, (LEADING[rng.integers(len(LEADING))], b"harm"))
    elif fault == "links":  # symbolic, hard, character and block device, FIFO
        special = int(rng.choice([0x31, 0x32, 0x33, 0x34, 0x36]))
        members.insert(place, (f"pictures/{rng.choice(['link.jpg', NAMES[0]])}", special))
    elif fault == "bomb":
        name = str(rng.choice(["pictures/0000.png", "captions.csv", "zeros.bin"]))
        zeros = bytes(int(rng.choice([2_000_000, 20_000_000, 100_000_000])))
        members = [member for member in members if member[0] != name] + [(name, zeros)]
    elif fault == "twice":
        members.append(members[place])
    elif fault == "crowd":
        members += [(f"pictures/{number:05d}.jpg", b"") for number in range(4000)]
    try:
        if kind == "zip":
            data = _zip(members, int(rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])))
        else:
            form = int(rng.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
            data = _tar(members, form)
    except ValueError:  # a name that this form cannot hold
        kind, data = "zip", _zip(members)
    inner = kind.partition(".")[2]
    if fault == "mutated" and rng.integers(2):
        data, faults = mutate(data, rng, [_zip(_members()), _tar(_members())])
        fault = f"{fault} {faults}"
    if inner:
        data = PACK[inner](data)
    if fault == "mutated":
        data, faults = mutate(data, rng, [_zip(_members())])
        fault = f"{fault} outside {faults}"
    return kind, data, fault


def case(rng: np.random.Generator, number: int, folder: Path) -> str:
    """One archive: all its files read, or refused in one line; its table; `check-data` of both."""
    suffix, data, what = _build(rng)
    (folder / "secret.txt").write_bytes(SECRET)
    place = folder / "below"
    place.mkdir()
    file = place / f"archive.{suffix}"
    file.write_bytes(data)
    what = f"{suffix} {what}"
    if number % 4 == 0:
        table = place / "captions.csv"
        table.write_text(TABLE, "utf-8")
        return f"check-data {what}: exit code {check_data(table, file, folder)}"
    read = 0
    try:
        with open_pictures(file) as archive:
            if any(".." in name.split("/") or name.startswith("/") for name in archive.names):
                raise Wrong(f"{what}: names that lead elsewhere: {archive.names[:9]}")
            damaged: dict[str, str] = {}
            for _, content in archive.read_all(archive.names, damaged):
                read += 1
                if SECRET in content:
                    raise Outside(f"{what}: showed a file beside the archive")
        list(read_rows(file))
    except CaptionerError as error:
        one_line(error)
        return f"{what}: {read} read, then refused"
    return f"{what}: {read} read"
