"""Estimates the seconds of untimed calls from their tokens or tool, by one linear model.

Ignores batching: the seconds are those in a slot of a lightly loaded server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from llmsched_langgraph._jobs.ended import Derived, EndedCall, EndedJob, EndedStage


@dataclass(frozen=True, slots=True)
class TokenSpeed:
    """Seconds as a linear function of tokens, and seconds of tools by name.

    Attributes:
        base_s: seconds of every call.
        prompt_token_s: seconds per prompt token.
        output_token_s: seconds per output token.
        tool_s: seconds of a tool that `tools` lacks.
        tools: seconds by name of the tool, or of the stage if it has none; lower case, `-` for spaces.
        source: the source of the numbers.
    """

    base_s: float
    prompt_token_s: float
    output_token_s: float
    tool_s: float
    tools: Mapping[str, float]
    source: str

    def call_s(self, prompt_tokens: int, output_tokens: int) -> float:
        """Return base_s + prompt_token_s * prompt_tokens + output_token_s * output_tokens."""
        return self.base_s + self.prompt_token_s * prompt_tokens + self.output_token_s * output_tokens

    def tool_seconds(self, name: str) -> float:
        """Return the seconds of one execution of a tool."""
        return self.tools.get(name.lower().replace(" ", "-"), self.tool_s)


MEASURED_SPEED = TokenSpeed(
    # Least squares over calls with a nearly idle server, for each set separately: react_fever 0.00018
    # and 0.0172, hugginggpt_timed 0.00018 and 0.0171, multiturn_chat 0.00023 and 0.0176, got_keycount 0.00018
    # and 0.0177, got_setintersection 0.00017 and 0.0177; the constants were -0.04 to 0.03 s, so 0 is used.
    base_s=0.0,
    prompt_token_s=0.00019,
    output_token_s=0.0175,
    # factool_code's execution of a program: median of 110. Used for unknown tools.
    tool_s=0.35,
    # Medians: react_fever's Wikipedia searches without the immediate answers (76), react_alfworld's act
    # (1,034), hugginggpt's models by task (16 to 52 each; hed-control and depth-text-to-image: 1).
    tools=MappingProxyType(
        {
            "search": 1.88,
            "lookup": 0.0,  # it searches the page of the last search
            "click": 0.17,
            "act": 0.17,
            "execute": 0.35,
            "visual-question-answering": 1.58,
            "image-to-text": 4.18,
            "text-to-image": 15.5,
            "object-detection": 1.71,
            "image-to-image": 16.49,
            "image-segmentation": 1.23,
            "text-to-video": 33.92,
            "depth-estimation": 4.19,
            "hed-control": 0.71,
            "depth-text-to-image": 11.28,
        }
    ),
    source="Llama-family model of 7 to 8 billion parameters on vLLM, hardware not stated, as recorded in "
    "github.com/NephrenCake/Hermes, Hermes/Datasets",
)
"""The default speed for derived seconds."""


def fill_seconds(job: EndedJob, speed: TokenSpeed = MEASURED_SPEED) -> EndedJob:
    """Return the job with its unrecorded seconds estimated and marked `Derived.SECONDS`.

    An LLM call with unknown output tokens is not changed; unknown prompt tokens count as 0.
    """
    return replace(job, stages=tuple(_fill_stage(stage, speed) for stage in job.stages))


def _fill_stage(stage: EndedStage, speed: TokenSpeed) -> EndedStage:
    if all(call.seconds is not None for call in stage.calls):
        return stage
    return replace(stage, calls=tuple(_fill_call(stage, call, speed) for call in stage.calls))


def _fill_call(stage: EndedStage, call: EndedCall, speed: TokenSpeed) -> EndedCall:
    if call.seconds is not None:
        return call
    if stage.kind == "tool":
        seconds = speed.tool_seconds(stage.tool or stage.name)
    elif call.output_tokens is None:
        return call
    else:
        seconds = speed.call_s(call.prompt_tokens or 0, call.output_tokens)
    return replace(call, seconds=seconds, derived=call.derived | Derived.SECONDS)
