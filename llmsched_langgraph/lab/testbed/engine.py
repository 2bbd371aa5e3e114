"""Polls the numbers of running and waiting requests from a model server's Prometheus metrics.

Does not make the requests that it counts; it reads the metrics of llama.cpp, vLLM and SGLang.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

EVERY_S = 0.1

_RUNNING = ("llamacpp:requests_processing", "vllm:num_requests_running", "sglang:num_running_reqs")
_WAITING = ("llamacpp:requests_deferred", "vllm:num_requests_waiting", "sglang:num_queue_reqs")
_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{[^}]*\})? (\S+)", re.MULTILINE)


@dataclass(slots=True)
class Peaks:
    """The most requests that ran and waited at once, over all polls."""

    peak_running: int = 0
    peak_waiting: int = 0
    looks: int = 0

    def look(self, text: str) -> bool:
        """Add one answer of `/metrics`; return whether it has a known metric of running requests."""
        found: dict[str, float] = {}
        for name, value in _SAMPLE.findall(text):
            with suppress(ValueError):
                found[name] = found.get(name, 0.0) + float(value)
        running = [found[name] for name in _RUNNING if name in found]
        if not running:
            return False
        self.looks += 1
        self.peak_running = max(self.peak_running, int(running[0]))
        self.peak_waiting = max(self.peak_waiting, int(sum(found.get(name, 0.0) for name in _WAITING)))
        return True


@asynccontextmanager
async def watched(http: Any, base_url: str) -> AsyncIterator[Peaks]:
    """Poll the server's `/metrics`, if it has any, every `EVERY_S` seconds while the block runs.

    Args:
        http: a separate asynchronous client, so that the polls are not counted as requests.
        base_url: URL of the endpoint; `/metrics` is beside its `/v1`.
    """
    peaks = Peaks()
    url = f"{base_url.rstrip('/').removesuffix('/v1')}/metrics"

    async def look() -> None:
        while True:
            try:
                answer = await http.get(url)
                if answer.status_code != 200 or not peaks.look(answer.text):
                    return
            except Exception:
                return  # the comparison does not depend on the metrics
            await asyncio.sleep(EVERY_S)

    looking = asyncio.create_task(look())
    try:
        yield peaks
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
