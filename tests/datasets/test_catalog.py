"""datasets: which archives each source wants, and which reader gets what."""

from pathlib import Path

import pytest
import yaml

from captioner.datasets import catalog, published
from captioner.sections import SOURCES
from tests.conftest import ROOT

ROWS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["datasets"]


def source(name: str, **changes: object):
    download = ROWS[name]["download"] | changes
    return SOURCES[download["source"]].model_validate(download)


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        (source("scenes"), []),
        (source("table"), []),
        (source("mnist"), ["mnist.npz"]),
        (source("flickr8k"), ["Flickr8k_Dataset.zip", "Flickr8k_text.zip"]),
        (
            source("flickr30k", captions="karpathy"),
            ["flickr30k-images.tar.gz", "caption_datasets.zip"],
        ),
        (
            source("flickr30k", captions="tokens"),
            ["flickr30k-images.tar.gz", "caption_datasets.zip", "flickr30k.tar.gz"],
        ),
        (source("coco"), ["train2014.zip", "val2014.zip", "caption_datasets.zip"]),
    ],
    ids=lambda value: "" if isinstance(value, list) else value.source,
)
def test_what_is_to_be_downloaded(chosen, names):
    assert [file.name for file in published.wanted_files(chosen, False)] == names
    with_glove = published.wanted_files(chosen, True)
    assert [file.name for file in with_glove] == [*names, "glove.6B.zip"]


@pytest.mark.parametrize(
    ("name", "module", "reader", "extra"),
    [
        ("scenes", "scenes", "read", ()),
        ("mnist", "mnist", "read", (ROWS["mnist"]["download"]["val"], 5)),
        ("flickr8k", "flickr", "read", ()),
        ("flickr30k", "karpathy", "read_flickr30k", (ROWS["flickr30k"]["download"]["captions"],)),
        ("coco", "karpathy", "read_coco", ()),
    ],
)
def test_each_source_has_its_reader(monkeypatch, name, module, reader, extra):
    monkeypatch.setattr(getattr(catalog, module), reader, lambda *arguments: arguments)
    assert catalog.read(source(name), Path("raw"), 5) == (Path("raw"), *extra)


def test_a_table_is_read_where_its_row_says(monkeypatch):
    monkeypatch.setattr(catalog.table, "read", lambda *places, **settings: (places, settings))
    places, settings = catalog.read(source("table", captions="a.csv", pictures="b"), Path("raw"), 5)
    assert places == (Path("a.csv"), Path("b"))
    row = ROWS["table"]["download"]
    assert settings["seed"] == 5
    assert (settings["val"], settings["test"]) == (row["val"], row["test"])
