"""`captioner app`: the web app."""

import argparse
import contextlib
import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from captioner import CaptionerError
from captioner.cli import finding
from captioner.cli.terminal import complain

EXAMPLES = """\
examples:
  captioner app                                 then open http://127.0.0.1:7860
  captioner app --index my_index                search in a collection of your own
  captioner app --port 8000 --feedback votes/   keep what people think of captions
  CAPTIONER_PASSWORD=... captioner app --host 0.0.0.0 --auth anna:CAPTIONER_PASSWORD
                                                for others on the network, who need a password

The same answers without a page:
  curl --data-binary @dog.jpg 'http://127.0.0.1:7860/api/caption?number=3'
  curl --data-binary @dog.jpg 'http://127.0.0.1:7860/api/similar?top=5'
  curl 'http://127.0.0.1:7860/api/search?sentence=a+dog'

Everything stays on this machine: no page, font or script comes from elsewhere. Pictures that are
sent are kept for an hour at most, in a folder that is removed at the end; what a killed server left
there, the next one removes. Where too many ask at once, some hear 503 and when to come back; so do
(429) those who guess passwords. A password travels as it is: beyond your own network put the app
behind a server that speaks HTTPS.

exit codes: 0 stopped with Ctrl-C, SIGTERM or SIGHUP; 2 not started: a wrong argument, a damaged
bundle or collection, an address that is taken (named on stderr)
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the program's."""
    app = commands.add_parser(
        "app",
        help="open the web app: caption, find, explore",
        description="Serve the web app: captions of pictures and of the webcam, similar pictures, "
        "search by sentence, a map of the collection.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    finding.add_bundle(app)
    finding.add_index(app)
    app.add_argument(
        "--pictures",
        type=Path,
        default=Path("data/images"),
        metavar="DIR",
        help="where the pipeline keeps the collection's pictures (default: data/images)",
    )
    app.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1, which only this machine reaches)",
    )
    app.add_argument("--port", type=_port, default=7860, help="port (default: 7860)")
    app.add_argument(
        "--auth",
        metavar="USER:VARIABLE",
        help="ask for this user, and the password in this environment variable",
    )
    app.add_argument(
        "--feedback",
        type=Path,
        metavar="DIR",
        help="let people vote on captions or write their own, and keep that here as CSV",
    )
    app.set_defaults(run=run)


def _port(text: str) -> int:
    if not text.isdecimal() or len(text) > 5 or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r:.40} is not a port from 1 to 65535")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C; returns the exit code."""
    login = _login(options.auth)
    if importlib.util.find_spec("gradio") is None:
        raise CaptionerError('the app needs Gradio: pip install -c constraints.txt -e ".[app]"')
    from captioner.app.uploads import own_folder

    with _ending_in_order(), own_folder() as uploads:
        from captioner.allocator import keep_large_blocks

        keep_large_blocks()
        import captioner.quiet_tensorflow  # noqa: F401  (before others import TensorFlow)
        from captioner.app import server
        from captioner.app.feedback import Feedback

        feedback = Feedback(options.feedback) if options.feedback else None
        listening = server.listen(options.host, options.port)
        engine, pictures, missing, about = _parts(options)
        if missing:
            complain(missing)
        if login is None and options.host not in server.LOCAL:
            complain("whoever reaches this machine can use the app; --auth asks for a password")
        app = server.build(
            engine,
            pictures,
            missing,
            about,
            uploads,
            options.host,
            login,
            feedback,
        )
        shown = f"[{options.host}]" if ":" in options.host else options.host
        print(f"captioner: http://{shown}:{options.port} (Ctrl-C ends it)", flush=True)
        server.run(app, listening)
        if engine:
            engine.close()
    return 0


@contextlib.contextmanager
def _ending_in_order() -> Iterator[None]:
    """SIGTERM and SIGHUP, which end a process on the spot, let it clear away first."""
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is signal.SIG_DFL:  # `nohup` has SIGHUP ignored
            signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: object) -> NoReturn:
    raise SystemExit(0)


def _login(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    user, _, variable = text.partition(":")
    password = os.environ.get(variable, "")
    if not user or not variable or not password:
        raise CaptionerError(
            f"--auth {text:.60}: expected USER:VARIABLE, with the password in that environment "
            "variable"
        )
    return user, password


def _parts(options: argparse.Namespace):
    """The engine, the pictures, what is missing, and the card."""
    if not (options.bundle / "bundle.json").is_file():
        missing = f"There is no bundle in {options.bundle}: make one with `dvc repro`, or name "
        missing += "another with --bundle. Then start the app again."
        return None, None, missing, lambda: ""
    print("captioner: loading the model ...", file=sys.stderr, flush=True)
    speaker = finding.load_bundle(options.bundle, 32)
    from functools import cache

    from captioner import approximate, collection
    from captioner.app import card
    from captioner.app.engine import Engine
    from captioner.app.pictures import Pictures

    opened = index = pictures = None
    if (options.index / collection.MANIFEST).exists():
        opened = collection.open_collection(options.index)
        finding.check_same_model(speaker, options.bundle, opened.model, options.index)
        index = approximate.open_index(opened, complain)
        pictures = Pictures(opened, options.pictures)
    engine = Engine(speaker, opened, index)
    engine.warm_up()
    count = None if opened is None else len(opened.pictures)
    return engine, pictures, "", cache(lambda: card.describe(options.bundle, speaker, count))
