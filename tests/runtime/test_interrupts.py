"""Whatever is broken off at whatever line, the next event finds everything true, and nothing is lost."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import threading
import time
from contextvars import copy_context
from functools import cache

import pytest
from support.applications import app
from support.interrupts import PATIENCE_S, Bench, Broken, break_everywhere, swallowing, until
from support.profiles import TEMPLATE
from support.profiles import profile as fan_profile

from llmsched_langgraph import Application, Backend, Budget, OverloadedError, Profile, SchedulerClosedError
from llmsched_langgraph._adapter.job import Job
from llmsched_langgraph._core import lifecycle as lifecycle_module
from llmsched_langgraph._core.budgets import Limits
from llmsched_langgraph._core.events import (
    BeliefFormed,
    CallDismissed,
    JobPaused,
    ProfileLearned,
    StagesChanged,
    Ticked,
)
from llmsched_langgraph._jobs.calls import UNKNOWN_USAGE, Outcome, Usage
from llmsched_langgraph._jobs.stages import Began, Ended, Revealed
from llmsched_langgraph._ledger.pauses import Failure
from llmsched_langgraph._runtime import driver as driver_module
from llmsched_langgraph._runtime import slot as slot_module
from llmsched_langgraph._runtime import timer as timer_module
from llmsched_langgraph._runtime.attempt import Attempt
from llmsched_langgraph._runtime.context import inside, inside_stage
from llmsched_langgraph._runtime.door import Door
from llmsched_langgraph._runtime.limits import limit_of
from llmsched_langgraph._runtime.run import StageRun
from llmsched_langgraph._runtime.scheduler import start_run
from llmsched_langgraph._runtime.streams import ahold, hold
from llmsched_langgraph._runtime.waiter import ThreadWaiter
from llmsched_langgraph.errors import CallCancelledError, QueueTimeoutError
from llmsched_langgraph.policies import Exploration, JobInfo, Needs

SCENES = {}


def scene(make):
    SCENES[make.__name__] = make
    return make


class Policy:
    """An order of service that is one function of the test."""

    def __init__(self, order, name="of the test", needs=Needs.NOTHING, exploration=None):
        self.name, self.function, self.needs = name, order, needs
        if exploration is not None:
            self.exploration = exploration

    def order(self, job, now):
        return self.function(job, now)


class Nothing:
    """A meter that looks at nothing."""

    def see(self, item):
        pass

    def usage(self):
        return UNKNOWN_USAGE


# -- free slots ---------------------------------------------------------------------------


@scene
def free_slot():
    bench = Bench(slots=2)

    def operation():
        with bench.scheduler.slot(stage="s") as slot:
            slot.usage = Usage(1, 2)

    return bench, operation


@scene
def free_slot_on_a_loop():
    bench = Bench(slots=2)

    async def call():
        async with bench.scheduler.slot(stage="s"):
            pass

    def operation():
        with pytest.raises(StopIteration):
            call().send(None)

    return bench, operation


@scene
def free_slot_in_a_job():
    bench = Bench("plas", slots=2)
    application = Application.of("app", ["a", "b"])
    stage = StageRun("a")

    def operation():
        run = start_run(bench.scheduler, JobInfo(application=application))
        run.seen.stage_events.append(Revealed(((stage.number, "a"),), begun=True))
        with inside(run), inside_stage(stage), bench.scheduler.slot(stage="a"):
            bench.now += 1.0
        run.seen.stage_events.append(Ended(stage.number, 1.0))
        run.tell()
        run.end(Outcome.FINISHED)

    return bench, operation


@scene
def free_slot_in_a_job_without_observers():
    bench = Bench("plas", slots=2, watched=False)
    application = Application.of("app", ["a"])

    def operation():
        quiet = start_run(bench.scheduler, JobInfo(application=application))
        run = start_run(bench.scheduler, JobInfo(application=application))
        with inside(run), bench.scheduler.slot(stage="a"):
            bench.now += 1.0
        run.end(Outcome.FINISHED)
        quiet.end(Outcome.FINISHED)
        bench.scheduler.statistics()

    return bench, operation


@scene
def forced_slot():
    bench = Bench("fair")
    bench.ask(1)

    def operation():
        bench.ask(2, forced=True)
        bench.release(1)

    return bench, operation


# -- decisions ----------------------------------------------------------------------------


@scene
def requests_contend():
    bench = Bench("plas")
    for job in (1, 2):
        bench.job(job, app("app"))
    bench.ask(1, 1)

    def operation():
        bench.ask(2, 2)
        bench.now += 1.0
        bench.ask(3, 1, "a")
        bench.ask(4)

    return bench, operation


@scene
def releases_grant():
    bench = Bench("fair", slots=2)
    for job in (1, 2):
        bench.job(job, app("app"))
    for ticket in range(1, 7):
        bench.ask(ticket, ticket % 2 + 1, "ab"[ticket % 3 == 0])

    def operation():
        bench.now += 1.0
        bench.release(1, usage=Usage(5, 7))
        bench.release(2, outcome=Outcome.FAILED)

    return bench, operation


@scene
def waiting_calls_give_up():
    bench = Bench("fair")
    for job in (1, 2):
        bench.job(job, app("app"))
    for ticket in range(1, 5):
        bench.ask(ticket, ticket % 2 + 1)
    bench.ask(5)

    def operation():
        bench.release(3, 5, outcome=Outcome.CANCELLED)
        bench.release(2)

    return bench, operation


@scene
def waiting_calls_are_dismissed():
    bench = Bench("fair")
    bench.job(1, app("app"))
    for ticket in (1, 2, 3):
        bench.ask(ticket, 1)
    bench.ask(4)

    def operation():
        for ticket in (1, 3):
            bench.post(CallDismissed(ticket))

    return bench, operation


@scene
def backend_is_resized():
    bench = Bench("fair")
    for ticket in (1, 2, 3):
        bench.ask(ticket)

    def operation():
        for slots in (2, 1):
            bench.scheduler.resize(slots)

    return bench, operation


@scene
def backend_is_paused():
    bench = Bench("fair", backends=[Backend("default", 1), Backend("other", 1, models=("m",))])
    for ticket in (1, 2):
        bench.ask(ticket)
    bench.ask(4, backend="other")
    bench.ask(5, backend="other")

    def later():
        bench.now += 10.0
        bench.post(Ticked())
        bench.check()

    bench.after = later

    def operation():
        bench.release(1, failure=Failure(429, 5.0))
        bench.release(4)
        bench.now += 6.0
        bench.post(Ticked())
        bench.driver.tick()

    return bench, operation


@scene
def pools_share_a_job():
    bench = Bench("fair", backends=[Backend("default", 1), Backend("other", 1, models=("m",))])
    bench.job(1, app("app"))
    bench.ask(1, 1)

    def operation():
        bench.ask(2, 1, "a", backend="other")
        bench.ask(3, 1, "a")
        bench.release(1)

    return bench, operation


# -- policies -----------------------------------------------------------------------------


def failing(order):
    """Two jobs under a policy that fails, and calls that wait; each event is posted until it is in."""
    bench = Bench(Policy(order), also=[order])
    bench.job(1, app("app"))
    bench.job(2, app("app"))
    bench.ask(1, 1)

    def stubbornly(verb, *arguments):
        for _ in range(driver_module.TRIES + 1):
            try:
                verb(*arguments)
                return
            except SystemExit:
                verb, arguments = bench.driver.pump, ()

    post = bench.driver.post
    release = bench.driver.release
    bench.driver.post = lambda event: stubbornly(post, event)
    bench.driver.release = lambda *given, **how: stubbornly(lambda: release(*given, **how))

    def operation():
        bench.ask(2, 2)
        bench.release(1)

    return bench, operation


@scene
def policy_raises():
    def order(job, now):
        raise ValueError("policy")

    return failing(order)


@scene
def policy_gives_no_number():
    def order(job, now):
        return float("nan")

    return failing(order)


@scene
def policy_exits():
    def order(job, now):
        raise SystemExit("policy")

    return failing(order)


@scene
def policy_that_hears():
    bench = Bench("justitia")
    bench.job(1, app("a"))

    def operation():
        bench.ask(1, 1)
        bench.job(2, app("b"))
        bench.ask(2, 2)
        bench.release(1)
        bench.driver.end_job(1, Outcome.FINISHED)
        bench.driver.look()

    return bench, operation


class Believed:
    """A belief by hand."""

    mean = median = index = after = 5.0
    expected = {}

    def __init__(self, bounds, gains):
        self.bounds, self.gains = bounds, gains

    def uncertainty_reduction(self, stage_occurrence):
        return self.gains[stage_occurrence.path]


@scene
def grants_explore():
    policy = Policy(
        lambda job, now: job.remaining_s, needs=Needs.MEAN | Needs.GAIN, exploration=Exploration(1.0, 1.0)
    )
    bench = Bench(policy, also=[policy.function, Believed.uncertainty_reduction])
    for job in (1, 2):
        bench.job(job, app("app"))
    for ticket in range(1, 7):
        bench.ask(ticket, ticket % 2 + 1, "ab"[ticket > 3])
    for job in (1, 2):
        bench.post(BeliefFormed(job, Believed((0.0, 9.0 + job), {"a": 1.0 * job, "b": 2.0})))

    def operation():
        bench.now += 1.0
        bench.release(1)

    return bench, operation


# -- beliefs and learning -----------------------------------------------------------------


@cache
def learned():
    """What is known of jobs that fan out, with a model; and of some more of them."""
    return tuple(Profile().having(fan_profile(range(jobs), modelled=jobs)) for jobs in (12, 15))


def fanning(policy):
    """A job that has planned and fans out, with calls that wait and moves that were not heard of."""
    bench = Bench(policy, profile=learned()[0], threads=True)
    stage_events = [Revealed(((1, "split"),), begun=True)]
    bench.job(1, TEMPLATE, stage_events=stage_events)
    bench.ask(1, 1, "split", run=1)
    bench.now += 1.0
    bench.release(1, usage=Usage(100, 40))
    stage_events += [Ended(1, 1.0), Revealed(((2, "map"), (3, "map"), (4, "map")))]
    return bench, stage_events


@scene
def belief_is_wanted():
    bench, stage_events = fanning("srtf")

    def operation():
        for run in (2, 3):
            bench.ask(run, 1, "map", run=run)
        stage_events.extend([Began(2), Began(3), Ended(2, 1.0)])
        bench.post(StagesChanged(1))

    def wanted():
        told = [entry for entry in bench.seen if entry.kind == "BeliefWanted"]
        bench.driver.look()
        if told:
            assert bench.driver._service.belief_former._wanted[1] is told[-1].detail, "a belief is not formed"

    bench.after = wanted
    return bench, operation


@scene
def belief_is_formed():
    bench, _ = fanning("gittins")
    for run in (2, 3, 4):
        bench.ask(run, 1, "map", run=run)
    wanted = next(entry.detail for entry in reversed(bench.driver.story()) if entry.kind == "BeliefWanted")
    belief = wanted.belief()
    _ = belief.mean, belief.index, belief.expected, belief.after

    def operation():
        bench.post(BeliefFormed(1, belief))
        bench.now += 1.0
        bench.release(2)

    return bench, operation


@scene
def profile_is_learned():
    bench, _ = fanning("llmsched")
    bench.job(2, app("other"))
    for run in (2, 3, 4):
        bench.ask(run, 1, "map", run=run)
    newer = learned()[1]

    def operation():
        bench.post(ProfileLearned(newer, frozenset([TEMPLATE.fingerprint])))
        bench.release(2)

    return bench, operation


@scene
def jobs_are_learned_from():
    bench = Bench("plas", threads=True, record=os.devnull)
    bench.job(1, app("app"))
    bench.ask(1, 1, "a")

    def operation():
        bench.now += 1.0
        bench.release(1)
        bench.driver.end_job(1, Outcome.FINISHED)
        bench.driver.look()
        with bench.scheduler.slot(stage="s"):
            bench.now += 1.0
        bench.driver.look()

    def taught():
        bench.driver.look()
        information = {
            entry.job
            for entry in bench.driver.story()
            if (entry.kind == "CallClosed" and entry.detail.call.outcome is Outcome.FINISHED)
            or (entry.kind == "JobClosed" and entry.detail.outcome is Outcome.FINISHED)
        }
        recorder = bench.driver._service._recorder
        recorder._taken = 0
        recorded = [int(job.record.id.rsplit("-", 1)[1]) for job in recorder._fresh(list(recorder._jobs))]
        assert sorted(recorded) == sorted(information)
        profile = bench.scheduler.profile
        assert sum(own.jobs for own in profile.applications.values()) == len(information)
        assert {
            int(job.id.rsplit("-", 1)[1]) for own in profile.applications.values() for job in own.history.jobs
        } == information
        for name in profile.applications:
            due = bench.driver._service.learner._due[name]
            assert due > 0 or bench.driver._service.learner._background._wake.qsize(), "no sign of work"

    bench.after = taught
    return bench, operation


# -- jobs ---------------------------------------------------------------------------------


@scene
def job_lives():
    bench = Bench("plas", slots=2)
    application = Application.of("app", ["a", "b"])
    stage_events = [Revealed(((1, "a"),))]
    more = [Revealed(((1, "a"),), begun=True)]

    def operation():
        bench.job(1, application, stage_events=stage_events)
        bench.ask(1, 1, "a", run=1)
        stage_events.append(Ended(1, 1.0, False, True))
        bench.release(1)
        bench.post(JobPaused(1, "thread"))
        bench.now += 5.0
        bench.job(2, application, resumes="thread", stage_events=more)
        bench.ask(2, 2, "a", run=1)
        bench.ask(3, 2, "b")
        bench.driver.end_job(2, Outcome.FINISHED)
        bench.release(2, 3)

    def resumed():
        told = [entry.kind for entry in bench.driver.story()]
        if "JobResumed" in told:
            assert told.count("JobArrived") == 1 + ("CallClosed" in told), "the job began anew"

    bench.after = resumed
    return bench, operation


@scene
def paused_jobs_are_forgotten():
    bench = Bench("plas")
    application = app("app")
    bench.job(2, application)
    bench.post(JobPaused(2, "thread 2"))
    bench.job(1, application)
    bench.ask(1, 1)

    def operation():
        bench.post(JobPaused(1, "thread 1"))
        bench.job(3, application)
        bench.post(JobPaused(3, "thread 3"))
        bench.job(4, application, resumes="thread 1")
        bench.job(5, application, resumes="thread 3")
        bench.post(JobPaused(5, "thread 3"))
        bench.post(JobPaused(4, "thread 3"))

    def few():
        assert len(bench.paused()) <= lifecycle_module.PAUSED_JOBS, "more jobs are remembered than should be"

    bench.after = few
    return bench, operation


@scene
def job_ends_before_its_calls():
    bench = Bench("fair")
    for job in (1, 2):
        bench.job(job, app("app"))
    for ticket in (1, 2, 3):
        bench.ask(ticket, ticket % 2 + 1)

    def operation():
        bench.driver.end_job(2, Outcome.FINISHED)
        bench.driver.end_job(1, Outcome.FAILED)
        bench.driver.look()
        bench.release(2, 1)

    return bench, operation


@scene
def moves_are_heard_of():
    bench = Bench("plas")
    application = Application.of("app", ["a", "b"])
    stage_events = []
    bench.job(1, application, stage_events=stage_events)
    bench.ask(1)
    bench.ask(2, 1, "a")

    def operation():
        stage_events.extend([Revealed(((1, "a"), (2, "a"), (3, "x"))), Began(1), Began(2)])
        bench.post(StagesChanged(1))
        bench.ask(3, 1, "a", run=2)
        stage_events.extend([Revealed(((5, "y"),), around=1), Ended(1, 2.0), Ended(2, 1.0, False, True)])
        bench.post(StagesChanged(1))
        stage_events.append(Revealed(((4, "b"),), tools=("t",)))
        bench.ask(4, 1, "b", run=4)

    return bench, operation


# -- observers ----------------------------------------------------------------------------


@scene
def observers():
    seen = []

    def watches(entry):
        seen.append(entry.number)

    def fails(entry):
        raise ValueError("observer")

    def posts(entry):
        if entry.kind == "SlotGranted":
            bench.driver.post(Ticked())

    bench = Bench("fair", also=[watches, fails, posts])
    for see in (watches, fails, posts):
        bench.scheduler.subscribe(see)

    def operation():
        bench.ask(1)
        with bench.scheduler.subscribe(watches):
            bench.release(1)

    def all_seen():
        for subscription in bench.driver._subscriptions:
            subscription.catch_up()
            assert subscription.missed == 0
        assert sorted(set(seen)) == list(range(bench.first, bench.machine.story.last + 1))

    bench.after = all_seen
    return bench, operation


@scene
def observer_exits():
    def exits(entry):
        if entry.kind == "CallQueued":
            raise SystemExit("observer")

    bench = Bench("fair", also=[exits])
    bench.scheduler.subscribe(exits)
    post = bench.driver.post

    def stubbornly(event):
        for _ in range(driver_module.TRIES + 1):
            try:
                post(event)
                bench.driver._deliver()
                return
            except SystemExit:
                event = Ticked()

    bench.driver.post = stubbornly

    def operation():
        bench.ask(1)
        bench.ask(2)
        bench.release(1)

    return bench, operation


@scene
def look_from_outside():
    bench = Bench("fair")
    bench.job(1, app("app"))
    bench.ask(1, 1)
    bench.ask(2)

    def operation():
        bench.scheduler.check()
        bench.scheduler.statistics()
        bench.driver.story(1)
        _ = bench.scheduler.profile
        repr(bench.scheduler)

    return bench, operation


# -- finalisers ---------------------------------------------------------------------------


@scene
def slot_dies():
    bench = Bench()
    box = [bench.scheduler.slot()]
    box[0].acquire()
    bench.ask(100)

    def operation():
        box.clear()
        bench.post(Ticked())

    def dead():
        box.clear()
        bench.post(Ticked())
        assert bench.wakers[100].woken

    bench.after = dead
    return bench, operation


@scene
def slot_dies_in_a_cycle():
    bench = Bench()
    box = [bench.scheduler.slot()]
    box[0].acquire()
    box[0].usage = box
    bench.ask(100)

    def operation():
        box.clear()
        gc.collect()
        bench.post(Ticked())

    cycle = [box[0]]
    box.append(cycle)
    cycle.append(cycle)
    del cycle

    def dead():
        box.clear()
        gc.collect()
        bench.post(Ticked())
        assert bench.wakers[100].woken

    bench.after = dead
    return bench, operation


@scene
def slot_dies_in_a_decision():
    box = []

    def order(job, now):
        box.clear()
        return 0.0

    bench = Bench(Policy(order), slots=2, also=[order])
    box.append(bench.scheduler.slot())
    box[0].acquire()
    bench.job(1, app("app"))
    bench.ask(100)

    def operation():
        bench.ask(101, 1)
        bench.ask(102, 1)

    def dead():
        box.clear()
        bench.post(Ticked())
        assert bench.driver.backends["default"].holding <= 2

    bench.after = dead
    return bench, operation


# -- threads that wait --------------------------------------------------------------------


def prompted(bench, then):
    """Let a thread that is about to block do something first, so that it can be woken at once."""

    class Prompted(ThreadWaiter):
        __slots__ = ()

        def wait(self, timeout_s):
            then()
            return super().wait(timeout_s)

    slot_module.ThreadWaiter = Prompted


@pytest.fixture(autouse=True)
def plain_waiters():
    yield
    slot_module.ThreadWaiter = ThreadWaiter


@scene
def thread_waits():
    bench = Bench()
    bench.ask(100)
    prompted(bench, lambda: bench.release(100))

    def operation():
        with bench.scheduler.slot(stage="s"):
            pass

    return bench, operation


@scene
def thread_waits_in_a_stage():
    bench = Bench("fair", timeout_s=60.0)
    bench.ask(100)
    prompted(bench, lambda: bench.release(100))
    stage = StageRun("a", StageRun("outer"), idle_timeout_s=30.0, heartbeat=lambda: None)

    def operation():
        run = start_run(bench.scheduler, JobInfo(application=app("app")))
        with inside(run), inside_stage(stage), bench.scheduler.slot(stage="s"):
            pass
        run.end(Outcome.FINISHED)

    def forgotten():
        assert not bench.driver._waiters.keys() - {100}

    bench.after = forgotten
    return bench, operation


@scene
def thread_waits_too_long():
    bench = Bench(timeout_s=1e-9)
    bench.ask(100)

    def operation():
        with pytest.raises(QueueTimeoutError), bench.scheduler.slot():
            pass

    return bench, operation


@scene
def thread_waits_for_a_stage_that_is_cancelled():
    bench = Bench()
    bench.ask(100)
    stage = StageRun("a")
    prompted(bench, stage.cancel)

    def operation():
        with pytest.raises(CallCancelledError), inside_stage(stage), bench.scheduler.slot():
            pass
        with pytest.raises(CallCancelledError), inside_stage(stage), bench.scheduler.slot():
            pass

    return bench, operation


@scene
def thread_waits_in_a_run_that_is_cancelled():
    bench = Bench("fair")
    bench.ask(100)
    outer = start_run(bench.scheduler, JobInfo(application=app("app")))
    with inside(outer):
        run = start_run(Bench().scheduler, JobInfo(application=app("app")))
    prompted(bench, outer.scope.cancel)

    def operation():
        with pytest.raises(CallCancelledError), inside(run), bench.scheduler.slot(stage="s"):
            pass
        with pytest.raises(CallCancelledError), inside(run), bench.scheduler.slot(stage="s"):
            pass
        outer.end(Outcome.CANCELLED)

    def forgotten():
        assert not bench.driver._waiters.keys() - {100}

    bench.after = forgotten
    return bench, operation


@scene
def run_ends_while_its_threads_wait():
    """They are all dismissed, and the job is over, whatever comes over the thread that ends it."""
    bench = Bench("fair", also=[Job.end, Job._end, Job.stop])
    bench.ask(100)
    run = start_run(bench.scheduler, JobInfo(application=app("app")))
    refused = threading.Semaphore(0)

    def wait():
        try:
            with inside(run), bench.scheduler.slot():
                pass
        except CallCancelledError:
            refused.release()

    threads = [threading.Thread(target=wait, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: len(run.scope.waiting) == bench.driver.backends["default"].waiting == 3, "no wait")
    job = Job(run, None, None, breakpoints=False)
    job.break_off(GeneratorExit())
    box = [job]
    del job

    def operation():
        box.pop().end()

    settle = bench.settle

    def over():
        box.clear()
        for thread in threads:
            assert refused.acquire(timeout=PATIENCE_S), "a thread was not dismissed"
            thread.join(PATIENCE_S)
        assert not run.scope.waiting
        bench.driver.look()
        assert bench.driver.jobs == 0
        settle()

    bench.settle = over
    return bench, operation


@scene
def scheduler_is_closed():
    bench = Bench()
    bench.ask(100)
    prompted(bench, bench.scheduler.close)

    def operation():
        with pytest.raises(SchedulerClosedError), bench.scheduler.slot():
            pass
        with pytest.raises(SchedulerClosedError), bench.scheduler.slot():
            pass

    def open_again():
        bench.driver._closed = False

    bench.after = open_again
    return bench, operation


def limited(bench, limits):
    """The limit of a run that has made one call, which held its slot for a second."""
    run = start_run(bench.scheduler, JobInfo(application=TEMPLATE))
    with inside(run), bench.scheduler.slot(stage="s"):
        bench.now += 1.0
    names = {"graph": "app"}
    return limit_of(bench.scheduler, run.job, limits, since_s=None, names=names, whole=True)


@scene
def a_run_looks_at_its_limit():
    """It is told that the limit is reached, then or later, and the story has it once or not at all."""
    bench = Bench("srtf", profile=learned()[0])
    limit = limited(bench, Limits(Budget(calls=1)))

    def over():
        assert limit.stops()
        assert limit.landed.spent.calls == 1
        assert sum(entry.kind == "LimitReached" for entry in bench.driver.story()) <= 1

    bench.after = over
    return bench, limit.stops


@scene
def a_run_looks_at_a_limit_far_away():
    bench = Bench("srtf", profile=learned()[0])
    limit = limited(bench, Limits(Budget(calls=100), 100.0))

    def over():
        assert not limit.stops()
        assert limit.look(forecast=False).spent.slot_s == 1.0

    bench.after = over
    return bench, limit.stops


@scene
def a_run_enters_and_leaves():
    """No place behind the door is lost."""
    bench = Bench()
    door = bench.scheduler._door = Door(bench.driver, 1, None, "refuse", None)

    def operation():
        door.enter(free=False).leave()
        first = door.enter(free=True)
        with pytest.raises(OverloadedError):
            door.enter(free=False)
        first.leave()

    def over():
        gc.collect()
        assert not door._inside
        assert not door._queue
        door.enter(free=False).leave()

    bench.after = over
    return bench, operation


@scene
def another_thread_waits():
    """The thread is woken though nothing happens any more: by the timer, if need be."""
    bench = Bench()
    slot = bench.scheduler.slot()
    slot.acquire()
    got = threading.Event()

    def wait():
        with bench.scheduler.slot():
            got.set()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    deadline_s = time.monotonic() + PATIENCE_S
    while not bench.driver.backends["default"].waiting and time.monotonic() < deadline_s:
        time.sleep(0.0002)
    box = [slot]
    del slot

    def operation():
        box.pop().release()

    settle = bench.settle

    def woken():
        box.clear()
        assert got.wait(PATIENCE_S), "the thread was not woken"
        thread.join(PATIENCE_S)
        settle()

    bench.settle = woken
    return bench, operation


# -- coroutines that wait -----------------------------------------------------------------


def on_a_loop(bench, main):
    """Run `main` on a loop of its own; what breaks it off is raised here, once all its tasks are gone."""

    def operation():
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)
        try:
            loop.run_until_complete(asyncio.wait_for(main(), PATIENCE_S))
        finally:
            loop.close()

    return bench, operation


@scene
def coroutines_wait():
    bench = Bench()
    done = []

    async def call(number):
        try:
            async with bench.scheduler.slot():
                await asyncio.sleep(0)
        except Broken:
            return  # a task that kept it would keep the slot with it, for as long as it is kept itself
        done.append(number)

    async def main():
        await asyncio.gather(*(call(number) for number in range(2)), return_exceptions=True)

    def others_went_on():
        assert done, "a coroutine was not woken"

    bench.after = others_went_on
    return on_a_loop(bench, main)


@scene
def coroutines_give_up():
    bench = Bench(timeout_s=60.0)
    bench.ask(100)
    done = []

    async def call():
        try:
            async with bench.scheduler.slot():
                await asyncio.sleep(0)
        except Broken:
            return
        done.append(None)

    async def main():
        calls = [asyncio.ensure_future(call()) for _ in range(2)]
        await asyncio.sleep(0)
        calls[0].cancel()
        try:
            bench.release(100)
        except Broken:
            bench.release(100)
        await asyncio.gather(*calls, return_exceptions=True)

    return on_a_loop(bench, main)


@scene
def loop_is_closed_under_its_coroutines():
    bench = Bench()
    bench.ask(100)

    async def call():
        async with bench.scheduler.slot():
            pass

    def operation():
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)
        try:
            task = loop.create_task(call())
            loop.run_until_complete(asyncio.sleep(0))
        finally:
            loop.close()
        bench.release(100)
        del task

    return bench, operation


# -- streams and threads that take over ---------------------------------------------------


@scene
def stream():
    bench = Bench("fair")

    def operation():
        assert list(hold(bench.scheduler.slot(), lambda: iter("ab"), Nothing())) == ["a", "b"]
        items = hold(bench.scheduler.slot(), lambda: iter("ab"), Nothing())
        next(items)
        items.close()

    return bench, operation


@scene
def stream_on_a_loop():
    bench = Bench("fair")

    async def items():
        for item in "ab":
            yield item

    async def main():
        assert [item async for item in ahold(bench.scheduler.slot(), items, Nothing())] == ["a", "b"]
        given_up = ahold(bench.scheduler.slot(), items, Nothing())
        await anext(given_up)
        await given_up.aclose()

    return on_a_loop(bench, main)


@scene
def slot_is_taken_over():
    bench = Bench("fair")

    def operation():
        with bench.scheduler.slot() as outer:
            with bench.scheduler.slot() as inner:
                assert (outer.held, inner.held) == (False, True)
            assert outer.held

    return bench, operation


def modelled(bench):
    call = bench.scheduler.slot()
    call.model = object()
    return call


@scene
def attempts_of_a_call():
    bench = Bench("fair")

    def operation():
        with modelled(bench) as call:
            attempt = Attempt(call)
            attempt.ensure()
            attempt.give_back(Failure(500))
            attempt.ensure()
            attempt.hand_back()
            attempt.ensure()
            attempt.keep(list)
            call.usage = Usage(1, 2)

    return bench, operation


@scene
def attempts_on_a_loop():
    bench = Bench("fair")

    async def main():
        async def aclose():
            pass

        async with modelled(bench) as call:
            attempt = Attempt(call)
            await attempt.aensure()
            attempt.give_back(Failure(500))
            await attempt.aensure()
            attempt.keep(None, aclose)

    return on_a_loop(bench, main)


@scene
def a_call_is_abandoned():
    bench = Bench("fair")

    def operation():
        with modelled(bench) as outer:
            inner = modelled(bench)
            inner.acquire()
            with inner.inside():
                attempt = Attempt(inner)
                attempt.ensure()
                attempt.keep(list)
                outer.end(Outcome.CANCELLED)
            assert not attempt.held

    return bench, operation


@scene
def plain_verbs():
    bench = Bench("fair")

    def operation():
        slot = bench.scheduler.slot()
        slot.acquire()
        with slot.inside(), slot.pause():
            slot.leave_open()
        slot.give_back()
        slot.end(Outcome.FAILED)

    return bench, operation


WITH_CYCLES = {
    "attempts_of_a_call",
    "attempts_on_a_loop",
    "a_call_is_abandoned",
    "slot_dies_in_a_cycle",
    "coroutines_wait",
    "coroutines_give_up",
    "loop_is_closed_under_its_coroutines",
    "stream_on_a_loop",
}


@pytest.fixture
def small_heap():
    """What the tests before have left in memory is not looked at by the collector, which runs often here."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.timeout(300)  # a scene takes seconds, on a machine that does nothing else
@pytest.mark.usefixtures("small_heap")
@pytest.mark.parametrize("name", SCENES)
def test_a_break_at_any_line(name, monkeypatch):
    """Broken off at each line in turn: nothing is lost, and nothing is done twice."""
    monkeypatch.setattr(driver_module, "BEAT_S", 0.01)
    monkeypatch.setattr(timer_module, "BEAT_S", 0.01)
    monkeypatch.setattr(lifecycle_module, "PAUSED_JOBS", 1)
    points, failures = break_everywhere(SCENES[name], collect=gc.collect if name in WITH_CYCLES else None)
    assert points > 30
    assert not failures, f"{len(failures)} of {points}: {failures}"


# -- real signals -------------------------------------------------------------------------


class Bell:
    """Signals that raise `Broken` in this thread, one at a time and after a random delay."""

    def __init__(self, seed):
        self.chance = random.Random(seed)
        self.armed, self.came = False, 0

    def ring(self, number, frame):
        if self.armed:
            self.armed = False
            self.came += 1
            raise Broken

    def during(self, work):
        """Run the work until a signal breaks it off, or that was swallowed by a finaliser."""
        try:
            self._until_rung(work)
        except Broken:
            pass

    def _until_rung(self, work):
        # In a function of its own: CPython 3.13 does not cover a loop's way back by the `try` around it.
        self.armed = True
        signal.setitimer(signal.ITIMER_REAL, self.chance.uniform(2e-5, 4e-4))
        while self.armed:
            copy_context().run(work)  # a mark that is broken off stays in its context


@pytest.fixture
def bell():
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        pytest.skip("signals come to the main thread, and not on every system")
    bell = Bell(7)
    before = signal.signal(signal.SIGALRM, bell.ring)
    with swallowing():
        yield bell
        signal.setitimer(signal.ITIMER_REAL, 0.0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.timeout(120, method="thread")  # the other method has the alarm to itself
def test_signals_that_raise(bell):
    """What benchmarks/signals.py does ten thousand times, on a scheduler of its own each time."""
    while bell.came < 300:
        bench = Bench("plas", slots=2)
        run = start_run(bench.scheduler, JobInfo(application=app("app")))
        with inside(run):

            def work(bench=bench):
                with bench.scheduler.slot(stage="s"):
                    pass

            bell.during(work)
        run.end(Outcome.CANCELLED)
        bench.settle()
        bench.end()


@pytest.mark.timeout(120, method="thread")
def test_signals_while_others_wait(bell):
    """Two more threads want the only slot: they get it, whatever comes over this one."""
    bench, stop, calls = Bench("fair"), threading.Event(), [0, 0]

    def work(number):
        while not stop.is_set():
            with bench.scheduler.slot():
                calls[number] += 1

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(2)]
    for thread in threads:
        thread.start()

    def take():
        with bench.scheduler.slot():
            pass

    while bell.came < 200:
        bell.during(take)
    before = list(calls)
    deadline_s = time.monotonic() + PATIENCE_S
    while any(now == then for now, then in zip(calls, before, strict=True)) and time.monotonic() < deadline_s:
        time.sleep(0.001)
    stop.set()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "a thread was left waiting"
    assert all(now > then for now, then in zip(calls, before, strict=True))
    bench.settle()
    bench.driver.look()
    bench.nothing_is_left()
