"""Strict JSON and JSON lines: a key that stands twice, NaN and absurd nesting are refused, though
Python's reader takes them.
"""

import json
import re
from collections.abc import Callable, Iterator

from captioner import CaptionerError
from captioner.caption_files.records import MAX_VALUES, lines, shown

# A text in JSON, or what Python reads in JSON though it is none.
_JSON_TEXT_OR_CONSTANT = re.compile(r'"(?:[^"\\]|\\.)*"|NaN|-?Infinity')


def json_values(
    text: str, number: Callable[[str], object] | None = None
) -> Iterator[tuple[str | None, object]]:
    """(None, the whole document), or of JSON lines ("line 3", its value) for each.

    NaN and infinity are named after the value was taken: who takes it may name them better.

    Args:
        number: what is made of a number's text; default: Python's numbers.
    """
    if text.count(",") > MAX_VALUES:
        raise CaptionerError(f"holds more than {MAX_VALUES:,} values; is it the right file?")
    try:
        document, constants = _parsed(text, number)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            yield from _line_values(text, number)
            return
        raise CaptionerError(
            f"line {error.lineno}, column {error.colno}: no JSON, or cut off ({error.msg})"
        ) from None
    yield None, document
    if constants:
        found = next(m for m in _JSON_TEXT_OR_CONSTANT.finditer(text) if m[0][0] != '"')
        line = text.count("\n", 0, found.start()) + 1
        column = found.start() - text.rfind("\n", 0, found.start())
        raise CaptionerError(
            f"line {line}, column {column}: {found[0]} is no JSON; write null in its place"
        )


def _line_values(text: str, number: Callable[[str], object] | None) -> Iterator[tuple[str, object]]:
    for where, line in lines(text):
        try:
            value, constants = _parsed(line, number)
        except json.JSONDecodeError as error:
            raise CaptionerError(
                f"{where}, column {error.colno}: no JSON, or cut off ({error.msg})"
            ) from None
        except CaptionerError as error:
            raise CaptionerError(f"{where}: {error}") from None
        yield where, value
        if constants:
            raise CaptionerError(f"{where}: {constants[0]} is no JSON; write null in its place")


def _parsed(text: str, number: Callable[[str], object] | None) -> tuple[object, list[str]]:
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
        value = json.loads(
            text,
            parse_constant=constant,
            object_pairs_hook=_object,
            parse_int=number,
            parse_float=number,
        )
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
