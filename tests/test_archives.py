"""Zips, tars and folders: what is read, and what is refused."""

import bz2
import gzip
import io
import lzma
import os
import random
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner import CaptionerError
from captioner.archives import Archive, Container, container, is_archive, open_pictures, tars, zips
from captioner.archives.matching import is_picture, match_names


def make_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo("placeholder")
            info.filename = info.orig_filename = name  # the constructor would clean the name
            info.compress_type = method
            archive.writestr(info, data)
    return path


def test_members_are_read_without_folders_and_resource_forks(tmp_path):
    path = make_zip(
        tmp_path / "a.zip",
        {"top/": b"", "top/b.txt": b"two\n", "a.txt": b"one\n", "__MACOSX/top/._b.txt": b"fork"}
        | {"top/._c.txt": b"fork", "..dots/x..y": b"harmless"},
    )
    with Archive(path) as archive:
        assert archive.names == ["top/b.txt", "a.txt", "..dots/x..y"]
        assert archive.read("top/b.txt") == b"two\n"
        assert archive.find("b.txt") == "top/b.txt"
        assert archive.find("c.txt") is None
        with archive.open("a.txt") as file:
            assert list(file) == [b"one\n"]


def test_find_takes_the_outermost(tmp_path):
    members = {"z/deep/x.txt": b"", "z/x.txt": b"", "y/x.txt": b""}
    with Archive(make_zip(tmp_path / "a.zip", members)) as archive:
        assert archive.find("x.txt") == "y/x.txt"


@pytest.mark.parametrize(
    "name",
    [
        "../evil.jpg",
        "a/../../evil.jpg",
        "..",
        "/etc/evil.jpg",
        "C:/evil.jpg",
        "c:evil.jpg",
        "..\\evil.jpg",
        "a\\evil.jpg",
    ],
)
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    path = make_zip(tmp_path / "trap.zip", {"good.jpg": b"1", name: b"2"})
    with pytest.raises(CaptionerError) as caught:
        Archive(path)
    assert "trap.zip" in str(caught.value)
    assert repr(name) in str(caught.value)


def test_a_nul_in_a_name_is_refused(tmp_path):
    path = make_zip(tmp_path / "trap.zip", {"goodXbad.jpg": b"1"})
    path.write_bytes(path.read_bytes().replace(b"goodXbad", b"good\0bad"))
    with pytest.raises(CaptionerError, match="no proper name"):
        Archive(path)


def test_links_are_refused(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(CaptionerError, match=r"a\.zip.*'link' is a symbolic link"):
        Archive(tmp_path / "a.zip")


def test_absurd_ratio_is_refused_but_small_repetition_is_not(tmp_path):
    with Archive(make_zip(tmp_path / "small.zip", {"zeros": bytes(2**20)})) as archive:
        assert len(archive.read("zeros")) == 2**20
    with pytest.raises(CaptionerError, match=r"bomb\.zip.*'zeros' claims 2097152 bytes"):
        Archive(make_zip(tmp_path / "bomb.zip", {"zeros": bytes(2**21)}))


def test_absurd_sizes_are_refused(tmp_path, monkeypatch):
    path = make_zip(tmp_path / "a.zip", {"big": b"x" * 1000}, zipfile.ZIP_STORED)
    monkeypatch.setattr(container, "MAX_READ", 999)
    with Archive(path) as archive, pytest.raises(CaptionerError, match="'big' 1000 bytes"):
        archive.read("big")
    monkeypatch.setattr(zips, "MAX_MEMBER", 999)
    with pytest.raises(CaptionerError, match="'big' claims to hold 1000 bytes"):
        Archive(path)


def test_overlapping_members_are_refused(tmp_path):
    """Two entries of the directory that share one piece of data, as in Fifield's bomb."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("one", bytes(range(256)) * 8)
        archive.filelist.append(archive.filelist[0])
    with pytest.raises(CaptionerError, match="overlaps"):
        Archive(path)


def test_a_name_that_stands_twice_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("one", "1")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("one", "2")
    with pytest.raises(CaptionerError, match="'one' stands twice"):
        Archive(tmp_path / "a.zip")


def test_other_packing_and_encryption_are_refused(tmp_path):
    with pytest.raises(CaptionerError, match="method 14"):
        Archive(make_zip(tmp_path / "lzma.zip", {"a": b"1"}, zipfile.ZIP_LZMA))
    path = make_zip(tmp_path / "locked.zip", {"a": b"1"}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # general purpose flag of the directory entry
    path.write_bytes(data)
    with pytest.raises(CaptionerError, match="'a' is encrypted"):
        Archive(path)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(CaptionerError, match=r"none\.zip: no such archive"):
        Archive(tmp_path / "none.zip")
    (tmp_path / "page.zip").write_text("<html>please log in</html>")
    with pytest.raises(CaptionerError, match=r"page\.zip: damaged, or no zip archive"):
        Archive(tmp_path / "page.zip")
    with (
        Archive(make_zip(tmp_path / "a.zip", {"a": b"1"})) as archive,
        pytest.raises(CaptionerError, match=r"a\.zip: has no member 'b'"),
    ):
        archive.read("b")


def test_a_damaged_member_is_named_and_the_others_are_read(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"a": b"aaaa", "b": b"bbbb"}, zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"aaaa", b"aaxa"))
    with Archive(path) as archive:
        with pytest.raises(CaptionerError, match=r"a\.zip: member 'a': damaged \(Bad CRC"):
            archive.read("a")
        assert archive.read("b") == b"bbbb"


def test_errors_of_the_reader_of_a_stream_are_not_taken_for_damage(tmp_path):
    with (
        Archive(make_zip(tmp_path / "a.zip", {"a": b"one"})) as archive,
        pytest.raises(ValueError, match="invalid literal"),
        archive.open("a") as file,
    ):
        int(file.read())


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_anywhere_is_an_error_for_people(tmp_path_factory, data):
    """Any bytes changed, any tail cut off: the right content or a CaptionerError, nothing else."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("first.txt", b"a quick brown fox " * 5)
        archive.writestr("second.txt", b"over the lazy dog " * 5)
    damaged = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(damaged) - 1)) :]
    path = tmp_path_factory.getbasetemp() / "damaged.zip"
    path.write_bytes(damaged)
    try:
        with Archive(path) as archive:
            for name in archive.names:
                assert archive.read(name) in (
                    b"a quick brown fox " * 5,
                    b"over the lazy dog " * 5,
                    b"",
                )
    except CaptionerError as error:
        assert str(path) in str(error)


# Whatever they lie in

FILES = {
    "b/two.jpg": bytes(range(256)) * 9,
    "b/" + "n" * 150 + "/long.jpg": b"a name too long for one field of a tar",
    "a.txt": b"one\n",
    "ü 日.jpg": b"",
    "b/full.jpg": b"x" * 1024,
}
FORKS = {"__MACOSX/b/._two.jpg": b"fork", "b/._two.jpg": b"fork", "b/__MACOSX/two.jpg": b"fork"}
TARS = {"plain.tar": "", "a.tgz": "gz", "b.tar.bz2": "bz2", "c.txz": "xz"}


def make_tar(path: Path, files: dict[str, bytes], packing: str = "", form: int = 1) -> Path:
    with tarfile.open(path, f"w:{packing}", format=form) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def make_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def contents(pictures: Container, names: list[str]) -> list[tuple[str, bytes]]:
    return list(pictures.read_all(names))


@pytest.mark.parametrize("kind", ["zip", "folder", *TARS])
def test_the_same_files_whatever_they_lie_in(tmp_path, kind):
    files = FILES | FORKS
    if kind == "zip":
        path = make_zip(tmp_path / "a.zip", files)
    elif kind == "folder":
        path = make_folder(tmp_path / "folder", files)
    else:
        path = make_tar(tmp_path / kind, files, TARS[kind])
    in_order = sorted(FILES) if kind == "folder" else list(FILES)
    with open_pictures(path) as pictures:
        assert pictures.names == in_order
        assert dict(contents(pictures, in_order)) == FILES
        # Asked for in another order, and twice over
        asked = ["b/full.jpg", "a.txt", "b/two.jpg"]
        given = ["b/two.jpg", "a.txt", "b/full.jpg"] if TARS.get(kind) else asked
        for _ in range(2):
            assert contents(pictures, asked) == [(name, FILES[name]) for name in given]
        assert [pictures.read(name) for name in asked] == [FILES[name] for name in asked]
        assert pictures.find("long.jpg") == "b/" + "n" * 150 + "/long.jpg"
        assert pictures.find("none.jpg") is None
        for name in ("none.jpg", "b", "../a.txt", "/etc/passwd"):
            with pytest.raises(CaptionerError, match="has no member"):
                pictures.read(name)
    assert is_archive(path) == (kind != "folder")


def test_read_all_goes_on_behind_what_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(container, "MAX_READ", 100)
    files = {"a": b"1", "big": b"x" * 101, "c": b"3"}
    for path in (
        make_zip(tmp_path / "a.zip", files),
        make_tar(tmp_path / "a.tar", files),
        make_tar(tmp_path / "a.tar.gz", files, "gz"),
        make_folder(tmp_path / "a", files),
    ):
        damaged: dict[str, str] = {}
        with open_pictures(path) as pictures:
            assert list(pictures.read_all(files, damaged)) == [("a", b"1"), ("c", b"3")]
            with pytest.raises(CaptionerError, match="'big' 101 bytes are too many"):
                list(pictures.read_all(files))
        assert list(damaged) == ["big"] and "101 bytes are too many" in damaged["big"]


def test_a_packed_tar_is_unpacked_once_for_its_names_and_once_for_each_reading(
    tmp_path, monkeypatch
):
    files = {f"{n}.jpg": random.Random(n).randbytes(5000) for n in range(50)}
    path = make_tar(tmp_path / "a.tar.gz", files, "gz")
    with gzip.open(path) as file:
        size = len(file.read())
    unpacked = []
    read = gzip.GzipFile.read
    monkeypatch.setattr(
        gzip.GzipFile, "read", lambda *args: unpacked.append(len(data := read(*args))) or data
    )
    with open_pictures(path) as pictures:
        assert sum(unpacked) == size
        for _ in range(3):
            unpacked.clear()
            assert len(contents(pictures, list(reversed(files)))) == 50
            assert sum(unpacked) <= size
        unpacked.clear()
        assert contents(pictures, ["1.jpg", "0.jpg"]) == [(n, files[n]) for n in ("0.jpg", "1.jpg")]
        assert sum(unpacked) == 2 * (512 + 5120) - 120  # and not one byte behind


def test_tar_made_of_a_dot_and_of_every_format(tmp_path):
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = make_tar(tmp_path / f"{form}.tar", {"./b/a.jpg": b"1", "./a.jpg": b"2"}, form=form)
        with tarfile.open(path, "a", format=form) as archive:
            archive.add(tmp_path, ".", recursive=False)  # what `tar -c .` begins with
        with open_pictures(path) as pictures:
            assert contents(pictures, pictures.names) == [("b/a.jpg", b"1"), ("a.jpg", b"2")]
            assert pictures.find("a.jpg") == "a.jpg"


def test_nothing_follows_a_folder_whatever_its_size(tmp_path):
    """Some tars state what a folder takes on their disk."""
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        folder = tarfile.TarInfo("b")
        folder.type, folder.size = tarfile.DIRTYPE, 4096
        archive.addfile(folder)
        picture = tarfile.TarInfo("b/a.jpg")
        picture.size = 1
        archive.addfile(picture, io.BytesIO(b"1"))
    with open_pictures(tmp_path / "a.tar") as pictures:
        assert contents(pictures, pictures.names) == [("b/a.jpg", b"1")]


def test_a_tar_as_of_1979(tmp_path):
    """No magic word in its headers: known by its suffix."""
    data = bytearray(make_tar(tmp_path / "a.tar", {"a.jpg": b"1"}).read_bytes())
    data[257:265] = bytes(8)
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    (tmp_path / "a.tar").write_bytes(data)
    with open_pictures(tmp_path / "a.tar") as pictures:
        assert contents(pictures, ["a.jpg"]) == [("a.jpg", b"1")]


HOSTILE = [
    ({"name": "../evil.jpg"}, "'../evil.jpg' has a name that leads out"),
    ({"name": "/evil.jpg"}, "'/evil.jpg' has an absolute path"),
    ({"name": "C:evil.jpg"}, "'C:evil.jpg' has an absolute path"),
    ({"name": "a\\evil.jpg"}, "has a backslash"),
    ({"name": "x", "pax_headers": {"path": "a\0b"}}, r"'a\x00b' has no proper name"),
    ({"name": "."}, "'.' has no proper name"),
    ({"name": "good.jpg"}, "'good.jpg' stands twice"),
    ({"name": "./good.jpg"}, "'good.jpg' stands twice"),
    ({"name": "link", "type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "'link' is a symbolic"),
    ({"name": "link", "type": tarfile.SYMTYPE, "linkname": "good.jpg"}, "'link' is a symbolic"),
    ({"name": "link", "type": tarfile.LNKTYPE, "linkname": "good.jpg"}, "'link' is a hard link"),
    ({"name": "null", "type": tarfile.CHRTYPE}, "'null' is a device"),
    ({"name": "disk", "type": tarfile.BLKTYPE}, "'disk' is a device"),
    ({"name": "pipe", "type": tarfile.FIFOTYPE}, "'pipe' is a pipe"),
    ({"name": "holes", "type": tarfile.GNUTYPE_SPARSE}, "'holes' is a file with holes"),
    ({"name": "holes", "pax_headers": {"GNU.sparse.major": "1"}}, "'holes' is a file with holes"),
    ({"name": "odd", "type": b"Q"}, "'odd' is no plain file (type b'Q')"),
    ({"name": "big", "size": 2**40}, "'big' claims to hold 1099511627776 bytes"),
    ({"name": "big", "pax_headers": {"size": str(2**40)}}, "'big' claims to hold 1099511627776"),
    ({"name": "back", "pax_headers": {"size": "-1024"}}, "a size of -1024 bytes"),
    ({"name": "odd", "pax_headers": {"size": "ten"}}, "damaged, in or behind 'good.jpg' (invalid"),
    ({"name": "odd", "pax_headers": {"comment": "x" * 2**20}}, "an extended header of 10485"),
    ({"name": "n" * (2**20 + 1)}, "an extended header of 1048578 bytes"),
]


@pytest.mark.parametrize("packing", ["", "gz"])
@pytest.mark.parametrize(("fields", "message"), HOSTILE)
def test_hostile_tars_are_refused(tmp_path, packing, fields, message):
    path = tmp_path / "trap.tar"
    form = tarfile.PAX_FORMAT if "pax_headers" in fields else tarfile.GNU_FORMAT
    with tarfile.open(path, f"w:{packing}", format=form) as archive:
        good = tarfile.TarInfo("good.jpg")
        good.size = 1
        archive.addfile(good, io.BytesIO(b"1"))
        bad = tarfile.TarInfo()
        for field, value in fields.items():
            setattr(bad, field, value)
        archive.addfile(bad)
    with pytest.raises(CaptionerError) as caught:
        open_pictures(path)
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)


def test_too_many_members_are_refused(tmp_path, monkeypatch):
    path = make_tar(tmp_path / "a.tar", {"a": b"1", "b": b"2"})
    monkeypatch.setattr(tars, "MAX_MEMBERS", 1)
    with pytest.raises(CaptionerError, match="'b' comes after 1 others"):
        open_pictures(path)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("place", ["in a picture", "behind the end"])
def test_a_packed_bomb_is_refused_before_it_unfolds(tmp_path, pack, place):
    size = 2**24
    zeros = b"" if place == "behind the end" else bytes(size)
    tar = make_tar(tmp_path / "a.tar", {"zeros": zeros}).read_bytes()
    (tmp_path / "bomb").write_bytes(pack(tar + (b"" if zeros else bytes(size))))
    with pytest.raises(CaptionerError, match=r"bomb: refused: unpacks to more than 200 times"):
        open_pictures(tmp_path / "bomb")


def test_a_small_repetitive_packed_tar_is_no_bomb(tmp_path):
    path = make_tar(tmp_path / "a.tar.xz", {"zeros": bytes(2**19)}, "xz")
    with open_pictures(path) as pictures:
        assert contents(pictures, ["zeros"]) == [("zeros", bytes(2**19))]


def test_a_damaged_header_is_not_the_end_of_a_tar(tmp_path):
    path = make_tar(tmp_path / "a.tar", {"a.jpg": b"1", "b.jpg": b"2", "c.jpg": b"3"})
    path.write_bytes(path.read_bytes().replace(b"b.jpg", b"x.jpg"))
    with pytest.raises(CaptionerError, match=r"a\.tar: damaged, in or behind 'a\.jpg' \(bad check"):
        open_pictures(path)


@pytest.mark.parametrize("packing", ["", "gz", "bz2", "xz"])
def test_a_tar_cut_off_is_damaged(tmp_path, packing):
    files = {f"{n}.jpg": random.Random(n).randbytes(3000) for n in range(9)}
    path = make_tar(tmp_path / "a.tar", files, packing)
    whole = path.read_bytes()
    for length in (len(whole) * 2 // 3, 10_200, 512 + 3072):
        path.write_bytes(whole[:length])
        with pytest.raises(CaptionerError, match=r"a\.tar: damaged, "):
            open_pictures(path)


def test_a_wrong_checksum_of_a_packed_tar_is_found_when_it_is_opened(tmp_path):
    path = make_tar(tmp_path / "a.tar.gz", {"a.jpg": b"1"}, "gz")
    data = bytearray(path.read_bytes())
    data[-8] ^= 1  # of the CRC-32 that ends it
    path.write_bytes(data)
    with pytest.raises(CaptionerError, match=r"a\.tar\.gz: damaged, .*CRC check failed"):
        open_pictures(path)


def test_a_packed_file_that_is_no_tar(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"image,caption\n" * 100))
    with pytest.raises(CaptionerError, match=r"a\.csv\.gz: damaged, or no tar archive"):
        open_pictures(tmp_path / "a.csv.gz")


def test_links_in_a_folder(tmp_path):
    folder = make_folder(tmp_path / "pictures", {"a.jpg": b"1", "b/c.jpg": b"2"})
    (tmp_path / "secret").write_bytes(b"3")
    (folder / "inside.jpg").symlink_to(folder / "b" / "c.jpg")
    (folder / "b" / "up").symlink_to("..")  # not entered, so that nothing goes round in circles
    (tmp_path / "alias").symlink_to(folder)
    for path in (folder, tmp_path / "alias"):
        with open_pictures(path) as pictures:
            assert contents(pictures, pictures.names) == [
                ("a.jpg", b"1"),
                ("b/c.jpg", b"2"),
                ("inside.jpg", b"2"),
            ]
    for target in (tmp_path / "secret", Path("../../secret"), tmp_path):
        (folder / "b" / "link").symlink_to(target)
        with pytest.raises(CaptionerError, match="refused: member 'b/link' is a link that leads"):
            open_pictures(folder)
        (folder / "b" / "link").unlink()
    for target in ("nothing", "link"):
        (folder / "b" / "link").symlink_to(target)
        with pytest.raises(CaptionerError, match="pictures: 'b/link' cannot be read"):
            open_pictures(folder)
        (folder / "b" / "link").unlink()


def test_a_pipe_in_a_folder_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CaptionerError, match="'pipe' is neither file nor folder"):
        open_pictures(tmp_path)


def test_a_pipe_or_device_in_the_place_of_an_archive_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, what in ((tmp_path / "pipe", "a pipe"), (Path("/dev/zero"), "a device")):
        for function in (open_pictures, is_archive):
            with pytest.raises(CaptionerError, match=f"{path}: is {what}; expected a folder, zip"):
                function(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_named(tmp_path):
    folder = make_folder(tmp_path / "pictures", {"a.jpg": b"1", "b/c.jpg": b"2"})
    (folder / "a.jpg").chmod(0)
    with (
        open_pictures(folder) as pictures,
        pytest.raises(CaptionerError, match=r"'a\.jpg' cannot be read \(Permission denied\)"),
    ):
        pictures.read("a.jpg")
    (folder / "b").chmod(0)
    try:
        with pytest.raises(CaptionerError, match=r"'b' cannot be read \(Permission denied\)"):
            open_pictures(folder)
    finally:
        (folder / "b").chmod(0o700)


def test_a_file_that_went_away_is_named(tmp_path):
    make_folder(tmp_path, {"a.jpg": b"1"})
    with open_pictures(tmp_path) as pictures:
        (tmp_path / "a.jpg").unlink()
        with pytest.raises(CaptionerError, match=r"'a\.jpg' cannot be read \(No such file"):
            pictures.read("a.jpg")


def test_what_is_no_container(tmp_path):
    (tmp_path / "page.zip").write_text("<html>please log in</html>")
    with pytest.raises(CaptionerError, match=r"page\.zip: no folder, zip or tar"):
        open_pictures(tmp_path / "page.zip")
    assert not is_archive(tmp_path / "page.zip")
    for path, message in [
        (tmp_path / "none", "no such file or folder"),
        (tmp_path / "page.zip" / "x", "cannot be read (Not a directory)"),
        (Path("nul\0"), "cannot be read (embedded null byte)"),
    ]:
        for function in (open_pictures, is_archive):
            with pytest.raises(CaptionerError) as caught:
                function(path)
            assert str(caught.value) == f"{path}: {message}"


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(["", "gz", "bz2", "xz"]),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.randoms(use_true_random=False),
)
def test_a_damaged_tar_is_an_error_for_people(tmp_path_factory, packing, form, chance):
    """Packed: the right content or an error. Plain: tar has no checksum but of its headers."""
    path = tmp_path_factory.getbasetemp() / "damaged.tar"
    damaged = bytearray(make_tar(path, FILES, packing, form).read_bytes())
    for _ in range(chance.randint(1, 3)):
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
    if chance.random() < 0.3:
        del damaged[chance.randrange(len(damaged)) :]
    path.write_bytes(damaged)
    try:
        with open_pictures(path) as pictures:
            found = dict(pictures.read_all(pictures.names))
            assert not packing or found == FILES
    except CaptionerError as error:
        assert str(path) in str(error)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=2000), st.sampled_from([b"", b"\x1f\x8b", b"BZh9", b"PK\3\4"]))
def test_any_bytes_are_an_error_for_people(tmp_path_factory, data, start):
    path = tmp_path_factory.getbasetemp() / "any.tar"
    path.write_bytes(start + data)
    try:
        open_pictures(path).close()
    except CaptionerError as error:
        assert str(path) in str(error)


# Names in a table

MATCHES = [
    ("images/1.jpg", ["images/1.jpg"]),
    ("images/1", ["images/1.jpg"]),
    ("1.jpg", ["images/1.jpg", "thumbs/1.jpg"]),
    ("1", ["images/1.jpg", "thumbs/1.jpg"]),
    ("./images/2.PNG", ["images/2.PNG"]),
    ("/home/me/2.PNG", []),  # another folder
    ("/home/me/images/2.PNG", ["images/2.PNG"]),
    ("thumbs/2.PNG", []),
    ("thumbs/2", []),
    ("s/2.PNG", []),  # no folder is called so, though the text ends so
    ("cat/4.jpg", ["my/data/cat/4.jpg"]),
    ("data/./cat/../cat/4", ["my/data/cat/4.jpg"]),
    ("dog/4.jpg", ["your/dog/4.jpg"]),
    ("4.jpg", ["my/data/cat/4.jpg", "your/dog/4.jpg"]),
    ("../images/cat/4.jpg", []),
    ("train/top.jpg", ["top.jpg"]),  # the file has no folder that could contradict
    ("5/6.jpg", ["5/6.jpg"]),
    ("x/5/6.jpg", ["5/6.jpg"]),  # the end that shares most folders
    ("x/6.jpg", ["6.jpg"]),
    ("2", ["images/2.PNG"]),
    ("2.png", []),
    ("3", ["3"]),  # to the letter, though there is a 3.jpg
    ("v1.2", ["v1.2.webp"]),
    ("notes", []),
    ("notes.txt", ["notes.txt"]),
    ("K\u00f6che.jpg", ["Ko\u0308che.jpg"]),
    ("Ko\u0308che", ["Ko\u0308che.jpg"]),
    ("", []),
    ("none.jpg", []),
]


def test_names_are_matched_by_path_and_never_against_a_folder():
    files = ["images/1.jpg", "thumbs/1.jpg", "images/2.PNG", "3", "x/3.jpg", "v1.2.webp"]
    files += ["notes.txt", "Ko\u0308che.jpg", "my/data/cat/4.jpg", "your/dog/4.jpg", "top.jpg"]
    files += ["5/6.jpg", "6.jpg"]
    assert match_names((name for name, _ in MATCHES), files) == dict(MATCHES)
    assert [file for file in files if not is_picture(file)] == ["3", "notes.txt"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as somebody else")
def test_what_may_not_be_read_is_named_to_any_other_user(tmp_path, monkeypatch):
    """As the test above, which root skips: here root acts as the user 65534 (nobody)."""
    folder = make_folder(tmp_path / "pictures", {"a.jpg": b"1", "b/c.jpg": b"2"})
    for path in (tmp_path, folder, folder / "a.jpg", folder / "b"):
        os.chown(path, 65534, 65534)
    (folder / "a.jpg").chmod(0)
    monkeypatch.chdir(folder)  # the folders above it are root's alone
    os.seteuid(65534)
    try:
        with (
            open_pictures(Path()) as pictures,
            pytest.raises(CaptionerError, match=r"'a\.jpg' cannot be read \(Permission denied\)"),
        ):
            pictures.read("a.jpg")
        Path("b").chmod(0)
        with pytest.raises(CaptionerError, match=r"'b' cannot be read \(Permission denied\)"):
            open_pictures(Path())
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("packing", ["zip", "gz", "xz"])
def test_an_honest_archive_may_unpack_to_several_times_its_size(tmp_path, packing):
    """4.5 MB out of 0.6 MB: 200 times as much is a bomb, 8 times is not."""
    noise = np.random.default_rng(0).integers(0, 256, 2**17, np.uint8).tobytes()
    files = {f"{number}.jpg": noise + bytes(2**20) for number in range(4)}
    path = tmp_path / "archive"
    make_zip(path, files) if packing == "zip" else make_tar(path, files, packing)
    assert 2**17 < path.stat().st_size < 2**20
    with open_pictures(path) as pictures:
        assert dict(pictures.read_all(pictures.names)) == files


def test_a_zip_at_its_limits_is_no_bomb(tmp_path, monkeypatch):
    """Exactly the largest member, and exactly the largest ratio: stored bytes have a ratio of 1."""
    path = make_zip(tmp_path / "a.zip", {"a.jpg": b"12345"}, zipfile.ZIP_STORED)
    monkeypatch.setattr(zips, "MAX_MEMBER", 5)
    monkeypatch.setattr(zips, "RATIO_FROM", 4)
    monkeypatch.setattr(zips, "MAX_RATIO", 1)
    with Archive(path) as archive:
        assert archive.names == ["a.jpg"]
    monkeypatch.setattr(zips, "MAX_MEMBER", 4)
    with pytest.raises(CaptionerError, match="claims to hold 5 bytes"):
        Archive(path)


def test_a_plain_tar_of_any_name_is_known_by_its_magic_word(tmp_path):
    path = make_tar(tmp_path / "pictures", {"a.jpg": b"1"})
    assert is_archive(path)
    with open_pictures(path) as pictures:
        assert contents(pictures, pictures.names) == [("a.jpg", b"1")]


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no list of open files")
@pytest.mark.parametrize("kind", ["zip", "", "gz", "bz2", "xz"])
def test_a_closed_archive_holds_no_file_open(tmp_path, kind):
    path = tmp_path / "archive"
    make_zip(path, FILES) if kind == "zip" else make_tar(path, FILES, kind)
    before = len(list(Path("/dev/fd").iterdir()))
    pictures = open_pictures(path)
    assert len(list(Path("/dev/fd").iterdir())) == before + 1
    pictures.close()
    assert len(list(Path("/dev/fd").iterdir())) == before
