"""Any job survives being written and read, and any text is either read or refused by name."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from llmsched_langgraph.errors import InvalidDataError
from llmsched_langgraph.traces import (
    Derived,
    EndedCall,
    EndedJob,
    EndedStage,
    EndedStageRun,
    read_jobs,
    write_jobs,
)
from llmsched_langgraph.traces.loaders import SHAPES

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
TOKENS = st.none() | st.integers(0, 10**9)
SECONDS = st.none() | st.floats(0, 1e9)
RUNS = st.builds(EndedStageRun, TEXT, st.integers(1, 9), st.floats(0, 1e9), st.booleans(), st.none() | TEXT)
TURNS = st.fixed_dictionaries(
    {
        **dict.fromkeys(("asked_s", "granted_s", "ended_s"), SECONDS),
        "backend": st.just("") | TEXT,
        "attempts": st.integers(0, 9),
        "reason": st.just("") | TEXT,
    }
)
MORE = {
    "paused_s": st.floats(0, 1e9),
    "end": st.sampled_from(["done", "failed", "cancelled"]),
    "tenant": TEXT,
    "priority": st.integers(-5, 5),
    "key": TEXT,
    "predicted": st.tuples(*[st.floats(0, 1e9)] * 3),
}


@st.composite
def calls(draw):
    prompt, output, seconds = draw(TOKENS), draw(TOKENS), draw(SECONDS)
    known = [
        flag
        for flag, value in (
            (Derived.PROMPT, prompt),
            (Derived.OUTPUT, output),
            (Derived.SECONDS, seconds),
        )
        if value is not None
    ]
    derived = Derived.NOTHING
    for flag in known:
        if draw(st.booleans()):
            derived |= flag
    return EndedCall(
        prompt,
        output,
        seconds,
        derived=derived,
        concurrency=draw(st.sampled_from([1.0, 1.0, 2.5])),
        **draw(st.just({}) | TURNS),
    )


@st.composite
def jobs(draw):
    runs = draw(st.lists(RUNS, max_size=3))
    stages = []
    for index in range(draw(st.integers(0, 6))):
        deps = draw(st.sets(st.integers(0, index - 1))) if index else set()
        run = draw(st.none() | st.integers(0, len(runs) - 1)) if runs else None
        occurrence = draw(st.none() | st.integers(1, 9))
        stages.append(
            EndedStage(
                name=draw(TEXT) if occurrence is None else draw(TEXT | st.just("")),
                kind=draw(st.sampled_from(["llm", "tool"])),
                deps=tuple(sorted(deps)),
                calls=tuple(draw(st.lists(calls(), max_size=4))),
                tool=draw(st.none() | TEXT),
                run=run,
                occurrence=occurrence,
            )
        )
    more = draw(st.fixed_dictionaries({}, optional=MORE))
    return EndedJob(
        id=draw(TEXT),
        app=draw(TEXT),
        jct_s=draw(SECONDS),
        stages=tuple(stages),
        runs=tuple(runs),
        arrival_s=draw(SECONDS),
        **more,
    )


def read_or_named(path):
    """Whether the file is read, or refused by an error that begins with its name."""
    try:
        return list(read_jobs(path)) is not None
    except InvalidDataError as error:
        return str(error).startswith(str(path))


@given(st.lists(jobs(), min_size=1, max_size=5), st.sampled_from(["t.jsonl", "t.jsonl.gz"]))
def test_what_is_written_is_read_back(some, name):
    """Every field, every null, every mark, in order."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        assert write_jobs(some, path) == len(some)
        assert list(read_jobs(path)) == some


@given(jobs(), st.integers(0, 10_000), st.integers(0, 255))
def test_a_damaged_byte_is_read_or_refused_by_name(job, place, byte):
    """Whatever is in a file, the answer is jobs or one error that names it: no other exception."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.jsonl"
        write_jobs([job], path)
        data = bytearray(path.read_bytes())
        data[place % len(data)] = byte
        path.write_bytes(bytes(data))
        assert read_or_named(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(JSON, JSON, st.sampled_from(["stages", "calls", "steps"]), st.integers(0, 11))
def test_any_json_in_any_shape_is_read_or_refused_by_name(some, other, key, shape):
    """Every loader takes every value, however foreign."""
    fields = ("id", "app", "stages") if shape == len(SHAPES) else SHAPES[shape].fields
    line = dict.fromkeys(fields, other) | {"id": "x", "app": "y", key: some}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.jsonl"
        path.write_text(json.dumps(line) + "\n")
        assert read_or_named(path)
