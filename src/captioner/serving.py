"""Requests of many clients, answered in batches by one thread that owns the model.

A model on a CPU captions sixteen pictures in little more time than a few: requests that come within
some milliseconds of each other wait for one another and go through it together (dynamic batching,
Olston et al. 2017, "TensorFlow-Serving", section 3.2). When more wait than the queue holds, the
next one is refused at once: better told to come back than left to time out.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from captioner import CaptionerError

WAIT = 0.01  # seconds that the first of a batch waits for others, at most
QUEUE = 128  # requests that may wait


class Busy(CaptionerError):
    """More requests wait than the queue holds; come back in `seconds`."""

    def __init__(self, seconds: int):
        self.seconds = seconds
        super().__init__(f"too many requests at once; try again in {seconds} s")


class _Request(NamedTuple):
    key: Hashable
    item: Any
    answer: Future


class MicroBatcher:
    """Calls a function for many items at once, with those that arrive at about the same time.

    Args:
        function: (key, items) -> an answer for each item; called by one thread alone.
        most: items of a call.
        wait: seconds that the first item of a call waits for others, at most.
        queue: items that may wait, all keys together.
    """

    def __init__(
        self,
        function: Callable[[Any, list], Sequence],
        most: int,
        wait: float = WAIT,
        queue: int = QUEUE,
    ):
        self._function, self._most, self._wait, self._queue = function, most, wait, queue
        self._waiting: deque[_Request] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._seconds = 1.0  # that the last call took
        threading.Thread(target=self._work, name="captioner-batches", daemon=True).start()

    def submit(self, item: Any, key: Hashable = None) -> Future:
        """Ask for the answer to an item; only items with equal keys share a call.

        Raises:
            Busy: the queue is full.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            if len(self._waiting) >= self._queue:
                calls = len(self._waiting) / self._most
                raise Busy(max(1, round(calls * self._seconds)))
            answer: Future = Future()
            self._waiting.append(_Request(key, item, answer))
            self._changed.notify()
        return answer

    def close(self) -> None:
        """Answer what waits, then stop."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _work(self) -> None:
        while batch := self._next():
            began = time.monotonic()
            try:
                answers = self._function(batch[0].key, [request.item for request in batch])
                for request, answer in zip(batch, answers, strict=True):
                    request.answer.set_result(answer)
            except BaseException as error:  # whoever asked is to know, and the next ones go on
                for request in batch:
                    if not request.answer.done():
                        request.answer.set_exception(error)
            self._seconds = time.monotonic() - began

    def _next(self) -> list[_Request]:
        """The requests of the next call: of one key, in the order they came; none when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return []
            key = self._waiting[0].key

            def enough() -> bool:
                same = sum(request.key == key for request in self._waiting)
                return same >= self._most or self._closed

            self._changed.wait_for(enough, self._wait)
            chosen, rest = [], deque()
            for request in self._waiting:
                if request.key != key or len(chosen) == self._most:
                    rest.append(request)
                elif request.answer.set_running_or_notify_cancel():  # not of one who gave up
                    chosen.append(request)
            self._waiting = rest
        return chosen or self._next()
