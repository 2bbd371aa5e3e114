"""What plays random programs notices what is wrong with one, and what it draws is what it says."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from programs import __main__ as command
from programs.batches import Player
from programs.features import AVAILABLE, GO_AHEAD, SOUND, WRONG, Feature
from programs.finding import reduced
from programs.grammar.bounds import Caught, Interrupt, Pause
from programs.grammar.calls import Call
from programs.grammar.drawing import MAX_LINES, Drawn, draw
from programs.grammar.graphs import FanOut, Graph, Node, Side, Sketch, written
from programs.grammar.models import Chained, Leaf
from programs.grammar.page import Page, Statement, Unwritable
from programs.grammar.shrinking import shrink
from programs.grammar.spreading import Blocking, Gather, OwnLoop
from programs.judging import Verdict
from programs.stage.runs import Client, Run
from programs.stage.stage import Stage

pytestmark = pytest.mark.timeout(120)

PROGRAM = """\
import threading

from langgraph.graph import START, StateGraph
from llmsched_langgraph import testing
from programs.stage import *


def build(on):
    model = Plain(on=on)

    def node(state):
{body}

    return on.scheduled(StateGraph(State).add_node("node", node).add_edge(START, "node").compile())


CLIENTS = (Client("thread", (Run(),)),)
PROGRAM = Program(build=build, slots=1, policy="fcfs", clients=CLIENTS, healthy={healthy})
"""

WRONGS = {
    "an outcome that differs": ("outcome", 'return {"out": [str(on.scheduler is None)]}'),
    "another error": ("outcome", "raise KeyError if on.scheduler is None else ValueError"),
    "a slot that is kept": ("not idle", "on.leak = on.scheduler and on.slot().__enter__()"),
    "a request that goes on": ("not idle", "on.scheduler and on.meter.__enter__()"),
    "requests without slots": ("over the limit", "with on.meter, on.meter: pass"),
    "an error that nobody catches": (
        "fault",
        "on.scheduler and on.start_thread(testing.VirtualClock().advance, 'x', marked=False)",
    ),
    "a process that dies": ("crash", "on.scheduler and __import__('os')._exit(3)"),
    "a stand-still": ("stands still", "on.scheduler and threading.Event().wait()"),
    "a stand-still without a scheduler": ("bare", "on.scheduler or threading.Event().wait()"),
}
"""What a node does, and what is wrong with its program then."""


def source(*lines: str, healthy: bool = True) -> str:
    """A program whose node does this."""
    return PROGRAM.format(body="\n".join(f"        {line}" for line in lines), healthy=healthy)


@pytest.fixture(scope="module")
def player() -> Iterator[Player]:
    """A player that all tests share."""
    with Player(3.0) as playing:
        yield playing


@pytest.mark.parametrize("what", WRONGS)
def test_what_is_wrong_is_noticed(what: str, player: Player) -> None:
    """Each kind by itself."""
    kind, line = WRONGS[what]
    verdict = player.play(what, source(line))
    assert verdict.kind == kind, verdict.text
    assert verdict.text


def test_nothing_is_wrong(player: Player) -> None:
    """A program that is right is right; its calls are counted, bare and scheduled."""
    verdict = player.play("right", source('return {"out": [model.invoke("?").text]}'))
    assert (verdict.kind, verdict.calls) == ("", 2), verdict.text


GOES_AHEAD = (
    "import asyncio, contextvars",
    "def again():",
    "    with on.slot(): pass",
    "async def ask():",
    "    async with on.slot(): contextvars.Context().run(again)",
    "asyncio.run(ask())",
)
"""Takes the only slot, and then another one on the loop's thread, which cannot wait."""


@pytest.mark.parametrize("healthy", [True, False])
def test_a_call_that_goes_ahead(healthy: bool, player: Player) -> None:
    """It is wrong in a program without a reason for it alone."""
    verdict = player.play("ahead", source(*GOES_AHEAD, healthy=healthy))
    assert verdict.went_ahead == 1
    assert verdict.kind == ("went ahead" if healthy else "")


WAITS = (
    "import asyncio",
    "async def waits(): await asyncio.Event().wait()  # in a task",
    "async def main(): await asyncio.create_task(waits())",
    "on.scheduler and asyncio.run(main())  # in a thread",
)


def test_a_stand_still_tells_where(player: Player) -> None:
    """The stacks of threads and tasks are there, with the lines of the program."""
    told = player.play("waits", source(*WAITS)).text
    assert "# in a task" in told
    assert "# in a thread" in told
    assert "Scheduler fcfs" in told


def test_a_process_that_died_is_replaced(player: Player) -> None:
    """What comes after a program that fails is played."""
    assert player.play("dies", source("__import__('os')._exit(3)")).kind == "crash"
    assert not player.play("lives", source("pass")).kind


# -- what is drawn -------------------------------------------------------------------------


def test_drawing_is_repeatable() -> None:
    """A seed and a number give the same program, whatever was drawn before."""
    first = [draw(5, number, SOUND).written for number in range(20)]
    assert [draw(5, number, SOUND).written for number in reversed(range(20))] == first[::-1]
    assert len({program.source for program in first}) == 20


def test_every_ingredient_is_drawn() -> None:
    """None is forgotten; programs stay small; they compile."""
    seen: set[Feature] = set()
    for number in range(400):
        program = draw(6, number, AVAILABLE).written
        seen |= program.features
        assert program.source.count("\n") <= MAX_LINES
        compile(program.source, "program", "exec")
    assert seen == AVAILABLE


@pytest.mark.parametrize("feature", sorted(AVAILABLE))
def test_an_ingredient_can_be_wanted(feature: Feature) -> None:
    """Then each program has it, and nothing else that is known to be wrong."""
    for number in range(3):
        features = draw(7, number, SOUND | {feature} | _needs(feature), {feature}).written.features
        assert feature in features
        assert features & WRONG.keys() <= {feature} | _needs(feature)


def _needs(feature: Feature) -> set[Feature]:
    """What an ingredient does not come without."""
    return {Feature.SYNC_ON_LOOP} if feature is Feature.FAN_OUT_ON_LOOP else set()


def test_what_cannot_be_drawn() -> None:
    """An ingredient that needs one that is not allowed."""
    with pytest.raises(ValueError, match="no program with fan-out-on-loop of fan-out-on-loop"):
        draw(8, 0, {Feature.FAN_OUT_ON_LOOP}, {Feature.FAN_OUT_ON_LOOP})


# -- what is written -----------------------------------------------------------------------


RUN = Run()


def sketch(
    *body: Statement, form: Any = "both", kind: Any = "loop", runs: tuple[Run, ...] = (RUN,)
) -> Sketch:
    """A program of one node."""
    return Sketch(Graph((Side((Node(body, form),)),)), 1, "fcfs", (Client(kind, runs),))


@pytest.mark.parametrize(
    "program",
    [
        sketch(Call(Leaf("AsyncOnly")), form="sync"),
        sketch(Call(Chained(Leaf("AsyncOnly"))), form="both"),
        sketch(Blocking((OwnLoop((Call(Leaf()),)),)), form="async"),
        sketch(Gather(((Interrupt(),),))),
        sketch(Call(Leaf()), form="async", kind="thread"),
        sketch(Call(Leaf()), kind="thread", runs=(Run(cut="cancelled"),)),
    ],
)
def test_what_makes_no_sense_is_not_written(program: Sketch) -> None:
    """Rather than failing when it is played."""
    with pytest.raises(Unwritable):
        written(program)


def test_both_forms_of_a_node_ask_the_same() -> None:
    """What comes of a run does not depend on whether it is synchronous."""
    program = sketch(Call(Leaf()), Gather(((Call(Leaf()),), (Call(Leaf()),))), Call(Leaf()))
    source = written(program).source
    prompts = [line.split('f"')[1].split('"')[0] for line in source.splitlines() if "invoke(" in line]
    assert prompts[:4] == prompts[4:]
    assert len(set(prompts)) == 4


def test_ingredients_that_let_calls_go_ahead() -> None:
    """A program without any is healthy, and says so."""
    for number in range(100):
        program = draw(9, number, AVAILABLE).written
        assert ("healthy=True" in program.source) == (not program.features & GO_AHEAD)


# -- what is simplified --------------------------------------------------------------------


@dataclass(frozen=True)
class Wrong(Statement):
    """An error that is another one with a scheduler."""

    def write(self, page: Page) -> None:
        """Write it."""
        page.line("raise (KeyError if on.scheduler is None else ValueError)")


BIG = Sketch(
    Graph(
        (
            Side((Node((Call(Leaf()),)),)),
            FanOut(
                Node((Pause(), Caught((Call(Leaf("Streaming", 3)), Wrong())), Call(Leaf())), "both", True)
            ),
        )
    ),
    3,
    "sjf",
    (Client("loop", (Run("stream"), Run())), Client("thread", (Run(),))),
)


def small(sketch: Sketch) -> bool:
    """Whether it is one node that does nothing else, run once."""
    (layer,), (client,) = sketch.graph.layers, sketch.clients
    nodes = (layer.node,) if isinstance(layer, FanOut) else layer.nodes
    return nodes == (Node((Wrong(),), "sync"),) and client.runs == (Run(),) and sketch.slots == 1


def test_simplifying_ends_with_what_fails() -> None:
    """Everything goes that the failure does not need, and nothing that it needs."""
    found, tried = shrink(BIG, lambda program: "raise" in program.source, until=float("inf"))
    assert small(found)
    assert tried < 200


def test_simplifying_ends_in_time() -> None:
    """What was found so far is kept."""
    assert shrink(BIG, lambda program: True, until=0.0) == (BIG, 0)


def test_a_failure_is_reduced_to_a_file_that_fails(player: Player) -> None:
    """The smallest program that fails in the same way, printed so that it can be played."""
    drawn = Drawn("test", BIG, written(BIG))
    verdict = player.play("test", drawn.written.source)
    failure = reduced(drawn, verdict, tries=1)
    assert small(failure.sketch)
    told = failure.told()
    assert "ValueError" in told
    assert player.play("again", told).kind == verdict.kind == "outcome"


def test_a_failure_that_does_not_come_again() -> None:
    """The program is told as it was drawn."""
    right = sketch(Call(Leaf()))
    failure = reduced(Drawn("test", right, written(right)), Verdict("outcome", "once"), tries=1)
    assert failure.smallest is None
    assert failure.program == written(right)
    assert "did not fail again" in failure.told()


# -- the command ---------------------------------------------------------------------------


def test_the_command_prints_what_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once it is simplified; then it stops."""
    drawn = Drawn("test", BIG, written(BIG))
    monkeypatch.setattr(command, "draw", lambda *_: drawn)
    assert command.main(["--count", "5", "--stop", "1", "--tries", "1"]) == 1
    captured = capsys.readouterr()
    assert "# Program test: outcome" in captured.out
    assert "1 programs" in captured.err


def test_the_command_plays_what_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    """A few programs; it counts them."""
    assert command.main(["--count", "3", "--seed", "2"]) == 0
    assert "3 programs" in capsys.readouterr().err


def test_the_command_plays_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A printed program, right or wrong."""
    right, wrong = tmp_path / "right.py", tmp_path / "wrong.py"
    right.write_text(source("pass"))
    wrong.write_text(source(WRONGS["an outcome that differs"][1]))
    assert command.main([str(right), "--tries", "1"]) == 0
    assert command.main([str(wrong)]) == 1
    assert "outcome" in capsys.readouterr().out


def test_the_command_lists_the_ingredients(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are known to be wrong with what happens."""
    monkeypatch.setitem(WRONG, Feature.FORK, "the child waits for ever")
    assert command.main(["--list"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert len(told) == len(Feature)
    assert all(any(line.startswith(feature) for line in told) for feature in Feature)
    assert f"{Feature.FORK}  # the child waits for ever" in told


def test_requests_of_a_loop_that_is_closed_are_abandoned() -> None:
    """Those of the loop that were in flight then, and no other ones."""
    stage, loop, go = Stage(None), asyncio.new_event_loop(), threading.Event()

    def ask() -> None:
        with stage.meter:
            go.wait()

    async def aask(forever: bool) -> None:
        with stage.meter:
            await (asyncio.Event().wait() if forever else asyncio.sleep(0))

    thread = threading.Thread(target=ask)
    thread.start()
    stage.keep_task(loop.create_task(aask(forever=True)))
    loop.run_until_complete(aask(forever=False))
    while stage.meter.now < 2:
        pass
    assert stage.meter.abandoned == 0
    stage.forget_tasks(loop)
    loop.close()
    assert stage.meter.abandoned == 1
    go.set()
    thread.join()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()
    assert stage.meter.abandoned == 1
    assert stage.meter.now == 0
