"""Knows the records of four applications that write programs: AutoCodeRover, SWE-agent, ChatDev, Reflexion.

Does not know files.
"""

from __future__ import annotations

from collections.abc import Iterator

from llmsched_langgraph._fields import Field
from llmsched_langgraph._jobs.ended import Derived, EndedJob
from llmsched_langgraph.traces.loaders.shape import Shape, Stages, call


def _autocoderover(node: Field) -> Iterator[EndedJob]:
    """A chain: each step is a stage, in the order of the log.

    An LLM step is one call with tokens and seconds, a tool step has seconds; both come from a log that
    knows whole seconds only, so that short ones are 0. Nothing is missing.
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
    """A chain of `act`, one call whose output is the recorded response, and `environment`, a tool.

    Prompt tokens are recorded for the job alone: each call gets an equal part of them, derived. Neither the
    calls' nor the environment's seconds are recorded, nor is the job's time.
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
    """A chain: each request is a stage named by its phase, `improve_task` where the log names none.

    Tokens are the API's. Seconds come from a log of whole seconds; a third of them is missing, where they
    would be implausible. The job's time is what the program printed; a few contain pauses of its operator.
    """
    stages = Stages()
    for step in node["steps"].items():
        phase, _, prompt, output, seconds = step.items(5)
        made = call(prompt.count(), output.count(), seconds.maybe_number())
        stages.llm(phase.maybe_text() or "improve_task", made)
    yield stages.job(node["id"].text(), node["app"].text(), node["jct"].maybe_number())


def _reflexion(node: Field) -> Iterator[EndedJob]:
    """A chain: `implement`, `test`, then `reflect`, `implement`, `test` for every retry.

    Output tokens are lengths of the recorded texts. Where the source kept only reflections, the last attempt
    has the length of the recorded solution, and the attempts before it are derived as just as long: where
    they are recorded, an attempt is in the median as long as the one before it. Prompt tokens are derived:
    the problem and, in a retry, all that was written so far; the instructions are not recorded. No seconds
    are.
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
