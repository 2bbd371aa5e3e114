"""Models a server's latency: seconds per decode step by batch size, and seconds of prefill.

Does not handle requests, queues or clocks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isfinite
from types import MappingProxyType

from llmsched_langgraph.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """The speed of one model on one machine.

    The first token is complete one decode step after the prefill, so the time to first token of an unqueued
    request is `prefill_s(prompt) + decode_s(batch)`.

    Attributes:
        name: The name by which users select it.
        decode_step_s: Pairs of batch size (requests) and seconds for one decode step, in ascending order.
        prefill_base_s: Seconds of every prefill, independent of the prompt; 0 where the source's intercept is
            at most the decode step that yields the first token.
        prefill_s_per_token: Seconds of prefill for each prompt token.
        source: Origin and licence of the values.
        prefill_stalls: Whether prefills run one at a time and stop all decoding, as on a CPU; if not, a
            prefill delays its own request only, and the decode steps include its cost to the others.

    Raises:
        ConfigurationError: The points are empty, out of order, not positive, or decrease with the batch.
    """

    name: str
    decode_step_s: tuple[tuple[int, float], ...]
    prefill_base_s: float
    prefill_s_per_token: float
    source: str
    prefill_stalls: bool = False

    def __post_init__(self) -> None:
        """Reject invalid values."""
        batches = [batch for batch, _ in self.decode_step_s]
        steps = [step for _, step in self.decode_step_s]
        if not batches or batches[0] < 1 or any(a >= b for a, b in pairwise(batches)):
            raise ConfigurationError(
                f"latency model {self.name!r}: decode_step_s needs ascending batch sizes of 1 or more"
            )
        if not all(isfinite(step) and step > 0 for step in steps) or steps != sorted(steps):
            raise ConfigurationError(
                f"latency model {self.name!r}: decode_step_s needs positive seconds that do not decrease as "
                "the batch grows"
            )
        for value in (self.prefill_base_s, self.prefill_s_per_token):
            if not (isfinite(value) and value >= 0):
                raise ConfigurationError(f"latency model {self.name!r}: prefill seconds must be 0 or more")

    def decode_s(self, batch: int) -> float:
        """Return the seconds of one decode step with `batch` running requests.

        The interpolation is linear, with the last slope after the last point and constant before the first.
        """
        points = self.decode_step_s
        if batch <= points[0][0] or len(points) == 1:
            return points[0][1]
        at = min(bisect_left(points, batch, key=lambda point: point[0]), len(points) - 1)
        (low, low_s), (high, high_s) = points[at - 1], points[at]
        if batch == high:  # the point itself, free of rounding
            return high_s
        return low_s + (batch - low) * (high_s - low_s) / (high - low)

    def prefill_s(self, prompt_tokens: int) -> float:
        """Return the seconds from a request's admission until it starts to decode."""
        return self.prefill_base_s + prompt_tokens * self.prefill_s_per_token

    def call_s(self, prompt_tokens: int, output_tokens: int, batch: int) -> float:
        """Return the seconds of a call beside `batch - 1` calls of the same lengths at all times."""
        prefills = batch if self.prefill_stalls else 1
        return prefills * self.prefill_s(prompt_tokens) + output_tokens * self.decode_s(batch)

    def times(self, speed: float) -> LatencyModel:
        """Return the same server, `speed` times as fast."""
        return replace(
            self,
            decode_step_s=tuple((batch, step_s / speed) for batch, step_s in self.decode_step_s),
            prefill_base_s=self.prefill_base_s / speed,
            prefill_s_per_token=self.prefill_s_per_token / speed,
        )


_LLAMA_2_70B = LatencyModel(
    name="llama-2-70b-a100-tp8",
    decode_step_s=((1, 0.045), (8, 0.0465), (16, 0.0505), (32, 0.053), (64, 0.0715)),
    prefill_base_s=0.0,
    prefill_s_per_token=0.000105,
    source="Llama-2-70B on 8 x A100-80GB, tensor parallel: medians at 512 prompt tokens; prefill fitted over "
    "128 to 1,024 tokens, less the first decode step. From Splitwise (MIT), "
    "github.com/Mutinifni/splitwise-sim, data/perf_model.csv",
)
_LLAMA_3_1_8B = LatencyModel(
    name="llama-3.1-8b-h100",
    decode_step_s=((1, 0.0065), (8, 0.0075), (16, 0.0088), (32, 0.0109), (64, 0.0152)),
    prefill_base_s=0.0,
    prefill_s_per_token=0.000021,
    source="Llama-3.1-8B-Instruct on 1 x H100 with TensorRT-LLM: time per output token at 1,024 prompt and "
    "256 output tokens, other requests' prefills included, extended to batch 1; prefill from how that time "
    "grows with prompt over output. From aiconfigurator (Apache-2.0), github.com/ai-dynamo/aiconfigurator, "
    "silicon_sample.csv",
)
_OPT_13B = LatencyModel(
    name="opt-13b-a100",
    decode_step_s=((1, 0.0238), (64, 0.0468), (128, 0.0677), (256, 0.1153)),
    prefill_base_s=0.0,
    prefill_s_per_token=0.000149,
    source="OPT-13B on 1 x A100-80GB with vLLM: published fit at 512 tokens of context a request; prefill's "
    "slope at 512 tokens, less the first decode step. From DistServe (Apache-2.0), "
    "github.com/LLMServe/DistServe, profiler-a100-80g.vllm.json",
)

LATENCY_MODELS: Mapping[str, LatencyModel] = MappingProxyType(
    {model.name: model for model in (_LLAMA_3_1_8B, _OPT_13B, _LLAMA_2_70B)}
)
"""The presets, by name, fastest first."""


def latency_model(name: str) -> LatencyModel:
    """Return the preset called `name`.

    Raises:
        ConfigurationError: No preset has this name; the message lists the presets.
    """
    try:
        return LATENCY_MODELS[name]
    except KeyError:
        raise ConfigurationError(
            f"latency: no model is called {name!r}; choose one of {', '.join(LATENCY_MODELS)}"
        ) from None
