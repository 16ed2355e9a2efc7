"""What an event of the pages may bring: the values that their controls can have, nothing else.

Gradio takes more: it fetches addresses, decodes pictures out of Base64 with every reader that
Pillow has, opens any file that the server can read where it is mounted in another application, and
fails with a traceback on what it does not expect. So each body is compared with the pages and
written anew, and of it only what was compared goes on.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import gradio as gr

from captioner.app.bodies import Refused

FILE = "/gradio_api/file="
TEXT = 1000  # characters of a text where its control has no limit of its own
KEYS = {"data", "event_data", "fn_index", "trigger_id", "session_hash"}
FILE_KEYS = {"path", "url", "orig_name", "size", "mime_type", "is_stream", "meta"}
META = {"_type": "gradio.FileData"}
CLICKED = {"row", "word", "caption"}  # what buttons say of themselves, see click.js
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Events:
    """The events of some pages.

    Args:
        pages: whose events; uploads: the folder that their files lie in.
    """

    def __init__(self, pages: gr.Blocks, uploads: Path):
        self._pages, self._uploads = pages, uploads.resolve()
        self._kinds: dict[str, Callable] = {
            "image": self._file,
            "state": _nothing,
            "slider": _number,
            "number": _number_or_none,
            "radio": _choice,
            "textbox": _text,
        }

    def join(self, body: object, host: str) -> dict:
        """The body of an event, with what Gradio may see of it.

        Args:
            body: from JSON; host: name and port that the request was sent to.

        Raises:
            Refused: it is none that the pages send.
        """
        if not isinstance(body, dict) or not body.keys() <= KEYS:
            raise _wrong("no event of this page")
        function = self._function(body.get("fn_index"))
        trigger = body.get("trigger_id")
        if trigger is not None and (type(trigger) is not int or trigger not in self._pages.blocks):
            raise _wrong("no such control")
        data, controls = body.get("data"), function.inputs
        if not isinstance(data, list) or len(data) != len(controls):
            raise _wrong(f"{len(controls)} values expected")
        values = [
            self._kinds[control.get_block_name()](value, control, host)
            for value, control in zip(data, controls, strict=True)
        ]
        return {
            "data": values,
            "event_data": _clicked(body.get("event_data"), function.collects_event_data),
            "fn_index": body["fn_index"],
            "trigger_id": trigger,
            "session_hash": _name(body.get("session_hash")),
        }

    def cancel(self, body: object) -> dict:
        """The body that ends an event; as `join`."""
        if not isinstance(body, dict) or body.keys() != {"session_hash", "fn_index", "event_id"}:
            raise _wrong("no event of this page")
        self._function(body["fn_index"])
        return body | {key: _name(body[key]) for key in ("session_hash", "event_id")}

    def reset(self, body: object) -> dict:
        """The body that forgets an event; as `join`."""
        if not isinstance(body, dict) or body.keys() != {"event_id"}:
            raise _wrong("no event of this page")
        return {"event_id": _name(body["event_id"])}

    def waits(self, session: str) -> bool:
        """Whether a page has asked for something whose answers it can wait for."""
        return session in self._pages._queue.pending_messages_per_session

    def uploaded(self, path: object) -> Path:
        """A file of the uploads' folder.

        Raises:
            Refused: it is none.
        """
        if isinstance(path, str) and "\0" not in path and Path(path).is_absolute():
            try:
                file = Path(path).resolve()
                if file.is_relative_to(self._uploads) and file.is_file():
                    return file
            except (OSError, ValueError, RuntimeError):  # too long a name, a loop of links
                pass
        raise Refused(403, "Files of the server are not for reading.")

    def _function(self, number: object):
        if type(number) is not int or number not in self._pages.fns:
            raise _wrong("no such event")
        return self._pages.fns[number]

    def _file(self, value: object, control: gr.Image, host: str) -> dict | None:
        """An uploaded picture, by its path alone."""
        if value is None:
            return None
        if not isinstance(value, dict) or not value.keys() <= FILE_KEYS:
            raise _wrong("no uploaded picture")
        if value.get("meta", META) != META or value.get("is_stream"):
            raise _wrong("no uploaded picture")
        path = self.uploaded(value.get("path"))
        if (url := value.get("url")) is not None and not _is_own(url, value["path"], host):
            raise Refused(403, "Files are uploaded, not fetched.")
        return {"path": str(path), "meta": META}


def _is_own(url: object, path: str, host: str) -> bool:
    """Whether an address is where the page itself shows a file from."""
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
    except ValueError:
        return False
    own = parts.scheme in ("http", "https") and parts.netloc == host
    return own and not parts.query + parts.fragment and unquote(parts.path).endswith(FILE + path)


def _nothing(value: object, control: gr.State, host: str) -> None:
    """The state of a session stays on the server."""
    if value is not None:
        raise _wrong("a value that is the server's own")


def _number(value: object, control: gr.Slider | gr.Number, host: str) -> float:
    """A number that the control can have: within its limits, on its steps."""
    if type(value) not in (int, float) or not math.isfinite(value):
        raise _wrong("a number expected")
    if not control.minimum <= value <= control.maximum:
        raise _wrong(f"a number from {control.minimum} to {control.maximum} expected")
    if value == control.value:  # what the page began with may lie between two steps
        return value
    steps = round((value - control.minimum) / control.step)
    value = min(round(control.minimum + steps * control.step, 6), control.maximum)
    return int(value) if float(control.step).is_integer() else value


def _number_or_none(value: object, control: gr.Number, host: str) -> float | None:
    """As `_number`; None is a field that was emptied."""
    return None if value is None else _number(value, control, host)


def _choice(value: object, control: gr.Radio, host: str) -> str:
    if value not in [known for _, known in control.choices]:
        raise _wrong("no such choice")
    return value


def _text(value: object, control: gr.Textbox, host: str) -> str:
    if not isinstance(value, str) or len(value) > (control.max_length or TEXT):
        raise _wrong(f"a text of up to {control.max_length or TEXT} characters expected")
    return value


def _clicked(value: object, wanted: bool) -> dict | None:
    """What was clicked: of an event that asks for it."""
    if not wanted:
        if value is not None and not isinstance(value, dict):
            raise _wrong("no such click")
        return None
    if not isinstance(value, dict) or not value or not value.keys() <= CLICKED:
        raise _wrong("no such click")
    if not all(isinstance(text, str) and len(text) <= TEXT for text in value.values()):
        raise _wrong("no such click")
    return value


def _name(value: object) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise _wrong("no name of a session or event")
    return value


def _wrong(what: str) -> Refused:
    return Refused(400, f"This is not what the page sends: {what}.")
