"""Zip archives: what is read, and what is refused."""

import io
import stat
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner import CaptionerError, archives
from captioner.archives import Archive


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
    monkeypatch.setattr(archives, "MAX_READ", 999)
    with Archive(path) as archive, pytest.raises(CaptionerError, match="'big' 1000 bytes"):
        archive.read("big")
    monkeypatch.setattr(archives, "MAX_MEMBER", 999)
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
