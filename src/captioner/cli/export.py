"""`captioner export`: the vectors of a collection for others' tools."""

import argparse
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from captioner import CaptionerError
from captioner.cli import finding
from captioner.files import (
    CHECKSUMS,
    atomic_file,
    atomic_folder,
    check_apart,
    check_replaceable,
)

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from captioner.collection import Collection

PROJECTOR = ("projector_config.pbtxt", "sprite.png", "*.tsv", CHECKSUMS)
PROJECTOR_MARK = ("projector_config.pbtxt", b"embeddings {")
FORMATS = ("parquet", "npy", "projector", "word2vec")

EXAMPLES = """\
examples:
  captioner export --format parquet --output pictures.parquet
                                                for pandas, Polars, DuckDB: all columns, and vector
  captioner export --format npy --what captions --output captions.npy
                                                float32, and a line for each row in captions.npy.txt
  captioner export --format projector --output projector
                                                tensorboard --logdir projector
  captioner export --format word2vec --what words --output words.txt
                                                for gensim's KeyedVectors.load_word2vec_format

In word2vec's text format a name ends at a blank: blanks within names become "_". A picture is named
by its id, a caption by its picture's id, "#" and its number, a word by itself.

exit codes: 0 written; 2 nothing was written: a wrong argument or file, named on stderr
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the program's."""
    export = commands.add_parser(
        "export",
        help="write vectors for pandas, numpy, TensorBoard, gensim",
        description="Write the vectors of a collection in a format that others' tools read.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    export.add_argument("--format", required=True, choices=FORMATS, help="what reads it, see below")
    export.add_argument(
        "--what",
        choices=("pictures", "captions", "words"),
        default="pictures",
        help="whose vectors (default: pictures); the projector has pictures and words",
    )
    export.add_argument(
        "--output", required=True, type=Path, metavar="PATH", help="the file or folder to write"
    )
    export.add_argument(
        "--force", action="store_true", help="replace a file, or a projector folder"
    )
    finding.add_index(export)
    export.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write what `options` names; returns the exit code."""
    from captioner import collection

    _check_output(options)
    check_apart(options.output, options.index)
    opened = collection.open_collection(options.index)
    if options.format == "projector":
        _copy_projector(options.index, options.output)
        return 0
    table, vectors = _rows(opened, options.what)
    if options.format == "parquet":
        from captioner.embeddings import vector_table
        from captioner.images import write_table

        columns = {name: table[name] for name in table.columns}
        write_table(vector_table(columns, vectors), options.output)
        return 0
    names = _names(table, options.what)
    with atomic_file(options.output) as temporary:
        if options.format == "word2vec":
            _write_word2vec(temporary, names, vectors)
            return 0
        import numpy as np

        with temporary.open("wb") as file:  # by its name numpy would add a suffix
            np.save(file, vectors)
        with atomic_file(_lines_of(options.output)) as lines:
            text = "".join(f"{' '.join(name.splitlines())}\n" for name in names)
            lines.write_text(text, encoding="utf-8", errors="replace", newline="\n")
    return 0


def _check_output(options: argparse.Namespace) -> None:
    """Refuse what is there already; --force replaces a file, or a folder that this command wrote.

    Raises:
        CaptionerError: what is there.
    """
    outputs = [options.output]
    if options.format == "npy":
        outputs.append(_lines_of(options.output))
    for output in outputs:
        if os.path.lexists(output) and not options.force:
            raise CaptionerError(f"{output}: is there already; --force replaces it")
        if options.format == "projector":
            check_replaceable(output, PROJECTOR, PROJECTOR_MARK)
        elif os.path.lexists(output) and not output.is_file():
            raise CaptionerError(f"{output}: is no file, which is all that --force replaces")


def _lines_of(output: Path) -> Path:
    """The names of the rows of an .npy file."""
    return Path(f"{output}.txt")


def _rows(opened: "Collection", what: str) -> "tuple[pd.DataFrame, np.ndarray]":
    """The columns and vectors (n, size) of pictures, captions or words."""
    import numpy as np

    if what != "pictures":
        table, vectors = opened.extra(what)
        return table, np.array(vectors)
    if not opened.meaning:
        raise CaptionerError(f"{opened.folder}: the collection is empty")
    return opened.pictures, np.concatenate(opened.meaning)[opened.there]


def _names(table: "pd.DataFrame", what: str) -> list[str]:
    if what == "captions":
        number: Counter[str] = Counter()
        names = []
        for image_id in table["image_id"]:
            names.append(f"{image_id}#{number[image_id]}")
            number[image_id] += 1
        return names
    return table["image_id" if what == "pictures" else "word"].tolist()


def _write_word2vec(path: Path, names: Sequence[str], vectors: "np.ndarray") -> None:
    """word2vec's text format (Mikolov et al. 2013, the program's own): sizes, then a line each."""
    words = ["_".join(name.split()) for name in names]
    twice = [word for word, count in Counter(words).items() if count > 1 or not word]
    if twice:
        raise CaptionerError(
            f"{twice[0]!r:.80}: two names are the same once their blanks are gone; use another "
            "format"
        )
    with path.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
        file.write(f"{len(words)} {vectors.shape[1]}\n")
        for word, vector in zip(words, vectors, strict=True):
            file.write(f"{word} {' '.join(f'{value:.6g}' for value in vector)}\n")


def _copy_projector(index: Path, output: Path) -> None:
    from captioner.files import verify

    source = index / "projector"
    if not (source / "projector_config.pbtxt").is_file():
        raise CaptionerError(
            f"{index}: no projector files here; `dvc repro export` writes those of data/embeddings"
        )
    verify(source)
    with atomic_folder(output, PROJECTOR, PROJECTOR_MARK) as folder:
        for pattern in PROJECTOR:
            for file in source.glob(pattern):
                shutil.copyfile(file, folder / file.name)
