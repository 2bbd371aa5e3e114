"""One job: its evidence as runs and calls come in, and the work that is expected still, by hand."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
from support.applications import app

from llmsched_langgraph import Application, Profile
from llmsched_langgraph._application.application import Kind, Node
from llmsched_langgraph._belief.fit.models import learn
from llmsched_langgraph._belief.model.evidence import Begun
from llmsched_langgraph._core.job import MIN_REMAINING_S, Job
from llmsched_langgraph._jobs.calls import UNKNOWN_USAGE, FinishedCall, Outcome, Usage
from llmsched_langgraph._jobs.observed import ObservedStage, Part
from llmsched_langgraph._jobs.stages import Began, Ended, Revealed, StageOccurrence
from llmsched_langgraph.policies import JobInfo

CHAIN = ("chain", ("a", 2.0), ("b", 4.0))
LOOP = Application.of("loop", [Node("think", Kind.LLM, calls_llm=True)], [("think", "think")], ["think"])
LOOPS = [("loop", ("think", 1.0)), ("loop", *[("think", 1.0)] * 3)]
FAN_OUT = ("fan", ("plan", 1.0), ("work", 2.0), ("work", 2.0), ("work", 2.0))


class Story:
    """A job and the facts by which it goes on; every call is a ticket."""

    def __init__(self, application, profile=None):
        self.job = Job(1, JobInfo(application=application), application, 0.0)
        self.model = profile.applications[application.fingerprint].model if profile else None
        self.stage_events = []
        self.job.add((Job.named, 1, self.stage_events))
        self._calls = {}

    def call(self, stage, now=0.0, *, run=None, starts=True):
        ticket = len(self._calls) + 1
        occurrence = self.job.progress.next_occurrence(stage)
        stage_occurrence = None if run is None else self.job.position.stage_occurrence(run)
        stage_occurrence = (
            StageOccurrence(stage, occurrence) if stage_occurrence is None else stage_occurrence
        )
        self._calls[ticket] = [stage, occurrence, stage_occurrence, now, None]
        self.job.add((Job.requested, ticket, stage, stage_occurrence, "b"))
        if starts:
            self.start(ticket, now)
        return ticket

    def start(self, ticket, now):
        self._calls[ticket][4] = now
        self.job.add((Job.granted, now, self._calls[ticket][2], now, False))

    def over(self, ticket, now, usage=UNKNOWN_USAGE, outcome=Outcome.FINISHED):
        stage, occurrence, stage_occurrence, asked_s, granted_s = self._calls[ticket]
        if granted_s is None:
            self.job.add((Job.withdrew, ticket, stage_occurrence))
            return
        fields = (
            ticket,
            stage,
            occurrence,
            stage_occurrence,
            None,
            "b",
            asked_s,
            granted_s,
            now,
            1.0,
            usage,
            outcome,
        )
        self.job.add((Job.finished, FinishedCall(*fields)))

    def move(self, *stage_events, now=0.0):
        self.stage_events += stage_events
        self.job.add((Job.moved, now, self.job.news[0]))

    def asks(self):
        """Whether there is news for a belief, and take it as asked for."""
        _ = self.job.position
        outdated = self.job.outdated
        self.job.add((Job.asked, 0.0))
        return outdated

    def do(self, stage, seconds, now=0.0):
        """A whole call of `stage`, begun at `now`; the time at which it is over."""
        self.over(self.call(stage, now), now + seconds)
        return now + seconds

    def believe(self, now):
        belief = self.model.belief(self.job.evidence(now))
        self.job.add((Job.asked, now))
        self.job.add((Job.believes, belief))
        return belief

    def remaining_s(self, now, formed=None):
        """What is left by a belief formed at `formed`, or at once."""
        self.believe(now if formed is None else formed)
        return self.job.remaining_s(now, 99.0)


# -- evidence ---------------------------------------------------------------------------


def test_a_new_job_has_no_evidence():
    """Nothing has begun, nothing is over, anything may come."""
    evidence = Story(app("new")).job.evidence(9.0)
    assert (evidence.prompt_tokens, evidence.finished, evidence.begun) == (None, (), ())
    assert (evidence.planned, evidence.skipped) == (None, frozenset())


def test_calls_of_stages_that_nobody_watches():
    """Each call stands for one time that its stage ran: waiting, running, or over with what it took."""
    story = Story(app("x"))
    first = story.call("a")
    story.over(first, 3.0, Usage(70, 9))
    story.call("a", 4.0)
    story.call("b", 4.0, starts=False)
    evidence = story.job.evidence(6.0)
    assert evidence.prompt_tokens == 70
    assert evidence.finished == (
        ObservedStage(
            StageOccurrence("a", 1),
            (Part(tool=None, runs=1, calls=1, work_s=3.0, prompt_tokens=70, output_tokens=9),),
        ),
    )
    assert evidence.begun == (Begun(StageOccurrence("a", 2), 1, 2.0), Begun(StageOccurrence("b", 1)))


def test_stage_runs_side_by_side_are_one_stage():
    """Announced together; those that are over tell what they took, and the stage is over with the last."""
    story = Story(app("x"))
    story.move(Revealed(((1, "map"), (2, "map"), (3, "map"))))
    assert story.job.evidence(0.0).begun == (Begun(StageOccurrence("map", 1), 3),)
    story.move(Began(1), Began(2))
    one, two = story.call("map", 0.0, run=1), story.call("map", 1.0, run=2)
    assert story.job.evidence(4.0).begun == (Begun(StageOccurrence("map", 1), 3, 7.0),)
    story.over(one, 5.0)
    story.move(Ended(1, 5.0))
    assert story.job.evidence(5.0).begun == (Begun(StageOccurrence("map", 1), 3, 9.0, 1, 5.0),)
    story.over(two, 6.0)
    story.move(Ended(2, 5.0), Ended(3, 0.5))
    evidence = story.job.evidence(9.0)
    assert evidence.begun == ()
    assert evidence.finished == (
        ObservedStage(
            StageOccurrence("map", 1),
            (Part(tool=None, runs=3, calls=2, work_s=10.0, prompt_tokens=None, output_tokens=None),),
        ),
    )
    assert story.job.evidence(10.0).finished[0] is evidence.finished[0]


def test_what_can_come_no_more_is_skipped():
    """As the template's edges tell; what runs is not skipped, whatever they tell."""
    route = Application.of("route", ["in", "left", "right"], [("in", "left"), ("in", "right")], ["in"])
    story = Story(route)
    assert story.job.evidence(0.0).skipped == frozenset()
    story.move(Revealed(((1, "in"),)), Began(1), Ended(1, 1.0), Revealed(((2, "left"),)))
    assert story.job.evidence(0.0).skipped == {"in", "right"}
    story.move(Began(2), Ended(2, 1.0))
    assert story.job.evidence(0.0).skipped == {"in", "left", "right"}
    story.call("right", starts=False)
    assert story.job.evidence(0.0).skipped == {"in", "left"}


def test_a_plan_is_known_when_it_is_announced():
    """Which tools, and how often; of a stage of several tools its work is dealt out to them."""
    template = Application.of(
        "planner",
        [Node("plan", Kind.LLM, calls_llm=True), Node("use", Kind.DYNAMIC, planned_by="plan")],
        [("plan", "use")],
        ["plan"],
    )
    story = Story(template)
    story.move(Revealed(((1, "plan"),)), Began(1), Ended(1, 1.0))
    assert story.job.evidence(0.0).planned is None
    named = ("b", "a", "b")
    story.move(Revealed(((2, "use"), (3, "use"), (4, "use")), tools=named))
    assert story.job.evidence(0.0).planned == (("a", 1), ("b", 2))
    story.over(story.call("use", 0.0, run=2), 6.0)
    story.move(*(Ended(run, 1.0) for run in (2, 3, 4)))
    use = story.job.evidence(6.0).finished[-1]
    assert [(part.tool, part.runs, part.work_s) for part in use.parts] == [("a", 1, 2.0), ("b", 2, 4.0)]


def test_news_is_what_a_belief_can_rest_on():
    """Ends and announcements; not that something has begun. Told once."""
    story = Story(app("x"))
    assert [story.asks(), story.asks()] == [True, False]
    for stage_events, news in (
        ([Revealed(((1, "a"),))], True),
        ([Began(1)], False),
        ([Ended(1, 1.0)], True),
        ([], False),
    ):
        story.move(*stage_events)
        assert [story.asks(), story.asks()] == [news, False]


def test_of_many_runs_alike_not_every_end_is_news():
    """Each doubling of those that are over, and the last: the first few tell most of what the others take."""
    story = Story(app("x"))
    story.move(Revealed(tuple((n, "map") for n in range(20))))
    tickets = [story.call("map", run=n) for n in range(20)]
    told = []
    for n, ticket in enumerate(tickets, 1):
        story.asks()
        story.over(ticket, 1.0)
        story.move(Ended(n - 1, 1.0))
        if story.asks():
            told.append(n)
    assert told == [1, 2, 4, 8, 16, 20]


def test_stage_records_in_the_order_of_their_ends():
    """With the tool that each was announced to use."""
    template = Application.of("t", ["a", "b"], [("a", "b")], ["a"])
    story = Story(template)
    story.move(Revealed(((1, "a"), (2, "b")), tools=(None, "saw")), Began(1), Began(2), Ended(2, 3.0))
    story.move(Ended(1, 4.0, complete=False))
    assert [watched.run for watched in story.job.stages] == [
        ("b", 1, 3.0, True, "saw"),
        ("a", 1, 4.0, False, None),
    ]


# -- remaining work ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("received_s", "left_s"),
    [(0.0, 6.0), (2.5, 3.5), (5.99, MIN_REMAINING_S), (6.0, MIN_REMAINING_S), (50.0, MIN_REMAINING_S)],
)
def test_without_a_belief_it_is_the_prior_less_what_was_received(received_s, left_s):
    """And as long as the job goes on never nothing."""
    story = Story(app("new"))
    story.call("x")
    assert story.job.remaining_s(received_s, 6.0) == pytest.approx(left_s)


class TestChain:
    """In a fixed chain it is what is left of the running call and all that follows."""

    @pytest.fixture
    def story(self, learned):
        return Story(app("chain"), learned(*[CHAIN] * 200))

    def test_unstarted(self, story):
        assert story.remaining_s(0.0) == pytest.approx(6.0, rel=0.01)

    def test_the_first_call_waits(self, story):
        story.call("a", starts=False)
        assert story.remaining_s(5.0) == pytest.approx(6.0, rel=0.01)

    @pytest.mark.parametrize("formed", [0.0, 0.25, 0.5])
    def test_the_first_call_runs(self, story, formed):
        """Whether the belief is of now or from before, the time in the slot counts up to now."""
        story.call("a")
        assert story.remaining_s(0.5, formed) == pytest.approx(5.5, rel=0.01)

    @pytest.mark.parametrize("formed", [0.0, 2.0, 3.0])
    def test_the_first_call_runs_late(self, story, formed):
        """Of a call that has outrun all that were ever seen, as much is left as it is late."""
        story.call("a")
        assert story.remaining_s(3.0, formed) == pytest.approx(1.0 + 4.0, rel=0.01)

    def test_the_first_call_is_over(self, story):
        assert story.remaining_s(story.do("a", 2.0)) == pytest.approx(4.0, rel=0.01)

    def test_the_second_call(self, story):
        now = story.do("a", 2.0)
        story.call("b", now)
        assert story.remaining_s(now) == pytest.approx(4.0)
        assert story.remaining_s(now + 1.0, now) == pytest.approx(3.0)
        assert story.remaining_s(now + 1.0) == pytest.approx(3.0)

    def test_all_is_done(self, story):
        """Nothing is left, but for the least that a job that goes on may be believed to need."""
        assert story.remaining_s(story.do("b", 4.0, story.do("a", 2.0))) == MIN_REMAINING_S

    def test_a_stage_never_seen(self, story):
        """It is absorbed: its work is no more than the rest of what was expected."""
        now = story.do("a", 2.0)
        story.call("new", now)
        assert story.remaining_s(now + 7.0) == pytest.approx(4.0, rel=0.01)


@pytest.fixture
def loop(record):
    """A profile of a loop: half of the jobs end after one round, the others after three."""
    jobs = [replace(record(*calls), template=LOOP) for calls in LOOPS]
    profile = Profile().observe(*jobs * 200)
    own = profile.applications[LOOP.fingerprint]
    return profile.learned(LOOP.fingerprint, learn(own.template, own.outcomes), own.jobs)


@pytest.mark.parametrize(("occurrence", "remaining_s"), [(1, 2.0), (2, 2.0), (3, 1.0)])
def test_loop(loop, occurrence, remaining_s):
    """In a loop it depends on the round: who comes to a second one comes to a third."""
    story = Story(LOOP, loop)
    now = 0.0
    for _ in range(occurrence - 1):
        now = story.do("think", 1.0, now)
    story.call("think", now, starts=False)
    assert story.remaining_s(now) == pytest.approx(remaining_s, rel=0.02)


@pytest.mark.parametrize("occurrence", [4, 7, 60])
def test_beyond_the_occurrences_seen(loop, occurrence):
    """Rounds that no job ever went are absorbed: the job is believed to be as good as over."""
    story = Story(LOOP, loop)
    now = 0.0
    for _ in range(occurrence - 1):
        now = story.do("think", 1.0, now)
    story.call("think", now, starts=False)
    assert story.remaining_s(now) == MIN_REMAINING_S


def test_a_stage_that_runs_once_more_than_it_should(learned):
    """Its variable is of all its times together: what goes on is judged by what all of them received."""
    story = Story(app("chain"), learned(*[CHAIN] * 200))
    now = story.do("a", 2.0)
    story.call("a", now)
    assert story.remaining_s(now) == pytest.approx(4.0, rel=0.01)
    assert story.remaining_s(now + 1.0) == pytest.approx(1.0 + 4.0, rel=0.01)


def test_fan_out(learned):
    """All calls of a fan-out count when asked for, a running one by what is left of it."""
    story = Story(app("fan"), learned(*[FAN_OUT] * 200))
    now = story.do("plan", 1.0)
    assert story.remaining_s(now) == pytest.approx(6.0, rel=0.01)
    first, _, third = (story.call("work", now, starts=False) for _ in range(3))
    assert story.remaining_s(now) == pytest.approx(6.0)
    story.start(first, now)
    assert story.remaining_s(now + 0.5) == pytest.approx(5.5)
    story.start(third, now + 0.5)
    assert story.remaining_s(now + 1.5) == pytest.approx(3.5)


def test_a_fan_out_of_stage_runs(record, learned):
    """Of runs side by side the work is that of all of them; those that are over count no more."""
    story = Story(app("fan"), learned(*[("fan", ("plan", 1.0), ("work", 6.0))] * 200))
    now = story.do("plan", 1.0)
    story.move(Revealed(((1, "work"), (2, "work"), (3, "work"))))
    assert story.remaining_s(now) == pytest.approx(6.0)
    story.call("work", now, run=1)
    assert story.remaining_s(now + 1.0) == pytest.approx(5.0)
    assert story.remaining_s(now + 1.0, now) == pytest.approx(5.0)


def test_a_stage_that_has_ended_since_has_nothing_left(learned):
    """A belief from before its end still holds for the rest."""
    story = Story(app("chain"), learned(*[CHAIN] * 200))
    story.move(Revealed(((1, "a"),)), Began(1))
    ticket = story.call("a", run=1)
    story.believe(0.0)
    story.over(ticket, 1.0)
    assert story.job.remaining_s(1.0, 99.0) == pytest.approx(5.0, rel=0.01)  # the run may call again
    story.move(Ended(1, 1.0))
    assert story.job.remaining_s(1.0, 99.0) == pytest.approx(4.0, rel=0.01)


# -- the log ----------------------------------------------------------------------------

SEEN = [Revealed(((1, "think"),)), Began(1), Ended(1, 4.0)]


def told(job):
    """All that can be seen of a job, but for how much of its log is committed."""
    more = {"tick": (job.ticks + 1), "stages": job.stages, "evidence": job.evidence(9.0)}
    names = {name for name in Job.__slots__ if not name.startswith("_")} - {"sent", "applied"}
    seen = {name: getattr(job, name) for name in names}
    return {**seen, **more, "progress": deepcopy(job.progress), "explored": dict(job.explored)}


def test_a_job_is_what_its_log_says(loop):
    """Cut off anywhere, it is the job that it was then."""
    story = Story(LOOP, loop)
    job, befores = story.job, []

    def kept():
        befores.append((job.facts, told(job)))

    kept()
    one, two = story.call("think"), story.call("think", starts=False)
    kept()
    story.over(one, 3.0, Usage(5, 6))
    kept()
    story.believe(3.0)
    job.add((Job.revised,))
    kept()
    story.stage_events += SEEN
    story.move(now=4.0)
    kept()
    job.add((Job.paused, 5.0))
    kept()
    job.add((Job.resumed, 8.0, 7, [Revealed(((2, "think"),))]))
    kept()
    job.add((Job.granted, 8.0, StageOccurrence("think", 2), 8.0, True))
    story._calls[two][4] = 8.0
    kept()
    story.over(two, 9.0)
    story.call("think", 9.0, starts=False)
    story.over(3, 9.0)
    job.add((Job.ended, Outcome.FAILED))
    job.add((Job.closed, 9.0))
    kept()
    for facts, before in reversed(befores):
        job.restore(facts)
        assert told(job) == before
        job.check()


def test_what_was_half_done_is_undone():
    """A fact that breaks off leaves the job marked as half changed until it is restored."""
    story = Story(app("x"))
    story.call("a")
    facts, before = story.job.facts, told(story.job)
    with pytest.raises(KeyError):
        story.job.add((Job.granted, 0.0, StageOccurrence("nothing", 1), 0.0, False))
    with pytest.raises(AssertionError, match="half changed"):
        story.job.check()
    story.job.restore(facts)
    assert told(story.job) == before
    story.job.check()


def test_a_settled_job_keeps_what_it_is_but_not_its_log():
    """A closed job needs no log."""
    story = Story(app("x"))
    story.do("a", 1.0)
    before = told(story.job)
    story.job.settle()
    assert story.job.facts == 0
    assert told(story.job) == before
    story.job.check()
