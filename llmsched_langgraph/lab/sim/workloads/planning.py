"""Knows the two applications that plan first: task automation as HuggingGPT does it, and LLMCompiler.

Does not know when jobs arrive. What a number was measured on stands beside it; "hermes_apps" are the recorded
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
"""Tokens of the planner's prompt beside the request, in every job."""
REQUEST = LogNormal(4.341, 0.186, 48, 199)
PLAN_BASE, PLAN_PER_SUBTASK, PLAN_SD = 2.9, 37.8, 12.7
"""The plan's tokens: a line fitted to its sub-tasks, and the spread about it (rho 0.87)."""
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
"""How often each was planned, n = 312; a plan names a tool once (87 of 89). Two more were seen once each."""
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
"""Seconds of the tools that are models of their own. The tool explains nearly all of the time (R2 0.97)."""
TEXT_TOOLS = {
    "translation": (151, LogNormal(2.762, 0.463, 7, 49)),
    "summarization": (171, LogNormal(3.414, 1.029, 10, 366)),
    "text-generation": (148, LogNormal(3.900, 1.227, 5, 589)),
    "conversational": (141, LogNormal(4.448, 1.169, 22, 479)),
}
"""Sub-tasks that are calls of the language model: mean prompt tokens, output tokens."""
CHOOSES_MODEL = ("object-detection", "depth-estimation")
"""Tools for which a call picks the model first: all 45 such sub-tasks, and none of the others."""
CHOOSE_PROMPT, CHOOSE_OUTPUT = LogNormal(6.039, 0.036, 387, 458), LogNormal(4.494, 0.150, 65, 130)
FOLLOWS_PREVIOUS = 0.82
"""Share of the sub-tasks, the first of a plan apart, that need another one's result, nearly always that of
the one before: 169 of 207."""
RESPOND_BASE, RESPOND_PER_SUBTASK, RESPOND_SD = 167.0, 161.0, 130.0
"""Prompt tokens of the answer by sub-tasks: a line fitted, and the spread about it (rho 0.72)."""
ANSWER_MU, ANSWER_PER_PROMPT_TOKEN, ANSWER_SIGMA = 5.492, 0.001144, 0.240
"""The logarithm of the answer's tokens by its prompt's: a line fitted, and the spread about it (rho 0.72)."""


def task_automation(rng: np.random.Generator, job_id: str, speed: TokenSpeed) -> EndedJob:
    """Plan, run the sub-tasks that the plan names, respond when all are done."""
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


# LLMCompiler on ParallelQA, its benchmark whose plans differ in shape. No execution of it was ever published:
# tokens (cl100k) are those of the prompts, example plans and example answers in github.com/SqueezeAILab/
# LLMCompiler at a00c9d3, configs/parallelqa and src (MIT). Its `math` tool is a call of the language model.
BRANCHES = Choice({2: 16, 3: 20, 4: 25, 5: 21})
"""Things to look up: field `branch` of parallelqa_dataset.json, n = 82."""
QUESTION_BASE, QUESTION_PER_BRANCH, QUESTION_SD = 18.7, 8.02, 9.6
"""The question's tokens: a line fitted to those 82, and the spread about it (rho 0.59)."""
PLANNER_PROMPT = 1551
"""Instructions 269, `join` 123, `math` 461, `search` 40, examples 658."""
COMPILED_BASE, COMPILED_PER_ACTION, COMPILED_SD = 10.8, 15.95, 9.0
"""The plan's tokens by its actions: a line fitted to the 5 example plans, and the spread about it."""
SHAPES = {"each, then all": 2, "each": 1, "pairs, then all": 1, "all": 1}
"""Where the 5 example plans do sums: on each thing found and then on all results, on each only, on pairs of
things and then on all, on all at once."""
ENTITY = LogNormal(5.458, 0.212, 149, 314)
"""What a search brings, tokens: the 10 paragraphs in the examples of the prompt that joins."""
ENTITY_S = LogNormal(0.715, 0.381, 1.16, 5.57)
"""Seconds of a Wikipedia search: hermes_apps react_fever, n = 76 that took any."""
MATH_PROMPT, MATH_OUTPUT = 800, LogNormal(3.689, 0.2, 20, 80)
"""A sum's prompt beside what it is about (template 342, guidelines 440, question 18); the answer in the
template has 40 tokens. Its spread is not published: 0.2 is assumed."""
JOIN_PROMPT, JOIN_OUTPUT = 3121, LogNormal(2.987, 0.12, 16, 33)
"""The prompt that joins; its answers have 20, 22, 22 and 16 tokens. `max_replans` is 1: there is one plan."""


def llm_compiler(rng: np.random.Generator, job_id: str, speed: TokenSpeed) -> EndedJob:
    """Plan, search for all things at once, do the sums that the plan asks for, join."""
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
