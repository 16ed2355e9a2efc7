"""notebooks/tour.ipynb runs from the first cell to the last, and is kept as a tour should be."""

import ast
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image, ImageDraw

from captioner.drawing import pillow_font
from captioner.text import END, PAD, START

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks/tour.ipynb"
SECTIONS = range(1, 8)

SMALL = """
SEED = 1
DIGITS, TEST_DIGITS, DIGIT_EPOCHS = 600, 100, 2
SCENES = {"train": 32, "val": 8, "test": 12}
WORD_SIZE, GLOVE_EPOCHS = 50, 20
CNN_EPOCHS, LSTM_UNITS, LSTM_EPOCHS = 1, 32, 1
"""
# What a person has seen at the end, for the test to look at.
RESULTS = """
import json

(Path("results.json")).write_text(json.dumps({
    "library": captioner.__file__,
    "work": str(WORK),
    "edges": edges.tolist(),
    "accuracy": found.accuracy,
    "by_hand": float(np.abs(by_hand - of_network).max()),
    "words": len(vocabulary),
    "glove": [glove_losses[0], glove_losses[-1]],
    "losses": history["val_loss"].tolist(),
    "captions": said,
    "known": sorted(set(vocabulary.words)),
    "looked": looked.sum(axis=-1)[words[places] != 0].tolist(),
    "watched": [[[int(word) for word in row] for row in beams] for beams, _ in watched],
    "totals": [total.tolist() for _, total in watched],
    "best": best[0].numpy().tolist(),
    "best_totals": totals[0].numpy().tolist(),
    "decoded": words[0].tolist(),
    "systems": sorted(evaluation.table["system"].unique()),
    "searched": training_captions.iloc[pictures_for("a red star", 1)[0]],
    "flat": flat.shape,
}))
"""


def read() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells() -> list[nbformat.NotebookNode]:
    return [cell for cell in read().cells if cell.cell_type == "code"]


def draw_digits(path: Path, number: int, test: int) -> None:
    """An archive like mnist.npz, of digits in the figures' font, each somewhat elsewhere."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 10, number + test)
    pictures = np.zeros((len(labels), 28, 28), np.uint8)
    for picture, label in zip(pictures, labels, strict=True):
        image = Image.new("L", (28, 28))
        size, x, y = rng.integers((18, 6, 0), (24, 11, 4))
        ImageDraw.Draw(image).text((int(x), int(y)), str(label), 255, pillow_font(int(size)))
        picture[:] = image
    arrays = {"x_train": pictures[:number], "y_train": labels[:number].astype(np.uint8)}
    arrays |= {"x_test": pictures[number:], "y_test": labels[number:].astype(np.uint8)}
    np.savez(path, **arrays)


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    """The notebook after a run at small sizes, and its results."""
    folder = tmp_path_factory.mktemp("tour")
    work, mirror = folder / "notebooks", folder / "mirror"
    for new in (work, mirror, folder / "kernels/tour"):
        new.mkdir(parents=True)
    draw_digits(mirror / "mnist.npz", 700, 10)
    # This very Python: a kernel named python3 may be another one.
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel = {"argv": command, "display_name": "tour", "language": "python"}
    (folder / "kernels/tour/kernel.json").write_text(json.dumps(kernel))
    (folder / "src").symlink_to(ROOT / "src")  # the set-up looks for it above the notebook

    notebook = read()
    (sizes,) = [cell for cell in notebook.cells if cell.metadata.get("tags") == ["parameters"]]
    assigned = {name for name, _ in assignments(sizes.source)}
    assert assigned == {name for name, _ in assignments(SMALL)}
    sizes.source = SMALL
    notebook.cells.append(nbformat.v4.new_code_cell(RESULTS))
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("JUPYTER_PATH", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
            patch.setenv(variable, str(folder))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(folder / "runtime"))
        patch.setenv("CAPTIONER_MIRROR", str(mirror))
        patch.setenv("TMPDIR", str(folder))
        options = {"timeout": 120, "startup_timeout": 120, "kernel_name": "tour"}
        NotebookClient(notebook, resources={"metadata": {"path": str(work)}}, **options).execute()
    return notebook, json.loads((work / "results.json").read_text()), work


def assignments(source: str) -> list[tuple[str, int]]:
    """The names that a cell assigns to, with their lines."""
    names = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)]
    return [(node.id, node.lineno) for node in names if isinstance(node.ctx, ast.Store)]


def test_every_cell_runs_and_shows_something(tour):
    notebook, results, work = tour
    assert Path(results["library"]).resolve() == ROOT / "src/captioner/__init__.py"
    outputs = [(cell.id, output) for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [name for name, output in outputs if output.output_type == "error"]
    assert not [
        output.text
        for _, output in outputs
        if output.get("name") == "stderr" and "accepted from CAPTIONER_MIRROR" not in output.text
    ]
    figures = [name for name, output in outputs if "image/png" in output.get("data", {})]
    assert len(figures) >= 20
    for section, prefix in enumerate(
        ("pixels", "digits", "words", "lstm", "beam", "scores", "space"), start=1
    ):
        assert any(name.startswith(prefix) for name in figures), section
    assert [path.name for path in work.iterdir()] == ["results.json"]


def test_what_is_shown_is_right(tour):
    _, results, _ = tour
    assert results["edges"] == [[27, -9, -27], [27, -9, -27], [27, 0, -27]]
    assert results["accuracy"] > 0.5  # of ten digits
    assert results["by_hand"] < 1e-5
    first, last = results["glove"]
    assert last < first / 2
    assert results["losses"][-1] < np.log(results["words"])  # better than guessing
    assert len(results["captions"]) == 12
    assert all(set(caption.split()) <= set(results["known"]) for caption in results["captions"])
    assert all(caption for caption in results["captions"])
    assert results["looked"] == pytest.approx([1] * len(results["looked"]), abs=1e-5)
    assert results["systems"] == ["constant", "human", "model", "nearest"]
    assert "red" in results["searched"].split() or "star" in results["searched"].split()
    assert results["flat"] == [12, 2]


def test_the_beam_that_is_watched_is_that_of_the_decoder(tour):
    _, results, _ = tour
    assert results["best"][0] == results["decoded"]
    ended = {}  # words of the hypotheses that were seen as they ended, and their log-probability
    for step, (beams, totals) in enumerate(zip(results["watched"], results["totals"], strict=True)):
        assert {len(words) for words in beams} == {step + 1}
        for (start, *words), total in zip(beams, totals, strict=True):
            assert start == START
            if END in words and words.index(END) == step - 1:
                ended[tuple(words[:-1])] = total
    seen = 0
    for padded, total in zip(results["best"], results["best_totals"], strict=True):
        words = tuple(word for word in padded if word != PAD)
        if len(words) < len(results["watched"]) - 1:  # the others ended in the very last step
            assert ended[words] == pytest.approx(total, abs=1e-4)
            seen += 1
    assert seen or len(results["watched"]) < 3


def test_stripped():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n"
    notebook = read()
    nbformat.validate(notebook)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert dict(notebook.metadata.language_info) == {"name": "python"}
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}, cell.id
        if cell.cell_type == "code":
            assert cell.execution_count is None and cell.outputs == [], cell.id


def test_a_text_before_every_idea_and_something_to_try():
    texts = "\n".join(cell.source for cell in read().cells if cell.cell_type == "markdown")
    headings = [line for line in texts.splitlines() if line.startswith("## ")]
    assert [heading[3:5] for heading in headings[:-1]] == [f"{number}." for number in SECTIONS]
    assert texts.count("**Try it.**") == len(SECTIONS)
    for heading in headings[:-1]:
        anchor = heading[3:].lower().replace(" ", "-")
        anchor = "".join(letter for letter in anchor if letter.isalnum() or letter == "-")
        assert f"(#{anchor})" in texts


def test_cells_import_the_library_and_define_nothing_that_it_has():
    ours = set()
    for path in (ROOT / "src/captioner").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                ours.add(node.name)
    imported, defined = set(), set()
    for cell in code_cells():
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.partition(".")[0])
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                defined.add(node.name)
                assert node.end_lineno - node.lineno < 12, node.name
    others = imported - set(sys.stdlib_module_names)
    assert others == {"captioner", "numpy", "pandas", "matplotlib", "tensorflow", "IPython"}
    assert not defined & ours


def set_up(folder: Path, repository: str = "") -> subprocess.CompletedProcess:
    """Run the first two cells where the library is not installed, only what it needs."""
    first, second = code_cells()[:2]
    assert first.source.endswith('REPOSITORY = ""')
    source = f"{first.source}\nREPOSITORY = {repository!r}\n{second.source}"
    environment = os.environ | {"PYTHONPATH": sysconfig.get_path("purelib")}
    # -S: no links to an editable installation
    command = [sys.executable, "-S", "-c", source]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


def test_without_the_project_the_set_up_says_what_to_do(tmp_path):
    ran = set_up(tmp_path)
    if ran.returncode == 0:
        pytest.skip("captioner is installed, not editable: there is nothing to say")
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    for way in ("inside the project's folder", "REPOSITORY", "captioner.zip"):
        assert way in ran.stderr
    assert list(tmp_path.iterdir()) == []
    ran = set_up(tmp_path, str(tmp_path / "nowhere"))
    assert ran.returncode == 1
    assert f"git cannot copy {tmp_path / 'nowhere'}" in ran.stderr and "Traceback" not in ran.stderr


def test_the_set_up_unpacks_an_archive_or_copies_a_repository(tmp_path):
    colab, other = tmp_path / "colab", tmp_path / "other"
    colab.mkdir()
    other.mkdir()
    with zipfile.ZipFile(colab / "captioner-main.zip", "w") as packed:
        packed.writestr("captioner-main/src/captioner/__init__.py", "")
    expected = colab / "captioner/captioner-main/src/captioner"
    for _ in range(2):  # and finds it when it is run again
        ran = set_up(colab)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout == f"the library: {expected}\n"

    package = tmp_path / "origin/src/captioner"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    git = ["git", "-C", str(tmp_path / "origin"), "-c", "user.name=x", "-c", "user.email=x@y"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *command], check=True, timeout=60)
    ran = set_up(other, str(tmp_path / "origin"))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == f"the library: {other / 'captioner/src/captioner'}\n"


def test_without_the_libraries_the_set_up_says_which(tmp_path):
    (tmp_path / "src/captioner").mkdir(parents=True)
    (tmp_path / "src/captioner/__init__.py").touch()
    source = "\n".join(cell.source for cell in code_cells()[:2])
    ran = subprocess.run(
        [sys.executable, "-S", "-E", "-c", source],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 1
    assert "lacks tensorflow, matplotlib, pandas, pyarrow, PIL, tqdm, filelock." in ran.stderr
    assert "pip install -c constraints.txt -e ." in ran.stderr and "Traceback" not in ran.stderr
