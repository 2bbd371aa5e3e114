"""Every command that reads recorded jobs: torn lines cost themselves, and are told once per file."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from support.beliefs import fan_job

from llmsched_langgraph.cli.comparing import read
from llmsched_langgraph.cli.complaints import SkippedLines
from llmsched_langgraph.cli.main import main
from llmsched_langgraph.lab.sim.workloads import Poisson, arrive, generate
from llmsched_langgraph.traces import write_jobs

QUICK = ["--policies", "fcfs", "--json"]


@pytest.fixture
def torn(tmp_path):
    """A recording of which the third line lost its end, and the last is the start of another one."""
    path = tmp_path / "night.jsonl"
    timed = arrive(generate("chain", 40, 1), Poisson(), load=0.9, slots=4, seed=1)
    write_jobs((replace(each.job, arrival_s=each.arrival_s, jct_s=60.0) for each in timed), path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2][:40] + b"\n"
    path.write_bytes(b"".join(lines) + lines[3][:25])
    return path


@pytest.fixture
def gone(tmp_path):
    """A file that a power cut left without content."""
    path = tmp_path / "gone.jsonl"
    path.write_bytes(bytes(4096))
    return path


def told(path, line=3, count="2 lines", reason="is not a complete JSON object: "):
    return f"llmsched: {path}: line {line}: {reason}", f"; {count} skipped"


def ran(capsys, *arguments):
    status = main(list(map(str, arguments)))
    return status, *capsys.readouterr()


@pytest.mark.parametrize(
    "arguments",
    [
        ["replay", "FILE", *QUICK],
        ["bench", "--traces", "FILE", *QUICK, "--jobs", "20", "--seeds", "1"],
        ["bench", "--workload", "chain", "--train", "FILE", *QUICK, "--jobs", "20", "--seeds", "1"],
    ],
)
def test_simulations_have_it_in_their_meta(capsys, torn, arguments):
    status, out, err = ran(capsys, *(torn if word == "FILE" else word for word in arguments))
    assert status == 0
    start, end = told(torn)
    (line,) = err.splitlines()
    assert line.startswith(start)
    assert line.endswith(end)
    (skipped,) = json.loads(out)["meta"]["skipped"]
    assert skipped == {
        "file": str(torn),
        "lines": 2,
        "first_line": 3,
        "reason": line.removeprefix(f"llmsched: {torn}: line 3: ").removesuffix(end),
    }


def test_a_file_that_is_read_twice_is_told_once(capsys, torn):
    skipped = SkippedLines()
    for _ in range(2):
        assert len(read(torn, skipped)) == 39
    assert capsys.readouterr().err.count("\n") == len(skipped.as_json()) == 1


def test_where_nothing_is_torn_nothing_is_told(capsys):
    status, out, err = ran(capsys, "bench", "--workload", "chain", *QUICK, "--jobs", "20", "--seeds", "1")
    assert (status, err, json.loads(out)["meta"]["skipped"]) == (0, "", [])


@pytest.mark.parametrize("action", ["fit", "evaluate", "plot"])
def test_profiles_are_learned_from_what_is_whole(capsys, tmp_path, action):
    """Lines of progress stand beside it."""
    path = tmp_path / "fan.jsonl"
    write_jobs([fan_job(n, (1, 2, 4)[n % 3]) for n in range(31)], path)
    path.write_bytes(path.read_bytes()[:-30] + bytes(100))
    more = {
        "fit": [tmp_path / "x.json", "--structure", "own"],
        "evaluate": [],
        "plot": [tmp_path / "x.svg"],
    }[action]
    status, _, err = ran(capsys, "profile", action, path, *more)
    assert status == 0
    about = [line for line in err.splitlines() if line.startswith("llmsched: ")]
    assert len(about) == 1
    assert about[0].startswith(told(path, line=31)[0])
    assert about[0].endswith("; line skipped")
    assert "[1/1] fan: 30 jobs" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["replay", "FILE"],
        ["replay", "GOOD", "FILE"],
        ["bench", "--traces", "FILE"],
        ["bench", "--traces", "GOOD", "--train", "FILE"],
        ["profile", "fit", "FILE", "x.json"],
        ["profile", "evaluate", "FILE"],
        ["testbed", "--traces", "FILE"],
    ],
)
def test_a_file_of_which_nothing_can_be_read_is_one_error(refuses, tmp_path, gone, arguments):
    good = tmp_path / "good.jsonl"
    timed = arrive(generate("chain", 20, 1), Poisson(), load=0.9, slots=4, seed=1)
    write_jobs((replace(each.job, arrival_s=each.arrival_s) for each in timed), good)
    names = {"FILE": str(gone), "GOOD": str(good), "x.json": str(tmp_path / "x.json")}
    refuses(
        [names.get(word, word) for word in arguments],
        f"{gone}: line 1: is filled with NUL bytes; the file contains no jobs",
    )
