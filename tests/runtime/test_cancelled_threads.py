"""Calls of threads whose run is cancelled, while another thread decides: each is told."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, TypedDict

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.graph import START, StateGraph
from support.cycles import ends
from support.seam import auntil, until

from llmsched_langgraph import CallCancelledError, schedule
from llmsched_langgraph.testing import SyncOnlyModel


class State(TypedDict, total=False):
    n: int


class Deciding:
    """First come, first served. One decision stops half way until it may go on."""

    name = "deciding"

    def __init__(self) -> None:
        self.stops, self.stopped, self.goes_on = False, threading.Event(), threading.Event()

    def order(self, job: Any, now: float) -> float:
        """The time of arrival."""
        if self.stops:
            self.stops = False
            self.stopped.set()
            assert self.goes_on.wait(20)
        return float(job.arrival_s)


class Asking(BaseChatModel):
    """Asks another model twice, in a thread."""

    of: Any
    between: Any
    told: list[BaseException]

    @property
    def _llm_type(self) -> str:
        return "asking"

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        self.of.invoke("first")
        assert self.between.wait(20)
        try:
            self.of.invoke("second")
        except CallCancelledError as error:
            self.told.append(error)
            raise
        return ChatResult(generations=[ChatGeneration(message=AIMessage("yes"))])

    async def _agenerate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return await asyncio.to_thread(self._generate, messages)


def test_a_thread_that_waits_is_told_that_its_call_was_cancelled(make_scheduler):
    """The dismissal of its call and the release of its ticket are handled together."""
    policy, between = Deciding(), threading.Event()
    scheduler = make_scheduler(1, policy=policy)
    model = Asking(of=SyncOnlyModel(), between=between, told=[])

    async def ask(state):
        await model.ainvoke("?")
        return {}

    graph = schedule(StateGraph(State).add_node("ask", ask).add_edge(START, "ask").compile(), scheduler)

    def other():
        with scheduler.slot():
            pass

    async def main():
        task = asyncio.create_task(graph.ainvoke({}))
        await auntil(lambda: scheduler.statistics().granted == 1 and scheduler.statistics().holding == 0)
        slot = scheduler.slot()
        await slot.aacquire()
        between.set()
        await auntil(lambda: scheduler.statistics().waiting == 1)
        policy.stops = True
        thread = threading.Thread(target=other)
        thread.start()
        until(policy.stopped.is_set)
        task.cancel()
        done = asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0)  # the cancellation is on its way, and nothing of it is handled yet
        while not task.done():
            await asyncio.sleep(0)
        policy.goes_on.set()
        await done
        slot.release()
        thread.join(20)

    ends(lambda: asyncio.run(main()), scheduler)
    assert len(model.told) == 1
