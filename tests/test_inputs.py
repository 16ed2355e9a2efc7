"""inputs.py: links to outside files, and what DVC makes of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from captioner import CaptionerError
from captioner.inputs import link_inputs

SRC = Path(__file__).resolve().parent.parent / "src"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project, and beside it a folder of pictures and a table of captions."""
    outside = tmp_path / "disk"
    (outside / "pictures").mkdir(parents=True)
    (outside / "pictures" / "1.jpg").write_bytes(b"picture")
    (outside / "captions.csv").write_text("image,caption\n1.jpg,a dog\n")
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return outside


def targets(outside: Path) -> dict[str, Path]:
    return {"captions": outside / "captions.csv", "pictures": outside / "pictures"}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_links_lead_to_the_files_and_their_names_are_listed(project):
    folder = Path("data/inputs/table")
    link_inputs(folder, targets(project), ("pictures",))
    assert (folder / "captions").read_text() == "image,caption\n1.jpg,a dog\n"
    assert names(folder / "pictures") == ["1.jpg"]
    assert json.loads((folder / "links.json").read_text()) == ["captions", "pictures"]
    listed = (folder / "links.json").read_bytes()
    link_inputs(folder, targets(project), ("pictures",))  # again: the same
    assert (folder / "links.json").read_bytes() == listed


def test_without_targets_there_are_no_links_and_the_files_stay(project):
    folder = Path("data/inputs/table")
    link_inputs(folder, targets(project), ("pictures",))
    link_inputs(folder, {}, ("pictures",))
    assert names(folder) == ["links.json", "pictures"]
    assert not (folder / "pictures").is_symlink() and names(folder / "pictures") == []
    assert json.loads((folder / "links.json").read_text()) == []
    assert (project / "pictures" / "1.jpg").read_bytes() == b"picture"
    link_inputs(folder, targets(project), ("pictures",))
    assert (folder / "pictures").is_symlink()


def test_links_within_the_project_move_with_it(project, tmp_path, monkeypatch):
    Path("own.csv").write_text("mine")
    link_inputs(Path("data/inputs/table"), {"captions": Path("own.csv")})
    monkeypatch.chdir(tmp_path)
    Path("project").rename("moved")
    assert (tmp_path / "moved/data/inputs/table/captions").read_text() == "mine"


def test_a_missing_file_is_named_and_the_links_stay(project):
    folder = Path("data/inputs/table")
    link_inputs(folder, targets(project), ("pictures",))
    gone = project / "gone.csv"
    with pytest.raises(CaptionerError, match="not found") as caught:
        link_inputs(folder, {"captions": gone})
    assert str(gone) in str(caught.value)
    assert (folder / "captions").exists()


def test_what_somebody_put_there_is_not_removed(project):
    folder = Path("data/inputs/table")
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("precious")
    with pytest.raises(CaptionerError, match=r"thesis\.txt"):
        link_inputs(folder, targets(project))
    (folder / "thesis.txt").unlink()
    (folder / "pictures").mkdir()
    (folder / "pictures" / "own.jpg").write_text("precious")
    with pytest.raises(CaptionerError, match="pictures"):
        link_inputs(folder, targets(project))
    assert (folder / "pictures" / "own.jpg").read_text() == "precious"


LINK = """
from pathlib import Path
from captioner.inputs import link_inputs
table = {{"captions": Path({captions!r}), "pictures": Path({pictures!r})}}
link_inputs(Path("data/inputs/table"), table)
"""
PIPELINE = """
stages:
  inputs:
    cmd: {python} link.py
    deps: [link.py]
    outs: [{{data/inputs/table/links.json: {{cache: false}}}}]
  preprocess:
    cmd: {python} -c "open('made','w').write(open('data/inputs/table/captions').read())"
    deps: [data/inputs/table, data/inputs/table/pictures]
    outs: [made]
"""


def dvc(*arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(SRC), "DVC_NO_ANALYTICS": "1"}
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_dvc_sees_changes_through_the_links_and_stops_before_outputs_are_removed(project):
    places = {name: str(path) for name, path in targets(project).items()}
    Path("link.py").write_text(LINK.format(**places))
    Path("dvc.yaml").write_text(PIPELINE.format(python=sys.executable))
    assert dvc("init", "-q", "--no-scm").returncode == 0
    done = dvc("repro")
    assert done.returncode == 0, done.stderr
    (project / "pictures" / "2.jpg").write_bytes(b"new")
    assert "data/inputs/table/pictures" in dvc("status").stdout
    with (project / "captions.csv").open("a") as file:
        file.write("2.jpg,a cat\n")
    assert dvc("repro", "-q").returncode == 0
    assert Path("made").read_text() == "image,caption\n1.jpg,a dog\n2.jpg,a cat\n"
    (project / "captions.csv").rename(project / "away.csv")
    failed = dvc("repro")
    assert failed.returncode != 0 and "data/inputs/table/captions" in failed.stderr
    assert Path("made").exists()  # noticed before anything was removed
    assert (project / "pictures" / "1.jpg").read_bytes() == b"picture"
