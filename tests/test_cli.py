"""cli/: files and folders in, captions out; what cannot be read is named, the rest is done."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from captioner import CaptionerError, __version__, bundle, cli
from captioner.archives import container
from tests.test_bundle import picture, write

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / "src")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("cli") / "bundle")


@pytest.fixture(scope="module")
def captioner(folder) -> bundle.Captioner:
    return bundle.load(folder)


@pytest.fixture
def quick(captioner, monkeypatch):
    """`bundle.load` without loading anew; notes what it was asked for."""
    asked = []

    def load(*arguments):
        asked.append(arguments)
        return captioner

    monkeypatch.setattr(bundle, "load", load)
    return asked


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Three pictures to find, and files that are to be left out."""
    top = tmp_path / "pictures"
    for number, name in enumerate(["b.png", "a.JPG", "deep/er/c.webp"]):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        kind = {".png": "PNG", ".JPG": "JPEG", ".webp": "WEBP"}[Path(name).suffix]
        (top / name).write_bytes(picture(number, kind=kind))
    for name in (".hidden.png", ".thumbnails/d.png", "deep/notes.txt"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(picture(9))
    return top


def lines(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


def test_help_and_version_import_nothing_heavy():
    heavy = {"tensorflow", "keras", "numpy", "pandas", "PIL", "pydantic", "yaml", "mlflow", "tqdm"}
    for arguments in (["--help"], ["--version"], ["caption", "--help"]):
        code = (
            "import sys; from captioner import cli\n"
            f"try: cli.main({arguments!r})\n"
            f"finally: print(sorted({heavy!r} & set(sys.modules)), file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True
        )
        assert done.returncode == 0 and done.stderr.strip() == "[]"
        assert (f"captioner {__version__}" if "--version" in arguments else "usage:") in done.stdout


def test_help_names_examples_and_exit_codes(capsys):
    for arguments in (["--help"], ["caption", "--help"]):
        with pytest.raises(SystemExit) as left:
            cli.main(arguments)
        assert left.value.code == 0
        shown = capsys.readouterr().out
        assert "captioner caption dog.jpg" in shown and "exit codes: 0" in shown
    assert "captioner caption dog.jpg -n 5 --sample" in shown


def test_files_and_folders(pictures, folder, captioner, quick, capsys):
    b, c = pictures / "b.png", pictures / "deep" / "er" / "c.webp"
    assert cli.main(["caption", str(c), str(pictures), str(b), "--bundle", str(folder)]) == 0
    found = lines(capsys.readouterr().out)
    # as they are named; a folder's pictures in order; a picture named twice is done twice
    expected = [c, pictures / "a.JPG", b, c, b]
    assert [path for path, _ in found] == list(map(str, expected))
    captions = captioner.caption([path.read_bytes() for path in expected])
    assert [caption for _, caption in found] == [caption.text for caption in captions]
    assert quick == [(folder, None, 5)]  # one batch, no larger than it must be


def test_more_pictures_than_a_batch(pictures, folder, quick, monkeypatch, capsys):
    monkeypatch.setattr(cli.caption, "BATCH", 2)
    one = pictures / "b.png"
    assert cli.main(["caption", *[str(one)] * 5, "--bundle", str(folder), "--beam", "7"]) == 0
    found = lines(capsys.readouterr().out)
    assert len(found) == 5 and len({tuple(line) for line in found}) == 1
    assert quick == [(folder, 7, 2)]


def test_json(pictures, folder, captioner, quick, capsys):
    assert cli.main(["caption", str(pictures), "--json", "--bundle", str(folder)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["picture"] for row in found] == [
        str(pictures / name) for name in ("a.JPG", "b.png", "deep/er/c.webp")
    ]
    for row in found:
        (caption,) = captioner.caption([Path(row["picture"]).read_bytes()])
        assert row["caption"] == caption.text and set(row) == {
            "picture",
            "caption",
            "log_probability",
        }
        assert row["log_probability"] == pytest.approx(caption.log_probability, abs=1e-2)


SEVERAL = [
    (["-n", "3"], lambda captioner, pictures: captioner.diverse(pictures, 3)),
    (["-n", "2", "--sample"], lambda captioner, pictures: captioner.sampled(pictures, 2, 0, 0.9)),
    (
        ["--number", "3", "--sample", "--top-p", "1", "--seed", "7"],
        lambda captioner, pictures: captioner.sampled(pictures, 3, 7, 1.0),
    ),
    (["--sample", "--seed=3"], lambda captioner, pictures: captioner.sampled(pictures, 1, 3, 0.9)),
]


@pytest.mark.parametrize(("arguments", "expected"), SEVERAL)
def test_several_captions(pictures, folder, captioner, quick, capsys, arguments, expected):
    """A line for each, with its log-probability; the same ones as JSON."""
    paths = [pictures / name for name in ("a.JPG", "b.png", "deep/er/c.webp")]
    wanted = expected(captioner, [captioner.prepare(path.read_bytes()) for path in paths])
    assert cli.main(["caption", str(pictures), "--bundle", str(folder), *arguments]) == 0
    found = lines(capsys.readouterr().out)
    assert found == [
        [str(path), caption.text, f"{caption.log_probability:.2f}"]
        for path, captions in zip(paths, wanted, strict=True)
        for caption in captions
    ]
    assert cli.main(["caption", str(pictures), "--bundle", str(folder), "--json", *arguments]) == 0
    rows = json.loads(capsys.readouterr().out)
    for row, path, captions in zip(rows, paths, wanted, strict=True):
        alternatives = [
            {"caption": caption.text, "log_probability": caption.log_probability}
            for caption in captions
        ]
        assert row == {"picture": str(path), **alternatives[0], "alternatives": alternatives}


def test_one_caption_of_several_is_the_one_without(pictures, folder, quick, capsys):
    arguments = ["caption", str(pictures), "--bundle", str(folder)]
    assert cli.main(arguments) == 0
    alone = lines(capsys.readouterr().out)
    assert cli.main([*arguments, "-n", "1"]) == 0
    assert [line[:2] for line in lines(capsys.readouterr().out)] == alone


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--top-p", "0.9"], "--top-p is of use with --sample only"),
        (["-n", "2", "--seed", "0"], "--seed is of use with --sample only"),
        (["--sample", "--beam", "3"], "--beam searches and --sample draws at random"),
    ],
)
def test_options_that_do_not_go_together(pictures, folder, capsys, arguments, reason):
    assert cli.main(["caption", str(pictures), "--bundle", str(folder), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"captioner: {reason}") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("-n0", "'0' is not a whole number from 1 to 20"),
        ("-n21", "'21' is not a whole number from 1 to 20"),
        ("-n2.5", "is not a whole number from 1 to 20"),
        ("--seed=-1", "'-1' is not a whole number from 0 to 2147483647"),
        ("--seed=9999999999", "is not a whole number from 0 to 2147483647"),
        ("--top-p=0", "'0' is not a number from 0.01 to 1"),
        ("--top-p=1.1", "is not a number from 0.01 to 1"),
        ("--top-p=nan", "is not a number from 0.01 to 1"),
        ("--top-p=much", "'much' is not a number from 0.01 to 1"),
    ],
)
def test_a_bad_number(pictures, capsys, argument, reason):
    with pytest.raises(SystemExit) as left:
        cli.main(["caption", str(pictures), "--sample", argument])
    assert left.value.code == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_a_broken_picture_is_named_and_the_others_are_done(
    pictures, folder, quick, capsys, monkeypatch, extra
):
    monkeypatch.setattr(cli.caption, "BATCH", 2)
    broken = pictures / "aa.png"
    broken.write_bytes(picture(1)[:60])
    assert cli.main(["caption", str(pictures), "--bundle", str(folder), *extra]) == 1
    out, err = capsys.readouterr()
    assert len(json.loads(out) if extra else lines(out)) == 3 and str(broken) not in out
    assert err.startswith(f"captioner: {broken}: picture undecodable: ") and err.count("\n") == 1


def test_all_pictures_broken(folder, tmp_path, quick, capsys):
    (tmp_path / "a.png").write_bytes(b"")
    assert cli.main(["caption", str(tmp_path), "--bundle", str(folder), "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == []


def test_a_missing_path_is_named_and_the_others_are_done(pictures, folder, quick, capsys):
    missing = pictures / "none.png"
    named = [str(missing), str(pictures / "b.png")]
    assert cli.main(["caption", *named, "--bundle", str(folder)]) == 1
    out, err = capsys.readouterr()
    assert len(lines(out)) == 1 and err == f"captioner: {missing}: No such file or directory\n"


def test_only_regular_files_of_the_folder_are_read(pictures, folder, quick, capsys, tmp_path):
    outside = tmp_path / "secret.png"
    outside.write_bytes(picture(5))
    (tmp_path / "else").mkdir()
    links = {
        "inside.png": "b.png",
        "out.png": outside,
        "loop.png": "loop.png",
        "gone.png": "nothing",
        "zero.png": "/dev/zero",
        "else": tmp_path / "else",
        "again": "deep",  # its pictures are found where they are
        "notes.txt": "/dev/zero",  # not called like a picture
    }
    for name, target in links.items():
        (pictures / name).symlink_to(target)
    os.mkfifo(pictures / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(pictures / "socket.gif"))
        code = cli.main(["caption", str(pictures), "--bundle", str(folder)])
    out, err = capsys.readouterr()
    assert code == 1
    assert [Path(path).name for path, _ in lines(out)] == ["a.JPG", "b.png", "inside.png", "c.webp"]
    said = dict(
        line.removeprefix(f"captioner: {pictures}/").split(": ", 1) for line in err.splitlines()
    )
    leads = "is a link that leads out of the folder; name it by itself"
    assert said == {
        "out.png": leads,
        "zero.png": leads,
        "else": leads,
        "loop.png": "Too many levels of symbolic links",
        "gone.png": "No such file or directory",
        "pipe.jpg": "is a pipe and no picture",
        "socket.gif": "is a socket and no picture",
    }


def test_a_file_named_by_itself_may_be_a_link_but_no_pipe(
    pictures, folder, quick, capsys, monkeypatch
):
    monkeypatch.setattr(container, "MAX_READ", (pictures / "b.png").stat().st_size)
    (pictures / "large.png").write_bytes(picture(1) + bytes(10_000))
    os.mkfifo(pictures / "pipe.jpg")
    (pictures / "link.png").symlink_to(pictures / "b.png")
    named = [str(pictures / name) for name in ("link.png", "pipe.jpg", "large.png")]
    assert cli.main(["caption", *named, "/dev/zero", "--bundle", str(folder)]) == 1
    out, err = capsys.readouterr()
    assert [path for path, _ in lines(out)] == named[:1]
    assert f"captioner: {named[1]}: is a pipe and no picture\n" in err
    assert err.count("captioner: ") == 3 and f"{named[2]}: " in err
    assert "bytes are too many to read at once" in err
    assert "captioner: /dev/zero: is a device and no picture\n" in err


def test_a_name_too_long_for_any_file_is_named(pictures, folder, quick, capsys):
    named = ["x" * 5000, str(pictures / "b.png")]
    assert cli.main(["caption", *named, "--bundle", str(folder)]) == 1
    assert "File name too long" in capsys.readouterr().err


def test_nothing_to_do(tmp_path, folder, capsys):
    assert cli.main(["caption", str(tmp_path), "--bundle", str(folder)]) == 2
    assert "no pictures found (looked for .bmp .gif .jpeg" in capsys.readouterr().err


def test_no_bundle_is_said_before_tensorflow_is_imported(pictures, tmp_path):
    code = (
        "import sys; from captioner import cli\n"
        f"code = cli.main(['caption', {str(pictures)!r}, '--bundle', {str(tmp_path)!r}])\n"
        "assert 'tensorflow' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        f"captioner: {tmp_path}: no bundle here; make one with `dvc repro`, or name another with "
        "--bundle\n"
    )


def test_a_damaged_bundle_is_one_line(pictures, tmp_path, capsys):
    (tmp_path / "bundle.json").write_text("{")
    assert cli.main(["caption", str(pictures), "--bundle", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"captioner: {tmp_path}: damaged bundle (") and err.count("\n") == 1


@pytest.mark.parametrize("beam", ["0", "101", "-1", "2.5", "many", "", "9" * 5000])
def test_a_bad_beam_width(pictures, beam, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["caption", str(pictures), f"--beam={beam}"])
    assert left.value.code == 2
    assert "is not a whole number from 1 to 100" in capsys.readouterr().err


def test_names_neither_forge_lines_nor_command_the_terminal(tmp_path, folder, quick, capsys):
    hostile = ["a\nb\tforged.png", "\x1b[31mred\x07.png", "\u202egnp.exe", "plain \\n é 日.png"]
    for name in hostile:
        (tmp_path / name).write_bytes(picture(1))
    broken = tmp_path / "\x1b]0;title\x07.png"
    broken.write_bytes(b"no picture")
    paths = [str(tmp_path / name) for name in [*hostile, broken.name]]
    assert cli.main(["caption", *paths, "--bundle", str(folder)]) == 1
    out, err = capsys.readouterr()
    assert [path.removeprefix(f"{tmp_path}/") for path, _ in lines(out)] == [
        "a\\nb\\tforged.png",
        "\\x1b[31mred\\x07.png",
        "\\u202egnp.exe",
        "plain \\n é 日.png",
    ]
    assert "\\x1b]0;title\\x07.png: picture undecodable" in err
    assert (out + err).replace("\n", "").replace("\t", "").isprintable()
    # JSON is exact
    assert cli.main(["caption", *paths[:4], "--json", "--bundle", str(folder)]) == 0
    out = capsys.readouterr().out
    assert [row["picture"] for row in json.loads(out)] == paths[:4]
    assert out.isascii() and "\x1b" not in out


def test_whatever_a_caption_holds_stays_in_its_cell(
    tmp_path, folder, captioner, capsys, monkeypatch
):
    class Speaker:
        def prepare(self, data):
            return data

        def caption_prepared(self, pictures):
            return [bundle.Caption("a\tb\nc\x1b[0m", -1.0) for _ in pictures]

    monkeypatch.setattr(bundle, "load", lambda *_: Speaker())
    (tmp_path / "a.png").touch()
    assert cli.main(["caption", str(tmp_path), "--bundle", str(folder)]) == 0
    assert lines(capsys.readouterr().out) == [[str(tmp_path / "a.png"), "a\\tb\\nc\\x1b[0m"]]


def test_errors_of_the_program_keep_their_traceback(pictures, folder, monkeypatch):
    def bug(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(bundle, "load", bug)
    with pytest.raises(ZeroDivisionError):
        cli.main(["caption", str(pictures), "--bundle", str(folder)])


def test_a_caught_error_is_one_line(pictures, folder, monkeypatch, capsys):
    def refuse(*_):
        raise CaptionerError("params.yaml: seed: no")

    monkeypatch.setattr(bundle, "load", refuse)
    assert cli.main(["caption", str(pictures), "--bundle", str(folder)]) == 2
    assert capsys.readouterr().err == "captioner: params.yaml: seed: no\n"


def test_as_a_program_with_an_encoding_that_lacks_letters(pictures, folder):
    """The whole way once: a process, a real bundle, a name of bytes that are no UTF-8."""
    name = os.fsencode(pictures) + b"/\xe9\xc3\xa9.png"
    Path(os.fsdecode(name)).write_bytes(picture(2))
    done = subprocess.run(
        [sys.executable, "-m", "captioner.cli", "caption", name, "--bundle", folder, "--beam", "1"],
        env=ENVIRONMENT | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert done.returncode == 0 and b"captioner:" not in done.stderr, done.stderr
    path, caption = done.stdout.decode("ascii").rstrip("\n").split("\t")
    assert path == f"{pictures}/\\udce9\\xe9.png" and caption
