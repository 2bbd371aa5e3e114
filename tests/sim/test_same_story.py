"""The same events lead to the same story in the simulator and in the live driver: there is one machine."""

from __future__ import annotations

import pytest

from llmsched_langgraph import Backend
from llmsched_langgraph._core.ending import ended
from llmsched_langgraph._core.events import JobArrived, Ticked
from llmsched_langgraph._core.ordering import BeliefWanted
from llmsched_langgraph._core.policies import as_policy
from llmsched_langgraph._runtime.driver import Driver
from llmsched_langgraph.lab.sim.backoff import Doubling
from llmsched_langgraph.lab.sim.evaluation import learned_from, templates_of
from llmsched_langgraph.lab.sim.limits import LimitedServer
from llmsched_langgraph.lab.sim.servers import SlotServer
from llmsched_langgraph.lab.sim.simulation import BACKEND, Simulation
from llmsched_langgraph.lab.sim.workloads import Poisson, arrive, generate
from llmsched_langgraph.policies import POLICIES, Needs


class Told:
    """What a machine is told, with what was new of each job's stages by then, and what it makes of it."""

    def __init__(self, machine):
        self.events, self.story = [], []
        self._machine, self._handle = machine, machine.handle
        self._moves = {}  # of each job: where they are to be read, and how many are known
        machine.handle = self.handle

    def handle(self, now, event):
        if isinstance(event, JobArrived):
            self._moves[event.job] = (event.stage_events, 0)
        news = {}
        for job, (stage_events, known) in self._moves.items():
            if len(stage_events) > known:
                news[job] = stage_events[known:]
                self._moves[job] = (stage_events, len(stage_events))
        self.events.append((now, event, news))
        last = self._machine.story.last
        self._handle(now, event)
        self.story += self._machine.story.after(last)


def comparable(entry):
    """An entry with a value in place of a job."""
    return entry._replace(detail=ended(entry.detail)) if entry.kind == "JobClosed" else entry


def told_live(events, backend, policy, profile=None):
    """What the live driver makes of the events, by a manual clock."""
    now, stage_events, story = [0.0], {}, []
    driver = Driver([backend], policy, profile=profile, clock=lambda: now[0])
    driver._service.learner.observe = lambda *news: None  # the simulation's profile stays as it is, too
    driver._machine._at_once = True  # a manual clock has no background
    driver._timer.within = lambda seconds: None  # nor a timer: the time is told
    driver.subscribe(story.append)
    for now_s, event, news in events:
        now[0] = now_s
        if isinstance(event, JobArrived):
            stage_events[event.job] = []
            event = event._replace(stage_events=stage_events[event.job])
        for job, more in news.items():
            stage_events[job] += more
        driver.post(event)
    driver.check()
    return story


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_story(policy, seed, monkeypatch):
    """What the simulator told its machine, told to the live driver by a manual clock, gives its story."""
    beliefs = []
    form = BeliefWanted.belief
    monkeypatch.setattr(BeliefWanted, "belief", lambda wanted: beliefs.append(wanted.job) or form(wanted))
    timed = arrive(generate("planning", 25, seed), Poisson(), load=1.1, slots=2, seed=seed)
    profile = learned_from(generate("planning", 50, 1_000 + seed))
    templates = templates_of(generate("planning", 50, 1_000 + seed))
    simulation = Simulation(timed, slots=2, policy=as_policy(policy), profile=profile, applications=templates)
    told = Told(simulation._machine)
    grants = simulation.run().grants
    simulated, beliefs[:] = list(beliefs), []
    story = told_live(told.events, Backend(BACKEND, 2), as_policy(policy), profile)
    assert tuple(entry.ticket for entry in story if entry.kind == "SlotGranted") == grants
    assert list(map(comparable, story)) == list(map(comparable, told.story))
    assert beliefs == simulated
    assert bool(beliefs) == bool(getattr(as_policy(policy), "needs", Needs.NOTHING))


def found(seed):
    """Slots that are found and rates, at a server that refuses above a capacity that changes."""
    server = LimitedServer(
        SlotServer(), room=[(0.0, 6), (60.0, 2), (120.0, 9)], retry_after_s=seed % 2 or None
    )
    backend = Backend(BACKEND, "auto", requests_per_minute=90, tokens_per_minute=200_000)
    return {"server": server, "backend": backend, "backoff": Doubling(seed)}


@pytest.mark.parametrize("policy", ["fcfs", "srtf"])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_story_with_limits(policy, seed):
    """Refusals, pauses, rates and a limit that moves, too."""
    timed = arrive(generate("planning", 40, seed), Poisson(), load=1.5, slots=4, seed=seed)
    profile = learned_from(generate("planning", 30, 1_000 + seed))
    limits = found(seed)
    simulation = Simulation(timed, policy=as_policy(policy), profile=profile, **limits)
    told = Told(simulation._machine)
    run = simulation.run()
    assert run.refused
    assert len(run.limits) > 2
    assert any(isinstance(event, Ticked) for _, event, _ in told.events)
    story = told_live(told.events, limits["backend"], as_policy(policy), profile)
    assert tuple(entry.ticket for entry in story if entry.kind == "SlotGranted") == run.grants
    assert list(map(comparable, story)) == list(map(comparable, told.story))
