"""People's own pictures: what is joined, found, drawn, set aside, whatever it all lies in."""

import csv
import io
import json
import logging
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner import CaptionerError
from captioner.datasets import SPLITS, Picture, Rejected, table


def save_csv(path: Path, rows: list[list[str]]) -> Path:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    return path


def save_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def save_tar(path: Path, files: dict[str, bytes], packing: str = "") -> Path:
    with tarfile.open(path, f"w:{packing}") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def save_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def read(captions: Path, pictures: Path, **options) -> tuple[list[Picture], list[Rejected]]:
    """The pictures, which come split by split, and what is rejected."""
    settings = {"split_column": None, "group_column": None, "val": 0.2, "test": 0.2, "seed": 1}
    items = list(table.read(captions, pictures, **settings | options))
    found = [item for item in items if isinstance(item, Picture)]
    order = [SPLITS.index(item.split) for item in found]
    assert order == sorted(order)
    return found, [item for item in items if isinstance(item, Rejected)]


ROWS = [
    ["image", "caption", "set", "colour", "year"],
    ["c.jpg", "Ένα σκυλί e\u0301 ", "test", "red", "2017"],
    ["a.jpg", "a dog", "Training", "blue", ""],
    ["b.jpg", "a cat", "dev", "", "2017.0"],
    ["a.jpg", "a dog, running", "train", "green", "1999"],
    ["d.jpg", "狗", "restval", "red", "2017"],
]
FILES = {f"images/{name}.jpg": f"pixels of {name}".encode() for name in "abcd"}
PICTURES = [  # facts: those of the first row
    Picture(
        name, split, f"pixels of {name[0]}".encode(), captions, {"colour": colour, "year": year}
    )
    for name, split, captions, colour, year in [
        ("a.jpg", "train", ("a dog", "a dog, running"), "blue", None),
        ("d.jpg", "train", ("狗",), "red", "2017"),
        ("b.jpg", "val", ("a cat",), None, "2017.0"),
        ("c.jpg", "test", ("Ένα σκυλί e\u0301 ",), "red", "2017"),
    ]
]


def test_a_split_column_and_captions_in_several_rows(tmp_path):
    captions = save_csv(tmp_path / "x.csv", ROWS)
    pictures = save_zip(tmp_path / "x.zip", FILES)
    assert read(captions, pictures, split_column="set") == (PICTURES, [])
    # The first row of a picture wins where the others differ, and colour is a fact as a group too
    assert read(captions, pictures, split_column="set", group_column="colour") == (PICTURES, [])


def test_table_and_pictures_in_one_archive(tmp_path):
    table_bytes = save_csv(tmp_path / "x.csv", ROWS).read_bytes()
    path = save_tar(tmp_path / "x.tar.xz", {"captions.csv": table_bytes} | FILES, "xz")
    assert read(path, path, split_column="set") == (PICTURES, [])


def test_lists_of_captions(tmp_path):
    rows = {"id": ["a", "b", "c"], "captions": [["x", "y"], ["z"], [None, ""]]}
    pq.write_table(pa.table(rows), tmp_path / "x.parquet")
    objects = [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, objects)))
    for name, where in (("x.parquet", "row 3"), ("x.jsonl", "line 3")):
        found, rejected = read(tmp_path / name, save_folder(tmp_path / "pictures", FILES))
        assert {item.image_id: item.captions for item in found} == {"a": ("x", "y"), "b": ("z",)}
        assert {item.facts for item in found} == {None}
        assert rejected == [
            Rejected("c", "caption missing", where),
            Rejected("c", "caption missing", where),
            Rejected("c", "picture without captions", where),
        ]


def test_what_cannot_be_used_is_named_and_the_rest_goes_on(tmp_path):
    rows = [
        ["image", "caption", "set", "shop"],
        ["a.jpg", "good", "train", "1"],
        ["b.jpg", "", "val", "2"],
        ["b.jpg", "good", "val", "2"],
        [" ", "whose", "val", "2"],
        ["c.jpg", " ", "val", "2"],
        ["none.jpg", "x", "val", "2"],
        ["x.jpg", "x", "holdout", "2"],
        ["y.jpg", "x", "", "2"],
        ["z.jpg", "x", "val", "2"],
        ["z.jpg", "y", "test", "3"],
        ["twice.jpg", "x", "val", "2"],
        ["images/d.jpg", "x", "test", "2"],
        ["d.jpg", "y", "test", "2"],
    ]
    names = ["a", "b", "c", "d", "x", "y", "z", "f/twice", "g/twice"]
    pictures = save_zip(tmp_path / "x.zip", {f"images/{name}.jpg": name.encode() for name in names})
    captions = save_csv(tmp_path / "x.csv", rows)
    found, rejected = read(captions, pictures, split_column="set")
    assert [(item.image_id, item.split) for item in found] == [
        ("a.jpg", "train"),
        ("b.jpg", "val"),
        ("images/d.jpg", "test"),
    ]
    assert found[1].captions == ("good",)
    assert rejected == [
        Rejected("b.jpg", "caption missing", "line 3"),
        Rejected("line 5", "caption without a picture", "names none: whose"),
        Rejected("c.jpg", "caption missing", "line 6"),
        Rejected("c.jpg", "picture without captions", "line 6"),
        Rejected("none.jpg", "picture missing", "line 7: no such file"),
        Rejected("x.jpg", "split unknown", "line 8: holdout"),
        Rejected("y.jpg", "split unknown", "line 9: none"),
        Rejected("z.jpg", "split disagrees", "line 10: val, line 11: test"),
        Rejected(
            "twice.jpg",
            "picture ambiguous",
            "line 12: 2 files: images/f/twice.jpg, images/g/twice.jpg",
        ),
        Rejected("d.jpg", "picture named twice", "line 14: also as images/d.jpg"),
    ]
    _, rejected = read(captions, pictures, group_column="shop")
    assert Rejected("z.jpg", "group disagrees", "line 10: 2, line 11: 3") in rejected
    assert not any("split" in item.reason for item in rejected)


def test_a_name_of_another_folder_is_no_match(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    names = [f"train/{n}.jpg" for n in range(6)]
    captions = save_csv(tmp_path / "x.csv", [["image", "caption"], *([n, "x"] for n in names)])
    others = {f"val/{n}.jpg": str(n).encode() for n in range(6)}
    found, rejected = read(captions, save_folder(tmp_path / "val_only", others))
    assert found == []
    assert rejected == [
        Rejected(
            f"train/{n}.jpg",
            "picture missing",
            f"line {n + 2}: no such file; val/{n}.jpg is in another folder",
        )
        for n in range(6)
    ]
    right = {f"my/train/{n}.jpg": f"right {n}".encode() for n in range(6)}
    found, rejected = read(captions, save_zip(tmp_path / "both.zip", others | right))
    assert {item.image_id: item.data for item in found} == {
        f"train/{n}.jpg": f"right {n}".encode() for n in range(6)
    }
    assert rejected == [] and "matched by file name" not in caplog.text
    # Files without folders contradict none; but that the table's do not count is said.
    flat = {f"{n}.jpg": str(n).encode() for n in range(6)}
    found, rejected = read(captions, save_folder(tmp_path / "my" / "train", flat))
    assert len(found) == 6 and rejected == [] and "matched by file name" not in caplog.text
    found, rejected = read(captions, save_folder(tmp_path / "flat", flat))
    assert len(found) == 6 and rejected == []
    assert f"6 names give folders that {tmp_path / 'flat'} has not, such as train/0" in caplog.text


def test_one_file_is_not_given_to_one_of_two_folders_at_random(tmp_path):
    names = ["train/1.jpg", "val/1.jpg", "train/2.jpg"]
    captions = save_csv(tmp_path / "x.csv", [["image", "caption"], *([n, "x"] for n in names)])
    files = {f"{n}.jpg": str(n).encode() for n in (1, 2)}
    found, rejected = read(captions, save_folder(tmp_path / "flat", files))
    assert [item.image_id for item in found] == ["train/2.jpg"]
    assert rejected == [
        Rejected(
            name, "picture ambiguous", f"line {n}: 1.jpg fits several names of different folders"
        )
        for n, name in enumerate(names[:2], start=2)
    ]


def test_a_text_too_long_for_a_caption_is_rejected(tmp_path):
    rows = [["image", "caption"], ["a.jpg", "x" * 10_001], ["a.jpg", "a dog"]]
    found, rejected = read(save_csv(tmp_path / "x.csv", rows), save_zip(tmp_path / "x.zip", FILES))
    assert [item.captions for item in found] == [("a dog",)]
    detail = "line 2: 10,001 characters, at most 10,000"
    assert rejected == [Rejected("a.jpg", "caption too long", detail)]


def test_a_number_is_no_caption(tmp_path):
    (tmp_path / "x.json").write_text('[{"id": "a", "text": 7}, {"id": "a", "text": "b"}]')
    found, rejected = read(tmp_path / "x.json", save_folder(tmp_path / "pictures", FILES))
    assert [item.captions for item in found] == [("b",)]
    assert rejected == [Rejected("a", "caption is no text", "entry 1: the number 7")]


@pytest.mark.parametrize("split_column", ["set", None])
def test_a_damaged_picture_is_named_and_the_rest_goes_on(tmp_path, split_column):
    path = save_zip(tmp_path / "x.zip", FILES)
    path.write_bytes(path.read_bytes().replace(b"pixels of b", b"pixels of x", 1))
    captions = save_csv(tmp_path / "x.csv", ROWS)
    for seed in range(5):
        found, rejected = read(captions, path, split_column=split_column, seed=seed)
        assert sorted(item.image_id for item in found) == ["a.jpg", "c.jpg", "d.jpg"]
        assert [(r.image_id, r.reason) for r in rejected] == [("b.jpg", "picture unreadable")]
        assert "'images/b.jpg': damaged (Bad CRC" in rejected[0].detail
        if split_column is None:  # each of the three left in a split of its own
            assert [item.split for item in found] == list(SPLITS)


def test_a_missing_column_or_file_is_an_error(tmp_path):
    captions = save_csv(tmp_path / "x.csv", ROWS)
    pictures = save_zip(tmp_path / "x.zip", FILES)
    for options, message in [
        ({"split_column": "fold"}, r"x\.csv: no column of splits named fold; found image, caption"),
        ({"group_column": "shop"}, r"no column of groups named shop; found image, caption, set, c"),
        ({"picture_column": "Bild"}, r"no column of pictures named Bild; found image, caption"),
        ({"caption_column": "Text"}, r"no column of captions named Text; found image, caption"),
        ({"val": 0.5, "test": 0.5}, r"val 0\.5 and test 0\.5 leave nothing for train"),
    ]:
        with pytest.raises(CaptionerError, match=message):
            read(captions, pictures, **options)
    with pytest.raises(CaptionerError, match=r"none\.zip: no such file or folder"):
        read(captions, tmp_path / "none.zip")
    with pytest.raises(CaptionerError, match=r"none\.csv: no such file"):
        read(tmp_path / "none.csv", pictures)


def test_pictures_without_captions_are_counted(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    captions = save_csv(tmp_path / "x.csv", [*ROWS[:2], ["a.jpg", "", "train", "", ""]])
    read(captions, save_zip(tmp_path / "x.zip", {**FILES, "notes.txt": b""}), split_column="set")
    assert caplog.messages == ["table: 2 pictures have no caption and are left out"]
    caplog.clear()
    files = {name: FILES[name] for name in list(FILES)[:3]}
    read(captions, save_zip(tmp_path / "y.zip", files), split_column="set")
    assert caplog.messages == ["table: 1 picture has no caption and is left out"]


def test_a_column_of_splits_that_is_not_named_is_pointed_out(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    captions = save_csv(tmp_path / "x.csv", [["image", "text", "split"], ["a.jpg", "x", "test"]])
    found, _ = read(captions, save_folder(tmp_path / "pictures", {"a.jpg": b"1"}))
    assert found[0].facts == {"split": "test"} and found[0].split == "train"
    assert any("name split_column" in message for message in caplog.messages)


# Drawn splits

drawn = st.dictionaries(st.integers(0, 99), st.integers(0, 5), min_size=1, max_size=12)


@settings(max_examples=30, deadline=None)
@given(drawn, st.randoms(use_true_random=False))
def test_copies_stay_together_and_nothing_but_the_pictures_decides(
    tmp_path_factory, contents, chance
):
    """The same splits whatever the order of rows and files, the number of captions, the names."""
    folder = tmp_path_factory.mktemp("law")
    files = {f"{n:02}.jpg": f"pixels {content}".encode() for n, content in contents.items()}
    rows = [[name, "a caption"] for name in files]
    header = ["image", "caption"]
    first, rejected = read(
        save_csv(folder / "a.csv", [header, *rows]), save_zip(folder / "a.zip", files)
    )
    assert rejected == []
    splits = {item.image_id: item.split for item in first}
    assert len({(item.data, item.split) for item in first}) == len(set(files.values()))
    assert len(set(splits.values())) == min(3, len(set(files.values())))
    more = [*rows, *([name, "another"] for name in files if chance.random() < 0.5)]
    chance.shuffle(more)
    shuffled = list(files.items())
    chance.shuffle(shuffled)
    renamed = {f"deep/new-{name}": data for name, data in shuffled}
    captions = [header, *([f"new-{name}", caption] for name, caption in more)]
    second, _ = read(
        save_csv(folder / "b.csv", captions), save_tar(folder / "b.tar.gz", renamed, "gz")
    )
    assert {item.image_id.removeprefix("new-"): item.split for item in second} == splits


def test_groups_stay_together(tmp_path):
    rows = [[f"{n}.jpg", "a shoe", f"model {n % 7}" if n < 60 else ""] for n in range(70)]
    captions = save_csv(tmp_path / "x.csv", [["image", "caption", "model"], *rows])
    # All without a model are copies of one another
    files = {f"{n}.jpg": b"%d" % min(n, 60) for n in range(70)}
    pictures = save_folder(tmp_path / "pictures", files)
    found, _ = read(captions, pictures, group_column="model")
    assert len(found) == 70
    assert len({(item.facts["model"], item.split) for item in found}) == 8
    assert set(Counter(item.split for item in found)) == set(SPLITS)
    other, _ = read(captions, pictures, group_column="model", seed=2)
    assert [item.image_id for item in other] != [item.image_id for item in found]


def test_the_real_shoes(shared, tmp_path):
    """The same pictures and splits out of a zip, a folder, a tar; nothing rejected."""
    path = shared / "data" / "shoes" / "shoes.zip"
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "folder")
    with tarfile.open(tmp_path / "shoes.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(tmp_path / "folder", ".")
    results = []
    for captions, pictures in [
        (path, path),
        (tmp_path / "folder" / "captions.csv", tmp_path / "folder"),
        (tmp_path / "shoes.tar.gz", tmp_path / "shoes.tar.gz"),
    ]:
        found, rejected = read(captions, pictures, val=0.1, test=0.1)
        assert rejected == []
        results.append(sorted(found, key=lambda item: item.image_id))
    assert results[0] == results[1] == results[2]
    counts = Counter(item.split for item in results[0])
    # Copies of a picture would make them differ; there is none among these
    assert counts == {"train": 2083, "val": 260, "test": 260}
    assert results[0][0].facts.keys() == {"category", "colour", "gender", "usage"}


def test_a_data_set_of_karpathys(tmp_path):
    """As flickr8k's: the names bare, five captions each, its own splits."""
    splits = ["train"] * 6 + ["restval", "val", "test"]
    images = [
        {
            "filename": f"{n}.jpg",
            "imgid": n,
            "sentids": [2 * n, 2 * n + 1],
            "split": split,
            "sentences": [{"raw": f"caption {k} of {n}", "tokens": []} for k in range(5)],
        }
        for n, split in enumerate(splits)
    ]
    (tmp_path / "x.json").write_text(json.dumps({"images": images, "dataset": "flickr8k"}))
    files = {f"Images/{n}.jpg": b"%d" % n for n in range(9)}
    for pictures in (
        save_tar(tmp_path / "x.tgz", files, "gz"),
        save_zip(tmp_path / "x.zip", files),
        save_folder(tmp_path / "pictures", files),
    ):
        found, rejected = read(tmp_path / "x.json", pictures, split_column="split")
        assert rejected == []
        assert found == [
            Picture(
                f"{n}.jpg",
                "train" if split == "restval" else split,
                b"%d" % n,
                tuple(f"caption {k} of {n}" for k in range(5)),
                {"imgid": str(n)},
            )
            for n, split in enumerate(splits)
        ]
