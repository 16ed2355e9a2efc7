"""Drawn scenes: the pictures show what the facts say, and the archive is always the same."""

import io
import json
import math
import zipfile
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner import CaptionerError
from captioner.datasets import scene_drawing, scene_words, scenes

COUNTS = {"train": 5, "val": 3, "test": 2}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    scenes.draw_archive(tmp_path / "raw" / "scenes.zip", COUNTS, size=64, seed=1)
    return tmp_path / "raw"


def sample(number: int) -> tuple[dict, np.random.Generator]:
    rng = np.random.default_rng([5, number])
    return scene_drawing.sample_facts(rng), rng


def boxes(facts: dict) -> list[tuple[float, float, float, float]]:
    """left, top, right, bottom of every object."""
    return [
        (
            thing["x"] - thing["extent"] / 2,
            thing["y"] - thing["extent"] / 2,
            thing["x"] + thing["extent"] / 2,
            thing["y"] + thing["extent"] / 2,
        )
        for thing in facts["objects"]
    ]


def test_archive_is_the_same_bytes_for_the_same_seed(tmp_path):
    for name in ("a", "b"):
        scenes.draw_archive(tmp_path / name / "scenes.zip", COUNTS, size=64, seed=1)
    scenes.draw_archive(tmp_path / "c" / "scenes.zip", COUNTS, size=64, seed=2)
    a, b, c = ((tmp_path / name / "scenes.zip").read_bytes() for name in "abc")
    assert a == b
    assert a != c
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["scenes.zip"]


def test_archive_is_stored_in_order_without_dates(raw):
    with zipfile.ZipFile(raw / "scenes.zip") as archive:
        entries = archive.infolist()
        lines = archive.read("scenes.jsonl").decode().splitlines()
    names = [f"pictures/{split}-{i:06d}.png" for split in COUNTS for i in range(COUNTS[split])]
    assert [entry.filename for entry in entries] == [*names, "scenes.jsonl"]
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
    assert set(json.loads(lines[0])) == {"image_id", "split", "captions", "facts"}


def test_read_gives_pictures_captions_and_facts(raw):
    pictures = list(scenes.read(raw))
    assert [picture.split for picture in pictures] == ["train"] * 5 + ["val"] * 3 + ["test"] * 2
    assert [picture.image_id for picture in pictures[4:6]] == ["train-000004", "val-000000"]
    assert len({picture.data for picture in pictures}) == 10
    for picture in pictures:
        with Image.open(io.BytesIO(picture.data)) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", (64, 64))
        assert len(picture.captions) == 5
        assert 1 <= len(picture.facts["objects"]) <= 3


def test_other_counts_leave_the_pictures_as_they_are(raw, tmp_path):
    scenes.draw_archive(tmp_path / "scenes.zip", {"train": 2, "val": 7}, size=64, seed=1)
    before = {picture.image_id: picture for picture in scenes.read(raw)}
    after = {picture.image_id: picture for picture in scenes.read(tmp_path)}
    both = before.keys() & after.keys()
    assert sorted(both) == [f"train-00000{i}" for i in range(2)] + [
        f"val-00000{i}" for i in range(3)
    ]
    assert all(before[name] == after[name] for name in both)


def test_missing_archive_says_what_to_do(tmp_path):
    with pytest.raises(CaptionerError, match=r"scenes\.zip: there is no such file; run the downl"):
        list(scenes.read(tmp_path))


def rewritten(path: Path, change) -> None:
    """Write the archive anew with `change(name, data)` applied; None leaves a member out."""
    with zipfile.ZipFile(path) as archive:
        members = {name: change(name, archive.read(name)) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            if data is not None:
                archive.writestr(name, data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def flip_a_byte_of_the_first_picture(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[200] ^= 255
    path.write_bytes(data)


def lose_a_picture(path: Path) -> None:
    rewritten(path, lambda name, data: None if name.endswith("val-000001.png") else data)


def break_the_list(path: Path) -> None:
    rewritten(path, lambda name, data: data[:-9] if name == "scenes.jsonl" else data)


def list_something_else(path: Path) -> None:
    rewritten(path, lambda name, data: b"[1]\n" if name == "scenes.jsonl" else data)


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        flip_a_byte_of_the_first_picture,
        lose_a_picture,
        break_the_list,
        list_something_else,
    ],
)
def test_damaged_archive_is_named(raw, damage):
    damage(raw / "scenes.zip")
    with pytest.raises(CaptionerError, match=r"scenes\.zip: not a whole archive") as caught:
        list(scenes.read(raw))
    assert "run the download stage again" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_objects_stay_inside_and_apart():
    touching = 0
    for number in range(600):
        facts, _ = sample(number)
        for left, top, right, bottom in boxes(facts):
            assert min(left, top) > 0.02
            assert max(right, bottom) < 0.98
        for a, b in combinations(boxes(facts), 2):
            # The gap along an axis is negative where the boxes overlap along it.
            gaps = [max(a[axis], b[axis]) - min(a[axis + 2], b[axis + 2]) for axis in (0, 1)]
            if max(gaps) < 0.045:
                assert abs(gaps[1]) < 0.001  # one stands on the other, and well supported
                assert gaps[0] < -0.1
                touching += 1
    assert touching > 30


def test_everything_the_words_name_is_drawn_often_enough():
    facts = [sample(number)[0] for number in range(600)]
    things = [thing for scene in facts for thing in scene["objects"]]
    for key, values in (
        ("shape", scene_words.SHAPES),
        ("colour", scene_words.COLOURS),
        ("size", scene_words.SIZES),
    ):
        seen = Counter(thing[key] for thing in things)
        assert set(seen) == set(values)
        assert min(seen.values()) > 0.5 * len(things) / len(values)
    for key, values in (("pattern", scene_words.PATTERNS), ("tone", scene_words.TONES)):
        assert {scene["background"][key] for scene in facts} == set(values)
    assert min(Counter(len(scene["objects"]) for scene in facts).values()) > 150


def test_pixels_at_the_centres_have_the_stated_colours():
    names = list(scene_drawing.COLOUR_RGB)
    palette = np.array([scene_drawing.COLOUR_RGB[name] for name in names])
    for number in range(200):
        facts, rng = sample(number)
        pixels = np.asarray(scene_drawing.draw(facts, 64, rng)).astype(int)
        for thing in facts["objects"]:
            pixel = pixels[int(thing["y"] * 64), int(thing["x"] * 64)]
            nearest = np.abs(palette - pixel).sum(axis=1).argmin()
            assert names[nearest] == thing["colour"]


@pytest.mark.parametrize("size", [64, 97])
def test_drawn_pixels_fill_the_stated_boxes(size):
    for number in range(40):
        facts, rng = sample(number)
        facts["background"]["pattern"] = "plain"
        pixels = np.asarray(scene_drawing.draw(facts, size, rng)).astype(int)
        drawn = np.abs(pixels - pixels[0, 0]).sum(axis=2) > 30
        stated = np.array(boxes(facts))
        stated = np.concatenate([stated[:, :2].min(axis=0), stated[:, 2:].max(axis=0)])
        rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
        edges = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        # Within a pixel and a half: the faint tip of a triangle or a heart does not count as drawn.
        assert np.allclose(edges, stated * size, atol=1.5)


@pytest.mark.parametrize(
    ("shape", "share"),
    [
        ("square", 1),
        ("circle", math.pi / 4),
        ("triangle", 1 / 2),
        ("cross", 1 - 0.7**2),  # all but the four corners of side 0.7 / 2
    ],
)
def test_shapes_cover_their_share_of_the_box(shape, share):
    thing = {"shape": shape, "colour": "black", "size": "large", "x": 0.5, "y": 0.5, "extent": 0.4}
    facts = {"objects": [thing], "background": {"pattern": "plain", "tone": "grey"}}
    pixels = np.asarray(scene_drawing.draw(facts, 200, np.random.default_rng(0))).astype(float)
    back, front = pixels[0, 0].sum(), pixels[100, 100].sum()
    covered = (back - pixels.sum(axis=2)).sum() / (back - front)
    assert covered / 80**2 == pytest.approx(share, abs=0.025)


def test_small_shapes_differ_from_each_other():
    """At 64 pixels no two small shapes agree on more than 82% of the pixels of their box."""
    masks = {}
    for shape in scene_words.SHAPES:
        thing = {"shape": shape, "colour": "black", "size": "small"}
        thing.update(x=0.5, y=0.5, extent=0.2188)  # 14 pixels
        facts = {"objects": [thing], "background": {"pattern": "plain", "tone": "grey"}}
        picture = scene_drawing.draw(facts, 64, np.random.default_rng(0))
        masks[shape] = np.asarray(picture)[25:39, 25:39].sum(axis=2) < 250
    for a, b in combinations(masks, 2):
        assert (masks[a] == masks[b]).mean() < 0.82, (a, b)
