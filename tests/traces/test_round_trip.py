"""Any job survives being written and read, and any text is either read or refused by name."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from llmsched_langgraph.errors import InvalidDataError
from llmsched_langgraph.traces import Derived, TraceCall, TraceJob, TraceStage, read_jobs, write_jobs
from llmsched_langgraph.traces.loaders import SHAPES

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
TOKENS = st.none() | st.integers(0, 10**9)
SECONDS = st.none() | st.floats(0, 1e9)


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
    return TraceCall(prompt, output, seconds, derived)


@st.composite
def jobs(draw):
    stages = []
    for index in range(draw(st.integers(0, 6))):
        deps = draw(st.sets(st.integers(0, index - 1))) if index else set()
        kind = draw(st.sampled_from(["llm", "tool"]))
        made = tuple(draw(st.lists(calls(), max_size=4)))
        stages.append(TraceStage(draw(TEXT), kind, tuple(sorted(deps)), made, draw(st.none() | TEXT)))
    return TraceJob(draw(TEXT), draw(TEXT), draw(SECONDS), tuple(stages), draw(SECONDS))


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
