"""Knows how to measure an endpoint: how it counts tokens, and how long calls take, by how many run at once.

Does not know jobs. What is measured is a `LatencyModel`, as the simulator takes it.
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
"""Words of the two prompts by which tokens are counted."""

_REPEATS = 3
"""How many times everything is timed. The fastest counts: what else a machine does only makes it slower."""

_DECODED = 32
"""Output tokens, at least, by which the step of a request that is alone is timed."""

_MIN_S = 1e-6
"""Seconds of a step, at least, whatever the clock says."""

_CALLS_EACH = 3
"""Calls that each of the parallel requests makes, one after the other."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One model of one endpoint. `clock` gives seconds that never go back."""

    client: AsyncOpenAI
    model: str
    clock: Callable[[], float] = time.perf_counter

    async def call(self, prompt: str, output_tokens: int, body: Mapping[str, Any]) -> tuple[float, int, int]:
        """Seconds, prompt tokens and output tokens of one call.

        Raises:
            LLMSchedError: the endpoint does not say how many tokens it took, or is none.
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
                f"{self.client.base_url} does not say how many tokens a call took (no `usage`): "
                "the testbed needs a server that does"
            )
        return took_s, answer.usage.prompt_tokens, answer.usage.completion_tokens


async def first_model(client: AsyncOpenAI) -> str:
    """The model that the endpoint names first.

    Raises:
        ConfigurationError: it names none.
        LLMSchedError: its answers are those of something else.
    """
    try:
        async for model in client.models.list():
            return model.id
    except AttributeError:  # what openai raises of a page of HTML
        raise _not_openai(client) from None
    raise ConfigurationError(f"--model: {client.base_url} names no model, so say which one to use")


def _not_openai(client: AsyncOpenAI) -> LLMSchedError:
    return LLMSchedError(
        f"{client.base_url} answers, but not as an OpenAI-compatible server does; does the URL lack its /v1?"
    )


async def counted(endpoint: Endpoint, *, ignore_eos: bool) -> WordLengths:
    """How the endpoint counts the words that prompts are made of.

    Raises:
        LLMSchedError: it does not say, or not so that one could tell.
    """
    plain = WordLengths(0.0, 1.0)
    _, short, _ = await endpoint.call(plain.prompt(_SHORT, "short"), 1, {})
    _, long, _ = await endpoint.call(plain.prompt(_LONG, "long"), 1, {})
    word_tokens = (long - short) / (_LONG - _SHORT)
    if word_tokens <= 0:
        raise LLMSchedError(
            f"{endpoint.client.base_url} counts {short} tokens for {_SHORT} words and {long} for {_LONG}: "
            "its `usage` cannot be relied on"
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
    """How fast the endpoint is, with as many parallel requests as there are slots and fewer.

    Prefill, and a decode step without company, are timed alone. If as many prefills as there are slots take
    longer together than a third of them one after the other, prefills stall (`LatencyModel.prefill_stalls`):
    on the way to the server, which is part of what is timed, they do not wait for each other.
    A decode step with b requests is what is left of a call, by its output tokens, while b callers make one
    call after the other: with all that company costs it. For all slots there are twice as many callers, so
    that a slot never waits for one of them; a call is the time from one end to the next in its slot.

    Args:
        endpoint: what is measured; nobody else should use it meanwhile.
        lengths: how it is made to take calls of so many tokens.
        slots: the most parallel requests.
        prompt_tokens: of a usual call.
        output_tokens: of a usual call.
        on_finish: hears of each number of parallel requests that is measured; `batches` tells them.
    """
    made = 0

    async def call(prompt: int, output: int) -> tuple[float, int, int]:
        nonlocal made
        made += 1
        text = lengths.prompt(prompt, f"{prompt_tokens}:{output_tokens}:{made}:{time.time_ns()}")
        return await endpoint.call(text, output, lengths.body(output))

    async def repeated(prompt: int, output: int) -> tuple[float, float, float]:
        """The least seconds, and the mean tokens, of calls that are alone."""
        calls = [await call(prompt, output) for _ in range(_REPEATS)]
        took_s, prompts, outputs = zip(*calls, strict=True)
        return min(took_s), fmean(prompts), fmean(outputs)

    await call(prompt_tokens, output_tokens)  # whatever a server does on its first call is done
    few = max(1, prompt_tokens // 8)
    few_s, few_tokens, _ = await repeated(few, 1)
    many_s, many_tokens, _ = await repeated(prompt_tokens, 1)
    more_s, _, more_tokens = await repeated(few, max(output_tokens, _DECODED))
    step_s = max((more_s - few_s) / max(more_tokens - 1, 1), _MIN_S)
    slope_s = max((many_s - few_s) / max(many_tokens - few_tokens, 1), 0.0)
    # A call of one token takes its prefill and a step.
    base_s = max(few_s - few_tokens * slope_s - step_s, 0.0)

    async def together_s() -> float:
        """Seconds until as many prompts are read as there are slots, if all come at once."""
        began_s = endpoint.clock()
        await asyncio.gather(*(call(prompt_tokens, 1) for _ in range(slots)))
        return endpoint.clock() - began_s

    least_s = min([await together_s() for _ in range(_REPEATS)])
    stalls = slots > 1 and least_s > many_s * (1 + (slots - 1) / 3)

    async def one_after_the_other() -> list[tuple[float, int, int]]:
        """When each call was over, and its tokens."""
        done = []
        for _ in range(_CALLS_EACH):
            _, prompt, output = await call(prompt_tokens, output_tokens)
            done.append((endpoint.clock(), prompt, output))
        return done

    async def in_company(batch: int) -> tuple[float, float, float]:
        """The seconds of a call in its slot and the mean tokens, while so many slots are taken."""
        callers = 2 * batch if batch == slots else batch
        together = await asyncio.gather(*(one_after_the_other() for _ in range(callers)))
        ends, prompts, outputs = zip(*sorted(done for part in together for done in part), strict=True)
        # From when each slot had its first call behind it.
        call_s = (ends[-1] - ends[batch - 1]) * batch / (len(ends) - batch)
        return call_s, fmean(prompts), fmean(outputs)

    steps: list[tuple[int, float]] = []
    for batch in batches(slots):
        call_s, prompt, output = min([await in_company(batch) for _ in range(_REPEATS)])
        # It is never faster in company than alone.
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
    """The numbers of parallel requests that are measured: 1, 2, 4, ..., and all slots."""
    powers = [1]
    while powers[-1] * 2 < slots:
        powers.append(powers[-1] * 2)
    return sorted({*powers, slots})


def as_json(latency: LatencyModel) -> dict[str, Any]:
    """The model as data that `speed_of` reads."""
    return {
        "name": latency.name,
        "decode_step_s": [list(point) for point in latency.decode_step_s],
        "prefill_base_s": latency.prefill_base_s,
        "prefill_s_per_token": latency.prefill_s_per_token,
        "prefill_stalls": latency.prefill_stalls,
        "source": latency.source,
    }


def speed_of(given: str) -> LatencyModel:
    """The preset of this name, or what a file has under `latency`, as `llmsched testbed --json` prints it.

    Raises:
        ConfigurationError: there is neither.
        InvalidDataError: the file holds no such thing.
    """
    if given in LATENCY_MODELS:
        return LATENCY_MODELS[given]
    try:
        data = Path(given).read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"--latency {given}: no model of that name ({', '.join(LATENCY_MODELS)}), and no file: "
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
            f"--latency {given}: no measured speed is in it; `llmsched testbed --calibrate --json > {given}` "
            "makes such a file"
        ) from None
