"""The stages of the pipeline, one thin script each: `python -m stages.NAME` in the top folder.

The `src` beside this package comes first on the path: `dvc exp run --temp` and the queue run a copy
of the checkout, and an editable install would silently import the code of the original.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from captioner.params import Params

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from captioner.allocator import keep_large_blocks  # found on the path of the line above

keep_large_blocks()


def read_params() -> "Params":
    """Read params.yaml, and see that this machine has what it asks for.

    Java and its programs are used by `evaluate` alone, but every stage asks for them: what is
    missing is said before the training, not after it.
    """
    from captioner.params import load_params

    params = load_params()
    if params.evaluate.java_measures:
        from captioner import CaptionerError
        from captioner.metrics import java

        if problem := java.missing(params.evaluate.java_measures):
            raise CaptionerError(f"params.yaml: evaluate.java_metrics: {problem}; or write false")
    return params


def digest_inputs(stage: str) -> str:
    """One digest of all that dvc.yaml names as dependencies of a stage: its code and its data.

    What a killed training left belongs to exactly these. Code is that of this checkout, data are
    those of the working directory.
    """
    import yaml

    from captioner.files import digest

    checkout = Path(__file__).resolve().parent.parent
    content = yaml.safe_load((checkout / "dvc.yaml").read_text(encoding="utf-8"))
    paths: list[Path] = []
    for name in content["stages"][stage]["deps"]:
        if not name.startswith(("src/", "stages/")):
            paths.append(Path(name))
        elif (checkout / name).is_dir():
            files = (checkout / name).rglob("*")
            paths += sorted(p for p in files if p.is_file() and p.parent.name != "__pycache__")
        else:
            paths.append(checkout / name)
    return digest(*paths)


def check_room(params: "Params") -> None:
    """Refuse a run for which the disk is too small; what is there already counts as there.

    It asks for keys that change nothing of what a stage writes, so that its stage need not name
    them in dvc.yaml: another backbone must download nothing again.
    """
    from captioner.archives import open_pictures
    from captioner.datasets.published import wanted_files
    from captioner.disk import PICTURES, archive_bytes, check_disk, estimate, scratch

    source = params.download
    if source.source == "scenes":
        pictures = source.train + source.val + source.test
    elif source.source == "table":
        with open_pictures(source.pictures) as archive:
            pictures = len(archive.names)
    else:
        pictures = PICTURES[source.source]
    archives = archive_bytes(wanted_files(source, params.glove.source == "file"))
    sizes = (params.preprocess.side, params.encoder.backbone)
    needed = estimate(pictures, archives, *sizes, params.features.mirrored)
    more = scratch(pictures, *sizes) if params.encoder.epochs else 0
    # DVC_ROOT: an experiment in a temporary folder uses the cache of the checkout.
    cache = Path(os.environ.get("DVC_ROOT", "."), ".dvc/cache")
    check_disk(params.dataset, needed, cache=cache, scratch=more)


def run_stage(name: str, main: Callable[[], None]) -> None:
    """Run `main`; show a `CaptionerError`, or what the system refuses (a full disk, say), as one
    line (exit code 2); note the seconds it took.

    The seconds go to reports/timings/, which is no input or output of any stage, since they differ
    from run to run.
    """
    from captioner import CaptionerError
    from captioner.files import failure, write_json

    started = time.monotonic()
    try:
        main()
        seconds = round(time.monotonic() - started, 1)
        write_json(Path("reports/timings") / f"{name}.json", {"seconds": seconds})
        sys.stdout.flush()
    except Exception as error:
        line = str(error) if isinstance(error, CaptionerError) else failure(error)
        if line is None:
            raise
        print(f"{name}: {line}", file=sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:  # it is what failed; at exit Python would try again, and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(2)
