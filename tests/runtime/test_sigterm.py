"""SIGTERM: what was learned and recorded is saved, and what SIGTERM did before comes after."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from llmsched_langgraph import Application, ConfigurationError, Scheduler
from llmsched_langgraph._application.application import Node
from llmsched_langgraph._learning.stores import DirectoryStore
from llmsched_langgraph._runtime import sigterm
from llmsched_langgraph._runtime.sigterm import SigtermSaver
from llmsched_langgraph.traces import read_jobs

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")

APPLICATION = Application.of("app", (Node("ask", calls_llm=True),))
PATIENCE_S = 50

PROGRAM = """
    import asyncio, os, signal, sys, threading, time
    from llmsched_langgraph import Scheduler
    from llmsched_langgraph._application.application import Application, Node
    from llmsched_langgraph._core.events import JobInfo
    from llmsched_langgraph._jobs.calls import Outcome
    from llmsched_langgraph._learning import stores, sync
    from llmsched_langgraph._runtime import sigterm
    from llmsched_langgraph._runtime.context import inside
    from llmsched_langgraph._runtime.scheduler import start_run

    folder = sys.argv[1]
    info = JobInfo(application=Application.of("app", (Node("ask", calls_llm=True),)))
    sync.SAVE_INTERVAL_S = sync.LONGEST_INTERVAL_S = 1e6  # nothing is saved by time

    def run(scheduler, times):
        for _ in range(times):
            job = start_run(scheduler, info)
            with inside(job), scheduler.slot(stage="ask"):
                pass
            job.end(Outcome.FINISHED)

    def new(**more):
        scheduler = Scheduler(2, profiles=folder, save_on_sigterm=True, **more)
        run(scheduler, 1)
        while not stores.DirectoryStore(folder).load().profile.applications:  # the first round is at once
            time.sleep(0.01)
        run(scheduler, 29)
        return scheduler

    def ready():
        print("ready", flush=True)
"""


class Program:
    """A process that runs 30 jobs, of which it saved one, and then does what it is told."""

    def __init__(self, folder, end):
        code = textwrap.dedent(PROGRAM) + textwrap.dedent(end)
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def terminate(self, times=1):
        """Send SIGTERM when it is ready; return its status, its output, and how many jobs it saved."""
        line = self.process.stdout.readline()
        for _ in range(times):
            self.process.terminate()
        status, out, err, jobs = self.ended()
        assert line == "ready\n", err
        return status, out, err, jobs

    def ended(self):
        try:
            out, err = self.process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            pytest.fail("it did not end: " + "".join(self.process.communicate()))
        return self.process.returncode, out, err, saved(self.folder)


def saved(folder):
    return DirectoryStore(folder).load().profile.jobs(APPLICATION.fingerprint)


@pytest.mark.parametrize(
    "wait",
    [
        "threading.Event().wait(20)",
        "time.sleep(20)",
        "while True: pass",
        "asyncio.run(asyncio.sleep(20))",
        "run(scheduler, 10**9)",
        "kept = [scheduler.slot() for _ in range(3)]; [slot.acquire() for slot in kept]",
        "while True: scheduler.learn()",
    ],
)
def test_the_process_ends_by_the_signal(tmp_path, wait):
    """Wherever the main thread is; as without the scheduler, but for what was learned."""
    status, _, err, jobs = Program(tmp_path, f"scheduler = new()\nready()\n{wait}").terminate()
    assert (status, err) == (-signal.SIGTERM, "")
    assert jobs >= 30


def test_without_it_nothing_is_saved(tmp_path):
    """What the other tests measure against."""
    end = """
        def Scheduler(*args, save_on_sigterm, made=Scheduler, **more):
            return made(*args, **more)

        scheduler = new()
        ready()
        time.sleep(20)
    """
    status, _, _, jobs = Program(tmp_path, end).terminate()
    assert (status, jobs) == (-signal.SIGTERM, 1)


def test_many_signals_are_one(tmp_path):
    """A supervisor sends it to the process and to its group, or asks again."""
    end = """
        save = stores.DirectoryStore.save
        stores.DirectoryStore.save = lambda *args: (time.sleep(0.3), save(*args))[1]
        scheduler = new()
        ready()
        time.sleep(20)
    """
    status, _, err, jobs = Program(tmp_path, end).terminate(times=20)
    assert (status, err, jobs) == (-signal.SIGTERM, "", 30)


def test_all_schedulers_save_also_what_they_recorded(tmp_path):
    """The queue of the recorder too, whose thread was not at it yet."""
    end = """
        os.mkdir(folder + "/other")
        scheduler = new(record=folder + "/jobs.jsonl")
        folder += "/other"
        other = new()
        scheduler._driver._service._recorder._background.stop()
        run(scheduler, 5)
        ready()
        time.sleep(20)
    """
    status, _, _, jobs = Program(tmp_path, end).terminate()
    assert (status, jobs, saved(tmp_path / "other")) == (-signal.SIGTERM, 35, 30)
    assert len(list(read_jobs(tmp_path / "jobs.jsonl"))) == 35


@pytest.mark.parametrize(
    ("before", "status"),
    [
        ("lambda number, frame: (print('before', number), sys.exit(7))", 7),
        ("lambda number, frame: (print('before', number, flush=True), os._exit(8))", 8),
        ("lambda number, frame: (print('before', number), raising(number))", 1),
    ],
)
def test_the_earlier_handler_is_called_after_it(tmp_path, before, status):
    """Whatever it does: one that raises raises where the signal came, as ever."""
    end = f"""
        def raising(number):
            raise ValueError(number)

        signal.signal(signal.SIGTERM, {before})
        scheduler = new()
        ready()
        time.sleep(20)
    """
    code, out, err, jobs = Program(tmp_path, end).terminate()
    assert (code, out, jobs) == (status, "before 15\n", 30)
    assert ("ValueError: 15" in err) is (status == 1)


def test_a_process_that_ignores_the_signal_goes_on(tmp_path):
    """And saves at each one."""
    end = """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        scheduler = new()
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
            print(stores.DirectoryStore(folder).load().profile.jobs(info.application.fingerprint), flush=True)
            run(scheduler, 5)
        ready()
        os._exit(5)
    """
    status, out, err, jobs = Program(tmp_path, end).ended()
    assert (status, out, err, jobs) == (5, "30\n35\nready\n", "", 35)


@pytest.mark.parametrize("first", ["scheduler", "loop"])
def test_a_handler_of_an_event_loop_is_called_once(tmp_path, first):
    """`loop.add_signal_handler` before the scheduler was there, or after: then its end saves."""
    end = f"""
        async def main():
            stopped, calls = asyncio.Event(), []

            def stop():
                calls.append(1)
                stopped.set()

            loop = asyncio.get_running_loop()
            steps = [lambda: loop.add_signal_handler(signal.SIGTERM, stop), lambda: kept.append(new())]
            for step in steps if {first == "loop"} else steps[::-1]:
                step()
            ready()
            await stopped.wait()
            await asyncio.sleep(0.5)  # nothing comes later
            print(len(calls), flush=True)

        kept = []
        asyncio.run(main())
    """
    status, out, _, jobs = Program(tmp_path, end).terminate()
    assert (status, out, jobs) == (0, "1\n", 30)


def test_uvicorn_shuts_down_as_ever(tmp_path):
    """It takes the signal, answers what is in flight, and raises the signal again for those before it."""
    pytest.importorskip("uvicorn")
    end = """
        import uvicorn

        async def app(scope, receive, send):
            assert scope["type"] == "lifespan"
            while True:
                kind = (await receive())["type"]
                if kind == "lifespan.startup":
                    threading.Timer(0.2, ready).start()
                else:
                    print(kind, flush=True)
                await send({"type": kind + ".complete"})
                if kind == "lifespan.shutdown":
                    return

        scheduler = new()
        uvicorn.run(app, port=0, log_level="error")
    """
    status, out, _, jobs = Program(tmp_path, end).terminate()
    assert (status, out, jobs) == (-signal.SIGTERM, "lifespan.shutdown\n", 30)


@pytest.mark.parametrize("lock", ["learner._lock", "learner._keeper._saving", "_recorder._writing"])
def test_a_lock_that_the_main_thread_holds_is_no_deadlock(tmp_path, lock):
    """The signal came inside the package: the handler gives up its wait, and all is saved after it."""
    end = f"""
        sigterm.WAIT_S = 0.2
        scheduler = new(record=folder + "/jobs.jsonl")
        service = scheduler._driver._service
        with service.{lock}:
            ready()
            threading.Timer(2, print, ["released"], dict(flush=True)).start()
            time.sleep(2)
        time.sleep(20)
    """
    status, _, err, jobs = Program(tmp_path, end).terminate()
    assert (status, err, jobs) == (-signal.SIGTERM, "", 30)


def test_a_signal_that_interrupts_nothing_is_repeated(tmp_path):
    """As one that comes just before a blocking system call: its handler runs when that call returns."""
    end = """
        sigterm.WAIT_S, lost = 0.1, []
        raise_it, signal.pthread_kill = signal.pthread_kill, lambda *args: (
            raise_it(*args) if len(lost) == 3 else lost.append(args)
        )
        scheduler = new()
        with scheduler._driver._service.learner._lock:
            ready()
            time.sleep(1)
        threading.Event().wait()
    """
    status, _, err, jobs = Program(tmp_path, end).terminate()
    assert (status, err, jobs) == (-signal.SIGTERM, "", 30)


def test_a_lock_of_threading_is_no_deadlock(tmp_path):
    """It is held for a moment whenever a thread starts; `Thread.start` in the handler would never return."""
    end = """
        sigterm.WAIT_S, sigterm.LIMIT_S = 0.2, 0.2
        scheduler = new()
        with threading._active_limbo_lock:
            ready()
            time.sleep(20)
    """
    status, _, _, _ = Program(tmp_path, end).terminate()
    assert status == -signal.SIGTERM


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise ValueError", "time.sleep(20)"])
def test_a_store_that_hangs_puts_the_end_off_for_a_time(tmp_path, end):
    """And the process ends by the signal, though the program came to its end meanwhile."""
    code = """
        sigterm.WAIT_S, sigterm.LIMIT_S = 0.1, 1.0
        scheduler = new()
        stores.DirectoryStore.save = lambda *_: threading.Event().wait()
        ready()
        try:
            time.sleep(20)
        finally:
            pass
    """.replace(
        "time.sleep(20)", "began = time.monotonic()\n            while time.monotonic() < began + 0.5: pass"
    )
    status, *_ = Program(tmp_path, textwrap.dedent(code) + end).terminate()
    assert status == -signal.SIGTERM


def test_handlers_over_each_other(tmp_path):
    """The scheduler's, a foreign one that calls it, the scheduler's again: each is called once."""
    end = """
        first = new()
        before = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda *args: (print("foreign", flush=True), before(*args)))
        second = Scheduler(2, record=folder + "/jobs.jsonl", save_on_sigterm=True)
        assert signal.getsignal(signal.SIGTERM) is not before
        ready()
        time.sleep(20)
    """
    status, out, err, jobs = Program(tmp_path, end).terminate()
    assert (status, out, err, jobs) == (-signal.SIGTERM, "foreign\n", "", 30)


def test_a_forked_child_saves_its_own(tmp_path):
    """Though the fork came while the parent was saving."""
    end = """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        scheduler = new()
        sigterm.SAVER._done, sigterm.SAVER._process = sigterm.allocate_lock(), os.getpid()
        there, here = os.pipe()
        with scheduler._driver._service.learner._lock:  # no other thread holds it in the child for ever
            child = os.fork()
        if not child:
            os.write(here, b"x")
            time.sleep(20)
            os._exit(9)
        sigterm.SAVER.finish()
        os.read(there, 1)  # a signal that comes while a process forks is lost to Python's handlers
        os.kill(child, signal.SIGTERM)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        os._exit(0)
    """
    status, out, _, jobs = Program(tmp_path, end).ended()
    assert (status, out) == (0, "-15\n")
    assert jobs == 30


def test_elsewhere_than_in_the_main_thread_it_is_told(tmp_path, caplog):
    """Python installs handlers there alone; the scheduler itself works."""
    before = signal.getsignal(signal.SIGTERM)
    made = []
    with caplog.at_level(logging.WARNING, "llmsched_langgraph"):
        thread = threading.Thread(
            target=lambda: made.append(Scheduler(1, profiles=tmp_path, save_on_sigterm=True))
        )
        thread.start()
        thread.join(PATIENCE_S)
    made[0].close()
    assert signal.getsignal(signal.SIGTERM) is before
    (message,) = (record.getMessage() for record in caplog.records)
    assert message.startswith("save_on_sigterm has no effect: create the Scheduler in the main thread")


def test_without_anything_to_save_it_is_refused():
    with pytest.raises(ConfigurationError, match="save_on_sigterm saves what profiles and record name"):
        Scheduler(1, save_on_sigterm=True)


def test_where_no_thread_can_be_started_the_process_ends_at_once(monkeypatch):
    """Without anything saved; never with an error out of the handler."""

    def refuse(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(sigterm, "start_new_thread", refuse)
    saver = SigtermSaver()
    assert saver.save(10.0)
    assert not saver.postpone()


def test_what_is_gone_is_not_kept_alive(tmp_path):
    class Kept:
        def save(self):
            raise AssertionError("nobody is there")

    saver = SigtermSaver()
    before = signal.getsignal(signal.SIGTERM)
    try:
        for _ in range(3):
            saver.watch(Kept())
        assert len(saver._watched) == 1
        assert saver.save(10.0)
    finally:
        signal.signal(signal.SIGTERM, before)
