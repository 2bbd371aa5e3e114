"""`Send` to workers, to a chain, to a subgraph, and without a plan."""

from __future__ import annotations

import operator
from typing import Annotated, Any, Literal, TypedDict

from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send
from pydantic import BaseModel

from graphs.fixture import Fixture, Run, loops
from graphs.scripted import ScriptedModel

# -- orchestrator and workers: the model as a default of a parameter -----------------------


class Report(TypedDict, total=False):
    topic: str
    headings: list[str]
    sections: Annotated[list[str], operator.add]
    report: str


class Plan(BaseModel):
    """The headings of a report."""

    headings: list[str]


editor = ScriptedModel(
    script={
        ("Plan", "bees"): Plan(headings=["hive"]),
        ("Plan", "cities"): Plan(headings=["roads", "parks", "trade"]),
        ("Plan", "void"): Plan(headings=[]),
        ("Section", "hive"): "On hives.",
        ("Section", "roads"): "On roads.",
        ("Section", "parks"): "On parks.",
        ("Section", "trade"): "On trade.",
    }
)
heading_planner = editor.with_structured_output(Plan)


def orchestrate(state: Report, planner: Any = heading_planner) -> Report:
    return {"headings": planner.invoke(f"Plan a report on {state['topic']}").headings}


def hand_out(state: Report) -> list[Send] | str:
    return [Send("write_section", {"heading": heading}) for heading in state["headings"]] or "join"


def write_section(task: dict[str, str]) -> Report:
    return {"sections": [editor.invoke(f"Section: {task['heading']}").text]}


def join(state: Report) -> Report:
    return {"report": " ".join(state.get("sections", []))}


def build_orchestrator() -> Any:
    builder = StateGraph(Report)
    builder.add_node(orchestrate)
    builder.add_node(write_section)
    builder.add_node(join)
    builder.add_edge(START, "orchestrate")
    builder.add_conditional_edges("orchestrate", hand_out, ["write_section", "join"])
    builder.add_edge("write_section", "join")
    builder.add_edge("join", END)
    return builder.compile()


ORCHESTRATOR = Fixture(
    name="orchestrator_worker",
    build=build_orchestrator,
    runs=(
        Run("nothing to write", {"topic": "void"}, "", calls=1, visits={"write_section": 0}),
        Run("one section", {"topic": "bees"}, "On hives.", calls=2, visits={"write_section": 1}),
        Run(
            "three sections",
            {"topic": "cities"},
            "On roads. On parks. On trade.",
            calls=4,
            visits={"write_section": 3, "join": 1},
        ),
    ),
    kinds={"orchestrate": "llm", "write_section": "dynamic", "join": "regular"},
    outcome=lambda output: output["report"],
    planned={"write_section": "orchestrate"},
    calls_llm=frozenset({"write_section"}),
)

# -- map and reduce: prompts piped into the model, one of them as a node itself ------------


class Jokes(TypedDict, total=False):
    theme: str
    subjects: list[str]
    jokes: Annotated[list[str], operator.add]
    best: str


class Subjects(BaseModel):
    """What to joke about."""

    subjects: list[str]


jester = ScriptedModel(
    script={
        ("subjects", "farm"): Subjects(subjects=["cow", "hen"]),
        ("subjects", "sea"): Subjects(subjects=["cod", "eel", "tern", "whale"]),
        ("subjects", "moon"): Subjects(subjects=["dust"]),
        **{("joke on", word): f"{word}!" for word in ("cow", "hen", "cod", "eel", "tern", "whale", "dust")},
        ("best of", "cow!", "hen!"): "hen!",
        ("best of", "cod!", "eel!", "tern!", "whale!"): "eel!",
        ("best of", "dust!"): "dust!",
    }
)
subjects_chain = ChatPromptTemplate.from_template(
    "Name subjects for: {theme}"
) | jester.with_structured_output(Subjects)
joke_chain = ChatPromptTemplate.from_messages([("system", "Be brief."), ("user", "A joke on {subject}.")])


def name_subjects(state: Jokes) -> Jokes:
    return {"subjects": subjects_chain.invoke({"theme": state["theme"]}).subjects}


def map_jokes(state: Jokes) -> list[Send]:
    return [Send("make_joke", {"subject": subject}) for subject in state["subjects"]]


def make_joke(task: dict[str, str]) -> Jokes:
    return {"jokes": [(joke_chain | jester).invoke(task).text]}


def build_map_reduce() -> Any:
    pick_best = (
        RunnableLambda(lambda state: {"jokes": ", ".join(state["jokes"])})
        | ChatPromptTemplate.from_template("Give the best of: {jokes}")
        | jester
        | RunnableLambda(lambda message: {"best": message.text})
    )
    builder = StateGraph(Jokes)
    builder.add_node(name_subjects)
    builder.add_node(make_joke)
    builder.add_node("pick_best", pick_best)
    builder.add_edge(START, "name_subjects")
    builder.add_conditional_edges("name_subjects", map_jokes, ["make_joke"])
    builder.add_edge("make_joke", "pick_best")
    builder.add_edge("pick_best", END)
    return builder.compile()


MAP_REDUCE = Fixture(
    name="map_reduce",
    build=build_map_reduce,
    runs=(
        Run("one", {"theme": "moon"}, "dust!", calls=3, visits={"make_joke": 1}),
        Run("two", {"theme": "farm"}, "hen!", calls=4, visits={"make_joke": 2}),
        Run("four", {"theme": "sea"}, "eel!", calls=6, visits={"make_joke": 4}),
    ),
    kinds={"name_subjects": "llm", "make_joke": "dynamic", "pick_best": "llm"},
    outcome=lambda output: output["best"],
    planned={"make_joke": "name_subjects"},
    calls_llm=frozenset({"make_joke"}),
)

# -- map without a plan, and a reduction that goes round -----------------------------------


class Digest(TypedDict, total=False):
    texts: list[str]
    notes: Annotated[list[str], operator.add]
    shelf: list[str]
    digest: str


def build_digest() -> Any:
    llm = ScriptedModel(
        script={
            ("Note down",): "n",
            ("Merge", "n n"): "m",
            ("Merge", "m m"): "k",
            ("Conclude: n",): "short",
            ("Conclude: m",): "middling",
            ("Conclude: k",): "long",
        }
    )

    def note(task: dict[str, str]) -> Digest:
        return {"notes": [llm.invoke(f"Note down: {task['text']}").text]}

    def collect(state: Digest) -> Digest:
        return {"shelf": state["notes"]}

    def merge(state: Digest) -> Digest:
        pairs = zip(state["shelf"][::2], state["shelf"][1::2], strict=False)
        return {"shelf": [llm.invoke(f"Merge: {first} {second}").text for first, second in pairs]}

    def conclude(state: Digest) -> Digest:
        return {"digest": llm.invoke(f"Conclude: {state['shelf'][0]}").text}

    def enough(state: Digest) -> Literal["merge", "conclude"]:
        return "merge" if len(state["shelf"]) > 1 else "conclude"

    builder = StateGraph(Digest)
    for node in (note, collect, merge, conclude):
        builder.add_node(node)
    builder.add_conditional_edges(
        START, lambda state: [Send("note", {"text": text}) for text in state["texts"]], ["note"]
    )
    builder.add_edge("note", "collect")
    builder.add_conditional_edges("collect", enough)
    builder.add_conditional_edges("merge", enough)
    builder.add_edge("conclude", END)
    return builder.compile()


DIGEST = Fixture(
    name="digest",
    build=build_digest,
    runs=(
        Run("one text", {"texts": ["a"]}, "short", calls=2, visits={"note": 1, "merge": 0}),
        Run("two texts", {"texts": ["a", "b"]}, "middling", calls=4, visits={"note": 2, "merge": 1}),
        Run("four texts", {"texts": list("abcd")}, "long", calls=8, visits={"note": 4, "merge": 2}),
    ),
    kinds={"note": "dynamic", "collect": "regular", "merge": "llm", "conclude": "llm"},
    outcome=lambda output: output["digest"],
    planned={"note": None},
    calls_llm=frozenset({"note"}),
    loops=loops({"merge"}),
)

# -- map over a subgraph -------------------------------------------------------------------


class Paper(TypedDict, total=False):
    title: str
    opinion: str
    marks: Annotated[list[int], operator.add]


class Session(TypedDict, total=False):
    day: str
    titles: list[str]
    marks: Annotated[list[int], operator.add]
    total: int


class Titles(BaseModel):
    """Papers to review."""

    titles: list[str]


def build_reviews() -> Any:
    llm = ScriptedModel(
        script={
            ("Which papers", "Monday"): Titles(titles=["A"]),
            ("Which papers", "Tuesday"): Titles(titles=["A", "B"]),
            ("Which papers", "Friday"): Titles(titles=["A", "B", "C"]),
            ("Read", "paper A"): "good",
            ("Read", "paper B"): "bad",
            ("Read", "paper C"): "good",
        }
    )

    class Reader:
        model = llm

        def read(self, paper: Paper) -> Paper:
            return {"opinion": self.model.invoke(f"Read paper {paper['title']}").text}

    def mark(paper: Paper) -> Paper:
        return {"marks": [1 if paper["opinion"] == "good" else 0]}

    review = StateGraph(Paper)
    review.add_node("read", Reader().read)
    review.add_node(mark)
    review.add_edge(START, "read")
    review.add_edge("read", "mark")

    def choose(session: Session) -> Session:
        asked = f"Which papers on {session['day']}?"
        return {"titles": llm.with_structured_output(Titles).invoke(asked).titles}

    def assign(session: Session) -> list[Send]:
        return [Send("review", {"title": title}) for title in session["titles"]]

    def tally(session: Session) -> Session:
        return {"total": sum(session["marks"])}

    builder = StateGraph(Session)
    builder.add_node(choose)
    builder.add_node("review", review.compile())
    builder.add_node(tally)
    builder.add_edge(START, "choose")
    builder.add_conditional_edges("choose", assign, ["review"])
    builder.add_edge("review", "tally")
    return builder.compile()


REVIEWS = Fixture(
    name="map_reduce_subgraph",
    build=build_reviews,
    runs=(
        Run("one", {"day": "Monday"}, 1, calls=2, visits={"review": 1, "review/mark": 1}),
        Run("two", {"day": "Tuesday"}, 1, calls=3, visits={"review": 2, "review/read": 2}),
        Run("three", {"day": "Friday"}, 2, calls=4, visits={"review": 3, "review/read": 3}),
    ),
    kinds={
        "choose": "llm",
        "review": "dynamic",
        "review/read": "llm",
        "review/mark": "regular",
        "tally": "regular",
    },
    outcome=lambda output: output["total"],
    planned={"review": "choose"},
)

# -- a command that sends: plan and dispatch in one node -----------------------------------


class Tour(TypedDict, total=False):
    country: str
    sights: Annotated[list[str], operator.add]
    guide: str


def build_tour() -> Any:
    llm = ScriptedModel(
        script={
            ("Cities of", "Malta"): "Valletta",
            ("Cities of", "Italy"): "Rome, Milan, Turin",
            ("Cities of", "Atlantis"): "none",
            **{
                ("Sight", city): f"the cathedral of {city}" for city in ("Valletta", "Rome", "Milan", "Turin")
            },
        }
    )

    def ask(prompt: str) -> str:
        return llm.invoke(prompt).text

    def tour(state: Tour) -> Command[Literal["visit", "stay"]]:
        cities = ask(f"Cities of {state['country']}")
        if cities == "none":
            return Command(goto="stay")
        return Command(goto=[Send("visit", {"city": city}) for city in cities.split(", ")])

    def visit(task: dict[str, str]) -> Tour:
        return {"sights": [ask(f"Sight in {task['city']}")]}

    def stay(state: Tour) -> Tour:
        return {"sights": ["home"]}

    def print_guide(state: Tour) -> Tour:
        return {"guide": ", ".join(state["sights"])}

    builder = StateGraph(Tour)
    for node in (tour, visit, stay, print_guide):
        builder.add_node(node)
    builder.add_edge(START, "tour")
    builder.add_edge("visit", "print_guide")
    builder.add_edge("stay", "print_guide")
    return builder.compile()


TOUR = Fixture(
    name="command_send",
    build=build_tour,
    runs=(
        Run("nowhere", {"country": "Atlantis"}, "home", calls=1, visits={"visit": 0, "stay": 1}),
        Run("one city", {"country": "Malta"}, "the cathedral of Valletta", calls=2, visits={"visit": 1}),
        Run(
            "three cities",
            {"country": "Italy"},
            "the cathedral of Rome, the cathedral of Milan, the cathedral of Turin",
            calls=4,
            visits={"visit": 3, "print_guide": 1},
        ),
    ),
    kinds={"tour": "llm", "visit": "dynamic", "stay": "dynamic", "print_guide": "regular"},
    outcome=lambda output: output["guide"],
    planned={"visit": "tour", "stay": "tour"},
    calls_llm=frozenset({"visit"}),
)

FIXTURES = (ORCHESTRATOR, MAP_REDUCE, DIGEST, REVIEWS, TOUR)
