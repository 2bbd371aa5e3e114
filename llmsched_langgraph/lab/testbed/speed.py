"""Measures an endpoint: its token counts, and its latency by the number of parallel requests.

Does not replay jobs. The result is a `LatencyModel` for the simulator.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion

from llmsched_langgraph.errors import ConfigurationError, InvalidDataError, LLMSchedError
from llmsched_langgraph.lab.sim.latency import LATENCY_MODELS, LatencyModel
from llmsched_langgraph.lab.testbed.calls import Lengths, WordLengths

_SHORT, _LONG = 16, 144
"""Words of the two prompts that determine the tokens per word."""

_REPEATS = 3
"""Repetitions of each measurement. The least time counts, since other load on the machine only adds time."""

_DECODED = 32
"""Least output tokens for the measurement of a decode step without parallel requests."""

_MIN_S = 1e-6
"""Minimum seconds of a decode step, for clocks with a low resolution."""

_CALLS_EACH = 3
"""Sequential calls of each parallel caller."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One model of one endpoint; `clock` is monotonic, in seconds."""

    client: AsyncOpenAI
    model: str
    clock: Callable[[], float] = time.perf_counter

    async def call(self, prompt: str, output_tokens: int, body: Mapping[str, Any]) -> tuple[float, int, int]:
        """Make one call; return its seconds, prompt tokens and output tokens.

        Raises:
            LLMSchedError: the answer has no usage, or is not that of an OpenAI-compatible server.
        """
        began_s = self.clock()
        answer: object = await self.client.chat.completions.create(
            model=self.model,
            messages=[{"role": "user", "content": prompt}],
            max_completion_tokens=output_tokens,
            extra_body=dict(body),
        )
        took_s = self.clock() - began_s
        if not isinstance(answer, ChatCompletion):
            raise _not_openai(self.client)
        if answer.usage is None:
            raise LLMSchedError(
                f"{self.client.base_url} does not report the tokens of a call (no `usage`): "
                "the testbed needs a server that does"
            )
        return took_s, answer.usage.prompt_tokens, answer.usage.completion_tokens


async def first_model(client: AsyncOpenAI) -> str:
    """Return the first model that the endpoint lists.

    Raises:
        ConfigurationError: the endpoint lists no model.
        LLMSchedError: the answer is not that of an OpenAI-compatible server.
    """
    try:
        async for model in client.models.list():
            return model.id
    except AttributeError:  # openai raises it for a page of HTML
        raise _not_openai(client) from None
    raise ConfigurationError(f"--model: {client.base_url} lists no model: name the one to use")


def _not_openai(client: AsyncOpenAI) -> LLMSchedError:
    return LLMSchedError(
        f"{client.base_url} answers, but not as an OpenAI-compatible server does; does the URL lack its /v1?"
    )


async def counted(endpoint: Endpoint, *, ignore_eos: bool) -> WordLengths:
    """Measure the endpoint's tokens per word and tokens of an empty prompt.

    Raises:
        LLMSchedError: the endpoint reports no usage, or its counts do not grow with the words.
    """
    plain = WordLengths(0.0, 1.0)
    _, short, _ = await endpoint.call(plain.prompt(_SHORT, "short"), 1, {})
    _, long, _ = await endpoint.call(plain.prompt(_LONG, "long"), 1, {})
    word_tokens = (long - short) / (_LONG - _SHORT)
    if word_tokens <= 0:
        raise LLMSchedError(
            f"{endpoint.client.base_url} reports {short} prompt tokens for {_SHORT} words but {long} for "
            f"{_LONG}: its token usage cannot be trusted"
        )
    return WordLengths(max(short - _SHORT * word_tokens, 0.0), word_tokens, ignore_eos)


async def measured(
    endpoint: Endpoint,
    lengths: Lengths,
    slots: int,
    prompt_tokens: int,
    output_tokens: int,
    on_finish: Callable[[], None],
) -> LatencyModel:
    """Measure the endpoint's latency model at the batch sizes of `batches(slots)`.

    Prefill, and a decode step at batch 1, are timed without other requests. Prefills stall
    (`LatencyModel.prefill_stalls`) if `slots` parallel prefills take longer than 1 + (slots - 1) / 3 times
    one prefill. The factor is below `slots` because the network's share of the times does not add up.

    At batch b, b callers make sequential calls, and step(b) = (call_s - k * prefill_s) / output_tokens, with
    k = b if prefills stall, else 1. At b = slots there are 2b callers, so that no slot waits for a caller;
    call_s is the mean time between successive ends in one slot.

    Args:
        endpoint: the endpoint to measure; it should have no other load.
        lengths: builds calls of given lengths.
        slots: most parallel requests.
        prompt_tokens: prompt tokens of a typical call.
        output_tokens: output tokens of a typical call.
        on_finish: called after each batch size of `batches(slots)`.
    """
    made = 0

    async def call(prompt: int, output: int) -> tuple[float, int, int]:
        nonlocal made
        made += 1
        text = lengths.prompt(prompt, f"{prompt_tokens}:{output_tokens}:{made}:{time.time_ns()}")
        return await endpoint.call(text, output, lengths.body(output))

    async def repeated(prompt: int, output: int) -> tuple[float, float, float]:
        """Return the least seconds, and the mean prompt and output tokens, of sequential calls."""
        calls = [await call(prompt, output) for _ in range(_REPEATS)]
        took_s, prompts, outputs = zip(*calls, strict=True)
        return min(took_s), fmean(prompts), fmean(outputs)

    await call(prompt_tokens, output_tokens)  # warms the server up
    few = max(1, prompt_tokens // 8)
    few_s, few_tokens, _ = await repeated(few, 1)
    many_s, many_tokens, _ = await repeated(prompt_tokens, 1)
    more_s, _, more_tokens = await repeated(few, max(output_tokens, _DECODED))
    step_s = max((more_s - few_s) / max(more_tokens - 1, 1), _MIN_S)
    slope_s = max((many_s - few_s) / max(many_tokens - few_tokens, 1), 0.0)
    # A call with one output token takes its prefill and one decode step.
    base_s = max(few_s - few_tokens * slope_s - step_s, 0.0)

    async def together_s() -> float:
        """Return the seconds that `slots` parallel calls of one output token take."""
        began_s = endpoint.clock()
        await asyncio.gather(*(call(prompt_tokens, 1) for _ in range(slots)))
        return endpoint.clock() - began_s

    least_s = min([await together_s() for _ in range(_REPEATS)])
    stalls = slots > 1 and least_s > many_s * (1 + (slots - 1) / 3)

    async def one_after_the_other() -> list[tuple[float, int, int]]:
        """Make sequential calls; return the end and the tokens of each."""
        done = []
        for _ in range(_CALLS_EACH):
            _, prompt, output = await call(prompt_tokens, output_tokens)
            done.append((endpoint.clock(), prompt, output))
        return done

    async def in_company(batch: int) -> tuple[float, float, float]:
        """Return the mean seconds of a call and its mean tokens while `batch` slots are busy."""
        callers = 2 * batch if batch == slots else batch
        together = await asyncio.gather(*(one_after_the_other() for _ in range(callers)))
        ends, prompts, outputs = zip(*sorted(done for part in together for done in part), strict=True)
        # The first `batch` ends are the start-up, when not all slots were busy.
        call_s = (ends[-1] - ends[batch - 1]) * batch / (len(ends) - batch)
        return call_s, fmean(prompts), fmean(outputs)

    steps: list[tuple[int, float]] = []
    for batch in batches(slots):
        call_s, prompt, output = min([await in_company(batch) for _ in range(_REPEATS)])
        # A step must not be shorter than at the previous, smaller batch size.
        prefills = batch if stalls else 1
        step_s = max((call_s - prefills * (base_s + slope_s * prompt)) / output, step_s)
        steps.append((batch, step_s))
        on_finish()
    return LatencyModel(
        name="measured",
        decode_step_s=tuple(steps),
        prefill_base_s=base_s,
        prefill_s_per_token=slope_s,
        prefill_stalls=stalls,
        source=f"measured on {endpoint.client.base_url} with {prompt_tokens} prompt and {output_tokens} "
        "output tokens",
    )


def batches(slots: int) -> list[int]:
    """Return the measured batch sizes: the powers of 2 below `slots`, and `slots`."""
    powers = [1]
    while powers[-1] * 2 < slots:
        powers.append(powers[-1] * 2)
    return sorted({*powers, slots})


def as_json(latency: LatencyModel) -> dict[str, Any]:
    """Return the model as data that `speed_of` reads."""
    return {
        "name": latency.name,
        "decode_step_s": [list(point) for point in latency.decode_step_s],
        "prefill_base_s": latency.prefill_base_s,
        "prefill_s_per_token": latency.prefill_s_per_token,
        "prefill_stalls": latency.prefill_stalls,
        "source": latency.source,
    }


def speed_of(given: str) -> LatencyModel:
    """Return the preset of this name, or the `latency` of a file of `llmsched testbed --json`.

    Raises:
        ConfigurationError: `given` is neither a preset nor a readable file.
        InvalidDataError: the file has no valid latency model.
    """
    if given in LATENCY_MODELS:
        return LATENCY_MODELS[given]
    try:
        data = Path(given).read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"--latency {given}: neither a preset ({', '.join(LATENCY_MODELS)}) nor a readable file: "
            f"{error.strerror}"
        ) from None
    try:
        found = json.loads(data)["latency"]
        return LatencyModel(
            name=str(found["name"]),
            decode_step_s=tuple((int(batch), float(step_s)) for batch, step_s in found["decode_step_s"]),
            prefill_base_s=float(found["prefill_base_s"]),
            prefill_s_per_token=float(found["prefill_s_per_token"]),
            prefill_stalls=bool(found["prefill_stalls"]),
            source=str(found.get("source", given)),
        )
    except (ValueError, KeyError, TypeError):
        raise InvalidDataError(
            f"--latency {given}: no latency model in it; `llmsched testbed --calibrate --json > {given}` "
            "writes one"
        ) from None
