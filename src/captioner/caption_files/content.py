"""The bytes of a caption file, and the text in them; what is wrong with either, in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from captioner import CaptionerError
from captioner.caption_files.records import listed
from captioner.files import read_regular

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".pq"})

MAX_TABLE = 2 * 2**30  # bytes; the captions of 12 million pictures of the web are 2.5 GB of text


@contextmanager
def named(path: Path | str) -> Iterator[None]:
    """Put the file's name before what is wrong in it."""
    try:
        yield
    except CaptionerError as problem:
        raise CaptionerError(f"{path}: {problem}") from None


def read_bytes(path: Path) -> bytes:
    try:
        return read_regular(path, MAX_TABLE)
    except FileNotFoundError:
        raise CaptionerError("no such file") from None
    except IsADirectoryError:
        raise CaptionerError("is a folder; name the file of captions in it") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        raise CaptionerError(f"cannot be read ({getattr(error, 'strerror', error)})") from None


def read_table(path: Path) -> tuple[str, bytes]:
    """The name and the bytes of a table, or of the only table in an archive.

    Raises:
        CaptionerError: it cannot be read, or the archive holds none or several.
    """
    from captioner.archives import is_archive, open_pictures  # slow to start, and seldom needed

    if not (path.is_file() and is_archive(path)):
        with named(path):
            return str(path), read_bytes(path)
    with open_pictures(path) as archive:
        tables = [name for name in archive.names if is_table(name)]
        if len(tables) != 1:
            raise CaptionerError(
                f"{path}: holds {len(tables)} tables ({listed(tables)}) and should hold one "
                f"({', '.join(sorted(TABLE_SUFFIXES))}); take the one you mean out of it"
            )
        return f"{path}: {tables[0]}", archive.read(tables[0])


def is_table(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in TABLE_SUFFIXES


def decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CaptionerError(
            f"line {line}: not UTF-8 (byte 0x{data[error.start]:02x}); save the file as UTF-8"
        ) from None
