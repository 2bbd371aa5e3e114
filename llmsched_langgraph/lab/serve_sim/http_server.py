"""Knows how to run the application under uvicorn, in a process of its own or in a thread, and how to stop it.

Knows nothing of what the application answers.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn

from llmsched_langgraph.lab.serve_sim.app import create_app
from llmsched_langgraph.lab.serve_sim.live import LiveServer

_KEEP_ALIVE_S = 75
"""Longer than clients keep idle connections (often 5 s), so that none sends into one being closed."""
_GRACE_S = 2


class HttpServer(uvicorn.Server):
    """uvicorn that says when it is up, ends what is in flight when it goes down, and returns when stopped."""

    def __init__(
        self, live: LiveServer, models: tuple[str, ...], seed: int, on_start: Callable[[], None]
    ) -> None:
        """Prepare a server; `on_start` is called on its event loop once it accepts requests."""
        config = uvicorn.Config(
            create_app(live, models, seed),
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,  # the logging of the process is not ours to set up
            log_level="warning",
            access_log=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_GRACE_S,
        )
        super().__init__(config)
        self._live = live
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, then say so."""
        await super().startup(sockets)
        self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what is in flight with an error, so that nobody has to be waited for."""
        self._live.close()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGINT and SIGTERM without raising them again: a server told to stop has done its work."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
