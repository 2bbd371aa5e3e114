"""Knows the embedded backend as a process of its own: how it is started, and what it counts.

Does not know what is sent to it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llmsched_langgraph.errors import LLMSchedError

MODEL = "sim-model"
LATENCY = "llama-2-70b-a100-tp8"


@contextmanager
def backend(slots: int, seed: int, time_scale: float, latency: str = LATENCY) -> Iterator[str]:
    """The embedded backend in a process of its own, so that both have a core; gives its base URL."""
    command = [sys.executable, "-m", "llmsched_langgraph", "serve-sim", "--json", "--port", "0"]
    command += ["--slots", str(slots), "--seed", str(seed), "--time-scale", str(time_scale)]
    command += ["--model", MODEL, "--latency", latency]
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
    """Let the backend at this base URL count anew; `http` is an asynchronous client."""
    (await http.post(f"{_control(url)}/reset")).raise_for_status()


async def counts(http: Any, url: str) -> dict[str, Any]:
    """What it counted since."""
    answer = await http.get(f"{_control(url)}/statistics")
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def _control(url: str) -> str:
    return url.removesuffix("/v1") + "/sim"
