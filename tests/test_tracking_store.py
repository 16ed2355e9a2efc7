"""MLflow's store under kills, upgrades and moves: real databases, processes that are killed."""

import errno
import itertools
import multiprocessing
import os
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from captioner import CaptionerError, files, tracking
from captioner.tracking import database, store
from tests.test_tracking import (
    PARAMS,
    client,
    empty_store,
    make_pipeline,
    root,
    runs,
    train,
    write_lock,
)

__all__ = ["empty_store", "root"]  # fixtures


def execute(path: Path, *statements: str) -> list:
    """The rows of the last of some SQL statements."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return [connection.execute(statement).fetchall() for statement in statements][-1]


def connect_until(root: Path, moment: int | str) -> None:
    """Body of a process that is killed after so many SQL statements, or at the rename."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    replace, count = Path.replace, itertools.count(1)

    def rename(source, target):
        if moment == "after the rename":
            replace(source, target)
        die()

    if isinstance(moment, str):
        Path.replace = rename
    event.listen(Engine, "after_cursor_execute", lambda *_: next(count) == moment and die())
    tracking.connect(root)


def killed(target, *arguments) -> None:
    """Run a function in a process of its own, which ends by SIGKILL."""
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def names(root: Path) -> set[str]:
    """What lies in the project's top folder because of the store."""
    mine = ("mlflow.db", ".partial-")
    return {path.name for path in root.iterdir() if path.name.startswith(mine)}


WHOLE = {"mlflow.db", "mlflow.db.lock"}


def test_store_creation_killed_at_any_moment_is_made_good(root):
    (root / "mlflow.db").unlink()
    for moment in (1, 250, 700, "before the rename"):
        killed(connect_until, root, moment)
        assert not (root / "mlflow.db").exists()
    (root / "mlflow.db-journal").write_bytes(b"of a deleted database")
    killed(connect_until, root, "after the rename")
    assert names(root) == WHOLE  # and nothing of the four that were killed before
    run = train()
    assert [found.info.run_id for found in runs()] == [run.run_id]


def make_in_place(path: Path, last: str) -> None:
    """What MLflow alone does, as for `mlflow ui`, in a process that is killed after a statement."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def stop(connection, cursor, statement, *_):
        if last in statement:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "after_cursor_execute", stop)
    SqlAlchemyStore(f"sqlite:///{path}", str(path.parent / "mlruns"))


def test_half_made_store_without_runs_is_made_anew(root):
    path = root / "mlflow.db"
    path.unlink()
    killed(make_in_place, path, "CREATE TABLE _alembic_tmp_experiments")
    assert any(name.startswith("_alembic_tmp_") for (name,) in execute(path, TABLES))
    os.utime(path, (1, 1))  # nobody is at it any more
    run = train()
    assert [found.info.run_id for found in runs()] == [run.run_id]
    assert names(root) == WHOLE


TABLES = "SELECT name FROM sqlite_master WHERE type = 'table'"


def test_half_made_store_is_left_to_whoever_is_making_it(root, empty_store, monkeypatch):
    path = root / "mlflow.db"
    execute(path, "CREATE TABLE _alembic_tmp_runs (a)")
    inode = path.stat().st_ino

    def finish(seconds):
        shutil.copyfile(empty_store, path)

    monkeypatch.setattr(database.time, "sleep", finish)
    tracking.connect(root)
    assert path.stat().st_ino == inode


def test_empty_file_is_no_store_and_other_programs_tables_stay(root, monkeypatch):
    path, made = root / "mlflow.db", []
    monkeypatch.setattr(database, "_create", lambda *_: made.append("a store"))
    path.write_bytes(b"")
    database.prepare(path, root, own=True)
    assert made == ["a store"]
    execute(path, "CREATE TABLE studies (name)", "INSERT INTO studies VALUES ('mine')")
    database.prepare(path, root, own=True)  # MLflow adds its tables to them
    execute(path, "CREATE TABLE experiments (name)", "CREATE TABLE _alembic_tmp_runs (a)")
    os.utime(path, (1, 1))
    with pytest.raises(CaptionerError, match="cannot upgrade"):
        database.prepare(path, root, own=True)
    assert execute(path, "SELECT name FROM studies") == [("mine",)]
    assert made == ["a store"]


@pytest.fixture
def older_store(root) -> Path:
    """The store of an MLflow five schemas ago, with a run in it."""
    from alembic import command
    from mlflow.store.db.utils import InitialBase, _get_alembic_config, create_sqlalchemy_engine

    path = root / "mlflow.db"
    path.unlink()
    engine = create_sqlalchemy_engine(f"sqlite:///{path}")
    InitialBase.metadata.create_all(engine)
    config = _get_alembic_config(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, database._revisions()[5])
    engine.dispose()
    place = (root / "mlruns" / "captioner").as_uri()
    execute(
        path,
        "INSERT INTO experiments (experiment_id, name, lifecycle_stage, artifact_location)"
        f" VALUES (1, 'captioner', 'active', '{place}')",
        "INSERT INTO runs (run_uuid, name, experiment_id, user_id, lifecycle_stage, status,"
        " start_time, artifact_uri, source_type, source_name, entry_point_name, source_version)"
        f" VALUES ('{'a' * 32}', 'old', 1, 'me', 'active', 'FINISHED', 1, '{place}/a', 'LOCAL',"
        " '', '', '')",
    )
    return path


def test_older_store_is_upgraded_on_a_copy(root, older_store, tmp_path, monkeypatch, capsys):
    before = older_store.read_bytes()
    revision = database._revisions()[5]
    for moment in (20, "before the rename"):
        killed(connect_until, root, moment)
        assert older_store.read_bytes() == before

    elsewhere = tmp_path / "shared.db"  # perhaps of several people, with several versions of MLflow
    shutil.copy(older_store, elsewhere)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{elsewhere}")
    with pytest.raises(CaptionerError, match=f"`mlflow db upgrade sqlite:///{elsewhere}`"):
        tracking.connect(root)
    assert elsewhere.read_bytes() == before
    monkeypatch.delenv("MLFLOW_TRACKING_URI")

    execute(older_store, "ALTER TABLE runs RENAME TO _alembic_tmp_runs")  # a step broken off
    before = older_store.read_bytes()
    tracking.connect(root)
    assert [run.info.run_name for run in runs()] == ["old"]
    kept = f"mlflow.db.{revision}"
    assert names(root) == WHOLE | {kept}
    assert (root / kept).read_bytes() == before
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "upgraded" in line and kept in line


def test_store_that_cannot_be_upgraded_stays_as_it_is(root, older_store):
    execute(older_store, "DROP TABLE params")
    before = older_store.read_bytes()
    with pytest.raises(CaptionerError, match=r"no table params.*as it was.*`mlflow db upgrade "):
        tracking.connect(root)
    assert older_store.read_bytes() == before
    execute(older_store, "UPDATE alembic_version SET version_num = 'fffffffffff0'")
    with pytest.raises(CaptionerError, match=r"a newer MLflow \(schema fffffffffff0\)"):
        tracking.connect(root)
    older_store.write_bytes(b"no database" * 100)
    with pytest.raises(CaptionerError, match=r"mlflow\.db: no SQLite database that can be read"):
        tracking.connect(root)
    assert names(root) == WHOLE


def test_full_disk_is_one_line_and_leaves_nothing(root, monkeypatch):
    (root / "mlflow.db").unlink()

    def full(uri, artifacts):
        Path(uri.removeprefix("sqlite:///")).write_bytes(b"a page")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mlflow.store.tracking.sqlalchemy_store.SqlAlchemyStore", full)
    with pytest.raises(CaptionerError, match=r"mlflow\.db: cannot be written.*No space left"):
        tracking.connect(root)
    assert names(root) == {"mlflow.db.lock"}


def places(path: Path) -> set[str]:
    """All recorded places of artifacts but that of MLflow's own experiment."""
    own = {"experiments": "WHERE name = 'captioner'"}
    rows = [
        row
        for table, column in database.PLACES
        for row in execute(path, f"SELECT {column} FROM {table} {own.get(table, '')}")
    ]
    return {place for (place,) in rows if place and not place.startswith("models:/")}


def test_copied_project_keeps_to_its_own_folder(root, tmp_path, monkeypatch, capsys):
    tracked = tracking.track(root, PARAMS)
    before = files.digest(root)
    copy = root.with_name("my pipeline 2 ü")  # the name of the original is how it begins
    shutil.copytree(root, copy)
    monkeypatch.chdir(copy)
    assert tracking.track(copy, PARAMS) == tracked._replace(new=False)
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and f"made in {root}" in line and str(copy / "mlruns") in line
    version = client().get_model_version_download_uri("captioner", "1")
    assert (Path(database.local_path(version)) / "MLmodel").is_file()

    write_lock(copy, beam_width=5)
    new = tracking.track(copy, PARAMS | {"evaluate": {"beam_width": 5}})
    for number, run in enumerate((tracked, new)):
        (tmp_path / str(number)).mkdir()
        assert tracking.fetch_predictions(run.run_id, tmp_path / str(number)).is_file()
    assert capsys.readouterr().err == ""  # said once
    found = places(copy / "mlflow.db")
    assert len(found) == 1 + 2 + 2  # the experiment; two runs; the models of both
    assert all(database.local_path(place).is_relative_to(copy) for place in found)
    assert files.digest(root) == before

    # A temporary experiment works in a folder inside, and keeps the store of its parent.
    inside = copy / ".dvc" / "tmp" / "exps" / "x"
    shutil.copytree(root, inside, ignore=shutil.ignore_patterns("mlflow.db*", "mlruns"))
    monkeypatch.setenv("DVC_ROOT", str(copy))
    monkeypatch.chdir(inside)
    train()
    assert places(copy / "mlflow.db") >= found
    assert not any(str(inside) in place for place in places(copy / "mlflow.db"))
    assert capsys.readouterr().err == ""


def test_moved_project_is_read_on_a_read_only_disk(root, tmp_path, monkeypatch):
    tracked = tracking.track(root, PARAMS)
    moved = root.rename(root.with_name("moved"))
    monkeypatch.chdir(moved)

    def refused(self, *arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system", self.lock_file)

    monkeypatch.setattr(store.FileLock, "acquire", refused)
    path = tracking.fetch_predictions(tracked.run_id, tmp_path)
    assert path.read_bytes() == (moved / "data" / "predictions.parquet").read_bytes()
    found = tracking.run_of_bundle(moved / "models" / "bundle")
    assert found.info.run_id == tracked.run_id
    with pytest.raises(CaptionerError, match=r"mlflow\.db: cannot be written.*Read-only"):
        tracking.track(moved, PARAMS)
    assert not root.exists()


def test_same_folder_under_another_name_is_left_alone(root, monkeypatch, capsys):
    tracking.connect(root)
    before = places(root / "mlflow.db")
    alias = root.with_name("alias")
    alias.symlink_to(root)
    monkeypatch.chdir(alias)
    monkeypatch.setenv("PWD", str(alias))
    tracking.connect(Path(os.environ["PWD"]))
    assert places(root / "mlflow.db") == before
    assert capsys.readouterr().err == ""


def test_shared_store_whose_place_is_gone_is_refused(root, tmp_path, monkeypatch):
    shared = tmp_path / "shared.db"
    (root / "mlflow.db").rename(shared)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shared}")
    tracked = tracking.track(root, PARAMS)
    other = tmp_path / "other"
    make_pipeline(other, beam_width=5)
    monkeypatch.chdir(other)
    tracking.connect(other)  # two projects, one store: its files stay with the first
    shutil.rmtree(root)
    with pytest.raises(CaptionerError, match=f"files of runs go to {root}/mlruns/captioner, and"):
        tracking.track(other, PARAMS)
    assert not root.exists()
    (tmp_path / "fetched").mkdir()
    with pytest.raises(CaptionerError, match=rf"{tracked.run_id}: no predictions\.parquet"):
        tracking.fetch_predictions(tracked.run_id, tmp_path / "fetched")


def test_experiment_made_in_the_web_page_gets_a_place(root):
    tracking.connect(root)
    execute(
        root / "mlflow.db",
        "UPDATE experiments SET artifact_location = 'mlflow-artifacts:/1' WHERE name = 'captioner'",
    )
    tracked = tracking.track(root, PARAMS)
    run = client().get_run(tracked.run_id)
    assert run.info.artifact_uri.startswith((root / "mlruns" / "captioner").as_uri())


def test_folder_as_a_store_names_the_command(root, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./my_runs")
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    with pytest.raises(CaptionerError, match=r"`mlflow migrate-filestore --source ./my_runs "):
        tracking.connect(root)
    assert not (root / "my_runs").exists()


def test_messages_are_cut_between_words_and_own_ones_not_at_all():
    long = "word " * 200
    assert store.public(CaptionerError(long)) == long.strip()
    assert store.public(ValueError(long)).endswith("word ...")
    assert len(store.public(ValueError(long))) <= 300


def test_path_with_what_an_address_would_decode(root, monkeypatch):
    odd = root.rename(root.with_name("a %20 b?c#d"))
    monkeypatch.chdir(odd)
    tracked = tracking.track(odd, PARAMS)
    assert (odd / "mlruns" / "captioner" / tracked.run_id / "artifacts").is_dir()
    assert [path.name for path in odd.parent.iterdir() if path.name.startswith("a")] == [odd.name]
