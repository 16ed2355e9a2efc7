"""Two and four processes at once, for every command that writes.

Whatever a process says it did (exit code 0) has to be there afterwards; a process that could not
has to say so with a documented exit code.
"""

import importlib.util
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml
from tqdm import tqdm

from benchmarks.reliability import ROOT, commands, indexes
from benchmarks.reliability.cases import Log, Outcome, Wrong
from benchmarks.reliability.commands import CAPTIONER, Ran
from captioner import CaptionerError
from captioner.files import digest

AT_ONCE = (2, 4)
PICTURES = 24
CONNECT = "from pathlib import Path; from captioner import tracking; tracking.connect(Path.cwd())"
TRACK = """
from pathlib import Path; from captioner import tracking; from tests.test_tracking import PARAMS
tracking.track(Path.cwd(), PARAMS)
"""
RUNS = """
from mlflow import MlflowClient
client = MlflowClient("sqlite:///mlflow.db")
(experiment,) = [e for e in client.search_experiments() if e.name == "captioner"]
runs = client.search_runs([experiment.experiment_id])
print("runs", [(r.info.status, "captioner.fingerprint" in r.data.tags) for r in runs])
"""


class _Place:
    """A folder with pictures, a collection of all of them, and captions."""

    def __init__(self, scratch: Path, bundle: Path):
        self.folder, self.bundle = scratch / "folder", bundle
        self.template = commands.fresh(scratch / "template")
        indexes.draw_pictures(self.template / "pictures", PICTURES)
        self.names = [f"pictures/{number:03d}.png" for number in range(PICTURES)]
        self.must(self.add(self.names, "index"), self.template)
        self.all = indexes.content(self.template / "index")
        rows = "".join(f"{Path(name).name},a drawn scene\n" for name in self.names)
        (self.template / "captions.csv").write_text(f"image,caption\n{rows}", "utf-8")
        params = yaml.safe_load((ROOT / "params.yaml").read_text("utf-8"))
        source = {"captions": "captions.csv", "pictures": "pictures"}
        params["datasets"]["table"]["download"] |= source
        params["datasets"]["table"]["encoder"]["backbone"] = "cnn"
        (self.template / "params.yaml").write_text(yaml.safe_dump(params), "utf-8")

    def must(self, command: Sequence[object], folder: Path) -> Ran:
        ran = commands.run(command, folder, _environment())
        if ran.code != 0:
            raise SystemExit(f"reliability: undisturbed {command[3:]}: {ran.err}")
        return ran

    def add(self, names: Sequence[str], index: str) -> list[object]:
        options = ["--index", index, "--bundle", self.bundle]
        return [*CAPTIONER, "index", "add", *names, *options]

    def share(self, number: int, count: int) -> list[str]:
        return self.names[number::count]


def _environment() -> dict[str, str]:
    return commands.environment(PYTHONPATH=f"{ROOT / 'src'}:{ROOT}")


def run(log: Log, share: float, seed: int, scratch: Path, bundle: Callable[[], Path]) -> None:
    """All cases that are not done yet, one after another."""
    cases = [(kind, count) for count in AT_ONCE for kind in KINDS]
    missing = log.missing("together", range(max(1, round(len(cases) * share))))
    if not missing:
        return
    place = _Place(scratch / "together", bundle())
    for case in tqdm(missing, "together", disable=None):
        kind, count = cases[case]
        log.add(_outcome(case, kind, count, place), place.folder)


def _outcome(case: int, kind: str, count: int, place: _Place) -> Outcome:
    shutil.rmtree(place.folder, ignore_errors=True)
    shutil.copytree(place.template, place.folder)
    wanted, check = KINDS[kind](place, count)
    start = time.monotonic()
    running = [commands.Started(one, place.folder, _environment()) for one in wanted]
    ran = [one.wait() for one in running]
    found = [commands.judge(one) for one in ran]
    verdict, detail = next((one for one in found if one[0] != "ok"), ("ok", ""))
    if verdict == "ok":
        try:
            check([one.code for one in ran])
            if left := [*place.folder.rglob(".partial-*")]:
                raise Wrong(f"left behind: {left[0].relative_to(place.folder)}")
        except (Wrong, CaptionerError, OSError) as error:
            said = " / ".join(one.err.strip()[-300:] for one in ran)
            verdict, detail = "wrong", f"{said}: {error}"
    codes = ", ".join(str(one.code) for one in ran)
    what, seconds = f"{count} at once, {kind}: exit codes {codes}", time.monotonic() - start
    peak = max(one.peak for one in ran)
    return Outcome("together", case, what, verdict, detail, round(seconds, 1), peak)


Case = tuple[list[list[object]], Callable[[list[int]], None]]


def _holds(index: Path, there: set[str], may: set[str]) -> None:
    """The collection is sound, and holds what it must and nothing that it may not."""
    found = set(indexes.content(index))
    if missing := there - found:
        raise Wrong(f"{len(missing)} of {len(there)} pictures lost: {sorted(missing)[:5]}")
    if more := found - may:
        raise Wrong(f"{len(more)} pictures too many: {sorted(more)[:5]}")


def _add(place: _Place, count: int) -> Case:
    """Into a collection that none of them has begun yet."""
    parts = [place.share(number, count) for number in range(count)]

    def check(codes: list[int]) -> None:
        done = {name for part, code in zip(parts, codes, strict=True) if code == 0 for name in part}
        _holds(place.folder / "new", done, set(place.names))

    return [place.add(part, "new") for part in parts], check


def _remove(place: _Place, count: int) -> Case:
    parts = [place.share(number, 6) for number in range(count)]
    wanted = [[*CAPTIONER, "index", "remove", *part, "--index", "index"] for part in parts]

    def check(codes: list[int]) -> None:
        gone = {name for part, code in zip(parts, codes, strict=True) if code == 0 for name in part}
        kept = set(place.names) - {name for part in parts for name in part}
        _holds(place.folder / "index", kept, set(place.names) - gone)

    return wanted, check


def _add_and_remove(place: _Place, count: int) -> Case:
    """Half of them add new pictures, half of them remove old ones."""
    new = [f"more/{number:03d}.png" for number in range(8)]
    indexes.draw_pictures(place.folder / "more", len(new), seed=2)
    half = count // 2
    adding = [new[number::half] for number in range(half)]
    removing = [place.share(number, 6) for number in range(half)]
    wanted = [place.add(part, "index") for part in adding]
    wanted += [[*CAPTIONER, "index", "remove", *part, "--index", "index"] for part in removing]

    def check(codes: list[int]) -> None:
        there = set(place.names) - {name for part in removing for name in part}
        may = set(place.names) | set(new)
        for part, code in zip([*adding, *removing], codes, strict=True):
            if code == 0:
                there, may = (there | {*part}, may) if part[0] in new else (there, may - {*part})
        _holds(place.folder / "index", there, may)

    return wanted, check


def _build(place: _Place, count: int) -> Case:
    """An index of many random vectors, for searching them faster."""
    from captioner.approximate import LEAST, open_index
    from captioner.collection import open_collection

    indexes.write_random(place.folder / "many", LEAST)

    def check(codes: list[int]) -> None:
        said: list[str] = []
        if 0 in codes and (open_index(open_collection(place.folder / "many"), said.append)) is None:
            raise Wrong(f"no index can be opened: {said}")

    return [[*CAPTIONER, "index", "build", "--index", "many"]] * count, check


def _same(*arguments: object, output: str, alone: bool = True) -> Callable[[_Place, int], Case]:
    """All write the same output, which has to be what one of them writes alone."""

    def case(place: _Place, count: int) -> Case:
        command = [
            place.bundle if one == "BUNDLE" else one for one in (*CAPTIONER, *arguments, output)
        ]
        written = place.folder / output
        expected = ""
        if alone:
            commands.run(command, place.folder, _environment())
            expected = digest(written)

        def check(codes: list[int]) -> None:
            if alone and digest(written) != expected:
                raise Wrong(f"{output} is not what one process writes alone")
            if not alone and 0 in codes and not (written / "saved_model.pb").is_file():
                raise Wrong(f"{output} is no SavedModel")

        return [command] * count, check

    return case


def _store(place: _Place, count: int) -> Case:
    def check(codes: list[int]) -> None:
        if set(codes) != {0}:
            raise Wrong(f"exit codes {codes}")
        place.must([CAPTIONER[0], "-c", RUNS], place.folder)

    return [[CAPTIONER[0], "-c", CONNECT]] * count, check


def _track(place: _Place, count: int) -> Case:
    """One state of a pipeline is one run, whoever was first."""
    make = (
        "import sys, pathlib, tests.test_tracking as t; t.make_pipeline(pathlib.Path(sys.argv[1]))"
    )
    place.must([CAPTIONER[0], "-c", make, "."], commands.fresh(place.folder))

    def check(codes: list[int]) -> None:
        ran = place.must([CAPTIONER[0], "-c", RUNS], place.folder)
        if set(codes) != {0} or "runs [('FINISHED', True)]" not in ran.out:
            raise Wrong(f"exit codes {codes}, {ran.out.strip()}")

    return [[CAPTIONER[0], "-c", TRACK]] * count, check


EXPORT = ("export", "--index", "index", "--force", "--format")
CHECK = ("check-data", "--dataset", "table", "--report")
KINDS: dict[str, Callable[[_Place, int], Case]] = {
    "index add": _add,
    "index remove": _remove,
    "index add and remove": _add_and_remove,
    **({"index build": _build} if importlib.util.find_spec("faiss") else {}),
    "export parquet": _same(*EXPORT, "parquet", "--output", output="vectors.parquet"),
    "export npy": _same(*EXPORT, "npy", "--output", output="vectors.npy"),
    "export word2vec": _same(*EXPORT, "word2vec", "--output", output="vectors.txt"),
    "bundle export": _same(
        "bundle", "export", "--force", "--bundle", "BUNDLE", "--savedmodel",
        output="served", alone=False,
    ),
    "check-data": _same(*CHECK, output="report"),
    "store creation": _store,
    "track": _track,
}  # fmt: skip
