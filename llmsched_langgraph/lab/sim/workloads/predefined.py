"""Generates jobs of the two fixed graphs (Graph of Thoughts): sequence sorting, document merging.

Does not assign arrival times. "hermes_apps" are the recorded executions of github.com/NephrenCake/Hermes,
Hermes/Datasets (Llama-family model on vLLM; only token counts are used). The source of each number stands
beside it; n is the sample size.
"""

from __future__ import annotations

from math import exp, log

import numpy as np

from llmsched_langgraph._jobs.ended import EndedJob
from llmsched_langgraph.lab.sim.workloads.draws import JobBuilder, LogNormal, linked, normal, pick
from llmsched_langgraph.traces.speed import TokenSpeed

# Sequence sorting. Shape and tokens: hermes_apps got_sort128, n = 6 jobs of 151 calls. Tokens are cl100k.
LENGTHS = {32: 1, 64: 1, 128: 1}
"""Numbers to sort: the three published sets, sorting_032/064/128.csv of spcl/graph-of-thoughts, 100 each.
Only 128 was recorded; the shorter ones run the same graph with fewer chunks."""
CHUNK = 16
"""Numbers in a chunk (128 numbers were split into 8)."""
SORTS, MERGES, IMPROVES, LAST_IMPROVES = 5, 10, 5, 10
"""Calls of a stage: 5 to sort a chunk, 10 to merge, 5 to improve a merge, 10 to improve the last merge."""
TOKENS_PER_NUMBER = 3.06
"""Tokens per number of a sorted list: merges of 32, 64 and 128 numbers have a mean of 98.7, 198.5, 390.9."""
SPLIT_PROMPT, SPLIT_PER_NUMBER = 1158, 3.39
"""Tokens of the split; with 128 numbers, its prompt has 1,542 and its answer 434."""
SORT_PROMPT, SORT_OUTPUT = 768, LogNormal(log(50.4), 0.045, 48, 56)
"""Mean 50.4, standard deviation 2.3, n = 240."""
MERGE_PROMPT, MERGE_PER_NUMBER = 157, 3.07
"""Prompts of 255.5, 353.8 and 549.5 tokens for 32, 64 and 128 numbers."""
MERGE_SIGMA = 0.044
"""Standard deviations of 4 to 5 in 99 (n = 240) and 7 to 9 in 198 (n = 120)."""
IMPROVE_PROMPT, IMPROVE_PER_NUMBER = 1288, 6.0
"""Prompts of 1,480, 1,676 and 2,054 tokens."""
IMPROVE_OUTPUT = {
    32: LogNormal(4.947, 0.307, 113, 661),  # n = 120
    64: LogNormal(5.802, 0.502, 216, 1218),  # n = 60
    128: LogNormal(7.038, 0.399, 689, 2010),  # n = 60
}
IMPROVE_SHARED = {32: 0.25, 64: 0.40, 128: 0.10}
"""Share of the log variance that is common to the calls of one stage: the means of the stages have standard
deviations of 0.155, 0.319 and 0.125."""


def sequence_sorting(rng: np.random.Generator, job_id: str, speed: TokenSpeed) -> EndedJob:
    """Split, sort the chunks, then merge and improve pairs of lists until one list is left."""
    length = pick(rng, LENGTHS)
    job = JobBuilder(speed)
    split = job.llm("split", [(SPLIT_PROMPT + 3 * length, round(SPLIT_PER_NUMBER * length))])
    lists = [job.llm("sort", _sorts(rng), (split,)) for _ in range(length // CHUNK)]
    merged = CHUNK
    while len(lists) > 1:
        merged *= 2
        merges = [
            job.llm("merge", _merges(rng, merged), lists[at : at + 2]) for at in range(0, len(lists), 2)
        ]
        calls = LAST_IMPROVES if merged == length else IMPROVES
        lists = [job.llm("improve", _improves(rng, merged, calls), (merge,)) for merge in merges]
    return job.job(job_id, "sequence_sorting")


def _sorts(rng: np.random.Generator) -> list[tuple[int, int]]:
    return [(SORT_PROMPT, SORT_OUTPUT.tokens(normal(rng))) for _ in range(SORTS)]


def _merges(rng: np.random.Generator, merged: int) -> list[tuple[int, int]]:
    listed = TOKENS_PER_NUMBER * merged
    output = LogNormal(log(listed), MERGE_SIGMA, 0.9 * listed, 1.7 * listed)
    prompt = round(MERGE_PROMPT + MERGE_PER_NUMBER * merged)
    return [(prompt, output.tokens(normal(rng))) for _ in range(MERGES)]


def _improves(rng: np.random.Generator, merged: int, calls: int) -> list[tuple[int, int]]:
    shared, output = normal(rng), IMPROVE_OUTPUT[merged]
    prompt = round(IMPROVE_PROMPT + IMPROVE_PER_NUMBER * merged)
    link = IMPROVE_SHARED[merged] ** 0.5
    return [(prompt, output.tokens(linked(rng, shared, link))) for _ in range(calls)]


# Document merging: hermes_apps got_docmerge, configuration "new", n = 76 jobs of 105 calls.
GENERATES, AGGREGATES, SECOND_GENERATES = 2, 2, 1
"""Calls of the three stages that write a merged document."""
SCORES_PER_DOCUMENT = 20
"""Scoring calls for each document of the stage before."""
DOCUMENTS_PROMPT = LogNormal(7.321, 0.163, 1049, 2343)
"""Prompt of the first stage: instructions and four documents; weakly correlated with the rest (rho 0.17)."""
MERGED = LogNormal(6.798, 0.278, 413, 2355)
"""A job's mean merged document, tokens."""
WITHIN_GENERATE = 0.068
"""Standard deviation of the log tokens of one merged document about its job's mean."""
AGGREGATED, AGGREGATE_LINK = LogNormal(6.835, 0.301, 469, 2355), 0.93
"""Tokens of the aggregated document, and their log correlation with the first merged document (rho 0.92)."""
SECOND, SECOND_LINK = LogNormal(6.805, 0.272, 458, 1709), 0.85
"""Tokens of the second merged document, and their log correlation with the first (rho 0.84, n = 76)."""
SCORE = LogNormal(6.050, 0.253, 128, 1118)
"""Mean tokens of a job's score calls; uncorrelated with the documents' length (rho -0.16 to 0.06)."""
SCORE_LINK = 0.91
"""Correlation of the mean score tokens of successive score stages; 0.91, 0.86 and 0.81 were measured."""
WITHIN_SCORE = 0.23
"""Standard deviation of the log tokens of one score about its stage's mean: 0.24, 0.23, 0.22."""
SCORE_EXTRA, AGGREGATE_EXTRA, SECOND_EXTRA = 119, -35, -76
"""Prompt tokens of a stage minus the first stage's prompt and the documents: means of 76 jobs."""


def document_merging(rng: np.random.Generator, job_id: str, speed: TokenSpeed) -> EndedJob:
    """Generate, score, aggregate, score, generate, score: a fixed chain of wide stages."""
    documents = DOCUMENTS_PROMPT.tokens(normal(rng))
    length, score = normal(rng), normal(rng)
    first = [round(MERGED.at(length) * exp(WITHIN_GENERATE * normal(rng))) for _ in range(GENERATES)]
    aggregated = AGGREGATED.tokens(linked(rng, length, AGGREGATE_LINK))
    second = SECOND.tokens(linked(rng, length, SECOND_LINK))
    job = JobBuilder(speed)
    at = job.llm("generate1", ((documents, written) for written in first))
    at = job.llm("score1", _scores(rng, documents, first, score), (at,))
    prompt = documents + AGGREGATE_EXTRA + sum(first)
    at = job.llm("aggregate", [(prompt, aggregated)] * AGGREGATES, (at,))
    score = linked(rng, score, SCORE_LINK)
    at = job.llm("score2", _scores(rng, documents, [aggregated] * AGGREGATES, score), (at,))
    at = job.llm("generate2", [(documents + SECOND_EXTRA + aggregated, second)] * SECOND_GENERATES, (at,))
    job.llm("score3", _scores(rng, documents, [second], linked(rng, score, SCORE_LINK)), (at,))
    return job.job(job_id, "document_merging")


def _scores(rng: np.random.Generator, prompt: int, written: list[int], z: float) -> list[tuple[int, int]]:
    one = LogNormal(log(SCORE.at(z)) - WITHIN_SCORE**2 / 2, WITHIN_SCORE, SCORE.low, SCORE.high)
    return [
        (prompt + length + SCORE_EXTRA, one.tokens(normal(rng)))
        for length in written
        for _ in range(SCORES_PER_DOCUMENT)
    ]
