"""`llmsched inspect`: finds the graph that is named, shows it in four forms, and says what is wrong."""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from llmsched_langgraph._application.serialization import application_from_json
from llmsched_langgraph.cli.main import main

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "graphs"
NEWSROOM = str(EXAMPLES / "newsroom.py")


@pytest.fixture(autouse=True)
def clean_imports(monkeypatch):
    """What the command imports is forgotten afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name in ("newsroom", "made"):
            del sys.modules[name]


@pytest.fixture
def module(tmp_path):
    """A file with this text, to name graphs in."""

    def make(text):
        path = tmp_path / "made.py"
        path.write_text(text)
        return str(path)

    return make


def shown(capsys, *arguments):
    assert main(["inspect", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_json_has_the_agreed_keys(capsys):
    """One object, from which the application can be read back."""
    data = json.loads(shown(capsys, f"{NEWSROOM}:article", "--json"))
    assert {"name", "fingerprint", "stages", "edges", "loops"} <= set(data)
    assert set(data["stages"][0]) == {"id", "node", "occurrence", "kind", "reason", "planned_by"}
    kinds = {stage["node"]: stage["kind"] for stage in data["stages"]}
    assert kinds == {"plan": "llm", "write": "dynamic", "set_type": "regular", "edit": "llm"}
    assert data["loops"] == [["plan", "write", "set_type", "edit"]]
    planned = {stage["id"]: stage["planned_by"] for stage in data["stages"] if stage["kind"] == "dynamic"}
    assert planned == {"write#1": "plan#1", "write#2": "plan#2", "write#3+": "plan#3+"}
    assert ["edit#1", "plan#2"] in data["edges"]
    assert application_from_json(data).fingerprint == data["fingerprint"]


def test_text(capsys):
    """Each node with its kind and reason, and the loops."""
    text = shown(capsys, f"{NEWSROOM}:desk")
    assert re.search(r"tools/model +llm +after tools, tools/tools", text)
    assert "runs the tools that a model calls: search_archive" in text
    assert "loop 1: model -> tools -> tools/model -> tools/tools -> again" in text


def test_mermaid(capsys):
    """Shapes by kind, loops in boxes, plans dotted."""
    text = shown(capsys, f"{NEWSROOM}:letters", "--mermaid")
    assert text.startswith("flowchart LR\n")
    assert '(["sort"]):::llm' in text
    assert '{{"refer"}}:::dynamic' in text
    assert "subgraph loop0" in text
    assert "-. plans .->" in text


@pytest.mark.parametrize("suffix", ["svg", "json", "mmd", "txt"])
def test_out_writes_what_the_name_says(capsys, tmp_path, suffix):
    """The file's ending tells the form."""
    out = tmp_path / f"graph.{suffix}"
    assert "20 stages written to" in shown(capsys, f"{NEWSROOM}:desk", "--out", str(out))
    text = out.read_text()
    if suffix == "svg":
        assert ET.fromstring(text).tag.endswith("svg")
    elif suffix == "json":
        json.loads(text)


@pytest.mark.parametrize("graph", ["desk", "article", "letters"])
def test_pictures_in_the_readme_are_up_to_date(capsys, tmp_path, graph):
    """They are what the command draws."""
    out = tmp_path / "now.svg"
    shown(capsys, f"{NEWSROOM}:{graph}", "--out", str(out))
    assert out.read_text() == (EXAMPLES / f"{graph}.svg").read_text()


GRAPHS = """
from typing import TypedDict
from langgraph.graph import START, StateGraph

class State(TypedDict):
    x: int

builder = StateGraph(State).add_node("only", lambda state: {}).add_edge(START, "only")

class Shelf:
    graph = builder.compile()

def make():
    return Shelf.graph

def fail():
    raise KeyError("no key")

async def later():
    return Shelf.graph
"""


@pytest.mark.parametrize("name", ["builder", "Shelf.graph", "make"])
def test_what_names_a_graph(capsys, module, name):
    """A graph, a builder, an attribute of something, or a function that makes one."""
    assert "1 nodes" in shown(capsys, f"{module(GRAPHS)}:{name}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "'nothing' names no graph: write package.module:name or file.py:name"),
        (["nowhere.to.be.found:graph"], "there is no module 'nowhere.to.be.found' here"),
        (["nowhere.py:graph"], "there is no file nowhere.py"),
        (["{file}:absent"], "has no 'absent'; it has: "),
        (["{file}:fail"], "fail() gave no graph: KeyError: 'no key'; name the graph itself"),
        (["{file}:later"], "later is an async function: name the graph itself"),
        (["{file}:State"], "compile_graph() needs a compiled LangGraph graph"),
        (["{file}:make", "--out", "graph.pdf"], "--out graph.pdf: name a file that ends in .svg, .mmd"),
        (
            ["{file}:make", "--out", "no/such/folder.svg"],
            "--out no/such/folder.svg: No such file or directory",
        ),
    ],
)
def test_errors_are_one_line(refuses, module, arguments, words):
    """What is wrong and what to do, exit status 2, no traceback."""
    path = module(GRAPHS)
    refuses(["inspect", *(argument.format(file=path) for argument in arguments)], words)


def test_a_missing_module_whose_name_begins_alike(refuses, tmp_path, monkeypatch):
    """`applepie` is there and needs `applep`: that one is missing."""
    (tmp_path / "applepie.py").write_text("import applep")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    refuses(["inspect", "applepie:graph"], "applepie needs applep, which is not installed")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import not_installed_anywhere", "needs not_installed_anywhere, which is not installed"),
        ("raise ValueError('broken')", "cannot be imported: ValueError: broken"),
        ("def (", "cannot be imported: SyntaxError"),
    ],
)
def test_a_module_that_fails(capsys, module, text, words):
    """The module's own error is told, on one line."""
    assert main(["inspect", f"{module(text)}:graph"]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def test_the_reason_for_a_kind(capsys, module):
    """The text says what was found and where, also of a model that is chosen when the node runs."""
    path = module(
        "from langchain.chat_models import init_chat_model\n"
        "from langgraph.graph import START, MessagesState, StateGraph\n"
        "late = init_chat_model(configurable_fields=('model',))\n"
        "def answer(state): return {'messages': [late.invoke('?')]}\n"
        "graph = StateGraph(MessagesState).add_node(answer).add_edge(START, 'answer').compile()\n"
    )
    text = shown(capsys, f"{path}:graph")
    assert re.search(r"answer +llm ", text)
    assert "calls a model that is configured when it runs (global `late`)" in text


def test_a_loop_inside_a_loop(capsys, module):
    """The text names both, and JSON has them apart."""
    path = module(
        "from langgraph.graph import END, START, MessagesState, StateGraph\n"
        "def node(state): return {}\n"
        "def on(state): return END\n"
        "agent = StateGraph(MessagesState).add_node('think', node).add_node('act', node)\n"
        "agent = agent.add_edge(START, 'think').add_edge('act', 'think')\n"
        "agent = agent.add_conditional_edges('think', on, ['act', END]).compile()\n"
        "graph = StateGraph(MessagesState).add_node('plan', node).add_node('agent', agent)\n"
        "graph = graph.add_edge(START, 'plan').add_edge('plan', 'agent')\n"
        "graph = graph.add_conditional_edges('agent', on, ['plan', END]).compile()\n"
    )
    text = shown(capsys, f"{path}:graph")
    assert "loop 1: plan -> agent/think -> agent/act -> again (2 rounds, then a tail)" in text
    assert "inside it: agent/think -> agent/act -> again (2 rounds a visit, then a tail)" in text
    data = json.loads(shown(capsys, f"{path}:graph", "--json"))
    assert data["loops"] == [["plan", "agent/think", "agent/act"]]
    assert data["inner_loops"] == [["agent/think", "agent/act"]]
    assert application_from_json(data).inner_rounds == (2,)
