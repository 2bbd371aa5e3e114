"""`examples/workers`: processes that share the slots of a backend, which counts by itself."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.redis_home import server_url

from llmsched_langgraph.cli.main import main
from llmsched_langgraph.lab.serve_sim.server import SimulatedBackend, running_backend

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "workers"
SLOTS = 2
WAIT_S = 60

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def backend():
    """It could serve more calls at once than the processes may make."""
    with running_backend(SimulatedBackend(slots=16, time_scale=40.0)) as backend:
        yield backend


@pytest.fixture
def environment(backend):
    """Variables of the processes; nothing of whoever runs the tests but what Python needs."""
    others = ("LLMSCHED", "OPENAI", "LANG", "CELERY")
    kept = {key: value for key, value in os.environ.items() if not key.upper().startswith(others)}
    kept = {key: value for key, value in kept.items() if not key.lower().endswith("_proxy")}
    return kept | {
        "LLMSCHED_URL": server_url(),
        "LLMSCHED_SLOTS": str(SLOTS),
        "OPENAI_BASE_URL": backend.base_url,
        "OPENAI_API_KEY": "no-key-needed",
        "PYTHONPATH": str(EXAMPLE.parents[1]),
    }


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def web_server(environment, log):
    """The example with two workers; yields its address when it answers."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "web:app", "--workers", "2", "--port", str(port)]
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=EXAMPLE, env=environment, stdout=file, stderr=file)
        try:
            by_s = time.monotonic() + WAIT_S
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/slots", timeout=5).close()
                    break
                except (urllib.error.URLError, OSError):
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < by_s, log.read_text()
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(WAIT_S)


def test_two_web_workers_share_the_slots(backend, environment, tmp_path, capsys):
    """The backend never has more calls at once than there are slots, though both processes make calls."""
    log = tmp_path / "log"

    def ask(number):
        with urllib.request.urlopen(f"{url}/answer?question={number}", timeout=WAIT_S) as response:
            return json.load(response)

    with web_server(environment, log) as url, ThreadPoolExecutor(12) as clients:
        answers, by_s = [], time.monotonic() + WAIT_S
        while len({one["process"] for one in answers}) < 2:
            assert time.monotonic() < by_s, "one process answers all"
            answers += clients.map(ask, range(12))
        assert main(["doctor", "--url", server_url(), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
    assert all(one["answer"] for one in answers)
    seen = backend.statistics()
    assert (seen["peak_in_flight"], seen["served"]) == (SLOTS, 2 * len(answers)), log.read_text()
    assert told["backends"][0]["slots"] == SLOTS
    assert {one["process"] for one in answers} >= {int(own["name"].split(":")[1]) for own in told["workers"]}
    assert "Traceback" not in log.read_text()


POOL = """
    import multiprocessing
    from queue_worker import answer

    with multiprocessing.get_context("fork").Pool(3) as pool:
        print(len(pool.map(answer, [f"question {n}" for n in range(9)], chunksize=1)))
        pool.close()
        pool.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_forked_children_share_the_slots(backend, environment):
    """As Celery's pool does: the module is imported, then processes are forked."""
    program = "\n".join(line.removeprefix("    ") for line in POOL.splitlines())
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(
        command, cwd=EXAMPLE, env=environment, capture_output=True, text=True, timeout=WAIT_S
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "9\n", "")
    seen = backend.statistics()
    assert (seen["peak_in_flight"], seen["served"]) == (SLOTS, 18)


def test_the_deployment():
    """Its probe is a command that there is, and its URL comes from a secret."""
    yaml = pytest.importorskip("yaml")
    text = (EXAMPLE / "kubernetes.yaml").read_text()
    (container,) = yaml.safe_load(text)["spec"]["template"]["spec"]["containers"]
    program, *arguments = container["readinessProbe"]["exec"]["command"]
    assert program == "llmsched"
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--help"])
    assert stop.value.code == 0
    (url,) = [one for one in container["env"] if one["name"] == "LLMSCHED_URL"]
    assert url["valueFrom"]["secretKeyRef"] == {"name": "llmsched", "key": "url"}


def test_tasks_of_ray_share_the_slots(backend, environment):
    """Ray's processes import the graph by themselves, and have the environment of the program."""
    pytest.importorskip("ray", reason="pip install ray")
    settings = {"RAY_USAGE_STATS_ENABLED": "0"}  # it reports nothing
    command = [sys.executable, "ray_tasks.py", "12"]
    done = subprocess.run(
        command, cwd=EXAMPLE, env=environment | settings, capture_output=True, text=True, timeout=WAIT_S
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("12 answers in "), done.stdout
    seen = backend.statistics()
    assert (seen["peak_in_flight"], seen["served"]) == (SLOTS, 24)
