"""serving.py: who goes into a batch with whom, and what happens when it is too much."""

import threading
from concurrent.futures import CancelledError

import pytest

from captioner.serving import Busy, MicroBatcher


class Recorded:
    """A function for batches that can be held up."""

    def __init__(self):
        self.calls, self.gate, self.entered = [], threading.Event(), threading.Event()

    def __call__(self, key, items):
        self.entered.set()
        self.gate.wait(30)
        self.calls.append((key, items))
        if "wrong" in items:
            raise ValueError("wrong item")
        return [f"{key}:{item}" for item in items]


@pytest.fixture
def recorded():
    return Recorded()


def held(recorded, **settings) -> MicroBatcher:
    """A batcher whose thread is busy with the item "first"."""
    batcher = MicroBatcher(recorded, **{"most": 3, "wait": 0.0} | settings)
    batcher.submit("first", "k")
    assert recorded.entered.wait(30)
    return batcher


def test_what_waits_goes_together_in_its_order(recorded):
    batcher = held(recorded)
    answers = [batcher.submit(item, "k") for item in "abcd"]
    recorded.gate.set()
    assert [answer.result(30) for answer in answers] == ["k:a", "k:b", "k:c", "k:d"]
    assert recorded.calls == [("k", ["first"]), ("k", ["a", "b", "c"]), ("k", ["d"])]


def test_only_equal_keys_share_a_call(recorded):
    batcher = held(recorded)
    answers = [batcher.submit(n, key) for n, key in enumerate(["x", "y", "x", "y"])]
    recorded.gate.set()
    assert [answer.result(30) for answer in answers] == ["x:0", "y:1", "x:2", "y:3"]
    assert recorded.calls[1:] == [("x", [0, 2]), ("y", [1, 3])]


def test_the_first_waits_for_a_full_batch(recorded):
    recorded.gate.set()
    batcher = MicroBatcher(recorded, most=2, wait=30.0)
    answers = [batcher.submit(item) for item in "ab"]  # a full batch waits no longer
    assert [answer.result(20) for answer in answers] == ["None:a", "None:b"]
    assert recorded.calls == [(None, ["a", "b"])]


def test_an_error_reaches_who_asked_and_the_next_ones_go_on(recorded):
    batcher = held(recorded)
    wrong, right = batcher.submit("wrong", "k"), batcher.submit("right", "other")
    recorded.gate.set()
    with pytest.raises(ValueError, match="wrong item"):
        wrong.result(30)
    assert right.result(30) == "other:right"


def test_a_full_queue_says_when_to_come_back(recorded):
    batcher = held(recorded, queue=2)
    answers = [batcher.submit(item, "k") for item in "ab"]
    with pytest.raises(Busy, match="too many requests at once; try again in 1 s") as refused:
        batcher.submit("c", "k")
    assert refused.value.seconds == 1
    recorded.gate.set()
    assert [answer.result(30) for answer in answers] == ["k:a", "k:b"]
    assert batcher.submit("c", "k").result(30) == "k:c"


def test_who_gives_up_is_not_computed(recorded):
    batcher = held(recorded)
    gone, there = batcher.submit("gone", "k"), batcher.submit("there", "k")
    assert gone.cancel()
    recorded.gate.set()
    assert there.result(30) == "k:there"
    assert recorded.calls[1:] == [("k", ["there"])]
    with pytest.raises(CancelledError):
        gone.result(1)


def test_closing_answers_what_waits(recorded):
    batcher = held(recorded)
    answer = batcher.submit("a", "k")
    recorded.gate.set()
    batcher.close()
    assert answer.result(30) == "k:a"
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit("b")
