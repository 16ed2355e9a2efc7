"""The SQLite file of a store: made whole, upgraded on a copy, and moved along with its project.

MLflow makes and upgrades a database in place, in some seventy steps that are no transaction. A
process killed between two of them leaves tables that no later start can finish. Here both happen in
a file beside the store that takes its place once it is whole.

MLflow also records absolute paths of artifacts. In a project that was moved or copied they lead to
the old folder, so they are changed to this one.
"""

import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from captioner import CaptionerError
from captioner.files import atomic_file

EXPERIMENT = "captioner"
ARTIFACTS = "mlruns"  # folder of the project
UNFINISHED = "_alembic_tmp_"  # prefix of the copy of a table that a step of an upgrade changes
SETTLED = 5.0  # seconds without a change, after which nobody is making a half-made store
# What MLflow cannot make anew. Its own experiments are of no account as long as they hold no runs.
WORK = {
    "runs": "1",
    "registered_models": "1",
    "trace_info": "1",
    "experiments": f"name NOT IN ('Default', '{EXPERIMENT}')",
}
PLACES = [
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
]


def address(database: Path) -> str:
    """The URI of an SQLite file. It is relative where the path holds what a URI would decode."""
    path = str(database)
    if "%" in path or "?" in path:
        path = os.path.relpath(database)
    return f"sqlite:///{Path(path).as_posix()}"


def prepare(database: Path, root: Path, own: bool) -> None:
    """Make `database` a store of this MLflow's schema; to be called under the store's lock.

    A missing store is made, and so is a half-made one that holds no runs. An older one is upgraded.

    Args:
        root: the project's folder; artifacts of a new store lie in its `mlruns`.
        own: the store is the project's own; another one is not upgraded.

    Raises:
        CaptionerError: no database, or one that cannot be upgraded; it was not changed.
        OSError: no permission, or a full disk.
    """
    while database.exists() and (database.stat().st_size or not database.is_file()):
        revision, tables, work = _inspect(database)
        known = _revisions()
        half_made = any(name.startswith(UNFINISHED) for name in tables)
        if (revision == known[0] and not half_made) or not tables & (
            _tables() | {"alembic_version"}
        ):
            return  # whole; or another program's, to which MLflow adds its tables
        if revision is not None and revision not in known:
            raise CaptionerError(
                f"{database}: written by a newer MLflow (schema {revision}); install that version, "
                "or choose another store with MLFLOW_TRACKING_URI"
            )
        if work:
            _upgrade(database, revision, own)
            return
        if abs(time.time() - database.stat().st_mtime) > SETTLED:
            break
        time.sleep(0.2)  # perhaps `mlflow ui` is making it
    _create(database, root)


def _open(database: Path) -> sqlite3.Connection:
    """An existing database, for reading alone where it cannot be written."""
    uri = f"{database.as_uri()}?mode=rw"
    return sqlite3.connect(uri, uri=True, timeout=20, isolation_level=None)


def _inspect(database: Path) -> tuple[str | None, set[str], bool]:
    """Its schema's revision, its tables, and whether they hold what MLflow cannot make anew."""
    try:
        with closing(_open(database)) as connection:
            tables = _names(connection)
            revision = None
            if "alembic_version" in tables:
                row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
                revision = row[0] if row else None
            work = any(
                connection.execute(f"SELECT 1 FROM {table} WHERE {which} LIMIT 1").fetchone()
                for name, which in WORK.items()
                for table in (name, f"{UNFINISHED}{name}")
                if table in tables
            )
    except sqlite3.DatabaseError as error:
        raise CaptionerError(
            f"{database}: no SQLite database that can be read ({error}); put a backup in its "
            "place, or move it away, and `dvc repro track` makes a new one"
        ) from error
    others = {name for name in tables if not name.startswith(("alembic_", UNFINISHED, "sqlite_"))}
    return revision, tables, work or bool(others - _tables())


def _names(connection: sqlite3.Connection) -> set[str]:
    listing = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    return {name for (name,) in listing}


def _tables() -> set[str]:
    """The tables of MLflow's schema."""
    from mlflow.store.db.utils import Base

    return set(Base.metadata.tables)


def _revisions() -> list[str]:
    """The revisions of the schema that this MLflow knows, the newest first."""
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config

    script = ScriptDirectory.from_config(_get_alembic_config(""))
    return [step.revision for step in script.walk_revisions()]


def _create(database: Path, root: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for suffix in ("-journal", "-wal", "-shm"):  # SQLite would apply them to the new database
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    artifacts = root / ARTIFACTS
    with atomic_file(database) as temporary:
        store = SqlAlchemyStore(address(temporary), artifacts.as_uri())
        try:
            store.create_experiment(EXPERIMENT, (artifacts / EXPERIMENT).as_uri())
        finally:
            store.engine.dispose()


def _upgrade(database: Path, revision: str | None, own: bool) -> None:
    """Upgrade a copy, which takes the store's place; the store stays beside it under a new name."""
    from mlflow.store.db.utils import _upgrade_db, create_sqlalchemy_engine

    by_hand = f"`mlflow db upgrade {address(database)}`"
    if not own:
        raise CaptionerError(
            f"{database}: a store of an older MLflow (schema {revision}); copy the file, then "
            f"upgrade it with {by_hand}"
        )
    kept = database.with_name(f"{database.name}.{revision}")
    with atomic_file(database) as temporary:
        with closing(_open(database)) as connection:
            connection.execute("VACUUM INTO ?", (str(temporary),))
        if any(database.with_name(database.name + end).exists() for end in ("-journal", "-wal")):
            raise CaptionerError(
                f"{database}: to be upgraded, but another program uses it; end that (`mlflow ui`?)"
            )
        engine = create_sqlalchemy_engine(address(temporary))
        try:
            _finish_step(temporary)
            _upgrade_db(engine)
            with closing(_open(temporary)) as connection:
                if missing := _tables() - _names(connection):
                    raise ValueError(f"no table {', '.join(sorted(missing))}")
        except Exception as error:  # of SQLAlchemy, Alembic or a step of MLflow's
            reason = " ".join(str(error).split())[:120]
            raise CaptionerError(
                f"{database}: a store of an older MLflow (schema {revision}), perhaps half "
                f"upgraded, that this one cannot upgrade ({reason}); it is as it was: put a backup "
                f"in its place, copy it and try {by_hand}, or move it away"
            ) from error
        finally:
            engine.dispose()
        with atomic_file(kept) as backup:
            shutil.copyfile(database, backup)
    _say(f"{database}: upgraded to this MLflow's schema; the old file is {kept.name}")


def _finish_step(database: Path) -> None:
    """Bring back tables of which a broken-off step has left nothing but its copy."""
    with closing(_open(database)) as connection:
        tables = _names(connection)
        for name in sorted(tables):
            original = name.removeprefix(UNFINISHED)
            if original in tables - {name}:
                connection.execute(f'DROP TABLE "{name}"')  # its rows are still in the original
            elif original != name:
                connection.execute(f'ALTER TABLE "{name}" RENAME TO "{original}"')


def local_path(place: str) -> Path | None:
    """The path of a place of artifacts; None where it is no local one."""
    if place.startswith("file:"):
        return Path(url2pathname(urlsplit(place).path))
    return Path(place) if Path(place).is_absolute() else None


def artifacts_folder(place: str) -> Path | None:
    """The folder `mlruns` that a place of artifacts lies in; None where there is none."""
    path = local_path(place)
    return next((p for p in (path, *path.parents) if p.name == ARTIFACTS), None) if path else None


def mover(old: Path, new: Path) -> Callable[[str | None], str | None]:
    """A function that turns places in the folder `old` into those in `new`, and leaves others."""

    def moved(place: str | None) -> str | None:
        path = local_path(place) if place else None
        if place is None or path is None or not path.is_relative_to(old):
            return place
        target = new / path.relative_to(old)
        return target.as_uri() if place.startswith("file:") else str(target)

    return moved


def relocate(database: Path, root: Path) -> None:
    """Change the recorded places to this project's folder, in one transaction, and say so.

    Only places in the folder `mlruns` that the experiment `captioner` names are changed. An
    experiment that was made in the web page of `mlflow ui` keeps artifacts with that server, where
    a program without it cannot write; it is given a place in the project too.
    """
    new = root / ARTIFACTS
    with closing(_open(database)) as connection:
        query = "SELECT artifact_location FROM experiments WHERE name = ?"
        row = connection.execute(query, (EXPERIMENT,)).fetchone()
        place = row[0] if row else ""
        if place.startswith("mlflow-artifacts:"):
            change = "UPDATE experiments SET artifact_location = ? WHERE name = ?"
            connection.execute(change, ((new / EXPERIMENT).as_uri(), EXPERIMENT))
            return
        old = artifacts_folder(place)
        if old is None or old == new or (old.exists() and new.exists() and old.samefile(new)):
            return
        connection.create_function("moved", 1, mover(old, new), deterministic=True)
        connection.execute("BEGIN IMMEDIATE")
        for table, column in PLACES:
            connection.execute(
                f"UPDATE {table} SET {column} = moved({column}) WHERE moved({column}) <> {column}"
            )
        connection.execute("COMMIT")
    _say(f"{database}: made in {old.parent}; its runs' files are looked for in {new} from now on")


def _say(line: str) -> None:
    print(line, file=sys.stderr)
