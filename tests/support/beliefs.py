"""Small models by hand, jobs that teach something, and what a model says by plain enumeration."""

from __future__ import annotations

import numpy as np

from llmsched_langgraph._belief.model.bins import Bins
from llmsched_langgraph._belief.model.columns import Column, Quantity
from llmsched_langgraph._belief.model.model import ApplicationModel
from llmsched_langgraph._belief.network.network import Network
from llmsched_langgraph._jobs.observed import ObservedStage, Part, Unit
from llmsched_langgraph._jobs.stages import StageOccurrence
from llmsched_langgraph.traces import EndedCall, EndedJob, EndedStage
from support.networks import joint


def model_of(names, values, parents, tables):
    """A model of stages by name; each bin of a stage holds one of its `values`."""
    columns = tuple(Column(Quantity.WORK, name) for name in names)
    bins = tuple(Bins.fit([None, *own]) for own in values)
    network = Network(tuple(c.name for c in columns), tuple(b.states for b in bins), parents, tables)
    return ApplicationModel(
        fingerprint="f" * 16, unit=Unit.SECONDS, columns=columns, bins=bins, network=network, jobs=100
    )


def ended(name, work_s, occurrence=1):
    """A stage that finished after one call."""
    return ObservedStage(StageOccurrence(name, occurrence), (Part(calls=1, work_s=work_s),))


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
    return EndedCall(prompt, output, output / 100 if seconds is None else seconds)


def planned_job(number, tools, plan=50):
    """A plan, the tools that it names side by side, an answer. Tool `a` takes 1 s, `b` 10 s, `c` 50 s."""
    seconds = {"a": 1.0, "b": 10.0, "c": 50.0}
    runs = tuple(
        EndedStage(
            name="use",
            kind="tool",
            deps=(0,),
            calls=(EndedCall(None, None, seconds[tool] * (1 + number % 5 / 50)),),
            tool=tool,
        )
        for tool in tools
    )
    after = tuple(range(1, len(runs) + 1)) or (0,)
    return EndedJob(
        id=f"job-{number}",
        app="planner",
        jct_s=None,
        stages=(
            EndedStage(name="plan", kind="llm", deps=(), calls=(EndedCall(200, plan, None),)),
            *runs,
            EndedStage(name="answer", kind="llm", deps=after, calls=(EndedCall(300, 80, None),)),
        ),
    )


def fan_job(number, width, app="fan"):
    """One call that decides how many come next; each of those takes as long as the first."""
    first = 20 * width + number % 7
    stages = [EndedStage(name="split", kind="llm", deps=(), calls=(call(first),))]
    if width:
        stages.append(
            EndedStage(
                name="map", kind="llm", deps=(0,), calls=tuple(call(40 + number % 3) for _ in range(width))
            )
        )
        stages.append(EndedStage(name="join", kind="llm", deps=(1,), calls=(call(30 * width),)))
    return EndedJob(id=f"fan/{number}", app=app, jct_s=None, stages=tuple(stages))


def loop_job(number, times, app="loop"):
    """Think and act in turns."""
    stages = []
    for _ in range(times):
        after = (len(stages) - 1,) if stages else ()
        stages.append(EndedStage(name="think", kind="llm", deps=after, calls=(call(50 + 7 * (number % 11)),)))
        stages.append(
            EndedStage(name="act", kind="tool", deps=(len(stages) - 1,), calls=(EndedCall(None, None, 0.5),))
        )
    return EndedJob(id=f"loop/{number}", app=app, jct_s=None, stages=tuple(stages))
