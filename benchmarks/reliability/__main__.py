"""Nothing lost, no traceback: 100 kills, 3,300 hostile inputs, full disks, processes at once.

The campaign breaks the pipeline and the commands on purpose, in a folder of its own, and compares
what comes of it with an undisturbed run on the same machine. It is for a person before a release,
not for every change: all of it takes about an hour on two cores, and it stops by itself. Everything
follows from --seed: a failure is printed with its number, and its files are kept for reproduction.

    python -m benchmarks.reliability                         all of it
    python -m benchmarks.reliability --resume                go on after Ctrl-C: done is done
    python -m benchmarks.reliability --only kills --kills 20
    python -m benchmarks.reliability --only images,captions --share 0.1

parts:
  kills      SIGKILL, SIGTERM and Ctrl-C at moments spread over every stage of a tiny pipeline, the
             seconds after its end, `dvc exp run`, `index add`, the creation of MLflow's store; then
             the same command again, and every hash, report and MLflow run has to be as undisturbed
  images     mutated JPEG, PNG, WebP, GIF, TIFF, BMP through the decoder; `captioner caption`
  captions   mutated CSV, TSV, JSON, JSON lines, Parquet through the readers, check-data, score
  params     mutated params.yaml
  archives   zip and tar with mutated headers, names that lead elsewhere, links, bombs
  requests   mutated requests to the web app, with /health watched all along
  disk       a disk that is full at 20 sizes, for everything that writes
  together   two and four processes at once, for every command that writes

It needs Linux and the extras `app` and `test`. The disk of `disk` is a tmpfs where this user may
mount one, else a limit of file sizes.

exit codes: 0 all passed; 1 something failed: see the table, and failures/ in --output; 2 a wrong
argument; 130 stopped with Ctrl-C
"""

import argparse
import datetime
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks.reliability import ROOT, commands
from benchmarks.reliability.cases import Log, table

COUNTS = {"images": 2000, "captions": 500, "params": 300, "archives": 200, "requests": 300}
FUNCTIONS = {
    "images": "benchmarks.reliability.images:case",
    "captions": "benchmarks.reliability.captions:case",
    "params": "benchmarks.reliability.captions:params",
    "archives": "benchmarks.reliability.archives:case",
}
CALLS = 4  # of `captioner caption`, with a folder of images each
PARTS = ("images", "captions", "params", "archives", "requests", "disk", "together", "kills")
NAMES = {
    "kills": "kills",
    "images": "mutated images",
    "caption": "`captioner caption` of 50 mutated images",
    "captions": "mutated caption files",
    "params": "mutated params.yaml",
    "archives": "hostile archives",
    "requests": "hostile requests",
    "disk": "full disk",
    "together": "processes at once",
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reliability",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", type=_parts, default=PARTS, metavar="PART,...", help="(all)")
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="(default: 100)")
    parser.add_argument(
        "--share", type=float, default=1.0, help="of the other cases, 0 to 1 (default: 1)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of everything (default: 1)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("reports/reliability"),
        metavar="DIR",
        help="results, failures, scratch (default: reports/reliability)",
    )
    parser.add_argument("--resume", action="store_true", help="finished cases are not repeated")
    options = parser.parse_args()
    if options.kills < 0 or not 0 <= options.share <= 1 or options.seed < 0:
        parser.error("--kills and --seed are not negative, --share is from 0 to 1")
    # Of a shell's background job Ctrl-C is ignored, and its children would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    header = {"seed": options.seed, "share": options.share}  # the share decides on the sizes
    log = Log(options.output.resolve(), header, options.resume)
    scratch = log.folder / "scratch"
    if not options.resume:
        shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(exist_ok=True)
    for part in PARTS:
        if part in options.only:
            run(part, options, log, scratch)
    shutil.rmtree(scratch, ignore_errors=True)
    processes = set(options.only) - FUNCTIONS.keys()
    text = f"{table(log.outcomes, NAMES)}\n\n{machine(bool(processes))}"
    (log.folder / "table.md").write_text(text + "\n", "utf-8")
    print(f"\n{text}")
    failed = [one for one in log.outcomes if one.verdict != "ok"]
    if failed:
        print(f"\n{len(failed)} failures, kept in {log.folder / 'failures'}", file=sys.stderr)
    return 1 if failed else 0


def _parts(text: str) -> list[str]:
    parts = text.split(",")
    for part in parts:
        if part not in PARTS:
            raise argparse.ArgumentTypeError(f"{part!r:.40} is none of {', '.join(PARTS)}")
    return parts


def run(part: str, options: argparse.Namespace, log: Log, scratch: Path) -> None:
    """All cases of a part that are not done yet."""
    if part == "kills":
        from benchmarks.reliability import kills

        bundle(scratch)  # before two threads want it
        kills.run(log, options.kills, options.seed, scratch, lambda: bundle(scratch))
        return
    if part in ("disk", "together", "requests"):
        from benchmarks.reliability import full, requests, together

        module = {"disk": full, "together": together, "requests": requests}[part]
        module.run(log, options.share, options.seed, scratch, lambda: bundle(scratch))
        return
    from benchmarks.reliability import images, workers

    cases = log.missing(part, range(scaled(COUNTS[part], options.share)))
    workers.run(log, part, FUNCTIONS[part], cases, options.seed, scratch)
    if part == "images":
        for case in log.missing("caption", range(round(CALLS * options.share))):
            images.caption(log, case, options.seed, bundle(scratch), scratch)


def scaled(count: int, share: float) -> int:
    """So many cases, at least one."""
    return max(1, round(count * share))


def bundle(scratch: Path) -> Path:
    """A tiny bundle with random weights, made once."""
    folder = scratch / "bundle"
    if not (folder / "bundle.json").is_file():
        program = "import sys, pathlib, tests.test_bundle as t; t.write(pathlib.Path(sys.argv[1]))"
        path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
        env = commands.environment(PYTHONPATH=path)
        ran = commands.run([sys.executable, "-c", program, folder], scratch, env)
        if ran.code != 0:
            raise SystemExit(f"reliability: no bundle: {ran.err[-2000:]}")
    return folder


def machine(with_speed: bool) -> str:
    """When, at which commit, on what: cores, TensorFlow's product of two 1024 x 1024 matrices."""
    program = """
import time, tensorflow as tf
a = tf.random.normal((1024, 1024)); b = tf.random.normal((1024, 1024)); best = 9.0
for _ in range(60):
    start = time.perf_counter(); tf.linalg.matmul(a, b).numpy()
    best = min(best, time.perf_counter() - start)
print(2 * 1024**3 / best / 1e9)
"""
    speed = "not measured"
    if with_speed:
        measured = commands.run([sys.executable, "-c", program], ROOT)
        speed = f"{float(measured.out.split()[-1]):.0f} GF/s"
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
    cores = len(os.sched_getaffinity(0))
    return (
        f"{datetime.date.today().isoformat()}, commit {commit}, {cores} cores, TensorFlow's "
        f"1024 x 1024 float32 product: {speed}"
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
