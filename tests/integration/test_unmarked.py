"""Model calls outside every run while a run is active are counted, told once, and gated if that is wanted."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import ClassVar, TypedDict

import pytest
from langchain_core.language_models.chat_models import BaseChatModel, SimpleChatModel
from langchain_core.language_models.fake import FakeListLLM, FakeStreamingListLLM
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.graph import START, StateGraph
from support.forks import in_child, needs_fork
from support.seam import until

from llmsched_langgraph import (
    Application,
    Backend,
    ConfigurationError,
    QueueTimeoutError,
    Scheduler,
    schedule,
)
from llmsched_langgraph._adapter import gate
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._runtime import following, unmarked
from llmsched_langgraph._runtime.context import inside
from llmsched_langgraph._runtime.scheduler import start_run
from llmsched_langgraph.policies import JobInfo
from llmsched_langgraph.testing import PlainModel, StreamingModel, SyncOnlyModel

PATIENCE_S = 20
INFO = JobInfo(application=Application.of("beside", ["n"]))


@pytest.fixture(autouse=True)
def _installed():
    gate.install()
    following.install()


@contextmanager
def active(*schedulers):
    """Each of them has a run, which is elsewhere."""
    runs = [start_run(scheduler, INFO) for scheduler in schedulers]
    try:
        yield
    finally:
        for run in runs:
            run.end(Outcome.FINISHED)


def counted(scheduler):
    return scheduler.statistics().unmarked_calls


class Retrying(SyncOnlyModel):
    """A model whose hook asks that of its base, and whose asynchronous hook asks the synchronous one."""

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        return super()._generate(messages, stop, run_manager, **kwargs)

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        return self._generate(messages, stop, run_manager, **kwargs)


class ByStreaming(StreamingModel):
    """A model that answers by way of its own stream."""

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        text = "".join(chunk.text for chunk in self._stream(messages, stop, run_manager, **kwargs))
        return ChatResult(generations=[ChatGeneration(message=AIMessage(content=text))])

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        pieces = [chunk.text async for chunk in self._astream(messages, stop, run_manager, **kwargs)]
        return ChatResult(generations=[ChatGeneration(message=AIMessage(content="".join(pieces)))])


class Simple(SimpleChatModel):
    @property
    def _llm_type(self):
        return "simple"

    def _call(self, messages, stop=None, run_manager=None, **kwargs):
        return "yes"


MODELS = {
    "sync": SyncOnlyModel,
    "async": PlainModel,
    "streaming": StreamingModel,
    "of several hooks": Retrying,
    "by its stream": ByStreaming,
    "simple": Simple,
    "completion": lambda: FakeListLLM(responses=["yes"]),
    "completion stream": lambda: FakeStreamingListLLM(responses=["yes"]),
}


def text_of(answer):
    return answer if isinstance(answer, str) else answer.text


async def _pieces(model):
    return "".join([text_of(piece) async for piece in model.astream("?")])


async def _gathered(model):
    return text_of((await asyncio.gather(*(model.ainvoke("?") for _ in range(3))))[0])


WAYS = {
    "invoke": (1, lambda model: text_of(model.invoke("?"))),
    "ainvoke": (1, lambda model: text_of(asyncio.run(model.ainvoke("?")))),
    "stream": (1, lambda model: "".join(text_of(piece) for piece in model.stream("?"))),
    "astream": (1, lambda model: asyncio.run(_pieces(model))),
    "batch": (3, lambda model: text_of(model.batch(["?"] * 3)[0])),
    "abatch": (3, lambda model: text_of(asyncio.run(model.abatch(["?"] * 3))[0])),
    "gather": (3, lambda model: asyncio.run(_gathered(model))),
}


@pytest.mark.parametrize("outside", ["count", "gate", "ignore"])
@pytest.mark.parametrize(("calls", "way"), WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_each_call_counts_once(make_scheduler, make, calls, way, outside):
    """However many hooks a model's call goes through, on however many threads."""
    scheduler, model = make_scheduler(1, outside=outside), make()
    assert way(model) == "yes"
    assert counted(scheduler) == 0
    with active(scheduler):
        assert way(model) == "yes"
    now = scheduler.statistics()
    assert now.unmarked_calls == (0 if outside == "ignore" else calls)
    assert now.granted == now.released == (calls if outside == "gate" else 0)
    assert way(model) == "yes"
    assert scheduler.statistics().unmarked_calls == now.unmarked_calls
    assert scheduler.statistics().granted == now.granted


def test_calls_of_a_run_are_not_among_them(make_scheduler):
    """Nor those in a slot of one's own."""
    scheduler, model = make_scheduler(1), PlainModel()
    with active(scheduler):
        run = start_run(scheduler, INFO)
        with inside(run):
            model.invoke("?")
        run.end(Outcome.FINISHED)
        with scheduler.slot():
            model.invoke("?")
    now = scheduler.statistics()
    assert (now.unmarked_calls, now.granted) == (0, 2)


def test_a_call_between_the_pieces_of_a_stream_is_another_one(make_scheduler):
    scheduler, model = make_scheduler(1), StreamingModel()
    with active(scheduler):
        assert [model.invoke(piece.text).text for piece in model.stream("?") if piece.text] == ["yes"] * 3
    assert counted(scheduler) == 4


def test_a_model_that_asks_others_at_once_makes_calls_of_theirs(make_scheduler):
    """In threads of its own, each is another one; what it asks itself is part of its call."""

    class Asks(BaseChatModel):
        others: bool

        @property
        def _llm_type(self):
            return "asks"

        def _generate(self, messages, stop=None, run_manager=None, **kwargs):
            if not self.others:
                text = PlainModel().invoke("?").text
            else:
                with ThreadPoolExecutor(2) as pool:
                    text, _ = pool.map(lambda _: PlainModel().invoke("?").text, range(2))
            return ChatResult(generations=[ChatGeneration(message=AIMessage(content=text))])

    scheduler = make_scheduler(1)
    with active(scheduler):
        assert Asks(others=False).invoke("?").text == "yes"
        assert counted(scheduler) == 1
        assert Asks(others=True).invoke("?").text == "yes"
        assert counted(scheduler) == 4


class Voting(BaseChatModel):
    """Asks three others, all of which are asked before one answers; and then one more."""

    between: object = None

    @property
    def _llm_type(self):
        return "voting"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self.between and self.between()
        Meeting.here = threading.Barrier(3)
        Meeting().batch(["?"] * 3)
        PlainModel().invoke("?")
        return ChatResult(generations=[ChatGeneration(message=AIMessage(content="yes"))])


class Meeting(PlainModel):
    here: ClassVar[object]

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self.here.wait(PATIENCE_S)
        return super()._generate(messages, stop, run_manager, **kwargs)


@pytest.mark.parametrize("run_ends", [False, True])
def test_calls_side_by_side_inside_a_call_count(make_scheduler, run_ends):
    """One at a time is part of the call; the others are requests more. Though the run has ended meanwhile."""
    scheduler = make_scheduler(1)
    run = start_run(scheduler, INFO)
    model = Voting(between=(lambda: run.end(Outcome.FINISHED)) if run_ends else None)
    try:
        assert model.invoke("?").text == "yes"
    finally:
        run.end(Outcome.FINISHED)
    assert counted(scheduler) == 3


def test_a_run_is_active_from_its_start_to_its_end(make_scheduler):
    """Also one that was interrupted has ended, and one whose generator was dropped."""
    scheduler, model = make_scheduler(1), PlainModel()
    runs = [start_run(scheduler, INFO) for _ in range(3)]
    model.invoke("?")
    for run, end in zip(runs, ({}, {"paused_on": "thread"}, {}), strict=True):
        assert counted(scheduler) > 0
        run.end(Outcome.FINISHED, **end)
        run.end(Outcome.FINISHED, **end)
        model.invoke("?")
    assert counted(scheduler) == 3

    class State(TypedDict, total=False):
        answer: str

    builder = StateGraph(State)
    for name, before in (("a", START), ("b", "a")):
        builder.add_node(name, lambda state: {"answer": "x"}).add_edge(before, name)
    steps = schedule(builder.compile(), scheduler).stream({})
    next(steps)
    model.invoke("?")  # by the code that consumes the stream: it is outside
    assert counted(scheduler) == 4
    del steps
    model.invoke("?")
    assert counted(scheduler) == 4
    assert not unmarked._running


def test_it_is_told_once_with_the_cure(make_scheduler, caplog):
    """By each scheduler that counts, and by no other."""
    schedulers = [make_scheduler(1, outside=outside) for outside in ("count", "count", "gate", "ignore")]
    model = PlainModel()
    with caplog.at_level(logging.WARNING, "llmsched_langgraph"):
        with active(schedulers[2], schedulers[3]):
            model.invoke("?")
        assert not caplog.records
        for expected, scheduler in ((1, schedulers[0]), (1, schedulers[0]), (2, schedulers[1])):
            with active(scheduler):
                model.invoke("?")
                model.invoke("?")
            assert len(caplog.records) == expected
    assert 'outside="gate"' in caplog.text
    assert "unmarked_calls" in caplog.text
    assert "ThreadPoolExecutor" in caplog.text


def test_every_scheduler_with_an_active_run_counts(make_scheduler):
    """One that has none does not."""
    schedulers = [make_scheduler(1) for _ in range(3)]
    with active(*schedulers[:2]), active(schedulers[0]):
        PlainModel().invoke("?")
    assert [counted(scheduler) for scheduler in schedulers] == [1, 1, 0]


def test_calls_at_once_are_all_counted(make_scheduler):
    scheduler, model = make_scheduler(1), SyncOnlyModel()
    with active(scheduler), ThreadPoolExecutor(8) as pool:
        list(pool.map(model.invoke, "?" * 400))
    assert counted(scheduler) == 400


# -- outside="gate" -----------------------------------------------------------------------


@pytest.mark.parametrize("make", [SyncOnlyModel, PlainModel, StreamingModel])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_gated_calls_share_the_slots_with_those_of_runs(make_scheduler, make, asynchronous):
    """Each is a job of its own, and waits like one."""
    scheduler, model = make_scheduler(2, outside="gate"), make()
    calls, box = 5, Future()

    def outside():
        if asynchronous:

            async def main():
                return await asyncio.gather(*(model.ainvoke("?") for _ in range(calls)))

            return asyncio.run(main())
        with ThreadPoolExecutor(calls) as pool:
            return list(pool.map(model.invoke, ["?"] * calls))

    run = start_run(scheduler, INFO)
    model.meter.gate.clear()
    threading.Thread(target=lambda: box.set_result(outside()), daemon=True).start()
    with inside(run), ThreadPoolExecutor(2) as pool:
        from llmsched_langgraph._runtime import following

        following.install()
        own = [pool.submit(model.invoke, "?") for _ in range(2)]
        late_s = time.monotonic() + PATIENCE_S
        while scheduler.statistics().holding + scheduler.statistics().waiting < calls + 2:
            assert time.monotonic() < late_s
            time.sleep(0.001)
        assert (scheduler.statistics().holding, model.meter.now) == (2, 2)
        model.meter.gate.set()
        assert [each.result(PATIENCE_S).text for each in own] == ["yes"] * 2
        assert [answer.text for answer in box.result(PATIENCE_S)] == ["yes"] * calls
    run.end(Outcome.FINISHED)
    now = scheduler.statistics()
    assert (now.granted, now.jobs_ended, now.unmarked_calls) == (calls + 2, calls + 1, calls)
    assert model.meter.peak == 2


def test_the_first_scheduler_that_gates_and_serves_the_model_gives_the_slot(make_scheduler):
    """First is the one whose active run began first."""

    def serving(model, outside="gate"):
        return make_scheduler(backends=[Backend("b", 1, [model])], outside=outside)

    other, ignoring, first, second = serving("x"), serving("m", "ignore"), serving("m"), serving("m")
    with active(other, ignoring, first, second):
        PlainModel(model="m").invoke("?")
        PlainModel(model="x").invoke("?")
        PlainModel(model="unknown").invoke("?")
    granted = [each.statistics().granted for each in (other, ignoring, first, second)]
    assert granted == [1, 0, 1, 0]
    assert [counted(each) for each in (other, ignoring, first, second)] == [3, 0, 3, 3]
    with active(second), active(first):
        PlainModel(model="m").invoke("?")
    assert second.statistics().granted == 1


def test_a_closed_scheduler_gates_no_other_calls(make_scheduler):
    """They are not its own."""
    scheduler = make_scheduler(1, outside="gate")
    with active(scheduler):
        scheduler.close()
        assert PlainModel().invoke("?").text == "yes"
    assert scheduler.statistics().granted == 0


def test_a_gated_call_waits_no_longer_than_any_other(make_scheduler):
    scheduler = make_scheduler(1, outside="gate", queue_timeout_s=0.05)
    with active(scheduler), scheduler.slot(), ThreadPoolExecutor(1) as pool:
        assert isinstance(pool.submit(PlainModel().invoke, "?").exception(PATIENCE_S), QueueTimeoutError)


@pytest.mark.parametrize("wrong", [None, True, "gates", 1])
def test_a_setting_that_is_none(wrong):
    with pytest.raises(ConfigurationError, match='outside must be "count", "gate" or "ignore"'):
        Scheduler(1, outside=wrong)


@needs_fork
def test_a_child_counts_its_own(make_scheduler):
    """The parent's runs are not active there."""
    scheduler, model = make_scheduler(1), PlainModel()

    def child():
        model.invoke("?")
        before = counted(scheduler)
        with active(scheduler):
            model.invoke("?")
        return before, counted(scheduler)

    with active(scheduler):
        model.invoke("?")
        assert in_child(child) == (0, 1)
    assert counted(scheduler) == 1


def by_itself(work):
    work()


def by_a_thread(work):
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join()


def by_a_pool(work):
    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()


@pytest.mark.parametrize("by", [by_itself, by_a_thread, by_a_pool], ids=lambda by: by.__name__)
@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("outcome", Outcome)
def test_a_thread_that_outlives_its_run_asks_its_scheduler(make_scheduler, outcome, beside, by):
    """The calls are jobs of their own: neither above the slots nor outside them, and never refused."""
    scheduler, other = make_scheduler(1), make_scheduler(1)
    go, done = threading.Event(), Future()

    def work():
        go.wait(PATIENCE_S)
        by(lambda: done.set_result(PlainModel().invoke("?")))

    run = start_run(scheduler, INFO)
    with inside(run):
        threading.Thread(target=work, daemon=True).start()
    run.end(outcome)
    held = scheduler.slot()
    held.acquire()
    with active(other) if beside else nullcontext():
        go.set()
        until(lambda: scheduler.statistics().waiting == 1)
        held.release()
    done.result(PATIENCE_S)
    assert counted(scheduler) == counted(other) == 0
    scheduler.check()


def test_a_thread_that_serves_other_runs_never_waits_for_their_slots(make_scheduler):
    """A run that holds the only slot may wait for it: the call is counted, and goes on."""
    scheduler, go, done = make_scheduler(1), threading.Event(), Future()

    def serve():
        go.wait(PATIENCE_S)
        done.set_result(PlainModel().invoke("?"))

    run = start_run(scheduler, INFO)
    with inside(run):
        threading.Thread(target=serve, daemon=True).start()
    run.end(Outcome.FINISHED)
    with active(scheduler), scheduler.slot():
        go.set()
        done.result(PATIENCE_S)
    assert (counted(scheduler), scheduler.statistics().over_commitments) == (1, 0)
    scheduler.check()


def test_a_thread_that_outlives_its_scheduler_asks_nobody(make_scheduler):
    """Nor does it ask a scheduler whose backends do not serve the model."""
    closed, narrow = make_scheduler(1), make_scheduler(backends=[Backend("a", 1, models=["b"])])
    for scheduler in (closed, narrow):
        go, done, run = threading.Event(), Future(), start_run(scheduler, INFO)

        def work(go=go, done=done):
            go.wait(PATIENCE_S)
            done.set_result(PlainModel().invoke("?"))

        with inside(run):
            threading.Thread(target=work, daemon=True).start()
        run.end(Outcome.FINISHED)
        if scheduler is closed:
            scheduler.close()
        go.set()
        done.result(PATIENCE_S)
        assert scheduler.statistics().granted == 0
