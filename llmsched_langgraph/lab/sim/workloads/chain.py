"""Generates jobs of the two applications with a loop: code generation and ReAct web search.

Does not assign arrival times. The source of each number stands beside it; "hermes_apps" are the recorded
executions of github.com/NephrenCake/Hermes, Hermes/Datasets.
"""

from __future__ import annotations

import numpy as np

from llmsched_langgraph._jobs.ended import EndedJob
from llmsched_langgraph.lab.sim.workloads.draws import Choice, JobBuilder, LogNormal, linked, normal
from llmsched_langgraph.traces.speed import TokenSpeed

# Code generation: hermes_apps code_feedback (HumanEval, at most 5 attempts), n = 119 jobs.
ATTEMPTS = Choice({1: 102, 2: 9, 5: 8})
"""Number of attempts. The first attempt does not predict it (rho -0.05)."""
PROBLEM = LogNormal(5.125, 0.382, 72, 397)
"""Prompt of the first attempt, tokens; uncorrelated with the answer's length (rho 0.06)."""
FIRST_ATTEMPT = LogNormal(5.063, 0.567, 42, 595)
REFINEMENT = LogNormal(5.747, 0.317, 140, 545)
"""Output of a retry, tokens, n = 41; the mean of each retry is 321 to 340 tokens."""
FIRST_RETRY_LINK = 0.75
"""Correlation of the log output tokens of the first attempt and the first retry, n = 17."""
RETRY_LINK = 0.92
"""The same for successive retries, n = 24. (Reflexion, github.com/noahshinn/reflexion: rho 0.86, n = 778.)"""
FEEDBACK = LogNormal(6.302, 0.222, 364, 750)
"""Tokens that a retry adds to the last prompt and answer: the test's output and the instructions."""
EXECUTE_S = LogNormal(-1.032, 0.035, 0.33, 0.39)
"""Seconds to run a program: hermes_apps factool_code, n = 110. (code_feedback's own 12.3 s include the start
of a sandbox, an artefact according to its documentation.)"""


def code_generation(rng: np.random.Generator, job_id: str, speed: TokenSpeed) -> EndedJob:
    """Generate and execute a program; refine and execute it again while it fails."""
    job = JobBuilder(speed)
    attempts, z = ATTEMPTS.draw(rng), normal(rng)
    prompt, output = PROBLEM.tokens(normal(rng)), FIRST_ATTEMPT.tokens(z)
    at = job.llm("generate", [(prompt, output)])
    at = job.tool("execute", EXECUTE_S.at(normal(rng)), (at,))
    for attempt in range(1, attempts):
        z = linked(rng, z, FIRST_RETRY_LINK if attempt == 1 else RETRY_LINK)
        prompt += output + FEEDBACK.tokens(normal(rng))
        output = REFINEMENT.tokens(z)
        at = job.llm("refine", [(prompt, output)], (at,))
        at = job.tool("execute", EXECUTE_S.at(normal(rng)), (at,))
    return job.job(job_id, "code_generation")


# Web search: HotpotQA trajectories of the plain ReAct agent (run `react_base` in hotpotqa_runs of
# github.com/noahshinn/reflexion), n = 99 questions, 371 steps; tokens are cl100k. That agent
# thinks and acts in two calls; here one call does both, as in ReAct itself.
STEPS = Choice({2: 7, 3: 52, 4: 14, 5: 11, 6: 15})
"""Calls of a job, the last of which answers; uncorrelated with the question's length (rho -0.12)."""
EXAMPLES = 1476
"""Tokens of the examples at the start of every prompt (prompts of github.com/ysymyth/ReAct)."""
QUESTION = LogNormal(2.950, 0.311, 10, 44)
THOUGHT_AND_ACTION = LogNormal(3.473, 0.327, 13, 194)
STEP_LINK = 0.11
"""Correlation of the log output tokens of successive steps (rho 0.18)."""
PAGE = LogNormal(4.737, 0.909, 13, 1045)
"""Result of a search, tokens, n = 267."""
PASSAGE = LogNormal(1.615, 1.440, 2, 86)
"""Result of a look-up in the page, tokens, n = 17."""
LOOKUPS = 0.06
"""Share of look-ups among the tool calls; a look-up searches the page at hand and takes no time."""
SEARCH_S = LogNormal(0.715, 0.381, 1.16, 5.57)
"""Seconds of a Wikipedia search: hermes_apps react_fever, n = 76 searches with positive seconds."""


def web_search(rng: np.random.Generator, job_id: str, speed: TokenSpeed) -> EndedJob:
    """Alternate a thought and a tool call; the last thought is the answer."""
    job = JobBuilder(speed)
    steps, z = STEPS.draw(rng), normal(rng)
    prompt = EXAMPLES + QUESTION.tokens(normal(rng))
    after: tuple[int, ...] = ()
    for step in range(1, steps + 1):
        output = THOUGHT_AND_ACTION.tokens(z)
        after = (job.llm("think", [(prompt, output)], after),)
        if step == steps:
            break
        if step > 1 and rng.random() < LOOKUPS:
            seen, seconds, tool = PASSAGE.tokens(normal(rng)), 0.0, "lookup"
        else:
            seen, seconds, tool = PAGE.tokens(normal(rng)), SEARCH_S.at(normal(rng)), "search"
        after = (job.tool("use_tool", seconds, after, tool),)
        prompt += output + seen
        z = linked(rng, z, STEP_LINK)
    return job.job(job_id, "web_search")
