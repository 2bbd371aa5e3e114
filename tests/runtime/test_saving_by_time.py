"""What was learned is saved by time: a process that is killed loses at most the jobs of the last minute."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from support.ended import Closed, ended

from llmsched_langgraph import Application, Profile
from llmsched_langgraph._application.application import Node
from llmsched_langgraph._belief.profile import profile as profiles
from llmsched_langgraph._learning import sync
from llmsched_langgraph._learning.learner import Learner
from llmsched_langgraph._learning.stores import DirectoryStore

APPLICATION = Application.of("app", (Node("ask", calls_llm=True),))
PATIENCE_S = 50


class Beside:
    """A background whose work is done, by the clock of the test, when the test says so."""

    clock: SimpleNamespace

    def __init__(self, name, work):
        self.work, self.asked = work, False

    def there_is_work(self):
        self.asked = True

    def do(self):
        """All that was asked for; a wait takes its time at once."""
        while self.asked and self.work():
            pass
        self.asked = False

    def stop(self):
        self.asked = False

    def stopped(self, within_s):
        self.clock.now_s += within_s
        return False


@pytest.fixture
def clock(monkeypatch):
    made = SimpleNamespace(now_s=1000.0)
    monkeypatch.setattr(sync, "time", SimpleNamespace(monotonic=lambda: made.now_s))
    monkeypatch.setattr(Beside, "clock", made, raising=False)
    return made


class Noting:
    """A folder of profiles that notes when it saved what, and takes its time."""

    def __init__(self, folder, clock, takes_s=0.0):
        self.inner, self.clock, self.takes_s = DirectoryStore(folder), clock, takes_s
        self.load, self.load_one = self.inner.load, self.inner.load_one
        self.saved = []
        self.meanwhile = lambda: None

    def save(self, profile):
        self.meanwhile()
        self.clock.now_s += self.takes_s
        kept = self.inner.save(profile)
        self.saved.append((self.clock.now_s, len(kept.history), kept.modelled))
        return kept


def learner(store):
    return Learner(Profile(), lambda *_: None, Beside, store)


def job(number):
    return Closed(ended(APPLICATION, ("ask", 1.0, 10, 5), id=f"j{number}", arrival_s=float(number)))


def test_every_job_is_saved_whether_anything_is_learned_from_it_or_not(tmp_path, clock):
    """A job that leads to no new model, too: the hundredth and the following, say."""
    store = Noting(tmp_path, clock)
    made = learner(store)
    for number in range(100):
        made.observe(job(number))
        made._background.do()
    made._keeper._background.do()
    assert store.saved[-1][1] == 100
    made.observe(job(100))
    assert not made._background.asked
    made._keeper._background.do()
    assert store.saved[-1][1] == 101


def test_a_model_is_saved_though_no_job_is_new(tmp_path, clock):
    """It was learned after the jobs were saved."""
    store = Noting(tmp_path, clock)
    made = learner(store)
    made.observe(job(1))
    made._keeper._background.do()
    made._background.do()
    made._keeper._background.do()
    assert [kept[1:] for kept in store.saved] == [(1, 0), (1, 1)]
    assert store.load().profile.applications[APPLICATION.fingerprint].model is not None
    made._keeper.there_is_news()
    made._keeper._background.do()
    assert len(store.saved) == 2


def test_what_is_forgotten_is_saved_though_no_job_is_new(tmp_path, clock):
    store = Noting(tmp_path, clock)
    made = learner(store)
    for number in range(30):
        made.observe(job(number))
    made.keep()
    own = made.profile.applications[APPLICATION.fingerprint]
    made._forget(own)
    made.keep()
    kept = store.load().profile.applications[APPLICATION.fingerprint]
    assert kept.forgotten_before == made.profile.applications[APPLICATION.fingerprint].forgotten_before > 0


@pytest.mark.parametrize(("takes_s", "apart_s"), [(0.0, 30.0), (1.0, 30.0), (2.0, 40.0), (9.0, 50.0)])
def test_rounds_are_half_a_minute_apart_and_rest_after_long_ones(tmp_path, clock, takes_s, apart_s):
    """The first is at once; none is put off for more than 50 s."""
    store = Noting(tmp_path, clock, takes_s)
    made = learner(store)
    began_s = clock.now_s
    for number in range(4):
        made.observe(job(number))
        made._keeper._background.do()
    times = [at_s - began_s for at_s, *_ in store.saved]
    assert times == [pytest.approx(takes_s + n * (apart_s + takes_s)) for n in range(4)]
    assert [jobs for _, jobs, _ in store.saved] == [1, 2, 3, 4]


@pytest.mark.parametrize("known", [3, 20])
def test_a_job_that_ends_during_a_save_is_in_the_next(tmp_path, clock, monkeypatch, known):
    """Also where a store has counted more jobs than are remembered, so that numbers tell nothing."""
    monkeypatch.setattr(profiles, "HISTORY", 10)
    other = Profile().observe(*(replace(job(n).record, id=f"other{n}") for n in range(40)))
    store = Noting(tmp_path, clock)
    store.inner.save(replace(other.applications[APPLICATION.fingerprint], counted=40))
    made = learner(store)
    for number in range(100, 100 + known):
        made.observe(job(number))
    store.meanwhile = lambda: made.observe(job(200)) if len(store.saved) == 0 else None
    made._keeper._background.do()
    (kept,) = store.load().profile.applications.values()
    assert "j200" in kept.history.ids
    assert len(store.saved) == 2


PROGRAM = """
    import sys, threading
    from llmsched_langgraph import Scheduler
    from llmsched_langgraph._core.events import JobInfo
    from llmsched_langgraph._application.application import Application, Node
    from llmsched_langgraph._jobs.calls import Outcome
    from llmsched_langgraph._learning import sync
    from llmsched_langgraph._runtime.context import inside
    from llmsched_langgraph._runtime.scheduler import start_run

    sync.SAVE_INTERVAL_S = sync.LONGEST_INTERVAL_S = 0.2
    info = JobInfo(application=Application.of("app", (Node("ask", calls_llm=True),)))
    scheduler = Scheduler(2, profiles=sys.argv[1])
    if sys.argv[2] == "runs":
        for _ in range(35):
            job = start_run(scheduler, info)
            with inside(job), scheduler.slot(stage="ask"):
                pass
            job.end(Outcome.FINISHED)
    else:
        for _ in range(35):
            with scheduler.slot(stage="ask"):
                pass
    threading.Event().wait(50)  # a quiet hour: no event comes that could carry anything along
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize("kind", ["runs", "direct"])
def test_a_process_that_is_killed_has_saved_all_but_the_latest(tmp_path, kind):
    """Runs of graphs, and calls outside any."""
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path), kind])
    try:
        until_s = time.monotonic() + PATIENCE_S
        while (jobs := _jobs(tmp_path)) < 35 and time.monotonic() < until_s and process.poll() is None:
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    assert jobs == _jobs(tmp_path) == 35


def _jobs(folder):
    return sum(own.jobs for own in DirectoryStore(folder).load().profile.applications.values())
