"""`llmsched demo`, run as a user runs it: a process of its own, its output read."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from llmsched_langgraph.lab.demo.workload import SHARES, workload

PASS_KEYS = {"mean_jct_s", "p50_jct_s", "p95_jct_s", "makespan_s", "backend_peak"}


def llmsched(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "llmsched_langgraph", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=150)


def test_a_backend_ends_with_who_started_it():
    """As a supervisor ends it, which only Ctrl-C is like."""
    program = (
        "import os, signal\n"
        "from llmsched_langgraph.lab.demo.backend import backend\n"
        "with backend(1, 0, 100.0) as url:\n"
        "    print(url, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    signal.pause()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, "")
    with (
        pytest.raises(ConnectionRefusedError),
        socket.create_connection(("127.0.0.1", urlsplit(done.stdout.strip()).port)),
    ):
        pass


@pytest.mark.timeout(160)
def test_demo_json():
    """One JSON object with the agreed keys; same outputs, the backend within its slots, nothing left over."""
    done = llmsched("demo", "--runs", "30", "--slots", "3", "--seed", "5", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    assert set(result) == {
        "runs",
        "slots",
        "seed",
        "stock",
        "scheduled",
        "mean_jct_reduction",
        "outputs_equal",
        "held_after",
        "waiting_after",
    }
    assert (result["runs"], result["slots"], result["seed"]) == (30, 3, 5)
    assert set(result["stock"]) == set(result["scheduled"]) == PASS_KEYS
    assert result["outputs_equal"] is True
    assert (result["held_after"], result["waiting_after"]) == (0, 0)
    assert result["stock"]["backend_peak"] > 3
    assert result["scheduled"]["backend_peak"] <= 3
    expected = 1 - result["scheduled"]["mean_jct_s"] / result["stock"]["mean_jct_s"]
    assert result["mean_jct_reduction"] == pytest.approx(expected)


@pytest.mark.timeout(160)
def test_demo_table():
    """Without --json a table for people, with a row for each pass."""
    done = llmsched("demo", "--runs", "6", "--slots", "2")
    assert done.returncode == 0, done.stderr
    for word in ("stock", "scheduled", "mean JCT", "backend peak", "identical", "Slots still held: 0"):
        assert word in done.stdout


def test_workload_is_the_seed_s():
    """The same seed gives the same runs, another seed others, and every graph has its share."""
    runs = workload(600, seed=3)
    assert runs == workload(600, seed=3)
    assert runs != workload(600, seed=4)
    for graph, share in SHARES.items():
        assert sum(run.graph == graph for run in runs) / 600 == pytest.approx(share, abs=0.06)
    assert [run.arrival for run in runs] == sorted(run.arrival for run in runs)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demo", "--slots", "0"], ["--slots", "at least 1", "not 0"]),
        (["demo", "--slots", "-3"], ["--slots", "at least 1", "not -3"]),
        (["demo", "--runs", "0"], ["--runs", "at least 1"]),
        (["serve-sim", "--slots", "0"], ["slots", "0"]),
        (["serve-sim", "--host", "0.0.0.0"], ["loopback"]),
    ],
)
def test_bad_options_are_one_line(arguments, words):
    """A setting that cannot work is one line on standard error that names it, and exit status 2."""
    done = llmsched(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("llmsched: ")
    for word in words:
        assert word in done.stderr


def test_version():
    """`--version` prints the package's version."""
    from llmsched_langgraph import __version__

    assert llmsched("--version").stdout == f"llmsched {__version__}\n"
