"""Whatever a run does, the position takes it in: random walks over random applications, and off them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from support.standing import Standing, Status

from llmsched_langgraph import Application
from llmsched_langgraph._application.nesting import number_of, place_of
from llmsched_langgraph._jobs.stages import Began, Ended, Revealed

PATHS = [f"n{number}" for number in range(6)]
OVER = {Status.FINISHED, Status.ABSENT}


@st.composite
def applications(draw):
    edges = draw(st.lists(st.tuples(st.sampled_from(PATHS), st.sampled_from(PATHS)), max_size=12))
    application = Application.of("app", PATHS, edges, draw(st.lists(st.sampled_from(PATHS), max_size=2)))
    return application.unrolled(draw(st.dictionaries(st.sampled_from(PATHS), st.integers(1, 4))))


@given(applications(), st.data())
def test_nothing_is_an_error(application, data):
    """Any moves in any order: statuses cover all stages, what runs is running, and the end is the end."""
    position, live, number = Standing(application), [], 0
    for _ in range(data.draw(st.integers(0, 25))):
        match data.draw(st.sampled_from(["reveal", "begin", "end", "strange"])):
            case "reveal":
                paths = data.draw(st.lists(st.sampled_from([*PATHS, "new"]), min_size=1, max_size=4))
                runs = tuple((number + n, path) for n, path in enumerate(paths, 1))
                around = data.draw(st.none() | st.sampled_from(live)) if live else None
                number += len(runs)
                live += [run for run, _ in runs]
                position.move(Revealed(runs, around, data.draw(st.booleans())))
            case "begin" if live:
                run = data.draw(st.sampled_from(live))
                position.move(Began(run))
                stage_occurrence = position.stage_occurrence(
                    run
                )  # None if the one around it is over, and it with that
                if stage_occurrence is not None and stage_occurrence.path in PATHS:
                    assert position.statuses()[position.place(run)] is Status.RUNNING
            case "end" if live:
                run = live.pop(data.draw(st.integers(0, len(live) - 1)))
                position.move(Ended(run, 1.0, True, data.draw(st.booleans())))
                assert position.stage_occurrence(run) is None
            case "strange":
                position.move(Ended(10**6, 1.0))
        statuses = position.statuses()
        assert list(statuses) == [stage.id for stage in application.stages]
        assert set(position.remaining()) == {
            stage
            for stage, status in statuses.items()
            if status in (Status.RUNNING, Status.REVEALED, Status.READY, Status.PENDING)
        }
    position.end()
    assert set(position.statuses().values()) <= OVER
    assert position.remaining() == ()


@given(applications(), st.data())
def test_a_walk_along_the_edges_is_never_thought_impossible(application, data):
    """Whoever follows the edges only comes to stages that were ready, or to a tail once more."""
    position = Standing(application)
    tails = {stage.id for stage in application.stages if stage.tail}
    step = data.draw(
        st.lists(st.sampled_from(application.entries or PATHS), min_size=1, max_size=2, unique=True)
    )
    highest, number = dict.fromkeys(PATHS, 0), 0
    for _ in range(data.draw(st.integers(1, 12))):
        statuses = position.statuses()
        runs = [(number + n, path) for n, path in enumerate(step, 1)]
        number += len(runs)
        position.move(Revealed(tuple(runs)))
        for run, path in runs:
            stage, occurrence = position.place(run), position.stage_occurrence(run).occurrence
            if application.entries:
                assert statuses[stage] in (Status.READY, Status.FINISHED) or stage in tails
            assert stage == application.stage_id(path, occurrence)
            visit, nth = place_of(occurrence)
            again = path in application.inner_loop_of and nth == 1
            assert occurrence == (number_of(visit, 1) if again else highest[path] + 1)
            assert occurrence > highest[path]
            highest[path] = occurrence
            position.move(Began(run))
            position.move(Ended(run, 1.0))
        following = sorted({target for source, target in application.edges if source in step})
        if not following:
            break
        step = data.draw(st.lists(st.sampled_from(following), min_size=1, max_size=3, unique=True))
