"""`llmsched bench`: generated and recorded jobs, as a table and as data; errors on one line."""

from __future__ import annotations

import json

import pytest

from llmsched_langgraph.cli.main import main
from llmsched_langgraph.sim.workloads import generate
from llmsched_langgraph.traces import write_jobs

SMALL = ["--jobs", "40", "--seeds", "2", "--policies", "fcfs,srtf"]
ROW = {
    "workload",
    "policy",
    "load",
    "slots",
    "seed",
    "jobs",
    "mean_jct_s",
    "p50_jct_s",
    "p95_jct_s",
    "p99_jct_s",
}
ROW |= {"max_jct_s", "makespan_s", "decision_us_p50", "decision_us_p99"}
ENTRY = {"workload", "policy", "mean_jct_s", "ci95_s", "vs_clairvoyant", "vs_lower_bound", "vs"}


def shown(capsys, *arguments):
    assert main(["bench", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_generated_workloads_as_data(capsys):
    """A row for each workload, load, seed and policy, and for the clairvoyant; the same again is the same."""
    arguments = ["--workload", "chain", "--workload", "web_search", "--load", "0.7,1.1", *SMALL, "--json"]
    result = json.loads(shown(capsys, *arguments))
    assert set(result) == {"meta", "rows", "summary"}
    assert len(result["rows"]) == 2 * 2 * 2 * 3
    assert all(set(row) >= ROW for row in result["rows"])
    assert len(result["summary"]) == 2 * 2 * 3
    assert all(set(entry) >= ENTRY for entry in result["summary"])
    again = json.loads(shown(capsys, *arguments))
    assert [row["mean_jct_s"] for row in again["rows"]] == [row["mean_jct_s"] for row in result["rows"]]


def test_recorded_jobs_as_a_table(capsys, tmp_path):
    """From a folder of files, learned from one half or from other files."""
    write_jobs(generate("chain", 60, 1), tmp_path / "a.jsonl")
    write_jobs(generate("planning", 60, 2), tmp_path / "b.jsonl.gz")
    out = tmp_path / "result.json"
    table = shown(capsys, "--traces", str(tmp_path), *SMALL, "--slots", "4", "--json", str(out))
    assert table.startswith("traces, load 0.9, 4 slots\npolicy")
    assert [line.split()[0] for line in table.splitlines()[2:]] == ["fcfs", "srtf", "oracle"]
    assert len(json.loads(out.read_text())["rows"]) == 6
    shown(capsys, "--traces", str(tmp_path / "a.jsonl"), "--train", str(tmp_path / "b.jsonl.gz"), *SMALL)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--policies", "fcfs,magic"], "unknown policy 'magic'; choose one of: "),
        (["--load", "much"], "--load must be numbers above 0 such as 0.7,0.9, not 'much'"),
        (["--load", "0"], "--load must be numbers above 0"),
        (["--jobs", "0"], "--jobs must be at least 1, not 0"),
        (["--workload", "magic"], "none is called 'magic'; choose one of "),
        (["--traces", "nowhere"], "nowhere"),
        (["--burstiness", "-1", *SMALL], "coefficient of variation must be above 0"),
    ],
)
def test_errors_are_one_line(capsys, arguments, words):
    """What is wrong and what to do, exit status 2."""
    assert main(["bench", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("llmsched: ")
    assert err.count("\n") == 1
    assert words in err
