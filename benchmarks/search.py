"""How long does a query take? Exact search over a collection, and the approximate index beside it.

Random unit vectors stand for a collection: it is written, opened and asked for the ten pictures
most like one of its own, with folding and reasons, again and again. No model takes part. With
--index (and faiss) an index is built as `captioner index build` does, and both ways are asked the
same. The vectors lie near a space of 24 dimensions, as those of real pictures do: random ones in
all directions have no neighbours worth the name, and no index finds them.

    python benchmarks/search.py                            8,000 pictures
    python benchmarks/search.py --pictures 200000 --index
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from captioner import CaptionerError, collection
from captioner.approximate import build, open_index
from captioner.datasets.scene_captions import captions as scene_captions
from captioner.datasets.scene_drawing import sample_facts
from captioner.embeddings import unit_vectors
from captioner.recommend import Query, Result, query_of, search, similar

MODEL = "be" * 32
DIMENSIONS = 24
TOP = 10
PART = 20_000  # pictures written at once


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=8000, help="(default: 8000)")
    parser.add_argument("--meaning", type=int, default=1516, help="(default: 1516)")
    parser.add_argument("--looks", type=int, default=1280, help="(default: 1280)")
    parser.add_argument("--queries", type=int, default=200, help="of each kind (default: 200)")
    parser.add_argument("--index", action="store_true", help="an approximate index beside it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            compare(Path(folder) / "collection", options)
        except CaptionerError as error:
            print(f"benchmark: {error}", file=sys.stderr)
            return 2
    return 0


def compare(folder: Path, options: argparse.Namespace) -> None:
    write(folder, options)
    start = time.perf_counter()
    found = collection.open_collection(folder)
    opened = time.perf_counter() - start
    sizes = f"{options.pictures:,} pictures x ({options.meaning} + {options.looks})"
    print(f"{sizes}, opened and checked in {opened:.2f} s")
    ids = found.pictures["image_id"]
    picked = np.random.default_rng(2).choice(options.pictures, options.queries)
    queries = [query_of(found, ids[row]) for row in picked]
    asks = {
        "similar": lambda query, index: similar(found, query, TOP, index=index),
        "search": lambda query, index: search(
            found, query.meaning, query.caption, TOP, index=index
        ),
    }
    print("milliseconds a query      min  median     max")
    exact = {name: timed(f"{name}, exact", queries, ask, None) for name, ask in asks.items()}
    if not options.index:
        return
    start = time.perf_counter()
    recall = build(folder, lambda steps, name: tqdm(steps, name, disable=None))
    seconds = time.perf_counter() - start
    index = open_index(found, print)
    near = {name: timed(f"{name}, index", queries, ask, index) for name, ask in asks.items()}
    measured = ", ".join(f"{name} {value:.3f}" for name, value in recall.items())
    print(f"index built in {seconds:.0f} s, {index.effort} candidates; measured then: {measured}")
    for name in asks:
        shares = [len({*a} & {*b}) / TOP for a, b in zip(exact[name], near[name], strict=True)]
        print(f"recall@{TOP} of {name}: {statistics.mean(shares):.3f}")


def write(folder: Path, options: argparse.Namespace) -> None:
    """A collection of random pictures."""
    rng = np.random.default_rng(1)
    sizes = {"meaning": options.meaning, "looks": options.looks}
    spans = {name: rng.normal(size=(DIMENSIONS, size)) for name, size in sizes.items()}
    said = [scene_captions(sample_facts(rng), rng)[0] for _ in range(500)]
    collection.begin(folder, None, MODEL, sizes)
    for first in range(0, options.pictures, PART):
        numbers = range(first, min(first + PART, options.pictures))
        vectors = [
            unit_vectors(
                rng.normal(size=(len(numbers), DIMENSIONS)) @ span
                + rng.normal(size=(len(numbers), span.shape[1]))
            )
            for span in spans.values()
        ]
        hashes = rng.integers(0, 256, (len(numbers), 80), np.uint8)
        columns = {
            "image_id": [f"{number}.jpg" for number in numbers],
            "split": ["test"] * len(numbers),
            "caption": [said[number % len(said)] for number in numbers],
            "sha256": [f"{number:064x}" for number in numbers],
            "perceptual_hash": [row.tobytes().hex() for row in hashes],
        }
        collection.add_part(folder, columns, *vectors)


def timed(
    name: str, queries: list[Query], ask: Callable[..., list[Result]], index
) -> list[list[str]]:
    """Print how long the queries take; returns the image_ids found by each."""
    ask(queries[0], index)  # the first one reads the matrices from the disk
    seconds, found = [], []
    for query in queries:
        start = time.perf_counter()
        results = ask(query, index)
        seconds.append(time.perf_counter() - start)
        found.append([result.image_id for result in results])
    low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
    print(f"{name:22}{1e3 * low:7.2f} {1e3 * middle:7.2f} {1e3 * high:7.2f}", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
