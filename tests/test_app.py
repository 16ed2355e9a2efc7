"""The web app as it is started by hand: its HTTP answers, hostile uploads, and a real browser.

One server, `captioner app`, with a bundle of random weights and a collection of drawn scenes; it
listens on 127.0.0.1 and is stopped at the end.
"""

import base64
import contextlib
import http.client
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from captioner import collection
from captioner.cli import main
from captioner.datasets.scene_drawing import draw, sample_facts
from captioner.embeddings import write_vectors
from tests.test_bundle import WORDS, picture, write

pytest.importorskip("gradio", reason="the web app needs the extra `app`")

MARKUP = "<img src=x onerror=alert(1)> a 'red' \"circle\""
MB = 1_000_000


def scene(seed: int, kind: str = "PNG", side: int = 64, **settings: object) -> bytes:
    rng = np.random.default_rng(seed)
    stream = io.BytesIO()
    draw(sample_facts(rng), side, rng).save(stream, kind, **settings)
    return stream.getvalue()


class Server:
    """`captioner app` in a process of its own."""

    def __init__(self, folder: Path, *options: str, **environment: str):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder, self.address = folder, f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "captioner.cli", "app", "--port", str(self.port)]
        self.log = (folder / "app.log").open("w+")
        (folder / "tmp").mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [*command, *options],
            cwd=folder,
            env=os.environ | {"TMPDIR": str(folder / "tmp")} | environment,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        for _ in range(1200):
            assert self.process.poll() is None, self.said()
            with contextlib.suppress(OSError):
                self.ask("GET", "/health")
                return
            time.sleep(0.1)
        raise AssertionError(f"no answer: {self.said()}")

    def said(self) -> str:
        return (self.folder / "app.log").read_text()

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str):
        """Status, headers and body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, names)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def upload(self, data: bytes, name: str = "picture.png"):
        """As Gradio's page sends a picture."""
        head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        form = {"content_type": "multipart/form-data; boundary=x"}
        body = head.encode() + data + b"\r\n--x--\r\n"
        return self.ask("POST", "/gradio_api/upload", body, **form)

    def memory(self) -> int:
        """The most that it had in memory since `forget`, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    def forget(self) -> int:
        """Begin to measure the most anew; what it has now."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return self.memory()

    def stop(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self.log.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A running app; in its folder a bundle, a collection of a dozen scenes and a secret."""
    folder = tmp_path_factory.mktemp("app")
    write(folder / "bundle")
    (folder / "album").mkdir()
    for seed in range(12):
        (folder / "album" / f"{seed}.png").write_bytes(scene(seed))
    with contextlib.chdir(folder):
        assert main(["index", "add", "album", "--index", "mine", "--bundle", "bundle"]) == 0
        hostile_collection(folder / "mine")
    (folder / "params.yaml").write_text("secret: yes\n")
    options = ("--bundle", "bundle", "--index", "mine", "--feedback", "votes")
    running = Server(folder, *options)
    yield running
    assert running.stop() == 0 and "Traceback" not in running.said()


def hostile_collection(index: Path) -> None:
    """Give the collection words, and one of its pictures a caption with markup in it."""
    part = index / "part-00000"
    table = pd.read_parquet(part / "pictures.parquet").drop(columns="vector")
    table.loc[3, "caption"] = MARKUP
    manifest = collection.read_manifest(index)
    vectors = {name: np.load(part / f"{name}.npy") for name in ("pictures", "looks")}
    columns = {name: table[name].tolist() for name in collection.COLUMNS}
    entry = collection.write_part(part, columns, vectors["pictures"], vectors["looks"])
    words = np.random.default_rng(1).normal(size=(len(WORDS), 4)).astype(np.float32)
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    counts = list(range(1, len(WORDS) + 1))
    write_vectors(index, "words", {"word": WORDS, "count": counts}, words)
    parts = [{"folder": part.name} | entry]
    collection.write_manifest(index, manifest["model"], manifest["dimensions"], parts)


def test_captions_are_those_of_the_command(server, capsys):
    album = server.folder / "album"
    paths = [str(album / f"{seed}.png") for seed in range(3)]
    bundle = ["--bundle", str(server.folder / "bundle"), "--json"]
    assert main(["caption", *paths, "-n", "3", *bundle]) == 0
    for expected, seed in zip(json.loads(capsys.readouterr().out), range(3), strict=True):
        status, _, body = server.ask("POST", "/api/caption?number=3", scene(seed))
        found = json.loads(body)
        assert status == 200
        assert [a["caption"] for a in found["alternatives"]] == [
            a["caption"] for a in expected["alternatives"]
        ]
        assert found["log_probability"] == pytest.approx(expected["log_probability"], rel=1e-4)
        assert found["caption"] == found["alternatives"][0]["caption"]


def test_settings_of_a_request(server):
    def captions(query: str) -> list[str]:
        status, _, body = server.ask("POST", f"/api/caption?{query}", scene(5))
        assert status == 200, body
        return [a["caption"] for a in json.loads(body)["alternatives"]]

    assert len(set(captions("number=4&beam=3"))) == 4
    short, long = captions("length=0"), captions("length=2")
    assert len(short[0].split()) <= len(long[0].split())
    assert captions("number=3&top_p=0.9&seed=4") == captions("number=3&top_p=0.9&seed=4")
    for query, key in (("number=6", "number"), ("beam=0", "beam"), ("top_p=2", "top_p")):
        status, _, body = server.ask("POST", f"/api/caption?{query}", scene(5))
        assert status == 422 and json.loads(body)["error"].startswith(f"{key}: ")


def test_similar_and_search(server):
    status, _, body = server.ask("POST", "/api/similar?top=3&blend=1", scene(4))
    results = json.loads(body)
    assert status == 200 and len(results) == 3
    # The picture itself is in the collection, and recommends others.
    assert "album/4.png" not in [result["image_id"] for result in results]
    assert results[0]["looks_alike"] >= results[1]["looks_alike"]
    status, _, body = server.ask("GET", "/api/search?sentence=a+red+zebra&top=2")
    assert status == 200 and json.loads(body)["unknown"] == ["zebra"]
    assert len(json.loads(body)["results"]) == 2
    assert json.loads(server.ask("GET", "/api/search?sentence=zebra")[2])["results"] == []


def test_many_at_once_get_their_own_captions(server):
    from concurrent.futures import ThreadPoolExecutor

    pictures = [picture(seed) for seed in range(32)]
    alone = [json.loads(server.ask("POST", "/api/caption", data)[2]) for data in pictures[:8]]
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda data: server.ask("POST", "/api/caption", data), pictures))
    assert {status for status, _, _ in answers} == {200}
    together = [json.loads(body)["caption"] for _, _, body in answers]
    assert together[:8] == [answer["caption"] for answer in alone]
    assert len(set(together)) > 3


def test_pictures_of_the_collection_and_the_map(server):
    status, headers, body = server.ask("GET", "/pictures/7.jpg")
    assert status == 200 and headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(body)).size == (224, 224)
    assert server.ask("GET", "/pictures/12.jpg")[0] == 404
    points = json.loads(server.ask("GET", "/api/map.json")[2])
    assert points["rows"] == list(range(12)) and points["captions"][3] == MARKUP
    assert min(points["x"] + points["y"]) >= 0 and max(points["x"] + points["y"]) <= 1
    sheet = Image.open(io.BytesIO(server.ask("GET", "/api/map.jpg")[2]))
    assert sheet.size == (40 * 48, 48)


# What strangers send.


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of these chunks; its size is only said."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(kind, data) for kind, data in ((b"IHDR", header), *chunks, (b"IEND", b""))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def zeros(size: int) -> bytes:
    """`size` zeros, deflated."""
    squeeze = zlib.compressobj(9)
    parts = [squeeze.compress(bytes(MB)) for _ in range(size // MB)]
    return b"".join([*parts, squeeze.flush()])


def animation(kind: str) -> bytes:
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "blue", "green")]
    stream = io.BytesIO()
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:])
    return stream.getvalue()


def big_webp() -> bytes:
    """16,000 x 16,000 pixels of one colour in a few kilobytes: the header of a small one lies."""
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(stream, "WEBP", lossless=True)
    data = bytearray(stream.getvalue())
    place = data.index(b"VP8L") + 9
    data[place : place + 4] = struct.pack("<I", 15999 | 15999 << 14)
    return bytes(data)


HOSTILE = {
    "nothing": (b"", 415),
    "50,000 x 50,000 pixels": (png(50_000, 50_000, (b"IDAT", zeros(MB))), 413),
    "zip bomb PNG": (png(12_000, 12_000, (b"IDAT", zeros(432 * MB))), 413),
    "a PNG whose pixels never end": (png(64, 64, (b"IDAT", zeros(400 * MB))), 200),
    "big WebP": (big_webp(), 413),
    "ICC bomb": (
        png(64, 64, (b"iCCP", b"icc\0\0" + zeros(400 * MB)), (b"IDAT", zeros(MB))),
        415,
    ),
    "text bomb": (png(64, 64, (b"zTXt", b"k\0\0" + zeros(400 * MB)), (b"IDAT", zeros(MB))), 415),
    "truncated JPEG": (scene(1, "JPEG", 256, quality=95)[:3000], 422),
    "SVG with a script": (b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>", 415),
    "HTML": (b"<html><script>alert(1)</script></html>", 415),
    "animated GIF": (animation("GIF"), 415),
    "animated WebP": (animation("WEBP"), 415),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", 415),
    "200 MB": (b"\xff\xd8" + bytes(200 * MB), 413),
    "a ZIP": (b"PK\x03\x04" + bytes(100), 415),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("way", ["page", "api"])
def test_hostile_uploads(server, name, way):
    """A plain sentence, 4xx, not much memory, and the next request works."""
    data, expected = HOSTILE[name]
    before = server.forget()
    if way == "page":
        status, _, body = server.upload(data, "picture.jpg")
    else:
        status, _, body = server.ask("POST", "/api/caption", data)
    assert server.memory() - before < 300 * MB
    assert status == expected
    if status != 200:
        text = body.decode() if status == 413 or way == "page" else json.loads(body)["error"]
        assert 10 < len(text) < 200 and "Traceback" not in text
    assert server.ask("POST", "/api/caption", scene(1))[0] == 200


def test_pictures_with_strange_metadata_are_captioned(server):
    exif = Image.Exif()
    exif[0x0112], exif[0x0100], exif[0x0101] = 77, 2**31 - 1, 0  # turned how, how large
    for data in (
        scene(1, "JPEG", exif=exif),
        scene(1, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
        scene(1, "JPEG", icc_profile=b"no profile"),
        scene(1, "TIFF"),
        scene(1, "WEBP"),
    ):
        status, _, body = server.ask("POST", "/api/caption", data)
        assert status == 200 and json.loads(body)["caption"]


@pytest.mark.parametrize(
    "name",
    ["../../../../evil.png", "..\\..\\evil.png", "/etc/evil.png", "a';--.png", "\u202e.png"],
)
def test_names_of_files_lead_nowhere(server, name):
    status, _, body = server.upload(scene(2), name)
    assert status == 200, body
    (path,) = json.loads(body)
    assert Path(path).resolve().is_relative_to(uploads_of(server))
    assert Path(path).read_bytes() == scene(2)
    assert not (server.folder.parent / "evil.png").exists()
    # What was uploaded can be seen again, by who knows its place.
    status, _, back = server.ask("GET", f"/gradio_api/file={quote(path)}")
    assert status == 200 and back == scene(2)


def uploads_of(server) -> Path:
    """The app's own folder."""
    (own,) = (server.folder / "tmp").glob("captioner-app-*")
    return own.resolve()


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file={folder}/params.yaml",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file={folder}/bundle/bundle.json",
        "/gradio_api/file=params.yaml",
        "/gradio_api/file=..%2f..%2fetc%2fpasswd",
        "/gradio_api/file={uploads}/../../etc/passwd",
        "/gradio_api/file={uploads}/%2e%2e/%2e%2e/etc/passwd",
        "/gradio_api/file/etc/passwd",
        "/gradio_api/file=http://127.0.0.1:1/",
        "/gradio_api/proxy=http://127.0.0.1:1/",
        "/pictures/..%2f..%2fparams.yaml",
        "/pictures/-1.jpg",
        "/static/../../../../../../etc/passwd",
        "/static/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc/passwd",
        "/assets/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc/passwd",
        "/gradio_api/deep_link?session_hash=x",
        "/gradio_api/dev/reload",
        "/gradio_api/vibe-code/",
        "/gradio_api/runs",
        "/monitoring",
        "/openapi.json",
        "/docs",
    ],
)
def test_nobody_reads_files_of_the_server(server, path):
    path = path.format(folder=server.folder, uploads=uploads_of(server))
    status, _, body = server.ask("GET", path)
    assert 400 <= status < 500
    assert b"secret" not in body and b"root:" not in body and b"fingerprint" not in body


@pytest.mark.parametrize("path", ["/etc/passwd", "params.yaml", "album/1.png"])
def test_an_event_cannot_name_a_file_of_the_server(server, path):
    """Gradio's own events: a picture is what was uploaded, nothing else."""
    config = json.loads(server.ask("GET", "/config")[2])
    look = next(
        number
        for number, one in enumerate(config["dependencies"])
        if [target[1] for target in one["targets"]] == ["change"]
    )

    def status(path: str) -> int:
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        body = {"data": [file], "fn_index": look, "session_hash": "thief"}
        sent, kind = json.dumps(body).encode(), "application/json"
        return server.ask("POST", "/gradio_api/queue/join", sent, content_type=kind)[0]

    assert status(path if path.startswith("/") else str(server.folder / path)) == 403
    [uploaded] = json.loads(server.upload(scene(2))[2])
    assert status(uploaded) == 200


def test_other_sites_and_names_are_refused(server):
    assert server.ask("GET", "/", Host="evil.example")[0] == 403  # DNS rebinding
    assert server.ask("GET", "/", Host=f"localhost:{server.port}")[0] == 200
    status, _, body = server.ask("POST", "/api/caption", scene(1), Origin="https://evil.example")
    assert (status, body) == (403, b"This request comes from another site's page.")
    assert server.ask("POST", "/api/caption", scene(1), Origin=server.address)[0] == 200
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE"):
        assert server.ask(method, "/")[0] == 404


def test_bodies_are_counted_as_they_arrive(server):
    def endless():
        for _ in range(60):
            yield bytes(MB)

    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    before = server.forget()
    connection.request("POST", "/api/caption", endless(), encode_chunked=True)
    answer = connection.getresponse()
    assert answer.status == 413 and answer.read() == b"Too large: up to 20 MB are taken."
    assert server.memory() - before < 100 * MB
    connection.close()
    status, _, _ = server.ask("POST", "/gradio_api/queue/join", bytes(3 * MB))
    assert status == 413


def test_every_answer_keeps_strangers_out(server):
    for path in ("/", "/api/map.json", "/nothing"):
        _, headers, _ = server.ask("GET", path)
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"


def test_users_passwords_and_no_bundle(tmp_path):
    """Without a bundle the page says what to run, to those who may see it."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    killed = tmp_path / "tmp" / f"captioner-app-{ended.pid}-abc"
    killed.mkdir(parents=True)
    (killed / ".lock").touch()
    locked = Server(tmp_path, "--auth", "anna:APP_PASSWORD", APP_PASSWORD="schön:1")

    def knock(path: str, login: str = "anna:schön:1") -> tuple[int, bytes]:
        secret = base64.b64encode(login.encode()).decode()
        status, _, body = locked.ask("GET", path, Authorization=f"Basic {secret}")
        return status, body

    def left() -> list[Path]:
        return list((tmp_path / "tmp").glob("captioner-app-*"))

    assert not killed.exists()  # what an earlier server left

    try:
        status, headers, body = locked.ask("GET", "/")
        assert (status, body) == (401, b"User and password, please.")
        assert headers["www-authenticate"].startswith("Basic ")
        for path in ("/health", "/config", "/pictures/1.jpg", "/static/js/iframeResizer.js"):
            assert locked.ask("GET", path)[0] == 401
        assert locked.ask("POST", "/api/caption", scene(1))[0] == 401
        for login in ("anna:", "bert:schön:1", "anna", "anna:schön:1 "):
            assert knock("/", login)[0] == 401
        assert locked.ask("GET", "/", Authorization="Basic \u00e4")[0] == 401
        status, page = knock("/")
        assert status == 200 and b"make one with `dvc repro`" in page
        assert "no bundle in models/bundle: make one with `dvc repro`" in locked.said()
        status, body = knock("/health")
        assert status == 503 and "dvc repro" in json.loads(body)["error"]
        assert 429 in [knock("/", f"anna:{number}")[0] for number in range(20)]
        status, headers, body = locked.ask("GET", "/", Authorization="Basic eDp5")
        assert status == 429 and 1 <= int(headers["retry-after"]) <= 7
        assert body == b"Too many wrong passwords; try again later."
        assert len(left()) == 1
    finally:
        assert locked.stop(signal.SIGTERM) == 0
    assert left() == [] and "Traceback" not in locked.said()


def test_without_a_collection_the_page_says_what_to_run(server, tmp_path):
    """The model captions all the same."""
    (tmp_path / "bundle").symlink_to(server.folder / "bundle")
    alone = Server(tmp_path, "--bundle", "bundle", "--index", "none")
    try:
        _, _, page = alone.ask("GET", "/")
        assert b"There is no collection to search in." in page
        assert b"captioner index add FOLDER" in page
        status, _, body = alone.ask("POST", "/api/caption", scene(1))
        assert status == 200 and json.loads(body)["caption"]
        status, _, body = alone.ask("GET", "/api/search?sentence=a")
        assert status == 409 and "dvc repro" in json.loads(body)["error"]
        assert alone.ask("GET", "/pictures/0.jpg")[0] == 404
        assert alone.ask("GET", "/api/map.jpg")[0] == 404
        assert len(list((tmp_path / "tmp").glob("captioner-app-*"))) == 1
    finally:
        assert alone.stop(signal.SIGHUP) == 0
    assert list((tmp_path / "tmp").glob("captioner-app-*")) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", "0"], "'0' is not a port from 1 to 65535"),
        (["--auth", "anna"], "--auth anna: expected USER:VARIABLE"),
        (["--auth", "anna:NO_SUCH_VARIABLE"], "expected USER:VARIABLE, with the password in"),
        (["--feedback", "params.yaml/votes"], "--feedback params.yaml/votes: Not a directory"),
    ],
)
def test_wrong_options_are_said_before_anything_starts(server, options, said, capsys, monkeypatch):
    monkeypatch.chdir(server.folder)
    try:
        code = main(["app", *options])
    except SystemExit as error:  # argparse's own
        code = error.code
    assert code == 2 and said in capsys.readouterr().err


def test_a_port_that_is_taken_is_said_before_the_model_is_loaded(server, capsys, monkeypatch):
    monkeypatch.chdir(server.folder)
    monkeypatch.setattr("captioner.cli.app._parts", lambda _: pytest.fail("it was loaded"))
    assert main(["app", "--port", str(server.port)]) == 2
    said = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1, port {server.port} (Address already in use)" in said
    assert main(["app", "--host", "no.such.host.invalid"]) == 2
    assert "cannot listen on no.such.host.invalid, port 7860" in capsys.readouterr().err
