"""Generates jobs of the paper's six applications and four mixes from a seed.

Does not assign arrival times.
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
"""The function that generates one job of each application, by name."""

MIXES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "predefined": ("sequence_sorting", "document_merging"),
        "chain": ("code_generation", "web_search"),
        "planning": ("task_automation", "llm_compiler"),
        "mixed": tuple(APPLICATIONS),
    }
)
"""The paper's workloads; a mix draws the application of each job uniformly."""

_JOBS, _RESAMPLED = 1, 2
"""Independent random streams of one seed."""


def generate(mix: str, jobs: int, seed: int, *, speed: TokenSpeed = MEASURED_SPEED) -> list[EndedJob]:
    """Generate jobs of a mix or of one application.

    With the same seed, a shorter list is a prefix of a longer one.

    Args:
        mix: A name in `MIXES` or in `APPLICATIONS`.
        jobs: Number of jobs, 0 or more.
        seed: Seed of all random choices, 0 or more.
        speed: How long an LLM call takes for its tokens. Tokens and tools do not depend on it.

    Raises:
        ConfigurationError: The mix does not exist, or a number is negative.
    """
    names = MIXES.get(mix, (mix,))
    if names == (mix,) and mix not in APPLICATIONS:
        known = ", ".join((*MIXES, *APPLICATIONS))
        raise ConfigurationError(f"unknown workload {mix!r}; choose one of {known}")
    _check(jobs, seed)
    made = []
    for number in range(jobs):
        rng = np.random.default_rng((seed, _JOBS, number))
        name = names[int(rng.integers(len(names)))]
        made.append(APPLICATIONS[name](rng, f"{name}-{number}", speed))
    return made


def resample(recorded: Sequence[EndedJob], jobs: int, seed: int) -> list[EndedJob]:
    """Draw recorded jobs with replacement; each id gets the number of its draw as a suffix.

    Raises:
        ConfigurationError: `recorded` is empty, or a number is negative.
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
