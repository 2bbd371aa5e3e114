"""The Agent Server with several runs at once, and a process beside it, on the slots of one Redis or Valkey.

Does not test the server's other features: see test_agent_server.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO

import pytest
from servability.agent_server import (
    EXAMPLE,
    RUNS_AT_ONCE,
    SLOTS,
    AgentServer,
    langgraph_dev,
    settings_of,
    skip_unless_installed,
)
from support.redis_home import server_url

from llmsched_langgraph.cli.main import main
from llmsched_langgraph.lab.serve_sim.server import SimulatedBackend, running_backend

pytestmark = pytest.mark.timeout(120)

BATCH = 8
TOPICS = {"topics": ["rivers", "lakes", "seas"]}
CALLS_OF_A_REPORT = 4


def busy():
    """The processes that hold slots or wait for them."""
    with redirect_stdout(StringIO()) as told:
        assert main(["doctor", "--url", server_url(), "--json"]) == 0
    workers = json.loads(told.getvalue())["workers"]
    return [own for own in workers or () if own["held"] or own["waiting"]]


def test_a_server_and_a_batch_share_the_slots(tmp_path):
    """The backend never has more calls than slots, though both processes keep them busy."""
    skip_unless_installed()
    for name in ("langgraph.json", "agent.py", "slots.py", "batch.py"):
        shutil.copy(EXAMPLE / name, tmp_path)
    with running_backend(SimulatedBackend(slots=16, time_scale=12)) as backend:
        settings = settings_of(backend, LLMSCHED_URL=server_url())
        (tmp_path / ".env").write_text(settings)
        with langgraph_dev(tmp_path, isolated=False) as (url, log):
            server = AgentServer(url, backend, log, isolated=False)

            async def ask():
                async with server.client() as client, asyncio.timeout(60):
                    while not backend.statistics()["in_flight"]:  # until the batch has begun
                        await asyncio.sleep(0.01)
                    runs = (client.runs.wait(None, "report", input=TOPICS) for _ in range(RUNS_AT_ONCE))
                    asked = asyncio.gather(*runs)
                    while len(await asyncio.to_thread(busy)) < 2:
                        assert not asked.done(), "the two have not met"
                    return await asked

            kept = {key: own for key, own in os.environ.items() if not key.lower().endswith("_proxy")}
            own = dict(line.split("=", 1) for line in settings.splitlines() if line[:1].isalpha())
            batch = subprocess.Popen(
                [sys.executable, "batch.py", str(BATCH)],
                cwd=tmp_path,
                env=kept | own,
                stdout=subprocess.PIPE,
                text=True,
            )
            states = asyncio.run(ask())
            said, _ = batch.communicate(timeout=60)
            told = server.get("/slots")
            assert server.complaints() == []
        seen = backend.statistics()
    assert all(state["summary"] for state in states)
    assert (batch.returncode, said.split(" in ")[0]) == (0, f"{BATCH} reports")
    assert f"{BATCH * CALLS_OF_A_REPORT} calls on {SLOTS} slots" in said
    assert told["granted"] == told["released"] == RUNS_AT_ONCE * CALLS_OF_A_REPORT
    assert (seen["peak_in_flight"], seen["served"]) == (SLOTS, (RUNS_AT_ONCE + BATCH) * CALLS_OF_A_REPORT)
