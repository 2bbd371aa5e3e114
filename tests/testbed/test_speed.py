"""How an endpoint is measured, what it says of itself, and which jobs are run on it."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from openai import AsyncOpenAI

from llmsched_langgraph import ConfigurationError, InvalidDataError
from llmsched_langgraph.lab.serve_sim.requests import CHARACTERS_PER_TOKEN
from llmsched_langgraph.lab.serve_sim.server import SimulatedBackend, running_backend
from llmsched_langgraph.lab.sim.latency import LatencyModel, latency_model
from llmsched_langgraph.lab.sim.servers import BatchingReplicas, Handover
from llmsched_langgraph.lab.sim.workloads import generate
from llmsched_langgraph.lab.testbed.calls import CountingClient, EmbeddedLengths, WordLengths
from llmsched_langgraph.lab.testbed.engine import Peaks
from llmsched_langgraph.lab.testbed.jobs import shortened, speed_up, timed, workload
from llmsched_langgraph.lab.testbed.speed import (
    Endpoint,
    as_json,
    batches,
    counted,
    first_model,
    measured,
    speed_of,
)
from llmsched_langgraph.traces import EndedCall, write_jobs


def on_backend(function, **settings):
    async def main(url):
        async with CountingClient(trust_env=False) as http:
            return await function(AsyncOpenAI(base_url=url, api_key="none", http_client=http))

    with running_backend(SimulatedBackend(**settings)) as backend:
        return asyncio.run(main(backend.base_url))


def test_an_endpoint_is_measured():
    """Its model, how it counts words, and a speed not far from what it is set to, in company too."""
    scale, slots = 10.0, 3

    async def all_of_it(client):
        endpoint = Endpoint(client, await first_model(client))
        lengths = await counted(endpoint, ignore_eos=False)
        told = []
        speed = await measured(endpoint, EmbeddedLengths(), slots, 400, 40, lambda: told.append(1))
        return lengths, speed, told

    settings = {"slots": slots, "time_scale": scale, "models": ("some-model",)}
    lengths, speed, told = on_backend(all_of_it, latency="llama-2-70b-a100-tp8", **settings)
    assert lengths.word_tokens == pytest.approx(5.3 / 4, rel=0.2)
    assert [batch for batch, _ in speed.decode_step_s] == batches(slots) == [1, 2, 3]
    assert len(told) == 3
    truth = latency_model("llama-2-70b-a100-tp8").times(scale)
    for batch in (1, 2, 3):
        assert 0.5 * truth.decode_s(batch) < speed.decode_s(batch) < 3 * truth.decode_s(batch)
    assert speed.prefill_s_per_token < 10 * truth.prefill_s_per_token


class Virtual:
    """An endpoint of known speed, in a time of its own: it moves on once nobody has anything to ask."""

    def __init__(self, slots, latency, away_s=0.0):
        self.client = SimpleNamespace(base_url="virtual")
        self.server = Handover(BatchingReplicas(1, slots, latency), away_s)
        self.now, self.calls, self.numbers = 0.0, {}, itertools.count()

    def clock(self):
        return self.now

    async def call(self, prompt, output_tokens, body):
        began_s, number = self.now, next(self.numbers)
        tokens = len(prompt) // CHARACTERS_PER_TOKEN
        self.calls[number] = asyncio.get_running_loop().create_future()
        self.server.begin(self.now, number, EndedCall(tokens, output_tokens, None))
        if len(self.calls) == 1:
            asyncio.get_running_loop().call_soon(self.move_on)
        await self.calls[number]
        return self.now - began_s, tokens, output_tokens

    def move_on(self):
        self.now = self.server.next_s()
        for number in self.server.advance(self.now):
            self.calls.pop(number).set_result(None)
        if self.calls:
            asyncio.get_running_loop().call_later(0.001, self.move_on)  # callers first


@pytest.mark.parametrize("stalls", [False, True])
@pytest.mark.parametrize("slots", [1, 4])
def test_a_speed_is_measured_exactly_where_nothing_disturbs(slots, stalls):
    """Also whether prefills stall; a server of one slot shows no difference."""
    truth = LatencyModel("truth", ((1, 0.02), (2, 0.03), (4, 0.05)), 0.4, 0.01, "made up", stalls)
    endpoint = Virtual(slots, truth)
    found = asyncio.run(measured(endpoint, EmbeddedLengths(), slots, 200, 40, lambda: None))
    assert found.prefill_stalls is (stalls and slots > 1)
    assert found.decode_step_s == tuple(
        (batch, pytest.approx(truth.decode_s(batch))) for batch in batches(slots)
    )
    assert (found.prefill_base_s, found.prefill_s_per_token) == pytest.approx((0.4, 0.01))


def test_the_way_to_an_endpoint_takes_no_slot():
    """A server with a queue is as fast as it is, however far away; only callers that are too few wait."""
    truth = LatencyModel("truth", ((1, 0.02), (4, 0.05)), 0.0, 0.01, "made up")
    endpoint = Virtual(4, truth, away_s=0.5)
    found = asyncio.run(measured(endpoint, EmbeddedLengths(), 4, 200, 40, lambda: None))
    assert found.call_s(200, 40, 4) == pytest.approx(truth.call_s(200, 40, 4))
    assert found.call_s(200, 40, 1) == pytest.approx(truth.call_s(200, 40, 1) + 0.5)


def test_prompts_come_close():
    """Prompts begin like no other, and have the words that were counted to be that long."""
    lengths = WordLengths(30.0, 1.25)
    one, other = lengths.prompt(155, "one"), lengths.prompt(155, "other")
    assert len(one.split()) == len(other.split()) == 100
    assert one.split()[:12] != other.split()[:12]
    assert len(lengths.prompt(3, "short").split()) == 1
    assert [lengths.nearest(tokens) for tokens in (1, 31, 155, 156)] == [31, 31, 155, 156]
    assert all(lengths.prompt(lengths.nearest(n), "x") == lengths.prompt(n, "x") for n in range(1, 300))
    assert lengths.body(7) == {}
    assert WordLengths(0.0, 1.0, ignore_eos=True).body(7) == {"ignore_eos": True, "min_tokens": 7}
    assert [len(EmbeddedLengths().prompt(n, "x")) for n in (1, 9, 1000)] == [4, 36, 4000]


@pytest.mark.parametrize(("slots", "expected"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_batches(slots, expected):
    """Powers of two, and all slots."""
    assert batches(slots) == expected


def test_a_measured_speed_is_kept(tmp_path):
    """What `--calibrate --json` prints is read again; other files are told in a line."""
    speed = replace(latency_model("opt-13b-a100").times(2.0), prefill_stalls=True)
    path = tmp_path / "speed.json"
    path.write_text(json.dumps({"latency": as_json(speed)}))
    assert speed_of(str(path)) == speed
    path.write_text('{"latency": {"name": "x", "decode_step_s": []}}')
    with pytest.raises(InvalidDataError, match="no latency model in it; `llmsched testbed --calibrate"):
        speed_of(str(path))
    with pytest.raises(ConfigurationError, match="neither a preset"):
        speed_of("magic")


def test_what_engines_say():
    """llama.cpp's and vLLM's words, over all labels; a server that says nothing is left alone."""
    peaks = Peaks()
    assert peaks.look("# HELP x\nllamacpp:requests_processing 3\nllamacpp:requests_deferred 9\n")
    assert peaks.look("llamacpp:requests_processing 2\nllamacpp:requests_deferred 11\n")
    assert (peaks.peak_running, peaks.peak_waiting, peaks.looks) == (3, 11, 2)
    labelled = 'vllm:num_requests_running{model="m",engine="%d"} 2.0\n'
    assert Peaks().look(labelled % 0)
    peaks = Peaks()
    assert peaks.look(labelled % 0 + labelled % 1 + "vllm:num_requests_waiting 1.0\n")
    assert (peaks.peak_running, peaks.peak_waiting) == (4, 1)
    assert not peaks.look("python_info 1\n")


def test_jobs_to_learn_from_are_others():
    """Generated and recorded alike; the same seed gives the same."""
    made = workload(runs=20, warmup=10, seed=3, apps=["web_search", "llm_compiler"])
    assert made == workload(runs=20, warmup=10, seed=3, apps=["web_search", "llm_compiler"])
    assert {job.app for job in made.measured} == {"web_search", "llm_compiler"}
    assert not {job.stages for job in made.warmup} & {job.stages for job in made.measured}


def test_recorded_jobs(tmp_path):
    """A half of the problems is learned from; names of applications choose among them."""
    write_jobs(generate("chain", 30, 0), tmp_path / "jobs.jsonl")
    made = workload(runs=8, warmup=5, seed=0, traces=[tmp_path], apps=["web_search"])
    assert (len(made.measured), len(made.warmup)) == (8, 5)
    assert {job.app for job in made.jobs} == {"web_search"}
    origins = [{job.id.partition("#")[0] for job in part} for part in (made.measured, made.warmup)]
    assert not origins[0] & origins[1]
    with pytest.raises(ConfigurationError, match="no job of nothing is recorded there"):
        workload(runs=8, warmup=5, seed=0, traces=[tmp_path], apps=["nothing"])


def test_time_is_scaled():
    """Shorter calls, faster tools, and seconds that follow from the server's speed."""
    (job,) = generate("web_search", 1, 0)
    speed = latency_model("llama-2-70b-a100-tp8")
    short = shortened(job, 10)
    for before, after in zip(job.llm_calls(), short.llm_calls(), strict=True):
        assert after.prompt_tokens == max(1, round(before.prompt_tokens / 10))
    done = timed(short, speed, 8, 10)
    for before, after in zip(job.stages, done.stages, strict=True):
        for old, new in zip(before.calls, after.calls, strict=True):
            if before.kind == "tool":
                assert new.seconds == pytest.approx(old.seconds / 10)
    for call in done.llm_calls():
        expected = speed.prefill_s(call.prompt_tokens) + call.output_tokens * speed.decode_s(8)
        assert call.seconds == pytest.approx(expected)


def test_the_embedded_backend_is_as_fast_as_is_good_for_the_client():
    """Twice the time for each call, half the scale; never slower than real."""
    jobs = generate("chain", 10, 0)
    speed = latency_model("llama-2-70b-a100-tp8")
    scales = [speed_up(jobs, speed, 8, 0.9, call_s) for call_s in (0.01, 0.02, 1e9)]
    assert scales[0] == pytest.approx(2 * scales[1])
    assert scales[2] == 1.0
    assert all(a > b for a, b in itertools.pairwise(scales))
