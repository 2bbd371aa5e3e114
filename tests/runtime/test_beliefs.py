"""Beliefs and learning beside the calls: what they lead to, and that no grant ever waits for them."""

from __future__ import annotations

import itertools
import logging
import threading
from dataclasses import replace

import pytest
from support.ended import Closed, ended

from llmsched_langgraph import Application, Backend, Profile
from llmsched_langgraph._application.application import Node
from llmsched_langgraph._belief.fit.models import learn
from llmsched_langgraph._belief.model.evidence import JobEvidence
from llmsched_langgraph._belief.model.model import ApplicationModel
from llmsched_langgraph._core.events import CallRequested
from llmsched_langgraph._core.policies import as_policy
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._jobs.stages import Ended, Revealed
from llmsched_langgraph._learning import learner as learning
from llmsched_langgraph._learning.learner import Learner
from llmsched_langgraph._learning.stores import DirectoryStore
from llmsched_langgraph._ledger.exploration import in_order
from llmsched_langgraph._runtime.context import inside
from llmsched_langgraph._runtime.driver import Driver
from llmsched_langgraph._runtime.scheduler import start_run
from llmsched_langgraph.policies import POLICIES, JobInfo, Needs

PATIENCE_S = 20
APPLICATION = Application.of(
    "two", (Node("plan", calls_llm=True), Node("work", calls_llm=True)), (("plan", "work"),)
)
INFO = JobInfo(application=APPLICATION)
BELIEVING = [name for name in POLICIES if getattr(as_policy(name), "needs", Needs.NOTHING)]


class Beside:
    """Work that is done when the test says so."""

    def __init__(self, name, work):
        self.name, self.work, self.asked = name, work, 0

    def there_is_work(self):
        self.asked += 1

    def do(self):
        while self.asked and self.work():
            pass
        self.asked = 0

    def stop(self):
        self.asked = 0

    def stopped(self, within_s):
        return False


class Waiting:
    """Notes its ticket when that has its slot."""

    error = None

    def __init__(self, driver, log, ticket):
        self.driver, self.log, self.ticket = driver, log, ticket

    def wake(self):
        assert self.driver.outcome(self.ticket, self)
        self.driver.told(self.ticket)
        self.log.append(self.ticket)
        return True


def request(driver, log, stage, job=None, run=None):
    """The ticket of a call, which goes into the log when it has its slot."""
    ticket = driver.new_ticket()
    if driver.request(CallRequested(ticket, "b", stage, job, False, run)):
        log.append(ticket)
    else:
        driver.register(ticket, Waiting(driver, log, ticket))
    return ticket


def line(driver):
    """The jobs that wait at the backend, in the order in which they would be served."""
    ledger = driver._ledger
    line = ("b", 0, "")
    lanes = in_order(ledger._lines.ranks[line], line, ledger._committed.get, ledger._first)
    return [job for _, (_, job, _), _, _ in lanes]


def job(plan_s, work_s, application=APPLICATION, **changes):
    """A job that planned so long, and worked so long."""
    return ended(
        application,
        ("plan", plan_s, 10, 10),
        ("work", work_s, 10, 10),
        runs=(("plan", 1, plan_s), ("work", 1, work_s)),
        **{"jct_s": plan_s + work_s, **changes},
    )


def profiled(*records):
    """A profile with models."""
    profile = Profile().observe(*records)
    for name, own in profile.applications.items():
        profile = profile.learned(name, learn(own.template, own.outcomes, correlated=True), own.jobs)
    return profile


TOLD = [job(plan_s, 10.0 * plan_s) for plan_s in (1.0, 1.1, 3.0, 3.1)] * 10


@pytest.mark.parametrize("policy", BELIEVING)
def test_no_grant_waits_for_an_inference(monkeypatch, policy):
    """With a thousand jobs in flight and inference that never ends, calls come and go as fast as ever."""
    stuck, entered = threading.Event(), threading.Event()

    def endless(self, evidence):
        entered.set()
        stuck.wait()
        raise AssertionError("nobody waits for this")

    profile = profiled(*TOLD)
    monkeypatch.setattr(ApplicationModel, "belief", endless)
    log: list[int] = []
    driver = Driver([Backend("b", 4)], as_policy(policy), profile=profile)
    jobs = [driver.start_job(INFO) for _ in range(1_000)]
    tickets = [request(driver, log, "plan", job) for job in jobs]
    assert entered.wait(PATIENCE_S), "no belief was asked for"
    assert log == tickets[:4]
    for ticket in tickets:
        driver.release(ticket)
    assert sorted(log) == tickets
    driver.check()
    stuck.set()
    driver.close()


def test_a_belief_moves_its_job():
    """What a plan took tells what is left: of two jobs alike but for that, the shorter one goes first."""
    log: list[int] = []
    now = [0.0]
    driver = Driver([Backend("b", 1)], as_policy("srtf"), profile=profiled(*TOLD), clock=lambda: now[0])
    beside = Beside("beliefs", driver._service.belief_former._form_one)
    driver._service.belief_former._background = beside
    jobs = {}
    for run, plan_s in enumerate((3.0, 1.0), 1):
        stage_events = []
        job = driver.start_job(INFO, seen=stage_events)
        jobs[job] = stage_events
        stage_events.append(Revealed(((run, "plan"),), begun=True))
        ticket = request(driver, log, "plan", job, run)
        now[0] += plan_s
        driver.release(ticket)
        stage_events.append(Ended(run, plan_s))
        driver.move_stages(job)
    held = request(driver, log, "other")
    waiting = []
    for run, (job, stage_events) in enumerate(jobs.items(), 10):
        stage_events.append(Revealed(((run, "work"),), begun=True))
        driver.move_stages(job)
        waiting.append(request(driver, log, "work", job, run))
    assert line(driver) == [1, 2]
    beside.do()
    assert line(driver) == [2, 1]
    driver.release(held)
    assert log[-1] == waiting[1]
    for ticket in reversed(waiting):
        driver.release(ticket)
    assert log[-1] == waiting[0]
    driver.check()


def learner(profile=None):
    """A learner whose background is the test, and what it published."""
    published: list[tuple[Profile, frozenset[str]]] = []
    made = Learner(profile or Profile(), lambda *news: published.append(news), Beside)
    return made, published


def test_each_of_the_first_jobs_is_learned_from_then_each_eighth():
    """O(log n) models for n jobs, and none is lost on the way."""
    made, published = learner()
    learned = []
    for number in range(1, 19):
        made.observe(Closed(job(1.0, 2.0)))
        before = len(published)
        made._background.do()
        if len(published) > before:
            learned.append(number)
    assert learned == [*range(1, 17), 18]
    assert made.profile.jobs(APPLICATION.fingerprint) == 18


def test_a_job_of_a_new_application_ends_while_others_are_learned_from():
    """It is learned from now, or in the next turn."""
    made, published = learner()
    other = Application.of("other", APPLICATION.nodes, APPLICATION.edges)

    class Due(dict):
        def items(self):
            if other.fingerprint not in self:
                made.observe(Closed(replace(job(1.0, 2.0), app="other", template=other)))
            return super().items()

    made._due = Due()
    made.observe(Closed(job(1.0, 2.0)))
    made._background.do()
    made._background.do()
    assert {name for _, names in published for name in names} == {APPLICATION.fingerprint, other.fingerprint}


def test_jobs_that_teach_nothing_are_not_learned_from():
    """A run that failed, or made no call."""
    made, published = learner()
    made.observe(Closed(job(1.0, 2.0, end="failed")))
    made.observe(Closed(ended(APPLICATION, runs=(("plan", 1, 1.0),))))
    assert made._background.asked == 0
    assert made.profile == Profile()
    assert published == []


def test_the_profile_has_every_job():
    """Whether something was learned from it or not."""
    made, _ = learner()
    for number in range(1, 40):
        made.observe(Closed(job(1.0, float(number))))
        assert made.profile.jobs(APPLICATION.fingerprint) == number


def test_correlations_are_learned_apart():
    """As soon as there are enough jobs, in a thread that holds up no quick model; then it is published."""
    made, published = learner()
    for record in TOLD[: learning.NETWORK_JOBS]:
        made.observe(Closed(record))
        made._background.do()
    own = made.profile.applications[APPLICATION.fingerprint]
    assert own.model is not None
    assert not own.model.correlated
    assert made._networking is not made._background
    assert made._networking.asked
    made._networking.do()
    own = made.profile.applications[APPLICATION.fingerprint]
    assert own.model.correlated
    assert own.model == learn(own.template, own.outcomes)
    assert published[-1] == (made.profile, frozenset([APPLICATION.fingerprint]))


def test_correlations_are_learned_anew_when_there_are_a_quarter_more_jobs():
    """Of every application that is due, one after the other."""
    other = Application.of("other", APPLICATION.nodes, APPLICATION.edges)
    made, published = learner()
    for number in range(1, 41):
        made.observe(Closed(TOLD[number - 1]))
        made.observe(Closed(replace(TOLD[number - 1], app="other", template=other)))
        made._background.do()
        made._networking.do()
    learned = [
        own.modelled
        for profile, (name,) in published
        for own in [profile.applications[name]]
        if name == other.fingerprint and own.model.correlated
    ]
    assert learned[0] == learning.NETWORK_JOBS
    assert len(learned) >= 3
    assert all(later >= earlier * 5 // 4 for earlier, later in itertools.pairwise(learned))
    assert len({name for _, (name,) in published}) == 2


def test_a_failure_to_learn_costs_the_correlations_only(monkeypatch):
    """The stages are judged on their own until it works, when there are more jobs."""
    made, _ = learner()
    for record in TOLD[: learning.NETWORK_JOBS]:
        made.observe(Closed(record))
    made._background.do()
    with monkeypatch.context() as patched:
        patched.setattr("llmsched_langgraph._belief.fit.models.choose", None)
        with pytest.raises(TypeError):
            made._networking.do()
    assert made.profile.applications[APPLICATION.fingerprint].model is not None
    for record in TOLD[: learning.NETWORK_JOBS // 4]:
        made.observe(Closed(record))
    made._background.do()
    made._networking.do()
    assert made.profile.applications[APPLICATION.fingerprint].model.correlated


def given(*records):
    """A profile with a network in place of what was learned: here, one without edges."""
    profile = profiled(*records)
    own = profile.applications[APPLICATION.fingerprint]
    return profile.having(replace(own, model=replace(own.model.marginals, given=True)))


@pytest.mark.parametrize("jobs", [8, 40])
def test_a_given_network_stays(jobs):
    """However many more jobs come, in the background and when it is asked to learn."""
    profile = given(*TOLD[:jobs])
    model = profile.applications[APPLICATION.fingerprint].model
    made, published = learner(profile)
    for record in TOLD * 3:
        made.observe(Closed(record))
        made._background.do()
        made._networking.do()
    made.catch_up()
    own = made.profile.applications[APPLICATION.fingerprint]
    assert own.model is model
    assert own.jobs == jobs + 3 * len(TOLD)
    assert published == []


def test_a_network_that_comes_while_one_is_learned_stays():
    """It was given to another worker, and comes from the store."""
    made, _ = learner()
    for record in TOLD:
        made.observe(Closed(record))
    before = made.profile.applications[APPLICATION.fingerprint]
    whole = given(*TOLD)
    made._adopt(whole.applications[APPLICATION.fingerprint])
    made._take_over(before, learn(before.template, before.outcomes))
    assert made.profile.applications[APPLICATION.fingerprint].model.given


def test_a_given_network_goes_when_runs_change(tmp_path):
    """It was made for the runs of before, and does not come back from a store."""
    old = [job(1.0, 2.0 + n / 100, id=f"old-{n}", arrival_s=n + 1.0, jct_s=0.0) for n in range(60)]
    profile = given(*old)
    store = DirectoryStore(tmp_path)
    store.save(profile.applications[APPLICATION.fingerprint])
    made = Learner(Profile(), lambda profile, names: None, Beside, store)
    made._background.do()
    assert made.profile.applications[APPLICATION.fingerprint].model.given
    for n in range(30):
        made.observe(Closed(job(1.0, 40.0 + n / 100, id=f"new-{n}", arrival_s=100.0 + n, jct_s=0.0)))
    made._background.do()
    made._networking.do()
    made.keep()
    for own in (made.profile, store.load().profile):
        model = own.applications[APPLICATION.fingerprint].model
        assert not model.given
        assert model.belief(JobEvidence()).mean == pytest.approx(41.0, rel=0.02)


def test_when_runs_change_the_past_is_forgotten(caplog):
    """With a note in the log, and a model of the new kind of runs at once."""
    made, _ = learner()
    for work_s in [2.0 + n / 100 for n in range(60)] + [40.0 + n / 100 for n in range(30)]:
        made.observe(Closed(job(1.0, work_s)))
    with caplog.at_level(logging.INFO, "llmsched_langgraph"):
        made._background.do()
    (record,) = caplog.records
    assert record.getMessage() == (
        "the work of runs of 'two' has changed: the 60 jobs before the last 30 are forgotten, and the "
        "model is learned again"
    )
    own = made.profile.applications[APPLICATION.fingerprint]
    assert len(own.outcomes) == 30
    assert own.jobs == 90
    assert own.model.belief(JobEvidence()).mean == pytest.approx(41.0, rel=0.02)


def test_what_was_forgotten_does_not_come_back_from_the_store(tmp_path):
    """When runs have changed, the old ones are gone for all workers, and for whoever comes later."""
    store, moment = DirectoryStore(tmp_path), itertools.count(1)
    for works_s in ([2.0 + n / 100 for n in range(60)], [40.0 + n / 100 for n in range(30)]):
        made = Learner(Profile(), lambda profile, names: None, Beside, store)
        made._background.do()
        for work_s, at in zip(works_s, moment, strict=False):
            made.observe(Closed(job(1.0, work_s, id=f"job-{at}", arrival_s=float(at), jct_s=0.0)))
        made._background.do()
        made.keep()
    own = store.load().profile.applications[APPLICATION.fingerprint]
    assert len(own.outcomes) == 30
    assert min(outcome.work_s for outcome in own.outcomes) > 40.0


def test_learning_here_and_now():
    """For whoever reads or keeps the profile: everything that has ended is in the models."""
    made, published = learner()
    for record in TOLD:
        made.observe(Closed(record))
    made.catch_up()
    own = made.profile.applications[APPLICATION.fingerprint]
    assert (own.modelled, own.model.correlated) == (40, True)
    assert len(published) == 1
    made.catch_up()
    assert len(published) == 1


def test_a_scheduler_learns_by_itself(make_scheduler):
    """From runs to beliefs, in the background, until it is closed."""
    scheduler = make_scheduler(1)
    told = threading.Event()
    publish = scheduler._driver._service._learned
    scheduler._driver._service.learner._publish = lambda *news: (publish(*news), told.set())
    run = start_run(scheduler, INFO)
    with inside(run), scheduler.slot(stage="plan"):
        pass
    run.end(Outcome.FINISHED)
    scheduler.statistics()  # what was put by is told
    assert told.wait(PATIENCE_S)
    assert scheduler.profile.applications[APPLICATION.fingerprint].model is not None
    scheduler.close()
