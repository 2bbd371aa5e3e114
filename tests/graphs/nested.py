"""Graphs in graphs: teams below a supervisor, and a graph that only a function knows of."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from langchain.agents import create_agent
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command
from pydantic import BaseModel

from graphs.fixture import Fixture, Run, asked, last_text, loops
from graphs.scripted import ScriptedModel, uses

# -- teams: commands of models, and one that a subgraph gives to its parent ----------------


class Next(BaseModel):
    """Who is next."""

    who: str


staff = ScriptedModel(
    script={
        ("Chief", "a fact"): Next(who="research_team"),
        ("Chief", "a fact", "summary: warm"): Next(who="nobody"),
        ("Chief", "a note"): Next(who="writing_team"),
        ("Chief", "a note", "text: bright"): Next(who="nobody"),
        ("Chief", "an article"): Next(who="research_team"),
        ("Chief", "an article", "summary: warm"): Next(who="writing_team"),
        ("Chief", "an article", "summary: warm", "text: bright"): Next(who="nobody"),
        ("Chief", "nothing"): Next(who="nobody"),
        ("Research",): Next(who="search"),
        ("Research", "hits: sun"): Next(who="summarize"),
        ("Research", "hits: sun", "summary: warm"): Next(who="nobody"),
        ("Summarize", "hits: sun"): "summary: warm",
        ("Write down",): "text: bright",
    }
)


def supervisor_of(team: str, llm: Any) -> Any:
    """What decides who of a team is next."""
    chooser = llm.with_structured_output(Next)

    def choose(messages: list[Any]) -> str:
        who = chooser.invoke([("system", f"{team}: who is next?"), *messages]).who
        return END if who == "nobody" else who

    return choose


choose_researcher = supervisor_of("Research", staff)


def lead_research(state: MessagesState) -> Command[Literal["search", "summarize", "__end__"]]:
    return Command(goto=choose_researcher(state["messages"]))


def search(state: MessagesState) -> dict[str, Any]:
    return {"messages": [("user", "hits: sun")]}


def summarize(state: MessagesState) -> dict[str, Any]:
    found = state["messages"][-1].text
    return {"messages": [staff.invoke(f"Summarize {found}")]}


def report_back(state: MessagesState) -> Command[Literal["supervisor"]]:
    """Says to the graph above where to go on."""
    return Command(goto="supervisor", graph=Command.PARENT, update={"messages": state["messages"][-1:]})


def build_teams() -> Any:
    research = StateGraph(MessagesState)
    research.add_node("lead", lead_research)
    research.add_node(search)
    research.add_node(summarize)
    research.add_edge(START, "lead")
    research.add_edge("search", "lead")
    research.add_edge("summarize", "lead")

    def write(state: MessagesState) -> dict[str, Any]:
        return {"messages": [staff.invoke([("system", "Write down."), *state["messages"]])]}

    writing = StateGraph(MessagesState)
    writing.add_node(write)
    writing.add_node("report_back", report_back, destinations=())
    writing.add_edge(START, "write")
    writing.add_edge("write", "report_back")

    choose_team = supervisor_of("Chief", staff)

    def supervise(state: MessagesState) -> Command[Literal["research_team", "writing_team", "__end__"]]:
        return Command(goto=choose_team(state["messages"]))

    builder = StateGraph(MessagesState)
    builder.add_node("supervisor", supervise)
    builder.add_node("research_team", research.compile())
    builder.add_node("writing_team", writing.compile(), destinations=("supervisor",))
    builder.add_edge(START, "supervisor")
    builder.add_edge("research_team", "supervisor")
    return builder.compile()


TEAMS = Fixture(
    name="hierarchical_teams",
    build=build_teams,
    runs=(
        Run("nobody", asked("nothing"), "nothing", calls=1, visits={"research_team": 0, "writing_team": 0}),
        Run("research", asked("a fact"), "summary: warm", calls=6, visits={"research_team/lead": 3}),
        Run("writing", asked("a note"), "text: bright", calls=3, visits={"writing_team/report_back": 1}),
        Run("both", asked("an article"), "text: bright", calls=8, visits={"supervisor": 3}),
    ),
    kinds={
        "supervisor": "llm",
        "research_team": "dynamic",
        "research_team/lead": "llm",
        "research_team/search": "dynamic",
        "research_team/summarize": "dynamic",
        "writing_team": "dynamic",
        "writing_team/write": "llm",
        "writing_team/report_back": "regular",
    },
    outcome=last_text,
    planned={
        "research_team": "supervisor",
        "research_team/search": "research_team/lead",
        "research_team/summarize": "research_team/lead",
        "writing_team": "supervisor",
    },
    calls_llm=frozenset({"research_team/summarize"}),
    loops=loops(
        {"supervisor", "research_team", "writing_team"},
        {"research_team/lead", "research_team/search", "research_team/summarize"},
    ),
)

# -- a graph that a function calls, twice if need be ---------------------------------------


class Proof(TypedDict, total=False):
    claim: str
    proof: str
    tries: int


class Lecture(TypedDict, total=False):
    title: str
    claims: list[str]
    proofs: list[str]
    praise: str


def build_undeclared() -> Any:
    llm = ScriptedModel(
        script={
            ("Claims of", "sets"): "union",
            ("Claims of", "primes"): "endless, odd",
            ("Claims of", "hard"): "endless, hard",
            ("Prove", "union"): "clear qed",
            ("Prove", "endless"): "suppose not qed",
            ("Prove", "odd"): "all but two",
            ("Prove", "odd", "try 1"): "two is even qed",
            ("Prove", "hard"): "hm",
            ("Praise",): "Applause.",
        }
    )

    def think(state: Proof) -> Proof:
        tries = state.get("tries", 0)
        text = llm.invoke(f"Prove that {state['claim']}, try {tries}").text
        return {"proof": text, "tries": tries + 1}

    def verify(state: Proof) -> Proof:
        return {"proof": state["proof"].removesuffix(" qed")} if "qed" in state["proof"] else {"proof": ""}

    def proved(state: Proof) -> str:
        return END if state["proof"] or state["tries"] == 2 else "think"

    prover = StateGraph(Proof)
    prover.add_node(think)
    prover.add_node(verify)
    prover.add_edge(START, "think")
    prover.add_edge("think", "verify")
    prover.add_conditional_edges("verify", proved, ["think", END])
    proving = prover.compile()

    def prepare(state: Lecture) -> Lecture:
        return {"claims": llm.invoke(f"Claims of {state['title']}").text.split(", ")}

    def prove_all(state: Lecture) -> Lecture:
        results = [proving.invoke({"claim": claim}) for claim in state["claims"]]
        return {"proofs": [result["proof"] for result in results if result["proof"]]}

    def praise(state: Lecture) -> Lecture:
        return {"praise": llm.invoke(f"Praise {len(state['proofs'])} proofs").text}

    builder = StateGraph(Lecture)
    for node in (prepare, prove_all, praise):
        builder.add_node(node)
    builder.add_edge(START, "prepare")
    builder.add_edge("prepare", "prove_all")
    builder.add_edge("prove_all", "praise")
    return builder.compile()


UNDECLARED = Fixture(
    name="undeclared_subgraph",
    build=build_undeclared,
    runs=(
        Run("one claim", {"title": "sets"}, ["clear"], calls=3, visits={"prove_all/think": 1}),
        Run("two claims", {"title": "primes"}, ["suppose not", "two is even"], 5, visits={"prove_all": 1}),
        Run("one unproved", {"title": "hard"}, ["suppose not"], calls=5, visits={"prove_all/think": 3}),
    ),
    kinds={
        "prepare": "llm",
        "prove_all": "regular",
        "prove_all/think": "llm",
        "prove_all/verify": "regular",
        "praise": "llm",
    },
    outcome=lambda output: output["proofs"],
    loops=loops({"prove_all/think", "prove_all/verify"}),
)

# -- three deep, and the innermost is an agent ---------------------------------------------


class Claim(MessagesState):
    paid: str


def look_up_policy(number: int) -> str:
    """Look up a policy."""
    return f"policy {number} {'covers' if number % 2 else 'excludes'} floods"


clerk = ScriptedModel(
    script={
        ("Decide", "policy 1"): uses("look_up_policy", number=1),
        ("Decide", "policy 2"): uses("look_up_policy", number=2),
        ("Decide", "policies 1 to 2"): [uses("look_up_policy", number=n) for n in (1, 2)],
        ("Decide", "excludes floods"): "Refuse.",
        ("Decide", "covers floods"): "Pay.",
        ("Letter", "Pay."): "Dear friend",
        ("Letter", "Refuse."): "Dear sir",
    }
)


def build_three_deep() -> Any:
    desk = create_agent(clerk, [look_up_policy], system_prompt="Decide.", name="desk")

    def stamp(state: Claim) -> Claim:
        return {"paid": str(state["messages"][-1].text == "Pay.")}

    division = StateGraph(Claim)
    division.add_node("desk", desk)
    division.add_node(stamp)
    division.add_edge(START, "desk")
    division.add_edge("desk", "stamp")

    def letter(state: Claim) -> dict[str, Any]:
        return {"messages": [clerk.invoke(f"Letter: {state['messages'][-1].text}")]}

    company = StateGraph(Claim)
    company.add_node("division", division.compile())
    company.add_node(letter)
    company.add_edge(START, "division")
    company.add_conditional_edges("division", lambda state: state["paid"], {"True": "letter", "False": END})
    return company.compile()


THREE_DEEP = Fixture(
    name="three_deep",
    build=build_three_deep,
    runs=(
        Run("paid", asked("policy 1"), "Dear friend", calls=3, visits={"letter": 1}),
        Run("refused", asked("policy 2"), "Refuse.", calls=2, visits={"letter": 0, "division/stamp": 1}),
        Run("two policies", asked("policies 1 to 2"), "Dear friend", 3, visits={"division/desk/tools": 2}),
    ),
    kinds={
        "division/desk/model": "llm",
        "division/desk/tools": "dynamic",
        "division/stamp": "regular",
        "letter": "llm",
    },
    outcome=last_text,
    planned={"division/desk/tools": "division/desk/model"},
    loops=loops({"division/desk/model", "division/desk/tools"}),
)

FIXTURES = (TEAMS, UNDECLARED, THREE_DEEP)
