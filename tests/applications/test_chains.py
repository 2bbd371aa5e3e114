"""The two that go in circles: generated code is run within limits and corrected, the agent finds answers."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from applications.capable import CapableModel, calls, unreadable
from langchain_core.messages import AIMessage


@pytest.fixture(scope="module")
def coding():
    import code_generation

    return code_generation


@pytest.fixture(scope="module")
def searching():
    import web_search

    return web_search


@pytest.fixture(scope="module")
def sandbox():
    import sandbox

    return sandbox


def run(module, given, spoil=None, **settings):
    model = CapableModel(spoil=spoil)
    return asyncio.run(module.build(model, **settings).ainvoke(given)), model


@pytest.mark.parametrize("at", range(4))
def test_code_passes_after_an_error(coding, at):
    """The first attempt fails its tests, its error goes into the second prompt, the second passes."""
    output, model = run(coding, coding.inputs()[at])
    assert (output["passed"], output["attempts"], output["fault"]) == (True, 2, "")
    first, second = model.prompts
    assert "failed" not in first
    assert "Error" in second


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("", "NameError"),
        ("I cannot do that, sorry.", "SyntaxError"),
        ("```python\nexit()\n```", "it ended before its tests did"),
        ("```python\ndef median(numbers): return 1\n", "AssertionError"),
        ("```\nprint('\ud800')\n```", "Error"),
        ("```python\nx = '\0'\n```", "Error"),
    ],
)
def test_attempts_are_limited(coding, answer, fault):
    """A model that never gets it right is asked five times; the last error is told."""
    output, model = run(coding, coding.inputs()[0], lambda *_: AIMessage(answer))
    assert (output["passed"], output["attempts"]) == (False, coding.ATTEMPTS)
    assert fault in output["fault"]
    assert len(model.prompts) == coding.ATTEMPTS


@pytest.mark.parametrize(
    ("program", "fault"),
    [
        ("while True: pass", "CPU time"),
        ("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", "CPU time"),
        ("import signal\nsignal.pause()", "it ran for 1 seconds"),
        ("hog = bytearray(1 << 30)", "MemoryError"),
        ("hog = []\nwhile True: hog.append(bytes(1 << 20))", "MemoryError"),
        ("while True: print('x' * 1000)", "File too large"),
        ("import resource as r\nr.setrlimit(r.RLIMIT_AS, (1 << 40, 1 << 40))", "ValueError"),
        ("import os\nos.kill(os.getpid(), 11)", "status -11"),
        ("raise SystemExit(3)", "status 3"),
        ("assert 1 == 2, 'no'", "AssertionError: no"),
        ("input()", "EOFError"),
    ],
)
def test_limits_stop_what_does_not_stop(sandbox, program, fault):
    """Endless loops, waits, memory hogs and floods of output end soon, and the fault says which it was."""
    limits = sandbox.Limits(cpu_s=1, wall_s=1 if "pause" in program else 20)
    began = time.monotonic()
    outcome = sandbox.run_python(program, limits)
    assert fault in outcome.fault, outcome
    assert not outcome.passed
    assert len(outcome.output) <= limits.output_bytes
    assert time.monotonic() - began < 15


def test_what_cannot_be_printed_is_printed_as_it_can(sandbox):
    """Whatever the surroundings say of encodings."""
    outcome = sandbox.run_python("print('\\u00fc', chr(0xd800))")
    assert (outcome.passed, outcome.output) == (True, "\u00fc \\ud800\n")


def test_what_it_started_ends_with_it(sandbox, tmp_path):
    """A child that the program leaves behind is stopped, too; nothing but its output is left."""
    pid = tmp_path / "pid"
    program = (
        "import os, signal, sys\n"
        "try:\n    child = os.fork()\n"
        "except OSError:\n    sys.exit()\n"  # not root: it may start nothing in the first place
        f"if not child:\n    signal.pause()\nopen({str(pid)!r}, 'w').write(str(child))"
    )
    assert sandbox.run_python(program).passed
    if pid.exists():
        status = Path(f"/proc/{pid.read_text()}/stat")
        patience_s = time.monotonic() + 20
        while time.monotonic() < patience_s:
            try:
                if status.read_text().rpartition(")")[2].split()[0] == "Z":
                    break
            except OSError:
                break
        else:
            pytest.fail("the child is still running")


def test_an_endless_loop_is_told_to_the_model(coding, sandbox):
    """The graph survives it, and the next attempt is told."""

    def spoil(prompt, answer):
        return None if "failed" in prompt else "```python\nwhile True: pass\n```"

    output, model = run(coding, coding.inputs()[0], spoil, limits=sandbox.Limits(cpu_s=1))
    assert (output["passed"], output["attempts"]) == (True, 2)
    assert "stopped: it used 1 seconds of CPU time" in model.prompts[1]


@pytest.mark.parametrize(
    ("at", "answer", "steps"),
    [(0, "Karsund", 3), (1, "55 minutes", 4), (2, "Tomas Quill", 3), (3, "green", 2)],
)
def test_the_agent_finds_the_answer(searching, at, answer, steps):
    """It stands in the pages that its steps lead to."""
    output, model = run(searching, searching.inputs()[at])
    assert searching.shown(output) == f"It is {answer}."
    assert len(model.prompts) == steps


@pytest.mark.parametrize(
    "bad",
    [
        AIMessage(""),
        unreadable("search"),
        calls("browse", url="x"),
        calls("search", wrong=1),
        calls("read_page", title="Atlantis"),
        calls("search", query="..."),
    ],
    ids=["empty", "not JSON", "no such tool", "wrong argument", "no such page", "nothing to search"],
)
def test_the_agent_survives_a_bad_step(searching, bad):
    """A step that makes no sense is told, and the next one goes on from there."""

    first = iter([bad])
    output, model = run(searching, searching.inputs()[0], lambda *_: next(first, None))
    assert searching.shown(output) == "It is Karsund."
    assert len(model.prompts) == 4


def test_an_agent_without_end_is_stopped(searching):
    """One that only ever searches has a limited number of calls."""
    output, model = run(searching, searching.inputs()[0], lambda *_: calls("search", query="more"))
    assert len(model.prompts) == searching.MODEL_CALLS
    assert "limit" in searching.shown(output)


def test_search_ranks_by_rare_words():
    """The page that a question is about comes first; words that no page has find nothing."""
    from library import best, pages

    assert best("Who was the engineer Oda Brandt?", pages(), 3)[0] == "Oda Brandt"
    assert best("monastery manuscripts", pages(), 1) == ["Little Sorrel"]
    assert best("xylophone", pages(), 3) == []
