"""Captions in JSON: COCO's annotations and results, plain objects, JSON lines.

Stricter than Python's reader: a key that stands twice, NaN and absurd nesting are refused.
"""

import json
import re
from collections.abc import Iterator, Sequence

from captioner import CaptionerError
from captioner.caption_files.records import PICTURE_NAMES, Record, kind, lines, listed, shown

# A text in JSON, or what Python reads in JSON though it is none.
_JSON_TEXT_OR_CONSTANT = re.compile(r'"(?:[^"\\]|\\.)*"|NaN|-?Infinity')


def json_records(text: str, names: Sequence[str]) -> Iterator[Record]:
    try:
        document, constants = _parsed(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            yield from _line_records(text, names)
            return
        raise CaptionerError(
            f"line {error.lineno}, column {error.colno}: no JSON, or cut off ({error.msg})"
        ) from None
    if isinstance(document, list):
        yield from _object_records("entry", document, names)
    elif not isinstance(document, dict):
        raise CaptionerError(f"holds {kind(document)} and no captions; is it the right file?")
    elif any(_of_objects(document.get(key)) for key in ("images", "annotations")):
        if "annotations" not in document:
            raise CaptionerError('has "images" but no "annotations"; is it a list of test images?')
        if not isinstance(document["annotations"], list):
            raise CaptionerError(f'"annotations" is {kind(document["annotations"])} and no list')
        yield from _object_records("annotation", document["annotations"], names)
    elif "image_id" in document and any(name in document for name in names):
        yield from _object_records("entry", [document], names)  # JSON lines of one line
    else:
        for number, (key, value) in enumerate(document.items(), start=1):
            yield f"entry {number}", key, value
    if constants:  # in a caption they are named before, with their picture
        found = next(m for m in _JSON_TEXT_OR_CONSTANT.finditer(text) if m[0][0] != '"')
        line = text.count("\n", 0, found.start()) + 1
        column = found.start() - text.rfind("\n", 0, found.start())
        raise CaptionerError(
            f"line {line}, column {column}: {found[0]} is no JSON; write null in its place"
        )


def _line_records(text: str, names: Sequence[str]) -> Iterator[Record]:
    for where, line in lines(text):
        try:
            value, constants = _parsed(line)
        except json.JSONDecodeError as error:
            raise CaptionerError(
                f"{where}, column {error.colno}: no JSON, or cut off ({error.msg})"
            ) from None
        except CaptionerError as error:
            raise CaptionerError(f"{where}: {error}") from None
        yield _object_record(where, value, names)
        if constants:
            raise CaptionerError(f"{where}: {constants[0]} is no JSON; write null in its place")


def _parsed(text: str) -> tuple[object, list[str]]:
    """The value that `text` stands for, and what Python took for numbers though JSON has none such.

    Raises:
        JSONDecodeError: no JSON.
        CaptionerError: JSON that cannot be meant: a key twice, absurd nesting or numbers.
    """
    constants: list[str] = []

    def constant(name: str) -> float:
        constants.append(name)
        return float(name)

    try:
        value = json.loads(text, parse_constant=constant, object_pairs_hook=_object)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise CaptionerError("lists or objects nested too deep; is it the right file?") from None
    except ValueError:
        raise CaptionerError("a number of thousands of digits; is it the right file?") from None
    return value, constants


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A dict, but not of the last value where a key stands twice: json drops the others unseen."""
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen: set[str] = set()
    twice = next(key for key, _ in pairs if key in seen or seen.add(key))
    of = f" (picture {shown(found['image_id'])})" if "image_id" in found else ""
    raise CaptionerError(f"the key {twice:.80} stands twice in one object{of}; keep one of them")


def _of_objects(value: object) -> bool:
    """Whether it is COCO's list, and not the captions of a picture that is named "images"."""
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _object_records(what: str, values: list, names: Sequence[str]) -> Iterator[Record]:
    for number, value in enumerate(values, start=1):
        yield _object_record(f"{what} {number}", value, names)


def _object_record(where: str, value: object, names: Sequence[str]) -> Record:
    if not isinstance(value, dict):
        raise CaptionerError(
            f"{where}: {kind(value)}; expected an object with image_id and {names[0]}"
        )
    image_id = next((name for name in PICTURE_NAMES if name in value), None)
    if image_id is None:
        raise CaptionerError(
            f"{where}: the picture's id is missing: no image_id in {listed(value)}"
        )
    caption = next((name for name in names if name in value), None)
    if caption is None:
        raise CaptionerError(
            f"{where} (picture {shown(value[image_id])}): no {names[0]} in {listed(value)}"
        )
    return where, value[image_id], value[caption]
