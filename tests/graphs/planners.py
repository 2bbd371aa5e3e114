"""Plans that are carried out: step by step with replanning, and as tasks that depend on each other."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

from langchain.agents import create_agent
from langchain_core.prompts import ChatPromptTemplate
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from pydantic import BaseModel, Field

from graphs.fixture import Fixture, Run, loops
from graphs.scripted import ScriptedModel, uses

# -- plan and execute: the executor is an agent that a function calls ----------------------


class Work(TypedDict, total=False):
    goal: str
    plan: list[str]
    done: Annotated[list[str], operator.add]
    answer: str


class Steps(BaseModel):
    """What is still to do; an answer if there is nothing left."""

    steps: list[str]
    answer: str = ""


strategist = ScriptedModel(
    script={
        ("Plan: tea",): Steps(steps=["boil"]),
        ("Plan: cake",): Steps(steps=["mix", "bake"]),
        ("Plan: wine",): Steps(steps=["press"]),
        ("Replan: tea", "boiled"): Steps(steps=[], answer="tea"),
        ("Replan: cake", "mixed"): Steps(steps=["bake"]),
        ("Replan: cake", "mixed", "baked"): Steps(steps=[], answer="cake"),
        ("Replan: wine", "pressed"): Steps(steps=["wait"]),
        ("Replan: wine", "pressed", "waited"): Steps(steps=["wait more"]),
        ("Replan: wine", "pressed", "waited", "waited more"): Steps(steps=[], answer="wine"),
    }
)


def kitchen(action: str) -> str:
    """Do something in the kitchen."""
    return f"{action} over"


hands = ScriptedModel(
    script={
        ("boil",): uses("kitchen", action="boil"),
        ("boil over",): "boiled",
        ("mix",): [uses("kitchen", action="mix"), uses("kitchen", action="stir")],
        ("mix over", "stir over"): "mixed",
        ("bake",): uses("kitchen", action="bake"),
        ("bake over",): "baked",
        ("press",): uses("kitchen", action="press"),
        ("press over",): "pressed",
        ("wait",): "waited",
        ("wait more",): "waited more",
    }
)
planner = ChatPromptTemplate.from_template("Plan: {goal}") | strategist.with_structured_output(Steps)
replanner = ChatPromptTemplate.from_template("Replan: {goal}. Done: {done}") | (
    strategist.with_structured_output(Steps)
)


def build_plan_and_execute() -> Any:
    executor = create_agent(hands, [kitchen], system_prompt="You cook.")

    def plan(state: Work) -> Work:
        return {"plan": planner.invoke({"goal": state["goal"]}).steps}

    def execute(state: Work) -> Work:
        step = state["plan"][0]
        finished = executor.invoke({"messages": [("user", f"Do this: {step}")]})
        return {"done": [finished["messages"][-1].text], "plan": state["plan"][1:]}

    def replan(state: Work) -> Work:
        steps = replanner.invoke({"goal": state["goal"], "done": ", ".join(state["done"])})
        return {"plan": steps.steps, "answer": steps.answer}

    def finished(state: Work) -> str:
        return END if state["answer"] else "execute"

    builder = StateGraph(Work)
    builder.add_node("plan", plan)
    builder.add_node("execute", execute)
    builder.add_node("replan", replan)
    builder.add_edge(START, "plan")
    builder.add_edge("plan", "execute")
    builder.add_edge("execute", "replan")
    builder.add_conditional_edges("replan", finished, ["execute", END])
    return builder.compile()


PLAN_AND_EXECUTE = Fixture(
    name="plan_and_execute",
    build=build_plan_and_execute,
    runs=(
        Run("one step", {"goal": "tea"}, "tea", calls=4, visits={"execute": 1}),
        Run("two steps", {"goal": "cake"}, "cake", calls=7, visits={"execute": 2, "execute/tools": 3}),
        Run("the plan grows", {"goal": "wine"}, "wine", calls=8, visits={"execute": 3, "replan": 3}),
    ),
    kinds={
        "plan": "llm",
        "execute": "regular",
        "execute/model": "llm",
        "execute/tools": "dynamic",
        "replan": "llm",
    },
    outcome=lambda output: output["answer"],
    planned={"execute/tools": "execute/model"},
    loops=loops({"execute", "replan"}, {"execute/model", "execute/tools"}),
)

# -- a compiler of tool calls: tasks wait for those they depend on -------------------------


class Task(BaseModel):
    """One tool call; it waits for the tasks whose numbers are in `after`."""

    number: int
    tool: str
    after: list[int] = Field(default_factory=list)


class Tasks(BaseModel):
    """Tool calls in a partial order."""

    tasks: list[Task]


class Decision(BaseModel):
    """An answer, or what to plan for next."""

    answer: str = ""
    again: str = ""


class Board(TypedDict, total=False):
    question: str
    tasks: list[Task]
    results: Annotated[dict[int, str], operator.or_]
    answer: str


def _one(number: int, tool: str, *after: int) -> Task:
    return Task(number=number, tool=tool, after=list(after))


class Compiler:
    """The nodes are methods, the models are made once."""

    def __init__(self, llm: ScriptedModel) -> None:
        self.planner = llm.with_structured_output(Tasks)
        self.joiner = llm.with_structured_output(Decision)

    def plan(self, state: Board) -> Board:
        return {"tasks": self.planner.invoke(f"Plan for: {state['question']}").tasks}

    def dispatch(self, state: Board) -> Board:
        return {}

    def ready(self, state: Board) -> list[Send] | str:
        results = state.get("results", {})
        waiting = [task for task in state["tasks"] if task.number not in results]
        free = [task for task in waiting if all(other in results for other in task.after)]
        return [Send("run_tool", task) for task in free] or "join"

    def run_tool(self, task: Task) -> Board:
        return {"results": {task.number: f"{task.tool} done"}}

    def join(self, state: Board) -> Board:
        told = "; ".join(state.get("results", {}).values())
        decision = self.joiner.invoke(f"Judge for: {state['question']}. {told}")
        return {"answer": decision.answer, "question": decision.again or state["question"]}

    def build(self) -> Any:
        builder = StateGraph(Board)
        builder.add_node("plan", self.plan)
        builder.add_node("dispatch", self.dispatch)
        builder.add_node("run_tool", self.run_tool)
        builder.add_node("join", self.join)
        builder.add_edge(START, "plan")
        builder.add_edge("plan", "dispatch")
        builder.add_conditional_edges("dispatch", self.ready, ["run_tool", "join"])
        builder.add_edge("run_tool", "dispatch")
        builder.add_conditional_edges("join", lambda state: END if state["answer"] else "plan", ["plan", END])
        return builder.compile()


compiler_model = ScriptedModel(
    script={
        ("Plan for: nothing",): Tasks(tasks=[]),
        ("Judge for: nothing",): Decision(answer="nothing"),
        ("Plan for: both",): Tasks(tasks=[_one(1, "left"), _one(2, "right")]),
        ("Judge for: both", "left done", "right done"): Decision(answer="both"),
        ("Plan for: chain",): Tasks(tasks=[_one(1, "dig"), _one(2, "sow", 1), _one(3, "reap", 1, 2)]),
        ("Judge for: chain", "reap done"): Decision(answer="harvest"),
        ("Plan for: fog",): Tasks(tasks=[_one(1, "look")]),
        ("Judge for: fog", "look done"): Decision(again="clear fog"),
        ("Plan for: clear fog",): Tasks(tasks=[_one(2, "wait"), _one(3, "blow"), _one(4, "look", 2, 3)]),
        ("Judge for: clear fog", "wait done", "blow done"): Decision(answer="clear"),
    }
)

LLM_COMPILER = Fixture(
    name="llm_compiler",
    build=lambda: Compiler(compiler_model).build(),
    runs=(
        Run("no task", {"question": "nothing"}, "nothing", calls=2, visits={"run_tool": 0}),
        Run("two at once", {"question": "both"}, "both", calls=2, visits={"run_tool": 2, "dispatch": 2}),
        Run("one after another", {"question": "chain"}, "harvest", 2, visits={"run_tool": 3, "dispatch": 4}),
        Run("planned again", {"question": "fog"}, "clear", calls=4, visits={"plan": 2, "run_tool": 4}),
    ),
    kinds={"plan": "llm", "dispatch": "regular", "run_tool": "dynamic", "join": "llm"},
    outcome=lambda output: output["answer"],
    planned={"run_tool": "plan"},
    loops=loops({"plan", "dispatch", "run_tool", "join"}),
)

FIXTURES = (PLAN_AND_EXECUTE, LLM_COMPILER)
