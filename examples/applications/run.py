"""Runs one of the applications, or all: `run.py APP [--runs N] [--scheduled] [--slots K] [--base-url U]`."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import itertools
import sys
import time
from statistics import fmean
from typing import Any

import openai
from langgraph.errors import GraphRecursionError
from model import SERVE_SIM, base_url, default_model, is_url

from llmsched_langgraph import LLMSchedError, Scheduler, schedule

APPLICATIONS = (
    "sequence_sorting",
    "document_merging",
    "code_generation",
    "web_search",
    "task_automation",
    "llm_compiler",
)
WIDTH = 150


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"write a whole number of at least 1, not {text!r}")
    return int(text)


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Run compound LLM applications against an OpenAI-compatible server. OPENAI_BASE_URL, "
        f"OPENAI_MODEL and OPENAI_API_KEY say which; without them it is llmsched serve-sim at {SERVE_SIM}."
    )
    parser.add_argument("app", metavar="APP", choices=(*APPLICATIONS, "all"), help="%(choices)s")
    parser.add_argument(
        "--runs", type=positive, default=4, metavar="N", help="of each, all at once (default: %(default)s)"
    )
    parser.add_argument("--scheduled", action="store_true", help="model calls take turns on slots")
    parser.add_argument("--slots", type=positive, metavar="K", help="how many (default: 4); says --scheduled")
    parser.add_argument("--base-url", metavar="URL", help="instead of OPENAI_BASE_URL")
    return parser.parse_args(arguments)


async def run_all(options: argparse.Namespace, scheduler: Scheduler | None) -> dict[str, list[float]]:
    """Start all runs at once; how long each took, by application."""
    model = default_model(options.base_url)
    began = time.perf_counter()
    took: dict[str, list[float]] = {}

    async def one(name: str, module: Any, graph: Any, given: dict[str, Any]) -> None:
        output = await graph.ainvoke(given)
        took.setdefault(name, []).append(time.perf_counter() - began)
        line = " ".join(f"{name}: {module.shown(output)}".split())
        print(line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}...", flush=True)

    runs = []
    for name in APPLICATIONS if options.app == "all" else [options.app]:
        module = importlib.import_module(name)
        graph = module.build(model)
        if scheduler is not None:
            graph = schedule(graph, scheduler)
        given = itertools.islice(itertools.cycle(module.inputs()), options.runs)
        runs += [(name, module, graph, each) for each in given]
    async with asyncio.TaskGroup() as group:
        for run in runs:
            group.create_task(one(*run))
    return took


def fault_in(error: BaseException, url: str) -> str | None:
    """What went wrong in a line, or None if it is no fault of the server or the settings."""
    if isinstance(error, BaseExceptionGroup):
        return fault_in(error.exceptions[0], url)
    if isinstance(error, openai.APIConnectionError):
        return f"no server answers at {url}: start `llmsched serve-sim`, or name another with --base-url"
    if isinstance(error, openai.APIStatusError):
        return f"{url} answered {error.status_code}: {' '.join(str(error.message).split())[:300]}"
    if isinstance(error, ValueError) and "Unexpected response" in str(error):
        return f"no OpenAI-compatible server is at {url}: is it the right URL, with its /v1?"
    if isinstance(error, LLMSchedError | GraphRecursionError | openai.OpenAIError):
        return " ".join(str(error).split())[:300]
    return None


def main(arguments: list[str] | None = None) -> int:
    """Run; the exit status is 0, or 1 for a fault that is told in one line."""
    options = options_of(arguments)
    scheduled = options.scheduled or options.slots is not None
    url = base_url(options.base_url)
    if not is_url(url):
        print(f"run.py: write a URL such as {SERVE_SIM}, not {url!r}", file=sys.stderr)
        return 1
    try:
        scheduler = Scheduler(options.slots or 4) if scheduled else None
        took = asyncio.run(run_all(options, scheduler))
    except KeyboardInterrupt:
        print("run.py: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        fault = fault_in(error, url)
        if fault is None:
            raise
        print(f"run.py: {fault}", file=sys.stderr)
        return 1
    how = f"scheduled on {options.slots or 4} slots" if scheduled else "stock"
    for name, times in took.items():
        print(f"{name}: mean completion time {fmean(times):.2f} s over {len(times)} runs, {how}")
    if len(took) > 1:
        every = [each for times in took.values() for each in times]
        print(f"all: mean completion time {fmean(every):.2f} s over {len(every)} runs, {how}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
