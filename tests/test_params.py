"""params.py: the project's params.yaml, and every way of getting it wrong."""

import copy
import re
import subprocess
import sys
from functools import reduce
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from captioner import CaptionerError
from captioner.params import load_params
from captioner.sections import SECTIONS, SOURCES, Params

ROOT = Path(__file__).resolve().parent.parent
PARAMS = ROOT / "params.yaml"
TEXT = PARAMS.read_text(encoding="utf-8")
RAW = yaml.safe_load(TEXT)


def doubled(first: str, then: str) -> str:
    """Lines of which each stands for twice what the line before it does."""
    return first + "".join(f"\na{n}: &a{n} {then.format(f'*a{n - 1}')}" for n in range(1, 40))


def message(path: Path, text: str) -> str:
    """The one line that a params file of this text is refused with."""
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CaptionerError) as caught:
        load_params(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and line.isprintable()  # hence no line break
    return line.removeprefix(f"{path}: ")


def nested(value: object, *keys: str) -> dict:
    """RAW with one value put at a path of keys, or taken away if it is Ellipsis."""
    raw = copy.deepcopy(RAW)
    place = raw
    for key in keys[:-1]:
        place = place[key]
    if value is ...:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    return raw


def load(path: Path, raw: dict) -> Params:
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return load_params(path)


@pytest.mark.parametrize("dataset", RAW["datasets"])
def test_the_file_of_the_project_loads_with_each_data_set(tmp_path, dataset):
    params = load(tmp_path / "params.yaml", nested(dataset, "dataset")).model_dump()
    row = RAW["datasets"][dataset]
    assert params.pop("dataset") == dataset
    assert params.pop("seed") == RAW["seed"]
    assert params.pop("download") == row["download"]
    for section, values in params.items():
        for key, value in values.items():
            written = RAW[section][key]
            assert value == (row[section][key] if written == "auto" else written)
    assert load_params(PARAMS).dataset == "scenes"


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
# A command's, and those that a table names in passing.
OPTIONS = re.findall(
    r"-S '?([\w.]+)=([^\s'`]+)", "".join(page.read_text(encoding="utf-8") for page in PAGES)
)


@pytest.mark.parametrize(("key", "value"), sorted(set(OPTIONS)))
def test_the_options_of_the_pages_change_something(tmp_path, key, value):
    def changed(dataset: str) -> Params:
        raw = nested(dataset, "dataset")
        keys = key.split(".")
        reduce(dict.__getitem__, keys[:-1], raw)[keys[-1]] = yaml.safe_load(value)
        return load(tmp_path / "params.yaml", raw)

    def unchanged(dataset: str) -> Params:
        return load(tmp_path / "params.yaml", nested(dataset, "dataset"))

    rows = ("flickr8k", "flickr30k", "scenes")
    assert any(changed(dataset) != unchanged(dataset) for dataset in rows)


def test_a_value_overrides_auto(tmp_path):
    assert RAW["train"]["units"] == "auto"
    assert load(tmp_path / "params.yaml", nested(24, "train", "units")).train.units == 24


def test_any_key_may_be_auto_where_the_row_has_it(tmp_path):
    raw = nested("auto", "evaluate", "beam_width")
    raw["datasets"]["scenes"]["evaluate"]["beam_width"] = 7
    assert load(tmp_path / "params.yaml", raw).evaluate.beam_width == 7


@pytest.mark.parametrize(
    ("written", "value"), [("1e-05", 1e-5), ("1.5e-3", 0.0015), ("1E-3", 1e-3), ("1", 1.0)]
)
def test_rates_as_dvc_and_people_write_them(tmp_path, written, value):
    text = yaml.safe_dump(nested("HERE", "train", "learning_rate")).replace("HERE", written)
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    assert load_params(path).train.learning_rate == value


ROW = ("datasets", "scenes")
SECTION_NAMES = ", ".join(SECTIONS)


@pytest.mark.parametrize(
    ("keys", "value", "line"),
    [
        (
            ("train", "units"),
            "abc",
            "train.units: 'abc' is not allowed: a whole number, at least 1, at most 4096",
        ),
        (
            ("evaluate", "beam_width"),
            0,
            "evaluate.beam_width: 0 is not allowed: a whole number, at least 1, at most 100",
        ),
        (
            ("glove", "dimensions"),
            64,
            "glove.dimensions: 64 is not allowed: one of: 50, 100, 200, 300",
        ),
        (
            ("preprocess", "fit"),
            "stretch",
            "preprocess.fit: 'stretch' is not allowed: one of: squash, crop, pad",
        ),
        (
            ("preprocess", "allow_leaks"),
            "yes",
            "preprocess.allow_leaks: 'yes' is not allowed: true or false",
        ),
        (
            ("evaluate", "java_metrics"),
            "cider",
            "evaluate.java_metrics: 'cider' is not allowed: one of: false, true, meteor, spice",
        ),
        (
            ("preprocess", "allow_leaks"),
            1,
            "preprocess.allow_leaks: 1 is not allowed: true or false",
        ),
        (
            ("train", "dropout"),
            float("nan"),
            "train.dropout: nan is not allowed: a number, at least 0, below 1",
        ),
        (
            ("train", "clip_norm"),
            float("inf"),
            "train.clip_norm: inf is not allowed: a number, above 0",
        ),
        (
            ("seed",),
            True,
            "seed: True is not allowed: a whole number, at least 0, below 2147483648",
        ),
        (
            ("train", "dropout"),
            False,
            "train.dropout: False is not allowed: a number, at least 0, below 1",
        ),
        (
            ("train", "epochs"),
            "3",
            "train.epochs: '3' is not allowed: a whole number, at least 1",
        ),
        (
            ("train", "epochs"),
            3.0,
            "train.epochs: 3.0 is not allowed: a whole number, at least 1",
        ),
        (
            ("dataset",),
            "flickr9k",
            "dataset: 'flickr9k' is not allowed: one of: "
            "scenes, mnist, flickr8k, flickr30k, coco, table",
        ),
        (
            ("export", "sprite_size"),
            "auto",
            "export.sprite_size: auto, but datasets.scenes.export has no `sprite_size`; "
            "write a value in either place: a whole number, at least 8, at most 256",
        ),
        (
            ("seed",),
            "auto",
            "seed: 'auto' is not allowed: a whole number, at least 0, below 2147483648",
        ),
        (
            (*ROW, "train", "units"),
            "abc",
            "datasets.scenes.train.units: 'abc' is not allowed: "
            "a whole number, at least 1, at most 4096",
        ),
        (
            (*ROW, "train", "units"),
            "auto",
            "datasets.scenes.train.units: 'auto' is not allowed: "
            "a whole number, at least 1, at most 4096",
        ),
        (
            ("train", "members"),
            [0, "one"],
            "train.members.1: 'one' is not allowed: a list of 1 to 16 whole numbers from 0 on",
        ),
        (
            (*ROW, "train", "members"),
            [],
            "datasets.scenes.train.members: [] is not allowed: "
            "a list of 1 to 16 whole numbers from 0 on",
        ),
        (
            ("train", "heads"),
            3,
            "train.heads: 3 is not allowed: they share train.units (256) evenly; a divisor of it",
        ),
        (
            ("encoder", "epochs"),
            0,
            "encoder.epochs: 0 is not allowed: encoder.backbone cnn starts from nothing; "
            "at least 1",
        ),
        (  # a row that is not chosen
            ("datasets", "flickr8k", "train", "epochs"),
            0,
            "datasets.flickr8k.train.epochs: 0 is not allowed: a whole number, at least 1",
        ),
        (
            (*ROW, "download", "train"),
            "many",
            "datasets.scenes.download.train: 'many' is not allowed: a whole number, at least 1",
        ),
        (
            (*ROW, "download", "train"),
            ...,
            "datasets.scenes.download.train: missing; a whole number, at least 1",
        ),
        (
            (*ROW, "download", "source"),
            ["scenes"],
            "datasets.scenes.download.source: ['scenes'] is not allowed: one of: "
            "scenes, mnist, flickr8k, flickr30k, coco, table",
        ),
        (
            ("datasets", "flickr8k", "download", "size"),
            3,
            "datasets.flickr8k.download.size: unknown key; one of: source",
        ),
        (
            ("datasets", "table", "download", "captions"),
            7,
            "datasets.table.download.captions: 7 is not allowed: a text",
        ),
        (
            ("datasets", "table", "download", "split_column"),
            7,
            "datasets.table.download.split_column: 7 is not allowed: a text, or null",
        ),
        (
            ("datasets", "table", "download", "split_column"),
            "",
            "datasets.table.download.split_column: '' is not allowed: a text, or null",
        ),
        (  # dvc.yaml follows the files of the row `table` only
            ("datasets", "flickr8k", "download", "source"),
            "table",
            "datasets.flickr8k.download.source: table is for the row `table` alone; change that",
        ),
        (
            ("exprot",),
            {"sprite_size": 64},
            f"exprot: unknown key; one of: dataset, seed, {SECTION_NAMES}",
        ),
        (
            ("tokenize", "mincount"),
            3,
            "tokenize.mincount: unknown key; one of: min_count, max_length, split_characters",
        ),
        (
            (*ROW, "tokenise"),
            {"min_count": 1},
            f"datasets.scenes.tokenise: unknown key; one of: download, {SECTION_NAMES}",
        ),
        (
            (*ROW, "tokenize", "mincount"),
            3,
            "datasets.scenes.tokenize.mincount: unknown key; one of: min_count, max_length, "
            "split_characters",
        ),
        (
            (*ROW, "tokenize"),
            1,
            "datasets.scenes.tokenize: 1 is not allowed: a section of keys: min_count, max_length, "
            "split_characters",
        ),
        (
            ("tokenize",),
            [1],
            "tokenize: [1] is not allowed: a section of keys: min_count, max_length, "
            "split_characters",
        ),
        (
            ("datasets", "flickr8k", "download"),
            ...,
            "datasets.flickr8k: expected sections, `download` among them",
        ),
        (
            ("download",),
            {"source": "flickr8k"},
            "download: belongs into a row of the table `datasets`",
        ),
        (
            (7,),
            8,
            f"7: unknown key; one of: dataset, seed, {SECTION_NAMES}",
        ),
        (
            ("a\nb\x1b[31m",),
            8,
            f"'a\\nb\\x1b[31m': unknown key; one of: dataset, seed, {SECTION_NAMES}",
        ),
        (
            ("datasets",),
            ...,
            "datasets: missing; expected a table of data sets",
        ),
    ],
)
def test_each_mistake_is_one_line_with_key_value_and_what_is_allowed(tmp_path, keys, value, line):
    assert (
        message(tmp_path / "params.yaml", yaml.safe_dump(nested(value, *keys), sort_keys=False))
        == line
    )


def test_pictures_too_small_for_the_backbone(tmp_path):
    raw = nested("inception_v3", "encoder", "backbone")
    raw["preprocess"]["side"] = 74
    line = message(tmp_path / "params.yaml", yaml.safe_dump(raw))
    assert line == (
        "preprocess.side: 74 is not allowed: encoder.backbone inception_v3 needs at least 75"
    )


def chosen(dataset: str, **download: object) -> dict:
    raw = nested(dataset, "dataset")
    raw["datasets"][dataset]["download"] |= download
    return raw


def test_the_course_cnn_needs_labels_and_small_pictures(tmp_path):
    path = tmp_path / "params.yaml"
    needs = "encoder.backbone: course_cnn is not allowed: it learns class labels, and the data set "
    raw = chosen("scenes")
    raw["encoder"]["backbone"] = "course_cnn"
    line = message(path, yaml.safe_dump(raw))
    assert line == needs + "scenes has none; use cnn, which learns the captions' words"
    raw = chosen("table", label=None)
    raw["encoder"]["backbone"], raw["preprocess"]["side"] = "course_cnn", 64
    line = message(path, yaml.safe_dump(raw))
    assert line == needs + "table has none; name a column in datasets.table.download.label"
    raw["datasets"]["table"]["download"]["label"] = "category"
    assert load(path, raw).download.label == "category"
    raw["preprocess"]["side"] = 65
    assert message(path, yaml.safe_dump(raw)) == (
        "preprocess.side: 65 is not allowed: encoder.backbone course_cnn needs at most 64"
    )
    assert load(path, chosen("mnist")).download.label == "digit"
    raw = chosen("mnist")
    raw["encoder"]["backbone"] = "cnn"
    assert message(path, yaml.safe_dump(raw)) == (
        "preprocess.side: 28 is not allowed: encoder.backbone cnn needs at least 32"
    )


def test_a_table_leaves_pictures_for_training(tmp_path):
    path = tmp_path / "params.yaml"
    assert message(path, yaml.safe_dump(chosen("table", val=0.6, test=0.4))) == (
        "datasets.table.download: val 0.6 and test 0.4 leave no picture for training; "
        "their sum must be below 1"
    )
    load(path, chosen("table", val=0.6, test=0.4, split_column="split"))
    load(path, chosen("table", val=0.5, test=0.4))


@pytest.mark.parametrize(
    ("row", "section", "values", "problem"),
    [
        (
            "mnist",
            "encoder",
            {"backbone": "inception_v3"},
            "preprocess.side: 28 is not allowed: encoder.backbone inception_v3 needs at least 75",
        ),
        (
            "flickr8k",
            "train",
            {"units": 511},
            "train.heads: 8 is not allowed: they share train.units (511) evenly; a divisor of it",
        ),
        (
            "coco",
            "encoder",
            {"backbone": "cnn", "epochs": 0},
            "encoder.epochs: 0 is not allowed: encoder.backbone cnn starts from nothing; at "
            "least 1",
        ),
        (
            "table",
            "download",
            {"val": 0.6, "test": 0.4},
            "download: val 0.6 and test 0.4 leave no picture for training; their sum must be below "
            "1",
        ),
    ],
)
def test_impossible_combinations_in_rows_that_are_not_chosen(
    tmp_path, row, section, values, problem
):
    raw = nested("scenes", "dataset")
    raw["datasets"][row][section] |= values
    line = message(tmp_path / "params.yaml", yaml.safe_dump(raw))
    assert line == f"datasets.{row}.{problem}"


@pytest.mark.parametrize(
    ("dataset", "section", "values"),
    [
        ("flickr8k", "preprocess", {"side": 299}),  # mnist's course_cnn takes 64 at most
        ("flickr8k", "encoder", {"backbone": "inception_v3"}),  # mnist's pictures have 28
        ("mnist", "encoder", {"backbone": "course_cnn"}),  # the others have no labels
        ("flickr8k", "encoder", {"epochs": 0}),  # the cnn of scenes needs one
        ("scenes", "train", {"units": 8}),
    ],
)
def test_what_is_set_for_the_chosen_data_set_does_not_stop_at_others(
    tmp_path, dataset, section, values
):
    raw = nested(dataset, "dataset")
    raw[section] |= values
    assert load(tmp_path / "params.yaml", raw).dataset == dataset


def test_a_file_that_is_no_params_file_is_not_read(tmp_path):
    with pytest.raises(CaptionerError, match="zero: is a device"):
        (tmp_path / "zero").symlink_to("/dev/zero")
        load_params(tmp_path / "zero")
    line = message(tmp_path / "params.yaml", "members: [" + "0, " * 300_000 + "]")
    assert "bytes are too many to read at once" in line


def test_several_mistakes_are_all_named(tmp_path):
    raw = nested(0, "evaluate", "beam_width")
    raw["preprocess"]["fit"] = 3
    line = message(tmp_path / "params.yaml", yaml.safe_dump(raw))
    assert line.startswith("preprocess.fit: 3 is not allowed:")
    assert "; evaluate.beam_width: 0 is not allowed:" in line


@pytest.mark.parametrize("section", SECTIONS)
def test_a_missing_section(tmp_path, section):
    line = message(tmp_path / "params.yaml", yaml.safe_dump(nested(..., section)))
    assert line == f"{section}: missing; a section of keys: " + ", ".join(RAW[section])


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("dataset: [scenes\nseed: 1", "line 2"),
        ("a: 1\n\tb: 2", "line 2"),
        ("seed: 2024-99-99", "month"),
        ("seed: " + "9" * 5000, "a number of 5000 digits"),
        ("seed: 0x" + "f" * 5000, "a number of 5002 digits"),
        ("seed: " + ":".join(["59"] * 2000), "a number of 5999 digits"),
        ("seed: " + ":".join(["59"] * 2000) + ".5", "too large to convert to float"),
        ("a: &a [*a]", "an alias within what it stands for"),
        ("a: &a {<<: *a}", "an alias within what it stands for"),
        ("members: [" + "0," * 10_000 + "]", "more than 10,000 values"),
        (doubled("a0: &a0 [1]", "[{0}, {0}]"), "more than 10,000 values, aliases"),
        (doubled("a0: &a0 {x: 1}", "{{<<: [{0}, {0}]}}"), "more than 10,000 values"),
        ("a: &a {x: 1}\nb: {<<: [" + "*a, " * 9000 + "]}", "more than 10,000 values"),
        ("seed: !!bool x", "x"),
        ("seed: !!int ''", "index out of range"),
        ("seed: !!timestamp x", "groupdict"),
        ("seed: " + "[" * 4000, "recursion"),
        ("? {a: b}\n: c", "unhashable"),
        ("seed: 1\nseed: 2", "the key 'seed' is there twice"),
        ("train: {units: 1, units: 2}", "the key 'units' is there twice"),
    ],
)
def test_broken_yaml(tmp_path, text, part):
    line = message(tmp_path / "params.yaml", text)
    assert line.startswith("not valid YAML: ") and part in line


def test_python_objects_are_not_made(tmp_path):
    canary = tmp_path / "canary"
    tag = f'!!python/object/apply:os.mkdir ["{canary.as_posix()}"]'
    text = yaml.safe_dump(nested("HERE", "seed")).replace("HERE", tag)
    line = message(tmp_path / "params.yaml", text)
    assert "python/object/apply:os.mkdir" in line
    assert not canary.exists()


@pytest.mark.parametrize("text", ["", "[1, 2]", "hello", "3"])
def test_something_else_than_sections(tmp_path, text):
    expected = f"expected sections of keys, found {yaml.safe_load(text)!r}"
    assert message(tmp_path / "params.yaml", text) == expected


def test_a_missing_file_a_folder_and_other_encodings(tmp_path):
    with pytest.raises(CaptionerError, match=r"none\.yaml: no such file; run from the project's"):
        load_params(tmp_path / "none.yaml")
    with pytest.raises(CaptionerError, match="cannot be read: Is a directory"):
        load_params(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("dataset: caf\xe9".encode("latin-1"))
    with pytest.raises(CaptionerError, match=r"latin\.yaml: not valid YAML: .*utf-8"):
        load_params(tmp_path / "latin.yaml")


def test_java_metrics_name_their_measures(tmp_path):
    wanted = {False: (), True: ("meteor", "spice"), "meteor": ("meteor",), "spice": ("spice",)}
    for value, measures in wanted.items():
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(nested(value, "evaluate", "java_metrics")))
        assert load_params(path).evaluate.java_measures == measures


def scalars(raw: object, *path: str):
    for key, value in raw.items():
        if isinstance(value, dict):
            yield from scalars(value, *path, key)
        else:
            yield (*path, key)


# No key of the file may hold any of these (but for true and false, where it holds one of them).
NEVER = st.sampled_from([True, False, None, [], {}, [1], {"a": 1}, "abc", "", "3", float("nan")])


@given(st.sampled_from(list(scalars(RAW))), NEVER | st.dates() | st.binary(max_size=3))
@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_value_of_another_type_passes(tmp_path, path, value):
    written = reduce(dict.__getitem__, path, RAW)
    assume(not (isinstance(value, bool) and (isinstance(written, bool) or path[-1] == "mirrored")))
    texts = path[:3] == ("datasets", "table", "download") and path[3] != "source"
    assume(not (texts and (value is None or (isinstance(value, str) and value))))
    assume(not (path[-1] == "members" and value == [1]))
    line = message(tmp_path / "params.yaml", yaml.safe_dump(nested(value, *path)))
    assert ".".join(path) in line


@given(st.recursive(NEVER | st.integers() | st.text(), lambda x: st.dictionaries(st.text(), x)))
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_other_content_is_refused_in_one_line(tmp_path, content):
    message(tmp_path / "params.yaml", yaml.safe_dump(content, allow_unicode=True))


def test_every_key_has_a_comment():
    lines = [line for line in TEXT.splitlines() if line.strip() and not line.startswith("#")]
    table = lines.index("datasets:")
    for line in lines[:table]:
        if not line.endswith(":"):  # the name of a section says enough
            key, _, comment = line.partition(" # ")
            assert len(comment.strip()) > 10, f"{key}: no comment"
    for line in lines[table + 1 :]:
        if line.startswith("  ") and line[2] not in " #":
            assert len(line.partition(" # ")[2]) > 10, f"{line}: no comment"


def test_the_file_holds_every_field_in_the_order_of_the_models():
    assert list(RAW) == [key for key in Params.model_fields if key != "download"] + ["datasets"]
    for name, section in SECTIONS.items():
        assert list(RAW[name]) == list(section.model_fields)
    assert {row["download"]["source"] for row in RAW["datasets"].values()} == set(SOURCES)


def test_no_key_has_a_name_that_dvc_overlooks():
    """DVC drops the keys `size` and `nfiles`, at any depth, from the key of its run cache."""
    from dvc.utils import dict_sha256

    overlooked = {path for path in scalars(RAW) if {"size", "nfiles"} & set(path)}
    assert overlooked == set()
    exclude = ["size", "nfiles"]  # as dvc/stage/cache.py has it
    assert dict_sha256({"a": {"size": 1}}, exclude=exclude) == dict_sha256(
        {"a": {"size": 2}}, exclude=exclude
    )


def test_params_need_no_tensorflow():
    code = (
        "import sys, captioner.params; captioner.params.load_params('params.yaml');"
        "print(sorted({'tensorflow', 'keras', 'numpy', 'pandas', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
