"""What the simulator foretells of a comparison: where it is exact, and what it finds out in the warm-up."""

from __future__ import annotations

from statistics import fmean

import pytest

from llmsched_langgraph._belief.fit.template import template_of
from llmsched_langgraph._core.policies import as_policy
from llmsched_langgraph.lab.sim.latency import LatencyModel
from llmsched_langgraph.lab.sim.servers import BatchingReplicas, Handover
from llmsched_langgraph.lab.sim.simulation import Simulation
from llmsched_langgraph.lab.sim.workloads import Poisson, TimedJob, arrive, generate
from llmsched_langgraph.lab.testbed.jobs import replayable, timed
from llmsched_langgraph.lab.testbed.predict import Fit, Predictor
from llmsched_langgraph.lab.testbed.script import in_supersteps
from llmsched_langgraph.traces import EndedCall, EndedJob, EndedStage

LATENCY = LatencyModel("made", ((1, 0.02), (4, 0.05)), 0.1, 0.0, "made up", prefill_stalls=True)


def predictor(slots, policy="srtf", jobs=(), ahead=0):
    applications = {app: template_of(app, jobs) for app in {job.app for job in jobs}}
    return Predictor(applications, slots, policy, LATENCY, ahead)


def jobs_of(seed, load):
    made = [timed(replayable(job), LATENCY, 4, 1.0) for job in generate("chain", 30, seed)]
    return made, arrive(made, Poisson(), load=load, slots=4, seed=seed)


def seen(jobs, fit, ahead=0):
    """The mean JCT stock, and seconds in a slot scheduled, on an endpoint as `fit` says."""

    def run(policy, slots):
        server = Handover(BatchingReplicas(1, 4, LATENCY.times(fit.speed)), fit.handover_s)
        as_run = [TimedJob(one.arrival_s, in_supersteps(one.job)) for one in jobs]
        return Simulation(as_run, slots=slots, policy=as_policy(policy), server=server, keep=True).run()

    held = [call.seconds for job in run("srtf", 4 + ahead).records for call in job.llm_calls()]
    return fmean(job.jct_s for job in run("fcfs", 1_000).jobs), fmean(held)


@pytest.mark.parametrize("load", [0.5, 0.9, 1.5])
@pytest.mark.parametrize("truth", [Fit(), Fit(0.7), Fit(1.4), Fit(1.0, 0.3), Fit(0.8, 0.1), Fit(1.2, 0.5)])
@pytest.mark.parametrize("ahead", [0, 2])
def test_what_is_fitted_foretells_other_jobs(truth, load, ahead):
    """From the mean JCT stock and the mean time in a slot of the warm-up alone."""
    made, warmup = jobs_of(3, load)
    _, others = jobs_of(4, load)
    predictor_ = predictor(4, jobs=made, ahead=ahead)
    found = predictor_.fitted(warmup, *seen(warmup, truth, ahead))
    predicted, true = (predictor_.prediction(warmup, others, fit) for fit in (found, truth))
    assert predicted.stock_mean_jct_s == pytest.approx(true.stock_mean_jct_s, rel=0.1)
    assert predicted.scheduled_mean_jct_s == pytest.approx(true.scheduled_mean_jct_s, rel=0.1)


def test_what_cannot_be_is_fitted_as_well_as_it_can():
    """A server beyond any speed is as fast as they go; less than no handover is none."""
    made, jobs = jobs_of(3, 0.9)
    found = predictor(4, jobs=made).fitted(jobs, 0.001, 0.001)
    assert found.speed == pytest.approx(4.0, rel=0.01)
    assert found.handover_s == 0.0


def test_who_waits_where():
    """Stock calls wait at the server, which takes the next at once; scheduled ones need a handover each."""

    def job(number, *output_tokens):
        calls = tuple(EndedCall(1, tokens, tokens * 0.02 + 0.1) for tokens in output_tokens)
        return TimedJob(
            0.001 * number,
            EndedJob(
                id=f"j{number}",
                app="app",
                jct_s=None,
                stages=(EndedStage(name="s", kind="llm", deps=(), calls=calls),),
            ),
        )

    jobs = [job(0, 45), job(1, 95), job(2, 20)]  # seconds: 1, 2, 0.5
    done = predictor(1, "sjf", [one.job for one in jobs]).prediction(jobs, jobs, Fit(handover_s=0.25))
    assert done.stock_mean_jct_s == pytest.approx(fmean([1.25, 3.25 - 0.001, 3.75 - 0.002]))
    # None is known to be shorter: one application, and so in turn.
    assert done.scheduled_mean_jct_s == pytest.approx(fmean([1.25, 3.5 - 0.001, 4.25 - 0.002]))
    assert done.mean_jct_reduction == 1 - done.scheduled_mean_jct_s / done.stock_mean_jct_s


def test_a_call_ahead_hides_the_handover():
    """It is at the server when the slot there is free: nothing is empty, as stock."""

    def job(number):
        calls = (EndedCall(1, 45, 1.0),)
        return TimedJob(
            0.0,
            EndedJob(
                id=f"j{number}",
                app="app",
                jct_s=None,
                stages=(EndedStage(name="s", kind="llm", deps=(), calls=calls),),
            ),
        )

    jobs = [job(number) for number in range(4)]
    for ahead, expected in ((0, [1.25, 2.5, 3.75, 5.0]), (1, [1.25, 2.25, 3.25, 4.25])):
        told = predictor(1, "fcfs", [one.job for one in jobs], ahead).prediction(
            jobs, jobs, Fit(handover_s=0.25)
        )
        assert told.scheduled_mean_jct_s == pytest.approx(fmean(expected))
        assert told.stock_mean_jct_s == pytest.approx(fmean([1.25, 2.25, 3.25, 4.25]))
