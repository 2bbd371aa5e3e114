"""Starts and stops the simulated backend, in the foreground or in a thread, from its settings.

`http_server` and `app` handle HTTP; the optional packages are imported when a server starts.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, TypeVar

from llmsched_langgraph._extras import needs_extra
from llmsched_langgraph.errors import ConfigurationError
from llmsched_langgraph.lab.serve_sim.live import LiveServer
from llmsched_langgraph.lab.sim.latency import latency_model

if TYPE_CHECKING:
    from llmsched_langgraph.lab.serve_sim.http_server import HttpServer

T = TypeVar("T")

DEFAULT_MODEL = "sim-model"
DEFAULT_LATENCY = "llama-3.1-8b-h100"
_CALL_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class SimulatedBackend:
    """The settings of a simulated backend.

    Attributes:
        slots: Most requests that run at once.
        models: Model names that requests may use; all are equally fast.
        latency: The name of a preset in `LATENCY_MODELS`.
        time_scale: Virtual seconds per second of wall time: 20 is 20 times as fast as the modelled hardware.
        seed: Seed of all replies.
        queue_limit: Most requests that wait; further ones are answered 429. None for no limit.
        retry_after: Whether a 429 names the time until a slot is expected to be free.
        host: A loopback address; the server has no authentication.
        port: TCP port; 0 for any free port.

    Raises:
        ConfigurationError: A setting is invalid.
    """

    slots: int = 8
    models: tuple[str, ...] = (DEFAULT_MODEL,)
    latency: str = DEFAULT_LATENCY
    time_scale: float = 1.0
    seed: int = 0
    queue_limit: int | None = None
    retry_after: bool = True
    host: str = "127.0.0.1"
    port: int = 0

    def __post_init__(self) -> None:
        """Reject invalid settings."""
        if self.slots < 1:
            raise ConfigurationError(f"slots must be 1 or more, not {self.slots}")
        if not self.models or not all(self.models):
            raise ConfigurationError("models must hold at least one name, and none may be empty")
        latency_model(self.latency)
        if not (isfinite(self.time_scale) and self.time_scale > 0):
            raise ConfigurationError(
                f"time_scale must be above 0, not {self.time_scale}; 20 is 20 times as fast as the hardware"
            )
        if self.queue_limit is not None and self.queue_limit < 0:
            raise ConfigurationError(
                f"queue_limit must be 0 or more, not {self.queue_limit}; leave it out for no limit"
            )
        if not _is_loopback(self.host):
            raise ConfigurationError(
                f"host must be a loopback address such as 127.0.0.1, not {self.host!r}: the server has no "
                "authentication"
            )
        if not 0 <= self.port <= 65535:
            raise ConfigurationError(f"port must lie in 0..65535, not {self.port}; 0 takes any free port")


class RunningBackend:
    """A simulated backend in a thread of this process; `running_backend` creates it.

    Attributes:
        base_url: The `base_url` of an OpenAI client; ends in `/v1`.
    """

    def __init__(self, base_url: str, live: LiveServer, loop: asyncio.AbstractEventLoop) -> None:
        """Describe a server that has started on `loop`."""
        self.base_url = base_url
        self._live = live
        self._loop = loop

    def statistics(self) -> dict[str, float]:
        """Return what `GET /sim/statistics` returns; after the server has stopped, its last state."""
        return self._call(self._live.statistics)

    def reset(self) -> None:
        """Reset the peaks and counters, as `POST /sim/reset` does."""
        self._call(self._live.reset)

    def resize(self, slots: int) -> None:
        """Change the number of slots, as `POST /sim/resize?slots=N` does; requests that run keep theirs.

        Raises:
            ConfigurationError: `slots` is less than 1.
        """
        self._call(lambda: self._live.resize(slots))

    def _call(self, function: Callable[[], T]) -> T:
        """Run a function on the server's event loop, since the server's state is not thread-safe."""
        if self._loop.is_closed():
            return function()

        async def call() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(_CALL_TIMEOUT_S)


@contextmanager
def running_backend(config: SimulatedBackend) -> Iterator[RunningBackend]:
    """Run a simulated backend in a thread while the block runs.

    Args:
        config: Its settings.

    Raises:
        ConfigurationError: The port is taken, or the packages of the `sim` extra are missing.
    """
    live = _live_server(config)
    started: Future[asyncio.AbstractEventLoop] = Future()
    server = _http_server(config, live, lambda: started.set_result(asyncio.get_running_loop()))
    with _listen(config) as listener:
        base_url = _base_url(listener)

        def run() -> None:
            try:
                server.run([listener])
            except BaseException as error:
                if started.done():
                    raise
                started.set_exception(error)

        thread = threading.Thread(target=run, name="llmsched-serve-sim", daemon=True)
        thread.start()
        try:
            yield RunningBackend(base_url, live, started.result())
        finally:
            server.should_exit = True
            thread.join()


def serve(config: SimulatedBackend, on_start: Callable[[str], None]) -> None:
    """Run a simulated backend in the foreground until SIGINT or SIGTERM.

    Args:
        config: Its settings.
        on_start: Called with the base URL as soon as requests are accepted.

    Raises:
        ConfigurationError: The port is taken, or the packages of the `sim` extra are missing.
    """
    with _listen(config) as listener:
        base_url = _base_url(listener)
        server = _http_server(config, _live_server(config), lambda: on_start(base_url))
        server.run([listener])


def _live_server(config: SimulatedBackend) -> LiveServer:
    latency = latency_model(config.latency)
    return LiveServer(config.slots, latency, config.time_scale, config.queue_limit, config.retry_after)


def _http_server(config: SimulatedBackend, live: LiveServer, on_start: Callable[[], None]) -> HttpServer:
    try:
        from llmsched_langgraph.lab.serve_sim.http_server import HttpServer
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise needs_extra("the simulated backend", error.name, "sim") from error
    return HttpServer(live, config.models, config.seed, on_start)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(config: SimulatedBackend) -> socket.socket:
    """Open the listening socket here, for a clear error if the port is taken and a number for port 0."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # asyncio sets TCP_NODELAY only if the protocol is given; without it answers wait 40 ms for an ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # elsewhere the option would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.host, config.port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"port {config.port} of {config.host} cannot be opened ({error.strerror}): use another --port, "
            "or --port 0 for any free port"
        ) from error
    return listener


def _base_url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
