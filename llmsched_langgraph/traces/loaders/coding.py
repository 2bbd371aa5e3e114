"""Loads runs of four coding agents: AutoCodeRover, SWE-agent, ChatDev, Reflexion.

Converts already parsed records; opens no files.
"""

from __future__ import annotations

from collections.abc import Iterator

from llmsched_langgraph._fields import Field
from llmsched_langgraph._jobs.ended import Derived, EndedJob
from llmsched_langgraph.traces.loaders.shape import Shape, Stages, call


def _autocoderover(node: Field) -> Iterator[EndedJob]:
    """Yield a chain: each step is a stage, in log order.

    An LLM step is one call with tokens and seconds; a tool step has seconds. The log has a resolution of 1 s,
    so short steps have 0 s. No value is missing.
    """
    stages = Stages()
    for step in node["steps"].items():
        name, kind, prompt, output, seconds = step.items(5)
        if kind.value == "llm":
            stages.llm(name.text(), call(prompt.count(), output.count(), seconds.maybe_number()))
        elif kind.value == "tool":
            stages.tool(name.text(), seconds.maybe_number())
        else:
            raise kind.fault("'llm' or 'tool'")
    yield stages.job(node["id"].text(), node["app"].text(), node["jct"].maybe_number())


def _swe_agent(node: Field) -> Iterator[EndedJob]:
    """Yield a chain of `act`, one call with the recorded response, and the tool `environment`.

    Prompt tokens are recorded per job only: each call gets an equal share, marked derived. No seconds are
    recorded, neither of calls and tools nor of the job.
    """
    steps = list(node["steps"].items())
    sent, requests = node["tokens_sent"].maybe_count(), node["api_calls"].maybe_count()
    prompt = None if sent is None else round(sent / max(requests or 0, len(steps), 1))
    stages = Stages()
    for step in steps:
        response, _ = step.items(2)
        stages.llm("act", call(prompt, response.count(), derived=Derived.PROMPT))
        stages.tool("environment", None)
    yield stages.job(node["id"].text(), node["app"].text(), None)


def _chatdev(node: Field) -> Iterator[EndedJob]:
    """Yield a chain: each request is a stage named by its phase, or `improve_task` without one.

    Tokens are those reported by the API. Seconds come from a log with a resolution of 1 s; the implausible
    third of them is omitted. The job's time is the one that the program printed; a few include
    pauses of its operator.
    """
    stages = Stages()
    for step in node["steps"].items():
        phase, _, prompt, output, seconds = step.items(5)
        made = call(prompt.count(), output.count(), seconds.maybe_number())
        stages.llm(phase.maybe_text() or "improve_task", made)
    yield stages.job(node["id"].text(), node["app"].text(), node["jct"].maybe_number())


def _reflexion(node: Field) -> Iterator[EndedJob]:
    """Yield a chain: `implement`, `test`, then `reflect`, `implement`, `test` for every retry.

    Output tokens are lengths of the recorded texts. If the source kept reflections only, the last attempt has
    the length of the recorded solution, and earlier attempts get the same length, marked derived: in the jobs
    with all attempts, the median ratio of consecutive lengths is 1. Prompt tokens are derived: the problem
    plus, in a retry, all earlier output; the instructions are not recorded. No seconds are recorded.
    """
    reflected = [item.count() for item in node["refl"].items()]
    written = [item.count() for item in node["impl"].items()]
    feedback = [item.count() for item in node["fb"].items()]
    attempts, solution = len(reflected) + 1, node["sol"].count()
    recorded, guessed = Derived.PROMPT, Derived.PROMPT | Derived.OUTPUT
    outputs = [(solution, guessed)] * (attempts - 1) + [(solution, recorded)]
    if len(written) == attempts:
        outputs = [(length, recorded) for length in written]
    told = feedback if len(feedback) == attempts else [0] * attempts
    prompt = node["prompt"].count()
    stages = Stages()
    for attempt, (length, derived) in enumerate(outputs):
        stages.llm("implement", call(prompt, length, derived=derived))
        stages.tool("test", None, tool="execute")
        if attempt < len(reflected):
            prompt += length + told[attempt]
            stages.llm("reflect", call(prompt, reflected[attempt], derived=Derived.PROMPT))
            prompt += reflected[attempt]
    yield stages.job(node["id"].text(), node["app"].text(), None)


AUTOCODEROVER = Shape("AutoCodeRover runs", ("steps", "in_total", "n_llm"), _autocoderover)
SWE_AGENT = Shape("SWE-agent trajectories", ("steps", "tokens_sent", "api_calls"), _swe_agent)
CHATDEV = Shape("ChatDev runs", ("steps", "task_tok", "n_llm"), _chatdev)
REFLEXION = Shape("Reflexion runs", ("impl", "refl", "fb", "sol"), _reflexion)
