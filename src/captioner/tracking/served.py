"""The code that a served model runs: what `pyfunc.py` imports, found without running it.

A logged model carries a copy of this code and no other, `track` depends on it in dvc.yaml, and a
digest of it tells whether a logged model is out of date.
"""

import ast
import shutil
from pathlib import Path

from captioner.files import digest

PACKAGE = Path(__file__).resolve().parent.parent
ENTRY = "pyfunc.py"  # MLflow runs it; nothing imports it


def code_digest() -> str:
    """One sha256 of all files of the served code."""
    return digest(*(PACKAGE / name for name in served_files(PACKAGE)))


def copy_served(folder: Path) -> Path:
    """Copy the served code into a new package in `folder`; returns the package."""
    for name in served_files(PACKAGE):
        target = folder / PACKAGE.name / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACKAGE / name, target)
    return folder / PACKAGE.name


def served_files(package: Path = PACKAGE, entry: str = ENTRY) -> list[str]:
    """The files that `entry` needs, sorted, as paths relative to the package.

    Modules that it imports at the top or later within functions, directly or through others; the
    `__init__.py` of each package on the way, which Python runs too; files beside a module that it
    names. What only type checkers import is left out.
    """
    found: set[str] = set()
    todo = {entry}
    while todo:
        name = todo.pop()
        found.add(name)
        if name.endswith(".py"):
            todo |= _needed(package, name) - found
    return sorted(found)


def _needed(package: Path, name: str) -> set[str]:
    """The files of the package that one module needs itself."""
    path = package / name
    beside = {p.name for p in path.parent.iterdir() if p.is_file() and p.suffix != ".py"}
    modules, found = set(), set()
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            todo += node.orelse
            continue
        todo += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(package, name, node)
            modules |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node.value in beside:  # a page, a style sheet
                found.add((path.parent / node.value).relative_to(package).as_posix())
            modules.add(node.value)  # perhaps of importlib.import_module
    for module in modules:
        top, *parts = module.split(".")
        if top == package.name:
            found |= {file for n in range(len(parts) + 1) if (file := _file(package, parts[:n]))}
    return found


def _absolute(package: Path, name: str, node: ast.ImportFrom) -> str:
    """The module that names are imported from, where it is given relative to the importing one."""
    if not node.level:
        return node.module or ""
    around = [package.name, *Path(name).parent.parts]
    return ".".join([*around[: len(around) - node.level + 1], *filter(None, [node.module])])


def _file(package: Path, parts: list[str]) -> str | None:
    base = package.joinpath(*parts)
    for path in (base / "__init__.py", base.with_suffix(".py")):
        if path.is_file():
            return path.relative_to(package).as_posix()
    return None
