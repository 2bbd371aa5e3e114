"""Small models by hand, jobs that teach something, and what a model says by plain enumeration."""

from __future__ import annotations

import numpy as np

from llmsched_langgraph.belief.bins import Bins
from llmsched_langgraph.belief.columns import Column, Quantity
from llmsched_langgraph.belief.model import ApplicationModel
from llmsched_langgraph.belief.network import Network
from llmsched_langgraph.belief.outcome import Part, StageOutcome, Unit
from llmsched_langgraph.dag.position import Spot
from llmsched_langgraph.traces.job import TraceCall, TraceJob, TraceStage
from support.networks import joint


def model_of(names, values, parents, tables):
    """A model of stages by name; each bin of a stage holds one of its `values`."""
    columns = tuple(Column(Quantity.WORK, name) for name in names)
    bins = tuple(Bins.fit([None, *own]) for own in values)
    network = Network(tuple(c.name for c in columns), tuple(b.states for b in bins), parents, tables)
    return ApplicationModel("f" * 16, Unit.SECONDS, columns, bins, network, 100)


def ended(name, work_s, occurrence=1):
    """A stage that finished after one call."""
    return StageOutcome(Spot(name, occurrence), (Part(calls=1, work_s=work_s),))


def posterior(model, likelihoods):
    """P(all states | E), by enumeration."""
    table = joint(model.network, likelihoods)
    return table / table.sum()


def mean_of(model, table, amounts):
    """E[sum of amounts] under a joint table; `amounts` gives, by variable, one number a state."""
    total = 0.0
    for states in np.ndindex(*table.shape):
        total += table[states] * sum(own[states[i]] for i, own in amounts.items())
    return total


def call(output, seconds=None, prompt=100):
    """A call that took a hundredth of a second a token, unless said otherwise."""
    return TraceCall(prompt, output, output / 100 if seconds is None else seconds)


def planned_job(number, tools, plan=50):
    """A plan, the tools that it names side by side, an answer. Tool `a` takes 1 s, `b` 10 s, `c` 50 s."""
    seconds = {"a": 1.0, "b": 10.0, "c": 50.0}
    runs = tuple(
        TraceStage("use", "tool", (0,), (TraceCall(None, None, seconds[tool] * (1 + number % 5 / 50)),), tool)
        for tool in tools
    )
    after = tuple(range(1, len(runs) + 1)) or (0,)
    return TraceJob(
        f"job-{number}",
        "planner",
        None,
        (
            TraceStage("plan", "llm", (), (TraceCall(200, plan, None),)),
            *runs,
            TraceStage("answer", "llm", after, (TraceCall(300, 80, None),)),
        ),
    )


def fan_job(number, width, app="fan"):
    """One call that decides how many come next; each of those takes as long as the first."""
    first = 20 * width + number % 7
    stages = [TraceStage("split", "llm", (), (call(first),))]
    if width:
        stages.append(TraceStage("map", "llm", (0,), tuple(call(40 + number % 3) for _ in range(width))))
        stages.append(TraceStage("join", "llm", (1,), (call(30 * width),)))
    return TraceJob(f"fan/{number}", app, None, tuple(stages))


def loop_job(number, times, app="loop"):
    """Think and act in turns."""
    stages = []
    for _ in range(times):
        after = (len(stages) - 1,) if stages else ()
        stages.append(TraceStage("think", "llm", after, (call(50 + 7 * (number % 11)),)))
        stages.append(TraceStage("act", "tool", (len(stages) - 1,), (TraceCall(None, None, 0.5),)))
    return TraceJob(f"loop/{number}", app, None, tuple(stages))
