"""The gate of the web app: what strangers send to its pages, slowly, in masses, or in disguise.

The pages are the app's own, with a model that only counts; the server runs in a thread and listens
on 127.0.0.1. Limits are made small, so that nothing depends on how fast the machine is.
"""

import asyncio
import base64
import contextlib
import http.client
import io
import json
import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the web app needs the extra `app`")

import uvicorn

from captioner import CaptionerError
from captioner.app import bodies, protocol, server, views
from captioner.app.bodies import Bodies, Refused, form_parts, json_of
from captioner.app.engine import Engine, Wish
from captioner.app.guard import policy
from captioner.app.login import ALL_GUESSES, GUESSES, Login
from captioner.app.shares import Shares, client_of
from captioner.app.uploads import Uploads, own_folder, remove_leftovers
from captioner.bundle import Caption, Decoding, Preparation
from captioner.raster import FORMATS
from captioner.text import Vocabulary
from tests.test_app import MB, png, zeros
from tests.test_bundle import write


def picture(kind: str = "PNG", side: int = 8) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(stream, kind)
    return stream.getvalue()


class Counting:
    """A model that notes how it is asked."""

    preparation = Preparation(16, "squash", 90, 1_000_000)
    decoding = Decoding(2, 5, 0.7, 0, 0.0, 0.0)
    vocabulary = Vocabulary(("a", "red", "circle"), (3, 2, 1))
    batch_size, has_attention, fingerprint = 4, False, "0" * 64

    def __init__(self):
        self.asked = []

    def diverse(self, pictures, *settings):
        return self._noted(("diverse", *settings), pictures)

    def sampled(self, pictures, *settings):
        return self._noted(("sampled", *settings), pictures)

    def caption_prepared(self, pictures):
        return [one for [one] in self._noted(("caption",), pictures)]

    def sentence_vectors(self, sentences):
        return np.zeros((len(sentences), 2)), [[sentence] for sentence in sentences]

    def _noted(self, settings, pictures):
        self.asked.append(settings)
        return [[Caption("a red circle", -1.0)] for _ in pictures]


class Page:
    """The app in a thread of this process."""

    def __init__(self, folder: Path):
        self.model, self.errors = Counting(), []
        table = pd.DataFrame({"image_id": ["a", "b", "c"], "caption": ["a", "red", "circle"]})
        self.engine = Engine(self.model, SimpleNamespace(pictures=table))

        class Pictures:
            def __len__(self):
                return 3

            def jpeg(self, row):
                return None

            def map(self):
                raise CaptionerError("a map takes more pictures")

        self.app = server.build(self.engine, Pictures(), "", lambda: "", folder)
        self.folder, self.serving = folder.resolve(), server.server_of(self.app)
        self.serving.config.load()
        handler = logging.Handler()
        handler.emit = lambda record: self.errors.append(record.getMessage())
        logging.getLogger("uvicorn.error").addHandler(handler)
        listening = server.listen("127.0.0.1", 0)
        self.port = listening.getsockname()[1]
        self.thread = threading.Thread(target=self.serving.run, args=([listening],), daemon=True)
        self.thread.start()
        while not self.serving.started:
            time.sleep(0.01)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str):
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, names)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()

    def post(self, path: str, body: object, kind: str = "application/json") -> int:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.ask("POST", path, data, content_type=kind)[0]

    def refused(self, bodies: Iterable[object]) -> bool:
        """Whether the gate itself refuses all these events, without a connection for each."""

        async def run() -> list[int]:
            for body in bodies:
                data = json.dumps(body).encode()
                await self.app(scope, coming(data), send)
            return statuses

        async def send(message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/gradio_api/queue/join",
            "query_string": b"",
            "client": ("127.0.0.1", 1),
            "headers": [(b"host", b"127.0.0.1:1"), (b"content-type", b"application/json")],
        }
        statuses: list[int] = []
        bodies = list(bodies)
        asyncio.run(run())
        assert len(statuses) == len(bodies) > 0
        wrong = [(s, b) for s, b in zip(statuses, bodies, strict=True) if not 400 <= s < 500]
        assert wrong == []
        return True

    def upload(self, *files: bytes):
        return self.ask("POST", "/gradio_api/upload", form(*files), content_type=FORM)

    def events(self) -> list[dict]:
        return json.loads(self.ask("GET", "/config")[2])["dependencies"]

    def kinds(self) -> dict[int, str]:
        components = json.loads(self.ask("GET", "/config")[2])["components"]
        return {one["id"]: one["type"] for one in components}

    def done(self, session: str) -> dict:
        """The answer to the event of a session."""
        other = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        other.request("GET", f"/gradio_api/queue/data?session_hash={session}")
        answer = other.getresponse()
        while line := answer.readline():
            if line.startswith(b"data: "):
                message = json.loads(line[6:])
                if message["msg"] == "process_completed":
                    other.close()
                    return message
        raise AssertionError("no answer")

    def close(self) -> None:
        self.serving.should_exit = True
        self.thread.join(30)
        self.engine.close()


FORM = "multipart/form-data; boundary=x"


def form(*files: bytes, boundary: bytes = b"x") -> bytes:
    head = b'\r\nContent-Disposition: form-data; name="files"; filename="p.png"\r\n\r\n'
    return b"".join(b"--" + boundary + head + file + b"\r\n" for file in files) + (
        b"--" + boundary + b"--\r\n"
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    before, temporary = dict(os.environ), tempfile.tempdir
    running = Page(tmp_path_factory.mktemp("uploads"))
    yield running
    running.close()
    tempfile.tempdir = temporary
    os.environ.clear()
    os.environ.update(before)


# Pictures come by way of the upload, and in no other.

META = {"_type": "gradio.FileData"}
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\nshowpage\n"
TGA = bytes([0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 24, 0, 1, 2, 3])
BOMB = png(13_000, 13_000, (b"IDAT", zeros(MB)))


def data_url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


URLS = [
    data_url(picture(), "png"),
    data_url(EPS, "eps"),
    data_url(TGA, "tga"),
    data_url(BOMB, "png"),
    "http://127.0.0.1:1/x.png",
    "https://127.0.0.1:1/x.png",
    "file:///etc/passwd",
    "/etc/passwd",
    "",
]


def disguises(uploaded: str) -> list[object]:
    """What Gradio might fetch or decode by itself, or open."""
    values: list[object] = []
    for url in URLS:
        values += [
            url,
            {"path": None, "url": url, "meta": META},
            {"path": None, "url": url},
            {"path": url, "url": None, "meta": META},
            {"path": url, "meta": META},
            {"url": url, "meta": META},
            {"path": uploaded, "url": url, "meta": META},
            {"path": uploaded, "url": url, "orig_name": "x.svg", "meta": META},
            [{"path": uploaded, "url": url, "meta": META}],
            {"image": {"path": None, "url": url, "meta": META}},
        ]
    values += [
        {"path": None, "url": None, "meta": META},
        {"path": uploaded, "meta": {"_type": "gradio.Other"}},
        {"path": uploaded, "meta": META | {"url": URLS[0]}},
        {"path": uploaded, "is_stream": True, "meta": META},
        {"path": [uploaded], "meta": META},
        {"path": uploaded + "/../../../etc/passwd", "meta": META},
        {"path": uploaded + "\0", "meta": META},
        {"path": str(Path(uploaded).parent), "meta": META},
        {"path": uploaded, "meta": META, "chunks": [URLS[0]]},
        {},
        [],
        [[[]]],
    ]
    return values


@pytest.fixture
def opened(monkeypatch):
    """The formats that Pillow was asked to try, each time that it opened something."""
    asked, original = [], Image.open

    def spy(file, mode="r", formats=None):
        asked.append(formats)
        return original(file, mode, formats)

    monkeypatch.setattr(Image, "open", spy)
    return asked


def test_no_event_takes_a_picture_that_was_not_uploaded(page, opened):
    """Every event of the pages, with all ways by which Gradio gets at pictures by itself."""
    [uploaded] = json.loads(page.upload(picture())[2])
    events, kinds, opens = page.events(), page.kinds(), len(opened)
    assert len(events) > 20 and opens > 0  # the spy does see what Pillow opens
    tried = []
    for event in events:
        texts = {kinds[one] for one in event["inputs"]} == {"textbox"}
        clicked = event["collects_event_data"]
        for value in disguises(uploaded):
            body = {"fn_index": event["id"], "session_hash": "thief"}
            if not (texts and isinstance(value, str)):  # else somebody searches for these words
                data = [value] * max(1, len(event["inputs"]))
                tried.append(body | {"data": data, "event_data": {"row": "0"} if clicked else None})
            if clicked or not isinstance(value, dict):
                data = [None] * len(event["inputs"])
                tried.append(body | {"data": data, "event_data": value})
    assert page.refused(tried)
    assert len(opened) == opens
    # No event of this session was ever taken on.
    assert page.ask("GET", "/gradio_api/queue/data?session_hash=thief")[0] == 404


def test_a_value_may_hide_among_good_ones(page):
    [uploaded] = json.loads(page.upload(picture())[2])
    kinds = page.kinds()
    good = {"slider": 1, "radio": "search", "number": 0, "textbox": "a", "state": None}
    good["image"] = {"path": uploaded, "meta": META}
    bad = {"path": uploaded, "url": URLS[0], "meta": META}
    tried = []
    for event in page.events():
        values = [good[kinds[one]] for one in event["inputs"]]
        for place in range(len(values)):
            body = {
                "data": [*values[:place], bad, *values[place + 1 :]],
                "event_data": {"row": "0"} if event["collects_event_data"] else None,
                "fn_index": event["id"],
                "session_hash": "thief",
            }
            tried.append(body)
    assert len(tried) > 50 and page.refused(tried)


def event_of(page, kind: str) -> dict:
    kinds = page.kinds()
    return next(one for one in page.events() if [kinds[i] for i in one["inputs"]] == [kind])


def test_an_uploaded_picture_is_taken_and_read_by_this_programs_formats_alone(page, opened):
    status, _, answer = page.upload(picture("TIFF"))
    [uploaded] = json.loads(answer)
    assert status == 200 and Path(uploaded).is_relative_to(page.folder)
    here = f"http://127.0.0.1:{page.port}/gradio_api/file={uploaded}"
    file = {"path": uploaded, "url": here, "orig_name": "x.tif", "size": 9, "meta": META}
    body = {"data": [file], "fn_index": event_of(page, "image")["id"], "session_hash": "anna"}
    assert page.post("/gradio_api/queue/join", body) == 200
    message = page.done("anna")
    assert message["success"] and "notice" not in json.dumps(message)
    assert opened and all(formats in (FORMATS, ("JPEG",)) for formats in opened)
    # The same place, said to be elsewhere.
    for url in (here.replace("127.0.0.1", "localhost"), here + "?x", here + "x", "file:" + here):
        assert page.post("/gradio_api/queue/join", body | {"data": [file | {"url": url}]}) == 403


@pytest.mark.parametrize(
    ("data", "status"), [(EPS, 415), (TGA, 415), (BOMB, 413), (b"", 415), (b"\xff\xd8", 415)]
)
def test_what_is_no_picture_is_not_kept(page, data, status):
    before = sorted(page.folder.rglob("*"))
    assert page.upload(picture(), data)[0] == status  # also beside one that is
    assert sorted(page.folder.rglob("*")) == before


@pytest.mark.parametrize(
    "body",
    [
        b'{"data": [{"path": null, "path": "/etc/passwd"}], "fn_index": 1, "session_hash": "x"}',
        b'{"data": [{"\\u0075rl": "data:,", "path": null}], "fn_index": 1, "session_hash": "x"}',
        b'{"data": [null], "data": [{"url": "data:,"}], "fn_index": 1, "session_hash": "x"}',
        b'{"data": [NaN], "fn_index": 1, "session_hash": "x"}',
        b'{"data": ["\\ud800"], "fn_index": 18, "session_hash": "x"}',
        b'\xef\xbb\xbf{"data": [null], "fn_index": 1, "session_hash": "x"}',
        '{"data": [null], "fn_index": 1, "session_hash": "x"}'.encode("utf-16"),
        b'{"data": [null], "fn_index": ' + b"1" * 5000 + b', "session_hash": "x"}',
        b"[" * 50_000,
        b"",
        b"null",
        b"[]",
        b'"data"',
        {},
        {"data": [None]},
        {"data": [None], "fn_index": None, "session_hash": "x"},
        {"data": [None], "fn_index": 1},
        {"data": [None], "fn_index": 9999, "session_hash": "x"},
        {"data": [None], "fn_index": -1, "session_hash": "x"},
        {"data": [None], "fn_index": True, "session_hash": "x"},
        {"data": [None], "fn_index": 1.0, "session_hash": "x"},
        {"data": [None], "fn_index": "1", "session_hash": "x"},
        {"data": [None], "fn_index": [1], "session_hash": "x"},
        {"data": [None], "fn_index": 1, "session_hash": ""},
        {"data": [None], "fn_index": 1, "session_hash": "../x"},
        {"data": [None], "fn_index": 1, "session_hash": ["x"]},
        {"data": [None], "fn_index": 1, "session_hash": "x" * 65},
        {"data": [None], "fn_index": 1, "session_hash": "x", "trigger_id": 10**9},
        {"data": [None], "fn_index": 1, "session_hash": "x", "trigger_id": "8"},
        {"data": [None], "fn_index": 1, "session_hash": "x", "batched": True},
        {"data": [None], "fn_index": 1, "session_hash": "x", "event_data": "click"},
        {"data": [], "fn_index": 1, "session_hash": "x"},
        {"data": [None, None], "fn_index": 1, "session_hash": "x"},
        {"data": {"0": None}, "fn_index": 1, "session_hash": "x"},
        {"data": None, "fn_index": 1, "session_hash": "x"},
        {"data": [], "fn_index": 0, "session_hash": "x"},  # a click, and nothing was clicked
        {"data": [], "fn_index": 0, "session_hash": "x", "event_data": None},
        {"data": [], "fn_index": 0, "session_hash": "x", "event_data": {}},
        {"data": [], "fn_index": 0, "session_hash": "x", "event_data": []},
        {"data": [], "fn_index": 0, "session_hash": "x", "event_data": {"row": 0}},
        {"data": [], "fn_index": 0, "session_hash": "x", "event_data": {"target": "0"}},
        {"data": [], "fn_index": 0, "session_hash": "x", "event_data": {"row": "0" * 2000}},
    ],
    ids=lambda body: str(body)[:60],
)
def test_malformed_events_are_refused_without_a_traceback(page, body):
    page.errors.clear()
    assert 400 <= page.post("/gradio_api/queue/join", body) < 500
    for path in ("/gradio_api/cancel", "/gradio_api/reset"):
        assert 400 <= page.post(path, body) < 500
    assert page.errors == []


def test_events_come_as_json_and_by_one_way(page):
    body = json.dumps({"data": [None], "fn_index": 1, "session_hash": "x"}).encode()
    for kind in ("", "text/plain", "application/x-www-form-urlencoded", FORM, "text/json"):
        assert page.post("/gradio_api/queue/join", body, kind) == 415
    assert page.post("/gradio_api/queue/join", body, "application/json; charset=utf-8") == 200
    for path in (
        "/gradio_api/run/predict",
        "/gradio_api/api/predict",
        "/gradio_api/call/predict",
        "/gradio_api/call/v2/predict",
        "/gradio_api/queue/join/x",
        "/gradio_api//queue/join",
        "/queue/join",
        "/run/predict",
        "/api/predict",
        "/upload",
        "/gradio_api/component_server",
        "/gradio_api/process_recording",
        "/gradio_api/stream/x",
        "/gradio_api/vibe-edit",
        "/login",
    ):
        assert page.post(path, body) == 404, path
    # Two headers of a kind: Gradio would go by the first, the gate by the last.
    lines = "POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n"
    lines += f"Content-Type: {FORM}\r\nContent-Type: {FORM}y\r\n\r\n{{}}"
    assert raw(page.port, lines.encode()).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "path",
    [
        "/?page=none",
        "/?deep_link=none",
        "/config?deep_link=none&page=none",
        "/theme.css?v=%00",
        "/static/%00",
        "/static/" + "x" * 5000,
        "/assets/%ff",
        "/gradio_api/file=/" + "x" * 5000,
        "/gradio_api/file={folder}",
        "/gradio_api/file={folder}/" + "x/" * 2000,
        "/gradio_api/file=%00",
        "/gradio_api/queue/data",
        "/gradio_api/queue/data?session_hash=none",
        "/gradio_api/queue/data?" + "a&" * 1000,
        "/gradio_api/heartbeat/%0a",
        "/pictures/99999999999999999999.jpg",
        "/pictures/\u0661.jpg",
        "/api/search?sentence=%ff%00&top=1e3",
        "/api/map.json?x=%ff",
    ],
)
def test_odd_addresses_are_no_errors_of_the_server(page, path):
    page.errors.clear()
    path = path.replace("{folder}", str(page.folder)).replace("\u0661", "%D9%A1")
    status, _, body = page.ask("GET", path)
    assert status < 500 and b"Traceback" not in body
    assert page.errors == []


@pytest.mark.parametrize("asked", ["bytes=1-2-3", "bytes=a-b", "bytes=9-1", "x", "bytes=0-1"])
def test_odd_ranges_are_left_out(page, asked):
    [uploaded] = json.loads(page.upload(picture())[2])
    status, _, body = page.ask("GET", f"/gradio_api/file={uploaded}", range=asked)
    assert (status, body) == (200, picture())


# Options of requests.


def test_controls_of_the_page_have_limits_and_steps(page):
    kinds = page.kinds()
    event = next(one for one in page.events() if len(one["inputs"]) == 7)
    assert [kinds[one] for one in event["inputs"]] == [
        "state",
        *("slider", "radio", "slider", "slider", "slider", "number"),
    ]
    good = [None, 5, "search", 2, 0.7, 0.9, 0]

    def status(place: int, text: str) -> int:
        data = json.dumps([*good[:place], "X", *good[place + 1 :]]).replace('"X"', text)
        body = f'{{"data": {data}, "fn_index": {event["id"]}, "session_hash": "steps"}}'
        return page.post("/gradio_api/queue/join", body.encode())

    for place in (1, 3, 4, 5, 6):
        for wrong in ("NaN", "Infinity", "1e999", "-1", "1e10", '"1"', "true", "[1]", "{}"):
            assert status(place, wrong) == 400, (place, wrong)
    assert status(2, '"draw"') == status(2, "[]") == status(2, "1") == 400
    assert status(5, "0.123456789") == status(6, "null") == 200


def test_a_request_can_make_only_a_few_graphs(page):
    """Each new setting is compiled, by the one thread that answers all."""
    page.model.asked.clear()
    for number in range(100):
        share = 0.01 + 0.99 * number / 99
        for query in (f"top_p={share}&seed={number}", f"length={2 * share}"):
            assert page.ask("POST", f"/api/caption?{query}", picture())[0] == 200
    asked = page.model.asked
    assert len({one[3] for one in asked if one[0] == "sampled"}) <= 20
    assert len({one[3] for one in asked if one[0] == "diverse"}) <= 41
    for query in ("top_p=nan", "top_p=inf", "length=nan", "length=-1", "seed=-1", "number=1e1"):
        assert page.ask("POST", f"/api/caption?{query}", picture())[0] == 422, query


def test_the_model_compiles_only_a_few_graphs(tmp_path):
    """The same with a real one: what is compiled is counted."""
    from captioner import bundle

    captioner = bundle.load(write(tmp_path / "bundle"), batch_size=1)
    functions = [
        one
        for one in vars(captioner._decode).values()
        if hasattr(one, "experimental_get_tracing_count")
    ]
    assert len(functions) > 2
    engine = Engine(captioner)
    size = captioner.preparation.size
    pixels = np.zeros((size, size, 3), np.uint8)

    def compiled() -> int:
        return sum(one.experimental_get_tracing_count() for one in functions)

    def ask(**wish: float) -> None:
        engine.captions(pixels, Wish(**wish)).result(60)

    shares = np.linspace(0.01, 1, 100).tolist()
    for share in shares:
        ask(top_p=share)
    assert 1 <= compiled() <= 25  # a grid of 20 shares, and what else there is
    ask(number=2)
    before = compiled()
    for number, share in enumerate(shares):
        ask(number=2, length_penalty=2 * share)
        ask(top_p=0.5, seed=number)
    assert compiled() == before
    engine.close()


def test_settings_are_brought_to_a_grid():
    assert Wish(top_p=0.123) == Wish(top_p=0.1) and Wish(top_p=0.01).top_p == 0.05
    assert Wish(length_penalty=0.7).length_penalty == 0.7
    assert Wish(length_penalty=1.2345).length_penalty == 1.25
    for wrong in (
        {"top_p": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"length_penalty": float("inf")},
        {"length_penalty": -0.1},
        {"number": 0},
        {"number": 6},
        {"beam_width": 11},
        {"seed": -1},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Wish(**wrong)


# What comes slowly, or in masses.


def refusal(status: int, function, *arguments) -> Refused:
    with pytest.raises(Refused) as refused:
        function(*arguments)
    assert refused.value.status == status
    return refused.value


def test_json_is_measured_before_it_is_parsed(monkeypatch):
    text = '{"data": ["[[[[,,,,\\\\", "\\"]]{{", null], "fn_index": 1}'
    assert json_of(text.encode()) == json.loads(text)
    assert json_of(json.dumps(["[" * 500, "," * 5000]).encode())[0] == "[" * 500
    full = [1] * (bodies.VALUES - 1)
    assert json_of(json.dumps(full).encode()) == full
    monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("it was parsed"))
    for many in (
        b"[" + b"{}," * 600_000 + b"{}]",
        json.dumps([*full, 1]).encode(),
        b"[" * (bodies.NESTED + 1),
        b'{"a":' * (bodies.NESTED + 1),
        b'"' + b'\\"' * 200_000 + b"[" * 99 + b'"' + b"," * 2000,
    ):
        refusal(413, json_of, many)


@pytest.mark.parametrize(
    "data", [b"", b"{", b'"' + b'\\"' * 50_000, b'{"a":1,"a":1}', b"[NaN]", b"\xff", b'"\\udc00"']
)
def test_what_is_no_json(data):
    refusal(400, json_of, data)


def test_parts_of_a_form():
    files = [b"", b"\r\n--", b"y--x", b"\r\n--y\r\n", b"a\r\n\r\nb\r\n", b"\0" * 9, b"z", b"\r\n"]
    assert form_parts(form(*files), FORM) == files
    assert form_parts(form(b"a", boundary=b"a b"), 'multipart/form-data; boundary="a b"') == [b"a"]
    refusal(400, form_parts, form(*files, b"one too many"), FORM)
    for data, kind in (
        (form(b"a"), "text/plain; boundary=x"),
        (form(b"a"), "multipart/form-data"),
        (form(b"a"), "multipart/form-data; boundary="),
        (form(b"a", boundary=b"x" * 71), "multipart/form-data; boundary=" + "x" * 71),
        (form(b"a"), "multipart/form-data; boundary=y"),
        (form(b"a")[:-6], FORM),  # it does not end
        (form(), FORM),
        (b"before\r\n" + form(b"a"), FORM),
        (b"--x\r\nno headers\r\n--x--", FORM),
        (b"--x\r\n" + b"a: b\r\n" * 2000 + b"\r\na\r\n--x--", FORM),
    ):
        refusal(400, form_parts, data, kind)


def test_a_form_of_many_parts_is_not_taken_apart():
    """Nine pieces are, of a hundred thousand."""

    splits = []

    class Data(bytes):
        def __radd__(self, other):
            return Data(bytes(other) + bytes(self))

        def split(self, *arguments):
            pieces = bytes(self).split(*arguments)
            splits.append(len(pieces))
            return pieces

    refusal(400, form_parts, Data(form(*[b"a"] * 100_000)), FORM)
    assert splits == [bodies.FORM_PARTS + 2]


def coming(*messages: bytes | None):
    """`receive` of ASGI: these pieces, of which None never comes; the last one ends the body."""
    waiting = list(messages)

    async def receive():
        piece = waiting.pop(0)
        if piece is None:
            await asyncio.sleep(3600)
        return {"type": "http.request", "body": piece, "more_body": bool(waiting)}

    return receive


def test_only_bytes_that_came_are_held():
    held = Shares(100)
    reading = Bodies(Shares(100), held, patience=0.01, rate=10**9)

    async def run():
        # Twenty who promise all there is and send a byte each, all of one address.
        slow = [
            asyncio.create_task(reading.read(coming(b"x", None), "a", 1000, 1000))
            for _ in range(20)
        ]
        await asyncio.sleep(0)
        assert held.used == 20
        body = await reading.read(coming(b"y" * 30), "b", 30, 1000)
        assert bytes(body.data) == b"y" * 30 and held.used == 50
        found = await asyncio.gather(*slow, return_exceptions=True)
        assert [one.status for one in found] == [408] * 20
        assert held.used == 30
        body.close()
        body.close()
        assert held.used == 0

    asyncio.run(run())


def test_bodies_that_come_on_may_take_their_time(monkeypatch):
    """A second more for each `rate` bytes that came."""
    ends, original = [], asyncio.timeout_at

    def timeout_at(when):
        ends.append(when)
        return original(when)

    monkeypatch.setattr(asyncio, "timeout_at", timeout_at)
    reading = Bodies(Shares(9), Shares(900), patience=100, rate=5)
    assert len(asyncio.run(reading.read(coming(*[b"x" * 10] * 4), "a", None, 900)).data) == 40
    assert np.diff(ends) == pytest.approx([2, 2, 2])


@pytest.mark.parametrize(
    ("promised", "limit", "status"), [(50, 29, 413), (None, 29, 413), (50, 90, 503)]
)
def test_too_much_is_said_to_who_sends_it(promised, limit, status):
    """What comes is read to its end, and thrown away."""
    reading = Bodies(Shares(9), Shares(60))  # of which a client has half
    receive = coming(*[b"x" * 10] * 5)
    with pytest.raises(Refused) as refused:
        asyncio.run(reading.read(receive, "a", promised, limit))
    assert refused.value.status == status
    assert reading._held.used == reading._requests.used == 0
    with pytest.raises(IndexError):
        asyncio.run(receive())


def test_who_asks_too_often_leaves_room_for_others():
    reading = Bodies(Shares(10), Shares(1000))

    async def run():
        mine = [await reading.read(coming(b"x"), "a", 1, 9) for _ in range(5)]
        with pytest.raises(Refused, match="Too many requests"):
            await reading.read(coming(b"x"), "a", 1, 9)
        other = await reading.read(coming(b"x"), "b", 1, 9)
        for body in (*mine, other):
            body.close()
        assert (reading._requests.used, reading._held.used) == (0, 0)

    asyncio.run(run())


def test_shares():
    shares = Shares(12)
    assert [shares.take("a") for _ in range(7)] == [True] * 6 + [False]
    assert [shares.take("b") for _ in range(4)] == [True] * 3 + [False]
    assert shares.take("c", 1) and not shares.take("c", 2)
    shares.give_back("a", 6)
    assert shares.take("c", 4) and not shares.take("d", 9)
    for client, amount in (("b", 3), ("c", 5)):
        shares.give_back(client, amount)
    assert shares.used == 0 and not shares._held
    assert client_of("10.0.0.7") == client_of("::ffff:10.0.0.7") == "10.0.0.7"
    assert client_of("2001:db8::1") == client_of("2001:db8::ffff:2%eth0")
    assert client_of("2001:db8::1") != client_of("2001:db8:0:1::1")
    assert len(client_of("x" * 1000)) == 64


# Connections.


@contextlib.contextmanager
def serving(**limits):
    """A server of one answer, in a thread, with the app's connections and other limits."""

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            return
        if scope["path"] == "/read":
            while (await receive()).get("more_body"):
                pass
        if scope["path"] == "/long":
            await asyncio.sleep(limits["HEADER_SECONDS"] * 3)
        start = {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-length", b"2")],
        }
        await send(start)
        await send({"type": "http.response.body", "body": b"ok"})

    connections = limits.pop("CONNECTIONS", 20)
    kind = type("Small", (protocol.Protocol,), {"shares": Shares(connections)})
    with pytest.MonkeyPatch.context() as patch:
        for name, value in limits.items():
            patch.setattr(protocol, name, value)
        config = uvicorn.Config(app, http=kind, log_level="critical", lifespan="off")
        config.timeout_keep_alive = limits.get("HEADER_SECONDS", 5)
        running = uvicorn.Server(config)
        config.load()
        listening = server.listen("127.0.0.1", 0)
        thread = threading.Thread(target=running.run, args=([listening],), daemon=True)
        thread.start()
        while not running.started:
            time.sleep(0.01)
        yield listening.getsockname()[1]
        running.should_exit = running.force_exit = True
        thread.join(30)
    assert kind.shares.used == 0


def connect(port: int, data: bytes = b"") -> socket.socket:
    one = socket.create_connection(("127.0.0.1", port), 60)
    one.sendall(data)
    return one


def rest(one: socket.socket) -> bytes:
    """What still comes, until the other side closes."""
    found = b""
    with one, contextlib.suppress(ConnectionError):
        while piece := one.recv(65536):
            found += piece
    return found


def raw(port: int, data: bytes) -> bytes:
    one = connect(port, data)
    one.shutdown(socket.SHUT_WR)
    return rest(one)


ASK = b"GET / HTTP/1.1\r\nHost: x\r\n"


def test_headers_that_do_not_end_are_given_up():
    with serving(HEADER_SECONDS=0.1) as port:
        for start in (b"", b"G", ASK, ASK + b"\r\n" + ASK):
            answer = rest(connect(port, start))
            assert answer.count(b"200 OK") == start.count(b"\r\n\r\n")
        # Also where a byte comes now and then.
        one = connect(port, ASK)
        with pytest.raises(ConnectionError):
            for _ in range(1000):
                time.sleep(0.02)
                one.sendall(b"a")
        one.close()
        # An answer may take longer.
        assert b"200 OK" in rest(
            connect(port, ASK.replace(b"/ ", b"/long ") + b"Connection: close\r\n\r\n")
        )


def test_a_body_that_nobody_reads_does_not_go_on_for_ever():
    with serving(HEADER_SECONDS=0.1) as port:
        one = connect(port, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n")
        with pytest.raises(ConnectionError):
            for _ in range(1000):
                time.sleep(0.02)
                one.sendall(b"a")
        one.close()


def test_headers_have_a_size():
    with serving(HEADER_BYTES=1000) as port:
        assert b" 200 OK" in raw(port, ASK + b"a: b\r\n" * 100 + b"\r\n")
        assert b" 400 Bad" in raw(port, ASK + b"a: b\r\n" * 10_000 + b"\r\n")
        assert b" 400 Bad" in raw(port, b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize("path", [b"/read", b"/"])
def test_chunks_have_a_size(path):
    """Each costs as much as a large one."""
    head = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with serving(CHUNKS=50) as port:
        assert b" 200 OK" in raw(port, head + b"1\r\nx\r\n" * 40 + b"0\r\n\r\n")
        large = b"400\r\n" + b"x" * 1024 + b"\r\n"
        assert b" 200 OK" in raw(port, head + large * 200 + b"0\r\n\r\n")
        if path == b"/read":
            assert b" 400 Bad" in raw(port, head + b"1\r\nx\r\n" * 60 + b"0\r\n\r\n")
        else:  # answered before the body came
            assert raw(port, head + b"1\r\nx\r\n" * 60 + b"0\r\n\r\n").count(b"HTTP/1.1") <= 1


def test_one_client_does_not_get_all_connections():
    with serving(CONNECTIONS=8) as port:
        mine = [connect(port) for _ in range(4)]
        answer = rest(connect(port, ASK + b"\r\n"))
        assert b"503 Service" in answer and b"retry-after: 1" in answer
        # Refused before its body has come, the client still reads the answer, and no reset.
        post = connect(port, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n")
        time.sleep(0.05)
        for _ in range(30):
            post.sendall(bytes(10_000))
        with post:
            assert post.recv(1000).startswith(b"HTTP/1.1 503 Service")
        other = socket.create_connection(("127.0.0.1", port), 60, source_address=("127.0.0.2", 0))
        other.sendall(ASK + b"Connection: close\r\n\r\n")
        assert b" 200 OK" in rest(other)
        mine.pop().close()
        for _ in range(500):
            answer = rest(connect(port, ASK + b"Connection: close\r\n\r\n"))
            if b" 200 OK" in answer:
                break
            time.sleep(0.01)
        assert b" 200 OK" in answer
        for one in mine:
            one.close()


def test_who_does_not_read_is_given_up():
    aborted = []
    one = protocol.Protocol.__new__(protocol.Protocol)
    one.flow = SimpleNamespace(pause_writing=lambda: None, resume_writing=lambda: None)
    one.transport = SimpleNamespace(abort=lambda: aborted.append(True))

    async def run():
        one.loop = asyncio.get_running_loop()
        one.pause_writing()
        one.resume_writing()
        await asyncio.sleep(0.05)
        assert not aborted
        one.pause_writing()
        await asyncio.sleep(0.05)
        assert aborted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "SEND_SECONDS", 0.01)
        asyncio.run(run())


# Passwords.


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


def test_passwords_are_guessed_slowly():
    now = [0.0]
    login = Login("anna", "schön:1", lambda: now[0])
    right, wrong = basic("anna:schön:1"), basic("anna:1")
    login.check("a", right)
    for _ in range(2 * GUESSES):
        assert refusal(401, login.check, "a", None).headers  # a browser's first question
    for number in range(GUESSES):
        refusal(401, login.check, "a", ("Basic \u00e4", wrong, "Bearer x", "")[number % 4])
    for guess in (wrong, right):  # or the answer would tell which one is right
        assert 1 <= int(refusal(429, login.check, "a", guess).headers["retry-after"]) <= 7
    login.check("b", right)  # others are not kept out
    now[0] += 6.1
    login.check("a", right)
    refusal(401, login.check, "a", wrong)
    refusal(429, login.check, "a", right)


def test_passwords_are_guessed_slowly_from_many_addresses_too():
    now = [0.0]
    login = Login("anna", "secret", lambda: now[0])
    login.check("friend", basic("anna:secret"))
    for number in range(ALL_GUESSES):
        refusal(401, login.check, f"10.0.0.{number}", basic(f"anna:{number}"))
    refusal(429, login.check, "10.1.0.1", basic("anna:x"))
    refusal(429, login.check, "10.1.0.2", basic("anna:secret"))
    login.check("friend", basic("anna:secret"))  # who was let in before still is
    now[0] += 60
    login.check("10.1.0.2", basic("anna:secret"))


def test_all_that_is_compared_has_one_length(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "hmac.compare_digest", lambda one, other: seen.append((len(one), len(other)))
    )
    for text in ("", "anna:secret", "x" * 5000):
        refusal(401, Login("anna", "secret").check, "a", basic(text))
    assert set(seen) == {(32, 32)} and len(seen) == 3


# Pages, and the folder for uploads.


def test_the_page_runs_its_own_scripts_alone(page):
    status, headers, body = page.ask("GET", "/")
    rules = dict(
        rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";")
    )
    assert status == 200 and "unsafe" not in rules["script-src"]
    assert rules["script-src"].count("'sha256-") == len(re.findall(rb"<script[^>]*>[^<]", body)) > 2
    assert headers["cross-origin-resource-policy"] == "same-origin"
    # Elsewhere no script in the text of an answer runs.
    for path in ("/config", "/nothing", "/theme.css"):
        headers = page.ask("GET", path)[1]
        assert "sha256" not in headers["content-security-policy"]
        assert headers["cross-origin-resource-policy"] == "same-origin"
    assert policy([]) == headers["content-security-policy"]


def test_a_query_is_shown_in_the_words_of_the_vocabulary():
    words = Vocabulary.build([["红"], ["圆"]], 1, split_characters=True).words_of("红圆 zebra")
    assert words == ["红", "圆", "zebra"]
    shown = views.sentence(words, ["zebra", "圆"])
    assert shown.startswith("<p class='sentence'>红 <s ") and shown.count("<s ") == 2
    assert "<b>" not in views.sentence(["<b>"], [])


def test_uploads_have_a_limit(tmp_path):
    uploads = Uploads(tmp_path, kept=100)
    paths = [uploads.keep(bytes([number]) * 40) for number in range(3)]
    assert [path.exists() for path in paths] == [False, True, True]
    assert uploads.keep(b"\1" * 40) == paths[1] and paths[1].read_bytes() == b"\1" * 40
    paths[2].unlink()  # as Gradio does with old ones
    last = uploads.keep(b"\3" * 200)
    assert last.exists() and not paths[1].exists()


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_killed_servers_left_is_removed(temporary):
    dead = gone()
    ours = temporary / f"captioner-app-{dead}-abc"
    unlocked, foreign = temporary / f"captioner-app-{dead}-new", temporary / "captioner-app-x"
    named = temporary / f"captioner-app-{dead}-{dead}-notes"
    alive = temporary / f"captioner-app-{os.getppid()}-abc"
    for folder in (ours, unlocked, foreign, named, alive):
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "photo.png").write_bytes(b"x")
    for folder in (ours, foreign, named, alive):
        (folder / ".lock").touch()
    link = temporary / f"captioner-app-{dead}-link"
    link.symlink_to(foreign)
    remove_leftovers(temporary)
    assert not ours.exists() and link.is_symlink()
    for folder in (unlocked, foreign, named, alive):
        assert (folder / "sub" / "photo.png").exists()


def test_folders_of_running_servers_and_other_users_stay(temporary, monkeypatch):
    from filelock import FileLock

    folder = temporary / f"captioner-app-{gone()}-abc"
    folder.mkdir()
    with FileLock(folder / ".lock"):  # its process is in another container
        remove_leftovers(temporary)
        assert folder.exists()
    monkeypatch.setattr(os, "getuid", lambda: temporary.stat().st_uid + 1)
    remove_leftovers(temporary)
    assert folder.exists()
    monkeypatch.undo()
    remove_leftovers(temporary)
    assert not folder.exists()


def test_the_folder_of_a_server_ends_with_it(temporary):
    with pytest.raises(SystemExit), own_folder() as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "picture.png").write_bytes(b"x")
        assert folder.parent == temporary and f"-{os.getpid()}-" in folder.name
        raise SystemExit
    assert list(temporary.iterdir()) == []
