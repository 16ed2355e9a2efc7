"""benchmarks/: each runs to its end at a small size; nothing depends on how long that takes."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from captioner.files import digest
from captioner.text import END, PAD, START
from tests.conftest import ROOT, needs_meteor

# Also without it where it is installed.
TORCH = ["absent", "present"] if importlib.util.find_spec("torch") else ["absent"]


@needs_meteor
def test_metrics_beside_the_coco_reference(tmp_path):
    """It compares the scores itself: exit code 1 where they differ by more than 1e-9."""
    captions = tmp_path / "captions.csv"
    people = ["A dog runs .", "the dog is running", "a brown dog", "dogs run", "a dog", "one dog"]
    lines = [f"{number}.jpg,{caption} {number}" for number in range(40) for caption in people]
    captions.write_text("\n".join(["image,caption", *lines]), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "metrics.py", captions, "--repeats", "1"],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "40 pictures x 5 references" in done.stdout and "times as fast" in done.stdout


@pytest.mark.parametrize("torch", TORCH)
def test_training_beside_its_peers(tmp_path, torch):
    """It compares the losses itself: exit code 1 where they differ, at first or after a step."""
    captions = np.random.default_rng(0).integers(4, 30, (24, 9), np.uint16)
    captions[0, 1] = 29
    captions[:, 0], captions[:, -1] = START, END
    captions[::3, 4:] = [END, PAD, PAD, PAD, PAD]
    np.save(tmp_path / "captions.npy", captions)
    np.save(tmp_path / "pictures.npy", np.arange(24) // 6)  # six each, of which five are taken
    path = [str(ROOT / "src")]
    present = importlib.util.find_spec("torch") is not None
    if torch == "absent":
        (tmp_path / "torch.py").write_text("raise ImportError", encoding="utf-8")
        path, present = [str(tmp_path), *path], False
    sizes = "--repeats 1 --pictures 2 --words 4 --units 8 --channels 6"
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "training.py", tmp_path, *sizes.split()],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    advice = [] if present else ["no PyTorch to compare with: pip install -c constraints.txt"]
    peers = ["torch   ", "keras   ", "tutorial"] if present else ["keras   ", "tutorial"]
    expected = [
        *advice,
        "2 pictures x 5 captions a step, 30 words, vectors of 4, 8 units, threads: 1",
        "tokens a second      min  median     max   captioner is faster",
        "captioner ",
        *peers,
        "with attention ",
        "losses agree to ",
    ]
    assert len(lines) == len(expected), done.stdout
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start)
        assert line.endswith(" times") == (start in peers)


@pytest.mark.parametrize("torch", TORCH)
def test_decoding_beside_its_peers(tmp_path, torch):
    """It compares the captions itself: exit code 1 where PyTorch finds others."""
    path = [str(ROOT / "src")]
    present = importlib.util.find_spec("torch") is not None
    if torch == "absent":
        (tmp_path / "torch.py").write_text("raise ImportError", encoding="utf-8")
        path, present = [str(tmp_path), *path], False
    sizes = "--vocabulary 60 --cells 4 --channels 8 --units 16 --words 4 --beam 3"
    sizes += " --pictures 6 --batch 4 --repeats 1"
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "decoding.py", *sizes.split()],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    advice = [] if present else ["no PyTorch to compare with: pip install -c constraints.txt"]
    peers = ["  torch   ", "  tutorial"] if present else ["  tutorial"]
    expected = [
        *advice,
        "6 pictures of 4 x 8, 60 words, 16 units, threads: 1",
        "captions a second      min  median     max   captioner is faster",
        *["greedy, ", "  captioner", *peers],
        *["beam 3, ", "  captioner", *peers],
    ]
    assert len(lines) == len(expected), done.stdout
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start)
        assert line.endswith(" times") == (start in peers)


def test_serving_under_load(tmp_path):
    """Nobody hears anything but a caption or when to come back."""
    from tests.test_bundle import write

    pytest.importorskip("gradio", reason="the web app needs the extra `app`")
    bundle = write(tmp_path / "bundle")
    sizes = "--requests 40 --clients 8 --flood 300 --side 32"
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "serving.py", "--bundle", bundle, *sizes.split()],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines if "captions/s" in line] == [
        "each alone",
        "one client",
        "8 clients, in batches",
        "one client",
    ]
    assert all(line.endswith("}") and "{200: " in line for line in lines if "captions/s" in line)


SOURCE = '''\
def larger(numbers: list[int], bound: int) -> list[int]:
    """Those above the bound."""
    return [number for number in numbers if not number <= bound]


class Box:
    def full(self) -> bool: return self.count == 3

    def close(self) -> None:
        ...

    def items(self):
        for place in range(2):
            yield place
'''


def test_mutants_are_one_small_fault_each():
    spec = importlib.util.spec_from_file_location("mutants", ROOT / "benchmarks" / "mutants.py")
    mutants = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mutants)
    found = dict(mutants.functions(SOURCE))
    assert list(found) == ["larger", "Box.full", "Box.close", "Box.items"]
    assert {name: mutants.empty_bodies(function) for name, function in found.items()} == {
        "larger": ["return numbers"],
        "Box.full": ["return False", "return True"],
        "Box.close": [],
        "Box.items": ["return"],
    }
    first = mutants.with_first_line(SOURCE, found["larger"], "return numbers")
    assert first.splitlines()[1:3] == [SOURCE.splitlines()[1], "    return numbers"]
    first = mutants.with_first_line(SOURCE, found["Box.full"], "return True")
    assert "def full(self) -> bool: return True; return self.count == 3\n" in first
    changes = [
        (old, new, mutants.replaced(SOURCE, node, new))
        for node, old, new in mutants.changes(dict(mutants.functions(SOURCE))["larger"])
    ]
    assert [change[:2] for change in changes] == [
        ("not number <= bound", "number <= bound"),
        ("number <= bound", "number < bound"),
    ]
    assert changes[1][2] == SOURCE.replace("number <= bound", "number < bound")


def test_mutants_are_run_in_a_copy(tmp_path):
    """One test, said to enter both functions: it needs the one and not the other."""
    test = "tests/test_files.py::test_a_file_is_replaced"
    entered = ["files.py:atomic_file", "files.py:digest"]
    reach = {"tests/test_files.py": {test: {"seconds": 0.1, "entered": entered}}}
    (tmp_path / "reach.json").write_text(json.dumps(reach), encoding="utf-8")
    before = digest(ROOT / "src" / "captioner" / "files.py")
    options = ["--tests", "test_files.py", "--reach", tmp_path / "reach.json"]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "mutants.py", *entered, *options],
        capture_output=True,
        text=True,
    )
    lines = re.sub(r"files\.py:\d+ ", "", done.stdout).splitlines()
    assert done.returncode == 1, done.stderr
    assert lines[0] == f"atomic_file: yield; return: killed by {test}"
    assert lines[1] == 'digest: return "": SURVIVED 1 tests'
    assert lines[3].startswith("1 of 2 mutants killed in ")
    assert lines[4:] == ['digest: return ""']
    assert digest(ROOT / "src" / "captioner" / "files.py") == before


def test_reliability_of_a_few_files(tmp_path):
    """Equal seeds are equal cases, finished ones are not repeated; see docs/reliability.md."""
    command = [sys.executable, "-m", "benchmarks.reliability", "--only", "images,archives"]
    command += ["--share", "0.01", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| mutated images | 20 | 20 | 0 | 0 | 0 | 0 | 0 |" in done.stdout
    assert "| hostile archives | 2 | 2 | 0 | 0 | 0 | 0 | 0 |" in done.stdout
    outcomes = (tmp_path / "results.jsonl").read_text("utf-8")
    (tmp_path / "results.jsonl").write_text("\n".join(outcomes.splitlines()[:-1]), "utf-8")
    done = subprocess.run([*command, "--resume"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    again = (tmp_path / "results.jsonl").read_text("utf-8").splitlines()
    assert len(again) == 23 and again[:22] == outcomes.splitlines()[:22]
    assert json.loads(again[22])["what"] == json.loads(outcomes.splitlines()[22])["what"]


def test_reliability_judges_what_goes_wrong(tmp_path, monkeypatch):
    """A traceback, a wrong result, a write elsewhere, memory, and what the table says of them."""
    from benchmarks.reliability import workers
    from benchmarks.reliability.cases import MEMORY, Outcome, Wrong, table
    from benchmarks.reliability.workers import _judge

    # Of this process, which has run other tests, the peak says nothing.
    monkeypatch.setattr(workers, "peak_memory", lambda: MEMORY)

    def fails(rng, number, folder):
        raise ValueError("a bug")

    def differs(rng, number, folder):
        raise Wrong("another hash")

    rng, outside = np.random.default_rng(1), []

    def writes(rng, number, folder):
        outside.append("open /etc/passwd")
        return "written"

    found = [
        _judge(case, rng, "images", 0, tmp_path / "case", outside).verdict
        for case in (fails, differs, writes, lambda rng, number, folder: "read")
    ]
    assert found == ["traceback", "wrong", "outside", "ok"]
    monkeypatch.setattr(workers, "peak_memory", lambda: MEMORY + 1)
    reads = (lambda rng, number, folder: "read", rng, "images", 0, tmp_path / "case", outside)
    assert _judge(*reads).verdict == "memory"
    rows = [Outcome("images", 0, "", verdict, "", 1.0, 2_000_000) for verdict in found]
    assert table(rows, {"images": "images"}).splitlines()[2] == (
        "| images | 4 | 1 | 1 | 0 | 1 | 0 | 1 | 2 | 4 |"
    )


def test_reliability_notices_a_pipeline_that_differs():
    from benchmarks.reliability.kills import SHARES, plan
    from benchmarks.reliability.pipelines import differences

    undisturbed = {"data/a": "1", "run: metric loss": [(1, 0.5), (2, 0.25)]}
    assert differences(undisturbed, dict(undisturbed)) == []
    twice = undisturbed | {"run: metric loss": [(1, 0.5), (1, 0.5), (2, 0.25)]}
    assert len(differences(undisturbed, twice)) == 1
    assert len(differences(undisturbed, {"data/b": "1"})) == 3
    assert plan(100, 1) == plan(100, 1) != plan(100, 2)
    assert {kill.target for kill in plan(100, 1)} == SHARES.keys()
    assert len({(kill.target, kill.signal) for kill in plan(100, 1)}) == 3 * len(SHARES)
