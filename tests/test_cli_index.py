"""captioner index, similar, search, sentences, words: with a real bundle of random weights."""

import json
import shutil
from pathlib import Path

import pytest

from captioner import bundle, collection
from captioner.cli import main
from captioner.embeddings import write_vectors
from captioner.files import digest
from tests.test_bundle import edit, picture, write


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("model") / "bundle")


@pytest.fixture(scope="module")
def other_model(tmp_path_factory, model) -> Path:
    """As a model whose CNN or joint embedding is another one says of itself."""
    folder = tmp_path_factory.mktemp("other") / "bundle"
    shutil.copytree(model, folder)
    edit(folder / "bundle.json", fingerprint="cd" * 32)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A working folder with seven pictures, one of them broken, one there twice."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "album").mkdir()
    for number in range(5):
        (tmp_path / "album" / f"{number}.png").write_bytes(picture(number))
    (tmp_path / "album" / "again.png").write_bytes(picture(2))
    (tmp_path / "album" / "broken.png").write_bytes(picture(3)[:60])
    return tmp_path


@pytest.fixture
def index(here, model, capsys) -> Path:
    assert main(["index", "add", "album", "--index", "mine", "--bundle", str(model)]) == 1
    said = capsys.readouterr()
    assert said.out == "5 pictures added, 1 picture already there: mine\n"
    assert "captioner: album/broken.png: " in said.err
    return here / "mine"


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    said = capsys.readouterr()
    return code, said.out, said.err


def test_only_what_is_new_is_embedded(index, model, here, capsys, monkeypatch):
    asked = []
    describe = bundle.Captioner.describe
    monkeypatch.setattr(
        bundle.Captioner,
        "describe",
        lambda self, pictures: asked.append(len(pictures)) or describe(self, pictures),
    )
    before = digest(index / "part-00000")
    (here / "album" / "new.png").write_bytes(picture(77))
    (here / "album" / "broken.png").unlink()
    add = ("index", "add", "album", "--index", "mine", "--bundle", str(model))
    assert run(capsys, *add) == (0, "1 picture added, 6 pictures already there: mine\n", "")
    assert asked == [1] and digest(index / "part-00000") == before
    assert run(capsys, *add)[1] == "0 pictures added, 7 pictures already there: mine\n"
    assert asked == [1]


def test_batches_and_parts_are_all_there(here, model, capsys, monkeypatch):
    monkeypatch.setattr("captioner.cli.index.BATCH", 2)
    monkeypatch.setattr("captioner.cli.index.PART", 2)
    main(["index", "add", "album", "--index", "small", "--bundle", str(model)])
    parts = sorted(path.name for path in (here / "small").glob("part-*"))
    assert parts == ["part-00000", "part-00001", "part-00002"]
    assert len(collection.open_collection(here / "small").pictures) == 5


def test_a_name_with_other_content_must_be_removed_first(index, model, here, capsys):
    (here / "album" / "0.png").write_bytes(picture(88))
    add = ("index", "add", "album/0.png", "--index", "mine", "--bundle", str(model))
    code, out, err = run(capsys, *add)
    assert code == 1 and "0 pictures added" in out
    assert "album/0.png: another picture of this name" in err
    assert run(capsys, "index", "remove", "album/0.png", "--index", "mine") == (0, "", "")
    assert run(capsys, *add)[:2] == (0, "1 picture added, 0 pictures already there: mine\n")


def test_list_and_remove(index, capsys):
    code, out, _ = run(capsys, "index", "list", "--index", "mine")
    names = [line.split("\t")[0] for line in out.splitlines()]
    assert code == 0 and names == [f"album/{name}.png" for name in ("0", "1", "2", "3", "4")]
    assert run(capsys, "index", "remove", names[1], "none", "--index", "mine") == (
        1,
        "",
        "captioner: none: no such picture in mine\n",
    )
    rows = json.loads(run(capsys, "index", "list", "--index", "mine", "--json")[1])
    assert [row["image_id"] for row in rows] == [names[0], *names[2:]]
    code, _, err = run(capsys, "index", "remove", "none", "--index", "mine")
    assert code == 2 and "no such picture" in err


def test_similar_by_id_needs_no_model(index, capsys):
    found = ("similar", "album/0.png", "--index", "mine", "--bundle", "none")
    code, out, _ = run(capsys, *found, "--top", "2")
    assert code == 0 and len(out.splitlines()) == 2 and "album/0.png" not in out
    rows = json.loads(run(capsys, *found, "--json", "--filter", "split=added")[1])
    assert {row["image_id"] for row in rows} == {f"album/{name}.png" for name in "1234"}
    assert all(-1.001 <= row["means_alike"] <= 1.001 for row in rows)
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)


def test_a_file_is_known_by_its_content(index, model, here, capsys):
    (here / "elsewhere.png").write_bytes(picture(3))
    options = ("--index", "mine", "--bundle", "none", "--json", "--blend", "0.3")
    by_file = run(capsys, "similar", "elsewhere.png", *options)
    assert by_file[0] == 0 and "album/3.png" not in by_file[1]
    assert by_file == run(capsys, "similar", "album/3.png", *options)


def test_a_file_that_is_new_is_embedded_as_the_others_were(index, model, here, capsys):
    """Removed from the index, a picture finds what it found before."""
    options = ("--index", "mine", "--bundle", str(model), "--json", "--blend", "0")
    before = json.loads(run(capsys, "similar", "album/3.png", *options)[1])
    assert run(capsys, "index", "remove", "album/3.png", "--index", "mine")[0] == 0
    after = json.loads(run(capsys, "similar", "album/3.png", *options)[1])
    assert [row["image_id"] for row in after] == [row["image_id"] for row in before]
    for name in ("means_alike", "looks_alike"):
        assert [r[name] for r in after] == pytest.approx([r[name] for r in before], abs=1e-4)
    assert [row["shared"] for row in after] == [row["shared"] for row in before]


def test_search_says_what_it_does_not_know(index, model, capsys):
    options = ("--index", "mine", "--bundle", str(model))
    code, out, err = run(capsys, "search", "a purple circle", *options)
    assert code == 0 and len(out.splitlines()) == 5
    assert err == "captioner: not known, left out: purple\n"
    code, out, err = run(capsys, "search", "mauve lilac", *options)
    assert (code, out) == (2, "")
    assert err == "captioner: none of these words is known: mauve, lilac\n"
    assert run(capsys, "search", "", *options)[0] == 2


def test_models_must_match(index, other_model, here, capsys):
    code, out, err = run(capsys, "search", "red", "--index", "mine", "--bundle", str(other_model))
    assert code == 2 and out == ""
    assert "(model cdcdcdcd) did not make mine (model " in err and "dvc repro export" in err
    (here / "file.png").write_bytes(picture(55))
    add = ("index", "add", "file.png", "--index", "mine", "--bundle", str(other_model))
    assert run(capsys, *add)[0] == 2
    assert (
        run(capsys, "similar", "file.png", "--index", "mine", "--bundle", str(other_model))[0] == 2
    )


def test_sentences_and_words(index, model, capsys):
    opened = collection.open_collection(index)
    code, _, err = run(capsys, "words", "red", "--index", "mine")
    assert code == 2 and "mine: this collection has no words" in err
    captions = {"image_id": ["album/1.png", "x\x1b[31m"], "caption": ["a star", "evil\n\x1b]0;"]}
    size = opened.meaning[0].shape[1]
    write_vectors(index, "captions", captions, opened.meaning[0][:2])
    words = {"word": ["red", "=cmd", "star"], "count": [3, 2, 1]}
    write_vectors(index, "words", words, opened.meaning[0][:3])
    collection.write_manifest(
        index,
        opened.model,
        {"meaning": size, "looks": opened.looks[0].shape[1]},
        json.loads((index / "manifest.json").read_text())["parts"],
    )
    code, out, _ = run(
        capsys, "sentences", "album/1.png", "--index", "mine", "--bundle", str(model)
    )
    assert code == 0 and len(out.splitlines()) == 2 and "\x1b" not in out
    code, out, _ = run(capsys, "words", "red", "--index", "mine", "--top", "1")
    assert code == 0 and len(out.splitlines()) == 1
    rows = json.loads(run(capsys, "words", "red", "--index", "mine", "--json")[1])
    assert {row["word"] for row in rows} == {"=cmd", "star"}
    # Damage is found when it is opened.
    content = (index / "words.npy").read_bytes()
    (index / "words.npy").write_bytes(content[:-1] + b"x")
    code, _, err = run(capsys, "words", "red", "--index", "mine")
    assert code == 2 and "words.npy is not what the manifest says" in err


def test_the_pipelines_own_collection_is_left_alone(index, model, here, capsys):
    shutil.copytree(index, here / "data" / "embeddings")
    before = digest(here / "data")
    for arguments in (
        ("add", "album", "--bundle", str(model)),
        ("remove", "album/0.png"),
    ):
        code, _, err = run(capsys, "index", *arguments, "--index", "data/embeddings")
        assert code == 2 and "--from data/embeddings" in err
    (here / "one.png").write_bytes(picture(99))
    begin = ("index", "add", "one.png", "--index", "own", "--bundle", str(model))
    assert run(capsys, *begin, "--from", "data/embeddings")[0] == 0
    assert len(collection.open_collection(here / "own").pictures) == 6
    assert digest(here / "data") == before
    code, _, err = run(capsys, *begin, "--from", "data/embeddings")
    assert code == 2 and "is there already" in err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["similar", "x.png", "--index", "none"], "none: no collection here"),
        (["similar", "x.png", "--index", "mine"], "x.png: neither a file nor a picture of mine"),
        (["similar", "x.png", "--index", "mine", "--filter", "split"], "expected COLUMN=VALUE"),
        (["search", "red", "--index", "mine", "--filter", "a=b"], "--filter a: no such column"),
        (["search", "red", "--index", "mine", "--bundle", "none"], "none: no bundle here"),
        (["index", "add", "none.png", "--index", "mine"], "no pictures found"),
        (["index", "list", "--index", "none"], "none: no collection here"),
    ],
)
def test_wrong_arguments(index, capsys, arguments, problem):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "") and problem in err and "Traceback" not in err
    assert err.splitlines()[-1].startswith("captioner: ")


@pytest.mark.parametrize("value", ["0", "1001", "x", "-1"])
def test_how_many(value, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["words", "red", "--top", value])
    assert caught.value.code == 2 and "from 1 to 1000" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["1.1", "-0.1", "nan", "x"])
def test_blends(value, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["similar", "red", "--blend", value])
    assert caught.value.code == 2 and "from 0 to 1" in capsys.readouterr().err
