"""Links to input files that lie outside the project, so that DVC notices when they change.

A path in dvc.yaml cannot depend on the chosen data set, and DVC stops where a dependency is
missing. So dvc.yaml names folders of the project that are always there, and the stage `inputs`
fills them with links to what the chosen settings read: the pictures and captions of the row
`table`, the file of a backbone's ImageNet weights. DVC hashes what a link leads to, and stops
before it removes any output where a link leads nowhere. What is not chosen has no link, and need
not be there.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from captioner import CaptionerError
from captioner.files import write_json

TABLE = Path("data/inputs/table")
WEIGHTS = Path("data/inputs/weights")
NAMES = "links.json"  # the output of the stage: DVC removes it, and never what a link leads to


def link_inputs(folder: Path, targets: Mapping[str, Path], folders: tuple[str, ...] = ()) -> None:
    """Replace the links in a folder, and write their names to links.json.

    Args:
        folder: made if missing; holds nothing but what this function writes.
        targets: name of the link -> file or folder that it leads to.
        folders: names of which DVC needs a folder: empty where there is no link of that name.

    Raises:
        CaptionerError: a target is missing, the folder holds something else, or this system
            refuses links.
    """
    for name, target in targets.items():
        if not target.exists():
            raise CaptionerError(f"{target}: not found, linked as {folder / name} for DVC")
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        try:
            path.rmdir() if path.is_dir() and not path.is_symlink() else _remove_link(path)
        except OSError as error:
            raise CaptionerError(
                f"{path}: the stage inputs keeps links here and nothing else; move this away "
                f"({error.strerror})"
            ) from None
    for name, target in targets.items():
        # Relative within the project, so that a moved or copied one links to its own files.
        place = Path(os.path.normpath(target.absolute()))
        inside = place.is_relative_to(Path.cwd())
        try:
            (folder / name).symlink_to(os.path.relpath(place, folder) if inside else place)
        except OSError as error:
            raise CaptionerError(
                f"{folder / name}: cannot link to {target} ({error.strerror}); allow symbolic "
                "links (on Windows: Developer Mode)"
            ) from None
    for name in set(folders) - set(targets):
        (folder / name).mkdir()
    # Names alone: places differ from machine to machine, and dvc.lock must not.
    write_json(folder / NAMES, sorted(targets))


def _remove_link(path: Path) -> None:
    if not path.is_symlink() and path.name != NAMES:
        raise FileExistsError(0, "not a link")
    path.unlink()
