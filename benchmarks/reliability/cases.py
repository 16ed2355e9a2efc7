"""Outcomes of cases: how they are judged, kept for --resume, and shown as a table."""

import json
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

THREADS = 2  # cases that are tried at the same time
MEMORY = 1_500_000_000  # bytes resident that no case may exceed
# In the order of the table's columns. `wrong`: another result than undisturbed, or an exit code
# that is not documented.
VERDICTS = ("ok", "traceback", "hang", "outside", "memory", "wrong")


class Wrong(Exception):
    """A result that must not be; the text says what."""


class Outside(Exception):
    """Something was written, read or connected to that is none of the case's business."""


@dataclass(frozen=True)
class Outcome:
    """Of one case.

    Attributes:
        part, case: what the case is known by, together with the seed.
        what: what was tried, for a person.
        verdict: one of `VERDICTS`; detail says why it is not ok.
        seconds: of wall clock; peak: bytes resident, 0 where it was not measured.
    """

    part: str
    case: int
    what: str
    verdict: str
    detail: str = ""
    seconds: float = 0.0
    peak: int = 0


class Log:
    """The outcomes so far, one JSON line each, and the files of failures beside them.

    Args:
        folder: holds results.jsonl and failures/.
        header: what must be equal for results to count together (the seed).
        resume: whether to keep what is there.
    """

    def __init__(self, folder: Path, header: dict, resume: bool):
        self.folder = folder
        self.outcomes: list[Outcome] = []
        self._file = folder / "results.jsonl"
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        if resume and self._file.exists():
            first, *lines = self._file.read_text("utf-8").splitlines()
            if json.loads(first) != header:
                raise SystemExit(f"reliability: {self._file} is of {first}, not of {header}")
            for line in lines:
                try:
                    self.outcomes.append(Outcome(**json.loads(line)))
                except ValueError:  # the last line of a campaign that was killed
                    continue
        else:
            shutil.rmtree(folder / "failures", ignore_errors=True)
        content = [json.dumps(header), *(json.dumps(asdict(one)) for one in self.outcomes)]
        self._file.write_text("\n".join(content) + "\n", "utf-8")

    def missing(self, part: str, cases: Iterable[int]) -> list[int]:
        done = {one.case for one in self.outcomes if one.part == part}
        return [case for case in cases if case not in done]

    def add(self, outcome: Outcome, files: Path | None = None) -> None:
        """Note an outcome; of a failure the folder `files` is kept for reproduction."""
        with self._lock:
            self.outcomes.append(outcome)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")
        if outcome.verdict == "ok":
            return
        print(f"{outcome.part} {outcome.case}: {outcome.verdict}: {outcome.what}: ", end="")
        print(outcome.detail.strip().rpartition("\n")[2][:200], flush=True)
        kept = self.folder / "failures" / f"{outcome.part}-{outcome.case:04d}"
        shutil.rmtree(kept, ignore_errors=True)
        if files is not None and files.is_dir():
            shutil.copytree(files, kept, symlinks=True, ignore_dangling_symlinks=True)
        kept.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(outcome), indent=2, ensure_ascii=False)
        (kept / "outcome.json").write_text(text + "\n", "utf-8")


def in_threads(part: str, cases: Iterable[int], work: Callable[[int, Iterator[int]], None]) -> None:
    """Spread cases over `THREADS` threads; each gets its number and the cases it is to do.

    The first error in one of them stops all, and is raised here.
    """
    waiting = deque(cases)
    bar = tqdm(total=len(waiting), desc=part, disable=None)
    errors: list[BaseException] = []

    def mine() -> Iterator[int]:
        while waiting and not errors:
            try:
                case = waiting.popleft()
            except IndexError:  # the other thread was faster
                return
            yield case
            bar.update()

    def guarded(number: int) -> None:
        try:
            work(number, mine())
        except BaseException as error:
            errors.append(error)

    numbers = range(min(THREADS, len(waiting)))
    # Daemons: after Ctrl-C nobody waits for what they are about.
    threads = [threading.Thread(target=guarded, args=(n,), daemon=True) for n in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bar.close()
    if errors:
        raise errors[0]


def table(outcomes: Iterable[Outcome], names: dict[str, str]) -> str:
    """Markdown: a row for each part.

    Args:
        names: part -> what it is called for a person, in the order of the rows.
    """
    titles = ["what", "cases", "ok", "tracebacks", "hangs", "outside", "memory", "wrong"]
    rows = [[*titles, "peak MB", "s"], ["---", *["---:"] * (len(titles) + 1)]]
    outcomes = list(outcomes)
    for part, name in names.items():
        own = [one for one in outcomes if one.part == part]
        if not own:
            continue
        counts = [sum(one.verdict == verdict for one in own) for verdict in VERDICTS]
        peak = max(one.peak for one in own) / 1e6
        seconds = sum(one.seconds for one in own)
        shown = [name, len(own), *counts, f"{peak:.0f}" if peak else "-", f"{seconds:.0f}"]
        rows.append(list(map(str, shown)))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
