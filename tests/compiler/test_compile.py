"""The compiler on graphs made to show one thing each, and on what is no graph."""

from __future__ import annotations

import functools
import operator
import re
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core import messages
from langchain_core.language_models import FakeListChatModel
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.pregel import NodeBuilder, Pregel
from langgraph.pregel.remote import RemoteGraph
from langgraph.types import Command, Send
from openai import AsyncOpenAI, OpenAI

from llmsched_langgraph import (
    ConfigurationError,
    Scheduler,
    UnsupportedGraphError,
    compile_graph,
    schedule,
    wrap_openai,
)

MODEL = FakeListChatModel(responses=["."])
CLIENT = OpenAI(api_key="none", base_url="http://127.0.0.1:9")
SCHEDULER = Scheduler(slots=1)
MODELS = {"fast": MODEL}


class State(TypedDict):
    items: Annotated[list[str], operator.add]


def nothing(state: State) -> dict[str, Any]:
    return {}


def chain(**nodes: Any) -> StateGraph[Any]:
    """A builder of a graph in which the nodes follow each other."""
    builder = StateGraph(State)
    last = START
    for name, node in nodes.items():
        builder.add_node(name, node)
        builder.add_edge(last, name)
        last = name
    return builder


def kind_of(node: Any) -> str:
    return compile_graph(chain(node=node).compile()).by_path["node"].kind.value


# -- where a model can stand ----------------------------------------------------------------


def helper(text: str) -> str:
    return MODEL.invoke(text).text


def by_global(state: State) -> Any:
    MODEL.invoke("x")


def by_helper(state: State) -> Any:
    helper("x")


def by_registry(state: State) -> Any:
    MODELS["fast"].invoke("x")


def by_new_one(state: State) -> Any:
    FakeListChatModel(responses=["."]).invoke("x")


def by_raw_client(state: State) -> Any:
    CLIENT.chat.completions.create(model="m", messages=[])


def by_slot(state: State) -> Any:
    with SCHEDULER.slot():
        pass


def by_local_import(state: State) -> Any:
    from openai import OpenAI as Client

    Client(api_key="none")


async def by_comprehension(state: State) -> Any:
    return {"items": [(await MODEL.ainvoke(item)).text for item in state["items"]]}


@functools.lru_cache
def model_once() -> FakeListChatModel:
    return FakeListChatModel(responses=["."])


def by_factory(state: State) -> Any:
    model_once().invoke("x")


def in_closure(model: Any = MODEL) -> Any:
    def node(state: State) -> Any:
        model.invoke("x")

    return node


def with_default(state: State, model: Any = MODEL) -> Any:
    model.invoke("x")


class Holder:
    """An object with one method that calls its model and one that does not."""

    shared = MODEL

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    def bound(self) -> Any:
        return self.model.bind(stop=["."])

    def ask(self, state: State) -> Any:
        self._ask()

    def _ask(self) -> Any:
        self.bound.invoke("x")

    def ask_shared(self, state: State) -> Any:
        self.shared.invoke("x")

    def count(self, state: State) -> Any:
        return {"items": [str(len(state["items"]))]}

    def __call__(self, state: State) -> Any:
        return self.ask(state)


@pytest.mark.parametrize(
    "node",
    [
        pytest.param(by_global, id="global"),
        pytest.param(by_helper, id="a function that it calls"),
        pytest.param(by_registry, id="global dict"),
        pytest.param(by_new_one, id="made in the node"),
        pytest.param(by_raw_client, id="openai client"),
        pytest.param(by_slot, id="a slot of a scheduler"),
        pytest.param(by_local_import, id="imported in the node"),
        pytest.param(by_comprehension, id="inside a comprehension"),
        pytest.param(by_factory, id="a cached factory"),
        pytest.param(in_closure(), id="closure"),
        pytest.param(in_closure(wrap_openai(AsyncOpenAI(api_key="none"))), id="wrapped client in a closure"),
        pytest.param(with_default, id="default argument"),
        pytest.param(functools.partial(nothing, state=MODEL), id="partial"),
        pytest.param(MODEL | RunnableLambda(lambda message: {"items": []}), id="sequence"),
        pytest.param(RunnableLambda(nothing).with_fallbacks([MODEL | (lambda _: {})]), id="fall-back"),
        pytest.param(MODEL.bind(stop=["x"]) | (lambda message: {}), id="binding"),
        pytest.param(Holder(MODEL).ask, id="method that uses an attribute"),
        pytest.param(Holder(MODEL).ask_shared, id="class attribute"),
        pytest.param(Holder(MODEL), id="callable object"),
    ],
)
def test_a_model_is_found(node):
    """Wherever the node's code can reach it."""
    assert kind_of(node) == "llm"


@pytest.mark.parametrize(
    "node",
    [
        pytest.param(nothing, id="nothing"),
        pytest.param(Holder(MODEL).count, id="method that does not use the model of its object"),
        pytest.param(RunnableLambda(lambda state: {"items": ["MODEL"]}), id="a name in a string"),
        pytest.param(lambda state: {"items": [re.sub("x", "y", state["items"][0])]}, id="standard library"),
    ],
)
def test_no_model_is_made_up(node):
    """What stands near the code but is not used by it does not count."""
    assert kind_of(node) == "regular"


def test_looking_does_not_touch():
    """No property is read, no attribute asked for, nothing called: reaching into objects has no effect."""

    class Touchy:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"{name} was asked for")

        @property
        def model(self) -> Any:
            raise AssertionError("a property was read")

        def __eq__(self, other: object) -> bool:
            raise AssertionError("it was compared")

        __hash__ = None

        def __bool__(self) -> bool:
            raise AssertionError("it was asked for its truth")

    touchy = Touchy()
    assert kind_of(lambda state: touchy.model.invoke(state)) == "regular"


# -- where a run can go ---------------------------------------------------------------------


@tool
def search(word: str) -> str:
    """Search."""
    return word


TOOLS = {search.name: search}


def by_table(state: Any) -> Any:
    calls = state["messages"][-1].tool_calls
    return {"messages": [TOOLS[call["name"]].invoke(call) for call in calls]}


async def by_dicts(state: Any) -> Any:
    calls = state["messages"][-1]["tool_calls"]
    return {"messages": [{"role": "tool", "content": "42", "tool_call_id": call["id"]} for call in calls]}


def results_of(calls: Any) -> Any:
    return [messages.ToolMessage("42", tool_call_id=call["id"]) for call in calls]


def by_helpers(state: Any) -> Any:
    return Command(goto="ask", update={"messages": results_of(state["messages"][-1].tool_calls)})


@pytest.mark.parametrize("function", [by_table, by_dicts, by_helpers])
def test_a_function_that_runs_the_tool_calls_of_a_model(function):
    """It stands behind the model that makes the plan; what it goes on to is not planned by it."""

    def ask(state: Any) -> Any:
        return {"messages": [MODEL.invoke(state["messages"])]}

    def goes_on(state: Any) -> Any:
        return "act" if state["messages"][-1].tool_calls else "sum_up"

    builder: StateGraph[Any] = StateGraph(MessagesState)
    builder.add_node("ask", ask)
    builder.add_node("act", function, destinations=("ask", "sum_up"))
    builder.add_node("sum_up", by_global)
    builder.add_edge(START, "ask")
    builder.add_conditional_edges("ask", goes_on, ["act", "sum_up"])
    application = compile_graph(builder.compile())
    assert {node.path: (node.kind, node.planned_by) for node in application.nodes} == {
        "ask": ("llm", None),
        "act": ("dynamic", "ask"),
        "sum_up": ("llm", None),
    }


def counts_calls(state: Any) -> Any:
    return {"count": len(state["messages"][-1].tool_calls)}


def asks_and_runs(state: Any) -> Any:
    return {"messages": results_of(MODEL.invoke(state["messages"]).tool_calls)}


@pytest.mark.parametrize(("function", "kind"), [(counts_calls, "regular"), (asks_and_runs, "llm")])
def test_a_function_that_only_reads_tool_calls(function, kind):
    """Neither a function without a result for the model, nor one that calls the model, runs a plan."""
    assert kind_of(function) == kind


def edges_of(builder: StateGraph[Any]) -> set[tuple[str, str]]:
    return set(compile_graph(builder.compile()).edges)


def test_branches_without_a_map():
    """Names in the code tell where a branch leads; without any, it may lead anywhere."""
    builder = chain(first=nothing)
    for name in ("left", "right", "other"):
        builder.add_node(name, nothing)
    builder.add_edge("right", "other")
    builder.add_conditional_edges("first", lambda state: "left" if state["items"] else "right")
    assert edges_of(builder) == {("first", "left"), ("first", "right"), ("right", "other")}
    anywhere = chain(first=nothing)
    for name in ("left", "right"):
        anywhere.add_node(name, nothing)
    anywhere.add_conditional_edges("first", lambda state: state["items"][-1])
    assert edges_of(anywhere) == {("first", "left"), ("first", "right")}


def test_waiting_edges_error_handlers_and_commands():
    """Joins come from each branch; a handler follows what it handles; commands lead where they say."""
    builder = chain(fork=nothing)
    for name in ("a", "b", "join", "end"):
        builder.add_node(name, nothing)

    def decide(state: State) -> Command[Any]:
        return Command(goto="join" if state["items"] else END)

    builder.add_node("decide", decide, destinations=("join", END))
    builder.add_edge("fork", "a")
    builder.add_edge("fork", "b")
    builder.add_edge(["a", "b"], "join")
    builder.add_edge("join", "decide")
    edges = edges_of(builder)
    assert {("a", "join"), ("b", "join"), ("join", "decide"), ("decide", "join")} <= edges


def test_a_command_that_says_nothing_may_lead_to_what_nothing_leads_to():
    """A node whose name only the state knows is not lost."""

    def dispatch(state: State) -> Command[Any]:
        return Command(goto=state["items"][0])

    builder = chain(dispatch=dispatch)
    builder.add_node("worker", nothing)
    application = compile_graph(builder.compile())
    assert ("dispatch", "worker") in application.edges
    assert application.by_path["worker"].kind == "dynamic"


def test_sends_and_branches_from_one_function():
    """Only what is named in a `Send` is planned; a plain name beside it is a branch."""

    def fan_out(state: State) -> Any:
        if not state["items"]:
            return "skip"
        return [Send("work", item) for item in state["items"]]

    builder = chain(plan=by_global)
    builder.add_node("work", nothing)
    builder.add_node("skip", nothing)
    builder.add_conditional_edges("plan", fan_out, ["work", "skip"])
    nodes = compile_graph(builder.compile()).by_path
    assert (nodes["work"].kind, nodes["work"].planned_by) == ("dynamic", "plan")
    assert (nodes["skip"].kind, nodes["skip"].planned_by) == ("regular", None)


def test_a_send_to_what_the_state_says():
    """The target cannot be read off the code: whatever the branch may lead to is planned."""
    builder = chain(plan=by_global)
    for name in ("a", "b"):
        builder.add_node(name, nothing)
    builder.add_conditional_edges(
        "plan", lambda state: [Send(item, {}) for item in state["items"]], ["a", "b"]
    )
    nodes = compile_graph(builder.compile()).by_path
    assert {nodes["a"].kind.value, nodes["b"].kind.value} == {"dynamic"}


def test_a_node_that_nothing_leads_to_is_kept():
    """It may be come to in a way that cannot be seen; it is a stage without a way to it."""
    builder = chain(first=nothing, second=nothing)
    builder.add_node("island", nothing)
    application = compile_graph(builder.compile())
    assert "island" in application.by_path
    assert "island" not in application.reachable(application.entries)


def test_a_router_that_asks_a_model():
    """A conditional edge runs inside its node: the node calls the model."""
    builder = chain(first=nothing, second=nothing)
    builder.add_conditional_edges("second", lambda state: MODEL.invoke("x").text, ["first", END])
    node = compile_graph(builder.compile()).by_path["second"]
    assert node.kind == "llm"
    assert "conditional edge" in node.reason


# -- graphs in graphs -----------------------------------------------------------------------


def test_graphs_three_deep():
    """Subgraphs are expanded where they stand, to any depth; a container of its own is no stage."""
    inner = chain(ask=by_global).compile()
    middle = chain(before=nothing, inner=inner).compile()
    application = compile_graph(chain(middle=middle, after=nothing).compile())
    assert set(application.edges) == {
        ("middle/before", "middle/inner/ask"),
        ("middle/inner/ask", "after"),
    }
    assert application.entries == ("middle/before",)
    assert application.by_path["middle/inner/ask"].kind == "llm"


def test_a_graph_that_runs_itself():
    """Recursion ends: the second time round it is a stage that calls a model."""

    def again(state: State) -> Any:
        return holder[0].invoke(state)

    holder: list[Any] = []
    holder.append(chain(again=again).compile())
    application = compile_graph(holder[0])
    assert [node.path for node in application.nodes] == ["again"]
    assert application.by_path["again"].kind == "llm"


def test_a_scheduled_subgraph():
    """Scheduled or not, it is the same graph."""
    inner = chain(ask=by_global).compile()
    plain, scheduled = (
        compile_graph(chain(inner=graph).compile()) for graph in (inner, schedule(inner, SCHEDULER))
    )
    assert plain == scheduled


def test_a_functional_graph():
    """Its tasks are known once they run: one dynamic stage."""

    @task
    def write(topic: str) -> str:
        return MODEL.invoke(topic).text

    @entrypoint()
    def flow(topic: str) -> str:
        return write(topic).result()

    application = compile_graph(flow)
    assert [(node.path, node.kind.value) for node in application.nodes] == [("flow", "dynamic")]
    assert application.by_path["flow"].calls_llm
    assert application.entries == ("flow",)


def test_a_graph_of_channels():
    """Without a builder, nodes follow each other by what they write and read."""
    first = NodeBuilder().subscribe_only("a").do(by_global).write_to("b")
    second = NodeBuilder().subscribe_only("b").do(nothing).write_to("c")
    from langgraph.channels import EphemeralValue, LastValue

    graph = Pregel(
        nodes={"first": first, "second": second},
        channels={"a": EphemeralValue(str), "b": LastValue(str), "c": LastValue(str)},
        input_channels=["a"],
        output_channels=["c"],
    )
    application = compile_graph(graph)
    assert application.edges == (("first", "second"),)
    assert application.entries == ("first",)
    assert [node.kind.value for node in application.nodes] == ["llm", "regular"]


def test_a_remote_graph():
    """Its stages cannot be seen: one LLM stage, by itself and as a node."""
    remote = RemoteGraph("assistant", url="http://127.0.0.1:9")
    assert [(node.path, node.kind.value) for node in compile_graph(remote).nodes] == [("assistant", "llm")]
    application = compile_graph(chain(here=nothing, there=remote).compile())
    assert application.by_path["there"].kind == "llm"


# -- what authors say -----------------------------------------------------------------------


def annotated(**says: Any) -> StateGraph[Any]:
    builder = StateGraph(State)
    builder.add_node("plan", by_global)
    builder.add_node("node", nothing, metadata={"llmsched": says})
    builder.add_edge(START, "plan")
    builder.add_edge("plan", "node")
    return builder


def test_the_author_knows_best():
    """Kind and planner, against whatever is found."""
    node = compile_graph(annotated(kind="llm").compile()).by_path["node"]
    assert (node.kind.value, node.calls_llm, node.reason) == ("llm", True, "its author says so")
    node = compile_graph(annotated(planned_by="plan").compile()).by_path["node"]
    assert (node.kind.value, node.planned_by) == ("dynamic", "plan")


def test_what_the_author_says_of_a_subgraph_is_about_all_of_it():
    """It is one stage then."""
    builder = StateGraph(State)
    inner = chain(ask=by_global).compile()
    builder.add_node("inner", inner, metadata={"llmsched": {"kind": "regular"}})
    builder.add_edge(START, "inner")
    nodes = compile_graph(builder.compile()).nodes
    assert [(node.path, node.kind.value, node.calls_llm) for node in nodes] == [("inner", "regular", False)]


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ({"kind": "magic"}, "kind must be one of regular, llm, dynamic, not 'magic'"),
        ({"kinds": "llm"}, "has kinds; valid keys are kind and planned_by"),
        ({"planned_by": "nobody"}, "planned_by names 'nobody'; the graph's nodes are plan, node"),
        ({"kind": "llm", "planned_by": "plan"}, "contradicts itself"),
    ],
)
@pytest.mark.parametrize("use", [compile_graph, schedule])
def test_what_cannot_be_understood_is_said(says, words, use):
    """At once, with the node and the cure; not in the middle of a run."""
    with pytest.raises(ConfigurationError, match=re.escape(words)) as caught:
        use(annotated(**says).compile())
    assert "node 'node'" in str(caught.value)


def test_an_annotation_that_is_no_dict():
    """One more way to get it wrong."""
    builder = chain(first=nothing)
    builder.add_node("node", nothing, metadata={"llmsched": "llm"})
    builder.add_edge("first", "node")
    with pytest.raises(ConfigurationError, match="must be a dict such as"):
        compile_graph(builder.compile())


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        (chain(first=nothing), "write compile_graph(builder.compile())"),
        (nothing, "not function"),
        (None, "not NoneType"),
        ("agent", "not str"),
    ],
)
def test_what_is_no_graph(thing, words):
    """It is refused with the cure."""
    with pytest.raises(UnsupportedGraphError, match=re.escape(words)):
        compile_graph(thing)
