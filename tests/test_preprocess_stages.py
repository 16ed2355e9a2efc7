"""The stages download and preprocess on a few drawn scenes, one after the other."""

import json
import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import yaml
from PIL import Image

from captioner import CaptionerError
from stages import download, preprocess

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def params(tmp_path, monkeypatch) -> dict:
    """The project's params with 6 + 2 + 2 scenes, in the working directory of the test."""
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    values["dataset"] = "scenes"
    values["datasets"]["scenes"]["download"] |= {"train": 6, "val": 2, "test": 2}
    write(values)
    return values


def write(values: dict) -> None:
    Path("params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")


def test_scenes_from_the_drawing_program_to_the_shards(params):
    download.main()
    archive = Path("data/raw/scenes.zip")
    assert json.loads(Path("reports/download/metrics.json").read_text()) == {
        "files": 1,
        "bytes": archive.stat().st_size,
    }
    preprocess.main()
    first = {path: path.read_bytes() for path in Path().glob("[dr]*/**/*") if path.is_file()}
    pictures = pd.read_parquet("data/images")
    assert pictures["split"].tolist() == ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    assert set(pictures["width"]) == {params["datasets"]["scenes"]["preprocess"]["side"]}
    assert json.loads(pictures["facts"][0])
    captions = pd.read_parquet("data/captions.parquet")
    assert captions["picture"].nunique() == 10
    metrics = json.loads(Path("reports/preprocess/metrics.json").read_text())
    assert metrics.pop("leaked_captions_test") / 10 == metrics.pop("leaked_captions_test_share")
    assert metrics == {
        "pictures_train": 6,
        "pictures_val": 2,
        "pictures_test": 2,
        "captions": len(captions),
        "rejected_pictures": 0,
        "rejected_captions": 0,
        "leaked_pictures_same_bytes": 0,
        "leaked_pictures_same_hash": 0,
    }
    header = "kind,split,image_id,other_split,other_image_id\n"
    assert Path("reports/preprocess/leaks.csv").read_text() == header
    assert Path("reports/preprocess/rejected.csv").read_text() == "image_id,reason,detail\n"
    with Image.open("reports/preprocess/contact_sheet.png") as sheet:
        assert sheet.format == "PNG"

    shutil.rmtree("data")
    shutil.rmtree("reports")
    download.main()
    preprocess.main()
    assert {path: path.read_bytes() for path in first} == first  # byte for byte


def test_a_test_picture_that_is_also_in_train_stops_after_the_report(params, capsys):
    """The archive of the drawing program, with one picture and its captions put in twice."""
    download.main()
    archive = Path("data/raw/scenes.zip")
    with zipfile.ZipFile(archive) as source:
        files = {name: source.read(name) for name in source.namelist()}
    files["pictures/test-000001.png"] = files["pictures/train-000003.png"]
    records = [json.loads(line) for line in files["scenes.jsonl"].decode().splitlines()]
    copied = {record["image_id"]: record for record in records}["train-000003"]["captions"]
    records[-1]["captions"] = copied
    files["scenes.jsonl"] = "\n".join(map(json.dumps, records)).encode()
    with zipfile.ZipFile(archive, "w") as target:
        for name, data in files.items():
            target.writestr(name, data)
    report = Path("reports/preprocess")
    with pytest.raises(
        CaptionerError, match=r"two splits: 1 \(test 'test-000001' = train 'train-000003'"
    ):
        preprocess.main()
    assert pd.read_csv(report / "leaks.csv").to_numpy().tolist() == [
        ["same bytes", "test", "test-000001", "train", "train-000003"]
    ]
    assert (report / "leaks.png").exists() and not (report / "metrics.json").exists()
    assert "leaks: 1 pictures of val or test have the bytes" in capsys.readouterr().out

    params["preprocess"]["allow_leaks"] = True
    write(params)
    preprocess.main()
    metrics = json.loads((report / "metrics.json").read_text())
    assert metrics["leaked_pictures_same_bytes"] == 1
    assert metrics["leaked_captions_test"] >= len(copied)


def test_flickr_with_too_many_bad_pictures_stops_after_the_report(params, monkeypatch, shared):
    """The archive of 7,000 pictures is replaced by one of none: every caption lacks its picture."""
    mirror = Path("mirror")
    mirror.mkdir()
    with zipfile.ZipFile(mirror / "Flickr8k_Dataset.zip", "w") as archive:
        archive.writestr("Flicker8k_Dataset/readme.txt", "")
    shutil.copy(shared / "data/flickr8k/Flickr8k_text.zip", mirror)
    shutil.copy(shared / "data/glove/glove.6B.zip", mirror)
    monkeypatch.setenv("CAPTIONER_MIRROR", str(mirror))
    params["dataset"] = "flickr8k"
    write(params)
    download.main()
    assert {path.name for path in Path("data/raw").iterdir()} == {
        "Flickr8k_Dataset.zip",
        "Flickr8k_text.zip",
        "glove.6B.zip",
    }
    with pytest.raises(CaptionerError, match=r"7000 of 7000 pictures rejected.*picture missing"):
        preprocess.main()
    assert len(pd.read_csv("reports/preprocess/rejected.csv")) == 7000 + 35005
    assert not Path("data/captions.parquet").exists()


def test_captions_without_a_word_are_rejected_and_a_split_of_them_stops(params):
    """Nothing else is left of the val split: no training is begun."""
    download.main()
    archive = Path("data/raw/scenes.zip")
    with zipfile.ZipFile(archive) as source:
        files = {name: source.read(name) for name in source.namelist()}
    records = [json.loads(line) for line in files["scenes.jsonl"].decode().splitlines()]

    def preprocess_with(*places: int) -> None:
        for place in places:
            records[place]["captions"] = ["...", "\N{DOG}", "-", " \N{EM DASH}", "!"]
        files["scenes.jsonl"] = "\n".join(map(json.dumps, records)).encode()
        with zipfile.ZipFile(archive, "w") as target:
            for name, data in files.items():
                target.writestr(name, data)
        preprocess.main()

    params["preprocess"]["max_rejected"] = 0.5
    write(params)
    preprocess_with(0, 6)  # of train, of val
    metrics = json.loads(Path("reports/preprocess/metrics.json").read_text())
    assert metrics["rejected_captions"] == 10 and metrics["rejected_pictures"] == 2
    assert (metrics["pictures_train"], metrics["pictures_val"]) == (5, 1)
    rejected = pd.read_csv("reports/preprocess/rejected.csv")
    assert rejected["reason"].value_counts().to_dict() == {
        "caption without words": 10,
        "picture without captions": 2,
    }
    captions = pd.read_parquet("data/captions.parquet")
    assert captions["picture"].nunique() == 8 and not captions["caption"].eq("...").any()
    with pytest.raises(CaptionerError, match=r"split val: no picture left.*caption without words"):
        preprocess_with(7)
