"""The two that plan: tools run in the order of their dependencies, side by side where they can, and again."""

from __future__ import annotations

import asyncio

import pytest
from applications.capable import CapableModel, call, calls, task, unreadable
from langchain_core.messages import AIMessage


@pytest.fixture(scope="module")
def automation():
    import task_automation

    return task_automation


@pytest.fixture(scope="module")
def compiler():
    import llm_compiler

    return llm_compiler


def run(module, given, spoil=None):
    """The output, the model, and the numbers of the tools that ran in each superstep."""
    model = CapableModel(spoil=spoil)

    async def all_of_it():
        output, steps = None, {}
        async for mode, part in module.build(model).astream(given, stream_mode=["values", "debug"]):
            if mode == "values":
                output = part
            elif part["type"] == "task" and part["payload"]["name"] == "run_tool":
                first = part["payload"]["input"][0]
                steps.setdefault(part["step"], set()).add(first.get("id") or first["number"])
        return output, [steps[step] for step in sorted(steps)]

    output, steps = asyncio.run(all_of_it())
    return output, model, steps


@pytest.mark.parametrize(
    ("at", "answer", "steps"),
    [
        (0, "total: 60; average: 20; join: Anna, Bert, Carla", [{1, 4}, {2, 3, 5}]),
        (1, "capitals: OLD FERRIES NEVER SAIL ON SUNDAYS; count: 6", [{1, 2}, {3}]),
        (2, "largest: 112; join: Tolby, Vell, Ash", [{1, 3}, {2, 4}]),
    ],
)
def test_tasks_run_in_order_and_side_by_side(automation, at, answer, steps):
    """A task runs in the first round in which all that it needs is there; the answer has all results."""
    output, model, ran = run(automation, automation.inputs()[at])
    assert (output["answer"], ran) == (answer, steps)
    assert len(model.prompts) == 2


BAD_PLANS = {
    "not JSON": (unreadable("Plan"), "not JSON"),
    "text": (AIMessage("First I would count."), "Plan was not called"),
    "no such schema": (calls("Dream", tasks=[]), "Dream"),
    "empty": (AIMessage(""), "Plan was not called"),
    "no tasks": (calls("Plan", tasks=[]), "at least 1 item"),
    "no such tool": (calls("Plan", tasks=[task(1, "dream", "x")]), "find_numbers"),
    "another shape": (calls("Plan", steps="count"), "tasks"),
    "a circle": (calls("Plan", tasks=[task(1, "total", 2), task(2, "find_numbers", 1)]), "needs task 2"),
    "itself": (calls("Plan", tasks=[task(1, "total", 1)]), "task 1 needs task 1"),
    "nowhere": (calls("Plan", tasks=[task(1, "capitals", 9)]), "task 1 needs task 9"),
    "twice": (calls("Plan", tasks=[task(1, "capitals", "x")] * 2), "two tasks 1"),
    "wrong type": (
        calls("Plan", tasks=[task(1, "capitals", "x"), task(2, "total", 1)]),
        "total takes numbers, not text",
    ),
}


@pytest.mark.parametrize("kind", BAD_PLANS)
def test_a_bad_plan_is_made_again(automation, kind):
    """What is wrong with it goes into the next prompt; nothing of it was run."""
    plan, fault = BAD_PLANS[kind]

    def spoil(prompt, answer):
        return plan if prompt.startswith("Plan") and "Your last plan" not in prompt else None

    output, model, ran = run(automation, automation.inputs()[0], spoil)
    assert fault in model.asked("Plan")[1]
    assert output["answer"].startswith("total: 60")
    assert sum(map(len, ran)) == 5


@pytest.mark.parametrize("kind", BAD_PLANS)
def test_without_a_plan_there_is_an_answer(automation, kind):
    """After three bad plans no tool is run, and the answer is asked for all the same."""
    plan, _ = BAD_PLANS[kind]
    output, model, ran = run(
        automation, automation.inputs()[0], lambda prompt, _: plan if prompt.startswith("Plan") else None
    )
    assert (output["answer"], ran) == ("That cannot be done.", [])
    assert len(model.asked("Plan")) == automation.ATTEMPTS


def test_a_tool_that_fails_is_told(automation):
    """Its failure is a result, and so is that of the tasks behind it; the others run on."""
    plan = [
        task(1, "find_numbers", "none"),
        task(2, "largest", 1),
        task(3, "capitals", "on"),
        {"id": 4, "tool": "find_names", "input": "Ada", "after": [2]},
    ]
    spoil = lambda prompt, _: calls("Plan", tasks=plan) if prompt.startswith("Plan") else None  # noqa: E731
    output, _, ran = run(automation, automation.inputs()[0], spoil)
    assert ran == [{1, 3}, {2}, {4}]
    assert output["results"][2].startswith("failed:")
    assert (output["results"][3], output["results"][4]) == ("ON", "['Ada']")


@pytest.mark.parametrize(
    ("values", "result"), [([10250.75, 1999.5], "12250.25"), ([1200000.0, 34567.0], "1234567")]
)
def test_what_a_tool_computed_is_told_in_full(automation, values, result):
    task = {"id": 1, "tool": "total", "input": values}
    assert asyncio.run(automation.run_tool((task, values)))["results"] == {1: result}


def test_what_follows_a_failure_fails(automation):
    """A task whose input never came says whose it was."""
    plan = [
        task(1, "find_names", "none"),
        task(2, "join", 1),
        task(3, "find_numbers", 2),
        task(4, "largest", 3),
    ]
    plan += [{"id": 5, "tool": "capitals", "input": "ok", "after": [4]}]
    spoil = lambda prompt, _: calls("Plan", tasks=plan) if prompt.startswith("Plan") else None  # noqa: E731
    output, _, ran = run(automation, automation.inputs()[0], spoil)
    assert ran == [{1}, {2}, {3}, {4}, {5}]
    assert output["results"][4].startswith("failed:")
    assert output["results"][5] == "OK"


@pytest.mark.parametrize(
    ("at", "answer", "steps"),
    [
        (0, "3.027027027", [{1, 2}, {3}]),
        (1, "834800", [{1, 2, 3, 4}, {5, 6}, {7}]),
        (3, "12.59079903", [{1, 2}, {3}]),
    ],
)
def test_calls_run_as_their_references_allow(compiler, at, answer, steps):
    """One plan, one joiner, and the calls side by side."""
    output, model, ran = run(compiler, compiler.inputs()[at])
    assert (output["answer"], ran) == (f"It is {answer}.", steps)
    assert len(model.prompts) == 2


def test_it_plans_again_and_then_answers(compiler):
    """The table has no church but a cathedral: the second plan knows, and uses what the first one found."""
    output, model, ran = run(compiler, compiler.inputs()[2])
    assert output["answer"] == "It is 37."
    assert ran == [{1, 2}, {3}, {4}, {5}]
    assert output["rounds"] == 2
    _, again = model.asked("Plan")
    assert "$2 = look_up(height of Vell Light) = 37" in again
    assert "it has height of Tolby Cathedral" in again
    assert "$3 = calculate($1 - $2) = failed: there is no $1" in again
    assert "Numbers go on from 4" in again


BAD_CALLS = {
    "not JSON": unreadable("Calls"),
    "text": AIMessage("Let me think."),
    "empty": AIMessage(""),
    "none": calls("Calls", calls=[]),
    "no such tool": calls("Calls", calls=[call(1, "guess", "x")]),
    "a circle": calls("Calls", calls=[call(1, "calculate", "$2"), call(2, "calculate", "$1")]),
    "nowhere": calls("Calls", calls=[call(1, "calculate", "$40 + 1")]),
    "twice": calls("Calls", calls=[call(1, "calculate", "1")] * 2),
}


@pytest.mark.parametrize("kind", BAD_CALLS)
def test_bad_calls_are_planned_again(compiler, kind):
    """What is wrong with them is in the log that the next plan sees."""

    def spoil(prompt, answer):
        return BAD_CALLS[kind] if prompt.startswith("Plan") and "could not be used" not in prompt else None

    output, _, _ = run(compiler, compiler.inputs()[0], spoil)
    assert (output["answer"], output["rounds"]) == ("It is 3.027027027.", 2)


@pytest.mark.parametrize("kind", [*BAD_CALLS, "only the joiner"])
@pytest.mark.parametrize("verdict", [unreadable("Verdict"), AIMessage(""), AIMessage("Who knows?")])
def test_the_joiner_ends_it(compiler, kind, verdict):
    """A model that makes no sense ends after three rounds, with what it said last if it said anything."""

    def spoil(prompt, answer):
        return verdict if prompt.startswith("Decide") else BAD_CALLS.get(kind)

    output, model, _ = run(compiler, compiler.inputs()[0], spoil)
    assert output["answer"] == verdict.text or output["answer"] == "No answer was found."
    assert output["rounds"] == compiler.ROUNDS
    assert ["no time left" in prompt for prompt in model.asked("Decide")] == [False, False, True]


@pytest.mark.parametrize(
    ("expression", "result"),
    [("1 + 2 * 3", "7"), (" (1 - 4) / 2", "-1.5"), ("-(2)", "-2"), ("1e3 / 8", "125"), ("0.1 + 0.2", "0.3")],
)
def test_arithmetic(compiler, expression, result):
    assert compiler.calculate(expression) == result


NO_ARITHMETIC = [
    "",
    "1 +",
    "1 / 0",
    "2 ** 9",
    "x",
    "f(1)",
    "__import__('os')",
    "'a' + 'b'",
    "[1]",
    "True or 1",
]
NO_ARITHMETIC += ["(" * 100, "(" * 500, "1" + "+1" * 50_000, "1e999 * 1j", "\0", "9" * 5000]


@pytest.mark.parametrize("expression", NO_ARITHMETIC)
def test_what_is_no_arithmetic_is_refused(compiler, expression):
    """Refused by a ValueError, which reaches the joiner as a result."""
    with pytest.raises(ValueError):
        compiler.calculate(expression)
