"""No command, and no writer of a stage, replaces or touches what it did not write itself."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from captioner import CaptionerError, bundle, collection, saved_model
from captioner.app.feedback import Feedback
from captioner.cli import finding, main
from captioner.files import atomic_folder, write_checksums
from captioner.images import write_shards
from stages import encoder, features, joint, tokenize, train
from tests.test_collection import LOOKS, MEANING, MODEL, columns

ROOT = Path(__file__).resolve().parent.parent
PHOTO = b"\xff\xd8 a photograph that is nowhere else"
PLACES = [
    "album",
    "album/",
    "album/deep",
    "file",
    "link",
    "dangling",
    ".",
    "..",
    "/",
    "album/0.jpg",
]

COMMANDS = {
    "index add": ["index", "add", "album", "--index"],
    "index add --from": ["index", "add", "album", "--from", "mine", "--index"],
    "index remove": ["index", "remove", "a", "--index"],
    "index build": ["index", "build", "--index"],
    "bundle export": ["bundle", "export", "--savedmodel"],
    "bundle export --force": ["bundle", "export", "--force", "--savedmodel"],
    "check-data": ["check-data", "--report"],
    **{
        f"export {kind}": ["export", "--index", "mine", "--format", kind, "--output"]
        for kind in ("parquet", "npy", "projector", "word2vec")
    },
}


def snapshot(folder: Path) -> dict[str, object]:
    """What is there: contents of files, ends of links."""
    return {
        path.relative_to(folder).as_posix(): path.readlink()
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in folder.rglob("*")
        if path.name != ".lock"
    }


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A working folder with photographs, links, and a collection called mine."""
    (tmp_path / "above" / "here").mkdir(parents=True)
    here = tmp_path / "above" / "here"
    monkeypatch.chdir(here)
    for name in ("album/0.jpg", "album/deep/1.jpg", "file"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(PHOTO)
    Path("link").symlink_to("album")
    Path("dangling").symlink_to("elsewhere")
    collection.begin(Path("mine"), None, MODEL, {"meaning": 3, "looks": 2})
    collection.add_part(Path("mine"), columns("a", "b", "c"), MEANING, LOOKS)
    for name in ("projector_config.pbtxt", "words.tsv"):
        Path("mine/projector").mkdir(exist_ok=True)
        Path("mine/projector", name).write_text("embeddings {")
    write_checksums("mine/projector/checksums.json")
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["dataset"] = "table"
    params["datasets"]["table"]["download"] |= {"captions": "c.csv", "pictures": "album"}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    Path("c.csv").write_text("image,caption\n0.jpg,a dog\n")

    def no_model(*_):
        if os.environ.get("LOADED") != "1":
            raise CaptionerError("the model was asked for before the output was looked at")

    monkeypatch.setattr(finding, "load_bundle", no_model)
    return tmp_path


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_leaves_it_alone(here, capsys, monkeypatch, command, place):
    if "--force" in command:
        monkeypatch.setenv("LOADED", "1")
    before = snapshot(here)
    assert main([*COMMANDS[command], place]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("captioner: ")
    assert place.rstrip("/") in err and "the model was asked" not in err
    assert snapshot(here) == before


@pytest.mark.parametrize("kind", ["parquet", "npy", "word2vec", "projector"])
def test_force_replaces_a_file_or_what_the_command_wrote(here, capsys, kind):
    command = [*COMMANDS[f"export {kind}"][:-1], "--force", "--output"]
    before = snapshot(here)
    places = [place for place in PLACES if place not in ("file", "album/0.jpg")]
    for place in [*places, "mine", "mine/part-00000/looks.npy", "mine/new", "fifo", "/dev/null"]:
        if place == "fifo":
            os.mkfifo(place)
        assert main([*command, place]) == 2, place
        assert capsys.readouterr().err.count("\n") == 1
        Path("fifo").unlink(missing_ok=True)
    assert snapshot(here) == before
    assert main([*command, "new"]) == 0
    first = snapshot(here)
    assert main([*command, "new"]) == 0
    assert snapshot(here) == first
    assert {name: first[name] for name in before} == before
    if kind == "projector":
        Path("new/photo.jpg").write_bytes(PHOTO)
        assert main([*command, "new"]) == 2 and Path("new/photo.jpg").read_bytes() == PHOTO
        assert "holds other files (photo.jpg)" in capsys.readouterr().err


def test_names_of_rows_replace_nothing_unasked(here, capsys):
    Path("v.npy.txt").write_bytes(PHOTO)
    assert main([*COMMANDS["export npy"], "v.npy"]) == 2
    assert capsys.readouterr().err.startswith("captioner: v.npy.txt: is there already")
    assert Path("v.npy.txt").read_bytes() == PHOTO and not Path("v.npy").exists()


def test_a_photograph_in_a_collection_survives(here, capsys):
    mine = Path("mine")
    (mine / "photo.jpg").write_bytes(PHOTO)
    collection.add_part(mine, columns("d"), MEANING[:1], LOOKS[:1])
    assert main([*COMMANDS["index remove"], "mine"]) == 0
    assert (mine / "photo.jpg").read_bytes() == PHOTO
    (mine / "part-00002").mkdir()
    (mine / "part-00002" / "photo.jpg").write_bytes(PHOTO)
    with pytest.raises(CaptionerError, match=r"holds other files \(photo\.jpg\)"):
        collection.add_part(mine, columns("e"), MEANING[:1], LOOKS[:1])
    assert (mine / "part-00002" / "photo.jpg").read_bytes() == PHOTO
    assert len(collection.open_collection(mine).pictures) == 3


def test_an_empty_folder_and_a_link_to_one_may_become_a_collection(here):
    Path("empty").mkdir()
    Path("to").symlink_to("empty")
    collection.begin(Path("to"), Path("mine"), MODEL, {})
    assert Path("to").is_symlink()
    assert len(collection.open_collection(Path("empty")).pictures) == 3


STAGES = {
    "preprocess": lambda place: write_shards(
        [], place, size=32, fit="crop", jpeg_quality=90, max_pixels=1000
    ),
    "bundle": lambda place: bundle.save(place, *[None] * 8),
    "SavedModel": lambda place: saved_model.export(None, place),
    "collection": lambda place: collection.begin(place, None, MODEL, {"meaning": 1, "looks": 1}),
    **{
        stage.__name__: lambda place, stage=stage: atomic_folder(place, stage.FILES).__enter__()
        for stage in (encoder, features, joint, tokenize, train)
    },
}


@pytest.mark.parametrize("place", ["album", "mine/..", "file", "link", "dangling", "/"])
@pytest.mark.parametrize("writer", STAGES)
def test_a_stage_leaves_it_alone(here, writer, place):
    before = snapshot(here)
    with pytest.raises(CaptionerError, match=place):
        STAGES[writer](Path(place))
    assert snapshot(here) == before


@pytest.mark.parametrize("place", ["album", "file", "link", ".", "..", "/"])
def test_feedback_leaves_it_alone(here, place):
    before = snapshot(here)
    with pytest.raises(CaptionerError):
        Feedback(Path(place))
    assert snapshot(here) == before


def test_feedback_is_no_part_of_a_data_set_of_ones_own(here):
    pixels = np.zeros((8, 8, 3), np.uint8)
    Feedback(Path("votes"))
    for _ in range(2):  # the second time it is its own, with other things in it
        Feedback(Path("votes")).keep(pixels, "ab" * 32, "a dog", "good")
        Path("votes", "notes.txt").write_bytes(PHOTO)
    assert Path("votes/captions.csv").read_text().count("a dog") == 2
    for name, text in [("captions.csv", "image,caption\n0.jpg,mine\n"), ("votes.csv", "who\n")]:
        shutil.rmtree("other", ignore_errors=True)
        Path("other").mkdir()
        Path("other", name).write_text(text)
        with pytest.raises(CaptionerError, match=name):
            Feedback(Path("other"))
        assert [path.name for path in Path("other").iterdir()] == [name]
