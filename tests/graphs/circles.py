"""Loops: a writer that reflects, retrieval that asks again, code that is mended, a human who approves."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypedDict

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.runtime import Runtime
from langgraph.types import Command, RetryPolicy, interrupt
from pydantic import BaseModel

from graphs.fixture import Fixture, Run, asked, last_text, loops, resume
from graphs.scripted import ScriptedModel, uses

# -- reflection: an object holds the chains, its methods are the nodes ---------------------


class Essayist:
    """Writes, and thinks about what it wrote."""

    def __init__(self, llm: Any) -> None:
        def chain(order: str) -> Any:
            return (
                ChatPromptTemplate.from_messages([("system", order), MessagesPlaceholder("messages")]) | llm
            )

        self.writer = chain("You write.")
        self.critic = chain("You reflect.") | StrOutputParser()

    def generate(self, state: MessagesState) -> dict[str, Any]:
        return {"messages": [self.writer.invoke(state)]}

    def reflect(self, state: MessagesState) -> dict[str, Any]:
        return {"messages": [HumanMessage(self.critic.invoke(state))]}

    @staticmethod
    def content(state: MessagesState) -> bool:
        return len(state["messages"]) > 5 or "splendid" in state["messages"][-1].text

    def build(self) -> Any:
        builder = StateGraph(MessagesState)
        builder.add_node("generate", self.generate)
        builder.add_node("reflect", self.reflect)
        builder.add_edge(START, "generate")
        builder.add_conditional_edges("generate", self.content, {True: END, False: "reflect"})
        builder.add_edge("reflect", "generate")
        return builder.compile()


essays = ScriptedModel(
    script={
        ("write.", "on ants"): "A splendid ant.",
        ("write.", "on bats"): "A bat.",
        ("reflect.", "on bats"): "Be bolder.",
        ("write.", "on bats", "bolder"): "A splendid bat.",
        ("write.", "on cats"): "A cat.",
        ("reflect.", "on cats"): "Be longer.",
        ("write.", "on cats", "longer"): "A long cat.",
        ("reflect.", "on cats", "A long cat."): "Be shorter.",
        ("write.", "on cats", "shorter"): "Cat.",
    }
)

REFLECTION = Fixture(
    name="reflection",
    build=lambda: Essayist(essays).build(),
    runs=(
        Run("at once", asked("on ants"), "A splendid ant.", calls=1, visits={"reflect": 0}),
        Run("one reflection", asked("on bats"), "A splendid bat.", calls=3, visits={"reflect": 1}),
        Run("up to the limit", asked("on cats"), "Cat.", calls=5, visits={"generate": 3, "reflect": 2}),
    ),
    kinds={"generate": "llm", "reflect": "llm"},
    outcome=last_text,
    loops=loops({"generate", "reflect"}),
)

# -- retrieval as a tool, graded by an edge that asks a model ------------------------------

SHELF = {"otters": "Otters hold hands.", "badgers": "Page torn out.", "voles": "Illegible."}


@tool
def retrieve_notes(query: str) -> str:
    """Look into the notes."""
    return SHELF.get(query, "Nothing.")


class Relevance(BaseModel):
    """Whether what was found helps."""

    helps: bool


librarian = ScriptedModel(
    script={
        ("good morning",): "Good morning.",
        ("about otters",): uses("retrieve_notes", query="otters"),
        ("Relevant?", "Otters hold hands."): Relevance(helps=True),
        ("Answer from", "Otters hold hands."): "They hold hands.",
        ("about badgers",): uses("retrieve_notes", query="badgers"),
        ("Relevant?", "Page torn out."): Relevance(helps=False),
        ("Rewrite", "about badgers"): "the striped animal",
        ("the striped animal",): "I do not know.",
        ("about voles",): [uses("retrieve_notes", query="voles")],
        ("Relevant?", "Illegible."): Relevance(helps=False),
        ("Rewrite", "about voles"): "the otter's friend",
        ("the otter's friend",): uses("retrieve_notes", query="otters"),
        ("the otter's friend", "Relevant?", "Otters hold hands."): Relevance(helps=True),
        ("the otter's friend", "Answer from", "Otters hold hands."): "A friend to hold hands with.",
    }
)


def query_or_respond(state: MessagesState) -> dict[str, Any]:
    question = state["messages"][-1:]
    return {"messages": [librarian.bind_tools([retrieve_notes]).invoke(question)]}


def grade_notes(state: MessagesState) -> Literal["generate_answer", "rewrite_question"]:
    """An edge, and yet it asks the model."""
    question, found = _question(state), state["messages"][-1].text
    grader = librarian.with_structured_output(Relevance)
    graded = grader.invoke(f"Question: {question}\nFound: {found}\nRelevant?")
    return "generate_answer" if graded.helps else "rewrite_question"


def rewrite_question(state: MessagesState) -> dict[str, Any]:
    return {"messages": [HumanMessage(librarian.invoke(f"Rewrite: {_question(state)}").text)]}


def generate_answer(state: MessagesState) -> dict[str, Any]:
    asked_for, found = _question(state), state["messages"][-1].text
    return {"messages": [librarian.invoke(f"Question: {asked_for}\nAnswer from: {found}")]}


def _question(state: MessagesState) -> str:
    return next(message.text for message in reversed(state["messages"]) if message.type == "human")


def build_rag() -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node(query_or_respond)
    builder.add_node("retrieve", ToolNode([retrieve_notes]))
    builder.add_node(rewrite_question)
    builder.add_node(generate_answer)
    builder.add_edge(START, "query_or_respond")
    builder.add_conditional_edges("query_or_respond", tools_condition, {"tools": "retrieve", END: END})
    builder.add_conditional_edges("retrieve", grade_notes)
    builder.add_edge("generate_answer", END)
    builder.add_edge("rewrite_question", "query_or_respond")
    return builder.compile()


RAG = Fixture(
    name="agentic_rag",
    build=build_rag,
    runs=(
        Run("no retrieval", asked("good morning"), "Good morning.", calls=1, visits={"retrieve": 0}),
        Run("found", asked("about otters"), "They hold hands.", calls=3, visits={"rewrite_question": 0}),
        Run("given up", asked("about badgers"), "I do not know.", calls=4, visits={"rewrite_question": 1}),
        Run("found later", asked("about voles"), "A friend to hold hands with.", 6, visits={"retrieve": 2}),
    ),
    kinds={
        "query_or_respond": "llm",
        "retrieve": "dynamic",
        "rewrite_question": "llm",
        "generate_answer": "llm",
    },
    outcome=last_text,
    planned={"retrieve": "query_or_respond"},
    calls_llm=frozenset({"retrieve"}),
    loops=loops({"query_or_respond", "retrieve", "rewrite_question"}),
)

# -- code that is generated, checked and mended; its generation may be tried again ---------


class Code(BaseModel):
    """An expression in Python."""

    expression: str


class Coding(TypedDict, total=False):
    task: str
    shaky: bool
    code: str
    error: str
    hint: str
    result: Any
    attempts: int


def build_codegen() -> Any:
    llm = ScriptedModel(
        script={
            ("Code: one plus one",): Code(expression="1 + 1"),
            ("Code: half of nine",): Code(expression="9 // 0"),
            ("Why: half of nine", "ZeroDivisionError"): "wrong divisor",
            ("Code: half of nine", "wrong divisor"): Code(expression="9 / 2"),
            ("Code: impossible",): Code(expression="x"),
            ("Why: impossible", "NameError"): "no such name",
        }
    )
    generator = ChatPromptTemplate.from_template("Code: {task}. {hint}") | llm.with_structured_output(Code)

    def generate(state: Coding, runtime: Runtime) -> Coding:
        code = generator.invoke({"task": state["task"], "hint": state.get("hint", "")})
        if state.get("shaky") and runtime.execution_info.node_attempt == 1:
            raise ConnectionError("the answer was lost on its way")
        return {"code": code.expression, "attempts": state.get("attempts", 0) + 1}

    def check(state: Coding) -> Coding:
        try:
            return {"result": eval(state["code"], {}), "error": ""}
        except (ArithmeticError, NameError) as error:
            return {"result": None, "error": repr(error)}

    def decide(state: Coding) -> str:
        return END if not state["error"] or state["attempts"] == 3 else "reflect"

    def reflect(state: Coding) -> Coding:
        return {"hint": llm.invoke(f"Why: {state['task']} gave {state['error']}").text}

    builder = StateGraph(Coding)
    builder.add_node(
        generate,
        retry_policy=RetryPolicy(
            max_attempts=3, initial_interval=0.001, jitter=False, retry_on=ConnectionError
        ),
    )
    builder.add_node(check)
    builder.add_node(reflect)
    builder.add_edge(START, "generate")
    builder.add_edge("generate", "check")
    builder.add_conditional_edges("check", decide, ["reflect", END])
    builder.add_edge("reflect", "generate")
    return builder.compile()


CODEGEN = Fixture(
    name="code_generation",
    build=build_codegen,
    runs=(
        Run("right at once", {"task": "one plus one"}, 2, calls=1, visits={"reflect": 0}),
        Run("tried again", {"task": "one plus one", "shaky": True}, 2, calls=2, visits={"generate": 1}),
        Run("mended", {"task": "half of nine"}, 4.5, calls=3, visits={"generate": 2, "reflect": 1}),
        Run("given up", {"task": "impossible"}, None, calls=5, visits={"generate": 3, "reflect": 2}),
    ),
    kinds={"generate": "llm", "check": "regular", "reflect": "llm"},
    outcome=lambda output: output["result"],
    loops=loops({"generate", "check", "reflect"}),
)

# -- a human who approves: the command comes from a node that calls no model ---------------


class Post(TypedDict, total=False):
    topic: str
    draft: str
    remarks: Annotated[list[Any], add_messages]
    published: str


def build_approval() -> Any:
    llm = ScriptedModel(
        script={
            ("Draft", "on peace"): "Peace.",
            ("Draft", "on peace", "more"): "More peace.",
            ("Draft", "on peace", "more", "less"): "Peace, then.",
            ("Caption", "Peace."): "P.",
            ("Caption", "More peace."): "MP.",
            ("Caption", "Peace!"): "P!",
            ("Caption", "Peace, then."): "PT.",
        }
    )

    def draft(state: Post) -> Post:
        remarks = " ".join(message.text for message in state.get("remarks", []))
        return {"draft": llm.invoke(f"Draft on {state['topic']}. {remarks}").text}

    def approve(state: Post) -> Command[Literal["draft", "caption", "drop"]]:
        verdict = interrupt({"draft": state["draft"]})
        match verdict:
            case "yes":
                return Command(goto="caption")
            case "no":
                return Command(goto="drop")
            case {"edited": text}:
                return Command(goto="caption", update={"draft": text})
        return Command(goto="draft", update={"remarks": [HumanMessage(verdict)]})

    def caption(state: Post) -> Post:
        title = llm.invoke(f"Caption: {state['draft']}").text
        return {"published": f"{title} {state['draft']}"}

    def drop(state: Post) -> Post:
        return {"published": "", "remarks": [AIMessage("dropped")]}

    builder = StateGraph(Post)
    for node in (draft, approve, caption, drop):
        builder.add_node(node)
    builder.add_edge(START, "draft")
    builder.add_edge("draft", "approve")
    return builder.compile(checkpointer=InMemorySaver())


_peace = {"topic": "on peace"}

APPROVAL = Fixture(
    name="human_approval",
    build=build_approval,
    runs=(
        Run("approved", _peace, "P. Peace.", calls=2, then=(resume("yes"),), visits={"drop": 0}),
        Run("rejected", _peace, "", calls=1, then=(resume("no"),), visits={"drop": 1, "caption": 0}),
        Run("edited", _peace, "P! Peace!", calls=2, then=(resume({"edited": "Peace!"}),)),
        Run("sent back once", _peace, "MP. More peace.", 3, (resume("more"), resume("yes")), {"draft": 2}),
        Run(
            "sent back twice",
            _peace,
            "PT. Peace, then.",
            calls=4,
            then=(resume("more"), resume("less"), resume("yes")),
            visits={"draft": 3, "approve": 3},
        ),
    ),
    kinds={"draft": "llm", "approve": "regular", "caption": "llm", "drop": "regular"},
    outcome=lambda output: output["published"],
    loops=loops({"draft", "approve"}),
)

FIXTURES = (REFLECTION, RAG, CODEGEN, APPROVAL)
