"""stages/: errors, timings, whose code runs; dvc.yaml: what each stage is said to depend on."""

import ast
import importlib
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from captioner import CaptionerError
from captioner.files import CHECKSUMS, write_checksums
from captioner.sections import SECTIONS
from captioner.tracking.served import served_files
from stages import run_stage

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"
DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
STAGES = DVC["stages"]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))


def test_a_mistake_of_the_person_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def main():
        raise CaptionerError("params.yaml: seed: 'x' is not allowed")

    with pytest.raises(SystemExit) as left:
        run_stage("train", main)
    assert left.value.code == 2
    assert capsys.readouterr().err == "train: params.yaml: seed: 'x' is not allowed\n"
    assert not (tmp_path / "reports").exists()


def test_a_bug_keeps_its_traceback(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZeroDivisionError):
        run_stage("train", lambda: 1 / 0)
    assert not (tmp_path / "reports").exists()


def test_the_seconds_are_noted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = []
    run_stage("train", lambda: ran.append("main"))
    assert ran == ["main"]
    noted = json.loads((tmp_path / "reports" / "timings" / "train.json").read_text())
    assert set(noted) == {"seconds"} and 0 <= noted["seconds"] < 60


def run(*arguments: str, cwd: Path = ROOT, path: str = "") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": path + os.pathsep + str(ROOT) if path else str(ROOT)},
        cwd=cwd,
        capture_output=True,
        text=True,
    )


def test_a_stage_checks_all_params_before_any_work(tmp_path):
    raw = PARAMS | {"evaluate": PARAMS["evaluate"] | {"beam_width": 0}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    done = run("-m", "stages.download", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        "download: params.yaml: evaluate.beam_width: 0 is not allowed: "
        "a whole number, at least 1, at most 100\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_java_is_looked_for_before_any_work_of_any_stage(tmp_path, monkeypatch):
    """Not by `evaluate`, after hours of training; and not at all where nobody asks for it."""
    raw = PARAMS | {"evaluate": PARAMS["evaluate"] | {"java_metrics": "meteor"}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    monkeypatch.setenv("PATH", str(tmp_path))  # no Java there
    for stage in ("download", "train"):
        done = run("-m", f"stages.{stage}", cwd=tmp_path)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith(
            f"{stage}: params.yaml: evaluate.java_metrics: METEOR cannot be computed here: "
        )
        assert "no java on PATH" in done.stderr and done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    done = run("-c", "import stages; print(stages.read_params().evaluate)", cwd=tmp_path)
    assert done.returncode == 0 and "java_metrics=False" in done.stdout, done.stderr


def test_a_bug_in_a_stage_is_exit_code_1():
    done = run("-c", "from stages import run_stage; run_stage('x', lambda: 1 / 0)")
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_stages_run_the_code_of_their_own_checkout(tmp_path):
    """As in `dvc exp run --temp`, where another checkout is the one that is installed."""
    fake = tmp_path / "captioner"
    fake.mkdir()
    (fake / "__init__.py").write_text("raise SystemExit('the code of another checkout')")
    code = (
        "import stages, sys, importlib\n"
        f"for name in {sorted(STAGES)!r}: importlib.import_module(f'stages.{{name}}')\n"
        "places = {m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'captioner'}\n"
        "print(*sorted(places), sep='\\n')"
    )
    done = run("-c", code, path=str(tmp_path))
    assert done.returncode == 0, done.stderr
    places = done.stdout.split()
    assert len(places) > 20 and all(Path(p).is_relative_to(SRC) for p in places)


@pytest.mark.parametrize("name", STAGES)
def test_each_stage_is_a_module_that_does_nothing_when_imported(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(f"stages.{name}")
    assert callable(module.main) and module.__doc__
    assert STAGES[name]["cmd"] == f"python -m stages.{name}"
    assert list(tmp_path.iterdir()) == []


def test_stages_that_need_no_tensors_start_without_tensorflow():
    names = ["download", "inputs", "preprocess", "tokenize", "track"]
    code = (
        "import sys, importlib\n"
        f"for name in {names!r}: importlib.import_module(f'stages.{{name}}')\n"
        "assert not {'tensorflow', 'keras', 'mlflow'} & set(sys.modules)"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr


# Code that cannot change a result, so that a stage need not name it: a version and an exception;
# what TensorFlow prints; how files come here (they are checked, and are dependencies themselves).
NEUTRAL = {
    f"src/captioner/{name}.py" for name in ("__init__", "quiet_tensorflow", "fetch", "transfer")
}


def location(module: str) -> str | None:
    """A module of the package as a path in the repository; None for anything else."""
    if module.split(".")[0] != "captioner":
        return None
    base = SRC.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path.relative_to(ROOT).as_posix()
    return None


def is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


@cache
def imports(path: str) -> frozenset[str]:
    """The modules of the package that a file imports, at its top or later within functions."""
    found: set[str | None] = set()
    todo: list[ast.AST] = [ast.parse((ROOT / path).read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if is_for_type_checkers(node):
            continue
        todo += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {location(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            parts = {location(f"{node.module}.{alias.name}") for alias in node.names}
            found |= parts - {None}
            if None in parts:  # a name that the module itself defines
                found.add(location(node.module))
    return frozenset(found - {None})


def needed(stage: str) -> set[str]:
    """All modules of the package that a stage's script imports, directly or through others."""
    # `stages.read_params` reads the params of all of them.
    found, todo = set(), {f"stages/{stage}.py", "src/captioner/params.py"}
    while todo:
        path = todo.pop()
        found.add(path)
        todo |= imports(path) - found
    return found


def listed(stage: str) -> set[str]:
    """The code among a stage's dependencies, folders taken apart."""
    found = set()
    for path in STAGES[stage]["deps"]:
        if path.startswith(("src/", "stages/")):
            assert (ROOT / path).exists(), path
            files = (ROOT / path).rglob("*.py") if (ROOT / path).is_dir() else [ROOT / path]
            found |= {file.relative_to(ROOT).as_posix() for file in files}
    return found


# No import leads to these: MLflow runs the served code itself, a page is written from the other.
BY_PATH = {"evaluate": {"src/captioner/page.html"}}
BY_PATH["track"] = {f"src/captioner/{name}" for name in served_files()}
# The weights do not depend on the logbook: when its code changes, nothing is to be trained anew.
EXEMPT = {"train": {f.relative_to(ROOT).as_posix() for f in (SRC / "captioner/tracking").iterdir()}}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_code_it_uses_and_on_no_other(stage):
    expected = (needed(stage) | BY_PATH.get(stage, set())) - EXEMPT.get(stage, set())
    assert sorted(expected - listed(stage) - NEUTRAL) == [], (
        "not in deps, so a change would go unseen"
    )
    assert sorted(listed(stage) - expected) == [], "in deps for nothing"
    assert len(set(STAGES[stage]["deps"])) == len(STAGES[stage]["deps"])


def test_imports_are_found_wherever_they_stand():
    assert "src/captioner/bundle.py" in imports("src/captioner/cli/caption.py")  # within a function
    assert "src/captioner/words.py" in imports("src/captioner/text.py")
    assert "src/captioner/datasets/scenes.py" in imports("stages/download.py")
    assert imports("src/captioner/files.py") == {"src/captioner/__init__.py"}
    assert imports("src/captioner/raster.py") == {"src/captioner/__init__.py"}


def test_stages_are_fed_by_earlier_ones():
    made: set[str] = set()
    for name, stage in STAGES.items():
        ours = ("src/", "stages/", "params.yaml")
        data = [path for path in stage["deps"] if not path.startswith(ours)]
        made |= {f"{path}/pictures" for path in made if path == "data/inputs/table"}  # a link
        assert set(data) <= made, f"{name} reads what no earlier stage writes"
        outs = {next(iter(out)) if isinstance(out, dict) else out for out in stage["outs"]}
        made |= {path.removesuffix("/links.json") for path in outs}
    assert {path for path in DVC["metrics"] if str(Path(path).parent) in made} == set(
        DVC["metrics"]
    )


CHECKED = ("data/features", "data/tokens", "models/captioner", "models/encoder", "models/joint")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_verifies_what_it_reads(stage, tmp_path, monkeypatch):
    """A bit that flips in a folder of arrays or weights is named by each stage that reads it."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(f"stages.{stage}")
    read = [path for path in STAGES[stage]["deps"] if path in CHECKED]
    for folder in read:
        Path(folder).mkdir(parents=True)
        Path(folder, "values").write_bytes(b"abc")
        write_checksums(Path(folder, CHECKSUMS))
    for folder in read:
        Path(folder, "values").write_bytes(b"abb")
        with pytest.raises(CaptionerError, match=f"^{folder}: damaged .'values' is not as it was"):
            module.main()
        Path(folder, "values").write_bytes(b"abc")


def test_these_folders_are_written_with_checksums():
    for stage in STAGES:
        text = (ROOT / "stages" / f"{stage}.py").read_text(encoding="utf-8")
        for folder in (out for out in STAGES[stage]["outs"] if out in CHECKED):
            assert f'checked_folder("{folder}"' in text


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_that_breaks_the_run_cache(stage):
    assert STAGES[stage]["deps"] and STAGES[stage]["outs"]
    assert not {"always_changed", "frozen", "foreach", "matrix"} & set(STAGES[stage])
    for out in STAGES[stage]["outs"]:
        options = next(iter(out.values())) if isinstance(out, dict) else {}
        assert "persist" not in options
    assert not any("://" in path for path in STAGES[stage]["deps"])


@pytest.mark.parametrize("dataset", PARAMS["datasets"])
@pytest.mark.parametrize("stage", STAGES)
def test_params_of_a_stage_are_there_for_every_data_set(stage, dataset):
    for key in STAGES[stage].get("params", []):
        value = PARAMS
        for part in key.replace("${dataset}", dataset).split("."):
            value = value[part]


def params_read(stage: str) -> set[str]:
    """Keys that a stage's script reads, `seed` or `section.key`; a section handed on is all of it.

    `params.a.model_dump(include=KEYS)` reads these keys of section `a`. A name that a section is
    given (`options = params.train`) stands for that section.
    """
    module = importlib.import_module(f"stages.{stage}")
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    names = {"params": ""}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            targets, values = [node.targets[0]], [node.value]
            if isinstance(node.value, ast.Tuple) and isinstance(node.targets[0], ast.Tuple):
                targets, values = node.targets[0].elts, node.value.elts
            for target, value in zip(targets, values, strict=True):
                if isinstance(target, ast.Name) and isinstance(value, ast.Attribute):
                    section = ast.unparse(value).removeprefix("params.")
                    if section in SECTIONS:
                        names[target.id] = section
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    read = set()
    for node in ast.walk(tree):
        if (
            not isinstance(node, ast.Name)
            or node.id not in names
            or isinstance(node.ctx, ast.Store)
        ):
            continue
        path, call = names[node.id].split(".") if names[node.id] else [], None
        while isinstance(parents[node], ast.Attribute):
            node = parents[node]
            if node.attr == "model_dump":
                call = parents[node]
                break
            path.append(node.attr)
        if not path or path[0] in ("model_dump", "dataset"):
            continue  # all params, for MLflow; a name, for titles
        include = {word.arg: word.value for word in call.keywords}.get("include") if call else None
        if include is not None:
            keys = vars(module)[ast.unparse(include)]  # a name at the module's top
            read |= {f"{path[0]}.{key}" for key in keys if key in SECTIONS[path[0]].model_fields}
        elif isinstance(parents[node], ast.Assign) and len(path) == 1 and path[0] != "seed":
            continue  # the section's name stands for it from here on
        else:
            read.add(".".join(path[:2]))
    return read


# Properties of a section, made of one of its keys.
MADE_OF = {"evaluate.java_measures": "evaluate.java_metrics"}


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "track"])
def test_a_stage_names_the_params_it_reads(stage):
    """Key by key, in dvc.yaml: the section or the key itself, and the row where it says auto."""
    named = set(STAGES[stage]["params"])
    read = {MADE_OF.get(key, key) for key in params_read(stage)}
    assert read
    flat = {f"{a}.{b}": value for a in SECTIONS for b, value in PARAMS[a].items()}
    auto = {name for name, value in flat.items() if value == "auto"}
    for key in read:
        section = key.split(".")[0]
        if section != "download":
            assert {key, section} & named, f"{stage} reads {key}, which dvc.yaml does not name"
        if section == "download" or key in auto or any(name.startswith(f"{key}.") for name in auto):
            assert f"datasets.${{dataset}}.{section}" in named, f"{stage} reads {key}"


def test_the_params_that_scripts_read_are_found():
    assert {"seed", "evaluate.batch_size", "evaluate.consensus", "train.attention"} <= params_read(
        "export"
    )
    assert "evaluate.gallery" not in params_read("export")
    assert {"seed", "preprocess.side", "preprocess.max_rejected"} <= params_read("preprocess")
    assert {"train.units", "features.mirrored"} <= params_read("train")
