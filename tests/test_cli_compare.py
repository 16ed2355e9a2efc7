"""`captioner compare`: files, git revisions through DVC, and what is said when there is nothing."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest

from captioner.cli import main

REFERENCES = {
    "dog.jpg": ["a dog runs in the snow", "a brown dog runs"],
    "cat.jpg": ["a cat sleeps on a chair", "the cat is asleep"],
    "man.jpg": ["a man rides a red bike", "a cyclist on a red bike"],
}
FIRST = {"dog.jpg": "a dog runs", "cat.jpg": "a dog", "man.jpg": "a man"}
SECOND = {"dog.jpg": "a dog", "cat.jpg": "a cat sleeps on a chair", "man.jpg": "a man"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Two predictions files, as the stage `evaluate` writes them, in the present folder."""
    monkeypatch.chdir(tmp_path)
    for name, side in (("a", FIRST), ("b", SECOND)):
        write(tmp_path / f"{name}.parquet", side)
    return tmp_path


def write(path, captions, references=REFERENCES) -> None:
    table = pd.DataFrame({"image_id": list(captions), "caption": list(captions.values())})
    table["references"] = [references[i] for i in captions]
    path.parent.mkdir(exist_ok=True)
    table.to_parquet(path)


def test_two_files(here, capsys):
    assert main(["compare", "a.parquet", "b.parquet"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[:3] == [
        "A  a.parquet",
        "B  b.parquet",
        "3 pictures, 1 with the same caption in both",
    ]
    (cider,) = [line.split() for line in lines if line.startswith("cider_d")]
    assert float(cider[2]) - float(cider[1]) == pytest.approx(float(cider[3]), abs=2e-4)
    place = next(i for i, line in enumerate(lines) if line.startswith("cat.jpg"))
    assert lines[place + 1 : place + 4] == [
        "    A  a dog",
        "    B  a cat sleeps on a chair",
        "       a cat sleeps on a chair",
    ]
    assert not any(line.startswith("man.jpg") for line in lines)  # its caption did not change


def test_json_is_exact_and_the_same_every_time(here, capsys):
    assert main(["compare", "a.parquet", "b.parquet", "--json", "--changes", "1"]) == 0
    first = capsys.readouterr().out
    found = json.loads(first)
    assert set(found["measures"]["bleu_4"]) == {"a", "b", "value", "low", "high", "p_value"}
    assert [change["image_id"] for change in found["changes"]] == ["cat.jpg"]
    assert found["changes"][0]["cider_d_b"] - found["changes"][0]["cider_d_a"] > 1
    main(["compare", "a.parquet", "b.parquet", "--json", "--changes", "1"])
    assert capsys.readouterr().out == first


def test_anybodys_captions_with_references_beside_them(here, capsys):
    for name, content in (("a", FIRST), ("b", SECOND), ("references", REFERENCES)):
        (here / f"{name}.json").write_text(json.dumps(content))
    command = ["compare", "a.json", "b.json", "--references", "references.json", "--json"]
    assert main(command) == 0
    plain = capsys.readouterr().out
    main(["compare", "a.parquet", "b.parquet", "--json"])
    assert plain == capsys.readouterr().out


def test_pictures_of_one_side_only_are_named(here, capsys):
    write(here / "c.parquet", {i: FIRST[i] for i in ("cat.jpg", "man.jpg")})
    assert main(["compare", "c.parquet", "b.parquet"]) == 1
    out, err = capsys.readouterr()
    assert "2 pictures" in out and "dog.jpg" in err and "cat.jpg" not in err


def test_markup_and_control_characters_stay_text(here, capsys):
    write(here / "c.parquet", FIRST | {"dog.jpg": "\x1b[31mred\nalert"})
    assert main(["compare", "a.parquet", "c.parquet"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and r"\x1b[31mred\nalert" in out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["a.parquet", "nothing"], "nothing: neither a file here, nor a git revision"),
        (["a.parquet", "other.parquet"], "no picture in common"),
        (["a.parquet", "reworded.parquet"], "its references differ between A and B"),
        (["a.parquet", "broken.parquet"], "broken.parquet: "),
        (["a.parquet", "b.parquet", "--references", "gone.json"], "gone.json: no such file"),
    ],
)
def test_nothing_to_compare_is_one_line_and_exit_code_2(here, capsys, command, message):
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True)
    write(here / "other.parquet", {"x": "a dog"}, {"x": ["a dog"]})
    write(here / "reworded.parquet", FIRST, REFERENCES | {"cat.jpg": ["a tiger"]})
    (here / "broken.parquet").write_bytes(b"PAR1 and no more")
    assert main(["compare", *command]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.count("\n") == 1


@pytest.mark.parametrize("count", ["-1", "many", "1.5"])
def test_a_wrong_number_of_changes(here, capsys, count):
    with pytest.raises(SystemExit) as left:
        main(["compare", "a.parquet", "b.parquet", f"--changes={count}"])
    assert left.value.code == 2 and "is not a whole number" in capsys.readouterr().err


def test_two_revisions_of_a_repository(here, capsys):
    """As the pipeline keeps them: dvc.lock in git, the predictions in DVC's cache."""

    def call(*command):
        subprocess.run(command, check=True, capture_output=True, env=environment)

    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    call("git", "init", "-q")
    call("git", "config", "user.name", "A Person")
    call("git", "config", "user.email", "person@example.org")
    call(sys.executable, "-m", "dvc", "init", "-q")
    for tag, side in (("first", FIRST), ("second", SECOND)):
        write(here / "data" / "predictions.parquet", side)
        call(sys.executable, "-m", "dvc", "add", "-q", "data/predictions.parquet")
        call("git", "add", "-A")
        call("git", "commit", "-q", "-m", tag)
        call("git", "tag", tag)
    assert main(["compare", "a.parquet", "b.parquet", "--json"]) == 0
    expected = capsys.readouterr().out
    assert main(["compare", "first", "second", "--json"]) == 0
    assert capsys.readouterr().out == expected
    assert main(["compare", "HEAD~1", "data/predictions.parquet", "--json"]) == 0
    assert capsys.readouterr().out == expected

    for path in (here / ".dvc" / "cache").rglob("*"):  # a clone without the cache
        if path.is_file():
            path.unlink()
    assert main(["compare", "first", "second"]) == 2
    assert "first: DVC has no data/predictions.parquet of this revision" in capsys.readouterr().err
