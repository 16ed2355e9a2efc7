"""checkpoints.py: what is found again after a kill, and by which training."""

import errno

import keras
import numpy as np
import pytest
import tensorflow as tf

from captioner import CaptionerError, checkpoints
from captioner.checkpoints import State, assign, load_arrays

SETTINGS = {"epochs": 4, "dropout": 0.3}


def test_state_belongs_to_settings_and_inputs(tmp_path):
    state = State.of(tmp_path, SETTINGS, "digest")
    assert state.newest() is None
    assert state.run_id is None
    state.run_id = "abc"
    state.epoch(9).mkdir()
    state.epoch(10).mkdir()
    (tmp_path / "stray file").write_text("")
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "0.jpg").write_text("precious")
    (tmp_path / "0123456789abcdef").symlink_to("album")

    same = State.of(tmp_path, dict(SETTINGS), "digest")
    assert same.run_id == "abc"
    assert same.newest() == state.folder / "epoch-0010"

    others = [State.of(tmp_path, SETTINGS | {"dropout": 0.4}, "digest")]
    assert not state.folder.exists()  # one state at a time
    others.append(State.of(tmp_path, SETTINGS, "other data"))
    assert len({s.folder for s in (state, *others)}) == 3
    assert all(other.newest() is None and other.run_id is None for other in others)
    left = ["0123456789abcdef", "album", "stray file"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left
    assert (tmp_path / "album" / "0.jpg").read_text() == "precious"


def test_phases_of_a_training_have_epochs_of_their_own_and_go_with_it(tmp_path):
    state = State.of(tmp_path, SETTINGS, "digest")
    first, second = state.phase("first"), state.phase("second")
    first.epoch(3).mkdir(parents=True)
    assert first.newest() == state.folder / "first" / "epoch-0003"
    assert second.newest() is None
    assert state.newest() is None
    again = State.of(tmp_path, SETTINGS, "digest").phase("first")
    assert again.newest() == first.newest()
    State.of(tmp_path, SETTINGS, "other data")
    assert not first.folder.exists()


def test_what_a_kill_left_half_written_is_no_epoch(tmp_path):
    state = State(tmp_path)
    state.epoch(1).mkdir()
    (tmp_path / ".partial-123-epoch-0002").mkdir()
    assert state.newest() == tmp_path / "epoch-0001"


def test_a_finished_state_stays_without_what_further_epochs_would_need(tmp_path, capsys):
    state = State.of(tmp_path, SETTINGS, "digest")
    state.run_id = "abc"
    phase = state.phase("words")
    phase.epoch(2).mkdir(parents=True)
    for name in ("best.npz", "optimizer.npz"):
        (phase.epoch(2) / name).write_text("")
    (state.folder / "activations").mkdir()
    (state.folder / "activations" / "grid.npy").write_text("")
    phase.report("training", 2, over=False)
    assert capsys.readouterr().out == "training: going on after epoch 2\n"
    assert not state.finished
    state.finish("optimizer.npz", "activations")
    again = State.of(tmp_path, SETTINGS, "digest")
    assert again.finished and again.run_id == "abc"
    files = [path.relative_to(state.folder).as_posix() for path in state.folder.rglob("*.*z")]
    assert files == ["words/epoch-0002/best.npz"]
    assert not (state.folder / "activations").exists()
    again.phase("words").report("training", 2, over=True)
    assert capsys.readouterr().out == (
        f"training: all 2 epochs are done, in {state.folder}; remove that folder to train anew\n"
    )
    assert not State.of(tmp_path, SETTINGS, "other data").finished
    assert not state.folder.exists()


def test_arrays_come_back_in_their_order_into_the_variables(tmp_path):
    """More than ten: arr_10 stands before arr_2 in the alphabet."""
    values = [np.full(number + 1, number, np.float32) for number in range(12)]
    np.savez(tmp_path / "weights.npz", *values)
    variables = [tf.Variable(tf.zeros(number + 1)) for number in range(12)]
    assign(variables, load_arrays(tmp_path / "weights.npz"))
    for variable, value in zip(variables, values, strict=True):
        np.testing.assert_array_equal(variable, value)
    with pytest.raises(ValueError, match="shorter"):
        assign(variables, values[:-1])


def test_pickles_are_not_opened(tmp_path):
    np.savez(tmp_path / "weights.npz", np.array([print], object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        load_arrays(tmp_path / "weights.npz")


@pytest.mark.parametrize("name", ["last.npz", "best.npz", "history.json"])
def test_a_damaged_epoch_is_one_line_that_names_what_to_remove(tmp_path, name):
    state = State.of(tmp_path, SETTINGS, "digest").phase("words")
    variables = [tf.Variable([1.0, 2.0])]
    state.keep_arrays([{"loss": 0.5}], variables, [np.ones(2, np.float32)])
    assert state.resume_arrays("training", variables, 2)[0] == [{"loss": 0.5}]
    path = state.epoch(1) / name
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CaptionerError, match=f"remove {tmp_path}/[0-9a-f]+ to train from the beg"):
        state.resume_arrays("training", variables, 2)


def test_weights_are_written_where_there_is_room_and_not_begun_where_there_is_none(
    tmp_path, monkeypatch
):
    """HDF5 crashes the process in which the disk becomes full under it."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1000), keras.layers.Dense(7)])
    path = tmp_path / "weights.weights.h5"
    taken = []
    monkeypatch.setattr(checkpoints, "reserve", lambda path: taken.append(path.stat().st_size))
    checkpoints.save_weights(model, path)
    assert path.stat().st_size <= taken[0] < 2 * path.stat().st_size + 100_000
    before = path.read_bytes()
    model.save_weights(path)
    assert path.read_bytes() == before  # the room makes no difference to the bytes

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(checkpoints, "reserve", full)
    monkeypatch.setattr(model, "save_weights", None)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save_weights(model, path)
