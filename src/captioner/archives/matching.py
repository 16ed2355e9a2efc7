"""Which file is meant by a name in somebody's table."""

from collections import defaultdict
from collections.abc import Iterable
from unicodedata import normalize

PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
)


def match_names(names: Iterable[str], files: Iterable[str]) -> dict[str, list[str]]:
    """The files that each name may mean: one, or none, or several where it is not clear.

    The whole path counts; where no file has it, the same path without its suffix; then the bare
    name, in whatever folder; then that without its suffix. Upper and lower case differ. Letters
    with accents match however they are put together: macOS takes them apart in names of files.
    """
    files = list(files)
    exact = frozenset(files)
    levels = [defaultdict(list) for _ in range(4)]
    for file in files:
        path, base = _path_and_base(file)
        for level, key in zip(levels, (path, _stem(path), base, _stem(base)), strict=True):
            level[key].append(file)

    def match(name: str) -> list[str]:
        if name in exact:
            return [name]
        path, base = _path_and_base(name)
        keys = zip(levels, (path, path, base, base), strict=True)
        return next((level[key] for level, key in keys if key in level), [])

    return {name: match(name) for name in names}


def is_picture(file: str) -> bool:
    """Whether it is called like a picture."""
    return _stem(file) != file


def _path_and_base(name: str) -> tuple[str, str]:
    path = normalize("NFC", name)
    return path, path.rpartition("/")[2]


def _stem(path: str) -> str:
    stem, dot, suffix = path.rpartition(".")
    return stem if dot + suffix.lower() in PICTURE_SUFFIXES else path
