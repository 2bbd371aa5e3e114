"""The other shapes of records, from lines made up here in the same fields, by path alone."""

from __future__ import annotations

import pytest

from llmsched_langgraph._fields import Field
from llmsched_langgraph.errors import InvalidDataError
from llmsched_langgraph.traces import Derived, read_jobs
from llmsched_langgraph.traces.loaders import SHAPES

ACR = {
    "id": "run/issue-1",
    "app": "autocoderover",
    "outcome": "patch",
    "jct": 20.5,
    "in_total": 100,
    "out_total": 50,
    "n_llm": 2,
    "steps": [
        ["setup", "tool", None, None, 4.0],
        ["search", "llm", 60, 30, 9.0],
        ["search_tool", "tool", None, None, 0.0],
        ["write_patch", "llm", 40, 20, None],
    ],
}
SWE = {
    "id": "swe/1",
    "app": "swe_agent",
    "exit": "submitted",
    "tokens_sent": 900,
    "tokens_recv": 30,
    "api_calls": 3,
    "steps": [[10, 100], [20, 5]],
}
CHATDEV = {
    "id": "game",
    "app": "chatdev",
    "task_tok": 13,
    "n_llm": 2,
    "jct": 60.0,
    "steps": [[None, None, 170, 200, 7.0], ["Coding", 0, 900, 1400, None]],
}
REFLEXION = {
    "id": "r/1",
    "app": "code_reflexion",
    "run": "r",
    "prompt": 100,
    "impl": [40, 50],
    "refl": [30],
    "fb": [5, 6],
    "sol": 50,
    "solved": True,
}
CLAUDE_COLUMNS = "t,in,out,new_blocks64,api_s,think_s,ttft_s,type,stop,has_tool_result"
CLAUDE = {"id": "s1", "app": "claude_code", "tool_tok": 10, "sys_tok": 20, "cols": CLAUDE_COLUMNS}
TAU = {
    "id": "tau/1",
    "app": "tau_bench",
    "reward": 1.0,
    "sys_tok": 100,
    "steps": [
        ["user_sim", None, 12, None],
        ["agent", 110, 20, ["find"]],
        ["tool", None, 33, "find"],
        ["agent", 170, 40, None],
        ["user_sim", None, 9, None],
        ["agent", 220, 50, None],
        ["user_sim", None, 3, None],
    ],
}
REACT = {
    "id": "q1",
    "app": "react_hotpotqa",
    "run": "fireact_gpt",
    "trial": 1,
    "q_tok": 24,
    "n": 2,
    "steps": [[30, 7, 200, "Search"], [20, 5, 4, "Finish"]],
}
PLAN = {
    "id": "p1",
    "set": "gold",
    "req_tok": 30,
    "n": 3,
    "links": 2,
    "nodes": ["b", "a", "c"],
    "edges": [["a", "b"], ["b", "c"]],
    "plan_tok": 90,
    "step_tok": [1, 2, 3],
}
GOT = {
    "id": "g1",
    "app": "got_fp",
    "method": "got",
    "model": "m",
    "complete": True,
    "jct": 30.5,
    "cols": "op_index,op_type,in,out,dur_s,reasoning_out,cached_in",
    "steps": [
        [0, "generate", 100, 10, 1.5, None, 0],
        [9, "generate", 200, 20, 2.5, None, 0],
        [9, "generate", 210, 30, 3.5, None, 8],
        [1, "score", 50, 3, 0.5, None, 0],
    ],
}
ARIES = {
    "id": "m/1",
    "app": "got_sorting32",
    "model": "m",
    "method": "llm",
    "n": 3,
    "steps": [["split", 1, None, 75, [48, 50]], ["score", 2, None, 0, []], ["Refine", 1, None, 0, []]],
}
TOT = {
    "id": "t/1",
    "app": "tot_game24",
    "model": "m",
    "tin": 1000,
    "tout": 100,
    "steps": [
        {"in_ys": 1, "new": 3, "new_tok": [17, 18, 19], "values": [1, 2, 3], "kept": 2},
        {"in_ys": 2, "new": 4, "new_tok": [30, 31, 32, 33], "values": [1, 2, 3, 4], "kept": 2},
    ],
}
EVERY = (ACR, SWE, CHATDEV, REFLEXION, {**CLAUDE, "calls": []}, TAU, REACT, PLAN, GOT, ARIES, TOT)


@pytest.fixture
def load(write):
    """The jobs in a file of these lines."""
    return lambda *lines: list(read_jobs(write("any-name.jsonl.gz", *lines)))


def outline(job):
    """Stages as (name, what it depends on, each call's numbers)."""
    return [
        (
            stage.tool or stage.name,
            stage.deps,
            [(call.prompt_tokens, call.output_tokens, call.seconds) for call in stage.calls],
        )
        for stage in job.stages
    ]


def marks(job):
    return {call.derived for stage in job.stages for call in stage.calls}


def test_every_shape_is_told_from_every_other():
    """So that a path is all a user has to say."""
    for line in EVERY:
        node = Field(line)
        matching = [shape for shape in SHAPES if shape.matches(node)]
        assert matching == [SHAPES[EVERY.index(line)]]
    assert len(EVERY) == len(SHAPES)


def test_autocoderover_is_a_chain_of_steps_with_seconds(load):
    (job,) = load(ACR)
    assert (job.id, job.app, job.jct_s) == ("run/issue-1", "autocoderover", 20.5)
    assert [stage.kind for stage in job.stages] == ["tool", "llm", "tool", "llm"]
    assert outline(job) == [
        ("setup", (), [(None, None, 4.0)]),
        ("search", (0,), [(60, 30, 9.0)]),
        ("search_tool", (1,), [(None, None, 0.0)]),
        ("write_patch", (2,), [(40, 20, None)]),
    ]
    assert marks(job) == {Derived.NOTHING}


def test_swe_agent_shares_its_prompt_tokens_out(load):
    """Recorded is their sum over three requests; each step's call gets a third, marked."""
    (job,) = load(SWE)
    assert outline(job) == [
        ("act", (), [(300, 10, None)]),
        ("environment", (0,), [(None, None, None)]),
        ("act", (1,), [(300, 20, None)]),
        ("environment", (2,), [(None, None, None)]),
    ]
    assert job.stages[0].calls[0].derived == Derived.PROMPT
    (job,) = load({**SWE, "tokens_sent": None})
    assert job.stages[0].calls[0].prompt_tokens is None
    assert marks(job) == {Derived.NOTHING}


def test_chatdev_is_a_chain_of_phases_with_some_seconds(load):
    (job,) = load(CHATDEV)
    assert outline(job) == [("improve_task", (), [(170, 200, 7.0)]), ("Coding", (0,), [(900, 1400, None)])]
    assert job.jct_s == 60.0


def test_reflexion_goes_round_and_its_prompts_grow(load):
    """The problem, then also the first attempt and its feedback, then also the reflection."""
    (job,) = load(REFLEXION)
    assert outline(job) == [
        ("implement", (), [(100, 40, None)]),
        ("execute", (0,), [(None, None, None)]),
        ("reflect", (1,), [(145, 30, None)]),
        ("implement", (2,), [(175, 50, None)]),
        ("execute", (3,), [(None, None, None)]),
    ]
    assert job.stages[3].calls[0].derived == Derived.PROMPT


def test_reflexion_whose_attempts_were_not_kept_takes_the_solution_for_them(load):
    (job,) = load({**REFLEXION, "impl": [], "fb": [], "refl": [30, 30], "sol": 60})
    attempts = [stage.calls[0] for stage in job.stages if stage.name == "implement"]
    assert [call.output_tokens for call in attempts] == [60, 60, 60]
    assert [Derived.OUTPUT in call.derived for call in attempts] == [True, True, False]


def test_claude_code_makes_a_job_of_every_turn(load):
    """A turn runs from a message of the user to the next; the client's delay within it is its tools'."""
    calls = [
        [0.0, 100, 10, 1, 2.0, 0.0, None, "n", "tool_use", 0],
        [5.0, 120, 20, 1, 3.0, 3.0, None, "n", "end_turn", 1],
        [60.0, 150, 30, 1, 4.0, 52.0, 1.5, "s", "end_turn", 0],
    ]
    first, second = load({**CLAUDE, "calls": calls})
    assert (first.id, first.jct_s, second.id, second.jct_s) == ("s1/1", 8.0, "s1/2", 4.0)
    assert outline(first) == [
        ("respond", (), [(100, 10, 2.0)]),
        ("tools", (0,), [(None, None, 3.0)]),
        ("respond", (1,), [(120, 20, 3.0)]),
    ]
    assert first.critical_path_s == first.jct_s
    assert outline(second) == [("respond", (), [(150, 30, 4.0)])]


@pytest.mark.parametrize(("status", "waits"), [("completed", True), ("async_launched", False)])
def test_claude_codes_next_call_waits_for_a_sub_agent_that_completed(load, status, waits):
    """The tools beside it get what is left of the client's delay, marked as derived."""
    agent = {
        "sub": "Explore",
        "t": 16.0,
        "dur": 12.0,
        "status": status,
        "calls": [
            [0.0, 50, 5, 1, 1.0, 0.0, None, "n", "tool_use", 0],
            [3.0, 60, 6, 1, 9.0, 2.0, None, "n", "end_turn", 1],
        ],
    }
    calls = [
        [0.0, 100, 10, 1, 2.0, 0.0, None, "n", "tool_use", 0],
        agent,
        [20.0, 120, 20, 1, 3.0, 18.0, None, "n", "end_turn", 1],
    ]
    (job,) = load({**CLAUDE, "calls": calls})
    assert outline(job) == [
        ("respond", (), [(100, 10, 2.0)]),
        ("agent_respond", (0,), [(50, 5, 1.0)]),
        ("agent_tools", (1,), [(None, None, 2.0)]),
        ("agent_respond", (2,), [(60, 6, 9.0)]),
        ("tools", (0, 3) if waits else (0,), [(None, None, 6.0 if waits else 18.0)]),
        ("respond", (4,), [(120, 20, 3.0)]),
    ]
    assert (job.stages[4].calls[0].derived == Derived.SECONDS) == waits


def test_claude_code_leaves_out_turns_whose_bounds_are_not_recorded(load):
    """A request without an end makes its own turn and the start of the next uncertain."""

    def turn(at, stop="end_turn", seconds=2.0):
        return [at, 100, 10, 1, seconds, 0.0, None, "n", stop, 0]

    jobs = load({**CLAUDE, "calls": [turn(0), turn(10, "", None), turn(20), turn(30)]})
    assert [job.id for job in jobs] == ["s1/1", "s1/4"]


def test_claude_codes_delay_may_be_missing(load):
    calls = [
        [0.0, 100, 10, 1, 2.0, None, None, "n", "tool_use", 0],
        [5.0, 120, 20, 1, 3.0, None, None, "n", "end_turn", 1],
    ]
    (job,) = load({**CLAUDE, "calls": calls})
    assert outline(job)[1] == ("tools", (0,), [(None, None, None)])


def test_tau_bench_makes_a_job_of_every_turn(load):
    """The played user divides them and is in none."""
    first, second = load(TAU)
    assert (first.id, second.id) == ("tau/1/1", "tau/1/2")
    assert outline(first) == [
        ("respond", (), [(110, 20, None)]),
        ("find", (0,), [(None, None, None)]),
        ("respond", (1,), [(170, 40, None)]),
    ]
    assert outline(second) == [("respond", (), [(220, 50, None)])]


def test_react_thinks_and_uses_tools_in_turns(load):
    """The examples' 1,476 tokens begin the prompt; finishing runs no tool."""
    (job,) = load(REACT)
    assert outline(job) == [
        ("think", (), [(1500, 37, None)]),
        ("search", (0,), [(None, None, None)]),
        ("think", (1,), [(1737, 25, None)]),
    ]
    assert job.stages[0].calls[0].derived == Derived.PROMPT
    assert job.jct_s is None


def test_reacts_job_time_is_kept_where_it_was_measured(load):
    (job,) = load({**REACT, "app": "react_fever", "jct": 2.5})
    assert job.jct_s == 2.5
    assert job.stages[0].calls[0].prompt_tokens == 794 + 24


@pytest.mark.parametrize("run", ["react_base", "react_reflexion5"])
def test_reflexions_react_agent_makes_two_calls_a_step(load, run):
    (job,) = load({**REACT, "run": run, "steps": [[30, 7, 200, "Lookup"]]})
    assert outline(job) == [
        ("think", (), [(1500, 30, None)]),
        ("act", (0,), [(1530, 7, None)]),
        ("lookup", (1,), [(None, None, None)]),
    ]


def test_plans_are_put_in_an_order_in_which_they_can_run(load):
    """The plan lists b before a, which b needs; the stages do not."""
    (job,) = load(PLAN)
    assert job.app == "plan_gold"
    assert outline(job) == [
        ("plan", (), [(30, 90, None)]),
        ("a", (0,), [(None, None, None)]),
        ("b", (1,), [(None, None, None)]),
        ("c", (2,), [(None, None, None)]),
    ]


@pytest.mark.parametrize(
    ("nodes", "edges", "deps"),
    [
        (["a", "b"], [], [("a", (0,)), ("b", (0,))]),
        (["a", "b", "c"], [["a", "c"], ["b", "c"]], [("a", (0,)), ("b", (0,)), ("c", (1, 2))]),
        (["a", "b"], [["a", "z"], ["a", None], ["a", ["b"]]], [("a", (0,)), ("b", (0,))]),
        (["a", "b"], [["a", "b"], ["b", "a"]], [("a", (0,)), ("b", (1,))]),
        (["a"], [["a", "a"]], [("a", (0,))]),
        (["a", "b"], [["b", "b"], ["b", "a"]], [("b", (0,)), ("a", (1,))]),
        (["a", "b", "a"], [["a", "b"], ["b", "a"]], [("a", (0,)), ("b", (1,)), ("a", (2,))]),
    ],
)
def test_what_models_plan_becomes_a_graph_without_circles(load, nodes, edges, deps):
    (job,) = load({**PLAN, "nodes": nodes, "edges": edges})
    assert [(stage.tool, stage.deps) for stage in job.stages[1:]] == deps


def test_graph_of_thoughts_puts_an_operations_requests_into_one_stage(load):
    (job,) = load(GOT)
    assert job.app == "got_fp_got"
    assert outline(job) == [
        ("generate", (), [(100, 10, 1.5)]),
        ("generate", (0,), [(200, 20, 2.5), (210, 30, 3.5)]),
        ("score", (1,), [(50, 3, 0.5)]),
    ]


def test_aries_decides_and_acts(load):
    """A deciding call only where the log has one; scoring, and what made nothing, are tools."""
    (job,) = load(ARIES)
    assert outline(job) == [
        ("decide", (), [(None, 75, None)]),
        ("split", (0,), [(None, 48, None), (None, 50, None)]),
        ("score", (1,), [(None, None, None)]),
        ("refine", (2,), [(None, None, None)]),
    ]


def test_tree_of_thoughts_shares_its_tokens_out(load):
    """Game of 24: ten requests in all, of 100 and 10 tokens each."""
    (job,) = load(TOT)
    one = (100, 10, None)
    assert outline(job) == [
        ("propose", (), [one]),
        ("evaluate", (0,), [one] * 3),
        ("propose", (1,), [one] * 2),
        ("evaluate", (2,), [one] * 4),
    ]
    assert marks(job) == {Derived.PROMPT | Derived.OUTPUT}


def test_creative_writings_samples_have_their_own_lengths(load):
    """Half of the prompts are the samples'; the votes share what is left of the answers."""
    step = {"in_ys": 1, "new": 2, "new_tok": [200, 300], "values": [0, 1], "kept": 1}
    (job,) = load({**TOT, "app": "tot_text", "tin": 400, "tout": 600, "steps": [step]})
    assert outline(job) == [
        ("sample", (), [(100, 200, None), (100, 300, None)]),
        ("vote", (0,), [(100, 50, None)] * 2),
    ]
    assert job.stages[0].calls[0].derived == Derived.PROMPT


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({**ACR, "steps": [["setup", "tool", None, None]]}, r"steps\[0\]: must be a list of 5"),
        (
            {**ACR, "steps": [["setup", "gpu", 1, 1, 1]]},
            r"steps\[0\]\[1\]: must be 'llm' or 'tool', not 'gpu'",
        ),
        ({**ACR, "steps": [["s", "llm", None, 1, 1]]}, r"steps\[0\]\[2\]: must be an integer"),
        ({**SWE, "steps": 5}, "steps: must be a list, not 5"),
        ({**CHATDEV, "steps": [["Coding", 0, 1, -1, 1]]}, r"steps\[0\]\[3\]: must be an integer"),
        ({**REFLEXION, "refl": None}, "refl: must be a list, not None"),
        ({**REFLEXION, "sol": "x"}, "sol: must be an integer"),
        ({**CLAUDE, "calls": [[0, 1, 1]]}, r"calls\[0\]: must be a list of 10"),
        ({**CLAUDE, "calls": [[0, 1, 1, 0, -1, 0, 0, "n", "", 0]]}, r"calls\[0\]\[4\]: must be a number"),
        (
            {**TAU, "steps": [["robot", None, 1, None]]},
            r"steps\[0\]\[0\]: must be 'agent', 'tool' or 'user_sim'",
        ),
        ({**REACT, "steps": [[1, 2, 3, None]]}, r"steps\[0\]\[3\]: must be a string"),
        ({**REACT, "run": 3}, "run: must be a string"),
        ({**PLAN, "edges": [["a"]]}, r"edges\[0\]: must be a list of 2"),
        ({**GOT, "steps": [[0, "generate", 1, 2, "x", None, 0]]}, r"steps\[0\]\[4\]: must be a number"),
        ({**ARIES, "steps": [["split", 1, None, 0, 7]]}, r"steps\[0\]\[4\]: must be a list"),
        (
            {**TOT, "steps": [{"in_ys": 10**9, "new": 0, "new_tok": []}]},
            r"steps\[0\]\.in_ys: must be an integer, 0 to",
        ),
        ({**TOT, "steps": [{"new": 0}]}, r"steps\[0\]\.in_ys: is missing"),
    ],
)
def test_a_damaged_record_is_named_with_its_field(write, line, message):
    path = write("a.jsonl", line)
    with pytest.raises(InvalidDataError, match=message) as caught:
        list(read_jobs(path))
    assert str(caught.value).startswith(f"{path}: line 1: ")


def test_a_later_line_of_another_shape_is_refused(write):
    """A file has one shape, that of its first line."""
    path = write("a.jsonl", ACR, REACT)
    with pytest.raises(InvalidDataError, match=r"line 2: steps\[0\]: must be a list of 5"):
        list(read_jobs(path))
