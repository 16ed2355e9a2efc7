"""Captions in many scripts, from the table of captions to page, tables and projector: unharmed."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from captioner import attention, embeddings
from captioner.datasets import Picture
from captioner.evaluation import Evaluation, predictions_table
from captioner.held_out import read_held_out
from captioner.images import read_pictures, write_shards, write_table
from captioner.intake import contact_sheet
from captioner.report import write_report
from captioner.text import Vocabulary
from tests.test_page import Reader

ROOT = Path(__file__).resolve().parent.parent
# What a person writes, and what a model that has learnt it by heart says.
SAID = {
    "Café, cafe\u0301 und Größe": "café cafe\u0301 und größe",  # composed and not: two words
    "Ένας ΜΑΎΡΟΣ σκύλος.": "ένας μαύρος σκύλος",
    "Чёрная собака бежит.": "чёрная собака бежит",
    "كلب أسود يركض، على العشب": "كلب أسود يركض ، على العشب",
    "一只黑狗，在草地上跑。": "一只黑狗，在草地上跑。",
    "赤い花「きれい」とコーヒー": "赤い花きれいとコーヒー",
    "电梯𨋢 a 红 shoe": "电梯𨋢 a 红 shoe",
    "검은 개가 달린다": "검은 개가 달린다",
    "a dog 🐕 runs": "a dog runs",  # the reference's tokenizer knows no emoji
    '"quoted" “dogs” don’t': "quoted dogs do n't",
    "=1+1": "= 1 +1",
    "<b>bold</b> & 'x'": "<b> bold </b> & x",
}
IDS = [f"{number}-{caption[:9]}".replace(" ", "_") for number, caption in enumerate(SAID)]


def png(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), (shade, 99, 255 - shade)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A folder through the stages; the model is one that says of each picture what people said."""
    folder = tmp_path_factory.mktemp("scripts")
    number = len(SAID)
    pictures = [
        Picture(f"{split}-{image_id}", split, png(shade), (caption,), {"word": caption})
        for split, shades in (("train", 0), ("val", 60), ("test", 120))
        for shade, (image_id, caption) in enumerate(zip(IDS, SAID, strict=True), start=shades)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        captions, rejected, _ = write_shards(
            pictures, "data/images", size=32, fit="pad", jpeg_quality=90, max_pixels=2000
        )
        assert rejected == []
        write_table(captions, "data/captions.parquet")
        contact_sheet("data/images", captions, "reports/preprocess/contact_sheet.png")
        tokenize(folder)
        np.save("data/pooled.npy", np.eye(number)[list(range(number)) * 3])

        vocabulary = Vocabulary.load("data/tokens/vocabulary.json")
        test = read_held_out("data/captions.parquet", "data/images", "data/pooled.npy")
        said = [vocabulary.decode(row) for row in np.load("data/tokens/captions.npy")[:number]]
        evaluation = Evaluation(
            said,
            test.references,
            test.training_captions,
            test.nearest["caption"].tolist(),
            1,
            100,
            split_characters=vocabulary.split_characters,
        )
        table = predictions_table(
            test.pictures,
            said,
            np.zeros(number),
            test.references,
            test.nearest,
            evaluation.per_picture,
        )
        write_table(table, "data/predictions.parquet")

        def look(places):
            return np.full((len(places), 22, 4), 0.25)

        tiles, draw = [], attention.draw_strips

        def draw_strips(path, exhibits, *rest):
            tiles.extend(exhibit.caption for exhibit in exhibits)
            draw(path, exhibits, *rest)

        patch.setattr(attention, "draw_strips", draw_strips)
        report = (evaluation, table, "data/images", test.rows, 9, 1, look)
        write_report(folder / "reports/evaluate", "scripts", *report)
        export(vocabulary)
    return folder, evaluation, tiles


def tokenize(folder: Path) -> None:
    from stages.tokenize import main

    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["tokenize"] |= {"min_count": 1, "max_length": 22, "split_characters": True}
    params["glove"]["source"] = "none"
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    main()


def export(vocabulary: Vocabulary) -> None:
    """The projector's files, as the stage export makes them."""
    Path("data/projector").mkdir()
    captions = pd.read_parquet("data/captions.parquet").set_index("picture")["caption"]
    embeddings.write_projector(
        Path("data/projector"),
        np.eye(len(captions)),
        read_pictures("data/images", ["image_id", "split"]).assign(caption=captions),
        [np.zeros((8, 8, 3), np.uint8)] * len(captions),
        np.eye(len(vocabulary)),
        vocabulary,
    )


def test_captions_are_stored_to_the_letter(pipeline):
    folder, *_ = pipeline
    table = pd.read_parquet(folder / "data/captions.parquet")
    assert table["caption"].tolist() == list(SAID) * 3
    facts = [
        json.loads(one)["word"] for one in read_pictures(folder / "data/images", ["facts"]).facts
    ]
    assert facts == list(SAID) * 3


def test_predictions_are_captions_as_people_write_them(pipeline):
    table = pq.read_table(pipeline[0] / "data/predictions.parquet").to_pydict()
    assert table["caption"] == list(SAID.values())
    assert table["references"] == [[caption] for caption in SAID]
    assert table["nearest_caption"] == list(SAID)
    assert table["image_id"] == [f"test-{image_id}" for image_id in IDS]


def test_a_perfect_model_scores_perfectly_in_every_script(pipeline):
    metrics = pipeline[1].metrics
    for name in ("bleu_1", "bleu_4", "rouge_l", "copied_captions", "content_word_recall"):
        assert metrics[name] == pytest.approx(1), name
    assert pipeline[1].per_picture["rouge_l"] == pytest.approx([1] * len(SAID))


def test_the_page_shows_all_texts_and_lets_each_run_in_its_direction(pipeline):
    html = (pipeline[0] / "reports/evaluate/captions.html").read_text(encoding="utf-8")
    read = Reader(html)
    assert read.all("caption") == list(SAID.values())
    assert read.all("nearest") == list(SAID)
    assert read.all("li") == list(SAID)
    assert "<b>" not in html and "&lt;b&gt;bold&lt;/b&gt; &amp; &#x27;x&#x27;" in html
    assert "<u>" not in html  # every word is one that the reference has
    texts = [e for e in read.of("p") if e.get("class") in ("caption", "nearest")]
    texts += [e for e in read.of("li") if e.get("class") != "row"]
    assert len(texts) == 3 * len(SAID)
    assert all(element["dir"] == "auto" for element in texts)
    counts = {row["data-words"] for row in read.of("li") if "data-words" in row}
    assert counts == {"3", "4", "5", "6", "11"}


def test_tables_hold_the_words_and_no_formulas(pipeline):
    folder, *_ = pipeline

    def column(path: str) -> list[str]:
        with (folder / "reports" / path).open(encoding="utf-8", newline="") as file:
            return [row["word"] for row in csv.DictReader(file)]

    by_word = column("evaluate/by_word.csv")
    assert len(by_word) == 30
    assert {"café", "cafe\u0301", "ένας", "σκύλος", "собака", "أسود"} <= set(by_word)
    assert all(word[0].isalpha() for word in by_word)
    missing = column("tokenize/missing_words.csv")
    assert len(missing) == 50 and not [word for word in missing if word[0] in "=+-@"]
    assert {"'=", "'+1", "café", "cafe\u0301", "<b>"} <= set(missing)
    assert column("tokenize/neighbours.csv") == []


def test_the_projector_names_pictures_and_words_to_the_letter(pipeline):
    folder = pipeline[0] / "data/projector"
    lines = (folder / "pictures_metadata.tsv").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[2] for line in lines] == ["caption", *(list(SAID) * 3)]
    words = (folder / "words_metadata.tsv").read_text(encoding="utf-8").splitlines()
    assert sorted(words) == sorted({word for one in pipeline[1].captions for word in one})
    assert {"𨋢", "コ", "ー", "黑", "أسود", "검은"} <= set(words)


def test_attention_has_a_tile_for_each_word_of_the_model(pipeline):
    _, evaluation, tiles = pipeline
    words = [" ".join(caption) for caption in evaluation.captions]
    assert len(tiles) == 9 and set(tiles) <= set(words)
    assert any(len(tile.split()) == 11 for tile in tiles)  # a Chinese or Japanese one was drawn
