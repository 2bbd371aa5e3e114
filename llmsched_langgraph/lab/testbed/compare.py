"""Runs both sides on one endpoint: warm-up and rounds, with the same jobs and arrivals in each pass.

Does not load jobs or print the result.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from secrets import token_hex
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from urllib.parse import urlsplit

import openai
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from pydantic import SecretStr

from llmsched_langgraph import compile_graph, schedule
from llmsched_langgraph._arguments import whole_number
from llmsched_langgraph._belief.profile.profile import Profile
from llmsched_langgraph._core.policies import as_policy
from llmsched_langgraph._ledger.backends import SLOTS
from llmsched_langgraph._runtime.scheduler import DEFAULT_POLICY, Scheduler
from llmsched_langgraph.errors import ConfigurationError, LLMSchedError
from llmsched_langgraph.lab.demo.backend import LATENCY, MODEL, backend, counts, reset
from llmsched_langgraph.lab.sim.latency import LATENCY_MODELS, LatencyModel, latency_model
from llmsched_langgraph.lab.sim.workloads import Poisson, TimedJob, arrive
from llmsched_langgraph.lab.testbed.calls import Calls, CountingClient, EmbeddedLengths, Lengths
from llmsched_langgraph.lab.testbed.engine import Peaks, watched
from llmsched_langgraph.lab.testbed.graphs import graph_of, replay
from llmsched_langgraph.lab.testbed.jobs import Workload, prompted, shortened, speed_up, timed
from llmsched_langgraph.lab.testbed.predict import Fit, Predictor
from llmsched_langgraph.lab.testbed.result import SIDES, Comparison, Replayed, Side
from llmsched_langgraph.lab.testbed.script import Script
from llmsched_langgraph.lab.testbed.speed import (
    Endpoint,
    batches,
    counted,
    first_model,
    measured,
    speed_of,
)
from llmsched_langgraph.traces import read_jobs

CALL_S = 0.03
"""Mean seconds between calls of a pass; sets the embedded backend's time scale. The value is small enough to
watch, and large enough that the client's own work does not matter."""

WARMUP, CALIBRATION = "warm-up", "calibration"
"""Names of the progress bars beside those of the passes."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a comparison.

    Attributes:
        slots: calls that the endpoint serves at once.
        ahead: slots of the scheduler beyond `slots`, so that the endpoint has the next call queued when one
            of its slots is free.
        load: offered load, in slot-seconds of work per available slot-second.
        seed: seed of the arrivals.
        rounds: number of passes of each side.
        policy: policy of the scheduled side.
        base_url: URL of the endpoint; None for the embedded backend.
        model: model to request; None for the first that the endpoint lists.
        time_scale: speed-up over the recording; None for 1 on an endpoint and for a scale by `CALL_S` on the
            embedded backend.
        latency: latency model of the endpoint, a preset or a file; None to measure an endpoint, and for the
            default preset on the embedded backend.
        ignore_eos: whether requests ask for answers of the full length.
    """

    slots: int = 8
    ahead: int = 0
    load: float = 0.9
    seed: int = 0
    rounds: int = 1
    policy: str = DEFAULT_POLICY
    base_url: str | None = None
    model: str | None = None
    time_scale: float | None = None
    latency: str | None = None
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        """Reject invalid settings."""
        whole_number(self.slots, "--slots", SLOTS)
        if self.ahead < 0:
            raise ConfigurationError(f"--ahead must be at least 0, not {self.ahead}")
        as_policy(self.policy)
        if not 0 < self.load < 100:
            raise ConfigurationError(f"--load must be above 0, such as 0.9, not {self.load}")
        if self.rounds < 1:
            raise ConfigurationError(f"--rounds must be at least 1, not {self.rounds}")
        if self.time_scale is not None and not 0 < self.time_scale < float("inf"):
            raise ConfigurationError(f"--time-scale must be above 0, such as 20, not {self.time_scale}")
        if self.base_url is None and self.model is not None:
            raise ConfigurationError("--model is for an endpoint: name it with --base-url")
        if self.base_url is not None and not _is_url(self.base_url):
            raise ConfigurationError(
                f"--base-url must be a URL such as http://127.0.0.1:8080/v1, not {self.base_url!r}"
            )


@dataclass(frozen=True, slots=True)
class _Site:
    """An endpoint with its clients and settings; `latency` is None until it is measured."""

    settings: Settings
    work: Workload
    url: str
    http: CountingClient
    watch: DefaultAsyncHttpxClient
    client: AsyncOpenAI
    model: str
    lengths: Lengths
    latency: LatencyModel | None
    time_scale: float
    nonce: str = field(default_factory=lambda: token_hex(8))
    """Makes the prompts differ from those of earlier runs, which the endpoint may have cached."""

    async def measured(self, on_finish: Callable[[str], None]) -> LatencyModel:
        """Measure the endpoint's latency for the mean lengths of the jobs' calls."""
        calls = [call for job in self.work.jobs for call in job.llm_calls()]
        if not calls:
            raise ConfigurationError("the jobs make no LLM call, so there is nothing to run")
        return await measured(
            Endpoint(self.client, self.model),
            self.lengths,
            self.settings.slots,
            max(1, round(fmean(call.prompt_tokens or 0 for call in calls))),
            max(2, round(fmean(call.output_tokens or 0 for call in calls))),
            lambda: on_finish(CALIBRATION),
        )


def compare(work: Workload, settings: Settings, on_finish: Callable[[str], None]) -> Comparison:
    """Run the jobs stock and scheduled; call `on_finish` with the name of the pass after each run.

    Raises:
        ConfigurationError: a setting is invalid.
        LLMSchedError: the endpoint cannot be reached, or refuses a call.
    """
    return _on_site(work, settings, lambda site: _compared(site, on_finish))


def calibrate(work: Workload, settings: Settings, on_finish: Callable[[str], None]) -> LatencyModel:
    """Measure the endpoint's latency for calls of the jobs' mean lengths, and run no jobs.

    Raises:
        ConfigurationError: a setting is invalid.
        LLMSchedError: the endpoint cannot be reached, or refuses a call.
    """
    return _on_site(work, settings, lambda site: site.measured(on_finish))


def totals(work: Workload, settings: Settings) -> dict[str, int]:
    """Return the number of `on_finish` calls of the warm-up and of the calibration, by name."""
    return {WARMUP: 2 * len(work.warmup), CALIBRATION: len(batches(settings.slots))}


def _on_site(work: Workload, settings: Settings, use: Callable[[_Site], Awaitable[T]]) -> T:
    given = None if settings.latency is None else speed_of(settings.latency)
    process: AbstractContextManager[str]
    if settings.base_url is None:
        if given is not None and given.name not in LATENCY_MODELS:
            raise ConfigurationError(
                "--latency FILE is the speed of an endpoint: name it with --base-url; the embedded backend "
                f"takes one of {', '.join(LATENCY_MODELS)}"
            )
        preset = given or latency_model(LATENCY)
        scale = settings.time_scale or speed_up(work.jobs, preset, settings.slots, settings.load, CALL_S)
        known: LatencyModel | None = preset.times(scale)
        process = backend(settings.slots, settings.seed, scale, preset.name)
    else:
        known, scale = given, settings.time_scale or 1.0
        work = work.changed(lambda job: shortened(job, scale))
        process = nullcontext(settings.base_url)

    async def main(url: str) -> T:
        async with _site(work, settings, url, known, scale) as site:
            return await use(site)

    with process as url:
        try:
            return asyncio.run(main(url))
        except (openai.OpenAIError, BaseExceptionGroup) as error:
            told = _told(error, url)
            if told is error:
                raise
            raise told from error


@asynccontextmanager
async def _site(
    work: Workload, settings: Settings, url: str, known: LatencyModel | None, scale: float
) -> AsyncIterator[_Site]:
    # On loopback a proxy from the environment must not be used.
    away = urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1")
    async with CountingClient(trust_env=away) as http, DefaultAsyncHttpxClient(trust_env=away) as watch:
        client = AsyncOpenAI(base_url=url, api_key=_key(), http_client=http, timeout=None)
        lengths: Lengths = EmbeddedLengths()
        model = MODEL
        if settings.base_url is not None:
            model = settings.model or await first_model(client)
            lengths = await counted(Endpoint(client, model), ignore_eos=settings.ignore_eos)
            work = work.changed(lambda job: prompted(job, lengths.nearest))
        yield _Site(settings, work, url, http, watch, client, model, lengths, known, scale)


async def _compared(site: _Site, on_finish: Callable[[str], None]) -> Comparison:
    settings, slots = site.settings, site.settings.slots
    latency = site.latency or await site.measured(on_finish)
    work = site.work.changed(lambda job: timed(job, latency, slots, site.time_scale))
    graphs = _graphs(site, work)
    warmup, jobs = (
        arrive(part, Poisson(), load=settings.load, slots=slots, seed=settings.seed)
        for part in (work.warmup, work.measured)
    )
    predictor = Predictor(
        {name: compile_graph(graph) for name, graph in graphs.items()},
        slots,
        settings.policy,
        latency,
        settings.ahead,
    )
    profile, fit = await _warmed_up(site, graphs, warmup, predictor, on_finish)
    sides: dict[str, list[Side]] = {name: [] for name in SIDES}
    for number in range(settings.rounds):
        # The sides alternate in going first, from round to round and from seed to seed.
        for name in SIDES if (number + settings.seed) % 2 == 0 else SIDES[::-1]:
            shown = name if settings.rounds == 1 else f"{name} {number + 1}"
            if name == "stock":
                side = await _pass(site, graphs, jobs, None, shown, on_finish)
            else:
                # Each round starts from the warm-up's profile and does not learn from earlier rounds.
                with _scheduler(settings, profile=profile) as scheduler:
                    side = await _pass(site, graphs, jobs, scheduler, shown, on_finish)
                    after = scheduler.statistics()
                side = replace(side, held_after=after.holding, waiting_after=after.waiting)
            sides[name].append(side)
    return Comparison(
        meta={
            "runs": len(jobs),
            "warmup": len(warmup),
            "rounds": settings.rounds,
            "ahead": settings.ahead,
            "seed": settings.seed,
            "load": settings.load,
            "policy": settings.policy,
            "time_scale": site.time_scale,
            "base_url": settings.base_url,
            "model": site.model,
        },
        slots=slots,
        calls=sum(1 for one in jobs for _ in one.job.llm_calls()),
        stock=tuple(sides["stock"]),
        scheduled=tuple(sides["scheduled"]),
        latency=latency,
        predicted=predictor.prediction(warmup, jobs, fit),
    )


async def _warmed_up(
    site: _Site,
    graphs: Mapping[str, Any],
    warmup: list[TimedJob],
    predictor: Predictor,
    on_finish: Callable[[str], None],
) -> tuple[Profile | None, Fit]:
    """Run the warm-up; return the scheduler's profile and the simulator's fit to the endpoint."""
    if not any(True for one in warmup for _ in one.job.llm_calls()):
        return None, Fit()
    stock = await _pass(site, graphs, warmup, None, WARMUP, on_finish)
    with TemporaryDirectory() as folder:
        record = Path(folder, "warm-up.jsonl")
        with _scheduler(site.settings, record=record) as scheduler:
            await _pass(site, graphs, warmup, scheduler, WARMUP, on_finish)
            scheduler.learn()
            await asyncio.to_thread(scheduler.close)  # close() blocks until the record is written
        held_s = fmean(call.seconds or 0.0 for job in read_jobs([record]) for call in job.llm_calls())
    return scheduler.profile, predictor.fitted(warmup, stock.as_pass().mean_jct_s, held_s)


def _scheduler(settings: Settings, **more: Any) -> Scheduler:
    return Scheduler(settings.slots + settings.ahead, policy=settings.policy, **more)


def _graphs(site: _Site, work: Workload) -> Mapping[str, Any]:
    """Return a graph for each application, built from all its jobs."""
    model = ChatOpenAI(
        model=site.model,
        base_url=site.url,
        api_key=SecretStr(_key()),
        http_async_client=site.http,
        timeout=None,
    )
    calls = Calls(model, site.lengths)
    return {
        app: graph_of(app, [job for job in work.jobs if job.app == app], calls)
        for app in sorted({job.app for job in work.jobs})
    }


async def _pass(
    site: _Site,
    graphs: Mapping[str, Any],
    jobs: list[TimedJob],
    scheduler: Scheduler | None,
    name: str,
    on_finish: Callable[[str], None],
) -> Side:
    """Run all jobs at their arrival times, on the stock runner if `scheduler` is None."""
    if scheduler is not None:
        graphs = {app: schedule(graph, scheduler) for app, graph in graphs.items()}
    embedded = site.settings.base_url is None
    if embedded:
        await reset(site.http, site.url)
    site.http.restart()
    salt = f"{site.nonce}/{name}/{'stock' if scheduler is None else 'scheduled'}"
    begin_s = time.monotonic()

    async def one(timed: TimedJob) -> Replayed:
        await asyncio.sleep(max(begin_s + timed.arrival_s - time.monotonic(), 0))
        made = await replay(graphs[timed.job.app], Script.of(timed.job, salt))
        on_finish(name)
        return Replayed(timed.job.app, timed.arrival_s, time.monotonic() - begin_s, tuple(made))

    async with watched(site.watch, site.url) as peaks, asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(timed)) for timed in jobs]
    peak = site.http.peak
    engine: Peaks | None = peaks if peaks.looks else None
    if embedded:
        seen = await counts(site.http, site.url)
        peak = seen["peak_in_flight"]
        engine = Peaks(seen["peak_running"], max(peak - site.settings.slots, 0), 1)
    return Side(tuple(task.result() for task in tasks), peak, engine)


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _key() -> str:
    return os.environ.get("OPENAI_API_KEY") or "none"


def _told(error: BaseException, url: str) -> BaseException:
    """Return a one-line error if the endpoint is the cause, else the error itself."""
    if isinstance(error, BaseExceptionGroup):
        return _told(error.exceptions[0], url)
    if isinstance(error, openai.AuthenticationError):
        return LLMSchedError(f"{url} requires a valid API key: set OPENAI_API_KEY")
    if isinstance(error, openai.APIStatusError):
        said = " ".join(str(error.message).split())[:200]
        return LLMSchedError(
            f"{url} answered {error.status_code}: {said} (if a call is too long for it, a larger "
            "--time-scale makes all of them shorter)"
        )
    if isinstance(error, openai.APIConnectionError):
        return LLMSchedError(f"no server answers at {url}: start one, or leave --base-url out")
    if isinstance(error, openai.OpenAIError):
        return LLMSchedError(f"{url}: {' '.join(str(error).split())[:200]}")
    return error
