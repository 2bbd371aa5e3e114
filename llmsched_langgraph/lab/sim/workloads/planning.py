"""Generates jobs of the two planning applications: task automation (HuggingGPT) and LLMCompiler.

Does not assign arrival times. The source of each number stands beside it; "hermes_apps" are the recorded
executions of github.com/NephrenCake/Hermes, Hermes/Datasets.
"""

from __future__ import annotations

import numpy as np

from llmsched_langgraph._jobs.ended import EndedJob
from llmsched_langgraph.lab.sim.workloads.draws import Choice, JobBuilder, LogNormal, normal, pick
from llmsched_langgraph.traces.speed import TokenSpeed

# Task automation: hermes_apps hugginggpt, n = 89 jobs with 269 sub-tasks; with hugginggpt_timed, n = 18 with
# 45, for the tools.
SUBTASKS = Choice({1: 1, 2: 31, 3: 29, 4: 23, 5: 4, 7: 1})
INSTRUCTIONS = 1570
"""Tokens of the planner's prompt without the request; the same in every job."""
REQUEST = LogNormal(4.341, 0.186, 48, 199)
PLAN_BASE, PLAN_PER_SUBTASK, PLAN_SD = 2.9, 37.8, 12.7
"""Tokens of the plan, by least squares on its sub-tasks: intercept, slope, residual SD (rho 0.87)."""
TOOLS = {
    "visual-question-answering": 52,
    "image-to-text": 49,
    "text-to-image": 40,
    "object-detection": 29,
    "image-to-image": 25,
    "image-segmentation": 25,
    "translation": 23,
    "text-to-video": 18,
    "summarization": 17,
    "depth-estimation": 16,
    "text-generation": 12,
    "conversational": 6,
}
"""Count of each tool in the plans, n = 312. A plan names a tool at most once (87 of 89). Two further tools
occurred once each."""
TOOL_S = {
    "visual-question-answering": LogNormal(0.613, 0.343, 1.456, 4.843),
    "image-to-text": LogNormal(1.486, 0.168, 3.739, 7.690),
    "text-to-image": LogNormal(2.746, 0.049, 14.565, 18.328),
    "object-detection": LogNormal(0.606, 0.261, 1.627, 6.284),
    "image-to-image": LogNormal(2.809, 0.035, 15.518, 18.200),
    "image-segmentation": LogNormal(0.266, 0.253, 1.121, 4.429),
    "text-to-video": LogNormal(3.531, 0.029, 32.855, 36.830),
    "depth-estimation": LogNormal(1.397, 0.084, 3.470, 4.542),
}
"""Seconds of the tools that are separate models. The tool explains most of the variance (R2 0.97)."""
TEXT_TOOLS = {
    "translation": (151, LogNormal(2.762, 0.463, 7, 49)),
    "summarization": (171, LogNormal(3.414, 1.029, 10, 366)),
    "text-generation": (148, LogNormal(3.900, 1.227, 5, 589)),
    "conversational": (141, LogNormal(4.448, 1.169, 22, 479)),
}
"""Tools that are calls of the language model: mean prompt tokens, and output tokens."""
CHOOSES_MODEL = ("object-detection", "depth-estimation")
"""Tools for which an LLM call first chooses the model: all 45 sub-tasks with these tools, and no others."""
CHOOSE_PROMPT, CHOOSE_OUTPUT = LogNormal(6.039, 0.036, 387, 458), LogNormal(4.494, 0.150, 65, 130)
FOLLOWS_PREVIOUS = 0.82
"""Share of the sub-tasks after the first of a plan that need another sub-task's result, nearly always the
preceding one's: 169 of 207."""
RESPOND_BASE, RESPOND_PER_SUBTASK, RESPOND_SD = 167.0, 161.0, 130.0
"""Prompt tokens of the answer, by least squares on sub-tasks: intercept, slope, residual SD (rho 0.72)."""
ANSWER_MU, ANSWER_PER_PROMPT_TOKEN, ANSWER_SIGMA = 5.492, 0.001144, 0.240
"""Log tokens of the answer, by least squares on prompt tokens: intercept, slope, residual SD (rho 0.72)."""


def task_automation(rng: np.random.Generator, job_id: str, speed: TokenSpeed) -> EndedJob:
    """Plan, run the sub-tasks of the plan, and respond when all have ended."""
    job = JobBuilder(speed)
    count = SUBTASKS.draw(rng)
    request = REQUEST.tokens(normal(rng))
    plan = max(round(PLAN_BASE + PLAN_PER_SUBTASK * count + PLAN_SD * normal(rng)), 10)
    planned = job.llm("plan", [(INSTRUCTIONS + request, plan)])
    done: list[int] = []
    left = dict(TOOLS)
    for _ in range(count):
        tool = pick(rng, left)
        del left[tool]
        follows = bool(done) and rng.random() < FOLLOWS_PREVIOUS
        after = done[-1] if follows else planned
        if tool in CHOOSES_MODEL:
            choice = (CHOOSE_PROMPT.tokens(normal(rng)), CHOOSE_OUTPUT.tokens(normal(rng)))
            after = job.llm("choose_model", [choice], (after,))
        done.append(_subtask(job, rng, tool, after))
    prompt = max(round(RESPOND_BASE + RESPOND_PER_SUBTASK * count + RESPOND_SD * normal(rng)), 200)
    answer = LogNormal(ANSWER_MU + ANSWER_PER_PROMPT_TOKEN * prompt, ANSWER_SIGMA, 284, 1670)
    job.llm("respond", [(prompt, answer.tokens(normal(rng)))], done)
    return job.job(job_id, "task_automation")


def _subtask(job: JobBuilder, rng: np.random.Generator, tool: str, after: int) -> int:
    if tool in TOOL_S:
        return job.tool("subtask", TOOL_S[tool].at(normal(rng)), (after,), tool)
    prompt, output = TEXT_TOOLS[tool]
    return job.llm("subtask", [(prompt, output.tokens(normal(rng)))], (after,), tool)


# LLMCompiler on ParallelQA, its benchmark with plans of different shapes. Executions are not published:
# tokens (cl100k) are those of the prompts, example plans and example answers in github.com/SqueezeAILab/
# LLMCompiler at a00c9d3, configs/parallelqa and src (MIT). Its `math` tool is a call of the language model.
BRANCHES = Choice({2: 16, 3: 20, 4: 25, 5: 21})
"""Entities to search for: field `branch` of parallelqa_dataset.json, n = 82."""
QUESTION_BASE, QUESTION_PER_BRANCH, QUESTION_SD = 18.7, 8.02, 9.6
"""Tokens of the question, by least squares on branches: intercept, slope, residual SD (rho 0.59, n = 82)."""
PLANNER_PROMPT = 1551
"""Tokens: instructions 269, `join` 123, `math` 461, `search` 40, examples 658."""
COMPILED_BASE, COMPILED_PER_ACTION, COMPILED_SD = 10.8, 15.95, 9.0
"""Tokens of the plan, by least squares on its actions (5 example plans): intercept, slope, residual SD."""
SHAPES = {"each, then all": 2, "each": 1, "pairs, then all": 1, "all": 1}
"""Input of the `math` calls in the 5 example plans: each entity and then all results, each entity only, pairs
of entities and then all results, or all entities at once."""
ENTITY = LogNormal(5.458, 0.212, 149, 314)
"""Result of a search, tokens: the 10 paragraphs in the examples of the `join` prompt."""
ENTITY_S = LogNormal(0.715, 0.381, 1.16, 5.57)
"""Seconds of a Wikipedia search: hermes_apps react_fever, n = 76 searches with positive seconds."""
MATH_PROMPT, MATH_OUTPUT = 800, LogNormal(3.689, 0.2, 20, 80)
"""Prompt of a `math` call without its context (template 342, guidelines 440, question 18), and its output.
The answer in the template has 40 tokens. The sigma of 0.2 is assumed, since none is published."""
JOIN_PROMPT, JOIN_OUTPUT = 3121, LogNormal(2.987, 0.12, 16, 33)
"""The `join` prompt and its answer; the example answers have 20, 22, 22 and 16 tokens. With `max_replans` 1
there is one plan."""


def llm_compiler(rng: np.random.Generator, job_id: str, speed: TokenSpeed) -> EndedJob:
    """Plan, search for all entities in parallel, make the plan's `math` calls, and join."""
    job = JobBuilder(speed)
    branches, shape = BRANCHES.draw(rng), pick(rng, SHAPES)
    question = max(round(QUESTION_BASE + QUESTION_PER_BRANCH * branches + QUESTION_SD * normal(rng)), 23)
    size = {"each, then all": 1, "each": 1, "pairs, then all": 2, "all": branches}[shape]
    groups = [range(start, min(start + size, branches)) for start in range(0, branches, size)]
    total = shape.endswith("then all") and len(groups) > 1
    actions = branches + len(groups) + total
    plan = round(COMPILED_BASE + COMPILED_PER_ACTION * actions + COMPILED_SD * normal(rng))
    planned = job.llm("plan", [(PLANNER_PROMPT + question, max(plan, 20))])
    found = [ENTITY.tokens(normal(rng)) for _ in range(branches)]
    searches = [job.tool("task", ENTITY_S.at(normal(rng)), (planned,), "search") for _ in range(branches)]
    sums = [
        _math(job, rng, sum(found[at] for at in group), [searches[at] for at in group]) for group in groups
    ]
    if total:
        sums.append(_math(job, rng, 0, sums))
    join = (JOIN_PROMPT + question + sum(found) + actions * 12, JOIN_OUTPUT.tokens(normal(rng)))
    job.llm("join", [join], [*searches, *sums])
    return job.job(job_id, "llm_compiler")


def _math(job: JobBuilder, rng: np.random.Generator, context: int, deps: list[int]) -> int:
    return job.llm("task", [(MATH_PROMPT + context, MATH_OUTPUT.tokens(normal(rng)))], deps, "math")
