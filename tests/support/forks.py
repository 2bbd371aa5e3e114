"""Runs functions in forked children of the test process."""

from __future__ import annotations

import os
import pickle
import select
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

PATIENCE_S = 30.0  # for a child's answer; reached only by a test that fails

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")


@contextmanager
def quietly() -> Iterator[None]:
    """From Python 3.12 on, a fork of a process with threads is warned of. Here that is the subject."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


class Child:
    """A child whose answer can be awaited.

    `answer` is for the child: it answers and ends the process, so nothing of the test goes on in it.
    """

    def __init__(self, pid: int, reader: int) -> None:
        self.pid = pid
        self._reader = reader

    def result(self) -> Any:
        """What the child answered; a child that fails or hangs fails the test."""
        received, until_s = b"", time.monotonic() + PATIENCE_S
        try:
            while True:
                if not select.select([self._reader], [], [], max(until_s - time.monotonic(), 0.0))[0]:
                    pytest.fail("the forked child hangs")
                piece = os.read(self._reader, 1 << 16)
                if not piece:
                    break
                received += piece
        finally:
            os.close(self._reader)
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        assert received, "the forked child died"
        done, answer = pickle.loads(received)
        if not done:
            pytest.fail(f"the forked child failed:\n{answer}")
        return answer


def fork(function: Callable[[], Any]) -> Child:
    """Fork a child that answers what the function returns."""
    reader, writer = os.pipe()
    with quietly():
        pid = os.fork()
    if pid:
        os.close(writer)
        return Child(pid, reader)
    answer(writer, function)
    raise AssertionError("not reached")


def answer(writer: int, function: Callable[[], Any]) -> None:
    """In a child: write what the function returns, or its error, and end."""
    try:
        said = pickle.dumps((True, function()))
    except BaseException:
        said = pickle.dumps((False, traceback.format_exc()))
    os.write(writer, said)
    os._exit(0)


def in_child(function: Callable[[], Any]) -> Any:
    """What the function returns in a forked child."""
    return fork(function).result()
