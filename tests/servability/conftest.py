from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from servability.agent_server import EXAMPLE, AgentServer, langgraph_dev, settings_of, skip_unless_installed

from llmsched_langgraph.lab.serve_sim.server import SimulatedBackend, running_backend


@pytest.fixture(scope="module", params=["shared loop", "isolated loops"])
def running_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AgentServer]:
    """The example under `langgraph dev`, started as its README says; BlockBuster is on."""
    skip_unless_installed()
    folder = tmp_path_factory.mktemp("agent_server")
    for name in ("langgraph.json", "agent.py", "slots.py"):
        shutil.copy(EXAMPLE / name, folder)
    with running_backend(SimulatedBackend(slots=16, time_scale=20)) as backend:
        (folder / ".env").write_text(settings_of(backend))
        isolated = request.param == "isolated loops"
        with langgraph_dev(folder, isolated=isolated) as (url, log):
            yield AgentServer(url, backend, log, isolated)


@pytest.fixture
def server(running_server: AgentServer) -> Iterator[AgentServer]:
    """The server, with fresh counts at its backend; after the test nothing is held and nothing was amiss."""
    running_server.backend.reset()
    yield running_server
    now = running_server.get("/slots")
    assert [(pool["holding"], pool["waiting"]) for pool in now["backends"]] == [(0, 0)]
    assert (now["jobs_running"], now["granted"]) == (0, now["released"])
    assert now["over_commitments"] == 0
    assert running_server.complaints() == []
