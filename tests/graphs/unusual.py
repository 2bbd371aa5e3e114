"""Tasks of a function, kinds by the author's word, models that nodes make or choose, and a deferred node."""

from __future__ import annotations

import operator
import pkgutil
from functools import lru_cache
from typing import Annotated, Any, TypedDict

from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph

from graphs.fixture import Fixture, Run
from graphs.scripted import ScriptedModel

# -- a function and its tasks --------------------------------------------------------------

essayist = ScriptedModel(
    script={
        ("Outline", "tea"): "leaf, cup",
        ("Outline", "dust"): "dust",
        ("Outline", "fleet"): "hull, mast, sail, keel",
        **{
            ("Paragraph", word): word.upper()
            for word in ("leaf", "cup", "dust", "hull", "mast", "sail", "keel")
        },
    }
)


@task
def outline(topic: str) -> list[str]:
    return essayist.invoke(f"Outline: {topic}").text.split(", ")


@task
def paragraph(heading: str) -> str:
    return essayist.invoke(f"Paragraph: {heading}").text


@task
def bind(paragraphs: list[str]) -> str:
    return " ".join(paragraphs)


def build_functional() -> Any:
    @entrypoint()
    def essay(topic: str) -> str:
        headings = outline(topic).result()
        paragraphs = [paragraph(heading) for heading in headings]
        return bind([future.result() for future in paragraphs]).result()

    return essay


FUNCTIONAL = Fixture(
    name="functional",
    build=build_functional,
    runs=(
        Run("one paragraph", "dust", "DUST", calls=2),
        Run("two paragraphs", "tea", "LEAF CUP", calls=3),
        Run("four paragraphs", "fleet", "HULL MAST SAIL KEEL", calls=5),
    ),
    # Which tasks there will be is known only once it runs.
    kinds={"essay": "dynamic"},
    outcome=lambda output: output,
    planned={"essay": None},
    calls_llm=frozenset({"essay"}),
    tasks={"outline": "essay", "paragraph": "essay", "bind": "essay"},
)

# -- kinds by the author's word ------------------------------------------------------------


class Colour(TypedDict, total=False):
    word: str
    price: int
    rendered: str
    checked: bool


def build_annotated() -> Any:
    counter = ScriptedModel(script={})

    def price(state: Colour) -> Colour:
        """Holds a model, and never calls it."""
        return {"price": counter.get_num_tokens_from_messages([HumanMessage(state["word"])])}

    def render(state: Colour) -> Colour:
        """Calls a model that nobody can see from here."""
        plugin = pkgutil.resolve_name(":".join(["graphs.plugin", "render"]))
        return {"rendered": plugin(state["word"])}

    def check(state: Colour) -> Colour:
        return {"checked": bool(state["rendered"])}

    builder = StateGraph(Colour)
    builder.add_node(price, metadata={"llmsched": {"kind": "regular"}, "owner": "till"})
    builder.add_node(render, metadata={"llmsched": {"kind": "llm"}})
    builder.add_node(check, metadata={"owner": "desk"})
    builder.add_edge(START, "price")
    builder.add_conditional_edges(
        "price", lambda state: "render" if state["price"] < 4 else "__end__", ["render", "__end__"]
    )
    builder.add_edge("render", "check")
    return builder.compile()


ANNOTATED = Fixture(
    name="annotated",
    build=build_annotated,
    runs=(
        Run("cheap", {"word": "red"}, "rot", calls=1),
        Run("also cheap", {"word": "pale blue"}, "blau", calls=1),
        Run("too dear", {"word": "a very light green"}, None, calls=0, visits={"render": 0}),
    ),
    kinds={"price": "regular", "render": "llm", "check": "regular"},
    outcome=lambda output: output.get("rendered"),
)

# -- models that are made, kept or chosen while a node runs --------------------------------


class Question(TypedDict, total=False):
    question: str
    topic: str
    facts: str
    answer: str


MODELS = {
    "small": ScriptedModel(script={("Answer",): "Perhaps."}),
    "large": ScriptedModel(script={("Answer", "stars"): "Billions.", ("Answer", "seas"): "Seven."}),
}
topics = {("Topic", "sky"): "stars", ("Topic", "water"): "seas"}
facts = {("Facts", "stars"): "They shine.", ("Facts", "seas"): "They are wet."}


def find_topic(state: Question) -> Question:
    """Makes its model anew each time."""
    model = ScriptedModel(script=topics)
    return {"topic": model.invoke(f"Topic: {state['question']}").text}


@lru_cache(maxsize=1)
def facts_model() -> ScriptedModel:
    return ScriptedModel(script=facts)


def find_facts(state: Question) -> Question:
    """Has its model made at its first use."""
    return {"facts": facts_model().invoke(f"Facts: {state['topic']}").text}


def answer(state: Question, config: RunnableConfig) -> Question:
    """Uses the model that the run asks for."""
    model = MODELS[config["configurable"].get("model", "large")]
    return {"answer": model.invoke(f"Answer: {state['topic']}. {state['facts']}").text}


def build_chosen_model() -> Any:
    builder = StateGraph(Question)
    builder.add_sequence([find_topic, find_facts, answer])
    builder.add_edge(START, "find_topic")
    return builder.compile()


_small = {"configurable": {"model": "small"}}

CHOSEN_MODEL = Fixture(
    name="chosen_model",
    build=build_chosen_model,
    runs=(
        Run("sky", {"question": "how full is the sky"}, "Billions.", calls=3),
        Run("water", {"question": "how much water"}, "Seven.", calls=3),
        Run("small", {"question": "how much water"}, "Perhaps.", calls=3, config=_small),
    ),
    kinds={"find_topic": "llm", "find_facts": "llm", "answer": "llm"},
    outcome=lambda output: output["answer"],
)

# -- branches of unequal length, awaited by a deferred node --------------------------------


class News(TypedDict, total=False):
    town: str
    found: Annotated[list[str], operator.add]
    front_page: str


reporter = ScriptedModel(
    script={
        ("Headline", "Ulm"): "Ulm stands",
        ("Deepen", "Ulm wire"): "it stood before",
        ("Front page", "Ulm stands", "it stood before"): "ULM",
        ("Headline", "Bath"): "Bath is wet",
        ("Front page", "Bath is wet"): "BATH",
        ("Headline", "Troy"): "Troy fell",
        ("Deepen", "Troy wire"): "a horse",
        ("Front page", "Troy fell", "a horse"): "TROY",
    }
)


def headline(state: News) -> News:
    return {"found": [reporter.invoke(f"Headline: {state['town']}").text]}


def wire(state: News) -> News:
    return {"found": [f"{state['town']} wire"] if state["town"] != "Bath" else []}


def worth_it(state: News) -> str:
    return "deepen" if any("wire" in found for found in state["found"]) else "front_page"


def deepen(state: News) -> News:
    return {"found": [reporter.invoke(f"Deepen: {state['town']} wire").text]}


def front_page(state: News) -> News:
    return {"front_page": reporter.invoke(f"Front page of {state['found']}").text}


def build_deferred() -> Any:
    builder = StateGraph(News)
    builder.add_node(headline)
    builder.add_node(wire)
    builder.add_node(deepen)
    builder.add_node(front_page, defer=True)
    builder.add_edge(START, "headline")
    builder.add_edge(START, "wire")
    builder.add_edge("headline", "front_page")
    builder.add_conditional_edges("wire", worth_it, ["deepen", "front_page"])
    builder.add_edge("deepen", "front_page")
    return builder.compile()


DEFERRED = Fixture(
    name="deferred",
    build=build_deferred,
    runs=(
        Run("deepened", {"town": "Ulm"}, "ULM", calls=3, visits={"deepen": 1, "front_page": 1}),
        Run("not deepened", {"town": "Bath"}, "BATH", calls=2, visits={"deepen": 0, "front_page": 1}),
        Run("deepened again", {"town": "Troy"}, "TROY", calls=3, visits={"front_page": 1}),
    ),
    kinds={"headline": "llm", "wire": "regular", "deepen": "llm", "front_page": "llm"},
    outcome=lambda output: output["front_page"],
)

FIXTURES = (FUNCTIONAL, ANNOTATED, CHOSEN_MODEL, DEFERRED)
