"""The app under load: requests at once against one by one, tails, memory, and what is too much.

Two servers with the same bundle answer POST /api/caption on 127.0.0.1: one that puts requests which
come at about the same time through the model together, up to 32, and one that takes each alone,
which is what a web framework does with a model by itself. Drawn scenes are sent by a process of its
own, which takes a part of the same cores.

    python benchmarks/serving.py                           about four minutes
    python benchmarks/serving.py --bundle DIR --requests 20000
"""

import argparse
import http.client
import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import local

import numpy as np
from tqdm import tqdm

from captioner.datasets.scene_drawing import draw, sample_facts

WARM_UP = 500  # requests before memory is compared
MB = 1_000_000


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=Path("models/bundle"), metavar="DIR")
    parser.add_argument("--requests", type=int, default=5000, help="for memory (default: 5000)")
    parser.add_argument("--clients", type=int, default=64, help="at once (default: 64)")
    parser.add_argument("--flood", type=int, default=400, help="at once, too many (default: 400)")
    parser.add_argument("--side", type=int, default=96, help="of the pictures (default: 96)")
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=32, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not (options.bundle / "bundle.json").is_file():
        print(
            f"benchmark: {options.bundle}: no bundle here; `dvc repro` makes one", file=sys.stderr
        )
        return 2
    if options.serve:
        serve(options.bundle, options.serve, options.batch)
        return 0
    rng, clients = np.random.default_rng(1), options.clients
    # More than the server remembers.
    pictures = [scene(rng, options.side) for _ in range(max(4 * clients, 256))]

    with server(options, batch=1) as (port, _, _):
        alone = load(port, pictures, 4 * clients, clients, "one by one")
    report("each alone", alone)
    with server(options, batch=32) as (port, process, first):
        single = load(port, pictures, 60, 1, "one client")
        usual = statistics.median(single.seconds)
        print(f"first answer after the start {1000 * first:.0f} ms, usual {1000 * usual:.0f} ms")
        load(port, pictures, WARM_UP, clients, "warm-up")
        before = memory(process)
        together = load(port, pictures, options.requests, clients, "together")
        grown = memory(process) - before
        flood = load(port, pictures, 4 * options.flood, options.flood, "flood")
        after = load(port, pictures, 20, 1, "after it")
    report("one client", single)
    report(f"{clients} clients, in batches", together)
    print(f"  {together.rate / alone.rate:.1f} times as many as each alone")
    print(f"  memory {before / MB:.0f} MB, grown by {grown / MB:.1f} MB in {options.requests}")
    retries = sorted(flood.retries)
    print(f"{options.flood} clients: {dict(flood.statuses)}, Retry-After {retries} s; then")
    report("one client", after)
    return 0


def scene(rng: np.random.Generator, side: int) -> bytes:
    stream = io.BytesIO()
    draw(sample_facts(rng), side, rng).save(stream, "PNG")
    return stream.getvalue()


def serve(bundle: Path, port: int, batch: int) -> None:
    """The app without pages' collection, with batches of this size."""
    from captioner.allocator import keep_large_blocks

    keep_large_blocks()
    import captioner.quiet_tensorflow  # noqa: F401  (before others import TensorFlow)
    from captioner.app import server as app
    from captioner.app.engine import Engine
    from captioner.bundle import load as load_bundle

    engine = Engine(load_bundle(bundle, batch_size=batch))
    engine.warm_up()
    with tempfile.TemporaryDirectory() as uploads:
        built = app.build(engine, None, "", lambda: "", Path(uploads))
        app.run(built, app.listen("127.0.0.1", port))


@contextmanager
def server(options: argparse.Namespace, batch: int):
    """Port, process, and seconds of the first answer of a new server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, __file__, "--bundle", str(options.bundle)]
    process = subprocess.Popen([*command, "--serve", str(port), "--batch", str(batch)])
    try:
        for _ in range(1200):
            if process.poll() is not None:
                raise SystemExit("benchmark: the server stopped")
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        rng = np.random.default_rng(2)
        first = load(port, [scene(rng, options.side)], 1, 1, "first")
        yield port, process, first.seconds[0]
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


class Load:
    """What came of many requests.

    Attributes:
        seconds: of each that was answered with a caption.
        rate: such answers a second.
        statuses: how often each; retries: what Retry-After said.
    """

    def __init__(self, answers: list[tuple[int, float, str | None]], seconds: float):
        self.seconds = sorted(taken for status, taken, _ in answers if status == 200)
        self.rate = len(self.seconds) / seconds
        self.statuses = Counter(status for status, _, _ in answers)
        self.retries = {int(retry) for _, _, retry in answers if retry}

    def quantile(self, share: float) -> float:
        return self.seconds[min(int(share * len(self.seconds)), len(self.seconds) - 1)]


def load(port: int, pictures: list[bytes], requests: int, clients: int, name: str) -> Load:
    """Send requests with so many clients, each with a connection of its own, one after another."""
    own = local()

    def ask(number: int) -> tuple[int, float, str | None]:
        if not hasattr(own, "connection"):
            own.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        start = time.perf_counter()
        own.connection.request("POST", "/api/caption", pictures[number % len(pictures)])
        answer = own.connection.getresponse()
        body = answer.read()
        taken = time.perf_counter() - start
        assert answer.status in (200, 503), (answer.status, body)
        assert answer.status == 503 or json.loads(body)["caption"]
        return answer.status, taken, answer.getheader("Retry-After")

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        bar = tqdm(pool.map(ask, range(requests)), name, total=requests, disable=None)
        answers = list(bar)
    return Load(answers, time.perf_counter() - start)


def memory(process: subprocess.Popen) -> int:
    """Resident bytes."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def report(name: str, found: Load) -> None:
    p50, p99 = (1000 * found.quantile(share) for share in (0.5, 0.99))
    print(
        f"{name}: {found.rate:.1f} captions/s, p50 {p50:.0f} ms, p99 {p99:.0f} ms "
        f"({p99 / p50:.1f}x), {dict(found.statuses)}"
    )


if __name__ == "__main__":
    sys.exit(main())
