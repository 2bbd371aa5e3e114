"""Threads of an event loop's pool that wait do not keep others from running."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor

import pytest

from llmsched_langgraph._runtime.threads import learn_pool, stepping_aside


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_pool_that_was_busy_before(kind):
    """A waiting thread is replaced however many tasks the pool has run, which 3.11 counts as idle threads."""

    async def main() -> bool:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(2))
        learn_pool(loop)
        await asyncio.gather(*(loop.run_in_executor(None, bool) for _ in range(300)))
        come = threading.Event()

        def wait() -> bool:
            with stepping_aside(loop):
                return come.wait(3)

        waiting = [loop.run_in_executor(None, wait) for _ in range(20)]
        loop.run_in_executor(None, come.set)
        return all(await asyncio.gather(*waiting))

    assert _run(main(), kind)


def _run(main: Coroutine[None, None, bool], kind: str) -> bool:
    try:
        if kind == "asyncio":
            return asyncio.run(main)
        return pytest.importorskip("uvloop", reason="uvloop is not installed").run(main)
    finally:
        main.close()
