"""Which file is meant by a name in somebody's table."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from unicodedata import normalize

PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
)


def match_names(names: Iterable[str], files: Iterable[str]) -> dict[str, list[str]]:
    """The files that each name may mean: one, or none, or several where it is not clear.

    Name and file must agree in the file name and in all folders that both give: `cat/1.jpg` is
    `images/cat/1.jpg` and `/home/me/images/cat/1.jpg` is `images/cat/1.jpg`, but `train/1.jpg` is
    not `val/1.jpg`. The same path comes first, then the path that shares most folders; among these
    the whole file name comes before the file name without its suffix. Upper and lower case differ.
    Letters with accents match however they are put together: macOS takes them apart in file names.
    """
    names, files = list(names), list(files)
    exact = frozenset(files)
    paths = {name: _path(name) for name in names}
    wanted = frozenset(paths.values())
    whole: defaultdict[str, list[str]] = defaultdict(list)  # a file's path -> files
    ending: defaultdict[str, list[str]] = defaultdict(list)  # a wanted path -> files that end in it
    stem_whole: defaultdict[str, list[str]] = defaultdict(list)  # the same without the suffix
    stem_ending: defaultdict[str, list[str]] = defaultdict(list)
    for file in files:
        path = _path(file)
        stem = _stem(path)
        for key, by_path, by_end in ((path, whole, ending), (stem, stem_whole, stem_ending)):
            if by_path is stem_whole and stem == path:
                continue
            by_path[key].append(file)
            for end in _ends(key):
                if end in wanted:
                    by_end[end].append(file)

    def match(name: str) -> list[str]:
        if name in exact:
            return [name]
        path = paths[name]
        lookups = [(whole, path), (stem_whole, path), (ending, path), (stem_ending, path)]
        lookups += [(level, end) for end in _ends(path) for level in (whole, stem_whole)]
        return next((level[key] for level, key in lookups if key in level), [])

    return {name: match(name) for name in names}


def agree(name: str, other: str) -> bool:
    """Whether two names may mean one file: one path is the end of the other."""
    one, longer = sorted((_path(name), _path(other)), key=len)
    return one in ("", longer) or longer.endswith("/" + one)


def folders_and_base(name: str) -> tuple[str, str]:
    """The folders in a path, "" where there are none, and the file name at its end."""
    folders, _, base = _path(name).rpartition("/")
    return folders, base


def _path(name: str) -> str:
    """A path without what names no folder: ".", "..", a "/" at either end or twice."""
    parts: list[str] = []
    for part in normalize("NFC", name).split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _ends(path: str) -> Iterator[str]:
    """The path without its first folder, its first two, ... and at last the file name."""
    place = path.find("/")
    while place >= 0:
        yield path[place + 1 :]
        place = path.find("/", place + 1)


def is_picture(file: str) -> bool:
    """Whether it is called like a picture."""
    return _stem(file) != file


def _stem(path: str) -> str:
    stem, dot, suffix = path.rpartition(".")
    return stem if dot + suffix.lower() in PICTURE_SUFFIXES else path
