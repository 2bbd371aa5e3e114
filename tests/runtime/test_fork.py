"""A forked child has its parent's settings, and none of its calls, jobs, threads and held locks."""

from __future__ import annotations

import functools
import gc
import itertools
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.forks import PATIENCE_S, answer, fork, in_child, needs_fork, quietly
from support.seam import until

from llmsched_langgraph import Application, Backend, QueueTimeoutError, Scheduler, SchedulerClosedError
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._learning import stores
from llmsched_langgraph._learning.stores import DirectoryStore
from llmsched_langgraph._ledger.pauses import Failure
from llmsched_langgraph._runtime.context import CALL, RUN, STAGE, inside, inside_stage
from llmsched_langgraph._runtime.run import StageRun
from llmsched_langgraph._runtime.scheduler import start_run
from llmsched_langgraph.policies import JobInfo
from llmsched_langgraph.traces import read_jobs

pytestmark = needs_fork

INFO = JobInfo(application=Application.of("forked", ["n"]))


def one_call(scheduler):
    """One call; the number that hold slots meanwhile."""
    with scheduler.slot(stage="n"):
        return scheduler.statistics().holding


def one_job(scheduler, calls=1):
    """A run with some calls."""
    run = start_run(scheduler, INFO)
    with inside(run):
        for _ in range(calls):
            one_call(scheduler)
    run.end(Outcome.FINISHED)


def crowd(scheduler, calls=12, threads=4):
    """Calls from several threads at once; whether each was served, and none beyond the limit."""
    before = scheduler.statistics()
    with ThreadPoolExecutor(threads) as pool:
        most = max(pool.map(lambda _: one_call(scheduler), range(calls)))
    scheduler.check()
    now = scheduler.statistics()
    return most <= now.slots and now.granted - before.granted == calls and now.over_commitments == 0


def totals(scheduler):
    now = scheduler.statistics()
    return now.granted, now.released, now.holding, now.waiting, now.peak, now.jobs_running


# -- calls ------------------------------------------------------------------------------


@pytest.mark.parametrize("asks", [one_call, crowd], ids=["one", "several threads"])
def test_a_child_finds_free_slots_while_the_parent_holds_them_all(make_scheduler, spawn, asks):
    """Its ledger is empty, and the parent's holders go on."""
    scheduler, leave = make_scheduler(2), threading.Event()
    held = threading.Semaphore(0)

    def hold():
        with scheduler.slot():
            held.release()
            assert leave.wait(PATIENCE_S)

    holders = [spawn(hold) for _ in range(2)]
    assert all(held.acquire(timeout=PATIENCE_S) for _ in range(2))
    assert in_child(lambda: (totals(scheduler), asks(scheduler))) == ((0, 0, 0, 0, 0, 0), True)
    assert totals(scheduler)[:4] == (2, 0, 2, 0)
    leave.set()
    assert [holder.result(PATIENCE_S) for holder in holders] == [None, None]


def test_calls_that_wait_are_the_parents(make_scheduler, enqueue):
    """In the child nobody waits; in the parent they are served afterwards."""
    scheduler = make_scheduler(1)
    with scheduler.slot():
        waiting = [enqueue(one_call, scheduler) for _ in range(3)]
        child = in_child(lambda: (totals(scheduler), len(scheduler._driver._waiters), crowd(scheduler)))
        assert child == ((0, 0, 0, 0, 0, 0), 0, True)
        assert totals(scheduler)[:4] == (1, 0, 1, 3)
    assert [one.result(PATIENCE_S) for one in waiting] == [1, 1, 1]


def test_a_slot_that_was_held_at_the_fork_is_given_back_by_the_parent_alone(make_scheduler):
    """The frames of the thread that forked go on in the child; there, giving it back changes nothing."""
    scheduler = make_scheduler(1)
    reader, writer = os.pipe()
    with quietly(), scheduler.slot() as slot:
        pid = os.fork()
    if not pid:
        slot.release()
        slot.release(Outcome.FAILED, Failure(429, retry_after_s=100.0))
        answer(writer, lambda: (totals(scheduler), one_call(scheduler), totals(scheduler)))
    os.close(writer)
    assert pickle.loads(os.read(reader, 1 << 16)) == (True, ((0,) * 6, 1, (1, 1, 0, 0, 1, 0)))
    os.close(reader)
    os.waitpid(pid, 0)
    assert totals(scheduler)[:4] == (1, 1, 0, 0)


def test_a_slot_that_is_collected_in_the_child_is_none_of_its_own(make_scheduler):
    scheduler = make_scheduler(1)
    slot = [scheduler.slot()]
    slot[0].acquire()

    def child():
        with scheduler.slot():
            slot.clear()
            gc.collect()
            scheduler.check()
            return totals(scheduler)[:4]

    assert in_child(child) == (1, 0, 1, 0)
    slot[0].release()


def test_the_code_of_the_child_is_outside_the_calls_and_runs_of_its_parent(make_scheduler):
    """A call inside the parent's call takes a slot of its own, and belongs to no run."""
    scheduler, seen = make_scheduler(2), []
    run = start_run(scheduler, INFO)

    def child():
        with scheduler.subscribe(seen.append):
            one_call(scheduler)
        return RUN.get(), STAGE.get(), CALL.get(), [entry.kind for entry in seen]

    with inside(run), scheduler.slot():
        alone = in_child(child)
        assert RUN.get() is run
    run.end(Outcome.FINISHED)
    assert alone == (None, None, None, ["SlotGranted", "CallReleased", "CallClosed"])


@needs_fork
def test_the_door_of_a_child(make_scheduler):
    """Nobody of the parent's stands behind it, or before it."""
    scheduler = make_scheduler(2, max_jobs=1, at_door="defer")
    door = scheduler._door
    held = door.enter(free=False)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(door.enter, free=False)
        until(lambda: door.waiting == 1)

        def child():
            before = door.waiting
            door.enter(free=False).leave()
            held.leave()
            return before, len(door._inside), scheduler.statistics().jobs_refused

        with quietly():
            assert in_child(child) == (0, 0, 0)
        held.leave()
        waiting.result(PATIENCE_S).leave()


def test_a_stage_run_that_was_stopped_in_the_parent_refuses_nothing_in_the_child(make_scheduler):
    scheduler, stage = make_scheduler(1), StageRun("n")
    with inside_stage(stage):
        stage.cancel()
        assert in_child(lambda: one_call(scheduler)) == 1


def test_a_run_that_ends_in_the_child_is_none_of_its_own(make_scheduler):
    """Neither its end nor its interruption, and a call under its mark is a job of its own."""
    scheduler = make_scheduler(1)
    runs = [start_run(scheduler, INFO) for _ in range(3)]
    with inside(runs[0]):
        one_call(scheduler)

    def child():
        with inside(runs[0]):
            one_call(scheduler)
        runs[0].end(Outcome.FINISHED)
        runs[1].end(Outcome.FAILED)
        runs[2].end(Outcome.FINISHED, paused_on="thread")
        one_job(scheduler)
        scheduler.check()
        now = scheduler.statistics()
        return now.granted, now.jobs_running, now.jobs_ended

    assert in_child(child) == (2, 0, 2)
    assert scheduler.statistics().jobs_running == 3
    for run in runs:
        run.end(Outcome.FINISHED)


def test_numbers_go_on(make_scheduler):
    """A number that the parent gave away means nothing else in the child."""
    scheduler, seen = make_scheduler(4), []
    driver = scheduler._driver
    one_job(scheduler, 3)
    one_call(scheduler)
    ticket, job, last = driver.new_ticket(), driver.start_job(INFO), driver._machine.last

    def child():
        with scheduler.subscribe(seen.append):
            one_job(scheduler)
        first = driver.new_ticket(), driver.start_job(INFO)
        return first, min(entry.job for entry in seen), seen[0].number

    first, number, entry = in_child(child)
    assert first > (ticket, job)
    assert (number, entry) > last
    driver.end_job(job, Outcome.FINISHED)


# -- where a fork comes from ------------------------------------------------------------


def test_a_fork_in_a_thread_that_is_not_the_main_one(make_scheduler, spawn):
    scheduler = make_scheduler(1)
    with scheduler.slot():
        assert spawn(in_child, lambda: crowd(scheduler)).result(PATIENCE_S)
        assert totals(scheduler)[:4] == (1, 0, 1, 0)


class Forks:
    """A policy that forks once; `answered` says what the child did."""

    name = "forks"

    def __init__(self):
        self.armed = True
        self.writer = None
        self.reader, self._writer = os.pipe()
        self.child = 0

    def order(self, job, now):
        if self.armed:
            self.armed = False
            with quietly():
                self.child = os.fork()
            if not self.child:
                self.writer = self._writer
        return 0.0

    def answered(self):
        os.close(self._writer)
        done, said = pickle.loads(os.read(self.reader, 1 << 16))
        os.close(self.reader)
        os.waitpid(self.child, 0)
        assert done, said
        return said


def test_a_policy_that_forks(make_scheduler, spawn):
    """The call that it was asked about goes on in both, the child's with a slot of the child."""
    policy, leave = Forks(), threading.Event()
    scheduler = make_scheduler(1, policy=policy)
    held = threading.Event()

    def hold():
        with scheduler.slot():
            held.set()
            assert leave.wait(PATIENCE_S)

    def ask():
        with scheduler.slot():
            if policy.writer is not None:
                answer(policy.writer, lambda: (totals(scheduler), scheduler.check()))
        return "in the parent"

    holder = spawn(hold)
    assert held.wait(PATIENCE_S)
    asking = spawn(ask)
    assert policy.answered() == ((1, 0, 1, 0, 1, 0), None)
    leave.set()
    assert asking.result(PATIENCE_S) == "in the parent"
    assert holder.result(PATIENCE_S) is None


def test_a_policy_that_starts_a_process_which_makes_calls(make_scheduler, spawn):
    """The child's calls do not wait for the decision that its parent is in the middle of."""
    said = []

    class Asks:
        name = "asks"

        def order(self, job, now):
            if not said:
                said.append(None)
                said[0] = in_child(lambda: crowd(scheduler))
            return 0.0

    scheduler = make_scheduler(1, policy=Asks())
    with scheduler.slot():
        waiting = spawn(one_call, scheduler)
        while not said or said[0] is None:
            time.sleep(0.001)
    assert (waiting.result(PATIENCE_S), said) == (1, [True])


def test_an_observer_that_forks(make_scheduler):
    """The call goes on in both, the child's with a slot of the child."""
    scheduler, reader_writer, children = make_scheduler(1), os.pipe(), []

    def observe(entry):
        if entry.kind == "SlotGranted" and not children:
            with quietly():
                children.append(os.fork())

    with scheduler.subscribe(observe):
        one_call(scheduler)
        if not children[0]:
            answer(reader_writer[1], lambda: (totals(scheduler)[:4], crowd(scheduler)))
        os.close(reader_writer[1])
        assert pickle.loads(os.read(reader_writer[0], 1 << 16)) == (True, ((1, 1, 0, 0), True))
    os.close(reader_writer[0])
    os.waitpid(children[0], 0)


def test_a_signal_handler_that_forks_while_the_call_waits():
    """The wait goes on in both; that of the child ends at once, for nobody holds a slot there."""
    program = """
        import os, signal, threading, warnings
        from llmsched_langgraph import Scheduler

        warnings.simplefilter("ignore", DeprecationWarning)
        scheduler, parent, children = Scheduler(1), os.getpid(), []
        signal.signal(signal.SIGUSR1, lambda *_: children.append(os.fork()))
        held, leave = threading.Event(), threading.Event()

        def hold():
            with scheduler.slot():
                held.set()
                leave.wait(20)

        def interrupt():
            while not scheduler.statistics().waiting:
                pass
            os.kill(parent, signal.SIGUSR1)
            while not children:
                pass
            os.waitid(os.P_PID, children[0], os.WEXITED | os.WNOWAIT)
            leave.set()

        threading.Thread(target=hold).start()
        held.wait(20)
        threading.Thread(target=interrupt).start()
        with scheduler.slot():
            if os.getpid() != parent:
                now = scheduler.statistics()
                scheduler.check()
                os._exit(0 if (now.granted, now.holding, now.waiting) == (1, 1, 0) else 3)
            assert leave.is_set(), "the parent's call was served before its turn"
        assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=50)


def test_a_child_of_a_child(make_scheduler):
    """Each has a ledger of its own."""
    scheduler = make_scheduler(1)

    def child():
        with scheduler.slot():
            return in_child(lambda: (totals(scheduler)[:4], crowd(scheduler))), totals(scheduler)[:4]

    with scheduler.slot():
        assert in_child(child) == (((0, 0, 0, 0), True), (1, 0, 1, 0))
        assert totals(scheduler)[:4] == (1, 0, 1, 0)


# -- locks and threads ------------------------------------------------------------------


def locks_of(scheduler):
    """Every lock of the package's modules and of the scheduler's objects, with where it is."""
    found, seen = {}, set()

    def look(owner, path):
        if id(owner) in seen:
            return
        seen.add(id(owner))
        slots = itertools.chain.from_iterable(getattr(cls, "__slots__", ()) for cls in type(owner).__mro__)
        inner = dict(getattr(owner, "__dict__", {})) | {
            name: getattr(owner, name) for name in slots if hasattr(owner, name)
        }
        if isinstance(owner, list | tuple | set | dict):
            values = owner.values() if isinstance(owner, dict) else owner
            inner = {str(n): value for n, value in enumerate(list(values))}
        for name, value in inner.items():
            if type(value).__name__ in ("lock", "RLock"):
                found[f"{path}.{name}"] = value
            elif type(value).__module__.startswith("llmsched_langgraph") or isinstance(
                value, list | tuple | set | dict
            ):
                look(value, f"{path}.{name}")

    for name, module in list(sys.modules.items()):
        if name.startswith("llmsched_langgraph") and module is not None:
            for own, value in list(vars(module).items()):
                if type(value).__name__ in ("lock", "RLock"):
                    found[f"{name}.{own}"] = value
    look(scheduler, "scheduler")
    return found


def test_no_lock_that_a_thread_held_at_the_fork_is_missed(make_scheduler, tmp_path, spawn):
    """All of them are held by another thread; in the child everything works that needs one."""
    path = tmp_path / "jobs.jsonl"
    scheduler = make_scheduler(1, profiles=tmp_path / "profiles", record=path)
    one_job(scheduler)
    scheduler.learn()
    scheduler.subscribe(lambda entry: None)
    locks = locks_of(scheduler)
    names = {name.rpartition(".")[2] for name in locks}
    assert {"_lock", "_starting", "_working", "_reading", "_saving", "_writing", "_tally"} <= names
    assert len(locks) >= 15
    done, held = threading.Event(), threading.Event()

    def hold():
        mine = [lock for lock in locks.values() if lock.acquire(blocking=False)]
        held.set()
        done.wait(PATIENCE_S)
        for lock in mine:
            lock.release()

    holder = spawn(hold)
    assert held.wait(PATIENCE_S)

    def child():
        most = crowd(scheduler)
        one_job(scheduler)
        scheduler.learn()
        scheduler._driver._service.keep()
        scheduler.resize(2)
        with Scheduler(1) as another:
            one_call(another)
        scheduler.close()
        return most, scheduler.statistics().holding, scheduler.profile.jobs(INFO.application.fingerprint)

    try:
        assert in_child(child) == (True, 0, 2)
    finally:
        done.set()
    assert holder.result(PATIENCE_S) is None


def test_the_lock_of_a_decision_that_another_thread_is_in_the_middle_of(make_scheduler, spawn):
    """Its policy takes long; the child's policy is asked anew."""
    parent, asked, go = os.getpid(), threading.Event(), threading.Event()

    class Slow:
        name = "slow"

        def order(self, job, now):
            if os.getpid() == parent:
                asked.set()
                assert go.wait(PATIENCE_S)
            return 0.0

    scheduler = make_scheduler(1, policy=Slow())
    with scheduler.slot():
        waiting = spawn(one_call, scheduler)
        assert asked.wait(PATIENCE_S)
        assert scheduler._driver._lock.locked()
        assert in_child(lambda: crowd(scheduler))
        go.set()
    assert waiting.result(PATIENCE_S) == 1


def test_a_cached_property_that_another_thread_is_computing(spawn):
    """Up to Python 3.11, all instances of its class share a lock."""
    from llmsched_langgraph import Profile

    computing, go = threading.Event(), threading.Event()
    names = [name for name, own in vars(Profile).items() if isinstance(own, functools.cached_property)]
    own = vars(Profile)[names[0]]
    stock = own.func

    def slow(self):
        if threading.current_thread() is not threading.main_thread():
            computing.set()
            assert go.wait(PATIENCE_S)
        return stock(self)

    own.func = slow
    try:
        computed = spawn(getattr, Profile(), names[0])
        assert computing.wait(PATIENCE_S)
        assert in_child(lambda: getattr(Profile(), names[0]) is not None)
        go.set()
        assert computed.result(PATIENCE_S) is not None
    finally:
        own.func = stock


def test_a_pause_ends_in_the_child_by_its_own_timer(make_scheduler):
    """The parent's timer runs in the parent; its pause is the parent's, too."""
    scheduler = make_scheduler(1)

    def pause(seconds):
        slot = scheduler.slot()
        slot.acquire()
        slot.release(Outcome.FAILED, Failure(429, retry_after_s=seconds))

    pause(0.2)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(one_call, scheduler)  # for which the parent's timer runs

        def child():
            pause(0.2)
            return one_call(scheduler), scheduler._driver._timer._thread.is_alive()

        assert in_child(child) == (1, True)
        assert waiting.result(PATIENCE_S) == 1


def test_a_thread_of_a_pool_that_forks_waits_without_that_pool(make_scheduler, spawn):
    """The pool's locks are as locked as they were; nothing of it may be touched in the child."""
    import asyncio

    scheduler = make_scheduler(1)

    def forks(pool, loop):
        def child():
            run = start_run(scheduler, INFO).on(loop)
            with inside(run), ThreadPoolExecutor(1) as own:
                with scheduler.slot():
                    other = own.submit(one_call, scheduler)
                    time.sleep(0.05)
                assert other.result(PATIENCE_S) == 1
                # And this thread, which the child inherits as one of the pool, waits for another one.
                began = threading.Event()

                def hold():
                    with scheduler.slot():
                        began.set()
                        time.sleep(0.05)

                own.submit(hold)
                assert began.wait(PATIENCE_S)
                return one_call(scheduler)

        pool._shutdown_lock.acquire()
        try:
            return in_child(child)
        finally:
            pool._shutdown_lock.release()

    async def main():
        loop = asyncio.get_running_loop()
        pool = ThreadPoolExecutor(2)
        loop.set_default_executor(pool)
        return await loop.run_in_executor(None, forks, pool, loop)

    assert asyncio.run(main()) == 1


# -- settings ---------------------------------------------------------------------------


def test_settings_stay(make_scheduler):
    """Slots as resized, backends, policy, timeouts, the profile as learned so far."""
    scheduler = make_scheduler(
        backends=[Backend("a", 3, ["m"]), Backend("b", 5)], policy="srtf", queue_timeout_s=0.05
    )
    for _ in range(3):
        run = start_run(scheduler, INFO)
        with inside(run), scheduler.slot("m", stage="n"):
            pass
        run.end(Outcome.FINISHED)
    scheduler.resize(1, "a")
    fingerprint = INFO.application.fingerprint
    jobs, policy = scheduler.profile.jobs(fingerprint), scheduler._driver.policy

    def child():
        now = scheduler.statistics()
        same = scheduler._driver.policy is policy, scheduler.profile.jobs(fingerprint)
        with scheduler.slot("m"), ThreadPoolExecutor(1) as pool:
            late = pool.submit(lambda: scheduler.slot("m").acquire()).exception(PATIENCE_S)
        return same, now.policy, [(own.name, own.slots) for own in now.backends], type(late)

    assert in_child(child) == ((True, jobs), "srtf", [("a", 1), ("b", 5)], QueueTimeoutError)


def test_a_change_of_settings_that_waits_for_a_decision_is_made_in_the_child(make_scheduler, spawn):
    parent, asked, go = os.getpid(), threading.Event(), threading.Event()

    class Slow:
        name = "slow"

        def order(self, job, now):
            if os.getpid() == parent:
                asked.set()
                assert go.wait(PATIENCE_S)
            return 0.0

    scheduler = make_scheduler(1, policy=Slow())
    with scheduler.slot():
        waiting = spawn(one_call, scheduler)
        assert asked.wait(PATIENCE_S)
        scheduler.resize(3)  # the thread in the decision will do it
        assert in_child(lambda: (crowd(scheduler, 20, 6), scheduler.statistics().slots)) == (True, 3)
        go.set()
    assert waiting.result(PATIENCE_S) >= 1
    assert scheduler.statistics().slots == 3


def test_a_closed_scheduler_stays_closed(make_scheduler):
    scheduler = make_scheduler(1)
    scheduler.close()

    def child():
        with pytest.raises(SchedulerClosedError):
            one_call(scheduler)
        with pytest.raises(SchedulerClosedError):
            start_run(scheduler, INFO)

    in_child(child)


def test_closing_in_the_child_is_not_closing_in_the_parent(make_scheduler, enqueue):
    scheduler = make_scheduler(1)
    with scheduler.slot():
        waiting = enqueue(one_call, scheduler)
        in_child(scheduler.close)
    assert waiting.result(PATIENCE_S) == 1


def test_observers_stay_and_see_what_their_own_process_does(make_scheduler):
    """In order and complete, from the fork on."""
    scheduler, seen = make_scheduler(1), []
    subscription = scheduler.subscribe(seen.append)
    one_job(scheduler)
    before = [entry.number for entry in seen]

    def child():
        seen.clear()
        one_job(scheduler)
        numbers = [entry.number for entry in seen]
        subscription.close()
        one_job(scheduler)
        return numbers, len(seen), subscription.missed, [entry.kind for entry in seen]

    numbers, count, missed, kinds = in_child(child)
    assert numbers == list(range(before[-1] + 1, before[-1] + 1 + len(numbers)))
    assert (count, missed) == (len(numbers), 0)
    assert kinds == [entry.kind for entry in seen]
    one_job(scheduler)
    assert [entry.number for entry in seen] == list(range(1, len(seen) + 1))
    subscription.close()


# -- what is stored ---------------------------------------------------------------------


def test_each_process_records_its_own_jobs_once(make_scheduler, tmp_path, monkeypatch):
    """Also those that the parent had not written at the fork."""
    path = tmp_path / "jobs.jsonl"
    scheduler = make_scheduler(2, record=path)
    recorder = scheduler._driver._service._recorder
    monkeypatch.setattr(recorder._background, "there_is_work", lambda: None)
    for _ in range(3):
        one_job(scheduler)

    def child():
        for _ in range(2):
            one_job(scheduler)
        scheduler._driver._service.keep()

    children = [fork(child) for _ in range(3)]
    for each in children:
        each.result()
    assert len({job.id for job in read_jobs(path)}) == 6
    scheduler._driver._service.keep()
    jobs = list(read_jobs(path))
    assert len(jobs) == len({job.id for job in jobs}) == 9


def test_processes_that_end_as_programs_do_write_what_is_theirs(tmp_path):
    """A child that is not killed, and its parent: at the end of each, also if the child never ran a job."""
    program = """
        import os, sys, warnings
        from llmsched_langgraph import Scheduler
        from llmsched_langgraph._application.application import Application
        from llmsched_langgraph._core.events import JobInfo
        from llmsched_langgraph._jobs.calls import Outcome
        from llmsched_langgraph._observe import recorder
        from llmsched_langgraph._runtime.context import inside
        from llmsched_langgraph._runtime.scheduler import start_run

        warnings.simplefilter("ignore", DeprecationWarning)
        recorder.Background.there_is_work = lambda self: None  # nothing is written before the end
        scheduler = Scheduler(1, record=sys.argv[1], profiles=sys.argv[2])

        def job():
            run = start_run(scheduler, JobInfo(application=Application.of("forked", ["n"])))
            with inside(run), scheduler.slot(stage="n"):
                pass
            run.end(Outcome.FINISHED)

        job()
        job()
        children = []
        for jobs in (0, 3):
            children.append(os.fork())
            if not children[-1]:
                for _ in range(jobs):
                    job()
                raise SystemExit(jobs)
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 3]
    """
    path = tmp_path / "jobs.jsonl"
    arguments = [sys.executable, "-c", textwrap.dedent(program), str(path), str(tmp_path / "profiles")]
    subprocess.run(arguments, check=True, timeout=50)
    assert len({job.id for job in read_jobs(path)}) == len(list(read_jobs(path))) == 5
    profile = DirectoryStore(tmp_path / "profiles").load().profile
    assert profile.jobs(INFO.application.fingerprint) == 5


def test_profiles_of_parent_and_children_meet_in_the_store(make_scheduler, tmp_path):
    """No job is lost, and none counts twice."""
    scheduler = make_scheduler(2, profiles=tmp_path)
    for _ in range(4):
        one_job(scheduler)
    scheduler.learn()
    for _ in range(3):
        one_job(scheduler)  # not saved at the fork
    scheduler.check()

    def child():
        for _ in range(5):
            one_job(scheduler)
        scheduler.learn()
        return scheduler.profile.jobs(INFO.application.fingerprint)

    assert in_child(child) == 12
    assert in_child(child) == 17
    scheduler.learn()
    assert DirectoryStore(tmp_path).load().profile.jobs(INFO.application.fingerprint) == 17


def test_learning_goes_on_in_the_child(make_scheduler):
    """In a thread of its own, from its first run on."""
    scheduler = make_scheduler(2)
    fingerprint = INFO.application.fingerprint

    def child():
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            one_job(scheduler)
            known = scheduler._driver._machine.profile.applications.get(fingerprint)
            if known is not None and known.model is not None:
                return True
            time.sleep(0.01)
        return False

    one_job(scheduler)
    assert in_child(child)


def test_a_store_that_was_not_read_at_the_fork_is_read_in_the_child(make_scheduler, tmp_path, monkeypatch):
    """As under a server that imports the application and forks its workers at once."""
    with Scheduler(1, profiles=tmp_path) as before:
        for _ in range(4):
            one_job(before)
        before.learn()
    reading, go, parent = threading.Event(), threading.Event(), os.getpid()
    load = DirectoryStore.load

    def slow(self):
        if os.getpid() == parent:
            reading.set()
            assert go.wait(PATIENCE_S)
        return load(self)

    monkeypatch.setattr(DirectoryStore, "load", slow)
    scheduler = make_scheduler(1, profiles=tmp_path)
    assert reading.wait(PATIENCE_S)

    def child():
        start_run(scheduler, INFO)
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            if scheduler._driver._machine.profile.jobs(INFO.application.fingerprint) == 4:
                return True
            time.sleep(0.01)
        return False

    assert in_child(child)
    go.set()


def test_a_child_does_not_keep_the_stores_file_locked(tmp_path, spawn):
    """It inherits the descriptor of a save in progress, and may live for long."""
    pytest.importorskip("fcntl")
    saving, go = threading.Event(), threading.Event()

    def save():
        with stores._locked(tmp_path / "lock"):
            saving.set()
            assert go.wait(PATIENCE_S)

    first = spawn(save)
    assert saving.wait(PATIENCE_S)
    leave, stay = os.pipe()
    child = fork(lambda: os.read(leave, 1))
    go.set()
    assert first.result(PATIENCE_S) is None
    assert spawn(save).result(PATIENCE_S) is None
    os.write(stay, b"x")
    assert child.result() == b"x"
    os.close(leave)
    os.close(stay)


# -- all at once ------------------------------------------------------------------------


def test_forks_in_the_middle_of_everything(make_scheduler, tmp_path):
    """Threads that ask, wait, run and end jobs, while processes are forked off that do the same."""
    scheduler = make_scheduler(2, record=tmp_path / "jobs.jsonl", profiles=tmp_path / "profiles")
    over = threading.Event()

    def busy():
        while not over.is_set():
            one_job(scheduler, 2)

    def child():
        one_job(scheduler, 3)
        return crowd(scheduler, 8, 3)

    workers = [threading.Thread(target=busy) for _ in range(4)]
    for worker in workers:
        worker.start()
    try:
        assert all(in_child(child) for _ in range(12))
    finally:
        over.set()
        for worker in workers:
            worker.join(PATIENCE_S)
    scheduler.check()


def test_a_killed_child_costs_the_parent_nothing(make_scheduler):
    scheduler = make_scheduler(1)
    with quietly(), scheduler.slot():
        pid = os.fork()
        if not pid:
            scheduler.slot().acquire()
            signal.pause()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert one_call(scheduler) == 1


def test_where_there_is_no_fork_nothing_is_registered():
    """As on Windows."""
    program = """
        import os
        del os.register_at_fork, os.fork
        from llmsched_langgraph import Scheduler
        with Scheduler(1) as scheduler, scheduler.slot():
            pass
    """
    # The standard library's modules look for the name as well; some are imported before it is gone.
    program = "import concurrent.futures.thread, logging, random, threading, asyncio, ssl, uuid\n" + (
        textwrap.dedent(program)
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=50)


def test_a_fork_while_a_thread_of_the_package_starts():
    """`Thread.start` waits until the thread runs, which never happens in the child."""
    program = """
        import os, sys, threading, warnings
        from llmsched_langgraph import Scheduler

        warnings.simplefilter("ignore", DeprecationWarning)
        sys.setswitchinterval(30)  # the new thread does not run before the fork
        scheduler, children, wait = Scheduler(1), [], threading.Event.wait
        held, leave = threading.Event(), threading.Event()

        def hold():
            with scheduler.slot():
                held.set()
                leave.wait(20)

        def forks(event, timeout=None):
            if threading.current_thread() is threading.main_thread() and not children:
                assert not event.is_set()
                children.append(os.fork())
                leave.set()
            return wait(event, timeout)

        threading.Thread(target=hold).start()
        held.wait(20)
        threading.Event.wait = forks
        with scheduler.slot():  # the wait starts a thread
            if children == [0]:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=50)
