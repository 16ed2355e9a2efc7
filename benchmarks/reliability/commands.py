"""One command as a process of its own, and what a person would complain of."""

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from benchmarks.reliability import ROOT
from benchmarks.reliability.cases import MEMORY

LIMIT = 300  # seconds after which a command hangs
MARK = "CAPTIONER_RELIABILITY"  # environment variable by which descendants are known
TRACEBACK = "Traceback (most recent call last)"
CAPTIONER = [sys.executable, "-m", "captioner.cli"]


@dataclass(frozen=True)
class Ran:
    """What came of a command: exit code (None: it hung and was killed), texts, seconds, peak."""

    code: int | None
    out: str
    err: str
    seconds: float
    peak: int


def environment(**more: str) -> dict[str, str]:
    """Without what the person's shell says of DVC and MLflow, with this checkout's code."""
    hidden = ("MLFLOW_", "DVC_", "GIT_", "CAPTIONER_", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    own = {"PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    return kept | own | {"TF_CPP_MIN_LOG_LEVEL": "3", "DVC_NO_ANALYTICS": "1"} | more


_started: "list[Started]" = []


@atexit.register
def end_all() -> None:
    """Kill all commands that run: sessions of their own outlive a campaign that was stopped."""
    for started in list(_started):
        started.end_all()


class Started:
    """A command that runs, the leader of a group of processes; its output goes to files.

    Args:
        mark: known to all its descendants, so that none of them is left.
        file_size: bytes that a file may have, or None.
    """

    def __init__(
        self,
        command: Sequence[object],
        folder: Path,
        env: dict[str, str] | None = None,
        file_size: int | None = None,
    ):
        self.mark = f"{os.getpid()}-{time.monotonic_ns()}"
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        self._start = time.monotonic()
        self.process = subprocess.Popen(
            [*_limited(file_size), *map(str, command)],
            cwd=folder,
            env=(env or environment()) | {MARK: self.mark, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            start_new_session=True,
        )
        self._peak = 0
        _started.append(self)

    def running(self) -> bool:
        """Whether it still runs; also measures."""
        if self.process.returncode is None:
            pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                self.process.returncode = os.waitstatus_to_exitcode(status)
                self._peak = usage.ru_maxrss * 1024
        return self.process.returncode is None

    def age(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def out(self) -> str:
        """What it has printed so far."""
        return _text(self._out)

    def errors(self) -> str:
        """What it has printed to stderr so far."""
        return _text(self._err)

    def signal(self, number: int) -> None:
        """To the whole group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def wait(self, limit: float = LIMIT) -> Ran:
        """Until it ends; what is left of it at the limit, or of its descendants, is killed."""
        deadline, hung = time.monotonic() + limit, False
        while self.running():
            if time.monotonic() > deadline:
                hung = True
                self.signal(signal.SIGKILL)
            time.sleep(0.01)
        self.end_all()
        texts = [_text(file) for file in (self._out, self._err)]
        self._out.close()
        self._err.close()
        _started.remove(self)
        code = None if hung else self.process.returncode
        return Ran(code, *texts, time.monotonic() - self._start, self._peak)

    def end_all(self) -> None:
        """Kill what still runs of it, and wait until nothing does."""
        for _ in range(500):
            if not (left := self.descendants()):
                return
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.02)

    def descendants(self) -> list[int]:
        """Processes that know the mark and are not dead."""
        wanted, found = f"{MARK}={self.mark}".encode(), []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                    if state not in "ZX":
                        found.append(int(entry.name))
            except OSError:  # it ended, or belongs to somebody else
                continue
        return found


def _text(file: BinaryIO) -> str:
    """All of it; the place where the process writes is left alone."""
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode("utf-8", "replace")


def _limited(size: int | None) -> list[str]:
    """What comes before a command so that no file grows beyond `size` bytes (in whole KiB)."""
    return [] if size is None else ["bash", "-c", f'ulimit -f {size // 1024}; exec "$@"', "limited"]


def run(
    command: Sequence[object],
    folder: Path,
    env: dict[str, str] | None = None,
    limit: float = LIMIT,
    file_size: int | None = None,
) -> Ran:
    """Run a command to its end."""
    return Started(command, folder, env, file_size).wait(limit)


def judge(ran: Ran, codes: Sequence[int] = (0, 1, 2)) -> tuple[str, str]:
    """Verdict and detail of what any command may do."""
    if ran.code is None:
        return "hang", f"no end within {ran.seconds:.0f} s: {ran.err[-500:]}"
    if TRACEBACK in ran.err:
        return "traceback", ran.err[-3000:]
    if ran.code not in codes:
        return "wrong", f"exit code {ran.code}: {ran.err[-1000:]}"
    if ran.peak > MEMORY:
        return "memory", f"{ran.peak / 1e6:.0f} MB"
    return "ok", ""


def fresh(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
