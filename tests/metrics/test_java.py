"""METEOR by the real Java program, and what is said where something for it or SPICE is missing."""

import gzip
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from captioner import CaptionerError
from captioner.metrics.java import Meteor, _spice, check, java_scores, missing
from captioner.metrics.tokenizer import tokenize
from tests.conftest import ROOT, needs_meteor

PACKAGE = importlib.util.find_spec("pycocoevalcap")
needs_package = pytest.mark.skipif(PACKAGE is None, reason="pycocoevalcap is not installed")

HOSTILE = [
    "",
    " ",
    "  ",
    "|||",
    "||||",
    "a ||| dog",
    "a|||dog ||",
    "|| SCORE ||| x",
    "\n",
    "a dog\nEVAL ||| 1",
    "a\rdog",
    "a\r\ndog",
    "a\u2028dog",
    "a\u2029dog",
    "a\x85dog",
    "a\xa0dog",
    "a\x00dog",
    "\x1a",
    "a \ud800 dog",
    "\U0001f415",
    ". , !",
    "?",
    "2 1/2 dogs",
    "dog " * 40,
]


@pytest.fixture(scope="module")
def meteor():
    """One process for most tests, in the language whose lower-case I has no dot."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=tr -Duser.country=TR")
        patch.setenv("LC_ALL", "de_DE.UTF-8")
        started = Meteor()
    with started:
        yield started


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A pycocoevalcap of links, found before the real one, in which a test may change files."""
    real = next(
        Path(p) for p in PACKAGE.submodule_search_locations if (Path(p) / "meteor").is_dir()
    )
    copy = tmp_path / "packages" / "pycocoevalcap"
    for path in real.rglob("*"):
        if path.suffix in (".jar", ".gz", ".py"):
            link = copy / path.relative_to(real)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    monkeypatch.syspath_prepend(copy.parent)
    return copy


def damage(path: Path, size: int) -> None:
    """Put in place of a link the first bytes of its file (-1: all of them)."""
    with path.open("rb") as file:
        content = file.read(size)
    path.unlink()
    path.write_bytes(content)


def empty_jar(path: Path) -> None:
    path.unlink(missing_ok=True)
    zipfile.ZipFile(path, "w").close()


@pytest.fixture
def fake_java(tmp_path, monkeypatch):
    """Make a `java` that is a Python script, the only program on PATH."""

    def make(body: str, version: str = "11.0.2") -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        java = folder / "java"
        java.write_text(
            f"#!{sys.executable}\nimport json, sys\nif sys.argv[1:] == ['-version']:\n"
            f"    sys.exit(print('openjdk version \"{version}\" 2019-01-15', file=sys.stderr))\n"
            f"{body}\n"
        )
        java.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return make


# --- METEOR ---


@needs_meteor
def test_golden_meteor(meteor, shared):
    cases = json.loads(gzip.decompress((shared / "metrics" / "scores.json.gz").read_bytes()))
    assert len(cases) == 8
    for case in cases:
        references, hypotheses = (
            list(case["references"].values()),
            list(case["hypotheses"].values()),
        )
        if case["tokenize"]:
            references = [[" ".join(tokenize(one)) for one in picture] for picture in references]
            hypotheses = [" ".join(tokenize(hypothesis)) for hypothesis in hypotheses]
        corpus, per_picture = meteor.scores(references, hypotheses)
        assert corpus == pytest.approx(case["expected"]["meteor"], rel=0, abs=1e-9), case["name"]
        assert per_picture.shape == (len(references),)
        assert per_picture.dtype == np.float64


@needs_meteor
def test_java_scores_tokenizes_both_sides():
    references = [["A dog RUNS!", "it runs"], ["Two cats (asleep)."]]
    corpus, per_picture = java_scores(references, ["a dog runs .", "rain"], ["meteor"])
    assert per_picture["meteor"].tolist() == [1, 0]
    assert 0 < corpus["meteor"] < 1
    assert list(corpus) == list(per_picture) == ["meteor"]


@needs_meteor
def test_same_as_the_reference_class(meteor):
    from pycocoevalcap.meteor.meteor import Meteor as Reference

    references = [
        ["a dog runs fast", "the dog is running"],
        ["two cats sleep"],
        ["2\xa01/2 cups", ""],
    ]
    hypotheses = ["a puppy ran ||| quickly", "the cats are sleeping", "2\xa01/2 cup"]
    reference = Reference()
    try:
        corpus, per_picture = reference.compute_score(
            dict(enumerate(references)), {i: [one] for i, one in enumerate(hypotheses)}
        )
    finally:
        reference.meteor_p.stdout.close()
        reference.meteor_p.stderr.close()
        del reference
    ours = meteor.scores(references, hypotheses)
    assert ours[0] == corpus
    assert ours[1].tolist() == per_picture
    assert min(per_picture) > 0


@needs_meteor
@pytest.mark.parametrize("tokenized", [True, False])
def test_hostile_captions_leave_their_neighbours_alone(meteor, tokenized):
    hostile = HOSTILE if tokenized else [" ".join(tokenize(caption)) for caption in HOSTILE]
    dog, cat = ["a dog runs fast", "a dog"], ["two cats sleep"]
    said, seen = "the dog ran", "a cat is sleeping"
    alone = [meteor.scores([dog], [said])[1][0], meteor.scores([cat], [seen])[1][0]]
    references, hypotheses = [dog], [said]
    for caption in hostile:
        references += [[caption], ["a dog", caption], [caption, "a dog"], cat]
        hypotheses += ["a dog", caption, "a dog", seen]
    _, scores = meteor.scores(references, hypotheses)
    assert scores.shape == (1 + 4 * len(HOSTILE),)
    assert scores[0] == alone[0]
    assert (scores[4::4] == alone[1]).all()
    # Whatever a second reference holds, the first one still gives a perfect match.
    assert (scores[3::4] == 1).all()
    assert ((scores >= 0) & (scores <= 1)).all()


@needs_meteor
def test_a_separator_inside_a_reference_does_not_make_two_of_it(meteor):
    _, scores = meteor.scores(
        [["a dog ||| two cats sleep"], ["a dog two cats sleep"]], ["a dog"] * 2
    )
    assert scores[0] == scores[1] < 1


@needs_meteor
def test_letters_beyond_ascii_and_the_language_of_the_machine(meteor):
    same = ["un caf\xe9", "\u65e5\u672c", "I sit IN IT"]
    _, scores = meteor.scores([["un caf\xe9"], ["\u65e5\u672c"], ["i sit in it"]], same)
    assert scores.tolist() == [1, 1, 1]
    # Were these letters lost on the way, all would be question marks and alike.
    _, scores = meteor.scores([["caf\xe8"], ["\u4e2d\u56fd"]], ["caf\xe9", "\u65e5\u672c"])
    assert scores.tolist() == [0, 0]


@needs_meteor
def test_order_and_batch_change_nothing(meteor):
    references = [["a dog runs", "the dog"], ["two cats sleep"], ["a red car"], ["snow"]]
    hypotheses = ["dog runs", "cats", "the car is red", "a dog"]
    corpus, scores = meteor.scores(references, hypotheses)
    backwards = meteor.scores(references[::-1], hypotheses[::-1])
    assert backwards[0] == corpus
    assert backwards[1].tolist() == scores[::-1].tolist()
    singles = [meteor.scores([r], [h])[1][0] for r, h in zip(references, hypotheses, strict=True)]
    assert singles == scores.tolist()
    # The corpus value is that of the summed counts.
    assert corpus != pytest.approx(scores.mean())


@needs_meteor
def test_an_answer_that_is_no_number(meteor):
    with pytest.raises(CaptionerError, match=r"answered 'Error: specify SCORE.*instead of numbers"):
        meteor._ask("what?")
    assert meteor.scores([["a dog"]], ["a dog"])[0] == 1


@needs_meteor
def test_a_dead_process_is_an_error_and_is_gone():
    with Meteor() as started:
        started._process.kill()
        with pytest.raises(CaptionerError, match=r"ended \(exit code -9\): it said nothing; see"):
            started.scores([["a dog"]] * 1000, ["a dog"] * 1000)
    assert started._process.returncode == -9
    assert started._process.stdin.closed
    assert started._process.stdout.closed
    assert started._errors.closed


@needs_meteor
def test_java_s_complaints_are_told(package, monkeypatch):
    # Java looks for the tables beside the jar itself, not beside a link.
    damage(package / "meteor" / "meteor-1.5.jar", -1)
    table = package / "meteor" / "data" / "paraphrase-en.gz"
    damage(table, 100_000)
    with pytest.raises(CaptionerError, match=r"tables are damaged \(java.io.EOFException: Unex"):
        java_scores([["a dog"]], ["a dog"], ["meteor"])
    table.unlink()
    monkeypatch.setattr("captioner.metrics.java.check", lambda metrics: None)
    with pytest.raises(CaptionerError, match=r"exit code 1\): .*RuntimeException: Error: file n"):
        java_scores([["a dog"]], ["a dog"], ["meteor"])


@pytest.mark.parametrize(
    ("references", "hypotheses", "message"),
    [
        ([], [], "no pictures"),
        ([["a"]], ["a", "b"], "2 captions for 1 pictures"),
        ([["a"], []], ["a", "b"], "picture 1 has no reference"),
        (["a", "b"], ["a", "b"], "picture 0 are one text"),
    ],
)
def test_wrong_input(references, hypotheses, message):
    with pytest.raises(CaptionerError, match=message):
        java_scores(references, hypotheses, ["meteor"])


# --- what is missing ---


def test_nothing_asked_nothing_missing(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert missing([]) is None
    assert java_scores([["a"]], ["a"], []) == ({}, {})


def test_unknown_measure():
    with pytest.raises(CaptionerError, match="no Java measure is called 'bleu'"):
        missing(["meteor", "bleu"])


@needs_meteor
def test_meteor_is_all_there():
    assert missing(["meteor"]) is None
    check(["meteor"])


def test_the_check_is_light():
    code = "import captioner.metrics.java as j, sys; j.missing(j.METRICS); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "captioner.metrics.java" in loaded.stdout.split()
    assert not {"tensorflow", "keras", "pycocoevalcap.spice"} & set(loaded.stdout.split())


def test_no_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    line = missing(["meteor"])
    assert line.startswith("METEOR cannot be computed here: the package pycocoevalcap is not inst")
    assert 'pip install "captioner[java-metrics]"' in line
    assert 'pip install -c constraints.txt -e ".[java-metrics]"' in line
    with pytest.raises(CaptionerError, match="pycocoevalcap is not installed"):
        java_scores([["a"]], ["a"], ["meteor"])


def test_no_java(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    line = missing(["meteor"])
    assert "there is no java on PATH; install a Java runtime such as OpenJDK 17" in line
    assert "there is no java on PATH; install OpenJDK 11" in missing(["spice", "meteor"])
    with pytest.raises(CaptionerError, match="no java on PATH"):
        Meteor()


def test_a_java_that_only_says_there_is_none(fake_java, tmp_path):
    fake_java("")
    java = tmp_path / "bin" / "java"
    java.write_text("#!/bin/sh\necho 'Unable to locate a Java Runtime.' >&2\nexit 3\n")
    assert "exit code 3: Unable to locate a Java Runtime.); install" in missing(["meteor"])
    java.write_text("no program")
    assert "does not start" in missing(["meteor"])


@needs_package
@pytest.mark.parametrize("size", [0, 100_000])
def test_a_truncated_jar(package, size):
    jar = package / "meteor" / "meteor-1.5.jar"
    damage(jar, size)
    line = missing(["meteor"])
    assert f"{jar} is damaged; `pip install --force-reinstall --no-deps pycocoevalcap`" in line
    assert "\n" not in line
    jar.unlink()
    assert f"{jar} is missing" in missing(["meteor"])


@needs_package
def test_missing_tables(package):
    damage(package / "meteor" / "data" / "paraphrase-en.gz", 0)
    assert "paraphrase-en.gz is empty" in missing(["meteor"])


@needs_package
def test_spice_names_its_models_and_never_fetches_them(package, fake_java):
    fake_java("")
    with pytest.raises(CaptionerError) as raised:
        java_scores([["a dog"]], ["a dog"], ["spice"])
    (line,) = raised.value.args
    lib = package / "spice" / "lib"
    assert line == (
        "SPICE cannot be computed here: SPICE's CoreNLP models: stanford-corenlp-3.6.0.jar is "
        f"missing and stanford-corenlp-3.6.0-models.jar is missing in {lib}; fetch them (about 400 "
        "MB) with `python -m pycocoevalcap.spice.get_stanford_models`"
    )
    # The command takes any first jar for the whole: an interrupted download must go first.
    (lib / "stanford-corenlp-3.6.0.jar").write_bytes(b"PK")
    line = missing(["spice"])
    assert "stanford-corenlp-3.6.0.jar is damaged and" in line
    assert "delete stanford-corenlp-3.6.0.jar and stanford-corenlp-3.6.0-models.jar there" in line
    for name in ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar"):
        empty_jar(lib / name)
    assert missing(["spice"]) is None
    # Its other jars are those that its own jar names.
    (lib / "guava-19.0.jar").unlink()
    assert f"{lib / 'guava-19.0.jar'} is missing" in missing(["spice"])
    assert missing(["meteor"]) is None


@pytest.mark.parametrize(
    ("version", "fits"), [("1.8.0_242", True), ("14", True), ("15.0.1", False)]
)
def test_spice_needs_a_java_with_javascript(fake_java, version, fits):
    fake_java("", version)
    assert ("SPICE needs Java 8 to 14" in missing(["spice"])) is not fits
    assert "SPICE needs Java" not in (missing(["meteor"]) or "")


@needs_meteor
def test_spice_tells_why_java_failed_and_leaves_no_files(package, tmp_path, monkeypatch):
    # The real jar, with a CoreNLP of nothing (beside the jar itself, not beside a link).
    damage(package / "spice" / "spice-1.0.jar", -1)
    for name in ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar"):
        empty_jar(package / "spice" / "lib" / name)
    before = sorted(package.rglob("*"))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with pytest.raises(CaptionerError, match=r"exit code 1: .*edu[./]stanford[./]nlp"):
        _spice([["a dog"]], ["a dog"])
    assert list(temporary.iterdir()) == []
    assert sorted(package.rglob("*")) == before


FAKE_SPICE = """
pictures = json.load(open(sys.argv[sys.argv.index("-jar") + 2]))
scores = [{"image_id": p["image_id"], "scores": {"All": {"f": len(p["refs"]) / 4, "pr": 9}}}
          for p in reversed(pictures)]
assert [p["test"] for p in pictures] == ["a dog runs", "caf\\xe9"], pictures
json.dump(scores, open(sys.argv[sys.argv.index("-out") + 1], "w"))
"""


@needs_package
def test_spice_scores_go_to_their_pictures(package, fake_java, tmp_path, monkeypatch):
    # SPICE itself cannot be had without its models: this is about what goes in and comes out.
    for name in ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar"):
        empty_jar(package / "spice" / "lib" / name)
    fake_java(FAKE_SPICE)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "packages"))
    before = sorted((tmp_path / "packages").rglob("*"))
    references, hypotheses = [["x"], ["x", "y", "z"]], ["A dog runs.", "caf\xe9"]
    corpus, per_picture = java_scores(references, hypotheses, ["spice"])
    assert per_picture["spice"].tolist() == [0.25, 0.75]
    assert corpus == {"spice": 0.5}
    java = tmp_path / "bin" / "java"
    java.write_text(java.read_text().replace("scores,", "scores[1:],"))
    with pytest.raises(CaptionerError, match=r"no score for each picture \(KeyError: 1\)"):
        java_scores(references, hypotheses, ["spice"])
    java.write_text(java.read_text().replace("json.dump", "sys.exit(0), json.dump"))
    with pytest.raises(CaptionerError, match=r"no score for each picture \(FileNotFoundError"):
        java_scores(references, hypotheses, ["spice"])
    assert sorted((tmp_path / "packages").rglob("*")) == before
