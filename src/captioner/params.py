"""params.yaml as typed, checked objects.

Every stage calls `load_params` before anything else, so that a wrong key, a wrong value or an
impossible combination anywhere in the file, in the rows of other data sets too, stops the pipeline
before any work, in one line. A value `auto` in a section is replaced by the value in the row of the
chosen data set (`datasets.NAME.SECTION.KEY`). A combination in another row is judged by what that
row says, and by the sections only where it says nothing: what `dvc exp run -S` sets for the chosen
data set must not stop at the others.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from captioner import CaptionerError
from captioner.files import read_regular
from captioner.sections import (
    LARGEST_SIZE,
    SECTIONS,
    SMALLEST_SIZE,
    SOURCES,
    Params,
    Section,
)
from captioner.strict_yaml import MAX_BYTES, read_yaml


def load_params(path: Path | str = "params.yaml", dataset: str | None = None) -> Params:
    """Read, resolve and check a params file, the rows of all data sets included.

    Args:
        path: of the file.
        dataset: another row of the table than the file chooses.

    Raises:
        CaptionerError: one line that names file, key, value and what is allowed.
    """
    try:
        raw = _read(Path(path))
        return _check(raw if dataset is None else raw | {"dataset": dataset})
    except CaptionerError as error:
        raise CaptionerError(f"{path}: {error}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = read_yaml(read_regular(path, MAX_BYTES).decode())
    except FileNotFoundError:
        raise CaptionerError("no such file; run from the project's top folder") from None
    except OSError as error:
        raise CaptionerError(f"cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CaptionerError(f"not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise CaptionerError(f"expected sections of keys, found {_show(raw)}")
    return raw


def _check(raw: dict[str, Any]) -> Params:
    table = raw.get("datasets")
    if not isinstance(table, dict) or not table:
        raise CaptionerError("datasets: missing; expected a table of data sets")
    problems = [problem for name, row in table.items() for problem in _check_row(name, row)]
    if problems:
        raise CaptionerError("; ".join(problems))
    dataset = raw.get("dataset")
    if not isinstance(dataset, str) or dataset not in table:
        allowed = ", ".join(map(_name, table))
        raise CaptionerError(f"dataset: {_show(dataset)} is not allowed: one of: {allowed}")
    if "download" in raw:
        raise CaptionerError("download: belongs into a row of the table `datasets`")
    try:
        params = Params.model_validate(_resolve(raw, dataset))
    except ValidationError as error:
        raise CaptionerError("; ".join(_explain(e, Params, "") for e in error.errors())) from None
    for problem in _impossible(dataset, params.model_dump()):
        row = f"datasets.{_name(dataset)}." if problem.startswith("download") else ""
        raise CaptionerError(row + problem)
    for name in table:
        if name != dataset:
            problems += [
                f"datasets.{_name(name)}.{p}" for p in _impossible(name, _meant(raw, name))
            ]
    if problems:
        raise CaptionerError("; ".join(problems))
    return params


def _meant(raw: dict[str, Any], dataset: str) -> dict[str, dict[str, Any]]:
    """The sections by a row of the table, and what it leaves open by the file's sections."""
    row = raw["datasets"][dataset]
    sections = {
        name: {key: value for key, value in raw[name].items() if value != "auto"}
        | row.get(name, {})
        for name in SECTIONS
    }
    return sections | {"download": row["download"]}


def _impossible(dataset: str, sections: dict[str, dict[str, Any]]) -> Iterator[str]:
    """What each key allows alone, but not beside another's value; missing keys are let pass."""
    encoder, train, source = sections["encoder"], sections["train"], sections["download"]
    backbone, side = encoder.get("backbone"), sections["preprocess"].get("side")
    if side is not None:
        smallest, largest = SMALLEST_SIZE.get(backbone, 32), LARGEST_SIZE.get(backbone, side)
        if backbone is not None and not smallest <= side <= largest:
            limit = f"at least {smallest}" if side < smallest else f"at most {largest}"
            yield (
                f"preprocess.side: {side} is not allowed: encoder.backbone {backbone} needs {limit}"
            )
    if backbone in ("cnn", "course_cnn") and encoder.get("epochs") == 0:
        yield (
            f"encoder.epochs: 0 is not allowed: encoder.backbone {backbone} starts from nothing; "
            "at least 1"
        )
    units, heads = train.get("units"), train.get("heads")
    if units is not None and heads is not None and units % heads:
        yield (
            f"train.heads: {heads} is not allowed: they share train.units ({units}) evenly; a "
            "divisor of it"
        )
    label = source.get("label", getattr(SOURCES[source["source"]], "label", None))
    if backbone == "course_cnn" and label is None:
        remedy = "name a column in datasets.table.download.label"
        if source["source"] != "table":
            remedy = "use cnn, which learns the captions' words"
        yield (
            "encoder.backbone: course_cnn is not allowed: it learns class labels, and the data set "
            f"{dataset} has none; {remedy}"
        )
    if source["source"] == "table" and source["split_column"] is None:
        val, test = source["val"], source["test"]
        if val + test >= 1:
            yield (
                f"download: val {val:g} and test {test:g} leave no picture for training; their sum "
                "must be below 1"
            )


def _check_row(name: object, row: object) -> list[str]:
    """What is wrong with a row: it holds `download` and parts of sections."""
    place = f"datasets.{_name(name)}"
    if not isinstance(row, dict) or not isinstance(row.get("download"), dict):
        return [f"{place}: expected sections, `download` among them"]
    problems = []
    for section, values in row.items():
        where = f"{place}.{_name(section)}"
        if section == "download":
            source = values.get("source")
            if source == "table" and name != "table":
                # dvc.yaml can name the files of one row only as what a stage depends on.
                problems.append(f"{where}.source: table is for the row `table` alone; change that")
            elif isinstance(source, str) and source in SOURCES:
                problems += _problems(SOURCES[source], values, where, partial=False)
            else:
                problems.append(
                    f"{where}.source: {_show(source)} is not allowed: one of: {', '.join(SOURCES)}"
                )
        elif section not in SECTIONS:
            problems.append(f"{where}: unknown key; one of: {', '.join(['download', *SECTIONS])}")
        elif not isinstance(values, dict):
            allowed = _allowed(Params, section)
            problems.append(f"{where}: {_show(values)} is not allowed: {allowed}")
        else:
            problems += _problems(SECTIONS[section], values, where, partial=True)
    return problems


def _problems(model: type[Section], values: dict, where: str, partial: bool) -> list[str]:
    """What a model has against values; keys may be missing where they are `partial`."""
    try:
        model.model_validate(values)
    except ValidationError as error:
        errors = [e for e in error.errors() if not (partial and e["type"] == "missing")]
        return [_explain(e, model, f"{where}.") for e in errors]
    return []


def _resolve(raw: dict[str, Any], dataset: str) -> dict[str, Any]:
    """Put the chosen data set's row in the place of the table, and its values in that of `auto`."""
    row = raw["datasets"][dataset]
    resolved = {key: value for key, value in raw.items() if key != "datasets"}
    resolved["download"] = row["download"]
    for name in SECTIONS:
        section = raw.get(name)
        if not isinstance(section, dict):
            continue  # pydantic says that it is missing or no section
        resolved[name] = dict(section)
        for key, value in section.items():
            if value == "auto" and key in SECTIONS[name].model_fields:
                if key not in row.get(name, {}):
                    raise CaptionerError(
                        f"{name}.{key}: auto, but datasets.{dataset}.{name} has no `{key}`; write "
                        f"a value in either place: {_allowed(SECTIONS[name], key)}"
                    )
                resolved[name][key] = row[name][key]
    return resolved


def _explain(error: dict[str, Any], model: type[Section], where: str) -> str:
    """One pydantic error as `key: value: what is allowed`."""
    *sections, key = error["loc"]
    if isinstance(key, int) and sections:  # a place in a list
        *sections, key = sections
    owner = SECTIONS[sections[0]] if sections else model
    place = where + ".".join(map(_name, error["loc"]))
    if error["type"] == "missing":
        return f"{place}: missing; {_allowed(owner, key)}"
    if key not in owner.model_fields:
        keys = [name for name in owner.model_fields if name != "download"]
        return f"{place}: unknown key; one of: {', '.join(keys)}"
    return f"{place}: {_show(error['input'])} is not allowed: {_allowed(owner, key)}"


def _allowed(owner: type[Section], key: str) -> str:
    """What a key may hold, in words: "a whole number, at least 1, at most 100"."""
    if owner is Params and key in SECTIONS:
        return f"a section of keys: {', '.join(SECTIONS[key].model_fields)}"
    schema = owner.model_json_schema()["properties"][key]
    if "anyOf" in schema:
        return "a text, or null"
    if "enum" in schema:
        values = [str(v).lower() if isinstance(v, bool) else str(v) for v in schema["enum"]]
        return f"one of: {', '.join(values)}"
    if schema["type"] == "array":
        return f"a list of {schema['minItems']} to {schema['maxItems']} whole numbers from 0 on"
    bounds = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    limits = [f"{words} {schema[name]}" for name, words in bounds.items() if name in schema]
    nouns = {"integer": "a whole number", "number": "a number", "boolean": "true or false"}
    nouns["string"] = "a text"
    return ", ".join([nouns[schema["type"]], *limits])


def _name(key: object) -> str:
    """A key as part of a message of one line."""
    return str(key) if str(key).isprintable() else _show(str(key))


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
