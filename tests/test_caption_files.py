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
from captioner.caption_files import (
    Columns,
    Row,
    json_text,
    read_hypotheses,
    read_references,
    read_rows,
    records,
)
from captioner.caption_files import tables as table_formats
from captioner.caption_files.records import Number

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


def karpathy(images: list[dict]) -> str:
    return json.dumps({"dataset": "flickr8k", "images": images}, ensure_ascii=False)


KARPATHY = [
    {
        "filepath": "val2014",
        "filename": "b.jpg",
        "imgid": 0,
        "cocoid": 391895,
        "sentids": [0, 1],
        "split": "restval",
        "sentences": [
            {"tokens": ["a", "dog", "running"], "raw": "A dog, running", "imgid": 0, "sentid": 0},
            {"tokens": ["a", "cat"], "raw": "Ένα σκυλί 狗 e\u0301 ", "imgid": 0, "sentid": 1},
        ],
    },
    {"filename": "a.jpg", "imgid": 1, "split": "val", "sentences": [{"raw": "a cat"}]},
]


def test_karpathys_data_sets(tmp_path):
    path = save(tmp_path, "dataset.json", karpathy(KARPATHY))
    assert read_references(path) == {
        "b.jpg": ["A dog, running", "Ένα σκυλί 狗 e\u0301 "],
        "a.jpg": ["a cat"],
    }
    path = save(tmp_path, "dataset.json", karpathy([KARPATHY[0] | {"sentences": ["a dog"]}]))
    with pytest.raises(CaptionerError, match='image 1: "sentences" is no list of objects with'):
        read_references(path)
    path = save(tmp_path, "dataset.json", karpathy([KARPATHY[0] | {"sentences": [{"sentid": 1}]}]))
    with pytest.raises(CaptionerError, match=r"image 1 \(picture b\.jpg\): the caption is missing"):
        read_references(path)


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
        (Path("/dev/zero"), "is a device; name a regular file, such as a copy of what it gives"),
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


# Rows: all that a table says

NAMES = ["image", "caption", "split", "year", "price", "on sale", "Größe"]
CELLS = [
    ["b.jpg", "A dog, running", "train", 2017, 2.50, True, "日本"],
    ["a.jpg", 'a "brown" dog;\nrunning', "val", None, None, False, None],
]
CSV_CELLS = [
    [str(value).lower() if isinstance(value, bool) else value for value in row] for row in CELLS
]


def csv_file(rows: list[list], delimiter: str = ",") -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return text.getvalue()


def in_columns(names: list[str], rows: list[list]) -> dict:
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def in_objects(names: list[str], rows: list[list]) -> list[dict]:
    return [dict(zip(names, row, strict=True)) for row in rows]


def in_zip(name: str, content: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("images/a.jpg", b"\xff")
        archive.writestr(name, content)
    return data.getvalue()


TABLES = {
    "comma.csv": csv_file([NAMES, *CSV_CELLS]),
    "semicolon.csv": "\ufeff" + csv_file([NAMES, *CSV_CELLS], ";"),
    "tab.tsv": csv_file([NAMES, *CSV_CELLS], "\t"),
    "x.txt": csv_file([NAMES, *CSV_CELLS], "\t"),
    "rows.parquet": parquet(in_columns(NAMES, CELLS)),
    "list.json": json.dumps(in_objects(NAMES, CELLS)),
    "lines.jsonl": "\n".join(map(json.dumps, in_objects(NAMES, CELLS))),
    "archive.zip": in_zip("data/captions.csv", csv_file([NAMES, *CSV_CELLS])),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_table_gives_the_same_rows(name, tmp_path):
    path = save(tmp_path, name, TABLES[name])
    rows = list(read_rows(path, Columns(split="split", group="Größe")))
    places = [row.where for row in rows]
    assert places in (["line 2", "line 3"], ["row 1", "row 2"], ["entry 1", "entry 2"]) or (
        name == "lines.jsonl" and places == ["line 1", "line 2"]
    )
    extras = {"year": "2017", "price": "2.5", "on sale": "true", "Größe": "日本"}
    missing = {"year": None, "price": None, "on sale": "false", "Größe": None}
    assert rows == [
        Row(places[0], "b.jpg", ("A dog, running",), "train", "日本", extras),
        Row(places[1], "a.jpg", ('a "brown" dog;\nrunning',), "val", None, missing),
    ]


def test_a_split_that_is_not_asked_for_is_one_more_column(tmp_path):
    row = next(read_rows(save(tmp_path, "x.csv", TABLES["comma.csv"])))
    assert row.split is None and list(row.extras) == NAMES[2:]


def test_rows_of_karpathy_and_coco(tmp_path):
    path = save(tmp_path, "dataset.json", karpathy(KARPATHY))
    assert list(read_rows(path, Columns(split="split"))) == [
        Row(
            "image 1",
            "val2014/b.jpg",
            ("A dog, running", "Ένα σκυλί 狗 e\u0301 "),
            "restval",
            None,
            {"imgid": "0", "cocoid": "391895"},
        ),
        Row("image 2", "a.jpg", ("a cat",), "val", None, {"imgid": "1"}),
    ]
    images = [
        {"id": 7, "file_name": "x/a.jpg", "license": 3, "title": "no caption", "box": [1]},
        {"id": 8, "file_name": "b.jpg", "license": None, "height": 1.50},
        {"id": 9, "file_name": "nobody speaks of it.jpg"},
    ]
    annotations = [(8, "one"), (7, "two"), (8, "three"), (5, "lost")]
    annotations = [{"id": n, "image_id": i, "caption": c} for n, (i, c) in enumerate(annotations)]
    path = save(tmp_path, "x.json", json.dumps({"images": images, "annotations": annotations}))
    of_b = {"id": "8", "license": None, "height": "1.5"}
    assert list(read_rows(path)) == [
        Row("annotation 1", "b.jpg", ("one",), None, None, of_b),
        Row("annotation 2", "x/a.jpg", ("two",), None, None, {"id": "7", "license": "3"}),
        Row("annotation 3", "b.jpg", ("three",), None, None, of_b),
        Row("annotation 4", None, ("lost",), None, None, {}),
    ]
    path = save(tmp_path, "x.json", json.dumps({"annotations": annotations[:1]}))
    assert list(read_rows(path)) == [Row("annotation 1", "8", ("one",), None, None, {"id": "0"})]


def test_lists_of_captions_and_what_is_no_caption(tmp_path):
    cells = {"id": ["a", "b", "c"], "captions": [["x", "y"], [None, ""], []]}
    expected = [("a", ("x", "y")), ("b", (None, "")), ("c", ())]
    objects = [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]
    for name, content in [("x.parquet", parquet(cells)), ("x.json", json.dumps(objects))]:
        rows = read_rows(save(tmp_path, name, content))
        assert [(row.picture, row.captions) for row in rows] == expected
    odd = [7, True, None, {"a": "b"}, [["x"]]]
    path = save(tmp_path, "x.json", json.dumps([{"id": "a", "text": value} for value in odd]))
    found = [row.captions for row in read_rows(path)]
    assert found == [(Number("7"),), (True,), (None,), ({"a": "b"},), (["x"],)]
    row = next(read_rows(save(tmp_path, "x.parquet", parquet({"id": ["a"], "text": [7]}))))
    assert row.captions == (Number("7"),)


def test_names_of_pictures_that_are_numbers(tmp_path):
    for name, content in [
        ("x.csv", "id,text\n391895.0,a\n,b\n7.0,c\n"),
        ("x.parquet", parquet({"id": [391895.0, None, 7.0], "text": ["a", "b", "c"]})),
        ("x.json", '[{"id": 391895, "text": "a"}, {"text": "b"}, {"id": 7.0, "text": "c"}]'),
    ]:
        rows = read_rows(save(tmp_path, name, content))
        assert [row.picture for row in rows] == ["391895", None, "7"]


def test_numbers_beside_the_captions_are_as_in_the_file(tmp_path):
    text = '{"id": 1, "text": "a", "x": 2017, "y": 1.50, "z": 1e3, "w": -0.0, "v": 2017.0}'
    row = next(read_rows(save(tmp_path, "x.jsonl", text)))
    assert row.extras == {"x": "2017", "y": "1.50", "z": "1e3", "w": "-0.0", "v": "2017.0"}
    columns = {
        "id": ["a"],
        "text": ["a"],
        "float": pa.array([0.1], pa.float32()),
        "gap": pa.array([float("nan")]),
        "long": [2**60 + 1],
        "class": pa.array(["boot"]).dictionary_encode(),
        "bytes": [b"\xff"],
        "struct": [{"bytes": b"\xff"}],
        "list": [[1]],
        "words": [["a", "b"]],
    }
    row = next(read_rows(save(tmp_path, "x.parquet", parquet(columns))))
    assert row.extras == {"float": "0.1", "gap": None, "long": str(2**60 + 1), "class": "boot"}


def test_columns_are_named_or_found(tmp_path):
    path = save(tmp_path, "x.csv", ",Bild , Text,text\n0,a.jpg,ein Hund,a dog\n")
    columns = Columns(picture="Bild", caption="Text")
    assert list(read_rows(path, columns)) == [
        Row("line 2", "a.jpg", ("ein Hund",), None, None, {"text": "a dog"})
    ]
    for columns, message in [
        (Columns(), "no column of pictures named image_id or image or "),
        (Columns("Bild"), "has several columns named text; say which one is meant"),
        (Columns("bild"), "no column of pictures named bild; found , Bild, Text, text"),
        (Columns("Bild", "Titel"), "no column of captions named Titel; found , Bild, Text, text"),
        (Columns("Bild", "Text", "auto"), "no column of splits named auto; found"),
        (Columns("Bild", "Text", group="shop"), "no column of groups named shop; found"),
    ]:
        with pytest.raises(CaptionerError, match=re.escape(f"{path}: {message}")):
            list(read_rows(path, columns))
    for name, content in [
        ("x.parquet", parquet({"id": [1], "text": ["a"]})),
        ("x.jsonl", '{"id": 1, "text": "a"}\n{"text": "b", "id": 2}\n'),
        ("x.json", coco([("a", "x")])),
    ]:
        path = save(tmp_path, name, content)
        with pytest.raises(
            CaptionerError, match=r"no column of groups named shop; found (file|id)"
        ):
            list(read_rows(path, Columns(group="shop")))


def test_a_column_may_be_missing_in_some_objects(tmp_path):
    path = save(tmp_path, "x.jsonl", '{"id": 1, "text": "a"}\n{"id": 2, "text": "b", "set": "val"}')
    rows = list(read_rows(path, Columns(split="set")))
    assert [row.split for row in rows] == [None, "val"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"id,text\n1,caf\xe9\n", "line 2: not UTF-8 (byte 0xe9)"),
        ("x.csv", "", "holds no captions"),
        ("x.csv", "id,text\n", "holds no captions"),
        ("x.json", "[]", "holds no captions"),
        ("x.json", "{}", "holds no captions"),
        ("x.parquet", parquet({"id": pa.array([], "string"), "text": []}), "holds no captions"),
        ("x.parquet", b"PAR1 and no more", "damaged, or no Parquet file ("),
        ("x.csv", "id,text\n1,a\n2,a dog, running\n", "line 3: 3 fields where the header has 2"),
        ("x.csv", 'id,text\n1,"a', "line 2: no proper CSV ("),
        ("x.csv", "id,text\n1,\"['a', 'b']\"\n", "line 2 (picture 1): a list written as text"),
        ("x.csv", "id,text,a,a\n1,b,c,d\n", "has 2 columns named a; keep one of them"),
        ("x.csv", 'id,text,"a\nb"\n1,b,c\n', "control character in the column name 'a\\nb'"),
        (
            "x.csv",
            "id,text,a\x1b[31m\n1,b,c\n",
            "control character in the column name 'a\\x1b[31m'",
        ),
        ("x.json", '[{"id": 1, "text": "a", "b\\u0000": 1}]', "control character in the column"),
        ("x.json", '[{"id": 1, "text": "a", "score": NaN}]', "line 1, column 34: NaN is no JSON"),
        ("x.json", '[{"id": 1, "id": 2}]', "the key id stands twice"),
        ("x.json", '["a.jpg"]', "entry 1: a str; expected an object with a caption"),
        ("x.json", '"a.jpg"', "entry 1: a str; expected an object with a caption"),
        ("x.json", "[{", "line 1, column 3: no JSON, or cut off ("),
        ("x.jsonl", '{"id": 1, "text": "a"}\n[1]', "line 2: a list; expected an object"),
        ("x.json", '[{"id": 1, "text": "\\ud83d"}]', "entry 1: half a character (\\ud83d)"),
        (
            "x.json",
            '{"images": [{"id": 1}, {"id": 1}], "annotations": []}',
            "image 2: the id 1 stan",
        ),
        ("x.json", '{"images": [{"id": 1}]}', 'has "images" but no "annotations"'),
        ("x.json", '{"images": 5, "annotations": [{}]}', '"images" is the number 5 and no list'),
        ("x.json", '{"images": [5], "annotations": [{}]}', "image 1: the number 5 and no object"),
        ("x.json", '{"images": [{"id": 1}], "annotations": [5]}', "annotation 1: the number 5 and"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(name, content, message, tmp_path):
    path = save(tmp_path, name, content)
    with pytest.raises(CaptionerError) as refused:
        list(read_rows(path))
    assert str(refused.value).startswith(f"{path}: {message}")
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400 + len(str(path))


def test_whole_characters_written_in_halves_are_fine(tmp_path):
    path = save(tmp_path, "x.json", json.dumps([{"id": "🐕", "text": "🐕 a"}]))
    assert [(row.picture, row.captions) for row in read_rows(path)] == [("🐕", ("🐕 a",))]


def test_an_archive_with_one_table(tmp_path):
    path = save(tmp_path, "x.zip", in_zip("captions.csv", "id,text\n1\n"))
    with pytest.raises(CaptionerError, match=r"x\.zip: captions\.csv: line 2: 1 fields"):
        list(read_rows(path))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("b/rows.JSON", "[]")
    with pytest.raises(CaptionerError, match=r"x\.zip: holds 2 tables \(captions\.csv, b/rows\.J"):
        list(read_rows(path))
    path = save(tmp_path, "y.zip", in_zip("readme.md", "hello"))
    with pytest.raises(CaptionerError, match=r"y\.zip: holds 0 tables \(nothing\) and should hold"):
        list(read_rows(path))
    for path, message in [(tmp_path / "none.csv", "no such file"), (tmp_path, "is a folder; name")]:
        with pytest.raises(CaptionerError, match=re.escape(f"{path}: {message}")):
            list(read_rows(path))


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


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(some, some, texts), min_size=1, max_size=4))
def test_rows_come_back_to_the_letter(tmp_path_factory, rows):
    assume(not all(re.fullmatch(r"-?\d+\.0", name) for name, _, _ in rows))
    assume(not any(caption.strip()[:1] == "[" for _, caption, _ in rows))
    folder = tmp_path_factory.getbasetemp()
    names = ["image", "caption", "extra"]
    for name, content in {
        "law.csv": csv_file([names, *rows]),
        "law.tsv": csv_file([names, *rows], "\t"),
        "law.parquet": parquet(in_columns(names, rows)),
        "law.json": json.dumps(in_objects(names, rows)),
        "law.jsonl": "\n".join(json.dumps(o, ensure_ascii=False) for o in in_objects(names, rows)),
    }.items():
        found = [
            (row.picture, *row.captions, row.extras["extra"] or "")
            for row in read_rows(save(folder, name, content))
        ]
        assert found == rows, name


tables = [
    (name, content.encode() if isinstance(content, str) else content)
    for name, content in {
        **TABLES,
        "karpathy.json": karpathy(KARPATHY),
        "coco.json": coco([("a", "x")]),
    }.items()
]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(tables), st.randoms(use_true_random=False))
def test_damage_of_a_table_is_a_message_or_goes_unseen(tmp_path_factory, file, chance):
    name, content = file
    content = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    content = content[: chance.randint(1, len(content))] if chance.random() < 0.3 else content
    path = save(tmp_path_factory.getbasetemp(), "damaged-" + name, bytes(content))
    try:
        for row in read_rows(path, Columns(group=chance.choice([None, "split"]))):
            assert all(isinstance(cell, str | None) for cell in row.extras.values())
            repr(row).encode()
    except CaptionerError as error:
        assert str(error).startswith(f"{path}: ")


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([".csv", ".json", ".jsonl", ".parquet", ""]), st.binary(max_size=60))
def test_any_bytes_are_a_table_or_a_message(tmp_path_factory, suffix, content):
    path = save(tmp_path_factory.getbasetemp(), "any" + suffix, content)
    try:
        assert list(read_rows(path))
    except CaptionerError as error:
        assert str(error).startswith(f"{path}: ")


@pytest.mark.parametrize("read", [read_references, read_hypotheses, lambda p: list(read_rows(p))])
def test_a_lone_quote_that_swallows_rows_is_named(read, tmp_path):
    for text, where in [
        ('image,caption\n1.jpg,"a dog\n2.jpg,a cat\n3.jpg,a 5"\n4.jpg,b\n', "line 2: .* line 4"),
        ('caption;image\na dog;1.jpg\n"a cat;2.jpg\na 5"";3.jpg\nb";4.jpg\n', "line 3: .* line 5"),
        ('id\tcaption\n1\t"a dog\n2\ta 5"\n3\ta cat\n', "line 2: .* line 3"),
        ('id,text\nmy 1.JPG,"a\nmy 2.jpg,b\nmy 3.jpg,c"\n', "line 2: .* line 4"),
        ('id,text\ndog,"a dog runs\ncat,two cats\nbus,a 5"\nsea,waves\n', "line 2: .* line 4"),
        ('image,x,caption\na1,"1\nb2,2,a dog\nc3,2",b\n', "line 2: .* line 4"),
    ]:
        path = save(tmp_path, "x.csv", text)
        with pytest.raises(CaptionerError, match=where + ", over lines that look like rows"):
            read(path)


def test_captions_of_several_lines_are_captions(tmp_path):
    text = 'image,caption\n1.jpg,"a dog,\nrunning, fast\n2 cats, 3 birds"\n2.jpg,"a ""cat"""\n'
    assert read_hypotheses(save(tmp_path, "w.csv", 'id,text\ndog,"it runs\nfast, far"\n'))
    expected = {"1.jpg": "a dog,\nrunning, fast\n2 cats, 3 birds", "2.jpg": 'a "cat"'}
    assert read_hypotheses(save(tmp_path, "x.csv", text)) == expected


def test_a_long_cell_that_is_no_caption_does_not_matter(tmp_path):
    text = f"image,caption,embedding\n1.jpg,a dog,{'0.5 ' * 50_000}\n"
    path = save(tmp_path, "x.csv", text)
    assert read_hypotheses(path) == {"1.jpg": "a dog"}
    assert [row.captions for row in read_rows(path)] == [("a dog",)]


def test_a_text_that_is_no_caption_for_its_length_is_refused(tmp_path):
    path = save(tmp_path, "x.json", json.dumps({"1": "a " * 4999, "2": "a " * 200_000}))
    for read in (read_references, read_hypotheses):
        with pytest.raises(CaptionerError, match=r"picture 2\): a caption of 400,000 characters"):
            read(path)


def test_more_rows_than_any_data_set_has_are_not_read(tmp_path, monkeypatch):
    """The number in a Parquet file's metadata is asked for first: 60 million rows are 348 kB."""
    monkeypatch.setattr(records, "MAX_ROWS", 3)
    monkeypatch.setattr(json_text, "MAX_VALUES", 9)
    four = {"image_id": list("abcd"), "caption": ["x"] * 4}
    files = [
        save(tmp_path, "x.parquet", parquet(four)),
        save(tmp_path, "x.csv", "id,caption\n" + "1,x\n" * 4),
        save(tmp_path, "x.json", json.dumps([{"id": n, "caption": "x"} for n in range(9)])),
    ]
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", None)
    for path in files:
        for read in (read_references, read_hypotheses, lambda path: list(read_rows(path))):
            with pytest.raises(CaptionerError, match="holds more than"):
                read(path)
    monkeypatch.setattr(table_formats, "MAX_COLUMNS", 2)
    wide = {"id": ["a"], "caption": ["x"], "c": [1]}
    for name, data in (("w.parquet", parquet(wide)), ("w.csv", "id,caption,c\n1,x,2\n")):
        with pytest.raises(CaptionerError, match="has 3 columns, at most 2; leave some out"):
            read_references(save(tmp_path, name, data))
    tokens = save(tmp_path, "x.txt", "a#0\tx\n" * 4)
    with pytest.raises(CaptionerError, match="holds more than 3 rows"):
        read_references(tokens)


@pytest.mark.parametrize(("name", "limit"), [("MAX_CELL", 99), ("MAX_TEXT", 150)])
def test_a_text_that_a_parquet_file_repeats_takes_no_memory_for_each_row(
    name, limit, tmp_path, monkeypatch
):
    monkeypatch.setattr(table_formats, name, limit)
    for values in (["y" * 100] * 2, [["x", "y" * 100]] * 2):
        path = save(tmp_path, "x.parquet", parquet({"id": ["a", "b"], "captions": values}))
        for read in (read_references, lambda path: list(read_rows(path))):
            with pytest.raises(CaptionerError, match="rows 1 to 2, column captions: "):
                read(path)


@pytest.mark.parametrize("content", [b"a" * (2**20 + 1), b'image,caption\n1.jpg,"' + b"a" * 2**21])
def test_a_cell_of_more_than_a_mebibyte_is_no_csv(tmp_path, content):
    """The reader of CSV takes eight times as much memory as a cell has characters."""
    path = tmp_path / "captions.csv"
    path.write_bytes(content)
    with pytest.raises(
        CaptionerError, match=r"captions\.csv: .*no proper CSV \(field larger"
    ) as caught:
        list(read_rows(path))
    assert len(str(caught.value)) < 400
