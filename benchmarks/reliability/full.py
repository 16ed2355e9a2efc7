"""A full disk, at 20 sizes, for everything that writes.

The folder lies on a tmpfs where this user may mount one; its size is changed to what a case leaves:
from nothing to a quarter more than the command needs undisturbed. Elsewhere a limit of file sizes
stands for it, which the outcome then says. A command either works or says why not in one line, with
exit code 2; its outputs are whole, or as they were before.
"""

import atexit
import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.reliability import commands, indexes
from benchmarks.reliability.cases import Log, Outcome, Wrong, in_threads
from benchmarks.reliability.commands import Ran
from benchmarks.reliability.writers import KINDS, Command, make
from captioner import CaptionerError
from captioner.files import digest

PAGE = 4096  # bytes that a tmpfs gives at a time
SIZES, FEW = 20, 5  # of the disk; of commands that start TensorFlow
ROOM = 4 * 2**30  # bytes of the whole tmpfs; it takes memory only for what is written


def run(log: Log, share: float, seed: int, scratch: Path, bundle: Callable[[], Path]) -> None:
    """All cases that are not done yet."""
    folder = scratch / "disk"
    for place in folder.glob("place-*"):  # of a campaign that was killed
        _unmount(place)
    commands.fresh(folder)
    names = [
        (name, size)
        for name, heavy in KINDS.items()
        for size in range(max(1, round((FEW if heavy else SIZES) * share)))
    ]
    missing = log.missing("disk", range(len(names)))
    if not missing:
        return
    made = {one.name: one for one in make(folder / "templates", bundle())}

    def work(number: int, cases: Iterator[int]) -> None:
        with _disk(folder / f"place-{number}") as disk:
            for case in cases:
                name, size = names[case]
                command = made[name]
                if not command.needs:
                    _measure(command, disk)
                sizes = max(1, round((FEW if command.heavy else SIZES) * share))
                part = size / max(1, sizes - 1) * 1.25
                log.add(_outcome(case, command, part, disk), disk.folder)

    in_threads("disk", missing, work)


class _Disk:
    """A folder on a disk of its own, which can be filled; or with `mounted` False on any disk."""

    def __init__(self, place: Path, mounted: bool):
        self.place, self.mounted = place, mounted
        self.folder = place / "folder"

    def copy(self, template: Path) -> None:
        self._resize(ROOM)
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(template, self.folder)

    def free(self) -> int:
        found = os.statvfs(self.place)
        return found.f_bavail * found.f_frsize

    def leave(self, size: int) -> None:
        """Make the disk so small that only `size` bytes (in whole pages) are free."""
        found = os.statvfs(self.place)
        self._resize((found.f_blocks - found.f_bfree) * found.f_frsize + size)

    def _resize(self, size: int) -> None:
        if self.mounted:
            options = f"remount,size={max(size, PAGE)}"
            command = ["mount", "-o", options, str(self.place)]
            subprocess.run(command, check=True, capture_output=True)


@contextlib.contextmanager
def _disk(place: Path) -> Iterator[_Disk]:
    commands.fresh(place)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(place)]
    mounted = False
    with contextlib.suppress(OSError):
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    if mounted:
        atexit.register(_unmount, place)  # threads are not waited for after Ctrl-C
    try:
        yield _Disk(place, mounted)
    finally:
        if mounted:
            _unmount(place)


def _unmount(place: Path) -> None:
    if place.is_mount():
        subprocess.run(["umount", "--lazy", str(place)], capture_output=True)


def _run(command: Command, disk: _Disk, file_size: int | None = None) -> tuple[Ran, int]:
    """What came of it, and how many bytes of the disk it took at most."""
    env = commands.environment()
    if command.name.startswith("stage"):
        del env["PYTHONPATH"]
    before = least = disk.free()
    started = commands.Started(command.arguments, disk.folder, env, file_size)
    while started.running() and started.age() < commands.LIMIT:
        least = min(least, disk.free())
        time.sleep(0.01)
    return started.wait(0 if started.age() >= commands.LIMIT else 10), before - least


def _measure(command: Command, disk: _Disk) -> None:
    disk.copy(command.template)
    ran, taken = _run(command, disk)
    if ran.code != command.done:
        raise SystemExit(f"reliability: undisturbed {command.name}: {ran.out}{ran.err}")
    files = [p for name in command.outputs for p in (disk.folder / name).rglob("*") if p.is_file()]
    files += [disk.folder / name for name in command.outputs if (disk.folder / name).is_file()]
    sizes = [path.stat().st_size for path in files]
    pages = sum(-(-size // PAGE) * PAGE for size in sizes)
    command.whole = _state(command, disk.folder)
    # Last: the other thread goes by it.
    if command.collection:  # most of it is there already
        pages = PAGE
    command.needs = max(taken, pages) if disk.mounted else max(sizes)


def _state(command: Command, folder: Path) -> dict[str, object]:
    """What each output holds; None where it is absent.

    The files of a stage's reports are outputs of their own: each is whole or not there, and DVC
    removes all of them before the stage runs again. A collection that was begun holds nothing yet.
    """
    found: dict[str, object] = {}
    for name in command.outputs:
        place = folder / name
        if command.collection and (place / "manifest.json").exists():
            found[name] = sorted(indexes.content(place)) or None
        elif (place / "saved_model.pb").exists():
            # All but fingerprint.pb, in which TensorFlow notes a random id of each export.
            parts = [place / "saved_model.pb", place / "variables"]
            found[name] = [digest(path) if path.exists() else None for path in parts]
        elif name.startswith("reports/"):
            found |= {f"{name}/{file.name}": digest(file) for file in place.glob("*")}
        else:
            found[name] = digest(place) if place.exists() else None
    return found


def _outcome(case: int, command: Command, part: float, disk: _Disk) -> Outcome:
    start = time.monotonic()
    disk.copy(command.template)
    before = _state(command, disk.folder)
    leave = int(part * command.needs)
    disk.leave(leave)
    ran, _ = _run(command, disk, None if disk.mounted else leave)
    if disk.mounted:
        disk.leave(ROOM)
    verdict, detail = commands.judge(ran, (command.done, 2))
    if verdict == "ok":
        try:
            _check(command, ran, before, disk.folder)
        except (Wrong, CaptionerError) as error:
            verdict, detail = "wrong", str(error)
    with contextlib.suppress(OSError):
        (disk.folder / "output.txt").write_text(f"{ran.out}\n{ran.err}\n{ran.code}\n", "utf-8")
    limit = "left" if disk.mounted else "a file at most (no mount)"
    what = f"{command.name}: {leave} of {command.needs} bytes {limit}: exit code {ran.code}"
    seconds = round(time.monotonic() - start, 1)
    return Outcome("disk", case, what, verdict, detail, seconds, ran.peak)


def _check(command: Command, ran: Ran, before: dict[str, object], folder: Path) -> None:
    after = _state(command, folder)
    for name in sorted(after | before | command.whole):
        value = after.get(name)
        # DVC removes the outputs of a stage before it starts, and does not take half of them.
        earlier = value == before.get(name) and (ran.code == 2 or before == command.whole)
        if not earlier and value != command.whole.get(name):
            raise Wrong(f"exit code {ran.code}: {name} is neither whole nor as before")
    if ran.code != 2 and after != command.whole:
        missing = [name for name in command.whole if after.get(name) != command.whole[name]]
        raise Wrong(f"exit code {ran.code}: {missing} missing")
    if ran.code == 2:
        lines = [line for line in ran.err.splitlines() if line.strip() and "%|" not in line]
        known = ("captioner: ", f"{command.name.removeprefix('stage ')}: ")
        if not lines or not lines[-1].startswith(known):
            raise Wrong(f"not one line that says why: {ran.err[-500:]}")
    if left := list(folder.rglob(".partial-*")):
        raise Wrong(f"left behind: {left[0].relative_to(folder)}")
