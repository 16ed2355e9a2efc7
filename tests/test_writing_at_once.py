"""Several processes at once: nothing is lost, nothing is damaged, readers see old or new."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from captioner import collection
from captioner.cli import main
from captioner.cli.index import _begin
from captioner.files import read_json
from captioner.text import Vocabulary
from tests.test_collection import LOOKS, MEANING, MODEL, columns

ROOT = Path(__file__).parent.parent

# Adds pictures one by one: those of its own, and some that the others add, too.
ADDER = """
import sys
from pathlib import Path
from captioner.cli.index import _write
from tests.test_collection import LOOKS, MEANING, columns
name, count = sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.read()
total = 0
for number in range(count):
    rows = []
    for picture in (f"{name}{number}", f"shared{number}"):
        row = {key: value[0] for key, value in columns(picture).items()}
        rows.append(row | {"meaning": MEANING[0], "looks": LOOKS[0]})
    total += _write(Path(sys.argv[1]), rows)["added"]
print(total)
"""

REMOVER = """
import sys
from captioner.cli import main
print("ready", flush=True)
sys.stdin.read()
sys.exit(max(main(["index", "remove", name, "--index", sys.argv[1]]) for name in sys.argv[2:]))
"""

SWAPPER = """
import sys
from captioner.files import atomic_folder
print("ready", flush=True)
sys.stdin.read()
for number in range(100):
    with atomic_folder(sys.argv[1], ["*.json"]) as new:
        for name in ("a", "b"):
            (new / f"{name}.json").write_text("[" + sys.argv[2])
"""


def start(code: str, *arguments: object) -> subprocess.Popen:
    """A process that has imported what it needs, and waits for `go`."""
    path = os.pathsep.join((str(ROOT), str(ROOT / "src")))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path},
        text=True,
        **pipes,
    )


def go(*processes: subprocess.Popen) -> None:
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
    for process in processes:
        process.stdin.close()
        process.stdin = None


def ended(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0 and "Traceback" not in err, err
    return out


@pytest.fixture
def mine(tmp_path) -> Path:
    collection.begin(tmp_path / "mine", None, MODEL, {"meaning": 3, "looks": 2})
    collection.add_part(tmp_path / "mine", columns("a", "b", "c"), MEANING, LOOKS)
    return tmp_path / "mine"


def test_adding_and_removing_at_once_loses_nothing(mine):
    adders = [start(ADDER, mine, name, 5) for name in ("x", "y")]
    remover = start(REMOVER, mine, "a", "c")
    go(*adders, remover)
    while any(process.poll() is None for process in (*adders, remover)):
        time.sleep(0.05)
        assert len(collection.open_collection(mine).pictures) >= 1  # whole at any moment
    added = sum(int(ended(process)) for process in adders)
    ended(remover)
    expected = {"b", *(f"{name}{n}" for name in ("x", "y", "shared") for n in range(5))}
    found = collection.open_collection(mine).pictures["image_id"].tolist()
    assert sorted(found) == sorted(expected) and added == 15
    assert read_json(mine / "manifest.json")["counts"]["pictures"] == 16


def test_a_kill_while_others_add_leaves_a_collection_that_opens(mine):
    killed, other = start(ADDER, mine, "x", 200), start(ADDER, mine, "y", 8)
    go(killed, other)
    while len(collection.open_collection(mine).pictures) < 8:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    ended(other)
    found = set(collection.open_collection(mine).pictures["image_id"])
    assert {f"y{n}" for n in range(8)} <= found
    collection.add_part(mine, columns("last"), MEANING[:1], LOOKS[:1])
    assert len(collection.open_collection(mine).pictures) == len(found) + 1


def test_who_waits_is_told_once(mine, capsys):
    held = threading.Event()

    def hold():
        with FileLock(mine / ".lock"):
            held.set()
            time.sleep(0.3)

    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    assert main(["index", "remove", "a", "--index", str(mine)]) == 0
    other.join()
    err = capsys.readouterr().err
    assert err == f"captioner: {mine}: waiting for another process that changes it\n"
    assert collection.known(mine)["image_id"] == {"b", "c"}


def test_two_that_begin_the_same_collection_share_it(tmp_path, monkeypatch):
    class Options:
        index, source, bundle = tmp_path / "mine", None, Path("bundle")

    class Model:
        fingerprint, dimensions = MODEL, {"meaning": 3, "looks": 2}
        vocabulary = Vocabulary.build([["red"]], 1)

    _begin(Options, Model)
    collection.add_part(Options.index, columns("a"), MEANING[:1], LOOKS[:1])
    _begin(Options, Model)  # had looked before the other one began
    assert len(collection.open_collection(Options.index).pictures) == 1
    Options.source = tmp_path / "other"
    with pytest.raises(collection.CaptionerError):
        _begin(Options, Model)


def test_a_reader_sees_old_or_new_where_all_is_replaced(mine, monkeypatch):
    """Between the manifest and the files, another process writes the whole collection anew."""
    read, replaced = collection._verify, []

    def verify(folder, files):
        if not replaced:
            replaced.append(True)
            with collection.atomic_folder(mine, ["*", "*/*"]) as new:
                (new / "part-00000").mkdir()
                part = collection.write_part(
                    new / "part-00000", columns("n"), MEANING[1:2], LOOKS[:1]
                )
                entry = {"folder": "part-00000"} | part
                collection.write_manifest(new, MODEL, {"meaning": 3, "looks": 2}, [entry])
        return read(folder, files)

    monkeypatch.setattr(collection, "_verify", verify)
    opened = collection.open_collection(mine)
    assert opened.pictures["image_id"].tolist() == ["n"]
    np.testing.assert_array_equal(opened.meaning[0], MEANING[1:2])


def test_three_that_swap_one_folder(tmp_path):
    swappers = [start(SWAPPER, tmp_path / "out", name) for name in "xyz"]
    go(*swappers)
    for swapper in swappers:
        ended(swapper)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    a, b = sorted((tmp_path / "out").iterdir())
    assert a.read_text() == b.read_text()
