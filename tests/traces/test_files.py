"""The trace format: what is written is read back, and damaged files are named with line and field."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import pytest

from llmsched_langgraph.errors import InvalidDataError, LLMSchedError
from llmsched_langgraph.traces import (
    Derived,
    EndedCall,
    EndedJob,
    EndedStage,
    done_jobs,
    read_jobs,
    write_jobs,
)

JOB = {
    "id": "a",
    "app": "demo",
    "jct": 3.5,
    "stages": [
        {"n": "plan", "k": "llm", "dep": [], "calls": [[10, 5, 0.5]]},
        {"n": "act", "k": "tool", "dep": [0], "calls": [[None, None, 1.25]], "tool": "search"},
        {"n": "answer", "k": "llm", "dep": [0, 1], "calls": [[20, 7, None], [20, 9, 0]]},
    ],
}
READ = EndedJob(
    id="a",
    app="demo",
    jct_s=3.5,
    stages=(
        EndedStage(name="plan", kind="llm", deps=(), calls=(EndedCall(10, 5, 0.5),)),
        EndedStage(name="act", kind="tool", deps=(0,), calls=(EndedCall(None, None, 1.25),), tool="search"),
        EndedStage(
            name="answer", kind="llm", deps=(0, 1), calls=(EndedCall(20, 7, None), EndedCall(20, 9, 0.0))
        ),
    ),
)


def changed(*way, to):
    """JOB with one value replaced; `to` None takes it away if it is a field of an object."""
    job = json.loads(json.dumps(JOB))
    *above, last = way
    at = job
    for step in above:
        at = at[step]
    if to is ...:
        del at[last]
    else:
        at[last] = to
    return job


def error(path):
    with pytest.raises(InvalidDataError) as caught:
        list(read_jobs(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["jobs.jsonl", "jobs.jsonl.gz"])
def test_the_documented_format_is_read(write, name):
    """Field by field, as the design has it; null stays None, a tool's seconds are those of its one call."""
    assert list(read_jobs(write(name, JOB, {**JOB, "id": "b", "jct": None}))) == [
        READ,
        EndedJob(id="b", app="demo", jct_s=None, stages=READ.stages),
    ]


@pytest.mark.parametrize("name", ["jobs.jsonl", "jobs.jsonl.gz"])
def test_what_is_written_is_the_documented_format(tmp_path, name):
    """Exactly its fields, one object a line, `tool` and `derived` only where there is one."""
    path = tmp_path / name
    assert write_jobs(iter([READ]), path) == 1
    data = path.read_bytes()
    text = (gzip.decompress(data) if name.endswith(".gz") else data).decode()
    assert text.count("\n") == 1
    assert json.loads(text) == JOB
    assert list(read_jobs(path)) == [READ]


def test_a_time_of_arrival_is_written_where_there_is_one(tmp_path):
    """In seconds since the epoch, between what the job is and what it did."""
    job = replace(READ, arrival_s=1785412800.25)
    write_jobs([job, READ], tmp_path / "jobs.jsonl")
    first, second = map(json.loads, (tmp_path / "jobs.jsonl").read_text().splitlines())
    assert first == {**JOB, "arrival": 1785412800.25}
    assert list(first) == ["id", "app", "jct", "arrival", "stages"]
    assert second == JOB
    assert list(read_jobs(tmp_path / "jobs.jsonl")) == [job, READ]


def test_the_same_jobs_give_the_same_bytes(tmp_path):
    """A compressed file has neither name nor time in it."""
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write_jobs([READ], tmp_path / name)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_derived_numbers_are_panels_by_policy_after_a_round_trip(tmp_path):
    both = Derived.PROMPT | Derived.SECONDS
    calls = (
        EndedCall(1, 2, 3.0, derived=both),
        EndedCall(1, 2, 3.0),
        EndedCall(1, 2, None, derived=Derived.OUTPUT),
    )
    job = EndedJob(
        id="a", app="app", jct_s=None, stages=(EndedStage(name="s", kind="llm", deps=(), calls=calls),)
    )
    write_jobs([job], tmp_path / "jobs.jsonl")
    assert json.loads((tmp_path / "jobs.jsonl").read_text())["stages"][0]["derived"] == ["ps", "", "o"]
    assert list(read_jobs(tmp_path / "jobs.jsonl")) == [job]


def test_a_file_that_cannot_be_finished_does_not_appear(tmp_path):
    """Nobody finds half a recording, and an older one stays."""
    path = tmp_path / "jobs.jsonl"
    write_jobs([READ], path)

    def broken():
        yield READ
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        write_jobs(broken(), path)
    assert list(read_jobs(path)) == [READ]
    assert [file.name for file in tmp_path.iterdir()] == ["jobs.jsonl"]


def test_jobs_that_did_not_go_to_their_end_are_read_and_not_learned_from(write):
    """How a job ended stands in its line; one that does not say so is done."""
    path = write("a.jsonl", {**JOB, "end": "failed"}, {**JOB, "id": "b", "end": "done"}, {**JOB, "id": "c"})
    assert [(job.end, job.informative) for job in read_jobs(path)] == [
        ("failed", False),
        ("done", True),
        ("done", True),
    ]
    assert [job.id for job in done_jobs(path)] == ["b", "c"]
    with pytest.raises(InvalidDataError, match="end: must be 'done' or 'failed' or 'cancelled', not 'lost'"):
        list(read_jobs(write("b.jsonl", {**JOB, "end": "lost"})))


def test_unknown_fields_are_left_alone(write):
    """Others may keep notes of their own beside ours."""
    stage = {**JOB["stages"][0], "note": 1}
    assert [job.id for job in read_jobs(write("a.jsonl", {**JOB, "stages": [stage], "config": "x"}))] == ["a"]


def test_empty_lines_and_a_byte_order_mark_are_no_matter(write):
    path = write("a.jsonl", "\ufeff", JOB, "\n", "   \n", {**JOB, "id": "b"})
    assert [job.id for job in read_jobs(path)] == ["a", "b"]


def test_gzip_is_recognised_by_content(write, tmp_path):
    path = write("a.jsonl.gz", JOB)
    path.rename(tmp_path / "a.jsonl")
    assert list(read_jobs(tmp_path / "a.jsonl")) == [READ]


def test_folders_are_read_whole_and_in_order(write, tmp_path):
    write("b.jsonl", {**JOB, "id": "2"})
    write("a.jsonl.gz", {**JOB, "id": "1"})
    write("c/d.jsonl", {**JOB, "id": "3"})
    write("notes.md", "no jobs\n")
    assert [job.id for job in read_jobs(tmp_path)] == ["1", "2", "3"]


def test_several_paths_are_read_in_their_order(write, tmp_path):
    first, second = write("a.jsonl", {**JOB, "id": "1"}), write("b/c.jsonl", {**JOB, "id": "2"})
    assert [job.id for job in read_jobs([str(second.parent), first])] == ["2", "1"]


def test_files_of_inputs_in_a_folder_are_passed_over(write, tmp_path):
    """They are refused only where they were named, or where there is nothing else."""
    inputs = write("in/questions.jsonl", {"question": "why?"})
    assert "no known format has these fields: question; known formats: the trace format" in error(inputs)
    assert f"{inputs.parent}: contains no jobs; known formats: the trace format" in error(inputs.parent)
    write("in/jobs.jsonl", JOB)
    assert list(read_jobs(inputs.parent)) == [READ]


def test_jobs_come_before_the_error_of_a_later_line(write):
    """Reading is streaming: nothing waits for the end of the file."""
    jobs = read_jobs(write("a.jsonl", JOB, "{}\n"))
    assert next(jobs) == READ
    with pytest.raises(InvalidDataError, match="line 2"):
        next(jobs)


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (changed("id", to=""), "line 2: id: must be a string that is not empty, not ''"),
        (changed("id", to=7), "line 2: id: must be a string that is not empty, not 7"),
        (changed("app", to=...), "line 2: app: is missing"),
        (changed("jct", to="3"), "line 2: jct: must be a number, 0 to 1,000,000,000,000, not '3'"),
        (changed("jct", to=-1), "line 2: jct: must be a number, 0 to 1,000,000,000,000, not -1"),
        (
            changed("arrival", to="9:30"),
            "line 2: arrival: must be a number, 0 to 1,000,000,000,000, not '9:30'",
        ),
        (changed("arrival", to=-1), "line 2: arrival: must be a number, 0 to 1,000,000,000,000, not -1"),
        (changed("arrival", to=True), "line 2: arrival: must be a number, 0 to 1,000,000,000,000, not True"),
        (changed("stages", to={}), "line 2: stages: must be a list, not {}"),
        (changed("stages", 0, to=[]), "line 2: stages[0]: must be an object, not []"),
        (changed("stages", 1, "n", to=...), "line 2: stages[1].n: is missing"),
        (changed("stages", 1, "k", to="gpu"), "line 2: stages[1].k: must be 'llm' or 'tool', not 'gpu'"),
        (changed("stages", 1, "k", to=["llm"]), "line 2: stages[1].k: must be 'llm' or 'tool', not ['llm']"),
        (changed("stages", 1, "dep", to=0), "line 2: stages[1].dep: must be a list, not 0"),
        (
            changed("stages", 1, "dep", 0, to=True),
            "line 2: stages[1].dep[0]: must be an integer, 0 to 1,000,000,000,000",
        ),
        (
            changed("stages", 1, "dep", 0, to=1),
            "line 2: stages[1].dep: must name earlier stages, 0 to 0, not 1",
        ),
        (
            changed("stages", 1, "dep", 0, to=9),
            "line 2: stages[1].dep: must name earlier stages, 0 to 0, not 9",
        ),
        (changed("stages", 2, "calls", to=None), "line 2: stages[2].calls: must be a list, not None"),
        (
            changed("stages", 2, "calls", 1, to=[1, 2]),
            "line 2: stages[2].calls[1]: must be a list of 3, not [1, 2]",
        ),
        (
            changed("stages", 2, "calls", 1, 0, to=1.5),
            "line 2: stages[2].calls[1][0]: must be an integer, 0 to 1,000,000,000,000, not 1.5",
        ),
        (
            changed("stages", 2, "calls", 1, 1, to=-3),
            "line 2: stages[2].calls[1][1]: must be an integer, 0 to 1,000,000,000,000, not -3",
        ),
        (
            changed("stages", 2, "calls", 1, 2, to="fast"),
            "line 2: stages[2].calls[1][2]: must be a number, 0 to 1,000,000,000,000, not 'fast'",
        ),
        (
            changed("stages", 1, "tool", to=5),
            "line 2: stages[1].tool: must be a string that is not empty, not 5",
        ),
        (changed("stages", 1, "derived", to=["s", "s"]), "line 2: stages[1].derived: must be a list of 1"),
        (
            changed("stages", 1, "derived", to=["x"]),
            "line 2: stages[1].derived[0]: must be a string of letters from 'pos'",
        ),
        (
            changed("stages", 1, "derived", to=["o"]),
            "line 2: stages[1].calls[0]: a call's output tokens are marked as derived but are missing",
        ),
        (
            '{"id": "b", "app": "x", "jct": 1e999, "stages": []}\n',
            "line 2: jct: must be a number, 0 to 1,000,000,000,000",
        ),
        (
            '{"id": "b", "app": "x", "jct": 1' + 400 * "0" + ', "stages": []}\n',
            "line 2: jct: must be a number, 0 to",
        ),
        ('{"question": "why?"}\n', "line 2: id: is missing"),
        ("{}\n", "line 2: id: is missing"),
    ],
)
@pytest.mark.parametrize("name", ["jobs.jsonl", "jobs.jsonl.gz"])
def test_an_object_that_is_no_job_is_named_with_its_field(write, name, job, message):
    """One line that says which file, which line, which field, what is wanted and what is there."""
    path = write(name, JOB, job)
    assert error(path).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl.gz", b"plain text\n", "line 1: is not valid gzip data; the file contains no jobs"),
        ("a.jsonl", b"\xff\xfe\x00bad\n", "line 1: is not UTF-8 text; the file contains no jobs"),
        ("a.jsonl", b"id,app,jct\na,x,1\n", "line 1: is not a complete JSON object: Expecting value"),
        ("a.jsonl", b"[1]\n[2]\n", "line 1: must be a JSON object, not list; the file contains no jobs"),
        ("a.jsonl", bytes(4096), "line 1: is filled with NUL bytes; the file contains no jobs"),
        ("a.jsonl.gz", bytes(4096), "line 1: is not valid gzip data; the file contains no jobs"),
        ("a.jsonl", b"", "contains no jobs; known formats: the trace format"),
        ("a.jsonl", b"\n\n", "contains no jobs"),
        ("a.jsonl.gz", b"", "contains no jobs"),
    ],
)
def test_a_foreign_file_is_named(tmp_path, name, data, message):
    path = tmp_path / name
    path.write_bytes(data)
    assert error(path).startswith(f"{path}: {message}")


def test_what_is_not_there_is_named(tmp_path):
    assert (
        error(tmp_path / "no.jsonl") == f"{tmp_path / 'no.jsonl'}: cannot be read: No such file or directory"
    )
    assert error(tmp_path).startswith(f"{tmp_path}: the folder contains no file ending in .jsonl")
    assert error(tmp_path / ("long" * 100)).endswith("cannot be read: File name too long")
    assert error([]) == "no path was given to read jobs from"


def test_the_error_is_of_the_package():
    assert issubclass(InvalidDataError, LLMSchedError)
