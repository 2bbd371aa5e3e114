"""The same events lead to the same grants in the simulator and in the live driver: there is one machine."""

from __future__ import annotations

import pytest

from llmsched_langgraph.core.events import BeliefFormed, CallQueued, CallRequested, SlotGranted
from llmsched_langgraph.core.policies import POLICIES, Needs, as_policy
from llmsched_langgraph.runtime.driver import Driver
from llmsched_langgraph.sim.evaluation import learned_from, templates_of
from llmsched_langgraph.sim.simulation import BACKEND, Simulation
from llmsched_langgraph.sim.workloads import Poisson, arrive, generate


class Grants:
    """Whoever waits in the live driver: notes who was woken, and when in line."""

    def __init__(self, log, ticket):
        self._log, self._ticket = log, ticket

    def wake(self, error):
        assert error is None
        self._log.append(self._ticket)
        return True


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_story(policy, seed):
    """What the simulator told its machine, told to the live driver by a manual clock, gives its grants."""
    timed = arrive(generate("planning", 25, seed), Poisson(), load=1.1, slots=2, seed=seed)
    profile = learned_from(generate("planning", 50, 1_000 + seed))
    templates = templates_of(generate("planning", 50, 1_000 + seed))
    simulation = Simulation(timed, slots=2, policy=as_policy(policy), profile=profile, applications=templates)
    grants = simulation.run().grants
    story = simulation._machine.story()
    assert len(story) < 2_000, "the story has lost its beginning"
    now, log = [0.0], []
    driver = Driver({BACKEND: 2}, as_policy(policy), profile=profile, clock=lambda: now[0])
    driver._mind.learner.observe = lambda record: None  # the simulation's profile stays as it is, too
    driver._dispatcher.at_once = True  # a manual clock has no background
    for event in story:
        if not isinstance(event, SlotGranted | CallQueued | BeliefFormed):
            now[0] = event.now
            waiter = Grants(log, event.ticket) if isinstance(event, CallRequested) else None
            driver._post(event, waiter)
    driver.check()
    assert tuple(log) == grants
    assert driver.story() == story
    beliefs = sum(isinstance(event, BeliefFormed) for event in story)
    assert (beliefs > 0) == (as_policy(policy).needs not in (Needs.NOTHING, Needs.TAG))
