"""Runs the application under uvicorn, in the main thread or another one, and stops it.

Does not answer requests: `app` does.
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
"""Longer than clients keep idle connections (often 5 s), so that no client writes to a closing connection."""
_GRACE_S = 2


class HttpServer(uvicorn.Server):
    """A uvicorn server that reports its start, and fails the requests in flight when it stops."""

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
            log_config=None,  # logging belongs to the application of the process
            log_level="warning",
            access_log=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_GRACE_S,
        )
        super().__init__(config)
        self._live = live
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, then call `on_start`."""
        await super().startup(sockets)
        self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer the requests in flight with an error, so that the shutdown does not wait for them."""
        self._live.close()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGINT and SIGTERM without raising the signal again, unlike uvicorn."""
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
