"""METEOR and SPICE, which need Java: an optional extra, with everything checked beforehand.

Both come with the COCO caption reference, PyPI package `pycocoevalcap`, as Java programs (Denkowski
and Lavie 2014, METEOR 1.5; Anderson et al. 2016, SPICE). Its Python side is not used: it hangs or
fails with a riddle when Java dies, downloads 400 MB in the middle of an evaluation and writes into
site-packages. So the two programs are run here, with the reference's arguments and its numbers.
"""

import importlib.util
import json
import re
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import IO, Self

import numpy as np
from tqdm import tqdm

from captioner import CaptionerError
from captioner.metrics import check_references
from captioner.metrics.tokenizer import tokenize_all

METRICS = ("meteor", "spice")

# The language of the machine must not lower-case "I" to a dotless i (Turkish) or print "0,5".
_LANGUAGE = ("-Duser.language=en", "-Duser.country=US", "-Dfile.encoding=UTF-8")
# SPICE writes its scores with the JavaScript engine that Java 15 removed: a NullPointerException.
_SPICE_LAST_JAVA = 14
_REINSTALL = "`pip install --force-reinstall --no-deps pycocoevalcap`"
_CORENLP = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


def _folder() -> Path | None:
    """Find pycocoevalcap, unimported; it has no __init__.py, so several folders may match."""
    spec = importlib.util.find_spec("pycocoevalcap")
    locations = (spec and spec.submodule_search_locations) or ()
    return next((Path(path) for path in locations if (Path(path) / "meteor").is_dir()), None)


def _java_problem(spice: bool) -> str | None:
    install = "install a Java runtime such as OpenJDK 17"
    if (java := shutil.which("java")) is None:
        return f"there is no java on PATH; {'install OpenJDK 11' if spice else install}"
    try:
        done = subprocess.run([java, "-version"], capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{java} does not start ({error}); {install}"
    answer = (done.stderr + done.stdout).decode(errors="replace").strip()
    if done.returncode != 0:
        # macOS has a java that only says that there is none.
        first = answer.partition("\n")[0].strip()
        return f"`{java} -version` fails (exit code {done.returncode}: {first}); {install}"
    version = re.search(r'version "(?:1\.)?(\d+)', answer)  # "1.8.0_242" is Java 8
    if spice and version and int(version[1]) > _SPICE_LAST_JAVA:
        return (
            f"SPICE needs Java 8 to {_SPICE_LAST_JAVA} and {java} is Java {version[1]}, which has "
            "no JavaScript engine; install OpenJDK 11 and put its bin folder first on PATH"
        )
    return None


def _fault(path: Path) -> str | None:
    """Say whether a file is missing or, a jar, damaged: only its table of contents is read."""
    if not path.is_file():
        return "is missing"
    try:
        if path.suffix == ".jar":
            zipfile.ZipFile(path).close()
        elif path.stat().st_size == 0:
            return "is empty"
    except (OSError, zipfile.BadZipFile):
        return "is damaged"
    return None


def _spice_jars(folder: Path) -> list[Path]:
    """Return the jars that SPICE's own names in its manifest, CoreNLP's last."""
    jar = folder / "spice" / "spice-1.0.jar"
    names: set[str] = set()
    with suppress(OSError, KeyError, zipfile.BadZipFile), zipfile.ZipFile(jar) as opened:
        manifest = opened.read("META-INF/MANIFEST.MF").decode()
        unfolded = manifest.replace("\r\n", "\n").replace("\n ", "")
        if found := re.search(r"^Class-Path: (.*)$", unfolded, re.MULTILINE):
            names = set(found[1].split())
    corenlp = [f"lib/{name}" for name in _CORENLP]
    return [jar, *(jar.parent / name for name in [*sorted(names - set(corenlp)), *corenlp])]


def _file_problems(folder: Path, metrics: Sequence[str]) -> list[str]:
    files = []
    if "meteor" in metrics:
        files += [folder / "meteor" / "meteor-1.5.jar", folder / "meteor/data/paraphrase-en.gz"]
    if "spice" in metrics:
        files += _spice_jars(folder)
    faults = {path: fault for path in files if (fault := _fault(path))}
    problems = []
    if own := [f"{p} {fault}" for p, fault in faults.items() if p.name not in _CORENLP]:
        problems.append(f"{' and '.join(own)}; {_REINSTALL} brings the files back")
    if models := [p for p in faults if p.name in _CORENLP]:
        named = " and ".join(f"{path.name} {faults[path]}" for path in models)
        # The command below looks for the first jar only and trusts it.
        leftovers = any((models[0].parent / name).exists() for name in _CORENLP)
        delete = f"delete {' and '.join(_CORENLP)} there, then " if leftovers else ""
        problems.append(
            f"SPICE's CoreNLP models: {named} in {models[0].parent}; {delete}fetch them (about "
            "400 MB) with `python -m pycocoevalcap.spice.get_stanford_models`"
        )
    return problems


def missing(metrics: Sequence[str]) -> str | None:
    """Say in one line what these measures lack on this machine and how to get it.

    Args:
        metrics: any of "meteor" and "spice".

    Returns:
        None if everything is there. Downloads nothing and takes a fraction of a second.

    Raises:
        CaptionerError: a measure by another name.
    """
    if unknown := [name for name in metrics if name not in METRICS]:
        raise CaptionerError(f"no Java measure is called {unknown[0]!r}; give meteor or spice")
    if not metrics:
        return None
    problems = []
    if (folder := _folder()) is None:
        problems.append(
            'the package pycocoevalcap is not installed; `pip install "captioner[java-metrics]"`, '
            'in a checkout `pip install -c constraints.txt -e ".[java-metrics]"`'
        )
    if java := _java_problem("spice" in metrics):
        problems.append(java)
    if folder is not None:
        problems += _file_problems(folder, metrics)
    if not problems:
        return None
    names = " and ".join(name.upper() for name in METRICS if name in metrics)
    return f"{names} cannot be computed here: " + "; also, ".join(problems)


def check(metrics: Sequence[str]) -> None:
    """Raise CaptionerError with the line of `missing`, if there is one."""
    if problem := missing(metrics):
        raise CaptionerError(problem)


def _last_words(errors: IO[bytes]) -> str:
    """Return the last line of Java's standard error that is not a frame of a stack trace."""
    errors.seek(0)
    lines = errors.read().decode(errors="replace").splitlines()
    told = [line for line in lines if line.strip() and not line[0].isspace()]
    return told[-1].strip() if told else "it said nothing"


class Meteor:
    """METEOR 1.5 as a process that answers line by line; loading its tables takes seconds, once.

    Use it in a `with` statement: the process is ended and waited for at its end, whatever happens.
    """

    def __init__(self) -> None:
        check(["meteor"])
        folder = _folder() / "meteor"
        arguments = ["-Xmx2G", *_LANGUAGE, "-jar", "meteor-1.5.jar", "-", "-", "-stdio"]
        # Nobody reads standard error while the process runs: a pipe could fill and stop it.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                [shutil.which("java"), *arguments, "-l", "en", "-norm"],
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )
        except BaseException:
            self._errors.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with suppress(OSError):  # what a dead process did not take
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        self._errors.close()

    def _ask(self, line: str, answers: int = 1) -> list[str]:
        """Send one line and return the lines of numbers that it is answered with."""
        with suppress(OSError):  # a closed pipe: then there is no answer either
            self._process.stdin.write(f"{line}\n".encode(errors="replace"))
            self._process.stdin.flush()
        received = []
        for _ in range(answers):
            answer = self._process.stdout.readline().decode(errors="replace").strip()
            try:
                if not [float(number) for number in answer.split()]:
                    raise ValueError
            except ValueError:
                raise CaptionerError(self._failure(answer)) from None
            received.append(answer)
        return received

    def _failure(self, answer: str) -> str:
        if answer:
            return f"METEOR answered {answer[:200]!r} instead of numbers; this is no METEOR 1.5"
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        return (
            f"METEOR's Java process ended (exit code {self._process.poll()}): "
            f"{_last_words(self._errors)}; see whether 2 GB of memory are free and whether "
            f"{_REINSTALL} helps"
        )

    def scores(
        self, references: Sequence[Sequence[str]], hypotheses: Sequence[str], progress: bool = False
    ) -> tuple[float, np.ndarray]:
        """Score captions that are tokens joined by blanks.

        Returns:
            The corpus value (of the summed counts, not the mean) and the pictures', (pictures,).

        Raises:
            CaptionerError: the process died, complained or answered something else than numbers.
        """
        counts = []
        pairs = zip(references, hypotheses, strict=True)
        bar = tqdm(
            pairs,
            "meteor",
            total=len(hypotheses),
            unit="caption",
            disable=None if progress else True,
        )
        for picture_references, hypothesis in bar:
            fields = [_field(caption) for caption in [*picture_references, hypothesis]]
            counts += self._ask(" ||| ".join(["SCORE", *fields]))
        answers = self._ask(" ||| ".join(["EVAL", *counts]), answers=len(counts) + 1)
        # With half of its paraphrases METEOR prints a stack trace, goes on and scores too low.
        if "Exception" in (words := _last_words(self._errors)):
            raise CaptionerError(f"METEOR's tables are damaged ({words}); {_REINSTALL} helps")
        *per_picture, corpus = (float(answer) for answer in answers)
        return corpus, np.array(per_picture, dtype=np.float64)


def _field(caption: str) -> str:
    """Take out of a caption what would end its field or its line.

    The reference removes the separator from generated captions only: one within a reference would
    make two references of it, and the better half would count.
    """
    return re.sub("[\r\n]", " ", caption).replace("|||", "")


class Spice:
    """SPICE 1.0, a new process for each set of captions; used in a `with` statement like METEOR.

    Unlike the reference's command this one keeps no parses of captions from run to run (`-cache`):
    the cache's native library lacks newer processors, and its serializer fails on newer Java.
    """

    def __init__(self) -> None:
        check(["spice"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def scores(
        self, references: Sequence[Sequence[str]], hypotheses: Sequence[str], progress: bool = False
    ) -> tuple[float, np.ndarray]:
        """Score captions that are tokens joined by blanks, as `Meteor.scores`; there is no bar."""
        return _spice(references, hypotheses)


PROGRAMS = {"meteor": Meteor, "spice": Spice}


def _spice(
    references: Sequence[Sequence[str]], hypotheses: Sequence[str]
) -> tuple[float, np.ndarray]:
    """Run SPICE once; all files are temporary."""
    folder = _folder() / "spice"
    pictures = [
        {"image_id": number, "test": hypothesis, "refs": picture_references}
        for number, (picture_references, hypothesis) in enumerate(
            zip(references, hypotheses, strict=True)
        )
    ]
    with tempfile.TemporaryDirectory(prefix="captioner-spice-") as name:
        captions, results, errors = (Path(name) / file for file in ("in.json", "out.json", "log"))
        captions.write_text(json.dumps(pictures), encoding="ascii")
        command = [shutil.which("java"), "-Xmx8G", *_LANGUAGE, "-jar", folder / "spice-1.0.jar"]
        command += [captions, "-out", results, "-silent"]
        with errors.open("w+b") as log:
            done = subprocess.run(command, cwd=name, stdout=subprocess.DEVNULL, stderr=log)
            if done.returncode != 0:
                raise CaptionerError(
                    f"SPICE's Java process ended with exit code {done.returncode}: "
                    f"{_last_words(log)}; see whether 8 GB of memory are free"
                )
        try:
            found = json.loads(results.read_bytes())
            by_number = {one["image_id"]: float(one["scores"]["All"]["f"]) for one in found}
            per_picture = np.array([by_number[number] for number in range(len(pictures))])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CaptionerError(
                f"SPICE left no score for each picture ({type(error).__name__}: {error}); "
                "see whether the disk with the temporary folder is full"
            ) from None
    return float(per_picture.mean()), per_picture


def java_scores(
    references: Sequence[Sequence[str]],
    hypotheses: Sequence[str],
    metrics: Sequence[str],
    progress: bool = False,
    *,
    tokenized: bool = False,
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Score one generated caption for each picture by METEOR and SPICE (fractions of 1).

    Args:
        references: for each picture its reference captions.
        hypotheses: for each picture the generated caption.
        metrics: any of "meteor" and "spice".
        progress: show a progress bar for METEOR (on a terminal).
        tokenized: the captions are tokens joined by blanks already; leave them as they are.

    Returns:
        By measure the corpus value, and the value of each picture, (pictures,) float64.

    Raises:
        CaptionerError: no pictures, a picture without a reference, not one caption a picture,
            something is missing (see `missing`), or Java failed.
    """
    if len(references) != len(hypotheses):
        raise CaptionerError(
            f"{len(hypotheses)} captions for {len(references)} pictures; give one for each"
        )
    check_references(references)
    check(metrics)
    if not tokenized:
        lines = map(" ".join, tokenize_all([one for group in references for one in group]))
        references = [list(islice(lines, len(group))) for group in references]
        hypotheses = list(map(" ".join, tokenize_all(hypotheses)))
    corpus, per_picture = {}, {}
    for name in metrics:
        with PROGRAMS[name]() as program:
            corpus[name], per_picture[name] = program.scores(references, hypotheses, progress)
    return corpus, per_picture
