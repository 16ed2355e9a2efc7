"""params.yaml as typed, checked objects.

Every stage calls `load_params` before anything else, so that a wrong key, a wrong value or an
impossible combination anywhere in the file stops the pipeline before any work, in one line. A value
`auto` in a section is replaced by the value in the row of the chosen data set
(`datasets.NAME.SECTION.KEY`).
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from captioner import CaptionerError


class _Loader(yaml.SafeLoader):
    """YAML 1.2 numbers: PyYAML's 1.1 rules read 1e-05, which DVC writes for small rates, as text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=1)]

Backbone = Literal[
    "cnn",
    "mobilenet_v2",
    "resnet50",
    "inception_v3",
    "efficientnet_v2_b0",
    "vgg16",
    "convnext_tiny",
]
# Below these sides a backbone's last feature map is empty (Keras refuses to build it).
SMALLEST_SIZE = {"cnn": 32, "inception_v3": 75}


class Section(BaseModel):
    """Strict: no unknown keys, no silent conversion ("3" is no number, true is no count)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ScenesSource(Section):
    source: Literal["scenes"]
    train: Count
    val: Count
    test: Count
    size: Annotated[int, Field(ge=32, le=512)]


class FlickrSource(Section):
    source: Literal["flickr8k"]


class Preprocess(Section):
    size: Annotated[int, Field(ge=32, le=1024)]
    fit: Literal["squash", "crop", "pad"]
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]
    max_pixels: Count
    max_rejected: Share


class Encoder(Section):
    backbone: Backbone
    labels: Count
    epochs: Count
    batch_size: Count
    learning_rate: Rate


class Features(Section):
    batch_size: Count


class Tokenize(Section):
    min_count: Count
    max_length: Annotated[int, Field(ge=1, le=100)]


class Glove(Section):
    source: Literal["file", "train"]
    size: Literal[50, 100, 200, 300]
    window: Count
    epochs: Count


class Train(Section):
    attention: Literal["grid", "pooled"]
    units: Annotated[int, Field(ge=1, le=4096)]
    attention_units: Annotated[int, Field(ge=1, le=4096)]
    dropout: Share
    label_smoothing: Share
    pictures_per_batch: Count
    learning_rate: Rate
    schedule: Literal["cosine", "plateau"]
    clip_norm: Annotated[float, Field(gt=0)]
    epochs: Count
    patience: Count
    ema: Share


class Evaluate(Section):
    beam_width: Annotated[int, Field(ge=1, le=100)]
    length_penalty: Annotated[float, Field(ge=0, le=5)]
    max_length: Annotated[int, Field(ge=1, le=100)]
    batch_size: Count
    gallery: Annotated[int, Field(ge=1, le=100)]


class Export(Section):
    sprite_size: Annotated[int, Field(ge=8, le=256)]


SECTIONS: dict[str, type[Section]] = {
    "preprocess": Preprocess,
    "encoder": Encoder,
    "features": Features,
    "tokenize": Tokenize,
    "glove": Glove,
    "train": Train,
    "evaluate": Evaluate,
    "export": Export,
}


class Params(Section):
    """All params with `auto` resolved for the chosen data set."""

    dataset: str
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    download: Annotated[ScenesSource | FlickrSource, Field(discriminator="source")]
    preprocess: Preprocess
    encoder: Encoder
    features: Features
    tokenize: Tokenize
    glove: Glove
    train: Train
    evaluate: Evaluate
    export: Export


def load_params(path: Path | str = "params.yaml") -> Params:
    """Read, resolve and check a params file.

    Raises:
        CaptionerError: one line that names file, key, value and what is allowed.
    """
    path = Path(path)
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a SafeLoader
    except FileNotFoundError:
        raise CaptionerError(f"{path}: no such file; run from the project's top folder") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = " ".join(str(error).split())
        raise CaptionerError(f"{path}: not valid YAML: {where}") from None
    if not isinstance(raw, dict):
        raise CaptionerError(f"{path}: expected sections of keys, found {_show(raw)}")
    try:
        params = Params.model_validate(_resolve(raw, path))
    except ValidationError as error:
        raise CaptionerError(f"{path}: " + "; ".join(map(_explain, error.errors()))) from None
    smallest = SMALLEST_SIZE.get(params.encoder.backbone, 32)
    if params.preprocess.size < smallest:
        raise CaptionerError(
            f"{path}: preprocess.size: {params.preprocess.size} is too small for encoder.backbone "
            f"{params.encoder.backbone}: at least {smallest}"
        )
    return params


def _resolve(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    """Put the chosen data set's row in the place of the table, and its values in that of `auto`."""
    resolved = dict(raw)
    table = resolved.pop("datasets", None)
    if not isinstance(table, dict) or not table:
        raise CaptionerError(f"{path}: datasets: missing; expected a table of data sets")
    for name, row in table.items():
        _check_row(name, row, path)
    dataset = raw.get("dataset")
    if not isinstance(dataset, str) or dataset not in table:
        allowed = ", ".join(map(str, table))
        raise CaptionerError(f"{path}: dataset: {_show(dataset)} is not there; one of: {allowed}")
    row = table[dataset]
    if "download" in raw:
        raise CaptionerError(f"{path}: download: belongs into a row of the table `datasets`")
    resolved["download"] = row["download"]
    for name in SECTIONS:
        section = raw.get(name)
        if not isinstance(section, dict):
            continue  # pydantic says that it is missing or no section
        resolved[name] = dict(section)
        for key, value in section.items():
            if value == "auto":
                if key not in row.get(name, {}):
                    raise CaptionerError(
                        f"{path}: {name}.{key}: auto, but datasets.{dataset}.{name} has no `{key}`; "
                        "write a value in either place"
                    )
                resolved[name][key] = row[name][key]
    return resolved


def _check_row(name: object, row: object, path: Path) -> None:
    """A row holds `download` and, for each section, keys that this section has."""
    if not isinstance(row, dict) or not isinstance(row.get("download"), dict):
        raise CaptionerError(f"{path}: datasets.{name}: expected sections, `download` among them")
    for section, values in row.items():
        if section == "download":
            continue
        if section not in SECTIONS or not isinstance(values, dict):
            allowed = ", ".join(["download", *SECTIONS])
            raise CaptionerError(
                f"{path}: datasets.{name}.{section}: not a section; one of: {allowed}"
            )
        for key in values:
            fields = SECTIONS[section].model_fields
            if key not in fields:
                raise CaptionerError(
                    f"{path}: datasets.{name}.{section}.{key}: unknown key; "
                    f"one of: {', '.join(fields)}"
                )


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _explain(error: dict[str, Any]) -> str:
    """One pydantic error as `key: value: what is allowed`."""
    location = [str(part) for part in error["loc"]]
    if location[:1] == ["download"]:  # drop the tag that pydantic puts after `download`
        location = ["datasets row, download", *location[2:]]
    key = ".".join(location)
    kind = error["type"]
    if kind == "missing":
        return f"{key}: missing"
    if kind == "extra_forbidden":
        known = Params.model_fields if len(location) == 1 else _fields(location[0])
        suffix = f"; one of: {', '.join(known)}" if known else ""
        return f"{key}: unknown key{suffix}"
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{key}: {_show(error['input'])} is not allowed: {message}"


def _fields(section: str) -> list[str]:
    return list(SECTIONS[section].model_fields) if section in SECTIONS else []
