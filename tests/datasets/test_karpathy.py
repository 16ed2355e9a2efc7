"""Flickr30k and COCO as published, tiny: written here, fetched from a server, read back."""

import io
import itertools
import json
import logging
import os
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from captioner import CaptionerError, transfer
from captioner.datasets import Picture, Rejected, karpathy, published
from captioner.fetch import fetch_all


def image(name: str, split: str, *captions: str, **more: object) -> dict:
    """An entry with all keys of the published file."""
    number = int("".join(filter(str.isdigit, name)) or 0)
    sentences = [
        {
            "tokens": text.lower().strip(" .").split(),
            "raw": text,
            "imgid": number,
            "sentid": 5 * number + place,
        }
        for place, text in enumerate(captions)
    ]
    return {
        "sentids": [sentence["sentid"] for sentence in sentences],
        "imgid": number,
        "sentences": sentences,
        "split": split,
        "filename": name,
    } | more


FLICKR = [
    image("1000092795.jpg", "train", "Two young guys .", "Two men are outside ."),
    image("10002456.jpg", "test", "Several men in hard hats ."),
    image("1000268201.jpg", "train", "A child in a pink dress .", "A girl .", *["One more ."] * 5),
    image("1000344755.jpg", "val", "Someone in a blue shirt ."),
]


def coco_image(number: int, folder: str, split: str, *captions: str) -> dict:
    name = f"COCO_{folder}_{number:012d}.jpg"
    return image(name, split, *captions, filepath=folder, cocoid=number)


COCO = [
    coco_image(391895, "val2014", "test", "A man with a red helmet."),
    coco_image(57870, "train2014", "train", "A restaurant has modern\nwooden tables. "),
    coco_image(522418, "val2014", "restval", "A woman cutting a cake."),
    coco_image(184613, "val2014", "val", "A child holding an umbrella.", "A young boy."),
    coco_image(318219, "train2014", "train", "A kid wearing headphones."),
]


def pixels(name: str) -> bytes:
    return f"pixels of {name} ".encode() * 1000


def write_zip(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def write_json(raw: Path, base_name: str, images: object, *, plain: bool = False) -> None:
    text = json.dumps({"images": images, "dataset": "any"}).encode()
    if plain:
        (raw / base_name).write_bytes(text)
    else:
        others = {"dataset_flickr8k.json": b"{}"}
        write_zip(raw / "caption_datasets.zip", others | {base_name: text})


def write_flickr30k(
    raw: Path,
    *,
    images: object = FLICKR,
    packing: str = "flickr30k-images.tar.gz",
    missing: str | None = None,
    plain: bool = False,
) -> Path:
    """The archives as they are given out; `missing` is a picture that is not in its archive."""
    raw.mkdir(parents=True, exist_ok=True)
    members = {
        f"flickr30k-images/{entry['filename']}": pixels(entry["filename"])
        for entry in reversed(FLICKR)
        if entry["filename"] != missing
    }
    members |= {"flickr30k-images/readme.txt": b"hello", "flickr30k-images/._1.jpg": b"fork"}
    write = write_zip if packing.endswith(".zip") else write_tar
    write(raw / packing, members)
    write_json(raw, "dataset_flickr30k.json", images, plain=plain)
    return raw


def write_coco(raw: Path, *, images: object = COCO, plain: bool = False) -> Path:
    raw.mkdir(parents=True, exist_ok=True)
    for folder in ("train2014", "val2014"):
        names = [entry["filename"] for entry in COCO if entry["filepath"] == folder]
        write_zip(raw / f"{folder}.zip", {f"{folder}/{name}": pixels(name) for name in names})
    write_json(raw, "dataset_coco.json", images, plain=plain)
    return raw


def parted(items: Iterator[Picture | Rejected]) -> tuple[list[Picture], list[Rejected]]:
    items = list(items)
    pictures = [item for item in items if isinstance(item, Picture)]
    return pictures, [item for item in items if isinstance(item, Rejected)]


def names(pictures: list[Picture]) -> list[tuple[str, str]]:
    return [(picture.image_id, picture.split) for picture in pictures]


IN_THE_FILE_S_ORDER = [
    ("1000092795.jpg", "train"),
    ("1000268201.jpg", "train"),
    ("1000344755.jpg", "val"),
    ("10002456.jpg", "test"),
]
IN_THE_ARCHIVE_S_ORDER = [IN_THE_FILE_S_ORDER[place] for place in (1, 0, 2, 3)]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    ("packing", "order"),
    [
        ("flickr30k-images.tar.gz", IN_THE_ARCHIVE_S_ORDER),
        ("flickr30k-images.tar", IN_THE_FILE_S_ORDER),
        ("flickr30k-images.zip", IN_THE_FILE_S_ORDER),
    ],
)
def test_flickr30k_in_each_packing(tmp_path, packing, order, plain):
    raw = write_flickr30k(tmp_path, packing=packing, plain=plain)
    pictures, rejected = parted(karpathy.read_flickr30k(raw, "karpathy"))
    assert rejected == []
    assert names(pictures) == order
    found = {picture.image_id: picture for picture in pictures}
    assert found["1000092795.jpg"] == Picture(
        "1000092795.jpg",
        "train",
        pixels("1000092795.jpg"),
        ("Two young guys .", "Two men are outside ."),
    )
    assert len(found["1000268201.jpg"].captions) == 7


def token_lines(*numbers: int) -> bytes:
    every = [*(entry["filename"] for entry in FLICKR), "36979.jpg"]  # in no split
    return "".join(f"{n}#{i}\ttoken {i} of {n} .\n" for n in every for i in numbers).encode()


@pytest.mark.parametrize("packed", [True, False])
def test_flickr30k_with_the_captions_of_the_token_file(tmp_path, packed, caplog):
    caplog.set_level(logging.INFO)
    raw = write_flickr30k(tmp_path)
    tokens = token_lines(2, 0, 1)
    if packed:
        members = {"readme.txt": b"hello", "results_20130124.token": tokens}
        write_tar(raw / "flickr30k.tar.gz", members)
    else:
        (raw / "results_20130124.token").write_bytes(tokens)
    pictures, rejected = parted(karpathy.read_flickr30k(raw, "tokens"))
    assert rejected == []
    assert names(pictures) == IN_THE_ARCHIVE_S_ORDER
    assert pictures[3].captions == tuple(f"token {i} of 10002456.jpg ." for i in range(3))
    assert "1 captioned pictures are in no split" in caplog.text


def test_bad_lines_of_the_token_file_are_rejected(tmp_path):
    raw = write_flickr30k(tmp_path)
    lines = token_lines(0).replace(b"10002456.jpg#0\ttoken 0 of 10002456.jpg", b"10002456.jpg#0\t!")
    (raw / "results_20130124.token").write_bytes(
        b"no tab\n" + lines + b"1000092795.jpg#0\tagain\n1000344755.jpg#1\tcaf\xe9\n"
    )
    pictures, rejected = parted(karpathy.read_flickr30k(raw, "tokens"))
    assert [picture.split for picture in pictures] == ["train", "train", "val"]
    assert [(item.image_id, item.reason) for item in rejected] == [
        ("results_20130124.token:1", "caption malformed"),
        ("1000092795.jpg", "caption repeated"),
        ("results_20130124.token:8", "caption malformed"),
        ("10002456.jpg", "caption without words"),
        ("10002456.jpg", "picture without captions"),
    ]


def test_the_token_file_is_missing(tmp_path):
    message = r"has no flickr30k\.tar\.gz or results_20130124\.token; run the stage download"
    with pytest.raises(CaptionerError, match=message):
        list(karpathy.read_flickr30k(write_flickr30k(tmp_path), "tokens"))


@pytest.mark.parametrize("plain", [False, True])
def test_coco_restval_is_trained_on(tmp_path, plain):
    pictures, rejected = parted(karpathy.read_coco(write_coco(tmp_path, plain=plain)))
    assert rejected == []
    assert names(pictures) == [
        ("COCO_train2014_000000057870.jpg", "train"),
        ("COCO_train2014_000000318219.jpg", "train"),
        ("COCO_val2014_000000522418.jpg", "train"),
        ("COCO_val2014_000000184613.jpg", "val"),
        ("COCO_val2014_000000391895.jpg", "test"),
    ]
    assert pictures[0].captions == ("A restaurant has modern wooden tables.",)
    assert pictures[3].captions == ("A child holding an umbrella.", "A young boy.")
    assert [picture.data for picture in pictures] == [pixels(p.image_id) for p in pictures]


def test_what_is_wrong_is_rejected_and_the_rest_goes_on(tmp_path):
    images = [
        *FLICKR,
        image("1000092795.jpg", "test", "Once more ."),
        image("999.jpg", "val", "Nobody has this one ."),
        image("1000344755.jpg.1", "val"),
    ]
    images[1] = image("10002456.jpg", "test", " .", "", "Men .", "!?")
    images[3] = image("1000344755.jpg", "val", "...")
    raw = write_flickr30k(tmp_path, images=images)
    write_zip(raw / "flickr30k-images.zip", {})  # looked for after the packed tar
    pictures, rejected = parted(karpathy.read_flickr30k(raw))
    assert names(pictures) == [IN_THE_ARCHIVE_S_ORDER[place] for place in (0, 1, 3)]
    assert pictures[2].captions == ("Men .",)
    source = "dataset_flickr30k.json"
    missing = f"named in {source}, not in flickr30k-images.tar.gz"
    assert rejected == [
        Rejected("10002456.jpg", "caption without words", f"'.' in {source}"),
        Rejected("10002456.jpg", "caption without words", f"'' in {source}"),
        Rejected("10002456.jpg", "caption without words", f"'!?' in {source}"),
        Rejected("1000344755.jpg", "caption without words", f"'...' in {source}"),
        Rejected("1000344755.jpg", "picture without captions", f"named in {source}"),
        Rejected("1000092795.jpg", "picture repeated", "already in train"),
        Rejected("999.jpg", "picture missing", missing),
        Rejected("1000344755.jpg.1", "picture missing", missing),
    ]


def test_a_picture_damaged_in_the_archive(tmp_path):
    raw = write_coco(tmp_path)
    archive = raw / "train2014.zip"
    name = COCO[1]["filename"]
    archive.write_bytes(archive.read_bytes().replace(pixels(name), b"#" * len(pixels(name))))
    pictures, rejected = parted(karpathy.read_coco(raw))
    assert [picture.image_id for picture in pictures if picture.split == "train"] == [
        COCO[4]["filename"],
        COCO[2]["filename"],
    ]
    assert [(item.image_id, item.reason) for item in rejected] == [
        (name, "picture damaged in the archive")
    ]
    assert "Bad CRC" in rejected[0].detail


def test_pictures_are_read_one_by_one(tmp_path, monkeypatch):
    read = []
    original = karpathy.Container.read_all

    def noted(self, names, damaged=None):
        for name, data in original(self, names, damaged):
            read.append(name)
            yield name, data

    monkeypatch.setattr(karpathy.Container, "read_all", noted)
    stream = karpathy.read_coco(write_coco(tmp_path))
    assert [item.image_id for item in itertools.islice(stream, 1)] == [COCO[1]["filename"]]
    stream.close()
    assert read == [f"train2014/{COCO[1]['filename']}"]


def changed(place: int, **values: object) -> list:
    images = json.loads(json.dumps(COCO))
    images[place] |= values
    return [{k: v for k, v in entry.items() if v is not ...} for entry in images]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (None, r"dataset_coco\.json: images: null; expected a list"),
        ({"0": COCO[0]}, "images: an object; expected a list"),
        ([*COCO, 7], r"images\[5\]: the number 7; expected an object"),
        (changed(2, filename=5), r"images\[2\]\.filename: the number 5; expected a text"),
        (changed(2, filename="\ud800.jpg"), r"images\[2\]\.filename: '\\ud800\.jpg' is no proper"),
        (changed(1, split="dev"), r"images\[1\]\.split: 'dev'; expected one of train, restval"),
        (changed(1, split=["val"]), r"images\[1\]\.split: a list; expected a text"),
        (changed(0, filepath="test2014"), r"\.filepath: 'test2014'; expected one of train2014, v"),
        (changed(0, filepath="../val2014"), r"images\[0\]\.filepath: '\.\./val2014'; expected"),
        (changed(3, sentences={"raw": "x"}), r"images\[3\]\.sentences: an object; expected a list"),
        (changed(3, sentences=["x"]), r"images\[3\]\.sentences\[0\]: a str; expected an object"),
        (changed(3, sentences=[{"raw": "A dog ."}, {"tokens": []}]), r"sentences\[1\]\.raw: null;"),
        (changed(3, sentences=[{"raw": ["A"]}]), r"sentences\[0\]\.raw: a list; expected a text"),
        (changed(3, sentences=[{"raw": "\udfff"}]), r"sentences\[0\]\.raw: .* is no proper text"),
    ],
)
def test_the_entry_that_is_wrong_is_named(tmp_path, images, message):
    with pytest.raises(CaptionerError, match=message) as caught:
        list(karpathy.read_coco(write_coco(tmp_path, images=images)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [b"", b"<html>", b'{"images": [', b"[" * 100_000, b"\xff\xfe\x00", b'{"a": ' + b"9" * 9999],
)
def test_what_is_no_json(tmp_path, text):
    raw = write_coco(tmp_path)
    write_zip(raw / "caption_datasets.zip", {"dataset_coco.json": text})
    with pytest.raises(CaptionerError, match=r"dataset_coco\.json: no JSON .*; fetch it again"):
        list(karpathy.read_coco(raw))


def test_json_that_is_no_object(tmp_path):
    raw = write_coco(tmp_path)
    write_zip(raw / "caption_datasets.zip", {"dataset_coco.json": b"[]"})
    with pytest.raises(CaptionerError, match=r"dataset_coco\.json: a list; expected an object"):
        list(karpathy.read_coco(raw))


def test_other_keys_do_not_matter(tmp_path):
    images = changed(0, cocoid=..., imgid=..., sentids=..., licence={"id": [1]}, tokens="?")
    assert names(parted(karpathy.read_coco(write_coco(tmp_path, images=images)))[0]) == names(
        parted(karpathy.read_coco(write_coco(tmp_path)))[0]
    )


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(
        CaptionerError, match=r"no caption_datasets\.zip or dataset_flickr30k\.json"
    ):
        list(karpathy.read_flickr30k(tmp_path))
    write_json(tmp_path, "dataset_flickr30k.json", FLICKR)
    packings = r"flickr30k-images\.tar\.gz or flickr30k-images\.tar or flickr30k-images\.zip"
    with pytest.raises(CaptionerError, match=packings):
        list(karpathy.read_flickr30k(tmp_path))
    with pytest.raises(CaptionerError, match=r"caption_datasets\.zip: has no dataset_coco\.json"):
        list(karpathy.read_coco(tmp_path))
    write_json(tmp_path, "dataset_coco.json", COCO)
    with pytest.raises(CaptionerError, match=r"has no train2014\.zip; run the stage download"):
        list(karpathy.read_coco(tmp_path))


class Publisher(BaseHTTPRequestHandler):
    """Serves a folder and breaks each file's first answer off in the middle."""

    def do_GET(self) -> None:
        path = self.server.folder / self.path.rsplit("/", 1)[-1]
        if not path.exists():
            return self.send_error(404)
        data = path.read_bytes()
        asked = self.headers.get("Range") if self.server.ranges else None
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        stop = len(data) if path.name in self.server.asked else len(data) // 2
        self.server.asked.append(path.name)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.server.sent += max(stop - start, 0)
        self.wfile.write(data[start:stop])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def publish(tmp_path, monkeypatch) -> Iterator[Callable]:
    """Publish the files of a folder; what `publish` returns counts the bytes sent."""
    for name in os.environ:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("CAPTIONER_MIRROR", raising=False)
    monkeypatch.setattr(transfer, "RETRY_SECONDS", 0.0)
    with ThreadingHTTPServer(("127.0.0.1", 0), Publisher) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()

        def start(folder: Path, ranges: bool) -> ThreadingHTTPServer:
            server.folder, server.ranges, server.asked, server.sent = folder, ranges, [], 0
            return server

        yield start
        server.shutdown()
        thread.join(5)


def at(server: ThreadingHTTPServer, files: tuple) -> list:
    url = f"http://127.0.0.1:{server.server_port}/"
    return [replace(file, urls=(url + file.name,)) for file in files]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("dataset", ["flickr30k", "coco"])
def test_fetched_and_read(tmp_path, publish, dataset, ranges):
    if dataset == "coco":
        folder, read, files = (
            write_coco(tmp_path / "all"),
            karpathy.read_coco,
            published.FILES["coco"],
        )
    else:
        folder, files = write_flickr30k(tmp_path / "all"), published.FILES["flickr30k"]
        read = karpathy.read_flickr30k
    raw = tmp_path / "data" / "raw"
    server = publish(folder, ranges)
    paths = fetch_all(at(server, files), raw)
    assert [path.name for path in paths] == [file.name for file in files]
    assert len(server.asked) == 2 * len(files)
    sizes = [(folder / file.name).stat().st_size for file in files]
    assert server.sent == sum(sizes) + (0 if ranges else sum(size // 2 for size in sizes))
    pictures, rejected = parted(read(raw))
    assert (len(pictures), rejected) == (4 if dataset == "flickr30k" else 5, [])
    assert pictures == parted(read(folder))[0]


def test_by_hand_where_there_is_no_address(tmp_path, publish):
    server = publish(write_coco(tmp_path / "all"), True)
    files = [published.FILES["flickr30k"][0], *at(server, [published.FLICKR30K_TOKENS_FILE])]
    with pytest.raises(CaptionerError) as caught:
        fetch_all(files, tmp_path / "raw")
    message = str(caught.value)
    assert "flickr30k-images.tar.gz (no url known)" in message
    assert "flickr30k.tar.gz (http://127.0.0.1:" in message
    assert (
        "By hand: put flickr30k-images.tar.gz (or flickr30k-images.tar, flickr30k-images.zip; ask "
        "for it at https://shannon.cs.illinois.edu/DenotationGraph/), flickr30k.tar.gz (or "
        "results_20130124.token; ask for it at https://shannon.cs.illinois.edu/DenotationGraph/) "
        "into any folder and run again with CAPTIONER_MIRROR=FOLDER" in message
    )


def test_from_a_folder_of_files_under_other_names(tmp_path, publish, monkeypatch):
    publish(tmp_path, True)
    mirror = write_flickr30k(tmp_path / "mirror", packing="flickr30k-images.zip", plain=True)
    (mirror / "results_20130124.token").write_bytes(token_lines(0))
    monkeypatch.setenv("CAPTIONER_MIRROR", str(mirror))
    raw = tmp_path / "raw"
    fetch_all([*published.FILES["flickr30k"], published.FLICKR30K_TOKENS_FILE], raw)
    assert sorted(path.name for path in raw.iterdir()) == [
        "dataset_flickr30k.json",
        "flickr30k-images.zip",
        "results_20130124.token",
    ]
    pictures, rejected = parted(karpathy.read_flickr30k(raw, "tokens"))
    assert (names(pictures), rejected) == (IN_THE_FILE_S_ORDER, [])
