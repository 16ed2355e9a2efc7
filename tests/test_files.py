"""files.py: whole or not at all, whatever happens; equal content means equal bytes and digests."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner import CaptionerError, files
from captioner.files import (
    atomic_file,
    atomic_folder,
    check_apart,
    check_replaceable,
    checked_folder,
    digest,
    read_json,
    read_regular,
    verify,
    write_checksums,
    write_json,
)

ROOT = Path(__file__).resolve().parent.parent


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_with_its_folders_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a" / "b" / "c.txt"
    with atomic_file(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".txt"
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(path.parent) == ["c.txt"]


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / "c.txt"
    path.write_text("old")
    with atomic_file(str(path)) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "c.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["c.txt"]


def test_a_block_that_writes_nothing_is_an_error_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "c.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_file(path):
        pass
    assert path.read_text() == "old" and names(tmp_path) == ["c.txt"]


MODEL = ["weights", "*/weights"]


def test_a_folder_replaces_a_folder_with_everything_in_it(tmp_path):
    path = tmp_path / "model"
    (path / "old").mkdir(parents=True)
    (path / "old" / "weights").write_text("old")
    with atomic_folder(path, MODEL) as temporary:
        assert names(temporary) == []
        (temporary / "new").mkdir()
        (temporary / "new" / "weights").write_text("new")
        assert (path / "old" / "weights").read_text() == "old"
    assert names(path) == ["new"] and (path / "new" / "weights").read_text() == "new"
    assert names(tmp_path) == ["model"]


def test_failure_leaves_the_old_folder_and_nothing_else(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "weights").write_text("old")
    with pytest.raises(ValueError), atomic_folder(path, MODEL) as temporary:
        (temporary / "weights").write_text("half")
        raise ValueError
    assert (path / "weights").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_interrupt_between_the_renames_brings_the_old_folder_back(tmp_path, monkeypatch):
    path = tmp_path / "model"
    path.mkdir()
    (path / "weights").write_text("old")
    replace = Path.replace

    def interrupted(source, target):
        if target == path and not source.name.endswith(".old") and not path.exists():
            raise KeyboardInterrupt
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_folder(path, MODEL) as temporary:
        (temporary / "weights").write_text("new")
    assert (path / "weights").read_text() == "old" and names(tmp_path) == ["model"]


def test_a_kill_between_the_renames_is_mended_by_the_next_writer(tmp_path):
    path = tmp_path / "model"
    old = tmp_path / ".partial-999999999-model.old"
    folder_of(old, {"weights": "old"})
    with pytest.raises(ValueError), atomic_folder(path, MODEL):
        raise ValueError
    assert (path / "weights").read_text() == "old" and names(tmp_path) == ["model"]


@pytest.mark.parametrize(
    "there",
    [
        {"photo.jpg": "precious"},
        {"weights": "ours", "photo.jpg": "precious"},
        {"a/weights": "ours", "a/photo.jpg": "precious"},
        {"a/b/weights": "not so deep"},
        {"vectors.npy": "in no format of numpy's"},
    ],
)
def test_a_folder_of_others_is_not_replaced(tmp_path, there):
    path = folder_of(tmp_path / "model", there)
    with (
        pytest.raises(CaptionerError, match="holds other files"),
        atomic_folder(path, [*MODEL, "*.npy"]),
    ):
        pytest.fail("refused only after the work")
    assert {name: (path / name).read_text() for name in there} == there
    assert names(tmp_path) == ["model"]


def test_what_is_put_there_during_the_work_is_not_replaced(tmp_path):
    path = folder_of(tmp_path / "model", {"weights": "old"})
    with pytest.raises(CaptionerError, match=r"photo\.jpg"), atomic_folder(path, MODEL) as new:
        (new / "weights").write_text("new")
        (path / "photo.jpg").write_text("precious")
    assert names(path) == ["photo.jpg", "weights"] and names(tmp_path) == ["model"]


def test_files_devices_links_and_folders_above_are_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("file").write_text("precious")
    Path("empty").mkdir()
    Path("dangling").symlink_to("none")
    os.mkfifo("fifo")
    before = names(Path())
    for path in ("file", "dangling", "fifo", ".", "..", "/", "../here", "empty/.."):
        with pytest.raises(CaptionerError) as caught, atomic_folder(path, ["*"]):
            pass
        assert str(caught.value).startswith(f"{Path(path)}: is ")
    for path in ("empty", "fifo"):
        with pytest.raises(CaptionerError, match="is no file"), atomic_file(path):
            pass
    assert names(Path()) == before and names(tmp_path) == ["here"]


def test_a_link_to_a_folder_is_followed_and_stays(tmp_path):
    folder_of(tmp_path / "there", {"weights": "old"})
    (tmp_path / "link").symlink_to("there")
    with atomic_folder(tmp_path / "link", MODEL) as new:
        (new / "weights").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "weights").read_text() == "new"
    assert names(tmp_path) == ["link", "there"]


def test_an_older_folder_has_its_mark(tmp_path):
    path = folder_of(tmp_path / "report", {"report.json": '{"mine": 1}'})
    ours = (["*.json", "*.csv"], ("report.json", b'"captions"'))
    with pytest.raises(CaptionerError, match=r"report\.json"):
        check_replaceable(path, *ours)
    write_json(path / "report.json", {"captions": 1})
    assert check_replaceable(path, *ours) == path
    (path / "report.json").unlink()
    (path / "a.csv").touch()
    with pytest.raises(CaptionerError, match=r"a\.csv"):
        check_replaceable(path, *ours)


def test_outputs_apart_from_inputs(tmp_path):
    check_apart(tmp_path / "a", tmp_path / "ab", tmp_path / "b")
    (tmp_path / "link").symlink_to("a")
    for path in ("a", "a/b", "", "link/c", "b/../a"):
        with pytest.raises(CaptionerError, match="is read from"):
            check_apart(tmp_path / path, tmp_path / "b", tmp_path / "a")


def kill_while_writing(kind: str, path: Path) -> None:
    """Start a process that overwrites `path` and kill it in the middle."""
    ours = ", ['weights']" if kind == "atomic_folder" else ""
    code = (
        "import sys, time; from captioner import files\n"
        f"with files.{kind}(sys.argv[1]{ours}) as temporary:\n"
        "    place = temporary / 'weights' if temporary.is_dir() else temporary\n"
        "    place.write_text('half')\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(
        [sys.executable, "-c", code, path], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)


def test_kill_leaves_the_old_file_and_the_next_writer_cleans_up(tmp_path):
    path = tmp_path / "c.txt"
    path.write_text("old")
    kill_while_writing("atomic_file", path)
    assert path.read_text() == "old"
    assert len(names(tmp_path)) == 2  # SIGKILL leaves no time to clean up
    with atomic_file(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new" and names(tmp_path) == ["c.txt"]


def test_kill_leaves_the_old_folder_and_the_next_writer_cleans_up(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "weights").write_text("old")
    kill_while_writing("atomic_folder", path)
    assert (path / "weights").read_text() == "old"
    with atomic_folder(path, MODEL) as temporary:
        (temporary / "weights").write_text("new")
    assert (path / "weights").read_text() == "new" and names(tmp_path) == ["model"]


def test_what_a_living_process_or_another_file_needs_is_left_alone(tmp_path):
    others = [f".partial-{os.getppid()}-c.txt", ".partial-999999999-b-c.txt", ".partial-x-c.txt"]
    for name in others:
        (tmp_path / name).touch()
    with atomic_file(tmp_path / "c.txt") as temporary:
        temporary.touch()
    assert names(tmp_path) == sorted([*others, "c.txt"])


def test_json_bytes_do_not_depend_on_the_order_of_keys(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, 2.5], "a": "é"})
    write_json(tmp_path / "b.json", {"a": "é", "b": [1, 2.5]})
    expected = '{\n  "a": "é",\n  "b": [\n    1,\n    2.5\n  ]\n}\n'
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == expected
    assert (tmp_path / "b.json").read_bytes() == (tmp_path / "a.json").read_bytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"loss": -float("inf")}, {1, 2}])
def test_what_is_no_json_is_refused_and_leaves_the_old_file(tmp_path, value):
    path = tmp_path / "metrics.json"
    write_json(path, {"loss": 1})
    with pytest.raises((ValueError, TypeError)):
        write_json(path, value)
    assert read_json(path) == {"loss": 1} and names(tmp_path) == ["metrics.json"]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # a lone surrogate is no character and cannot be written as UTF-8
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda x: st.lists(x) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), x),
    max_leaves=10,
)


@given(JSON)
@settings(deadline=None)
def test_json_round_trip(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "round_trip.json"
    write_json(path, value)
    assert read_json(path) == value


def folder_of(path: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content)
    return path


def test_digest_depends_on_names_and_contents_alone(tmp_path):
    first = folder_of(tmp_path / "first", {"a": "1", "b/c": "2"})
    same = folder_of(tmp_path / "same", {"b/c": "2", "a": "1"})
    os.utime(same / "a", (0, 0))
    assert digest(first) == digest(str(same))
    different = {
        digest(first),
        digest(folder_of(tmp_path / "content", {"a": "1", "b/c": "3"})),
        digest(folder_of(tmp_path / "name", {"a": "1", "b/d": "2"})),
        digest(folder_of(tmp_path / "swapped", {"a": "2", "b/c": "1"})),
        digest(folder_of(tmp_path / "fewer", {"a": "1"})),
        digest(first / "b" / "c"),
        digest(first / "a", first / "b" / "c"),
        digest(first / "b" / "c", first / "a"),
        digest(first, first),
        digest(first, same, first / "a"),
    }
    assert len(different) == 10


def test_digest_tells_in_which_folder_a_file_lies(tmp_path):
    one = folder_of(tmp_path / "one", {"x": "1", "y": "2"})
    none = tmp_path / "none"
    none.mkdir()
    x, y = folder_of(tmp_path / "x", {"x": "1"}), folder_of(tmp_path / "y", {"y": "2"})
    assert digest(one, none) != digest(x, y)


def test_digest_of_nothing_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        digest(tmp_path / "none")


def test_what_a_process_of_another_user_needs_is_left_alone(tmp_path, monkeypatch):
    """The system refuses to signal it: so it is there."""

    def refused(process: int, number: int) -> None:
        assert number == 0  # only asked for
        raise PermissionError

    monkeypatch.setattr(os, "kill", refused)
    (tmp_path / ".partial-1-c.txt").touch()
    write_json(tmp_path / "c.txt", 1)
    assert names(tmp_path) == [".partial-1-c.txt", "c.txt"]


def test_all_content_is_on_the_disk_before_it_takes_the_old_place(tmp_path, monkeypatch):
    """A rename may reach the disk before the content does: after a power cut the file is empty."""
    path, synced = tmp_path / "c", []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        old = path / "old" if path.is_dir() else path
        synced.append((os.fstat(descriptor).st_ino, old.exists() and old.read_text() == "old"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    path.write_text("old")
    with atomic_file(path) as temporary:
        temporary.write_text("new")
    assert (path.stat().st_ino, True) in synced
    path.unlink()
    folder_of(path, {"old": "old"})
    with atomic_folder(path, ("old",)) as temporary:
        folder_of(temporary, {"a": "1", "b/c": "2"})
    assert names(path) == ["a", "b"]
    assert {(file.stat().st_ino, True) for file in (path / "a", path / "b" / "c")} <= set(synced)


@pytest.fixture
def checked(tmp_path) -> Path:
    with checked_folder(tmp_path / "out") as folder:
        (folder / "part").mkdir()
        (folder / "part" / "a.npy").write_bytes(bytes(range(256)))
        (folder / "b.json").write_text("{}")
        (folder / "empty").touch()
    return tmp_path / "out"


def damaged(folder: Path) -> str:
    with pytest.raises(CaptionerError) as caught:
        verify(folder)
    line = str(caught.value)
    assert line.startswith(f"{folder}: damaged (") and "\n" not in line
    assert line.endswith(f"); remove {folder} and run `dvc repro`")
    return line


def test_a_checked_folder_lists_its_files(checked, tmp_path):
    verify(checked)
    verify()
    listed = read_json(checked / "checksums.json")["files"]
    assert list(listed) == ["b.json", "empty", "part/a.npy"]
    for name, checksum in listed.items():
        assert checksum == hashlib.sha256((checked / name).read_bytes()).hexdigest()
    before = (checked / "checksums.json").read_bytes()
    write_checksums(checked / "checksums.json")
    assert (checked / "checksums.json").read_bytes() == before


def test_every_flipped_bit_is_named(checked):
    for name in ("b.json", "part/a.npy"):
        good = (checked / name).read_bytes()
        for place in range(0, 8 * len(good), 7):
            content = bytearray(good)
            content[place // 8] ^= 1 << place % 8
            (checked / name).write_bytes(content)
            assert f"'{name}' is not as it was written" in damaged(checked)
        (checked / name).write_bytes(good)
    good = (checked / "checksums.json").read_bytes()
    for place in range(0, 8 * len(good), 31):
        content = bytearray(good)
        content[place // 8] ^= 1 << place % 8
        (checked / "checksums.json").write_bytes(content)
        damaged(checked)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / "empty").unlink(), "'empty' is missing"),
        (lambda folder: (folder / "empty").write_bytes(b"x"), "'empty' is not as it was written"),
        (lambda folder: (folder / "part" / "new").touch(), "'part/new' is not listed"),
        (lambda folder: (folder / "part" / "a.npy").rename(folder / "a.npy"), "'a.npy' is not li"),
        (lambda folder: (folder / "checksums.json").unlink(), "checksums.json: No such file"),
        (lambda folder: (folder / "checksums.json").write_text("[]"), "checksums.json is not as"),
        (lambda folder: (folder / "checksums.json").write_text("{}"), "checksums.json is not as"),
        (lambda folder: (folder / "checksums.json").write_text("[" * 99999), "recursion"),
        (lambda folder: os.mkfifo(folder / "pipe"), "'pipe' is neither a file nor a folder"),
        (lambda folder: (folder / "zero").symlink_to("/dev/zero"), "'zero' is neither a file"),
        (lambda folder: (folder / "round").symlink_to(folder), "'round' is neither a file nor"),
    ],
)
def test_what_is_missing_new_or_strange_is_named(checked, spoil, reason):
    spoil(checked)
    assert reason in damaged(checked)


def test_links_into_a_cache_are_as_good_as_files(checked, tmp_path):
    """DVC makes them with `cache.type symlink`."""
    (checked / "part" / "a.npy").rename(tmp_path / "cached")
    (checked / "part" / "a.npy").symlink_to(tmp_path / "cached")
    verify(checked)
    (tmp_path / "cached").write_bytes(b"other")
    assert "'part/a.npy' is not as it was written" in damaged(checked)


def test_no_folder_at_all(tmp_path):
    assert "checksums.json: No such file" in damaged(tmp_path / "none")


def test_json_is_no_pipe_and_not_endless(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path / "pipe.json", "/dev/zero"):
        with pytest.raises(ValueError, match="is no regular file"):
            read_json(path)
    monkeypatch.setattr(files, "MOST_JSON", 100)
    (tmp_path / "a.json").write_text(" " * 98 + "[]")
    assert read_json(tmp_path / "a.json") == []
    (tmp_path / "a.json").write_text(" " * 99 + "[]")
    with pytest.raises(ValueError, match=r"a\.json has more than"):
        read_json(tmp_path / "a.json")


def test_only_regular_files_are_read_and_no_more_than_allowed(tmp_path):
    path, link = tmp_path / "a", tmp_path / "link"
    path.write_bytes(b"12345")
    link.symlink_to(path)
    assert read_regular(path, 5) == read_regular(link, 5) == b"12345"
    for named in (path, link):
        with pytest.raises(CaptionerError, match="5 bytes are too many to read at once"):
            read_regular(named, 4)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, what in (("pipe", "a pipe"), ("zero", "a device")):
        with pytest.raises(CaptionerError, match=f"^is {what}; name a regular file"):
            read_regular(tmp_path / name, 5)
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path, 5)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "none", 5)


def test_a_pipe_that_takes_a_files_place_is_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    as_file = Path(__file__).stat()
    monkeypatch.setattr(Path, "stat", lambda *_, **__: as_file)
    with pytest.raises(CaptionerError, match="is a pipe"):
        read_regular(tmp_path / "pipe", 5)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_a_file_that_holds_more_than_its_size_says_is_limited(tmp_path):
    assert Path("/proc/self/status").stat().st_size == 0
    assert read_regular("/proc/self/status", 2**20).startswith(b"Name:")
    with pytest.raises(CaptionerError, match="11 bytes are too many"):
        read_regular("/proc/self/status", 10)
