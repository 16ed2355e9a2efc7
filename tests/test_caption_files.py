"""caption_files.py: every format gives the same captions; what is wrong is named with its place."""

import csv
import io
import json
import random
import re
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from captioner import CaptionerError
from captioner.caption_files import read_hypotheses, read_references

REFERENCES = {"b.jpg": ["A dog, running", 'a "brown" dog;\nrunning'], "7": ["Zwei Köche 日"]}
HYPOTHESES = {"b.jpg": "a dog", "7": "", "0042": "a, b; c"}


def save(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def flat(references: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(image_id, caption) for image_id in references for caption in references[image_id]]


def objects(pairs) -> list[dict]:
    return [{"image_id": image_id, "caption": caption} for image_id, caption in pairs]


def coco(pairs) -> str:
    pairs = list(pairs)
    annotations = [row | {"id": n, "bbox": [0.5]} for n, row in enumerate(objects(pairs))]
    images = [{"id": image_id, "file_name": "x"} for image_id, _ in pairs]
    return json.dumps({"info": {}, "images": images, "annotations": annotations})


def table(pairs, delimiter: str = ",", names: tuple[str, str] = ("image_id", "caption")) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows([("split", *names)])
    csv.writer(text, delimiter=delimiter).writerows([("val", *pair) for pair in pairs])
    return text.getvalue()


def parquet(columns: dict) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def columns(pairs) -> dict:
    ids, captions = zip(*pairs, strict=True)
    return {"extra": [1.5] * len(ids), "image_id": list(ids), "caption": list(captions)}


# Each format from (id, caption) pairs.
FORMATS = {
    "coco.json": coco,
    "results.json": lambda pairs: json.dumps(objects(pairs), ensure_ascii=False),
    "lines.jsonl": lambda pairs: "\n".join(map(json.dumps, objects(pairs))) + "\n\n",
    "lines.json": lambda pairs: "\n".join(map(json.dumps, objects(pairs))),
    "unknown": lambda pairs: json.dumps(objects(pairs), indent="\t"),
    "comma.csv": table,
    "semicolon.csv": lambda pairs: table(pairs, ";"),
    "tab.tsv": lambda pairs: table(pairs, "\t"),
    "kaggle.txt": lambda pairs: table(pairs, names=("image", "text")),
    "excel.csv": lambda pairs: "\ufeff" + table(pairs, ";", (" File_Name ", "TITLE")),
    "rows.parquet": lambda pairs: parquet(columns(pairs)),
    "parquet": lambda pairs: parquet(columns(pairs)),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same(name, tmp_path):
    path = save(tmp_path, name, FORMATS[name](flat(REFERENCES)))
    assert read_references(path) == REFERENCES
    assert list(read_references(path)) == list(REFERENCES)
    # Nothing between two commas is what pandas makes of a missing caption: no empty one in CSV.
    is_csv = Path(name).suffix in {".csv", ".tsv", ".txt"}
    expected = {i: caption for i, caption in HYPOTHESES.items() if caption or not is_csv}
    path = save(tmp_path, name, FORMATS[name](expected.items()))
    assert read_hypotheses(str(path)) == expected
    assert list(read_hypotheses(path)) == list(expected)
    if is_csv:
        path = save(tmp_path, name, FORMATS[name](HYPOTHESES.items()))
        with pytest.raises(CaptionerError, match=r"line 3 \(picture 7\): the caption is missing"):
            read_hypotheses(path)


def test_formats_with_lists(tmp_path):
    grouped = [{"image_id": i, "captions": captions} for i, captions in REFERENCES.items()]
    for name, content in {
        "plain.json": json.dumps(REFERENCES),
        "grouped.json": json.dumps(grouped),
        "grouped.jsonl": "\n".join(map(json.dumps, grouped)),
        "lists.parquet": parquet(
            {
                "image_id": list(REFERENCES),
                "caption": ["a hypothesis"] * 2,
                "references": list(REFERENCES.values()),
            }
        ),
    }.items():
        assert read_references(save(tmp_path, name, content)) == REFERENCES
    # The same Parquet file, as `dvc repro` writes predictions, holds the hypotheses too.
    assert read_hypotheses(tmp_path / "lists.parquet") == dict.fromkeys(REFERENCES, "a hypothesis")
    one = {image_id: [caption] for image_id, caption in HYPOTHESES.items()}
    assert read_hypotheses(save(tmp_path, "plain.json", json.dumps(HYPOTHESES))) == HYPOTHESES
    assert read_hypotheses(save(tmp_path, "lists.json", json.dumps(one))) == HYPOTHESES


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    for name, text in [
        ("x.csv", "id,text\na,b\n"),
        ("x.json", '{"a": "b"}'),
        ("x.txt", "a#0\tb\n"),
    ]:
        assert read_hypotheses(save(tmp_path, name, "\ufeff" + text)) == {"a": "b"}


def test_captions_parquet_of_the_pipeline(tmp_path):
    rows = {
        "image_id": ["x", "x", "y"],
        "split": ["val"] * 3,
        "picture": [0, 0, 1],
        "caption_id": [0, 1, 0],
        "caption": ["one", "two", "three"],
    }
    path = save(tmp_path, "captions.parquet", parquet(rows))
    assert read_references(path) == {"x": ["one", "two"], "y": ["three"]}


def test_tokens_of_flickr8k(tmp_path):
    text = "a b.jpg#0\tA child .\r\na b.jpg#1\tTwo\u2028parts\tand a tab\n\n[#1.jpg#0\tB\n"
    for name in ("tokens.txt", "x.token", "x"):
        assert read_references(save(tmp_path, name, text)) == {
            "a b.jpg": ["A child .", "Two\u2028parts\tand a tab"],
            "[#1.jpg": ["B"],
        }
    path = save(tmp_path, "x.token", "a.jpg#0\tA\na.jpg B\n")
    with pytest.raises(CaptionerError, match=r"x\.token: line 2: expected NAME#NUMBER, a tab"):
        read_references(path)


def test_the_real_tokens_of_flickr8k(shared, tmp_path):
    with zipfile.ZipFile(shared / "data" / "flickr8k" / "Flickr8k_text.zip") as archive:
        path = archive.extract("Flickr8k.token.txt", tmp_path)
    references = read_references(path)
    # 8,092 published, and a name without a picture; a smaller copy of them will do as well
    assert 7_000 <= len(references) <= 8_093
    assert {len(captions) for captions in references.values()} == {5}
    assert references["1000268201_693b08cb0e.jpg"][1] == "A girl going into a wooden building ."


# Ids


def test_a_whole_number_and_its_text_are_one_picture(tmp_path):
    rows = [{"image_id": i, "caption": c} for i, c in [(391895, "a"), ("391895", "b"), (2.0, "c")]]
    path = save(tmp_path, "x.json", json.dumps(rows))
    assert read_references(path) == {"391895": ["a", "b"], "2": ["c"]}
    path = save(tmp_path, "x.parquet", parquet({"id": [391895.0, 2.0], "text": ["a", "b"]}))
    assert read_hypotheses(path) == {"391895": "a", "2": "b"}
    path = save(tmp_path, "x.parquet", parquet({"id": [2**60 + 1], "text": ["a"]}))
    assert read_hypotheses(path) == {str(2**60 + 1): "a"}


def test_whole_numbers_with_a_point_in_csv(tmp_path):
    # pandas writes all of a column so, or none
    path = save(tmp_path, "x.csv", "id,text\n391895.0,a\n-2.0,b\n")
    assert read_hypotheses(path) == {"391895": "a", "-2": "b"}
    path = save(tmp_path, "x.csv", "id,text\n1.0,a\n1,b\n")
    assert read_hypotheses(path) == {"1.0": "a", "1": "b"}


def test_ids_are_taken_to_the_letter(tmp_path):
    given = {"007": "a", "7": "b", " 7": "c", "a/b.JPG": "d", "a/b.jpg": "e"}
    for name in FORMATS:
        assert read_hypotheses(save(tmp_path, name, FORMATS[name](given.items()))) == given


def test_plain_json_may_name_pictures_as_coco_names_lists(tmp_path):
    given = {"images": ["a dog"], "annotations": ["a cat", "a kitten"], "image_id": ["x"]}
    assert read_references(save(tmp_path, "x.json", json.dumps(given))) == given


def test_one_line_of_json_lines_is_no_plain_json(tmp_path):
    path = save(tmp_path, "x.jsonl", '{"image_id": "a", "caption": "b"}\n')
    assert read_hypotheses(path) == {"a": "b"}


def test_images_without_annotations_are_no_pictures(tmp_path):
    document = json.loads(coco([("a", "x")]))
    document["images"].append({"id": "b"})
    assert read_references(save(tmp_path, "x.json", json.dumps(document))) == {"a": ["x"]}


# Bad input: file name, content, what the message says. Both readers refuse it.
BAD = [
    ("x.json", "", "holds no captions"),
    ("x.csv", " \n\n", "holds no captions"),
    ("x.parquet", "", "holds no captions"),
    ("x.json", "[]", "holds no captions"),
    ("x.json", "{}", "holds no captions"),
    ("x.json", '{"images": [{"id": 1}], "annotations": []}', "holds no captions"),
    ("x.csv", "image_id,caption\n", "holds no captions"),
    ("x.parquet", parquet({"id": pa.array([], "string"), "text": pa.array([], "string")}), "holds"),
    # bytes
    ("x.csv", b"id,text\n1,caf\xe9\n", "line 2: not UTF-8 (byte 0xe9)"),
    ("x.json", "[]".encode("utf-16"), "line 1: not UTF-8 (byte 0xff)"),
    ("x.parquet", b"PAR1 and no more", "damaged, or no Parquet file ("),
    ("x.parquet", "id,text\n1,a\n", "damaged, or no Parquet file ("),
    ("x.bin", parquet(columns([("a", "b")]))[:-9], "damaged, or no Parquet file ("),
    # JSON
    ("x.json", '[{"image_id": 1,\n "capt', "line 2, column 2: no JSON, or cut off ("),
    ("x.json", '{"a": "b"} [', "line 1, column 12: no JSON, or cut off (Extra data)"),
    ("x.jsonl", '{"id": 1, "text": "a"}\n\n{"id": 2', "line 3, column 9: no JSON, or cut off ("),
    ("x.json", '"a dog"', "holds a str and no captions"),
    ("x.json", "null", "holds null and no captions"),
    ("x.json", "[" * 100_000, "nested too deep"),
    ("x.json", '{"a":' * 100_000, "nested too deep"),
    ("x.jsonl", '{"id": "1", "text": "a"}\n' + "[" * 100_000, "line 2: lists or objects nested"),
    ("x.json", '[{"image_id": ' + "9" * 5000 + ', "caption": "a"}]', "a number of thousands of"),
    ("x.json", '{"a": "b", "c": "d", "a": "e"}', "the key a stands twice in one object;"),
    (
        "x.json",
        '[{"image_id": 5, "caption": "a", "caption": "b"}]',
        "the key caption stands twice in one object (picture 5)",
    ),
    ("x.jsonl", '{"id": "1", "text": "a"}\n{"id": "2", "id": "3"}', "line 2: the key id stands"),
    ("x.json", '{"images": [{"id": 1}]}', 'has "images" but no "annotations"'),
    ("x.json", '{"images": [{"id": 1}], "annotations": 5}', '"annotations" is the number 5 and'),
    ("x.json", '["a dog"]', "entry 1: a str; expected an object with image_id and "),
    ("x.json", '[{"image_id": 5, "foo": 1}]', "entry 1 (picture 5): no "),
    ("x.json", '[{"image_id": [1], "foo": 1}]', "entry 1 (picture a list): no "),
    ("x.json", '{"a": {"caption": "x"}}', "entry 1 (picture a): a caption is an object and no"),
    # NaN and infinity, which Python's json accepts
    ("x.json", '[{"image_id": 1, "caption": NaN}]', "entry 1 (picture 1): a caption is NaN and no"),
    (
        "x.json",
        '{\n"NaN\\"": "NaN",\n "b": ["x"], "c": -Infinity}',
        "entry 3 (picture c): a caption is the number -inf and",
    ),
    (
        "x.json",
        '[{"image_id": "NaN", "caption": "\\"NaN",\n "score": [[NaN]]}]',
        "line 2, column 13: NaN is no JSON",
    ),
    (
        "x.jsonl",
        '{"id": "1", "text": "a"}\n{"id": "2", "text": "a", "score": Infinity}\n',
        "line 2: Infinity is no JSON",
    ),
    # ids
    ("x.json", '[{"caption": "a", "score": 1}]', "entry 1: the picture's id is missing: no image_"),
    ("x.json", '[{"image_id": null, "caption": "a"}]', "entry 1: the picture's id is missing"),
    ("x.json", '[{"image_id": NaN, "caption": "a"}]', "entry 1: the picture's id is missing"),
    ("x.json", '[{"image_id": true, "caption": "a"}]', "entry 1: the picture's id is true"),
    ("x.json", '[{"image_id": 1.5, "caption": "a"}]', "the picture's id is the number 1.5"),
    ("x.json", '[{"image_id": 1e300, "caption": "a"}]', "the picture's id is the number 1e+300"),
    ("x.json", '[{"image_id": ["a"], "caption": "a"}]', "entry 1: the picture's id is a list"),
    ("x.json", '{"": "a"}', "entry 1: the picture's id is missing"),
    ("x.csv", 'id,text\n1,"a\nb"\n ,a dog\n', "line 4: the picture's id is missing"),
    (
        "x.parquet",
        parquet({"id": [1.0, None], "text": ["a", "b"]}),
        "row 2: the picture's id is mi",
    ),
    ("x.parquet", parquet({"id": [float("nan")], "text": ["a"]}), "row 1: the picture's id is mis"),
    ("x.parquet", parquet({"id": [b"1"], "text": ["a"]}), "row 1: the picture's id is bytes"),
    # captions
    ("x.json", '{"a": "x", "b": null}', "entry 2 (picture b): the caption is missing;"),
    ("x.json", '{"a": 12}', "entry 1 (picture a): a caption is the number 12 and no text"),
    ("x.json", '{"a": ' + "1" * 400 + "}", "a caption is the number 1111"),
    ("x.json", '{"a": false}', "entry 1 (picture a): a caption is false and no text"),
    ("x.json", '{"a": [7]}', "entry 1 (picture a): a caption is the number 7 and no text"),
    ("x.json", '{"a": [["x"]]}', "entry 1 (picture a): a caption is a list and no text"),
    ("x.json", coco([("a", "x"), ("b", None)]), "annotation 2 (picture b): the caption is missing"),
    (
        "x.parquet",
        parquet({"id": ["a", "b"], "text": ["x", None]}),
        "row 2 (picture b): the",
    ),
    (
        "x.parquet",
        parquet({"id": ["a"], "text": [float("nan")]}),
        "row 1 (picture a): a caption is",
    ),
    ("x.parquet", parquet({"id": ["a"], "text": [[None]]}), "row 1 (picture a): the caption is"),
    (
        "x.parquet",
        parquet({"id": ["a"], "text": [{"b": "c"}]}),
        "row 1 (picture a): a caption is a",
    ),
    # tables
    ("x.csv", "image_id,foo\n1,a\n", "no column of captions; found image_id, foo; name one of"),
    ("x.csv", "foo;caption\n1;a\n", "no column of pictures; found foo, caption; name one of them "),
    (
        "x.csv",
        "1,a dog\n2,a cat\n",
        "no column of pictures; found 1, a dog; name one of them image",
    ),
    ("x.parquet", parquet({"a": [1], "b": [2]}), "no column of pictures; found a, b; name one of"),
    (
        "x.csv",
        ",".join(f"c{n}" for n in range(99)),
        "found c0, c1, c2, c3, c4, c5, c6, c7, c8, c9 ",
    ),
    ("x.csv", "id,text,Text\n1,a,b\n", "has 2 columns named text; keep one of them"),
    ("x.csv", "id,text\n1,a\n2,a dog, running\n", "line 3: 3 fields where the header has 2; put"),
    ("x.csv", "id,text\n1\n", "line 2: 1 fields where the header has 2; put captions"),
    ("x.csv", 'id,text\n1,a\n2,"a dog\n3,a\n', "line 3: no proper CSV ("),
    ("x.csv", 'id,text\n1,"A dog" runs\n', "line 2: no proper CSV ("),
    ("x.csv", "id,text\n1,\"['a', 'b']\"\n", "line 2 (picture 1): a list written as text"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD)
@pytest.mark.parametrize("read", [read_references, read_hypotheses])
def test_what_is_wrong_is_named(read, name, content, message, tmp_path):
    path = save(tmp_path, name, content)
    with pytest.raises(CaptionerError) as refused:
        read(path)
    shown = str(refused.value)
    assert shown.startswith(f"{path}: ") and message in shown
    assert "\n" not in shown and len(shown) < 400 + len(str(path))


@pytest.mark.parametrize("read", [read_references, read_hypotheses])
def test_files_that_cannot_be_read(read, tmp_path):
    for path, message in [
        (tmp_path / "none.json", "no such file"),
        (tmp_path, "is a folder; name the file of captions in it"),
        (tmp_path / "none" / "x", "no such file"),
        (tmp_path / ("x" * 5000), "cannot be read (File name too long)"),
        (save(tmp_path, "file", "x") / "x", "cannot be read (Not a directory)"),
        (Path("nul\0"), "cannot be read (embedded null byte)"),
    ]:
        with pytest.raises(CaptionerError) as refused:
            read(path)
        assert str(refused.value) == f"{path}: {message}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": ["x"], "b": []}', "entry 2 (picture b): has no reference caption"),
        ('[{"image_id": 1, "captions": []}]', "entry 1 (picture 1): has no reference caption"),
        ('{"a": ["x", " "]}', "entry 1 (picture a): a reference caption is empty"),
    ],
)
def test_wrong_as_references_only(content, message, tmp_path):
    with pytest.raises(CaptionerError, match=re.escape(message)):
        read_references(save(tmp_path, "x.json", content))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", '{"a": ["x", "y"]}', "entry 1 (picture a): has 2 captions; give one"),
        ("x.json", '{"a": []}', "entry 1 (picture a): has 0 captions; give one"),
        (
            "x.json",
            '[{"image_id": 1, "caption": "a"}, {"image_id": "1", "caption": "a"}]',
            "entry 2 (picture 1): the picture has a caption in entry 1 already",
        ),
        ("x.csv", "id,text\n1,a\n2,a\n1,b\n", "line 4 (picture 1): the picture has a caption in l"),
        ("x.parquet", parquet({"id": [1], "references": [["a"]]}), "no column of captions; found"),
    ],
)
def test_wrong_as_hypotheses_only(name, content, message, tmp_path):
    with pytest.raises(CaptionerError, match=re.escape(message)):
        read_hypotheses(save(tmp_path, name, content))


# Laws

texts = st.text(max_size=12)  # no surrogates: hypothesis leaves them out where UTF-8 cannot
some = texts.filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(some, st.lists(some, min_size=1, max_size=3), min_size=1, max_size=4))
def test_written_in_any_format_captions_come_back(tmp_path_factory, references):
    assume(not all(re.fullmatch(r"-?\d+\.0", image_id) for image_id in references))
    assume(not any(c.strip()[:1] == "[" for captions in references.values() for c in captions))
    folder = tmp_path_factory.getbasetemp()
    for name, form in FORMATS.items():
        found = read_references(save(folder, "law-" + name, form(flat(references))))
        assert list(found.items()) == list(references.items()), name
    assert read_references(save(folder, "law.json", json.dumps(references))) == references


damaged = [
    (name, form(flat(REFERENCES)).encode() if "parquet" not in name else form(flat(REFERENCES)))
    for name, form in FORMATS.items()
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(damaged), st.randoms(use_true_random=False))
def test_damage_is_a_message_or_goes_unseen(tmp_path_factory, file, chance: random.Random):
    name, content = file
    content = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    content = content[: chance.randint(1, len(content))] if chance.random() < 0.3 else content
    path = save(tmp_path_factory.getbasetemp(), "damaged-" + name, bytes(content))
    for read in (read_references, read_hypotheses):
        try:
            assert read(path)
        except CaptionerError as error:
            assert str(error).startswith(f"{path}: ")
