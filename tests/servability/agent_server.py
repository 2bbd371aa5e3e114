"""`langgraph dev` in a process of its own, and what can be asked of it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

from llmsched_langgraph.lab.serve_sim.server import RunningBackend

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "agent_server"
SLOTS = 2
RUNS_AT_ONCE = 12
START_S = 30
STOP_S = 8

_SETTINGS = {
    "LANGGRAPH_CLI_NO_ANALYTICS": "1",
    "LANGGRAPH_NO_VERSION_CHECK": "true",
    "LANGSMITH_TRACING": "false",
    "LOG_JSON": "true",
    "PYTHONUTF8": "1",
}
_OTHERS = ("LANG", "OPENAI", "LLMSCHED", "BG_JOB", "N_JOBS")
"""Variables of whoever runs the tests that begin so do not reach the server; nor do those of proxies."""


@dataclass(frozen=True)
class AgentServer:
    """A server that runs, the backend behind it, and what it has logged."""

    url: str
    backend: RunningBackend
    log: Path
    isolated: bool

    def client(self) -> LangGraphClient:
        return get_client(url=self.url, api_key=None)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=5) as response:
            return json.load(response)

    def complaints(self) -> list[str]:
        """Lines of the log that tell of errors, of blocking calls, or of this package's warnings."""
        return [line for line in self.log.read_text().splitlines() if _complains(line)]


def _complains(line: str) -> bool:
    if re.search(r"[Bb]locking call|Slow graph load|Traceback", line):
        return True
    if not line.startswith("{"):
        return False
    entry = json.loads(line)
    ours = entry.get("logger") == "llmsched_langgraph"
    return entry["level"] in ("error", "critical") or (ours and entry["level"] != "info")


def skip_unless_installed() -> None:
    """Skip the test where the server is not installed."""
    if importlib.util.find_spec("langgraph_cli") is None or importlib.util.find_spec("langgraph_api") is None:
        pytest.skip("the Agent Server is not installed: pip install 'langgraph-cli[inmem]'")


def settings_of(backend: RunningBackend, **more: str) -> str:
    """The example's `.env` for this backend, and more variables, each of which it names in a comment."""
    settings = (EXAMPLE / ".env.example").read_text()
    for name, value in {"OPENAI_BASE_URL": backend.base_url, **more}.items():
        settings, replaced = re.subn(f"^(# )?{name}=.*$", f"{name}={value}", settings, flags=re.MULTILINE)
        assert replaced == 1, name
    assert f"LLMSCHED_SLOTS={SLOTS}\n" in settings
    return settings


@contextmanager
def langgraph_dev(folder: Path, *, isolated: bool) -> Iterator[tuple[str, Path]]:
    """The server on the graphs of a folder, as long as the context lasts: its address and its log."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "langgraph_cli", "dev", "--no-browser", "--no-reload"]
    command += ["--port", str(port), "--n-jobs-per-worker", str(RUNS_AT_ONCE)]
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_OTHERS) and not name.lower().endswith("_proxy")
    }
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**kept, **_SETTINGS, "BG_JOB_ISOLATED_LOOPS": str(isolated).lower()},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(process, url, log)
            yield url, log
        finally:
            _stop(process)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/ok", timeout=5):
                return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.05)
    pytest.fail(f"langgraph dev is not ready after {START_S} s; its log:\n{log.read_text()}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to end; then end it and whatever it may have started."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait(STOP_S)
