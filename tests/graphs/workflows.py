"""Chaining with a gate, parallel writers, routing by an edge and by a command, writer and critic in turns."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal, TypedDict

from langchain_core.runnables import RunnableLambda
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command
from pydantic import BaseModel

from graphs.fixture import Fixture, Run, loops
from graphs.scripted import ScriptedModel

# -- chaining: a model at module level, asked by a helper ----------------------------------


class Joke(TypedDict, total=False):
    topic: str
    joke: str


comedian = ScriptedModel(
    script={
        ("Tell a joke on ducks",): "Quack!",
        ("Tell a joke on trains",): "A train came late.",
        ("Add a punchline", "A train came late."): "A train came late?",
        ("Polish", "A train came late?"): "A train, late? Never!",
        ("Tell a joke on taxes",): "Taxes.",
        ("Add a punchline", "Taxes."): "Taxes...",
        ("Polish", "Taxes..."): "There is no joke in taxes.",
    }
)


def _ask(order: str, subject: str) -> str:
    return comedian.invoke(f"{order}: {subject}" if order != "Tell" else f"Tell a joke on {subject}").text


def tell(state: Joke) -> Joke:
    return {"joke": _ask("Tell", state["topic"])}


def has_punchline(state: Joke) -> str:
    return "funny" if "!" in state["joke"] else "flat"


def improve(state: Joke) -> Joke:
    return {"joke": _ask("Add a punchline", state["joke"])}


def polish(state: Joke) -> Joke:
    return {"joke": _ask("Polish", state["joke"])}


def build_chaining() -> Any:
    builder = StateGraph(Joke)
    builder.add_node(tell)
    builder.add_node(improve)
    builder.add_node(polish)
    builder.add_edge(START, "tell")
    builder.add_conditional_edges("tell", has_punchline, {"funny": END, "flat": "improve"})
    builder.add_edge("improve", "polish")
    builder.add_edge("polish", END)
    return builder.compile()


CHAINING = Fixture(
    name="chaining",
    build=build_chaining,
    runs=(
        Run("through the gate", {"topic": "ducks"}, "Quack!", calls=1, visits={"improve": 0}),
        Run("improved", {"topic": "trains"}, "A train, late? Never!", calls=3, visits={"polish": 1}),
        Run("hopeless", {"topic": "taxes"}, "There is no joke in taxes.", calls=3),
    ),
    kinds={"tell": "llm", "improve": "llm", "polish": "llm"},
    outcome=lambda output: output["joke"],
)

# -- parallel: the model in the closure of a node ------------------------------------------


class Pieces(TypedDict, total=False):
    topic: str
    wanted: list[str]
    pieces: Annotated[list[str], operator.add]
    whole: str


FORMS = ("story", "song", "poem")


def writer_of(form: str, llm: Any) -> Callable[[Pieces], Pieces]:
    """A node that writes one form."""

    def write(state: Pieces) -> Pieces:
        return {"pieces": [llm.invoke(f"Write a {form} about {state['topic']}.").text]}

    return write


def combine(state: Pieces) -> Pieces:
    return {"whole": " / ".join(sorted(state["pieces"]))}


def build_parallel() -> Any:
    llm = ScriptedModel(script={(form, "rain"): f"a rainy {form}" for form in FORMS})
    builder = StateGraph(Pieces)
    for form in FORMS:
        builder.add_node(form, writer_of(form, llm))
        builder.add_edge(form, "combine")
    builder.add_node("combine", combine)
    builder.add_conditional_edges(START, lambda state: state["wanted"], list(FORMS))
    builder.add_edge("combine", END)
    return builder.compile()


def _rain(*wanted: str) -> Run:
    given = {"topic": "rain", "wanted": list(wanted)}
    whole = " / ".join(sorted(f"a rainy {form}" for form in wanted))
    visits = {form: int(form in wanted) for form in FORMS}
    return Run(" and ".join(wanted), given, whole, calls=len(wanted), visits=visits)


PARALLEL = Fixture(
    name="parallel",
    build=build_parallel,
    runs=(_rain("story"), _rain("song", "poem"), _rain(*FORMS)),
    kinds={"story": "llm", "song": "llm", "poem": "llm", "combine": "regular"},
    outcome=lambda output: output["whole"],
)

# -- routing by an edge: the model in a partial --------------------------------------------


class Letter(TypedDict, total=False):
    letter: str
    about: str
    answer: str


class Route(BaseModel):
    """Where a letter goes."""

    about: Literal["money", "goods", "nothing"]


def route(state: Letter, *, llm: Any) -> Letter:
    decision = llm.with_structured_output(Route).invoke(f"What is it about? {state['letter']}")
    return {"about": decision.about}


def answer(state: Letter, *, llm: Any, office: str) -> Letter:
    return {"answer": llm.invoke(f"Answer for {office}: {state['letter']}").text}


def file_away(state: Letter) -> Letter:
    return {"answer": ""}


def build_routing() -> Any:
    llm = ScriptedModel(
        script={
            ("about?", "bill"): Route(about="money"),
            ("about?", "parcel"): Route(about="goods"),
            ("about?", "weather"): Route(about="nothing"),
            ("Answer for the till", "bill"): "Paid.",
            ("Answer for the store", "parcel"): "Sent.",
        }
    )
    builder = StateGraph(Letter)
    builder.add_node("route", partial(route, llm=llm))
    builder.add_node("money", partial(answer, llm=llm, office="the till"))
    builder.add_node("goods", partial(answer, office="the store", llm=llm))
    builder.add_node("nothing", file_away)
    builder.add_edge(START, "route")
    builder.add_conditional_edges("route", lambda state: state["about"], ["money", "goods", "nothing"])
    return builder.compile()


ROUTING = Fixture(
    name="routing",
    build=build_routing,
    runs=(
        Run("money", {"letter": "my bill"}, "Paid.", calls=2, visits={"money": 1, "goods": 0}),
        Run("goods", {"letter": "my parcel"}, "Sent.", calls=2, visits={"money": 0, "goods": 1}),
        Run("nothing", {"letter": "the weather"}, "", calls=1, visits={"nothing": 1}),
    ),
    kinds={"route": "llm", "money": "llm", "goods": "llm", "nothing": "regular"},
    outcome=lambda output: output["answer"],
)

# -- routing by a command: the model as attribute of a class -------------------------------


class Triage:
    """A node that is an object, and says itself where to go."""

    def __init__(self, llm: Any) -> None:
        self.llm = llm.with_structured_output(Route)

    def __call__(self, state: Letter) -> Command[Literal["till", "store", "bin"]]:
        about = self.llm.invoke(f"What is it about? {state['letter']}").about
        return Command(goto={"money": "till", "goods": "store", "nothing": "bin"}[about])


class Office:
    """A node that is a method."""

    def __init__(self, llm: Any, name: str) -> None:
        self.llm = llm
        self.name = name

    def reply(self, state: Letter) -> Letter:
        return {"answer": self.llm.invoke(f"Answer for the {self.name}: {state['letter']}").text}


def build_triage() -> Any:
    llm = ScriptedModel(
        script={
            ("about?", "bill"): Route(about="money"),
            ("about?", "parcel"): Route(about="goods"),
            ("about?", "weather"): Route(about="nothing"),
            ("Answer for the till", "bill"): "Paid.",
            ("Answer for the store", "parcel"): "Sent.",
        }
    )
    builder = StateGraph(Letter)
    builder.add_node("triage", Triage(llm))
    builder.add_node("till", Office(llm, "till").reply)
    builder.add_node("store", Office(llm, "store").reply)
    builder.add_node("bin", file_away)
    builder.add_edge(START, "triage")
    return builder.compile()


TRIAGE = Fixture(
    name="command_routing",
    build=build_triage,
    runs=(
        Run("money", {"letter": "my bill"}, "Paid.", calls=2, visits={"till": 1, "store": 0, "bin": 0}),
        Run("goods", {"letter": "my parcel"}, "Sent.", calls=2, visits={"till": 0, "store": 1, "bin": 0}),
        Run("nothing", {"letter": "the weather"}, "", calls=1, visits={"till": 0, "store": 0, "bin": 1}),
    ),
    kinds={"triage": "llm", "till": "dynamic", "store": "dynamic", "bin": "dynamic"},
    outcome=lambda output: output["answer"],
    planned={"till": "triage", "store": "triage", "bin": "triage"},
    calls_llm=frozenset({"till", "store"}),
)

# -- writer and critic: a sync and an async function in one node ---------------------------


class Draft(TypedDict, total=False):
    topic: str
    draft: str
    advice: str
    rounds: int


class Grade(BaseModel):
    """What the critic says."""

    good: bool
    advice: str = ""


author = ScriptedModel(
    script={
        ("Write", "snow"): "Snow.",
        ("Write", "storm"): "Storm.",
        ("Write", "storm", "longer"): "A storm.",
        ("Write", "night"): "Night.",
        ("Write", "night", "longer"): "A night.",
        ("Write", "night", "darker"): "A dark night.",
    }
)
critic = ScriptedModel(
    script={
        ("Grade", "Snow."): Grade(good=True),
        ("Grade", "Storm."): Grade(good=False, advice="longer"),
        ("Grade", "A storm."): Grade(good=True),
        ("Grade", "Night."): Grade(good=False, advice="longer"),
        ("Grade", "A night."): Grade(good=False, advice="darker"),
        ("Grade", "A dark night."): Grade(good=True),
    }
).with_structured_output(Grade)


def _order(state: Draft) -> str:
    return f"Write about {state['topic']}. {state.get('advice', '')}"


def _drafted(state: Draft, text: str) -> Draft:
    return {"draft": text, "rounds": state.get("rounds", 0) + 1}


def write(state: Draft) -> Draft:
    return _drafted(state, author.invoke(_order(state)).text)


async def awrite(state: Draft) -> Draft:
    return _drafted(state, (await author.ainvoke(_order(state))).text)


def grade(state: Draft) -> Draft:
    return {"advice": critic.invoke(f"Grade: {state['draft']}").advice}


async def agrade(state: Draft) -> Draft:
    return {"advice": (await critic.ainvoke(f"Grade: {state['draft']}")).advice}


def build_evaluator() -> Any:
    builder = StateGraph(Draft)
    builder.add_node("write", RunnableLambda(write, afunc=awrite))
    builder.add_node("grade", RunnableLambda(grade, afunc=agrade))
    builder.add_edge(START, "write")
    builder.add_edge("write", "grade")
    builder.add_conditional_edges("grade", lambda state: bool(state["advice"]), {True: "write", False: END})
    return builder.compile()


EVALUATOR = Fixture(
    name="evaluator_optimizer",
    build=build_evaluator,
    runs=(
        Run("one round", {"topic": "snow"}, "Snow.", calls=2, visits={"write": 1}),
        Run("two rounds", {"topic": "storm"}, "A storm.", calls=4, visits={"write": 2}),
        Run("three rounds", {"topic": "night"}, "A dark night.", calls=6, visits={"grade": 3}),
    ),
    kinds={"write": "llm", "grade": "llm"},
    outcome=lambda output: output["draft"],
    loops=loops({"write", "grade"}),
)

FIXTURES = (CHAINING, PARALLEL, ROUTING, TRIAGE, EVALUATOR)
