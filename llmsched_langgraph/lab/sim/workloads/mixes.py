"""Knows the paper's six applications, its four mixes of them, and how to make jobs of a mix from a seed.

Does not know when jobs arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from llmsched_langgraph._jobs.ended import EndedJob
from llmsched_langgraph.errors import ConfigurationError
from llmsched_langgraph.lab.sim.workloads.chain import code_generation, web_search
from llmsched_langgraph.lab.sim.workloads.planning import llm_compiler, task_automation
from llmsched_langgraph.lab.sim.workloads.predefined import document_merging, sequence_sorting
from llmsched_langgraph.traces.speed import MEASURED_SPEED, TokenSpeed

Generator = Callable[[np.random.Generator, str, TokenSpeed], EndedJob]

APPLICATIONS: Mapping[str, Generator] = MappingProxyType(
    {
        "sequence_sorting": sequence_sorting,
        "document_merging": document_merging,
        "code_generation": code_generation,
        "web_search": web_search,
        "task_automation": task_automation,
        "llm_compiler": llm_compiler,
    }
)
"""What makes one job of each application."""

MIXES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "predefined": ("sequence_sorting", "document_merging"),
        "chain": ("code_generation", "web_search"),
        "planning": ("task_automation", "llm_compiler"),
        "mixed": tuple(APPLICATIONS),
    }
)
"""The paper's workloads; in each, every job is equally likely to be of any of its applications."""

_JOBS, _RESAMPLED = 1, 2
"""Streams of random numbers that have nothing to do with each other, out of one seed."""


def generate(mix: str, jobs: int, seed: int, *, speed: TokenSpeed = MEASURED_SPEED) -> list[EndedJob]:
    """Jobs of a mix or of one application, the same for the same seed; a longer list begins as a shorter one.

    Args:
        mix: A name in `MIXES` or in `APPLICATIONS`.
        jobs: How many.
        seed: Where all randomness comes from, 0 or more.
        speed: What the seconds of LLM calls follow from; tokens and tools do not depend on it.

    Raises:
        ConfigurationError: There is no such mix, or a number is negative.
    """
    names = MIXES.get(mix, (mix,))
    if names == (mix,) and mix not in APPLICATIONS:
        known = ", ".join((*MIXES, *APPLICATIONS))
        raise ConfigurationError(f"workload: none is called {mix!r}; choose one of {known}")
    _check(jobs, seed)
    made = []
    for number in range(jobs):
        rng = np.random.default_rng((seed, _JOBS, number))
        name = names[int(rng.integers(len(names)))]
        made.append(APPLICATIONS[name](rng, f"{name}-{number}", speed))
    return made


def resample(recorded: Sequence[EndedJob], jobs: int, seed: int) -> list[EndedJob]:
    """Recorded jobs drawn with replacement, for more of them than were recorded; ids get the draw's number.

    Raises:
        ConfigurationError: There are none to draw from, or a number is negative.
    """
    _check(jobs, seed)
    if not recorded:
        raise ConfigurationError("workload: there are no recorded jobs to draw from")
    chosen = np.random.default_rng((seed, _RESAMPLED)).integers(len(recorded), size=jobs)
    return [
        replace(recorded[at], id=f"{recorded[at].id}#{number}") for number, at in enumerate(chosen.tolist())
    ]


def _check(jobs: int, seed: int) -> None:
    if jobs < 0 or seed < 0:
        raise ConfigurationError(f"workload: jobs and seed must be 0 or more, not {jobs} and {seed}")
