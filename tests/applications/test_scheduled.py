"""All six: scheduled they give the same outputs, their stages are found, the README's commands run them."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import openai
import pytest
from applications.capable import CapableModel
from applications.conftest import FOLDER
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from llmsched_langgraph import ConfigurationError, compile_graph, schedule

ROOT = FOLDER.parents[1]
NAMES = (
    "sequence_sorting",
    "document_merging",
    "code_generation",
    "web_search",
    "task_automation",
    "llm_compiler",
)


def nonsense(prompt, answer):
    return "Who knows?"


@pytest.mark.parametrize("spoil", [None, nonsense])
@pytest.mark.parametrize("name", NAMES)
def test_one_slot_gives_the_same(make_scheduler, name, spoil):
    """All inputs at once on one slot: the outputs of the stock graph, and as many calls."""
    module = importlib.import_module(name)

    async def all_inputs(graph):
        return await asyncio.gather(*(graph.ainvoke(given) for given in module.inputs()))

    stock, scheduled = CapableModel(spoil=spoil), CapableModel(spoil=spoil)
    expected = asyncio.run(all_inputs(module.build(stock)))
    scheduler = make_scheduler(1)
    outputs = asyncio.run(all_inputs(schedule(module.build(scheduled), scheduler)))
    assert [module.shown(output) for output in outputs] == [module.shown(output) for output in expected]
    assert sorted(scheduled.prompts) == sorted(stock.prompts)
    now = scheduler.statistics()
    assert (now.granted, now.peak, now.over_commitments) == (len(scheduled.prompts), 1, 0)
    assert now.jobs_ended == len(module.inputs())


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_hold_plain_data(name, caplog):
    """A checkpointer that takes nothing but plain data saves every step, and gives it back without a word."""
    module = importlib.import_module(name)
    graph = module.build(CapableModel())
    graph.checkpointer = InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=None))
    config = {"configurable": {"thread_id": "1"}}
    output = asyncio.run(graph.ainvoke(module.inputs()[0], config))
    last, *_ = history = list(graph.get_state_history(config))
    assert module.shown(last.values) == module.shown(output)
    assert len(history) > 3
    assert caplog.text == ""


STAGES = {
    "sequence_sorting": (
        {
            "split": "llm",
            "sort": "dynamic",
            "score": "regular",
            "merge": "dynamic",
            "improve": "dynamic",
            "finish": "regular",
        },
        # Improving has no planner but the answers before it.
        {"sort": "split", "merge": "split", "improve": "improve"},
        {"sort", "merge", "improve"},
        [{"score", "merge", "improve"}],
    ),
    "document_merging": (
        {"merge": "llm", "score": "llm", "aggregate": "llm", "improve": "llm", "finish": "regular"},
        {},
        set(),
        [{"score", "aggregate", "improve"}],
    ),
    "code_generation": ({"write": "llm", "test": "regular"}, {}, set(), [{"write", "test"}]),
    "web_search": (
        {
            "ModelCallLimitMiddleware.before_model": "regular",
            "model": "llm",
            "ask_again.after_model": "regular",
            "ModelCallLimitMiddleware.after_model": "regular",
            "tools": "dynamic",
        },
        {"tools": "model"},
        set(),
        [
            {
                "ModelCallLimitMiddleware.before_model",
                "model",
                "ask_again.after_model",
                "ModelCallLimitMiddleware.after_model",
                "tools",
            }
        ],
    ),
    "task_automation": (
        {"plan": "llm", "dispatch": "regular", "run_tool": "dynamic", "answer": "llm"},
        {"run_tool": "plan"},
        set(),
        [{"plan"}, {"dispatch", "run_tool"}],
    ),
    "llm_compiler": (
        {"plan": "llm", "fetch": "regular", "run_tool": "dynamic", "join": "llm"},
        {"run_tool": "plan"},
        set(),
        [{"plan", "fetch", "run_tool", "join"}],
    ),
}
"""For each: the kinds, who plans what, which dynamic stages call a model, the loops."""


@pytest.mark.parametrize("name", NAMES)
def test_stages_are_found(name):
    """In the graph with the real client just as in the one with a scripted model."""
    module = importlib.import_module(name)
    kinds, planned, calling, loops = STAGES[name]
    for graph in (module.graph, module.build(CapableModel())):
        application = compile_graph(graph)
        assert application.name == name
        assert {node.path: node.kind.value for node in application.nodes} == kinds
        assert {node.path: node.planned_by for node in application.nodes if node.planned_by} == planned
        dynamic = [node for node in application.nodes if node.kind == "dynamic"]
        assert {node.path for node in dynamic if node.calls_llm} == calling
        assert [set(loop) for loop in application.loops] == loops


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_files(name):
    """Each has a few inputs, and every line of the file is one."""
    module = importlib.import_module(name)
    lines = (FOLDER / "inputs" / f"{name}.jsonl").read_text().splitlines()
    assert len(module.inputs()) == len(lines) >= 3
    assert all(isinstance(json.loads(line), dict) for line in lines)


def test_modules_are_small():
    """An example is read from top to bottom."""
    assert {
        path.name: n for path in FOLDER.glob("*.py") if (n := len(path.read_text().splitlines())) > 300
    } == {}


# -- as programs -----------------------------------------------------------------------------


def environment(**more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def program(command):
    """The command, run by this interpreter and from this source."""
    name, *arguments = shlex.split(command)
    ours = {"python": [], "llmsched": ["-m", "llmsched_langgraph"]}
    return [sys.executable, *ours[name], *arguments]


def start(command, **env):
    done = subprocess.run(
        program(command), cwd=ROOT, env=environment(**env), capture_output=True, text=True, timeout=50
    )
    return done.returncode, done.stdout, done.stderr


@contextmanager
def serving(command):
    """The README's backend, on a port that is free."""
    command = re.sub(r"--port \d+", "--port 0 --json", command)
    with subprocess.Popen(
        program(command), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    ) as on:
        try:
            yield json.loads(on.stdout.readline())["base_url"]
        finally:
            on.terminate()


def readme_commands():
    text = (FOLDER / "README.md").read_text()
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def test_the_readme_commands_run():
    """Each of them, against the backend that the first one starts; nothing is said on stderr."""
    backend, *commands = readme_commands()
    assert backend.startswith("llmsched serve-sim")
    assert "--port 8000" in backend
    how = []
    with serving(backend) as url:
        for command in commands:
            status, out, err = start(command, OPENAI_BASE_URL=url)
            assert (status, err) == (0, ""), command
            if "run.py" in command:
                lines = re.findall(r"^(\w+): mean completion time [\d.]+ s over (\d+) runs, (.*)$", out, re.M)
                assert dict(line[:2] for line in lines) == {**dict.fromkeys(NAMES, "4"), "all": "24"}
                how += {line[2] for line in lines}
                assert len(out.splitlines()) == len(lines) + 24
            else:
                assert "run_tool" in out
    assert how == ["stock", "scheduled on 4 slots"]


def test_importing_needs_no_key_and_no_network():
    """Nor a server: whatever opens a socket fails here."""
    code = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise AssertionError('a socket')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        f"sys.path.insert(0, {str(FOLDER)!r})\n"
        f"for name in {NAMES!r}: assert __import__(name).graph.get_name() == name"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment(), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_server_it_says_so(unused_port):
    """One line, and what to do."""
    status, out, err = start(
        f"python examples/applications/run.py web_search --base-url http://127.0.0.1:{unused_port}/v1"
    )
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert f"no server answers at http://127.0.0.1:{unused_port}/v1" in err
    assert "llmsched serve-sim" in err


def test_what_is_no_url_is_told():
    """One line, no matter who finds out."""
    status, out, err = start(
        "python examples/applications/run.py web_search --base-url http://127.0.0.1:abc/v1"
    )
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "write a URL such as http://127.0.0.1:8000/v1, not 'http://127.0.0.1:abc/v1'" in err


@pytest.fixture
def unused_port():
    import socket

    with socket.socket() as taken:  # bound and not listening: whoever connects is refused
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required: APP"),
        (["cooking"], "invalid choice: 'cooking'"),
        (["all", "--runs", "0"], "at least 1, not '0'"),
        (["all", "--slots", "many"], "at least 1, not 'many'"),
    ],
)
def test_wrong_options_are_told(capsys, arguments, said):
    import run

    with pytest.raises(SystemExit) as stop:
        run.main(arguments)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_faults_are_one_line():
    """Those of the server and the settings; a bug keeps its traceback."""
    import run

    response = SimpleNamespace(request=None, status_code=401, headers={})
    refused = openai.AuthenticationError("no such\nkey", response=response, body=None)
    assert run.fault_in(refused, "http://x/v1") == "http://x/v1 answered 401: no such key"
    assert run.fault_in(ExceptionGroup("", [ExceptionGroup("", [refused])]), "http://x/v1").startswith(
        "http://x"
    )
    assert run.fault_in(ConfigurationError("say\nwhat"), "") == "say what"
    page = ValueError("Unexpected response type: <class 'str'>")
    assert run.fault_in(page, "http://x").startswith("no OpenAI-compatible server is at http://x")
    assert run.fault_in(ValueError("bug"), "") is None
    assert run.fault_in(KeyError("bug"), "") is None
