"""Many cases in one process each, with limits of time and memory.

A case gets a folder of its own and writes there whatever it tries, so that a failure can be tried
again from the files. A process that hangs or dies is replaced, and the campaign goes on.
"""

import gc
import importlib
import multiprocessing
import os
import resource
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.reliability.cases import MEMORY, Log, Outcome, Outside, Wrong, in_threads

CPU_SECONDS = 10  # that a case may compute: more is a hang, on a slow machine too
WALL_SECONDS = 60  # after which its process is killed
ADDRESS_SPACE = 4_000_000_000  # bytes more than at the start, so that a bomb spares the machine

# Audit events that change files, and which of their arguments are paths.
_CHANGES = {
    "os.rename": (0, 1),
    "os.remove": (0,),
    "os.mkdir": (0,),
    "os.rmdir": (0,),
    "os.symlink": (1,),
    "os.link": (1,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "shutil.rmtree": (0,),
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

Case = Callable[[np.random.Generator, int, Path], str]


def run(log: Log, part: str, function: str, cases: Sequence[int], seed: int, scratch: Path) -> None:
    """Run the cases of a part in processes of their own.

    Args:
        function: MODULE:NAME of a `Case`. It returns what was tried and raises what went wrong.
    """

    def work(number: int, mine: Iterator[int]) -> None:
        worker = None
        for case in mine:
            worker = worker or _Worker(part, function, seed, scratch / f"{part}-{number}")
            log.add(worker.run(case), worker.folder)
            if not worker.alive:
                worker.stop()
                worker = None
        if worker:
            worker.stop()

    in_threads(part, cases, work)


class _Worker:
    def __init__(self, part: str, function: str, seed: int, scratch: Path):
        self.part, self.folder = part, scratch / "case"
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        arguments = (other, part, function, seed, scratch)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        other.close()
        self.alive = self._pipe.poll(300) and self._pipe.recv() == "ready"
        if not self.alive:
            raise SystemExit(f"reliability: {part}: the worker did not start")

    def run(self, case: int) -> Outcome:
        start = time.monotonic()
        self._pipe.send(case)
        try:
            if self._pipe.poll(WALL_SECONDS):
                return self._pipe.recv()
            verdict, detail = "hang", f"no end within {WALL_SECONDS} s"
        except EOFError:
            self._process.join()
            verdict, detail = "traceback", f"the process died ({self._process.exitcode})"
        self.alive = False
        what = "unknown: it did not come back"
        return Outcome(self.part, case, what, verdict, detail, time.monotonic() - start)

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _serve(pipe, part: str, function: str, seed: int, scratch: Path) -> None:
    """What a worker does until it is killed."""
    scratch.mkdir(parents=True, exist_ok=True)
    os.chdir(scratch)
    os.environ["TMPDIR"] = os.environ["MPLCONFIGDIR"] = str(scratch)
    tqdm.set_lock(threading.RLock())  # its own is shared by processes, and would be left behind
    sys.dont_write_bytecode = True
    module, _, name = function.partition(":")
    case = getattr(importlib.import_module(module), name)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = size + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    quiet = os.open(scratch / "stderr.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(quiet, 2)  # libraries in C write there; what it is of commands is looked at elsewhere
    outside: list[str] = []
    sys.addaudithook(_watch(scratch, outside))
    pipe.send("ready")
    while True:
        try:
            number = pipe.recv()
        except EOFError:
            return
        # The name takes part: equal numbers of two parts are to be different cases.
        rng = np.random.default_rng([seed, number, *part.encode()])
        pipe.send(_judge(case, rng, part, number, scratch / "case", outside))
        os.ftruncate(2, 0)


def _judge(
    case: Case, rng: np.random.Generator, part: str, number: int, folder: Path, outside: list[str]
) -> Outcome:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    outside.clear()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    outside.clear()
    start, cpu = time.monotonic(), time.process_time()
    what, verdict, detail = "", "ok", ""
    try:
        what = case(rng, number, folder)
    except Wrong as error:
        verdict, detail = "wrong", str(error)
    except Outside as error:
        verdict, detail = "outside", str(error)
    except (Exception, RecursionError, SystemExit) as error:
        verdict = "memory" if isinstance(error, MemoryError) else "traceback"
        detail = traceback.format_exc()[-3000:]
    cpu, seconds = time.process_time() - cpu, time.monotonic() - start
    peak = peak_memory()
    if verdict == "ok" and outside:
        verdict, detail = "outside", "; ".join(outside[:5])
    if verdict == "ok" and cpu > CPU_SECONDS:
        verdict, detail = "hang", f"{cpu:.0f} s of computing"
    if verdict == "ok" and peak > MEMORY:
        verdict, detail = "memory", f"{peak / 1e6:.0f} MB"
    return Outcome(part, number, what, verdict, detail, round(seconds, 3), peak)


def peak_memory(process: int | str = "self") -> int:
    """Bytes resident at most, since the process began or its peak was reset."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _watch(scratch: Path, outside: list[str]) -> Callable:
    """An audit hook that notes what changes files elsewhere than in `scratch`."""
    allowed = (str(scratch) + os.sep, "/dev/null", "/proc/self/")
    names = (str(scratch), "/dev/null")

    def note(event: str, path: object) -> None:
        if isinstance(path, bytes | str | os.PathLike):
            place = os.path.abspath(os.fsdecode(path))  # noqa: PTH100  (no links: none is followed)
            if not place.startswith(allowed) and place not in names:
                outside.append(f"{event} {place}")

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = any(letter in mode for letter in "wax+") if isinstance(mode, str) else False
            if writes or (mode is None and isinstance(flags, int) and flags & _WRITING):
                note(event, path)
        elif event in _CHANGES:
            for place in _CHANGES[event]:
                note(event, arguments[place])

    return hook
