"""An event loop whose time goes on only when it would wait, or when a test says so."""

from __future__ import annotations

import asyncio
from typing import Any


class Clock:
    """Stands still but for what models and tools let it go on."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now

    def run(self, work: Any) -> Any:
        """Run a coroutine on an event loop that goes by this clock: it sleeps no time at all."""
        loop = asyncio.SelectorEventLoop()
        select = loop._selector.select

        def wait(timeout: float | None) -> Any:
            # A thread may be about to bring something: then no time goes by.
            found = select(timeout if timeout is None else min(timeout, 0.01))
            self.now += 0.0 if found else timeout or 0.0
            return found

        loop._selector.select = wait
        loop.time = self
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            return runner.run(work)
