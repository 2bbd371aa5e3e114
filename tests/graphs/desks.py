"""Models that objects keep: a trading desk of classes, and a planner whose parts are objects of their own."""

from __future__ import annotations

import functools
import operator
from typing import Annotated, Any, Literal, TypedDict

from langchain.agents import create_agent
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel

from graphs.fixture import Fixture, Run, loops
from graphs.scripted import ScriptedModel, uses

# -- a trading desk: analysts side by side, a debate, a judge, a trader --------------------


class Trade(TypedDict, total=False):
    ticker: str
    reports: Annotated[list[str], operator.add]
    debate: Annotated[list[str], operator.add]
    verdict: str
    order: str


traders = ScriptedModel(
    script={
        ("market on", "AAA"): "up",
        ("market on", "BBB"): "down",
        ("market on", "CCC"): "flat",
        ("news on",): "quiet",
        ("books on",): "sound",
        ("Bull on", "up"): "buy",
        ("Bear on", "up"): "agreed",
        ("Bull on", "down"): "wait",
        ("Bear on", "down"): "sell",
        ("Bull on", "down", "sell"): "agreed",
        ("Bull on", "flat"): "maybe",
        ("Bear on", "flat"): "maybe not",
        ("Judge", "buy"): "long",
        ("Judge", "sell"): "short",
        ("Judge", "maybe"): "none",
        ("Order", "long"): "BUY",
        ("Order", "short"): "SELL",
        ("Order", "none"): "HOLD",
        ("Check", "BUY"): "buy 1",
        ("Check", "SELL"): "sell 1",
        ("Check", "HOLD"): "hold",
    }
)


def noted(method: Any) -> Any:
    """A method that says when it runs, as loggers and timers decorate it."""

    @functools.wraps(method)
    def wrapper(self: Any, *args: Any) -> Any:
        self.ran = True
        return method(self, *args)

    return wrapper


class Analyst:
    """A node that is an object, whose model is an attribute."""

    def __init__(self, llm: Any, beat: str) -> None:
        self.llm = llm
        self.beat = beat

    def __call__(self, state: Trade) -> Trade:
        return {"reports": [self.llm.invoke(f"{self.beat} on {state['ticker']}").text]}

    @noted
    def read(self, state: Trade) -> Trade:
        return {"reports": [self.llm.invoke(f"{self.beat} on {state['ticker']}").text]}


class NewsAnalyst(Analyst):
    """One that adds to what its class does."""

    def __call__(self, state: Trade) -> Trade:
        return {"reports": [f"{report}." for report in super().__call__(state)["reports"]]}


class Debater:
    """A node that is a method, which asks through another method."""

    def __init__(self, llm: Any, side: str) -> None:
        self.llm = llm
        self.side = side

    def speak(self, state: Trade) -> Trade:
        return {"debate": [self._say(state["reports"], state.get("debate", []))]}

    def _say(self, reports: list[str], debate: list[str]) -> str:
        return self.llm.invoke(f"{self.side} on {'; '.join(reports + debate)}").text


class Risk:
    """A helper: no node, but what a node asks."""

    def __init__(self, llm: Any) -> None:
        self.llm = llm

    def check(self, order: str) -> str:
        return self.llm.invoke(f"Check {order}").text


def assess(state: Trade, risk: Risk) -> Trade:
    """A node to which an object is handed over."""
    return {"order": risk.check(state["order"])}


class Trading:
    """The desk: its nodes are methods, its models attributes of it and of what it keeps."""

    def __init__(self, quick: Any, deep: Any) -> None:
        self.quick_llm = quick
        self.deep_llm = deep
        self.sides = {side: Debater(quick, side) for side in ("Bull", "Bear")}
        self.risk = Risk(quick)

    def judge(self, state: Trade) -> Trade:
        chain = ChatPromptTemplate.from_template("Judge {debate}") | self.deep_llm
        return {"verdict": chain.invoke({"debate": "; ".join(state["debate"])}).text}

    def trade(self, state: Trade) -> Trade:
        return {"order": self.quick_llm.invoke(f"Order {state['verdict']}").text}

    def goes_on(self, state: Trade) -> Literal["bull", "bear", "judge"]:
        said = state["debate"]
        if said[-1] == "agreed" or len(said) > 3:
            return "judge"
        return "bear" if len(said) % 2 else "bull"

    def build(self) -> Any:
        builder = StateGraph(Trade)
        builder.add_node("market", Analyst(self.quick_llm, "market"))
        builder.add_node("news", NewsAnalyst(self.quick_llm, "news"))
        builder.add_node("books", Analyst(self.quick_llm, "books").read)
        analysts = ["market", "news", "books"]
        for analyst in analysts:
            builder.add_edge(START, analyst)
        builder.add_node("bull", self.sides["Bull"].speak)
        builder.add_node("bear", self.sides["Bear"].speak)
        builder.add_node("judge", self.judge)
        builder.add_node("trade", self.trade)
        builder.add_node("check", functools.partial(assess, risk=self.risk))
        builder.add_edge(analysts, "bull")
        builder.add_conditional_edges("bull", self.goes_on)
        builder.add_conditional_edges("bear", self.goes_on)
        builder.add_edge("judge", "trade")
        builder.add_edge("trade", "check")
        return builder.compile()


TRADING = Fixture(
    name="trading_desk",
    build=lambda: Trading(traders, traders).build(),
    runs=(
        Run("agreed at once", {"ticker": "AAA"}, "buy 1", calls=8, visits={"bull": 1, "bear": 1}),
        Run("agreed later", {"ticker": "BBB"}, "sell 1", calls=9, visits={"bull": 2, "bear": 1}),
        Run("never agreed", {"ticker": "CCC"}, "hold", calls=10, visits={"bull": 2, "bear": 2}),
    ),
    kinds=dict.fromkeys(("market", "news", "books", "bull", "bear", "judge", "trade", "check"), "llm"),
    outcome=lambda output: output["order"],
    loops=loops({"bull", "bear"}),
)

# -- plan and execute: planner, worker and replanner are objects ---------------------------


class Errand(TypedDict, total=False):
    goal: str
    plan: list[str]
    done: Annotated[list[str], operator.add]
    answer: str


class Plan(BaseModel):
    """Steps that are left; an answer if there are none."""

    steps: list[str]
    answer: str = ""


@tool
def walk(place: str) -> str:
    """Walk to a place."""
    return f"at the {place}"


errands = ScriptedModel(
    script={
        ("Plan", "post"): Plan(steps=["mail"]),
        ("Plan", "shop"): Plan(steps=["baker", "butcher"]),
        ("Plan", "rest"): Plan(steps=["bench"]),
        ("Do", "mail"): uses("walk", place="box"),
        ("Do", "mail", "at the box"): "mailed",
        ("Do", "baker"): [uses("walk", place="bank"), uses("walk", place="bakery")],
        ("Do", "baker", "at the bank", "at the bakery"): "bread",
        ("Do", "butcher"): uses("walk", place="butcher"),
        ("Do", "butcher", "at the butcher"): "meat",
        ("Do", "bench"): "sat",
        ("Do", "nap"): "slept",
        ("Replan", "mailed"): Plan(steps=[], answer="Posted."),
        ("Replan", "bread"): Plan(steps=["butcher"]),
        ("Replan", "bread", "meat"): Plan(steps=[], answer="Shopped."),
        ("Replan", "sat"): Plan(steps=["nap"]),
        ("Replan", "sat", "slept"): Plan(steps=[], answer="Rested."),
    }
)


class Planner:
    """Keeps a chain instead of a model; makes the first plan and the next ones."""

    def __init__(self, llm: Any) -> None:
        self.chain = ChatPromptTemplate.from_template("{what} {about}") | llm.with_structured_output(Plan)

    def plan(self, state: Errand) -> Errand:
        return {"plan": self.chain.invoke({"what": "Plan", "about": state["goal"]}).steps}

    def replan(self, state: Errand) -> Errand:
        found = self.chain.invoke({"what": "Replan", "about": ", ".join(state["done"])})
        return {"plan": found.steps, "answer": found.answer}


class Worker:
    """Keeps an agent, which is a graph of its own."""

    def __init__(self, llm: Any) -> None:
        self.agent = create_agent(llm, [walk], system_prompt="Do it.")

    def work(self, state: Errand) -> Errand:
        output = self.agent.invoke({"messages": [("user", f"Do {state['plan'][0]}")]})
        return {"done": [output["messages"][-1].text]}


def build_errands() -> Any:
    planner, worker = Planner(errands), Worker(errands)
    builder = StateGraph(Errand)
    builder.add_node("plan", planner.plan)
    builder.add_node("work", worker.work)
    builder.add_node("replan", planner.replan)
    builder.add_edge(START, "plan")
    builder.add_edge("plan", "work")
    builder.add_edge("work", "replan")
    builder.add_conditional_edges("replan", lambda state: END if state["answer"] else "work", ["work", END])
    return builder.compile()


ERRANDS = Fixture(
    name="plan_and_execute_classes",
    build=build_errands,
    runs=(
        Run("one step", {"goal": "post"}, "Posted.", calls=4, visits={"work": 1}),
        Run("two steps", {"goal": "shop"}, "Shopped.", calls=7, visits={"work": 2, "work/tools": 3}),
        Run("the plan grows", {"goal": "rest"}, "Rested.", calls=5, visits={"work": 2, "replan": 2}),
    ),
    kinds={
        "plan": "llm",
        "work": "regular",
        "work/model": "llm",
        "work/tools": "dynamic",
        "replan": "llm",
    },
    outcome=lambda output: output["answer"],
    planned={"work/tools": "work/model"},
    loops=loops({"work", "replan"}, {"work/model", "work/tools"}),
)

FIXTURES = (TRADING, ERRANDS)
