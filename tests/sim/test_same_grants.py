"""Grants are the same, event for event, as they were recorded before the core was written anew.

python tests/sim/test_same_grants.py compares all that is recorded; the tests, what takes seconds.

`same_grants.json` has, for each built-in mix and policy, one hash for each of twenty seeds: of the tickets in
the order of their grants, and of the times at which the jobs ended.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from llmsched_langgraph._core.policies import as_policy
from llmsched_langgraph.lab.sim.evaluation import learned_from, templates_of
from llmsched_langgraph.lab.sim.references import Clairvoyant
from llmsched_langgraph.lab.sim.simulation import Simulation
from llmsched_langgraph.lab.sim.workloads import Poisson, arrive, generate
from llmsched_langgraph.policies import POLICIES

pytestmark = pytest.mark.timeout(300)

RECORDED = {
    mix: {policy: hashes.split() for policy, hashes in policies.items()}
    for mix, policies in json.loads(Path(__file__).with_name("same_grants.json").read_text()).items()
}
TRAIN, TEST, SLOTS, LOAD = 60, 40, 4, 1.1
LEARNED = 1_000_000
"""The seed of the jobs to learn from."""

DEAR = ("srtf", "srtf_marginal", "llmsched", "gittins")
"""Policies that read beliefs, which cost most of the time."""

CLAIRVOYANT = "clairvoyant"


@cache
def learned(mix):
    """The templates of the mix's applications, and what is known of them."""
    train = generate(mix, TRAIN, LEARNED)
    templates = templates_of(train)
    return templates, learned_from(train, templates)


def anew(profile):
    """The profile with models that were asked nothing yet.

    What a belief is asked first decides in which order it sums up, and so the last bit of what it is asked
    later. For the same reason the arrays of all networks are given one layout in memory.
    """
    for name, own in list(profile.applications.items()):
        network = own.model.network
        network = replace(network, tables=tuple(map(np.ascontiguousarray, network.tables)))
        profile = profile.learned(name, replace(own.model, network=network), own.jobs)
    return profile


def hashed(mix, policy, seed):
    """What came of the simulation, as it is recorded."""
    templates, profile = learned(mix)
    timed = arrive(generate(mix, TEST, seed), Poisson(), load=LOAD, slots=SLOTS, seed=seed)
    order = Clairvoyant(timed) if policy == CLAIRVOYANT else as_policy(policy)
    run = Simulation(timed, slots=SLOTS, policy=order, profile=anew(profile), applications=templates).run()
    told = json.dumps([run.grants, [job.end_s for job in run.jobs]])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def changed(mix, policy, seeds):
    """The seeds at which something else came of it than what is recorded."""
    return [seed for seed in seeds if hashed(mix, policy, seed) != RECORDED[mix][policy][seed]]


def seeds_of(mix, policy):
    """All seeds for cheap policies; for each of the others one, another one in each mix."""
    seeds = len(RECORDED[mix][policy])
    if policy not in DEAR:
        return range(seeds)
    return [(DEAR.index(policy) + len(DEAR) * list(RECORDED).index(mix)) % seeds]


def test_all_policies_are_recorded():
    """A policy that is new is recorded with the code that brings it."""
    for policies in RECORDED.values():
        assert policies.keys() == {*POLICIES, CLAIRVOYANT}


@pytest.mark.parametrize("policy", [*POLICIES, CLAIRVOYANT])
@pytest.mark.parametrize("mix", RECORDED)
def test_the_same_grants(mix, policy):
    """The same calls get their slots in the same order, and all jobs end at the same times."""
    assert changed(mix, policy, seeds_of(mix, policy)) == []


def main():
    """Compare all that is recorded."""
    whole = equal = 0
    for mix, policies in RECORDED.items():
        for policy, hashes in policies.items():
            wrong = changed(mix, policy, range(len(hashes)))
            whole, equal = whole + len(hashes), equal + len(hashes) - len(wrong)
            if wrong:
                print(f"{mix}, {policy}: not as recorded at seeds {wrong}")
        print(f"{mix}: {equal} of {whole} as recorded so far", flush=True)
    raise SystemExit(equal < whole)


if __name__ == "__main__":
    main()
