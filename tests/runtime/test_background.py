"""Work beside the calls: it is done, once, in a thread that goes when there is none left."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
import threading

import pytest

from llmsched_langgraph import _background as background
from llmsched_langgraph._background import Background

PATIENCE_S = 20


def test_all_that_was_brought_is_done():
    """Piece by piece, in a daemon thread of that name."""
    left, done, names = [3], threading.Event(), set()

    def work():
        if not left[0]:
            done.set()
            return False
        left[0] -= 1
        names.add((threading.current_thread().name, threading.current_thread().daemon))
        return True

    beside = Background("helper", work)
    beside.there_is_work()
    assert done.wait(PATIENCE_S)
    assert left == [0]
    assert names == {("helper", True)}
    beside.stop()
    assert beside.join(PATIENCE_S)


def test_it_ends_by_itself_and_begins_again(monkeypatch):
    """Without work there is no thread, and nobody has to say so."""
    monkeypatch.setattr(background, "IDLE_S", 0.01)
    done: list[threading.Thread] = []
    turn = threading.Semaphore(0)

    def work():
        done.append(threading.current_thread())
        turn.release()
        return False

    beside = Background("helper", work)
    for times in (1, 2, 3):
        beside.there_is_work()
        assert turn.acquire(timeout=PATIENCE_S)
        done[-1].join(PATIENCE_S)
        assert not done[-1].is_alive()
        assert len(done) == times


def test_a_thread_that_ends_before_its_start_returns(monkeypatch):
    """It is not taken for one that sees what is brought afterwards."""

    class Quick(threading.Thread):
        def start(self):
            super().start()
            self.join(PATIENCE_S)

    monkeypatch.setattr(background, "IDLE_S", 0.0)
    beside = Background("helper", lambda: False)
    monkeypatch.setattr(threading, "Thread", Quick)
    beside.there_is_work()
    assert beside._thread is None


def test_a_thread_that_is_about_to_start_is_not_waited_for(monkeypatch):
    """It finds that it was stopped, and does nothing."""
    ended, done = [], []

    class Late(threading.Thread):
        def start(self):
            beside.stop()
            ended.append(beside.join(PATIENCE_S))
            super().start()
            self.join(PATIENCE_S)

    beside = Background("helper", lambda: done.append(True))
    monkeypatch.setattr(threading, "Thread", Late)
    beside.there_is_work()
    assert (ended, done) == ([True], [])


def test_no_sign_is_lost(monkeypatch):
    """However it falls together with the thread's end: what was brought is done in the end."""
    monkeypatch.setattr(background, "IDLE_S", 0.0)
    brought, done = [0], threading.Event()
    seen = [0]

    def work():
        seen[0] = brought[0]
        if brought[0] == 300:
            done.set()
        return False

    beside = Background("helper", work)
    for _ in range(300):
        brought[0] += 1
        beside.there_is_work()
    assert done.wait(PATIENCE_S)
    assert seen == [300]


def test_a_failure_is_told_and_ends_nothing(caplog):
    """Whatever is wrong with the work, scheduling goes on, and so does the next piece."""
    outcomes = iter((ValueError("my bug"), None))
    done = threading.Semaphore(0)

    def work():
        try:
            if (error := next(outcomes)) is not None:
                raise error
        finally:
            done.release()
        return False

    beside = Background("helper", work)
    with caplog.at_level(logging.ERROR, "llmsched_langgraph"):
        beside.there_is_work()
        assert done.acquire(timeout=PATIENCE_S)
        beside.there_is_work()
        assert done.acquire(timeout=PATIENCE_S)
    beside.stop()
    assert beside.join(PATIENCE_S)
    (record,) = caplog.records
    assert "helper failed; scheduling continues without it" in record.getMessage()
    assert record.exc_info is not None


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread")])
def test_where_there_can_be_no_thread_there_is_none(monkeypatch, error):
    """An interpreter that goes down has no threads to give; nobody is told off for it."""

    def refuse(self):
        raise error

    monkeypatch.setattr(threading.Thread, "start", refuse)
    beside = Background("helper", lambda: False)
    beside.there_is_work()
    assert beside.join()


def test_pieces_never_overlap():
    """Not even if a thread that was about to end has seen a sign of work, as well as the one begun since."""
    inside, turn, go = [0], threading.Semaphore(0), threading.Semaphore(0)
    most = [0]

    def work():
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        turn.release()
        assert go.acquire(timeout=PATIENCE_S)
        inside[0] -= 1
        return False

    beside = Background("helper", work)
    beside.there_is_work()
    assert turn.acquire(timeout=PATIENCE_S)
    beside._thread = None  # as a thread leaves it that found nothing to do
    beside.there_is_work()
    assert not turn.acquire(timeout=0.05)
    go.release(2)
    assert turn.acquire(timeout=PATIENCE_S)
    assert most == [1]
    beside.stop()
    assert beside.join(PATIENCE_S)


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="no forks here")
def test_a_forked_process_does_work_though_the_fork_came_in_the_middle_of_a_piece():
    """As under a server that forks its workers: the thread that works stays behind, and its lock with it."""
    program = """
        import os, threading, warnings
        from llmsched_langgraph._background import Background

        warnings.simplefilter("ignore", DeprecationWarning)  # of forks while there are threads: so it is
        parent, began, go = os.getpid(), threading.Event(), threading.Event()
        done = threading.Event()

        def work():
            if os.getpid() == parent:
                began.set()
                go.wait(20)
            else:
                done.set()
            return False

        beside = Background("helper", work)
        beside.there_is_work()
        assert began.wait(20)
        child = os.fork()
        if not child:
            beside.there_is_work()
            os._exit(0 if done.wait(10) else 3)
        go.set()
        raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=50)


def test_after_the_end_nothing_is_begun():
    """Stopped is stopped."""
    beside = Background("helper", lambda: pytest.fail("it was stopped"))
    beside.stop()
    beside.there_is_work()
    assert beside.join(PATIENCE_S)
