"""The scheduler as its user sees it: settings, errors, statistics. No call ever waits here."""

from __future__ import annotations

import dataclasses
import math

import pytest

from llmsched_langgraph import (
    Application,
    Backend,
    ConfigurationError,
    Scheduler,
    SchedulerClosedError,
    UnknownModelError,
)
from llmsched_langgraph._core.events import CallRequested
from llmsched_langgraph._jobs.calls import Outcome, Usage
from llmsched_langgraph._runtime.context import current_run, inside
from llmsched_langgraph._runtime.scheduler import start_run
from llmsched_langgraph.policies import JobInfo

BAD_SLOTS = [0, -1, True, False, 2.0, math.inf, "4", None]
APPLICATION = Application.of("app", ["s"])
INFO = JobInfo(application=APPLICATION)
TWO = (Backend("small", 1, ("gpt-small", "gpt-tiny")), Backend("large", 2, ("gpt-large",)))


# -- settings ---------------------------------------------------------------------------


@pytest.mark.parametrize("backends", [["x"], {"x": 3}, Backend("x"), 4])
def test_backends_must_be_a_list_of_backends(backends):
    """The error shows what a list of them looks like."""
    with pytest.raises(ConfigurationError, match=r"backends must be a list of Backend objects, such as"):
        Scheduler(backends=backends)


def test_a_slot_of_no_model_where_every_backend_has_models():
    """The cure is an argument of `slot`."""
    with pytest.raises(UnknownModelError) as caught:
        Scheduler(backends=TWO).slot()
    assert str(caught.value) == (
        "slot() does not say which model it is for (known: gpt-large, gpt-small, gpt-tiny); give it "
        "model=..., or add a Backend without models to serve the rest"
    )


@pytest.mark.parametrize("slots", [slots for slots in BAD_SLOTS if slots is not None])
def test_slots_must_be_a_positive_whole_number(slots):
    """Anything else is refused by an error that says what slots are and what was given."""
    with pytest.raises(ConfigurationError, match=r"^slots must be a whole number of at least 1") as caught:
        Scheduler(slots)
    assert str(caught.value).endswith(f"not {slots!r}")


@pytest.mark.parametrize("slots", BAD_SLOTS)
def test_a_backends_slots_too(slots):
    """A backend's error also says which backend."""
    with pytest.raises(ConfigurationError, match=r"backend 'gpu': slots must be .* at least 1"):
        Backend("gpu", slots)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": ""}, "needs a name"),
        ({"base_urls": ()}, "backend 'default' has no base URL"),
        ({"models": "gpt-small"}, r"models=\('gpt-small',\)"),
    ],
)
def test_other_bad_backends(arguments, message):
    """A backend without a name or URLs, or with one string for models, is refused with the cure."""
    with pytest.raises(ConfigurationError, match=message):
        Backend(**arguments)


def test_a_backends_models_may_be_any_list():
    """Models are kept as a tuple, so that a backend stays a value."""
    assert Backend(models=["a", "b"]) == Backend(models=("a", "b"))
    assert hash(Backend(models=["a"])) == hash(Backend(models=("a",)))


@pytest.mark.parametrize(
    ("backends", "message"),
    [
        ([], "at least one Backend"),
        ([Backend("x", 1, ("m",)), Backend("x", 1, ("n",))], "two backends are called 'x'"),
        ([Backend("x", 1, ("m",)), Backend("y", 1, ("n", "m"))], "'x' and 'y' both claim model 'm'"),
        ([Backend("x"), Backend("y")], "'x' and 'y' both claim every model"),
    ],
)
def test_backends_that_contradict_each_other(backends, message):
    """No backend, two of one name, or two that serve one model: an error names them."""
    with pytest.raises(ConfigurationError, match=message):
        Scheduler(backends=backends)


def test_slots_or_backends():
    """Both at once is refused, for each backend has its own slots."""
    with pytest.raises(ConfigurationError, match="either slots or backends"):
        Scheduler(2, backends=TWO)


@pytest.mark.parametrize("timeout_s", [0, 0.0, -1, math.nan, -math.inf, True, "5", (1,)])
def test_a_queue_timeout_must_be_a_positive_number(timeout_s):
    """Anything else is refused when the scheduler is made, not when a call has waited."""
    with pytest.raises(ConfigurationError, match="queue_timeout_s must be a positive number") as caught:
        Scheduler(queue_timeout_s=timeout_s)
    assert str(caught.value).endswith(f"not {timeout_s!r}")
    with pytest.raises(ConfigurationError, match="backend 'b': queue_timeout_s must be a positive number"):
        Backend("b", queue_timeout_s=timeout_s)


def test_an_unknown_policy():
    """The scheduler refuses what `as_policy` refuses."""
    with pytest.raises(ConfigurationError, match="unknown policy 'lottery'"):
        Scheduler(policy="lottery")


# -- models -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "backend"), [("gpt-small", "small"), ("gpt-tiny", "small"), ("gpt-large", "large")]
)
def test_a_call_goes_to_the_backend_that_claims_its_model(clock, model, backend):
    """The model decides whose slot is taken."""
    scheduler = Scheduler(backends=TWO, clock=clock)
    with scheduler.slot(model):
        held = {b.name for b in scheduler.statistics().backends if b.holding}
    assert held == {backend}


@pytest.mark.parametrize("model", ["gpt-other", ""])
def test_an_unknown_model(model):
    """A model that nobody serves is an error that names the known ones and the cure."""
    with pytest.raises(UnknownModelError) as caught:
        Scheduler(backends=TWO).slot(model)
    assert str(caught.value) == (
        f"no backend serves model {model!r} (known: gpt-large, gpt-small, gpt-tiny); name it in a "
        f"Backend's models, or add a Backend without models to serve the rest"
    )
    assert isinstance(caught.value, LookupError)


@pytest.mark.parametrize("model", ["gpt-other", None])
def test_a_backend_without_models_serves_the_rest(clock, model):
    """Unclaimed models, and calls that name none, go to the backend that claims nothing."""
    scheduler = Scheduler(backends=[*TWO, Backend("rest", 1)], clock=clock)
    with scheduler.slot(model):
        assert [b.holding for b in scheduler.statistics().backends] == [0, 0, 1]


# -- resize -----------------------------------------------------------------------------


def test_resize():
    """The one backend needs no name; of several, the named one changes."""
    one, two = Scheduler(2), Scheduler(backends=TWO)
    one.resize(5)
    two.resize(7, "small")
    assert [b.slots for b in one.statistics().backends] == [5]
    assert [b.slots for b in two.statistics().backends] == [7, 2]


@pytest.mark.parametrize("slots", BAD_SLOTS)
def test_resize_to_a_bad_number(slots):
    """It is refused and the slots stay what they were."""
    scheduler = Scheduler(2)
    with pytest.raises(ConfigurationError, match="slots must be a whole number"):
        scheduler.resize(slots)
    assert scheduler.statistics().slots == 2


@pytest.mark.parametrize(
    ("backend", "seen"), [(None, r"resize\(\) needs a backend"), ("huge", "no backend 'huge'")]
)
def test_resize_of_no_known_backend(backend, seen):
    """Without a name among several, or with a wrong one, the error lists the names."""
    with pytest.raises(ConfigurationError, match=f"{seen}; name one of: small, large"):
        Scheduler(backends=TWO).resize(3, backend)


# -- what can be seen -------------------------------------------------------------------


def test_repr_fits_a_line(clock):
    """It shows policy, jobs, and holding/slots +waiting of each backend."""
    scheduler = Scheduler(backends=TWO, policy="fair", clock=clock)
    run = start_run(scheduler, INFO)
    with scheduler.slot("gpt-large"):
        assert repr(scheduler) == "<Scheduler fair | 1 jobs | small 0/1 +0 | large 1/2 +0>"
    run.end(Outcome.FINISHED)
    scheduler.close()
    assert repr(scheduler) == "<Scheduler fair | 0 jobs | small 0/1 +0 | large 0/2 +0 | closed>"


def test_statistics_are_frozen(clock):
    """Statistics are a value of one moment: they cannot be changed and do not change."""
    scheduler = Scheduler(2, clock=clock)
    before = scheduler.statistics()
    with scheduler.slot():
        pass
    assert before.granted == 0
    for record, name in ((before, "granted"), (before.backends[0], "holding")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, name, 9)


def test_statistics_add_up(clock):
    """Sums over backends, totals of grants, returns, tokens and jobs, and the peak."""
    scheduler = Scheduler(backends=TWO, clock=clock)
    with inside(start_run(scheduler, INFO)):
        run = current_run()
        with scheduler.slot("gpt-large", stage="s") as first, scheduler.slot("gpt-large") as riding:
            first.usage, riding.usage = Usage(5, 7), Usage(100, 100)
            now = scheduler.statistics()
            assert (now.slots, now.holding, now.waiting, now.jobs_running) == (3, 1, 0, 1)
        with scheduler.slot("gpt-small", stage="s") as second:
            second.usage = Usage(None, 2)
    run.end(Outcome.FINISHED)
    end = scheduler.statistics()
    assert (end.granted, end.released, end.holding, end.peak) == (2, 2, 0, 1)
    assert (end.jobs_running, end.jobs_ended, end.over_commitments) == (0, 1, 0)
    assert (end.prompt_tokens, end.output_tokens) == (5, 9)
    scheduler.check()


def test_statistics_are_of_one_moment():
    """Also in the middle of a decision (a policy looks at its scheduler) the sums agree."""
    looks = []

    class Looking:
        name = "looking"

        def order(self, job, now):
            looks.append(scheduler.statistics())
            return 0.0

    scheduler = Scheduler(1, policy=Looking())
    run = start_run(scheduler, INFO)
    driver, tickets = scheduler._driver, range(1, 5)
    for ticket in tickets:
        driver.request(CallRequested(ticket, "default", "s", run.job, False, None))
    scheduler.resize(3)
    for ticket in tickets:
        driver.release(ticket)
    run.end(Outcome.FINISHED)
    assert len(looks) > 4  # one for each call, and one for each grant while others wait
    assert all(look.granted - look.released == look.holding for look in looks)


def test_what_is_learned_is_a_value_for_another_scheduler(clock):
    """A profile taken from one scheduler serves in the next, and neither changes the other's."""
    first = Scheduler(clock=clock)
    run = start_run(first, INFO)
    with inside(run), first.slot(stage="s"):
        clock.now += 8.0
    run.end(Outcome.FINISHED)
    second = Scheduler(profile=first.profile, clock=clock)
    assert second.profile.jobs(APPLICATION.fingerprint) == 1
    run = start_run(second, INFO)
    with inside(run), second.slot(stage="s"):
        pass
    run.end(Outcome.FINISHED)
    assert first.profile.jobs(APPLICATION.fingerprint) == 1
    assert second.profile.jobs(APPLICATION.fingerprint) == 2


def test_another_schedulers_run_is_not_ours(clock):
    """A call inside a run of one scheduler that takes a slot of another is a direct call there."""
    ours, theirs = Scheduler(clock=clock), Scheduler(clock=clock)
    own, foreign = start_run(ours, INFO), start_run(theirs, INFO)
    assert own.job == foreign.job  # the numbers alone do not tell them apart
    with inside(foreign), ours.slot():
        pass
    assert (ours.statistics().jobs_running, ours.statistics().jobs_ended) == (1, 1)
    assert theirs.statistics().granted == 0


# -- closed -----------------------------------------------------------------------------


def test_a_closed_scheduler_takes_nothing_new(clock):
    """No run starts and no slot is granted; the error says what to do. Closing twice is closing."""
    with Scheduler(clock=clock) as scheduler:
        run = start_run(scheduler, INFO)
    scheduler.close()
    with pytest.raises(SchedulerClosedError, match="make a new Scheduler"):
        start_run(scheduler, INFO)
    with pytest.raises(SchedulerClosedError), scheduler.slot():
        pytest.fail("the block must not be entered")
    run.end(Outcome.FINISHED)
    assert (scheduler.statistics().granted, scheduler.statistics().jobs_running) == (0, 0)
    scheduler.check()


def test_a_holder_keeps_its_slot_when_the_scheduler_is_closed(clock):
    """Who is in a slot when the scheduler is closed goes on, and gives it back at the end."""
    scheduler = Scheduler(1, clock=clock)
    with scheduler.slot():
        scheduler.close()
        assert scheduler.statistics().holding == 1
    assert (scheduler.statistics().holding, scheduler.statistics().released) == (0, 1)
