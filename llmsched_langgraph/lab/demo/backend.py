"""Starts the embedded backend in its own process and reads its counters.

Does not send chat requests.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llmsched_langgraph.errors import LLMSchedError

MODEL = "sim-model"
LATENCY = "llama-2-70b-a100-tp8"


@contextmanager
def _terminable() -> Iterator[None]:
    """Raise `SystemExit` on SIGTERM in the block, so that its cleanup runs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)  # None: the handler was not set from Python


@contextmanager
def backend(
    slots: int,
    seed: int,
    time_scale: float,
    latency: str = LATENCY,
    *,
    queue_limit: int | None = None,
    retry_after: bool = True,
) -> Iterator[str]:
    """Run the embedded backend in its own process, on its own core; yield its base URL."""
    command = [sys.executable, "-m", "llmsched_langgraph", "serve-sim", "--json", "--port", "0"]
    command += ["--slots", str(slots), "--seed", str(seed), "--time-scale", str(time_scale)]
    command += ["--model", MODEL, "--latency", latency]
    command += [] if queue_limit is None else ["--queue-limit", str(queue_limit)]
    command += [] if retry_after else ["--no-retry-after"]
    with _terminable():
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise LLMSchedError(f"the embedded backend did not start (exit status {process.wait()})")
            yield json.loads(line)["base_url"]
        finally:
            process.terminate()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


async def reset(http: Any, url: str) -> None:
    """Reset the counters of the backend at this base URL; `http` is an asynchronous client."""
    (await http.post(f"{_control(url)}/reset")).raise_for_status()


async def resize(http: Any, url: str, slots: int) -> None:
    """Change the number of slots of the backend at this base URL."""
    (await http.post(f"{_control(url)}/resize", params={"slots": slots})).raise_for_status()


async def counts(http: Any, url: str) -> dict[str, Any]:
    """Return the backend's counts since the last reset."""
    answer = await http.get(f"{_control(url)}/statistics")
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def _control(url: str) -> str:
    return url.removesuffix("/v1") + "/sim"
