"""Kills: what is killed and when, and what has to be the same once the command ran again.

Moments are fractions of how long the same thing takes undisturbed on this machine, spread evenly
over it by the seed; or short waits after the end of a stage, when DVC hashes and commits; or after
the first byte that is written, since most of a command's seconds are imports.
"""

import contextlib
import re
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.reliability import commands, indexes
from benchmarks.reliability.cases import Log, Outcome, Wrong, in_threads
from benchmarks.reliability.commands import Ran, Started
from benchmarks.reliability.pipelines import (
    STAGES,
    Undisturbed,
    differences,
    observe,
    repro,
    running,
)

# How many of a hundred.
SHARES = dict.fromkeys(STAGES, 6) | {"exp run": 10, "index add": 14, "store": 16}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
NAMES = {signal.SIGKILL: "SIGKILL", signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}
AFTER = 1.0  # seconds after a stage's end that kills are spread over
STOPPED = 60  # seconds in which a program has to end after SIGTERM or Ctrl-C
STORE = """
import sys; from pathlib import Path; from captioner import CaptionerError, tracking
try:
    tracking.connect(Path.cwd())
except CaptionerError as error:
    sys.exit(f"store: {error}")
"""
WORD = re.compile(r"[^\s,()]+")


@dataclass(frozen=True)
class Kill:
    """One case.

    Attributes:
        target: a stage, or `exp run`, `index add`, `store`.
        moment: from 0 to 1 within what it is spread over; late: after the end of a stage, or from
            the first write on.
        again: the moment of a second kill, of the continuation; or None.
        choice: from 0 to 1, for what else a target has to choose.
    """

    target: str
    signal: int
    moment: float
    late: bool
    again: float | None
    choice: float

    def __str__(self) -> str:
        kind = "after its end or first write" if self.late else "within"
        twice = "" if self.again is None else ", twice"
        return f"{NAMES[self.signal]} of {self.target} at {self.moment:.2f} {kind}{twice}"


def plan(count: int, seed: int) -> list[Kill]:
    """The kills of a campaign; of fewer than a hundred all targets have their share."""
    rng, kills = np.random.default_rng([seed, *b"kills"]), []
    while len(kills) < count:
        hundred = []
        for target, number in SHARES.items():
            for place in range(number):
                late = place % 3 == 2 if target in STAGES else place % 2 == 1
                moment = (place + rng.random()) / number
                again = rng.random() if place % 6 == 1 else None
                kind = SIGNALS[(place + len(hundred)) % 3]
                hundred.append(Kill(target, kind, moment, late, again, rng.random()))
        kills += [hundred[place] for place in rng.permutation(len(hundred))]
    return kills[:count]


def run(log: Log, count: int, seed: int, scratch: Path, bundle: Callable[[], Path]) -> None:
    """All kills that are not done yet; each thread has a pipeline of its own."""
    kills = plan(count, seed)

    def work(number: int, cases: Iterator[int]) -> None:
        place = _Place(commands.fresh(scratch / f"kills-{number}"), bundle)
        for case in cases:
            log.add(place.outcome(kills[case], case), place.kept)

    in_threads("kills", log.missing("kills", range(count)), work)


class _Place:
    """Where one thread kills: a pipeline, a collection, a store, and their undisturbed ends."""

    def __init__(self, folder: Path, bundle: Callable[[], Path]):
        self.folder, self._bundle = folder, bundle
        self.kept = folder / "kept"
        self._made: dict[str, object] = {}

    def _once(self, name: str, make: Callable[[], object]) -> object:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def outcome(self, kill: Kill, case: int) -> Outcome:
        commands.fresh(self.kept)
        self.said: list[str] = []
        self.late = 0  # kills that came after the end
        kind = {"index add": self._index, "store": self._store}.get(kill.target)
        if kind is None:
            kind = self._pipeline
            self.tiny = self._once("pipeline", lambda: Undisturbed(self.folder / "tiny"))
        start, verdict, detail, self.peak = time.monotonic(), "ok", "", 0
        try:
            kind(kill)
        except Wrong as error:
            verdict, detail = "wrong", str(error)
        except Exception as error:  # damage that nobody thought of
            verdict, detail = "wrong", f"{type(error).__name__}: {error}"
        (self.kept / "output.txt").write_text("\n".join(self.said), "utf-8")
        if verdict == "wrong" and detail.startswith("hang"):
            verdict = "hang"
        if verdict == "wrong" and commands.TRACEBACK in detail:
            verdict = "traceback"
        seconds = round(time.monotonic() - start, 1)
        what = f"{kill} (came after the end)" if self.late else f"{kill}"
        return Outcome("kills", case, what, verdict, detail, seconds, self.peak)

    def _kill(self, started: Started, kill: Kill) -> None:
        """Send the signal, and wait until nothing is left of it."""
        self.late += not started.running()
        started.signal(kill.signal)
        deadline = time.monotonic() + STOPPED
        while started.running() or started.descendants():
            if time.monotonic() > deadline:
                started.wait(0)
                raise Wrong(f"hang: no end {STOPPED} s after {NAMES[kill.signal]}")
            time.sleep(0.02)
        self._note(started.wait())

    def _note(self, ran: Ran) -> Ran:
        self.said += [ran.out, ran.err, f"exit code {ran.code}", "-" * 80]
        self.peak = max(self.peak, ran.peak)
        return ran

    def _finish(self, command: list[str], folder: Path, env: dict[str, str]) -> None:
        """Run the command undisturbed."""
        ran = self._note(commands.run(command, folder, env))
        if ran.code is None:
            raise Wrong(f"hang: {ran.seconds:.0f} s once more: {ran.err[-1000:]}")
        if ran.code != 0:
            raise Wrong(f"exit code {ran.code} once more: {ran.out[-500:]}{ran.err[-2500:]}")

    def _pipeline(self, kill: Kill) -> None:
        """A stage in `dvc repro`, or of `dvc exp run`, which starts in front of any stage."""
        tiny: Undisturbed = self.tiny
        stage, command = kill.target, repro()
        if stage == "exp run":
            stage = STAGES[int(kill.choice * len(STAGES))]
            command = [
                *repro()[:3],
                "exp",
                "run",
                *(["--temp"] if kill.choice * 100 % 2 < 1 else []),
            ]
        tiny.restore(stage)
        if kill.target == "exp run":
            tiny.commit()
        place = tiny.pipeline.folder
        if "--temp" in command:  # another folder, which takes its time; no file to wait for
            started = Started(command, place, tiny.env)
            _sleep(started, kill.moment * (3 + tiny.seconds[stage]))
        else:
            started = Started(command, place, tiny.env)
            _await(started, lambda: running(stage) in started.out())
            if kill.late:
                timing = place / "reports" / "timings" / f"{stage}.json"
                _await(started, timing.exists)
                _sleep(started, kill.moment * AFTER)
            else:
                _sleep(started, kill.moment * tiny.seconds[stage])
        self._kill(started, kill)
        if kill.again is not None:
            started = Started(repro(), place, tiny.env)
            _sleep(started, kill.again * (2 + tiny.seconds[stage]))
            self._kill(started, kill)
        self._finish(repro(), place, tiny.env)
        if found := differences(tiny.end, observe(tiny.pipeline)):
            raise Wrong(f"{len(found)} differences: {'; '.join(found[:10])}")

    def _index(self, kill: Kill) -> None:
        """`captioner index add` into a new collection, or into one that has half of them."""
        folder = self.folder / "collections"
        made = self._once("index", lambda: indexes.Undisturbed(folder, self._bundle()))
        index = made.start(half=kill.choice < 0.5)
        for moment in (kill.moment, kill.again):
            if moment is None:
                continue
            started = Started(made.add, made.folder)
            if kill.late:
                before = _names(index)
                _await(started, lambda before=before: _names(index) != before)
                _sleep(started, moment * 0.1)
            else:
                _sleep(started, moment * made.seconds)
            self._kill(started, kill)
        self._finish(made.add, made.folder, commands.environment())
        made.compare()

    def _store(self, kill: Kill) -> None:
        """The creation of MLflow's SQLite store."""
        command = [commands.CAPTIONER[0], "-c", STORE]
        expected = self._once("store", lambda: _made_store(command, self.folder / "store"))
        folder, env = commands.fresh(self.folder / "store"), commands.environment()
        for moment in (kill.moment, kill.again):
            if moment is None:
                continue
            started = Started(command, folder, env)
            _await(started, lambda: _first_write(folder))
            _sleep(started, moment * expected["seconds"])
            self._kill(started, kill)
        self._finish(command, folder, env)
        found = _observe_store(folder)
        for name, value in found.items():
            if name == "tables" and value != expected[name]:
                other = sorted({*value} ^ {*expected[name]})
                raise Wrong(f"store: {len(other)} tables or indexes differ: {other!s:.1500}")
            if value != expected[name]:
                raise Wrong(
                    f"store: {name}: {expected[name]!s:.200} undisturbed, {value!s:.200} now"
                )


def _await(started: Started, condition: Callable[[], bool]) -> None:
    """Until something is so, or the command has ended."""
    while started.running() and not condition():
        time.sleep(0.005)


def _sleep(started: Started, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while started.running() and time.monotonic() < deadline:
        time.sleep(0.002)


def _names(folder: Path) -> set[str]:
    """What lies in and beside a folder; it may change meanwhile."""
    found: set[str] = set()
    for place in (folder, folder.parent):
        with contextlib.suppress(OSError):
            found |= {path.name for path in place.iterdir()}
    return found


def _first_write(folder: Path) -> bool:
    return any(not name.endswith(".lock") for name in _names(folder) - {"store", "kept"})


def _made_store(command: list[str], folder: Path) -> dict[str, object]:
    commands.fresh(folder)
    started = Started(command, folder)
    _await(started, lambda: _first_write(folder))
    begun = started.age()
    ran = started.wait()
    if ran.code != 0:
        raise SystemExit(f"reliability: undisturbed store: {ran.err}")
    return _observe_store(folder) | {"seconds": ran.seconds - begun}


def _observe_store(folder: Path) -> dict[str, object]:
    """Tables, version and experiments of a store, and the files beside it."""
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database:

        def ask(query: str) -> list[tuple]:
            return database.execute(query).fetchall()

        return {
            "integrity": ask("PRAGMA integrity_check"),
            # Words, sorted: MLflow writes the values of an enumeration in any order.
            "tables": sorted(
                " ".join([kind, name, *sorted(WORD.findall(sql or ""))])
                for kind, name, sql in ask("SELECT type, name, sql FROM sqlite_master")
            ),
            "version": ask("SELECT version_num FROM alembic_version"),
            "experiments": sorted(ask("SELECT name, lifecycle_stage FROM experiments")),
            "left behind": sorted(path.name for path in folder.glob(".partial-*")),
        }
