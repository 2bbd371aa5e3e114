"""Settings, sockets, starting and stopping; and the command."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from openai import OpenAI

from llmsched_langgraph.cli import serve_sim
from llmsched_langgraph.errors import ConfigurationError
from llmsched_langgraph.lab.serve_sim.server import SimulatedBackend, running_backend

LONG = {
    "model": "sim-model",
    "messages": [{"role": "user", "content": "hello"}],
    "extra_body": {"sim": {"output_tokens": 100_000}},
}
COMMAND = """
import argparse, sys
from llmsched_langgraph.cli import serve_sim
parser = argparse.ArgumentParser()
serve_sim.register(parser.add_subparsers())
args = parser.parse_args(sys.argv[1:])
sys.exit(args.run(args))
"""


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"slots": 0}, "slots must be 1 or more"),
        ({"models": ()}, "models must hold at least one"),
        ({"models": ("",)}, "none may be empty"),
        ({"latency": "tpu"}, "latency: no model is called 'tpu'; choose one of"),
        ({"time_scale": 0.0}, "time_scale must be above 0"),
        ({"time_scale": float("nan")}, "time_scale must be above 0"),
        ({"queue_limit": -1}, "queue_limit must be 0 or more"),
        ({"host": "0.0.0.0"}, "host must be a loopback address"),
        ({"host": "example.com"}, "host must be a loopback address"),
        ({"port": 65536}, "port must lie in 0..65535"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        SimulatedBackend(**settings)  # type: ignore[arg-type]


def test_a_port_in_use_is_one_clear_error() -> None:
    with running_backend(SimulatedBackend()) as backend:
        port = int(backend.base_url.split(":")[-1].removesuffix("/v1"))
        complaint = f"port {port} of 127.0.0.1 cannot be opened.*--port 0"
        with pytest.raises(ConfigurationError, match=complaint), running_backend(SimulatedBackend(port=port)):
            pass


def test_a_port_can_be_used_again_at_once() -> None:
    with running_backend(SimulatedBackend()) as backend:
        port = int(backend.base_url.split(":")[-1].removesuffix("/v1"))
        with OpenAI(base_url=backend.base_url, api_key="none") as client:
            client.models.list()
    with running_backend(SimulatedBackend(port=port)) as again:
        assert again.base_url == backend.base_url


def test_localhost_is_loopback() -> None:
    with running_backend(SimulatedBackend(host="localhost")) as backend:
        assert backend.base_url.startswith("http://127.0.0.1:")


def test_stopping_is_quick_and_answers_those_in_flight() -> None:
    before = set(threading.enumerate())
    with ThreadPoolExecutor(2) as threads:
        with running_backend(SimulatedBackend(slots=1)) as backend:
            client = OpenAI(base_url=backend.base_url, api_key="none", max_retries=0)
            plain = threads.submit(client.chat.completions.create, **LONG)
            streamed = threads.submit(lambda: list(client.chat.completions.create(**LONG, stream=True)))
            while backend.statistics()["in_flight"] < 2:
                time.sleep(0.005)
            begun = time.perf_counter()
        assert time.perf_counter() - begun < 1.5
        with pytest.raises(openai.InternalServerError, match="going down"):
            plain.result(timeout=5)
        with pytest.raises(openai.APIError, match="going down"):
            streamed.result(timeout=5)
        client.close()
    statistics = backend.statistics()  # still there, though the server is not
    assert (statistics["in_flight"], statistics["cancelled"]) == (0, 2)
    started = set(threading.enumerate()) - before
    assert not [thread for thread in started if thread.name == "llmsched-serve-sim"]


@pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    for name in [*sys.modules]:
        if name.startswith(("llmsched_langgraph.lab.serve_sim.app", "llmsched_langgraph.lab.serve_sim.http")):
            monkeypatch.delitem(sys.modules, name)
    for name in [*sys.modules]:
        if name.partition(".")[0] == missing:
            monkeypatch.delitem(sys.modules, name)

    class Hide:
        def find_spec(self, name: str, *_: object) -> None:
            if name.partition(".")[0] == missing:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Hide(), *sys.meta_path])
    complaint = rf"needs {missing}.*, of the extra `sim`: pip install .*\[sim\]"
    with pytest.raises(ConfigurationError, match=complaint), running_backend(SimulatedBackend()):
        pass


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_command_says_where_it_is_serves_and_stops_cleanly(stop: signal.Signals) -> None:
    options = ["--port", "0", "--slots", "3", "--model", "a", "--model", "b", "--time-scale", "1e6", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "serve-sim", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        started = json.loads(process.stdout.readline())
        assert (started["slots"], started["models"], started["time_scale"]) == (3, ["a", "b"], 1e6)
        with urllib.request.urlopen(started["base_url"] + "/models") as answer:
            assert [model["id"] for model in json.load(answer)["data"]] == ["a", "b"]
        process.send_signal(stop)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, "", "")


def test_the_start_line_for_people() -> None:
    config = SimulatedBackend(models=("a", "b"))
    line = serve_sim._start_line(config, "http://127.0.0.1:1/v1", as_json=False)
    assert line == (
        "serving http://127.0.0.1:1/v1 slots=8 models=a,b latency=llama-3.1-8b-h100 time_scale=1.0 seed=0 "
        "(stop with Ctrl-C)"
    )


def test_the_command_refuses_bad_settings() -> None:
    parser = argparse.ArgumentParser()
    serve_sim.register(parser.add_subparsers())
    args = parser.parse_args(["serve-sim", "--slots", "0"])
    with pytest.raises(ConfigurationError, match="slots"):
        args.run(args)
