"""Which faults would no test notice? Breaks the functions of captioner one by one and tests them.

A mutant is the program with one small fault. Kind `body`: a function returns at once an empty value
of the type that it promises ([], {}, "", 0, its first argument, else None). Kind `operator`: one
comparison, condition, number, sum or order of arguments is changed. A mutant is killed when a test
fails, and survives when none does: then a test is missing, or the change makes no difference.

All happens in a copy of the checkout in a temporary folder; the checkout is only read. First every
test file that imports the module runs once, to see which tests enter which function and how long
they take (kept in the file `--reach`; delete it when tests have changed). Each mutant then runs the
tests that enter its function, quickest first, up to the first failure, in a fork of one process
that has TensorFlow imported already (so: Linux or macOS). A mutant may not delete or rename
anything outside the temporary folder.

    python benchmarks/mutants.py                                 60 functions, by seed 0
    python benchmarks/mutants.py "metrics/*" --count 1000        all functions of a package
    python benchmarks/mutants.py raster.py --kind operator --count 80
    python benchmarks/mutants.py "files.py:digest" --list        the mutants, without running them
"""

import argparse
import ast
import contextlib
import fnmatch
import importlib
import itertools
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
# What tests import again and again.
HEAVY = """pytest xdist.plugin _hypothesis_pytestplugin hypothesis.extra.numpy matplotlib.pyplot
yaml pandas pyarrow.parquet pyarrow.compute pyarrow.csv PIL.TiffImagePlugin PIL.ImageFont pydantic
filelock tensorflow keras mlflow"""
# Whole pipelines, pages and programs in processes of their own: minutes, and hardly anything alone.
TOO_LONG = "test_app_browser.py test_benchmarks.py test_pages.py test_pipeline.py"
NOTE = "getattr(__import__('builtins'), '_reached', len)"  # len: in a program that a test starts
SECONDS = itertools.count(1)
MEMORY = 32 << 30  # bytes of addresses; TensorFlow alone reserves several GB
TEST_FILE_SECONDS = 300
MUTANT_SECONDS = 120

EMPTY = {"list": "[]", "dict": "{}", "set": "set()", "str": '""', "bytes": 'b""', "tuple": "()"}
EMPTY |= {"int": "0", "float": "0.0", "Iterator": "iter(())"}
SWAPPED = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq}
SWAPPED |= {ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot}
SWAPPED |= {ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And, ast.Add: ast.Sub}
SWAPPED |= {ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult}
SYMMETRIC = {"min", "max", "isinstance", "getattr", "zip", "hasattr", "print"}


class Mutant(NamedTuple):
    module: str  # below src/captioner
    function: str  # with its classes and outer functions
    line: int
    change: str
    source: str  # of the whole module, changed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "patterns", nargs="*", default=["*"], help="modules, or module:function (default: all)"
    )
    parser.add_argument("--kind", choices=["body", "operator"], default="body")
    parser.add_argument("--count", type=int, default=60, help="mutants at most (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="which of them (default: 0)")
    parser.add_argument(
        "--tests", nargs="+", default=["*"], help="test files to choose from (default: all)"
    )
    parser.add_argument(
        "--reach", type=Path, default=ROOT / "build/reach.json", help="tests of each function"
    )
    parser.add_argument("--list", action="store_true", help="print the mutants and stop")
    options = parser.parse_args()
    package = ROOT / "src/captioner"
    mutants = [
        mutant
        for path in sorted(package.rglob("*.py"))
        for mutant in mutants_of(path.relative_to(package).as_posix(), options)
    ]
    random.Random(options.seed).shuffle(mutants)
    mutants = sorted(mutants[: options.count])
    if options.list or not mutants:
        for mutant in mutants:
            print(f"{mutant.module}:{mutant.line} {mutant.function}: {mutant.change}")
        return 0 if mutants else 2
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        return run(mutants, options.tests, options.reach, Path(folder).resolve())


def run(mutants: list[Mutant], chosen: list[str], reach_file: Path, folder: Path) -> int:
    """Print one line for each mutant and the survivors; 1 where there are any."""
    started = time.monotonic()
    copy = folder / "checkout"
    leave = shutil.ignore_patterns(".git", "build", ".pytest_cache", "mlruns", "*.db", "cache")
    shutil.copytree(ROOT, copy, ignore=leave)
    prepare(folder, HEAVY.split() if len(mutants) > 3 else [])
    files = [
        path.relative_to(copy).as_posix()
        for path in sorted((copy / "tests").rglob("test_*.py"))
        if any(fnmatch.fnmatch(path.name, pattern) for pattern in chosen)
        and path.name not in TOO_LONG.split()
        and imported(path) & {mutant.module for mutant in mutants}
    ]
    reach = add_reach(files, copy, reach_file)
    survivors = []
    for mutant in mutants:
        name = f"{mutant.module}:{mutant.line} {mutant.function}: {mutant.change}"
        seconds = {
            test: found["seconds"]
            for file in files
            for test, found in reach[file].items()
            if f"{mutant.module}:{mutant.function}" in found["entered"]
        }
        tests = sorted(seconds, key=seconds.get)
        path = copy / "src/captioner" / mutant.module
        with other_sources({path: mutant.source}):
            failed = in_fork(tests, copy, MUTANT_SECONDS)["failed"] if tests else []
        if not failed:
            survivors.append(name)
        verdict = f"killed by {failed[0]}" if failed else f"SURVIVED {len(tests)} tests"
        print(f"{name}: {verdict}", flush=True)
    print(f"\n{len(mutants) - len(survivors)} of {len(mutants)} mutants killed in", end=" ")
    print(f"{time.monotonic() - started:.0f} s; survivors:", *survivors, sep="\n")
    return 1 if survivors else 0


def prepare(folder: Path, modules: list[str]) -> None:
    """What every fork is to find: variables of the environment, modules, the current folder."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ |= {"TMPDIR": str(folder), "PYTHONPATH": f"{folder}/checkout/src:{folder}/checkout"}
    tempfile.tempdir = str(folder)
    sys.path[:0] = [f"{folder}/checkout/src", f"{folder}/checkout"]
    for name in modules:
        importlib.import_module(name)
    os.chdir(folder / "checkout")


def add_reach(files: list[str], copy: Path, reach_file: Path) -> dict:
    """test file -> test that passes -> its seconds and the functions (module:name) it enters.

    Test files that are not in the file yet are run and added to it.
    Every function of the copy gets a first line that notes it; afterwards the copy is as before.
    """
    reach = json.loads(reach_file.read_text("utf-8")) if reach_file.exists() else {}
    reach_file.parent.mkdir(parents=True, exist_ok=True)
    noted = {}
    for path in (copy / "src/captioner").rglob("*.py"):
        module, source = path.relative_to(copy / "src/captioner"), path.read_text("utf-8")
        for name, function in sorted(functions(source), key=lambda found: -found[1].lineno):
            line = f'{NOTE}("{module.as_posix()}:{name}")'
            source = with_first_line(source, function, line)
        noted[path] = source
    with other_sources(noted):
        for file in files:
            if file in reach:
                continue
            found = in_fork([file], copy, TEST_FILE_SECONDS, note=True)
            print(f"{file}: {len(found['seconds'])} tests, failed: {found['failed']}", flush=True)
            # A fixture is set up by the first test that wants it, for all tests of the file.
            reach[file] = {
                test: {
                    "seconds": seconds,
                    "entered": found["entered"].get(test, []) + found["entered"]["setup"],
                }
                for test, seconds in found["seconds"].items()
                if test not in found["failed"]
            }
            reach_file.write_text(json.dumps(reach), encoding="utf-8")
    return reach


@contextlib.contextmanager
def other_sources(sources: dict[Path, str]) -> Iterator[None]:
    """Files with another content for a while, and a time of their own: else their compiled form,
    which Python knows by size and seconds, would outlast them."""
    before = {path: (path.read_text("utf-8"), path.stat().st_mtime_ns) for path in sources}
    for path, source in sources.items():
        path.write_text(source, encoding="utf-8")
        os.utime(path, (next(SECONDS),) * 2)
    yield
    for path, (source, moment) in before.items():
        path.write_text(source, encoding="utf-8")
        os.utime(path, ns=(moment, moment))


def imported(test_file: Path) -> set[str]:
    """The modules of captioner that a file imports; with a package, all of its modules."""
    names = set()
    for node in ast.walk(ast.parse(test_file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    package = ROOT / "src/captioner"
    places = [package.parent / name.replace(".", "/") for name in names - {"captioner"}]
    files = [place.with_suffix(".py") for place in places]
    files += [file for place in places for file in place.glob("**/*.py")]
    return {file.relative_to(package).as_posix() for file in files if package in file.parents}


def in_fork(tests: list[str], copy: Path, seconds: int, note: bool = False) -> dict:
    """Run tests in a child process, up to the first failure unless functions are noted.

    Returns failed: the tests that failed (or why there is no answer); seconds: of each test;
    entered: the functions that each test entered, and all set-ups together as `setup`.
    """
    answer = copy.parent / "answer.json"
    answer.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        sys.addaudithook(lambda event, values: keep_inside(event, values, copy.parent))
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            for number in (0, 1, 2):
                os.dup2(nowhere.fileno(), number)
        code = 1
        try:
            code = run_pytest(tests, note, answer)
        finally:
            os._exit(code)
    deadline = time.monotonic() + seconds
    while not (done := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < deadline:
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # with what it started
    if not done[0]:
        os.waitpid(child, 0)
        return {"failed": [f"no end after {seconds} s"], "seconds": {}, "entered": {}}
    if not answer.exists():
        return {"failed": [f"a crash, status {done[1]}"], "seconds": {}, "entered": {}}
    return json.loads(answer.read_text(encoding="utf-8"))


def run_pytest(tests: list[str], note: bool, answer: Path) -> int:
    import builtins

    import pytest

    entered: dict[str, set[str]] = {}
    now: set[str] = set()
    builtins._reached = lambda name: now.add(name)
    failed: list[str] = []
    seconds: dict[str, float] = {}

    class Notes:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            test = report.nodeid
            seconds[test] = seconds.get(test, 0) + report.duration
            entered.setdefault("setup" if report.when == "setup" else test, set()).update(now)
            now.clear()
            if report.failed or (note and report.skipped):
                failed.append(test)

        def pytest_collectreport(self, report: pytest.CollectReport) -> None:
            if report.failed:
                failed.append(f"{report.nodeid} (cannot be imported)")

    options = ["-p", "no:cacheprovider", "-n", "0", "-q", "--tb", "no"]
    options += ["--basetemp", str(answer.parent / "tmp")]
    code = pytest.main([*tests, *options, *([] if note else ["-x"])], plugins=[Notes()])
    entered = {name: sorted(functions) for name, functions in entered.items()}
    text = json.dumps({"failed": failed, "seconds": seconds, "entered": entered})
    answer.write_text(text, encoding="utf-8")
    return int(code)


def keep_inside(event: str, values: tuple, folder: Path) -> None:
    """An audit hook: nothing outside `folder` is deleted or renamed."""
    if event in ("os.remove", "os.rmdir", "os.rename", "shutil.rmtree", "shutil.move"):
        count = 2 if event in ("os.rename", "shutil.move") else 1
        places = [Path(os.path.normpath(Path(os.fsdecode(p)).absolute())) for p in values[:count]]
        # Below an open folder: shutil.rmtree, which was asked about already.
        relative = any(descriptor not in (-1, None) for descriptor in values[count:])
        if not relative and not all(folder in place.parents for place in places):
            raise PermissionError(f"{event} outside {folder}: {values}")


def functions(source: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every function and method with its qualified name, if it has a body beside its docstring."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                if body_of(child):
                    yield prefix + child.name, child
                yield from walk(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.ClassDef):
                yield from walk(child, f"{prefix}{child.name}.")
            else:
                yield from walk(child, prefix)

    return walk(ast.parse(source), "")


def body_of(function: ast.FunctionDef) -> list[ast.stmt]:
    return function.body[ast.get_docstring(function) is not None :]


def mutants_of(module: str, options: argparse.Namespace) -> Iterator[Mutant]:
    source = (ROOT / "src/captioner" / module).read_text(encoding="utf-8")
    for name, function in functions(source):
        names = (module, f"{module}:{name}")
        if not any(fnmatch.filter(names, pattern) for pattern in options.patterns):
            continue
        if options.kind == "body" and not any(part.startswith("_") for part in name.split(".")):
            for line in empty_bodies(function):
                changed = with_first_line(source, function, line)
                yield Mutant(module, name, function.lineno, line, changed)
        if options.kind == "operator":
            for node, old, new in changes(function):
                changed = replaced(source, node, f"({new})")
                yield Mutant(module, name, node.lineno, f"{old} -> {new}", changed)


def empty_bodies(function: ast.FunctionDef) -> list[str]:
    nodes = list(ast.walk(function))
    if any(isinstance(node, ast.Yield | ast.YieldFrom) for node in nodes):
        managed = any("contextmanager" in ast.unparse(d) for d in function.decorator_list)
        return ["yield; return"] if managed else ["return"]
    promised = ast.unparse(function.returns) if function.returns else "None"
    arguments = [a for a in function.args.args if a.arg not in ("self", "cls")]
    if promised == "bool":
        bodies = ["return False", "return True"]
    elif (
        arguments
        and promised != "None"
        and promised == ast.unparse(arguments[0].annotation or ast.Constant(""))
    ):
        bodies = [f"return {arguments[0].arg}"]
    else:
        bodies = [f"return {EMPTY.get(promised.split('[')[0], 'None')}"]
    first = body_of(function)[0]
    if isinstance(first, ast.Raise) or ast.unparse(first) == "...":  # nothing of its own
        return []
    return [body for body in bodies if body != ast.unparse(first)]


def changes(function: ast.FunctionDef) -> Iterator[tuple[ast.expr, str, str]]:
    """Every expression of its own body that can be changed, with its old and its new text."""
    todo: list[ast.AST] = [*body_of(function)]
    for node in todo:  # outer expressions first: each is printed before what it holds is changed
        if not isinstance(node, ast.FunctionDef | ast.JoinedStr | ast.Raise):
            todo += ast.iter_child_nodes(node)
        old = ast.unparse(node)
        place = node
        if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
            node.ops[0] = SWAPPED[type(node.ops[0])]()
        elif isinstance(node, ast.BoolOp | ast.BinOp) and type(node.op) in SWAPPED:
            node.op = SWAPPED[type(node.op)]()
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            node = node.operand
        elif isinstance(node, ast.IfExp):
            node.body, node.orelse = node.orelse, node.body
        elif isinstance(node, ast.Constant) and type(node.value) in (int, bool):
            node.value = not node.value if isinstance(node.value, bool) else node.value + 1
        elif (
            isinstance(node, ast.Call)
            and len(node.args) > 1
            and not any(isinstance(argument, ast.Starred) for argument in node.args)
            and ast.unparse(node.func).split(".")[-1] not in SYMMETRIC
        ):
            node.args[:2] = node.args[1::-1]
        else:
            continue
        yield place, old, ast.unparse(node)


def with_first_line(source: str, function: ast.FunctionDef, line: str) -> str:
    first = body_of(function)[0]
    number = min([first.lineno, *(d.lineno for d in getattr(first, "decorator_list", []))]) - 1
    lines = source.splitlines(keepends=True)
    before = lines[number].encode()[: first.col_offset].decode()
    if before.strip():  # def f(): return 1
        lines[number] = before + line + "; " + lines[number][len(before) :]
    else:
        lines.insert(number, f"{before}{line}\n")
    return "".join(lines)


def replaced(source: str, node: ast.expr, new: str) -> str:
    lines = source.encode().splitlines(keepends=True)
    first, last = node.lineno - 1, node.end_lineno - 1
    end = lines[last][node.end_col_offset :]
    lines[first : last + 1] = [lines[first][: node.col_offset] + new.encode() + end]
    return b"".join(lines).decode()


if __name__ == "__main__":
    sys.exit(main())
