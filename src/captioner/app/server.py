"""The app as one ASGI application: pages, the same answers over HTTP, and the gate before both."""

import asyncio
import os
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
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from captioner import CaptionerError
from captioner.app.engine import ALTERNATIVES, Engine, Wish
from captioner.app.feedback import Feedback
from captioner.app.guard import LOCAL, Guard, status_of
from captioner.app.pictures import Pictures
from captioner.raster import PictureError
from captioner.recommend import BLEND
from captioner.serving import Busy
from captioner.uploads import check_upload

CACHED = {"cache-control": "private, max-age=3600"}


def build(
    engine: Engine | None,
    pictures: Pictures | None,
    missing: str,
    about: Callable[[], str],
    uploads: Path,
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
        uploads: a folder of the app's own, where Gradio keeps what is uploaded.
        host: where it will listen; on loopback only the machine's own names are answered.
        login: user and password that every request needs, or None.
        feedback: keeps votes, or None.
    """
    # Gradio reads these as it is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    tempfile.tempdir = str(uploads)  # for parts of uploads, before they have a name
    from captioner.app.pages import mount

    app = fastapi.FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse({"error": f"{first['loc'][-1]}: {first['msg']}"}, 422)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.get("/health")
    def health() -> dict[str, Any]:
        if engine is None:
            raise HTTPException(503, missing)
        return {"status": "ok", "model": engine.captioner.fingerprint}

    @app.post("/api/caption")
    async def caption(
        request: Request,
        number: Annotated[int, Query(ge=1, le=ALTERNATIVES)] = 1,
        beam: Annotated[int | None, Query(ge=1, le=10)] = None,
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

    mount(app, engine, pictures, missing, about, feedback)

    read = check_upload if engine is None else engine.read

    return Guard(app, uploads, read, host in LOCAL, login)


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


def run(app: Guard, listening: socket.socket) -> None:
    """Serve until Ctrl-C."""
    config = uvicorn.Config(app, log_level="warning", server_header=False, ws="none")
    try:
        uvicorn.Server(config).run([listening])
    except KeyboardInterrupt:
        return  # how it is meant to end


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
        raise HTTPException(status_of(error), str(error)) from None


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
