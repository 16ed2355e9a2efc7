"""cli/score.py: the reference's scores from anybody's files; what does not match is named."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from captioner import cli
from captioner.metrics import caption_scores
from tests.conftest import needs_meteor
from tests.test_caption_files import coco, parquet

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / "src")}
MEASURES = ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d"]

REFERENCES = {
    "dog.jpg": ["A dog runs fast .", "a dog is running"],
    "cat.jpg": ["Two cats sleep here"],
    "bus.jpg": ["a red bus on the street"],
}
HYPOTHESES = {"bus.jpg": "a bus on the street", "dog.jpg": "a dog runs", "cat.jpg": "two dogs"}


@pytest.fixture
def score(tmp_path, capsys):
    """Run the command on values written as JSON, or on paths; (exit code, stdout, stderr)."""

    def run(references, hypotheses, *options: str) -> tuple[int, str, str]:
        paths = []
        for name, value in [("references", references), ("hypotheses", hypotheses)]:
            path = value
            if not isinstance(value, Path):
                path = tmp_path / f"{name}.json"
                path.write_text(json.dumps(value), encoding="utf-8")
            paths += [f"--{name}", str(path)]
        code = cli.main(["score", *paths, *options])
        return code, *capsys.readouterr()

    return run


def process(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "captioner.cli", "score", *arguments],
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
    )


def golden(shared: Path) -> list[dict]:
    return json.loads(gzip.decompress((shared / "metrics" / "scores.json.gz").read_bytes()))


@needs_meteor
def test_meteor_beside_the_others(score):
    from captioner.metrics.java import java_scores

    options = ["--json", "--per-image", "--java-metrics", "meteor"]
    code, out, _ = score(REFERENCES, HYPOTHESES, *options)
    found = json.loads(out)
    assert code == 0 and list(found["scores"]) == [*MEASURES, "meteor"]
    said = [HYPOTHESES[i] for i in REFERENCES]
    corpus, each = java_scores(list(REFERENCES.values()), said, ["meteor"])
    assert found["scores"]["meteor"] == corpus["meteor"] > 0
    assert [row["meteor"] for row in found["per_image"].values()] == each["meteor"].tolist()


def test_meteor_without_java_is_one_line_before_anything_is_read(score, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    gone = tmp_path / "gone.json"
    code, out, err = score(gone, gone, "--java-metrics", "meteor")
    assert (code, out) == (2, "") and "no java on PATH" in err and err.count("\n") == 1


def test_golden_scores(shared, tmp_path, score):
    """COCO's reference scorer, to the ninth digit, from COCO's own format and from plain JSON."""
    for case in golden(shared):
        pairs = [(i, text) for i, texts in case["references"].items() for text in texts]
        (tmp_path / "coco.json").write_text(coco(pairs), encoding="utf-8")
        options = ["--json", "--per-image"] + ["--pre-tokenized"] * (not case["tokenize"])
        for references in (tmp_path / "coco.json", case["references"]):
            code, out, _ = score(references, case["hypotheses"], *options)
            found = json.loads(out)
            assert code == 0 and list(found["scores"]) == MEASURES
            for name, value in found["scores"].items():
                assert value == pytest.approx(case["expected"][name], rel=0, abs=1e-9)
            assert list(found["per_image"]) == list(case["references"])
            for name, values in (case["per_image"] or {}).items():
                per_image = [row[name] for row in found["per_image"].values()]
                assert per_image == pytest.approx(values, rel=0, abs=1e-9)


def test_json_in_full_precision_as_a_program(tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(REFERENCES))
    (tmp_path / "h.json").write_text(json.dumps(HYPOTHESES))
    arguments = ["--references", tmp_path / "r.json", "--hypotheses", tmp_path / "h.json", "--json"]
    done = process(*arguments, "--per-image")
    assert done.returncode == 0 and done.stderr == ""
    expected = caption_scores(list(REFERENCES.values()), [HYPOTHESES[i] for i in REFERENCES])
    assert json.loads(done.stdout) == {
        "scores": expected.corpus,  # equal, not nearly
        "pictures": 3,
        "references": 4,
        "unmatched": {"references": [], "hypotheses": []},
        "warnings": [],
        "per_image": {
            image_id: {name: expected.per_picture[name][number] for name in MEASURES}
            for number, image_id in enumerate(REFERENCES)
        },
    }
    assert "per_image" not in json.loads(process(*arguments).stdout)


def test_exit_codes_as_a_program(tmp_path):
    references, hypotheses = tmp_path / "r.json", tmp_path / "h.csv"
    references.write_text(json.dumps(REFERENCES | {"x.jpg": ["an x"]}))
    rows = "".join(f"{image_id},{caption}\n" for image_id, caption in HYPOTHESES.items())
    hypotheses.write_text("image,caption\n" + rows)
    files = ["--references", references, "--hypotheses", hypotheses]
    done = process(*files)
    assert done.returncode == 1 and done.stdout.startswith("measure   score\nbleu_1 ")
    assert done.stderr == (
        "captioner: 1 picture has references but no hypothesis: x.jpg\n"
        "captioner: scored: 3 pictures in both files; --common if that is meant\n"
    )
    common = process(*files, "--common")
    assert common.returncode == 0 and common.stdout == done.stdout
    assert common.stderr == "captioner: 1 picture has references but no hypothesis: x.jpg\n"
    hypotheses.write_text("image,caption\ndog.jpg,a dog\ndog.jpg,a cat\n")
    for extra in ([], ["--json"], ["--common"]):
        done = process(*files, *extra)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr == (
            f"captioner: {hypotheses}: line 3 (picture dog.jpg): the picture has a caption in line "
            "2 already; give one generated caption a picture\n"
        )
    done = process("--references", references)
    assert done.returncode == 2 and "the following arguments are required: --hypo" in done.stderr


def test_nothing_heavy_is_imported(tmp_path):
    """TensorFlow and MLflow never, Arrow and pandas not for text files."""
    (tmp_path / "x.csv").write_text("id,text\n1,a dog\n2,a cat\n")
    (tmp_path / "x.json").write_text('{"1": "a dog", "2": "a fat cat"}')
    code = (
        "import sys; from captioner import cli; code = cli.main(sys.argv[1:])\n"
        "heavy = {'tensorflow', 'keras', 'mlflow', 'pandas', 'pyarrow', 'PIL', 'tqdm', 'yaml'}\n"
        "print(code, sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    files = ["--references", tmp_path / "x.csv", "--hypotheses", tmp_path / "x.json"]
    done = subprocess.run(
        [sys.executable, "-c", code, "score", *files],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.stderr == "0 []\n" and done.stdout.startswith("measure")


def test_the_table(score):
    code, out, err = score(REFERENCES, HYPOTHESES)
    assert code == 0 and err == ""
    table, counts = out.split("\n\n")
    expected = caption_scores(list(REFERENCES.values()), [HYPOTHESES[i] for i in REFERENCES])
    head, *rows = table.split("\n")
    assert head == "measure   score" and {len(row) for row in rows} == {len(head)}
    assert [row.split() for row in rows] == [
        [name, f"{expected.corpus[name]:.4f}"] for name in MEASURES
    ]
    assert counts == "3 pictures, 4 references\n"


def test_per_image_is_a_line_each(score):
    code, out, _ = score(REFERENCES, HYPOTHESES, "--per-image")
    lines, _, _ = out.split("\n\n")
    head, *rows = [line.split("\t") for line in lines.split("\n")]
    expected = caption_scores(list(REFERENCES.values()), [HYPOTHESES[i] for i in REFERENCES])
    assert code == 0 and head == ["image_id", "bleu_4", "rouge_l", "cider_d"]
    assert rows == [
        [image_id, *(f"{expected.per_picture[name][number]:.4f}" for name in head[1:])]
        for number, image_id in enumerate(REFERENCES)
    ]


def test_ids_neither_forge_lines_nor_command_the_terminal(score):
    hostile = ["a\nb\tc", "\x1b[31mred", "\udce9", "日"]
    given = dict.fromkeys(hostile, "a dog")
    code, out, err = score(given, given | {"\x07bell\n": "x"}, "--per-image", "--common")
    assert code == 0
    assert [line.split("\t")[0] for line in out.split("\n")[1:5]] == [
        "a\\nb\\tc",
        "\\x1b[31mred",
        "\\udce9",
        "日",
    ]
    assert "but no references: \\x07bell\\n\n" in err and err.count("\n") == 3
    code, out, _ = score(given, given, "--per-image", "--json")
    assert list(json.loads(out)["per_image"]) == hostile and out.isascii()


def test_what_does_not_match_is_named_five_at_most(score):
    references = REFERENCES | {f"r{n}": ["x"] for n in range(1200)}
    hypotheses = HYPOTHESES | {f"h{n}": "x" for n in range(5)}
    alone = score(REFERENCES, HYPOTHESES)[1]
    code, out, err = score(references, hypotheses)
    assert (code, out) == (1, alone)  # the others are scored as if these did not exist
    assert err.splitlines() == [
        "captioner: 1,200 pictures have references but no hypothesis: r0, r1, r2, r3, r4 ...",
        "captioner: 5 pictures have a hypothesis but no references: h0, h1, h2, h3, h4",
        "captioner: scored: 3 pictures in both files; --common if that is meant",
    ]
    code, out, err = score(references, hypotheses, "--common", "--json")
    found = json.loads(out)
    assert code == 0 and len(err.splitlines()) == 2
    assert found["unmatched"]["references"] == [f"r{n}" for n in range(1200)]
    assert found["unmatched"]["hypotheses"] == [f"h{n}" for n in range(5)]
    assert found["pictures"] == 3 and found["references"] == 4


@pytest.mark.parametrize(
    ("reference", "hypothesis", "hint"),
    [
        ("dog.jpg", "dog", "differ by a suffix such as .jpg;"),
        ("dog.JPEG", "dog.png", "differ by a suffix such as .jpg;"),
        ("pictures/dog.jpg", "dog.jpg", "differ by the folder before the name;"),
        ("C:\\pictures\\dog.jpg", "dog", "differ by folder and suffix;"),
        ("391895", "COCO_val2014_000000391895.jpg", "by what is around the picture's number;"),
        ("0012", "12", "differ by zeros before the number;"),
        ("dog.jpg", "cat.jpg", "do both describe the same pictures?"),
        ("93b08cb0.jpg", "0", "do both describe the same pictures?"),
    ],
)
def test_no_picture_in_common(reference, hypothesis, hint, score, tmp_path):
    code, out, err = score({reference: ["a"]}, {hypothesis: "a"}, "--common")
    assert code == 2 and out == "" and hint in err and err.count("\n") == 1
    assert f"no picture in common ({reference} and {hypothesis}, for example)" in err
    assert str(tmp_path / "references.json") in err and str(tmp_path / "hypotheses.json") in err


def test_a_few_alike_by_chance_are_no_hint(score):
    _, _, err = score({"a7.jpg": ["x"], "b.jpg": ["x"], "c.jpg": ["x"]}, {"7": "x", "c": "x"})
    assert "do both describe the same pictures?" in err


def test_one_picture_is_warned_of_in_one_line(score):
    code, out, err = score({"a": ["a dog"]}, {"a": "a dog"})
    assert code == 0 and "cider_d  0.0000" in out and "\n1 picture, 1 reference\n" in out
    assert err.startswith("captioner: with one picture CIDEr-D is 0 by definition")
    assert err.count("\n") == 1


def test_empty_hypotheses_are_scored_and_counted(score):
    code, out, err = score(REFERENCES, HYPOTHESES | {"cat.jpg": " ", "dog.jpg": ""}, "--json")
    scores = caption_scores(list(REFERENCES.values()), ["", " ", HYPOTHESES["bus.jpg"]])
    assert code == 0 and json.loads(out)["scores"] == scores.corpus
    assert err == "captioner: 2 of 3 hypotheses have no word and score 0\n"


PLENTY = {"1": ["a dog runs", "the dog"], "2": ["two cats"], "3": ["a red bus"]}


@pytest.mark.parametrize(
    ("references", "hypotheses", "warning"),
    [
        ({i: ["a dog"] for i in PLENTY}, dict.fromkeys("123", "a cat"), "all alike CIDEr-D is 0"),
        (PLENTY, {i: group[0] for i, group in PLENTY.items()}, "were the references given as"),
        (PLENTY, dict.fromkeys("123", "ein Hund"), "no hypothesis shares a word"),
        (PLENTY, {"1": "nan", "2": "None", "3": "a bus"}, "2 captions are a word such as nan"),
        (PLENTY | {"4": ["...", "x"]}, dict.fromkeys("1234", "a dog"), "without a word (4, for"),
        (
            {"1": ["一个男人在骑马", "男人骑着一匹马"], "2": ["一只黑猫", "黑猫"]},
            {"1": "一个男人骑马", "2": "一只黑猫"},
            "Chinese or Japanese without blanks between words",
        ),
        (
            {"1": ["สุนัขกำลังวิ่งอยู่บนหญ้า"], "2": ["แมวสองตัวนอนหลับอยู่"]},
            {"1": "สุนัขวิ่งบนสนามหญ้า", "2": "แมวนอนหลับ"},
            "put blanks between the words of all captions",
        ),
    ],
)
def test_scores_that_mean_nothing_are_said_to(references, hypotheses, warning, score):
    code, out, err = score(references, hypotheses, "--json")
    found = json.loads(out)["warnings"]
    assert code == 0 and len(found) == 1 and warning in found[0]
    assert err == f"captioner: {found[0]}\n"


def test_sound_scores_are_left_without_a_word(score):
    segmented = {"1": ["一个 男人 在 骑马"], "2": ["一 只 黑猫"]}
    for references, hypotheses in (
        (PLENTY, {"1": "a dog", "2": "two cats", "3": "a bus"}),
        (segmented, {"1": "一个 男人", "2": "一 只 猫"}),
        ({"1": ["개가 달린다"], "2": ["고양이 두 마리"]}, {"1": "개가 뛴다", "2": "고양이"}),
    ):
        code, out, err = score(references, hypotheses, "--json")
        assert (code, err) == (0, "") and json.loads(out)["warnings"] == []


def test_chinese_characters_as_words(score):
    """As the pipeline scores with tokenize.split_characters: 一只猫 in three words."""
    references = {"1": ["一只黑猫"], "2": ["两只狗"]}
    code, out, err = score(references, {"1": "一只猫", "2": "狗"}, "--split-characters", "--json")
    found = json.loads(out)
    expected = caption_scores([["一 只 黑 猫"], ["两 只 狗"]], ["一 只 猫", "狗"], tokenized=True)
    assert (code, err, found["warnings"]) == (0, "", [])
    assert found["scores"] == expected.corpus and expected.corpus["bleu_1"] > 0.3
    code, _, err = score(references, references, "--split-characters", "--pre-tokenized")
    assert code == 2 and "leave one of them out" in err


def test_few_matches_for_ids_in_two_forms(score):
    references = {f"{n:04}": ["a dog"] for n in range(9)} | {"bus": ["a bus"]}
    hypotheses = {str(n): "a dog" for n in range(9)} | {"bus": "a red bus"}
    code, _, err = score(references, hypotheses, "--common")
    assert code == 0 and "differ by" not in err  # that is meant
    code, _, err = score(references, hypotheses)
    assert code == 1 and "captioner: the ids seem to differ by zeros before the number" in err


def test_pre_tokenized_captions_are_left_alone(score):
    references, hypotheses = {"1": ["A ."], "2": ["B"]}, {"1": "a .", "2": "B"}
    code, out, _ = score(references, hypotheses, "--pre-tokenized", "--json")
    assert code == 0 and json.loads(out)["scores"]["bleu_1"] == pytest.approx(2 / 3)
    _, out, _ = score(references, hypotheses, "--json")
    assert json.loads(out)["scores"]["bleu_1"] == pytest.approx(1)


def test_many_captions_are_announced(score, monkeypatch):
    monkeypatch.setattr(cli.score, "MANY", 6)
    code, _, err = score(REFERENCES, HYPOTHESES)
    assert code == 0 and err == "captioner: scoring 7 captions ...\n"


def test_predictions_of_the_pipeline_serve_as_both(score, tmp_path):
    path = tmp_path / "predictions.parquet"
    path.write_bytes(
        parquet(
            {
                "image_id": list(REFERENCES),
                "caption": [HYPOTHESES[i] for i in REFERENCES],
                "references": list(REFERENCES.values()),
            }
        )
    )
    assert score(path, path) == score(REFERENCES, HYPOTHESES)


def test_help_shows_formats_examples_and_exit_codes(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["score", "--help"])
    shown = capsys.readouterr().out
    assert left.value.code == 0 and "exit codes: 0" in shown
    assert "--references captions_val2014.json --hypotheses results.json --common" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_a_closed_pipe_is_no_error(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({f"{n:050}": f"a {n}" for n in range(5000)}))
    (tmp_path / "y.json").write_text(json.dumps({f"{n:050}": "a dog" for n in range(5000)}))
    done = subprocess.run(
        f'"{sys.executable}" -m captioner.cli score --per-image --references x.json '
        "--hypotheses y.json | head -1",
        shell=True,
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.stderr == "" and done.stdout.startswith("image_id\t")
