"""The app as one ASGI application: pages, the same answers over HTTP, and the gate before both."""

import asyncio
import os
import signal
import socket
import tempfile
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import fastapi
import uvicorn
from fastapi import HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.concurrency import run_in_threadpool

from captioner import CaptionerError
from captioner.app.bodies import Refused, form_parts
from captioner.app.engine import ALTERNATIVES, BEAM, Engine, Wish
from captioner.app.feedback import Feedback
from captioner.app.guard import LOCAL, UPLOAD, Guard
from captioner.app.login import Login
from captioner.app.pictures import Pictures
from captioner.app.protocol import Protocol
from captioner.app.scripts import scripts
from captioner.app.uploads import Uploads
from captioner.raster import PictureError
from captioner.recommend import BLEND
from captioner.serving import Busy
from captioner.uploads import check_upload

CACHED = {"cache-control": "private, max-age=3600"}
STATUS = {"picture too large": 413, "no picture": 415, "no single picture": 415}
CLOSING = 5  # seconds that answers may still take when the server is to end


def build(
    engine: Engine | None,
    pictures: Pictures | None,
    missing: str,
    about: Callable[[], str],
    folder: Path,
    host: str = "127.0.0.1",
    login: tuple[str, str] | None = None,
    feedback: Feedback | None = None,
) -> Guard:
    """The application.

    Args:
        engine: answers; None if there is no bundle.
        pictures: of the engine's collection; None if there is none.
        missing: what is not there and what to run, in a sentence; "" if all is there.
        about: HTML of the page "About".
        folder: of the app's own, where Gradio and `Uploads` keep what is uploaded.
        host: where it will listen; on loopback only the machine's own names are answered.
        login: user and password that every request needs, or None.
        feedback: keeps votes, or None.
    """
    # Gradio reads these as it is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ["HF_HUB_OFFLINE"] = "1"
    tempfile.tempdir = str(folder)
    from captioner.app.events import Events
    from captioner.app.pages import mount

    app = fastapi.FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse({"error": f"{first['loc'][-1]}: {first['msg']}"}, 422)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(Refused)
    async def turned_away(request: Request, error: Refused) -> PlainTextResponse:
        return PlainTextResponse(error.text, error.status, error.headers)

    @app.get("/health")
    async def health() -> dict[str, Any]:  # in no thread: these may all be decoding pictures
        if engine is None:
            raise HTTPException(503, missing)
        return {"status": "ok", "model": engine.captioner.fingerprint}

    @app.post("/api/caption")
    async def caption(
        request: Request,
        number: Annotated[int, Query(ge=1, le=ALTERNATIVES)] = 1,
        beam: Annotated[int | None, Query(ge=1, le=BEAM)] = None,
        length: Annotated[float | None, Query(ge=0, le=2)] = None,
        top_p: Annotated[float | None, Query(ge=0.01, le=1)] = None,
        seed: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    ) -> dict[str, Any]:
        there = _engine(engine, missing)
        seen = await _read(there, request)
        wish = Wish(number, beam, length, top_p, seed)
        captions = await _answer(lambda: there.captions(seen.pixels, wish))
        rows = [{"caption": c.text, "log_probability": c.log_probability} for c in captions]
        return rows[0] | {"alternatives": rows}

    @app.post("/api/similar")
    async def similar(
        request: Request,
        top: Annotated[int, Query(ge=1, le=100)] = 10,
        blend: Annotated[float, Query(ge=0, le=1)] = BLEND,
    ) -> list[dict[str, Any]]:
        there = _engine(engine, missing)
        seen = await _read(there, request)
        results = await _thread(lambda: there.similar(there.query(seen), top, blend))
        return [asdict(result) for result in results]

    @app.get("/api/search")
    async def search(
        sentence: Annotated[str, Query(min_length=1, max_length=300)],
        top: Annotated[int, Query(ge=1, le=100)] = 10,
    ) -> dict[str, Any]:
        there = _engine(engine, missing)
        results, unknown = await _thread(lambda: there.search(sentence, top))
        return {"results": [asdict(result) for result in results], "unknown": unknown}

    @app.get("/pictures/{row}.jpg")
    def picture(row: int) -> Response:
        jpeg = pictures.jpeg(row) if pictures and row < len(pictures) else None
        if jpeg is None:
            raise HTTPException(404, "no such picture")
        return Response(jpeg, media_type="image/jpeg", headers=CACHED)

    @app.get("/api/map.json")
    def points() -> dict[str, Any]:
        return _map(pictures)[0]

    @app.get("/api/map.jpg")
    def sheet() -> Response:
        return Response(_map(pictures)[1], media_type="image/jpeg")

    uploads = Uploads(folder)

    # In place of Gradio's own, which decodes forms piece by piece and keeps what is no picture.
    @app.post(UPLOAD)
    async def upload(request: Request) -> list[str]:
        parts = form_parts(await request.body(), request.headers.get("content-type", ""))
        read = check_upload if engine is None else engine.read
        try:
            for data in parts:
                await run_in_threadpool(read, data)
            files = [await run_in_threadpool(uploads.keep, data) for data in parts]
        except PictureError as error:
            raise Refused(_status_of(error), _sentence(str(error))) from None
        except OSError:
            raise Refused(507, "There is no room for pictures on the server.") from None
        pages.upload_file_set.update(map(str, files))  # which Gradio clears away by their age
        return list(map(str, files))

    @app.get("/gradio_api/upload_progress")
    async def progress() -> Response:
        return Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")

    @app.get("/scripts.js")
    async def own_scripts() -> Response:
        return Response(scripts(), media_type="text/javascript")

    pages = mount(app, engine, pictures, missing, about, feedback)
    gate = None if login is None else Login(*login)
    return Guard(app, Events(pages, folder), host in LOCAL, gate)


def listen(host: str, port: int) -> socket.socket:
    """A socket on an address, had before a model is loaded for it.

    Raises:
        CaptionerError: the address cannot be had.
    """
    listening = None
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        if listening is not None:
            listening.close()
        raise CaptionerError(
            f"cannot listen on {host}, port {port} ({error.strerror}); name others with --host and "
            "--port"
        ) from None
    return listening


def server_of(app: Guard) -> uvicorn.Server:
    """What serves the application."""
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=CLOSING,
    )
    return uvicorn.Server(config)


def run(app: Guard, listening: socket.socket) -> None:
    """Serve until Ctrl-C, SIGTERM or SIGHUP."""
    serving = server_of(app)
    # uvicorn handles the other two itself; who ignores SIGHUP (`nohup`) goes on to.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, serving.handle_exit)
    try:
        serving.run([listening])
    except (KeyboardInterrupt, SystemExit):
        return  # how it is meant to end: uvicorn raises the signals again that it got


def _status_of(error: PictureError) -> int:
    """The HTTP status that says why a picture was refused."""
    return STATUS.get(error.reason, 422)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _engine(engine: Engine | None, missing: str) -> Engine:
    if engine is None:
        raise HTTPException(503, missing)
    return engine


def _map(pictures: Pictures | None) -> tuple[dict, bytes]:
    try:
        if pictures is None:
            raise CaptionerError("there is no collection")
        return pictures.map()
    except CaptionerError as error:
        raise HTTPException(404, str(error)) from None


async def _read(engine: Engine, request: Request):
    """The picture in a request's body."""
    data = await request.body()
    try:
        return await run_in_threadpool(engine.read, data)
    except PictureError as error:
        raise HTTPException(_status_of(error), str(error)) from None


async def _answer(ask: Callable[[], Future]) -> Any:
    try:
        return await asyncio.wrap_future(ask())
    except Busy as busy:
        raise HTTPException(503, str(busy), {"Retry-After": str(busy.seconds)}) from None


async def _thread(ask: Callable[[], Any]) -> Any:
    try:
        return await run_in_threadpool(ask)
    except Busy as busy:
        raise HTTPException(503, str(busy), {"Retry-After": str(busy.seconds)}) from None
    except CaptionerError as error:
        raise HTTPException(409, str(error)) from None
