"""A model of an application: what it learns, believes, teaches, and how it is kept."""

from __future__ import annotations

import copy
import json
import math
import pickle

import numpy as np
import pytest
from support.beliefs import call, ended, fan_job, loop_job, model_of, planned_job

from llmsched_langgraph import Application
from llmsched_langgraph._application.application import DIRECT, Kind, Node
from llmsched_langgraph._belief.fit.models import learn
from llmsched_langgraph._belief.fit.template import template_of
from llmsched_langgraph._belief.model import prior
from llmsched_langgraph._belief.model.columns import Quantity
from llmsched_langgraph._belief.model.evidence import Begun, JobEvidence
from llmsched_langgraph._belief.model.model import ApplicationModel
from llmsched_langgraph._jobs.observed import ObservedJob, Unit, observed
from llmsched_langgraph._jobs.stages import StageOccurrence
from llmsched_langgraph.errors import InvalidDataError
from llmsched_langgraph.traces import EndedJob, EndedStage

NOTHING = JobEvidence()


def learned(jobs, **options):
    return learn(template_of(jobs[0].app, jobs), [observed(job) for job in jobs], **options)


@pytest.fixture(scope="module")
def fan():
    return learned([fan_job(n, (0, 1, 3, 9)[n % 4]) for n in range(60)])


@pytest.fixture(scope="module")
def planner():
    plans = ("a", "b", "c", "ab", "ac", "bc", "abc", "aab")
    return learned([planned_job(n, plans[n % 8]) for n in range(64)], unit=Unit.TOOL_SECONDS)


@pytest.fixture(scope="module")
def loop():
    return learned([loop_job(n, 1 + n % 4) for n in range(60)])


def two_chains():
    """Two stages of equal entropy; what follows the one is settled by it, what follows the other is not."""
    half = np.array([0.0, 0.5, 0.5])
    copies = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    ignores = np.array([[0.0, 0.5, 0.5]] * 3)
    return model_of(
        ["known", "moot", "follows", "strays"],
        [(1.0, 9.0)] * 4,
        ((), (), (0,), (1,)),
        (half, half, copies, ignores),
    )


def test_same_entropy_but_not_the_same_information():
    """The stage that settles what follows is worth trying first, though both are as uncertain."""
    model = two_chains()
    known, moot = StageOccurrence("known", 1), StageOccurrence("moot", 1)
    assert model.network.entropy([0]) == pytest.approx(model.network.entropy([1])) == pytest.approx(1.0)
    assert model.belief(NOTHING).uncertainty_reduction(known) == pytest.approx(1.0 * 9.0)
    assert model.belief(NOTHING).uncertainty_reduction(moot) == pytest.approx(0.0)


def test_what_came_later_tells_of_what_came_before():
    """Evidence on a descendant updates its ancestor, as when stages end out of order."""
    model = two_chains()
    before = model.belief(NOTHING)
    after = model.belief(JobEvidence(finished=(ended("follows", 9.0),)))
    assert before.mean == pytest.approx(4 * 5.0)
    assert after.mean == pytest.approx(9.0 + 5.0 + 5.0)
    assert before.entropy_bits == pytest.approx(3.0)
    assert after.entropy_bits == pytest.approx(2.0)


def test_the_same_evidence_has_the_same_belief(fan):
    """Whatever the jobs will turn out to be: nothing is computed twice, nothing is known beforehand."""
    past = JobEvidence(100, (ended("split", 0.63),))
    assert fan.belief(past) is fan.belief(copy.deepcopy(past))
    assert fan.belief(past) != fan.belief(NOTHING)
    near = [
        JobEvidence(100, begun=(Begun(StageOccurrence("split", 1), received=x),)) for x in (0.101, 0.1014)
    ]
    assert fan.belief(near[0]) is fan.belief(near[1])


def test_learning_is_a_function(fan):
    jobs = [fan_job(n, (0, 1, 3, 9)[n % 4]) for n in range(60)]
    assert learned(jobs) == fan
    assert learned(jobs[::-1]).columns == fan.columns
    assert fan.correlated
    assert fan.jobs == 60
    assert not learned(jobs, correlated=False).correlated
    assert not fan.marginals.correlated


def test_the_first_stage_foretells_the_rest(fan):
    """A long split means many maps and a long join; a short one that nothing comes."""
    small = fan.belief(JobEvidence(100, (ended("split", 0.03),)))
    large = fan.belief(JobEvidence(100, (ended("split", 1.83),)))
    assert small.mean < 0.2
    assert large.mean == pytest.approx(9 * 0.41 + 2.7, rel=0.1)
    lo, hi = large.interval(0.8)
    assert lo <= large.median <= hi
    assert large.present["map"] > 0.95 > 0.1 > small.present["map"]


def test_a_revealed_fan_out_settles_it(fan):
    """Whatever the stage before was like."""
    evidence = JobEvidence(100, (ended("split", 0.63),), begun=(Begun(StageOccurrence("map", 1), 9),))
    assert fan.belief(evidence).mean > 1.5 * fan.belief(JobEvidence(100, (ended("split", 0.63),))).mean


def test_a_stage_that_runs_has_the_less_left(fan):
    """And one that has overrun all that was ever seen never looks as if about to end."""
    done = (ended("split", 1.83), ended("map", 3.69))
    means = []
    for ran in (0.5, 1.5, 2.5, 5.0, 50.0):
        evidence = JobEvidence(100, done, begun=(Begun(StageOccurrence("join", 1), received=ran),))
        means.append(fan.belief(evidence).mean)
    assert means[0] > means[1] > means[2] > 0.0
    assert means[4] > means[3] > means[2]


def test_a_plan_names_its_tools(planner):
    """Which, and how often: a long tool is waited for, one that is not named is not."""
    plan = ended("plan", 0.0)
    long = planner.belief(JobEvidence(200, (plan,), planned=(("c", 1),)))
    short = planner.belief(JobEvidence(200, (plan,), planned=(("a", 1),)))
    assert long.mean == pytest.approx(50 * 1.04, rel=0.1)
    assert short.mean == pytest.approx(1.04, rel=0.2)
    assert short.present["c"] < 0.01 < 0.99 < short.present["a"]
    unheard = planner.belief(JobEvidence(200, (plan,), planned=(("a", 1), ("zither", 2))))
    assert unheard.mean == pytest.approx(short.mean, rel=0.2)


def test_a_loop_has_as_many_variables_as_runs_went_round(loop):
    """It ends when its node can come no more; before, it may go on."""
    names = [column.name for column in loop.columns if column.counts]
    assert names == [f"work:think#{i}" for i in (1, 2, 3, 4)]
    twice = (ended("think", 0.7, 1), ended("think", 0.7, 2))
    goes_on, is_over = JobEvidence(100, twice), JobEvidence(100, twice, skipped=frozenset({"think"}))
    assert loop.belief(is_over).mean == 0.0
    assert not loop.belief(is_over).open
    assert loop.belief(goes_on).mean > 0.1
    third = JobEvidence(100, twice, begun=(Begun(StageOccurrence("think", 3)),))
    assert loop.belief(third).mean > loop.belief(goes_on).mean
    assert loop.belief(third).present["think#3"] == pytest.approx(1.0)


def test_what_a_rare_job_does_many_times_is_in_the_tail():
    """A loop that few jobs go round so often is not unrolled so far; its tail goes on while the loop does."""
    model = learned([loop_job(n, 3 if n else 30) for n in range(40)])
    assert [column.stage for column in model.columns if column.counts] == [
        *(f"think#{i}" for i in (1, 2, 3)),
        "think#4+",
    ]
    done = tuple(ended("think", 0.5, i) for i in range(1, 11))
    assert model.belief(JobEvidence(100, done)).mean > 5.0
    assert model.belief(JobEvidence(100, done, skipped=frozenset({"think"}))).mean == 0.0


def test_long_loops_can_be_asked_everything():
    """What hangs together over many variables: no question needs a table over all of them."""
    model = learned([loop_job(n * 5, 1 + n % 12) for n in range(240)])
    assert len(model.stages) == 12
    belief = model.belief(NOTHING)
    assert 0.0 < belief.entropy_bits < 12 * math.log2(7) + 10
    assert belief.interval(0.8)[0] < belief.typical < belief.interval(0.8)[1]
    assert model.belief(NOTHING).uncertainty_reduction(StageOccurrence("think", 1)) >= 0.0


def test_nodes_that_only_runs_show_are_learned():
    """A graph of tasks shows nothing; a job that does not fit the template is no error."""
    jobs = [fan_job(n, 1 + n % 3) for n in range(20)]
    model = learn(Application.of("fan"), [observed(job) for job in jobs])
    assert set(model.stages) == {"split", "map", "join"}
    assert model.fingerprint == Application.of("fan").fingerprint


@pytest.mark.parametrize("jobs", range(5))
def test_before_there_is_much_to_learn_from_a_prior_serves(jobs):
    """Of every application, with any number of jobs, in every unit: never an error, always a number."""
    application = Application.of(
        "early", [Node("a", Kind.LLM, calls_llm=True), "b"], [("a", "b"), ("b", "a")], ["a"]
    )
    outcomes = [observed(loop_job(n, 2)) for n in range(jobs)]
    for template in (application, DIRECT, template_of("loop", [loop_job(0, 2)])):
        for unit in Unit:
            model = learn(template, outcomes, unit=unit)
            belief = model.belief(NOTHING)
            assert model.jobs == jobs
            assert 0.0 < belief.mean < 10 * prior.CALL[unit]
            assert math.isfinite(belief.entropy_bits)
            assert belief.quantiles[-1] > 0.0
            assert model.belief(NOTHING).uncertainty_reduction(StageOccurrence("a", 1)) == 0.0
            assert ApplicationModel.from_json(model.to_json()) == model


def test_a_few_jobs_sharpen_the_prior():
    application = template_of("loop", [loop_job(0, 1)])
    slow = [ObservedJob((ended("think", 40.0),)) for _ in range(4)]
    assert learn(application, slow).belief(NOTHING).mean > 5 * learn(application, []).belief(NOTHING).mean


def test_jobs_that_tell_nothing_are_left_out():
    """Those that were cancelled, and those whose seconds nobody recorded."""
    jobs = [observed(fan_job(n, 1 + n % 3)) for n in range(20)]
    cancelled = ObservedJob((ended("split", 999.0),), 100, complete=False)
    unknown = observed(planned_job(0, "a"))
    application = template_of("fan", [fan_job(0, 1)])
    assert learn(application, [*jobs, cancelled, unknown]) == learn(application, jobs)


def test_the_unit_is_the_models():
    """Tokens are learned as seconds are, and asked for in the same way."""
    jobs = [fan_job(n, (0, 1, 3, 9)[n % 4]) for n in range(60)]
    tokens, seconds = learned(jobs, unit=Unit.TOKENS), learned(jobs)
    assert tokens.belief(NOTHING).mean == pytest.approx(100 * seconds.belief(NOTHING).mean, rel=0.02)
    assert tokens.unit is Unit.TOKENS


def test_a_model_is_kept_as_json(fan, planner, loop):
    for model in (fan, planner, loop, two_chains()):
        text = json.dumps(model.to_json(), allow_nan=False)
        again = ApplicationModel.from_json(json.loads(text))
        assert again == model
        assert again.belief(NOTHING).mean == model.belief(NOTHING).mean
        assert pickle.loads(pickle.dumps(model)) == model


def test_a_model_and_its_beliefs_fit_a_line(fan):
    assert repr(fan.belief(NOTHING)) == (
        f"<Belief of <ApplicationModel {fan.fingerprint}: 3 stages, network of 60 jobs> after 0 stages>"
    )
    assert hash(fan.belief(NOTHING)) == hash(copy.copy(fan.belief(NOTHING)))


def test_an_interval_has_its_ends_among_the_quantiles(fan):
    belief = fan.belief(NOTHING)
    assert belief.interval(0.5) == (belief.quantiles[4], belief.quantiles[14])
    with pytest.raises(ValueError, match="share"):
        belief.interval(0.83)


FIELDS = ("version", "fingerprint", "unit", "jobs", "columns", "bins", "network")


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("bad", [None, -1, "x", [1], {"a": 1}, 1.5, True, "missing"])
def test_a_damaged_field_is_named(field, bad):
    """Every field of the model, missing or of any wrong type."""
    data = two_chains().to_json()
    if bad == "missing":
        del data[field]
    elif isinstance(bad, str) and field == "fingerprint":
        return
    else:
        data[field] = bad
    with pytest.raises(InvalidDataError, match=rf"^({field}|network)[.:\[]"):
        ApplicationModel.from_json(data)


@pytest.mark.parametrize("field", ["quantity", "node", "first", "last", "tool"])
@pytest.mark.parametrize("bad", [-1, [1], 1.5, True, "missing"])
def test_a_damaged_column_is_named(field, bad):
    data = two_chains().to_json()
    if bad == "missing":
        del data["columns"][2][field]
    else:
        data["columns"][2][field] = bad
    with pytest.raises(InvalidDataError, match=rf"^columns\[2\]\.{field}:"):
        ApplicationModel.from_json(data)


def test_parts_that_do_not_fit_each_other_are_refused():
    """Another version, a column without a variable, bins of another variable, no object at all."""
    model = two_chains()
    for change, at in (
        ({"version": 2}, "version: must be 1, the only supported version, not 2$"),
        ({"columns": model.to_json()["columns"][:-1]}, r"network\.names:"),
        ({"bins": model.to_json()["bins"][:-1]}, r"network\.cards:"),
    ):
        with pytest.raises(InvalidDataError, match=rf"^{at}"):
            ApplicationModel.from_json({**model.to_json(), **change})
    for bad in (None, [], "text", 3):
        with pytest.raises(InvalidDataError, match=r"^the document: must be an object"):
            ApplicationModel.from_json(bad)


def test_columns_stand_in_the_order_of_the_template(planner):
    """The whole first, then the input, then what a plan reveals before what it leads to."""
    kinds = [column.quantity for column in planner.columns]
    assert kinds[0] is Quantity.TOTAL
    assert kinds.index(Quantity.TASKS) < kinds.index(Quantity.PLANNED) < kinds.index(Quantity.TOOL)


def test_a_wide_stage_is_judged_by_its_runs_that_are_over():
    """Also where its width never changes, so that no variable stands for it."""

    def wide(number):
        each = 2.0 + number % 7
        runs = EndedStage(name="many", kind="llm", deps=(), calls=tuple(call(10, each) for _ in range(8)))
        return EndedJob(id=f"wide/{number}", app="wide", jct_s=None, stages=(runs,))

    model = learned([wide(n) for n in range(60)])
    assert Quantity.FAN_OUT not in {column.quantity for column in model.columns}
    for each in (2.0, 8.0):
        begun = Begun(StageOccurrence("many", 1), 8, 4 * each, 4, 4 * each)
        belief = model.belief(JobEvidence(80, begun=(begun,)))
        assert belief.mean == pytest.approx(4 * each, rel=0.5)  # two runs of five count beside the four
        left = belief.expected[StageOccurrence("many", 1)].left(6 * each, 6, 6 * each)
        assert left == pytest.approx(2 * each, rel=0.5)
