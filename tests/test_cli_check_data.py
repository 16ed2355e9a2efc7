"""`captioner check-data`: a table of one's own pictures, scenes, exit codes, hostile texts."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from PIL import Image

from captioner.cli import main
from captioner.datasets import scenes
from captioner.inspection import FILES
from tests.test_inspection import NUMBERS, encoded

ROOT = Path(__file__).resolve().parent.parent
REPORT = Path("reports/check-data")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The project's params for a table of 40 pictures in a folder, in the present folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CAPTIONER_MIRROR", raising=False)
    Path("pictures").mkdir()
    for number in range(40):
        Path("pictures", f"{number:02}.png").write_bytes(encoded(number))
    write_params()
    write_table()
    return tmp_path


def write_params(**changes) -> None:
    """The project's own, with pictures of 32 pixels; `changes` are of the row `table`."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    values["dataset"] = "table"
    row = values["datasets"]["table"]
    row["download"] |= {"captions": "captions.csv", "pictures": "pictures"}
    row["download"] |= {"split_column": "split"}
    row["preprocess"]["side"] = 32
    for section, keys in changes.items():
        row[section] |= keys
    Path("params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")


def write_table(**captions: str) -> None:
    """Every caption is another one; those named by picture ("p07") as given."""
    lines = ["image,caption,split,colour"]
    for number in range(40):
        split = "train" if number < 32 else "val" if number < 36 else "test"
        text = f"{NUMBERS[number % 12]} shoes and {NUMBERS[number // 12]} boots in {split}"
        text = captions.get(f"p{number:02}", text.removesuffix(f" in {split}"))
        lines.append(f'{number:02}.png,"{text}",{split},{"red" if number % 2 else "blue"}')
    Path("captions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_nothing_to_worry_about(here, capsys):
    assert main(["check-data"]) == 0
    out, _ = capsys.readouterr()
    assert out.startswith("data set table\n\n               train       val      test\n")
    assert "\npictures          32         4         4\n" in out
    assert "\ncolumn colour: 2 values: blue (20), red (20)\n" in out
    assert out.endswith("\nnothing to worry about\n\nall of it: reports/check-data\n")
    assert "ERROR" not in out and "WARNING" not in out
    assert sorted(path.name for path in REPORT.iterdir()) == sorted(FILES)
    with Image.open(REPORT / "contact_sheet.png") as sheet:
        assert sheet.format == "PNG"
    assert sorted(path.name for path in Path("reports").iterdir()) == ["check-data"]


def test_warnings_and_the_report_of_the_json(here, capsys):
    write_table(p03="red caf\u00c3\u00a9")
    assert main(["check-data", "--json", "--report", "r"]) == 1
    out, _ = capsys.readouterr()
    assert out.isascii()
    found = json.loads(out)
    assert found == json.loads(Path("r/report.json").read_text(encoding="utf-8"))
    assert [warning.split(":")[0] for warning in found["warnings"]] == ["mojibake"]
    assert not REPORT.exists()
    main(["check-data", "--json"])  # an older report takes no part in the next one
    assert capsys.readouterr().out == out


def test_errors(here, capsys):
    Path("pictures/34.png").write_bytes(encoded(0))
    Path("pictures/07.png").write_bytes(b"no picture")
    assert main(["check-data"]) == 2
    out, _ = capsys.readouterr()
    (rejected, leaked) = [line for line in out.splitlines() if line.startswith("ERROR")]
    assert "1 of 40 pictures rejected, more than params.yaml preprocess.max_rejected" in rejected
    assert "same bytes in two splits: 1 (val '34.png' = train '00.png')" in leaked
    assert out.endswith("\nthe pipeline would stop\n\nall of it: reports/check-data\n")
    assert "reports/preprocess" not in out


def test_a_picture_whose_captions_have_no_word_is_rejected_as_in_the_pipeline(here, capsys):
    write_table(p04="...")
    assert main(["check-data"]) == 2
    out, _ = capsys.readouterr()
    (error,) = [line for line in out.splitlines() if line.startswith("ERROR")]
    assert "1 of 40 pictures rejected" in error
    assert "caption without words (1), picture without captions (1)" in error


def test_classes_for_the_courses_cnn(here, capsys):
    encoder = {"backbone": "course_cnn"}
    write_params(download={"label": "colour"}, encoder=encoder)
    assert main(["check-data"]) == 0
    write_params(download={"label": "shape"}, encoder=encoder)
    assert main(["check-data"]) == 2
    assert "40 of 40 pictures, 00.png the first, have no 'shape'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--params", "no.yaml"], "no.yaml: no such file"),
        (["--dataset", "cats"], "params.yaml: dataset: 'cats' is not allowed: one of: "),
        (
            ["--dataset", "scenes"],
            "data/raw/scenes.zip: not there yet; run `dvc repro download` first, with dataset: "
            "scenes in params.yaml",
        ),
        (["--dataset", "flickr8k"], "data/raw/Flickr8k_Dataset.zip: not there yet"),
        (["--report", "pictures"], "holds other files (00.png); name a new folder"),
        (["--report", "."], ".: is the working folder or above it; name a new folder"),
        (["--report", "captions.csv"], "captions.csv: is a file; name a folder"),
        (["--report", "pictures/r"], "pictures/r: is read from (pictures); name another place"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_changes_nothing(here, capsys, arguments, message):
    before = sorted(here.rglob("*"))
    assert main(["check-data", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
    assert sorted(here.rglob("*")) == before


def test_a_table_without_its_columns(here, capsys):
    Path("captions.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    assert main(["check-data"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "captions.csv" in err and "Traceback" not in err
    assert not REPORT.exists()


def test_another_data_set_than_the_chosen_one(here, capsys):
    scenes.draw_archive(Path("data/raw/scenes.zip"), {"train": 40, "val": 4, "test": 4}, 64, 1)
    code = main(["check-data", "--dataset", "scenes", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == bool(found["warnings"])
    assert found["pictures"] == {"train": 40, "val": 4, "test": 4}
    assert set(found["columns"]) == {"background", "objects"}
    assert found["formats"] == {"PNG": 48}
    assert found["errors"] == []


def test_word_vectors_from_the_mirror(here, capsys, monkeypatch, tmp_path):
    write_params(glove={"source": "file"})
    assert main(["check-data"]) == 0
    assert "not looked up; no glove.6B.zip could be read" in capsys.readouterr().out
    Path("mirror").mkdir()
    with zipfile.ZipFile("mirror/glove.6B.zip", "w") as zipped:
        lines = (f"{word} {' '.join(['0.5'] * 50)}" for word in (*NUMBERS, "shoes", "boots"))
        zipped.writestr("glove.6B.50d.txt", "\n".join(lines))
    monkeypatch.setenv("CAPTIONER_MIRROR", str(tmp_path / "mirror"))
    assert main(["check-data"]) == 0
    out = capsys.readouterr().out
    assert "glove.6B.zip has 93.3% of the words, which are 80.0% of the training text;" in out
    assert "; without one: and (32)\n" in out


def test_hostile_texts_command_no_terminal_and_forge_no_line(here, capsys):
    forged = "a\x1b[2J\x1b]0;x\x07dog\rnothing to worry about\x9b31m \u202e \u2028 ERROR"
    write_table(**{f"p{number:02}": forged for number in range(6)})
    Path("captions.csv").write_text(
        Path("captions.csv").read_text(encoding="utf-8").replace("09.png", "no\x1b[2J.png"),
        encoding="utf-8",
    )
    assert main(["check-data"]) == 2
    out, _ = capsys.readouterr()
    assert all(line.isprintable() for line in out.split("\n"))
    assert "control characters: in 6 captions" in out and "\\x1b[2J" in out
    assert "  picture missing: 1 (no\\x1b[2J.png)" in out


def test_help_teaches_and_is_quick_to_start(tmp_path):
    """No module beyond the standard library is imported for it."""
    heavy = {"tensorflow", "keras", "numpy", "pandas", "PIL", "pydantic", "yaml", "matplotlib"}
    code = (
        "import sys; from captioner.cli import main\n"
        "try: main(['check-data', '--help'])\n"
        "except SystemExit: pass\n"
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert "captioner check-data --dataset table" in done.stdout
    assert "exit codes: 0 nothing to worry about; 1 the pipeline would run" in done.stdout


def test_no_tensorflow(here):
    code = (
        "import sys; from captioner.cli import main; done = main(['check-data'])\n"
        "print(done, {'tensorflow', 'keras', 'mlflow'} & set(sys.modules))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=here
    )
    assert done.stdout.splitlines()[-1] == "0 set()", done.stderr
