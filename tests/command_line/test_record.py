"""`llmsched record`: a program runs as ever, what its scheduler saw is in the file, and a line says so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from llmsched_langgraph.cli.main import main
from llmsched_langgraph.lab.testbed.jobs import workload
from llmsched_langgraph.traces import read_jobs

PROGRAM = """
    import asyncio, sys
    from langchain_core.language_models import FakeListChatModel
    from langgraph.graph import START, MessagesState, StateGraph
    from llmsched_langgraph import schedule

    model = FakeListChatModel(responses=["yes"])

    async def answer(state):
        return {"messages": [await model.ainvoke(state["messages"])]}

    def agent(name):
        builder = StateGraph(MessagesState).add_node(answer).add_edge(START, "answer")
        return schedule(builder.compile(name=name))

    async def ask(name, times):
        graph = agent(name)
        await asyncio.gather(*(graph.ainvoke({"messages": [("user", "?")]}) for _ in range(times)))
"""


@pytest.fixture
def program(tmp_path):
    """The command that runs a program of scheduled graphs and ends as told."""

    def write(end):
        path = tmp_path / "app.py"
        path.write_text(textwrap.dedent(PROGRAM) + textwrap.dedent(end))
        return [sys.executable, str(path)]

    return write


def record(capfd, *words):
    """Exit status, output and errors of `llmsched record`, those of the program included."""
    status = main(["record", *map(str, words)])
    return status, *capfd.readouterr()


def test_a_program_is_recorded(capfd, program, tmp_path):
    """Its output and its exit status are its own; how many jobs of which applications stands at the end."""
    file = tmp_path / "new" / "jobs.jsonl"
    command = program("""
        asyncio.run(ask("small", 3))
        asyncio.run(ask("large", 5))
        print("done", sys.argv[1:])
        sys.exit(7)
    """)
    status, out, err = record(capfd, file, "--", *command, "--json", "--", "x")
    assert (status, out) == (7, "done ['--json', '--', 'x']\n")
    assert err == f"llmsched: 8 jobs recorded in {file}: large 5, small 3\n"
    assert [stage.name for job in read_jobs(file) for stage in job.stages] == ["answer"] * 8
    status, _, err = record(capfd, file, *program("asyncio.run(ask('one', 1))"))  # without --
    assert (status, err) == (0, f"llmsched: 1 job recorded in {file}: one 1\n")
    assert len(list(read_jobs(file))) == 9


def test_what_was_recorded_is_replayed(capfd, program, tmp_path):
    """By `llmsched replay` as it came; by bench at a load of one's own, and the testbed takes it, too."""
    file = tmp_path / "jobs.jsonl"
    command = program("asyncio.run(ask('small', 4))\nasyncio.run(ask('large', 8))")
    assert record(capfd, file, "--", *command)[0] == 0
    policies = ["--policies", "fcfs,srtf"]
    assert main(["replay", str(file), "--slots", "1", *policies, "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert (result["meta"]["learned"], result["meta"]["jobs"]) == (6, [6])
    assert [row["policy"] for row in result["rows"]] == ["fcfs", "srtf", "clairvoyant"]
    assert all(row["mean_jct_s"] > 0 for row in result["rows"])
    assert main(["bench", "--traces", str(file), *policies, "--jobs", "20", "--seeds", "1"]) == 0
    assert capfd.readouterr().out.startswith("traces, load 0.9, 8 slots\n")
    taken = workload(runs=5, warmup=5, seed=0, traces=file)
    assert {stage.name for job in taken.jobs for stage in job.stages} == {"answer"}


def test_a_file_is_found_wherever_the_program_goes(capfd, program, tmp_path):
    """What the path is relative to is where the command was given."""
    file = tmp_path / "jobs.jsonl"
    command = program(f"import os; os.chdir({str(tmp_path)!r}); asyncio.run(ask('one', 1))")
    assert record(capfd, os.path.relpath(file), "--", *command)[0] == 0
    assert len(list(read_jobs(file))) == 1


def test_where_nothing_was_recorded_it_says_what_to_look_at(capfd, tmp_path):
    """And leaves no empty file; one that was there stays."""
    file = tmp_path / "jobs.jsonl"
    status, _, err = record(capfd, file, "--", sys.executable, "-c", "pass")
    assert status == 0
    assert err.startswith(f"llmsched: nothing was recorded in {file}: ")
    assert "is schedule(graph) used with the default scheduler, or Scheduler(record=...)?" in err
    assert err.count("\n") == 1
    assert not file.exists()
    file.write_text('{"app":"old"}\n')
    record(capfd, file, "--", sys.executable, "-c", "pass")
    assert file.read_text() == '{"app":"old"}\n'


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_a_program_that_a_signal_ends(capfd, program, tmp_path):
    """As in a shell; what it did until then is there."""
    file = tmp_path / "jobs.jsonl"
    command = program(f"""
        import os, signal
        asyncio.run(ask("one", 2))
        while not os.path.exists({str(file)!r}) or open({str(file)!r}).read().count("\\n") < 2:
            pass  # in the background, it takes some milliseconds
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    status, _, err = record(capfd, file, "--", *command)
    assert (status, err) == (128 + 9, f"llmsched: 2 jobs recorded in {file}: one 2\n")


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_who_stops_it_stops_the_program(program, tmp_path, number, status):
    """A supervisor asks the one that it started, a terminal asks both."""
    file = tmp_path / "jobs.jsonl"
    command = program(f"""
        import os, signal, threading
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        asyncio.run(ask("one", 1))
        while not (os.path.exists({str(file)!r}) and os.path.getsize({str(file)!r})):
            pass
        print("ready", flush=True)
        threading.Event().wait(50)
    """)
    process = subprocess.Popen(
        [sys.executable, "-m", "llmsched_langgraph", "record", str(file), "--", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "ready\n"
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    _, err = process.communicate(timeout=50)
    assert (process.returncode, err) == (status, f"llmsched: 1 job recorded in {file}: one 1\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["jobs.jsonl"], "record: name the program, too: llmsched record jobs.jsonl -- python app.py"),
        (["jobs.jsonl", "--"], "record: name the program, too"),
        (["jobs.jsonl.gz", "--", "true"], "jobs.jsonl.gz cannot be compressed"),
        ([".", "--", "true"], "is a folder; name a file in it"),
        ([f"{__file__}/jobs.jsonl", "--", "true"], "File exists"),
    ],
)
def test_errors_are_one_line(capfd, tmp_path, monkeypatch, words, message):
    """What is wrong and what to do, exit status 2; nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    status, out, err = record(capfd, *words)
    assert (status, out) == (2, "")
    assert err.startswith("llmsched: ")
    assert err.count("\n") == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []
