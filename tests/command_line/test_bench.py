"""`llmsched bench`: generated and recorded jobs, as tables, data and plots; errors on one line."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from threading import Event

import pytest

from llmsched_langgraph._extras import install
from llmsched_langgraph.cli import comparing
from llmsched_langgraph.cli.main import main
from llmsched_langgraph.errors import InvalidDataError, LLMSchedError
from llmsched_langgraph.lab.sim.cells import Grid
from llmsched_langgraph.lab.sim.workloads import Poisson, generate
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
    policies, saved = table.split("\n\n")
    assert [line.split()[0] for line in policies.splitlines()[2:]] == ["fcfs", "srtf", "clairvoyant"]
    assert saved.startswith("reduction of the mean JCT by srtf\nagainst")
    assert [line.split()[0] for line in saved.splitlines()[2:]] == ["fcfs"]
    assert len(json.loads(out.read_text())["rows"]) == 6
    shown(capsys, "--traces", str(tmp_path / "a.jsonl"), "--train", str(tmp_path / "b.jsonl.gz"), *SMALL)


def test_numbers_of_jobs(capsys):
    """Each is a comparison of its own, learned from the same jobs; the fewer are the first of the more."""
    arguments = ["--workload", "chain", "--seeds", "1", "--policies", "fcfs,plas"]
    result = json.loads(shown(capsys, *arguments, "--jobs", "20,40", "--json"))
    assert [entry["jobs"] for entry in result["summary"]] == [20] * 3 + [40] * 3
    assert result["meta"]["focus"] == "plas"
    alone = json.loads(shown(capsys, *arguments, "--jobs", "40", "--json"))
    assert [row["mean_jct_s"] for row in alone["rows"]] == [row["mean_jct_s"] for row in result["rows"][3:]]
    tables = shown(capsys, *arguments, "--jobs", "20,40", "--deciles", "--focus", "fcfs")
    assert "chain, load 0.9, 8 slots, 20 jobs\n" in tables
    assert "chain, load 0.9, 8 slots, 40 jobs\n" in tables
    assert tables.count("reduction of the mean JCT by fcfs\n") == 2
    assert tables.count("slowdown (JCT / critical path)") == 2


def test_arrivals_and_tools_are_those_that_were_asked_for(capsys, tmp_path):
    """In bursts of ten jobs waits; with one tool at a time everybody waits for it, whoever decides."""
    bursts = tmp_path / "bursts.csv"
    bursts.write_text("t_s\n" + "".join(f"{1000 * burst}\n" * 10 for burst in range(5)))
    arguments = ["--workload", "planning", "--load", "0.5", "--slots", "4", *SMALL, "--json"]

    def mean_jct_s(*more):
        result = json.loads(shown(capsys, *arguments, *more))
        return next(entry["mean_jct_s"] for entry in result["summary"] if entry["policy"] == "fcfs")

    usual = mean_jct_s()
    assert mean_jct_s("--arrivals", str(bursts)) > 1.2 * usual
    assert mean_jct_s("--tools", "1") > 1.1 * usual
    assert mean_jct_s("--tools", "1000") == usual


def test_plots(capsys, tmp_path):
    """PNG and SVG files, in a folder that is made."""
    folder = tmp_path / "new" / "folder"
    out = shown(capsys, "--workload", "chain", *SMALL, "--plots", str(folder))
    assert out.endswith(f"5 plots in {folder}, each as .png and .svg\n")
    files = sorted(folder.iterdir())
    assert {path.stem for path in files if path.suffix == ".png"} == {
        "mean-jct",
        "reduction",
        "jct-quantiles",
        "slowdown-by-size",
        "decision-time",
    }
    assert len(files) == 10
    for path in files:
        head = path.read_bytes()[:8]
        assert head == b"\x89PNG\r\n\x1a\n" if path.suffix == ".png" else head.startswith(b"<?xml")


def test_plots_without_matplotlib(capsys, tmp_path, monkeypatch):
    """One line that names the cure, before anything is simulated."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "llmsched_langgraph.lab.bench_plots", raising=False)
    monkeypatch.setattr("llmsched_langgraph.lab.sim.evaluation.measure", None)
    assert main(["bench", *SMALL, "--plots", str(tmp_path)]) == 2
    cure = f"llmsched: --plots needs matplotlib, of the extra `plots`: {install('plots')}\n"
    assert capsys.readouterr() == ("", cure)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--policies", "fcfs,magic"], "unknown policy 'magic'; choose one of: "),
        (["--load", "much"], "--load must be numbers such as 0.7,0.9, not 'much'"),
        (["--load", "0"], "--load must be above 0"),
        (["--jobs", "0"], "--jobs must be at least 1, not 0"),
        (["--jobs", "10,many"], "--jobs must be whole numbers such as 100,300, not '10,many'"),
        (["--focus", "magic", "--policies", "fcfs"], "--focus must be one of fcfs, not 'magic'"),
        (["--plots", __file__], f"--plots {__file__}: File exists"),
        (["--json", "/no/such/folder/x.json"], "--json /no/such/folder/x.json: No such file or directory"),
        (["--paper", "x", "--load", "0.9"], "--load: the studies of --paper choose their own; leave it out"),
        (["--paper", "x", "--focus", "fcfs"], "--focus: the studies of --paper choose their own"),
        (["--workload", "magic"], "unknown workload 'magic'; choose one of "),
        (["--traces", "nowhere"], "nowhere"),
        (["--burstiness", "-1", *SMALL], "coefficient of variation must be above 0"),
        (["--arrivals", "nowhere.csv", *SMALL], "nowhere.csv"),
        (["--tools", "0"], "--tools must be at least 1, not 0"),
    ],
)
def test_errors_are_one_line(refuses, arguments, words):
    """What is wrong and what to do, exit status 2."""
    refuses(["bench", *arguments], words)


def test_what_is_learned_from_is_not_measured(refuses, tmp_path):
    """A folder, and a file in it to learn from."""
    write_jobs(generate("chain", 20, 1), tmp_path / "a.jsonl")
    write_jobs(generate("planning", 20, 2), tmp_path / "b.jsonl")
    arguments = ["--traces", str(tmp_path), "--train", str(tmp_path / "b.jsonl"), *SMALL]
    refuses(["bench", *arguments], "is also among the jobs to measure; learn from other jobs")


def test_a_call_of_which_nothing_is_known(refuses, tmp_path):
    """The file and the job are named."""
    line = (
        '{"id": "odd", "app": "a", "jct": null, "stages": [{"n": "s", "k": "llm", "dep": [], "calls": %s}]}\n'
    )
    file = tmp_path / "a.jsonl"
    file.write_text(line % "[[10, null, null]]" + line.replace("odd", "even") % "[[10, 20, null]]")
    refuses(
        ["bench", "--traces", str(file), *SMALL],
        f"{file}: job 'odd' has an LLM call with neither seconds nor output tokens",
    )


@pytest.mark.parametrize("fault", [KeyboardInterrupt, InvalidDataError("nonsense")])
def test_after_a_fault_nothing_more_is_simulated(monkeypatch, fault):
    """Ctrl-C, too, leaves the cells that have not begun."""
    begun = []

    def measure(cell, stopwatch):
        begun.append(cell)
        Event().wait(0.01)
        raise fault

    monkeypatch.setattr(comparing, "ProcessPoolExecutor", ThreadPoolExecutor)
    monkeypatch.setattr("llmsched_langgraph.lab.sim.evaluation.measure", measure)
    cells = list(Grid(["fcfs"], Poisson(), [0.9], [5], 2, 200).generated(["chain"]))
    with pytest.raises(type(fault) if isinstance(fault, Exception) else fault):
        comparing.compare(cells, {})
    assert 0 < len(begun) < 100


def test_a_process_that_is_killed_is_told_in_one_line(monkeypatch):
    """As the system does for want of memory."""

    def measure(cell, stopwatch):
        raise BrokenProcessPool("gone")

    monkeypatch.setattr(comparing, "ProcessPoolExecutor", ThreadPoolExecutor)
    monkeypatch.setattr("llmsched_langgraph.lab.sim.evaluation.measure", measure)
    with pytest.raises(LLMSchedError, match="for lack of memory: try fewer --jobs"):
        comparing.compare(list(Grid(["fcfs"], Poisson(), [0.9], [5], 2, 3).generated(["chain"])), {})


@pytest.mark.timeout(300)
def test_the_papers_evaluation_is_one_command(capsys, monkeypatch, tmp_path):
    """Workloads, numbers of jobs, sensitivity: a table, a file and a folder of plots each."""
    views = pytest.importorskip("llmsched_langgraph.lab.bench_plots", exc_type=ImportError)
    drawn = []
    monkeypatch.setattr(views, "write_figures", lambda result, folder: drawn.append(folder.name) or drawn)
    out = shown(capsys, "--paper", str(tmp_path), "--seeds", "1", "--jobs", "10", "--slots", "2")
    assert drawn == ["workloads", "jobs", "sensitivity"]
    for name, entries in (("workloads", 4 * 3 * 12), ("jobs", 4 * 3 * 10), ("sensitivity", 4 * 14)):
        data = json.loads((tmp_path / f"{name}.json").read_text())
        assert len(data["summary"]) == entries
        assert f"== {name}: " in out
