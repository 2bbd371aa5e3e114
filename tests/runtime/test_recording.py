"""Jobs are written down while the scheduler runs: whole lines, in the background, and never in the way."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
from support.ended import Closed, ended

from llmsched_langgraph import Application, ConfigurationError, Profile, default_scheduler
from llmsched_langgraph._application.application import Node
from llmsched_langgraph._belief.fit.models import learn
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._jobs.observed import observed
from llmsched_langgraph._learning import service
from llmsched_langgraph._observe import recorder as recording
from llmsched_langgraph._observe.recorder import Recorder
from llmsched_langgraph._runtime.context import inside
from llmsched_langgraph._runtime.scheduler import start_run
from llmsched_langgraph.policies import JobInfo
from llmsched_langgraph.traces import read_jobs

APPLICATION = Application.of("app", (Node("ask", calls_llm=True),))
INFO = JobInfo(application=APPLICATION)

PROGRAM = """
    import os, signal, sys
    from llmsched_langgraph import Scheduler
    from llmsched_langgraph._core.events import JobInfo
    from llmsched_langgraph._application.application import Application, Node
    from llmsched_langgraph._jobs.calls import Outcome
    from llmsched_langgraph._runtime.context import inside
    from llmsched_langgraph._runtime.scheduler import start_run

    path, jobs = sys.argv[1], int(sys.argv[2])
    scheduler = Scheduler(2, record=path)
    info = JobInfo(application=Application.of("app", (Node("ask", calls_llm=True),)))
    for _ in range(jobs):
        job = start_run(scheduler, info)
        with inside(job), scheduler.slot(stage="ask"):
            pass
        job.end(Outcome.FINISHED)

    def lines():
        return open(path).read().count("\\n") if os.path.exists(path) else 0
"""


def program(end, *arguments):
    """A process of its own that runs some jobs and then comes to an end."""
    code = textwrap.dedent(PROGRAM) + textwrap.dedent(end)
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def run(scheduler, times=1, outcome=Outcome.FINISHED, calls=1):
    for _ in range(times):
        job = start_run(scheduler, INFO)
        for _ in range(calls):
            with inside(job), scheduler.slot(stage="ask"):
                pass
        job.end(outcome)


def record(number=0):
    return ended(APPLICATION, ("ask", 1.0, 10, 5), jct_s=2.0, arrival_s=98.0, id=f"j{number}")


def foreseen(path):
    """What was predicted of each recorded job, by the order of arrival."""
    return [job.predicted for job in sorted(read_jobs(path), key=lambda job: job.arrival_s)]


class Nobody:
    """A background in which nothing is ever done."""

    def __init__(self, name, work):
        pass

    def there_is_work(self):
        pass


def test_jobs_that_went_to_their_end_are_written(make_scheduler, tmp_path):
    """With arrivals by the wall clock; none that failed, was cancelled, or made no call."""
    path = tmp_path / "new" / "folder" / "jobs.jsonl"
    before_s = time.time()
    scheduler = make_scheduler(2, record=path)
    run(scheduler, 2)
    run(scheduler, outcome=Outcome.FAILED)
    run(scheduler, outcome=Outcome.CANCELLED)
    run(scheduler, calls=0)
    run(scheduler, calls=2)
    scheduler.close()
    jobs = list(read_jobs(path))
    assert [len(job.stages) for job in jobs] == [1, 1, 2]
    assert {job.app for job in jobs} == {"app"}
    assert len({job.id for job in jobs}) == 3
    arrivals = [job.arrival_s for job in jobs]
    assert arrivals == sorted(arrivals)
    assert before_s - 0.1 <= arrivals[0] <= arrivals[2] <= time.time() + 0.1


def test_what_is_written_is_what_is_learned_from(make_scheduler, tmp_path):
    """A profile keeps the very jobs that stand in the file, and is the same when it learns from that."""
    path = tmp_path / "jobs.jsonl"
    scheduler = make_scheduler(2, record=path)
    run(scheduler, 3, calls=2)
    scheduler.close()
    live = scheduler.profile.applications[APPLICATION.fingerprint]
    read = [replace(job, template=APPLICATION) for job in read_jobs(path)]
    assert Profile().observe(*read).applications[APPLICATION.fingerprint] == replace(
        live, model=None, modelled=0
    )
    assert live.outcomes == tuple(map(observed, read))


def test_a_call_outside_any_graph_is_a_job(make_scheduler, tmp_path):
    """It takes a slot like any other: without it, a replay would have less to do."""
    scheduler = make_scheduler(1, record=tmp_path / "jobs.jsonl")
    with scheduler.slot(stage="embed"):
        pass
    scheduler.close()
    (job,) = read_jobs(tmp_path / "jobs.jsonl")
    assert (job.app, [stage.name for stage in job.stages]) == ("direct", ["embed"])


def test_what_is_there_is_kept(make_scheduler, tmp_path):
    """One run of a program after the other, in one file."""
    for _ in range(2):
        scheduler = make_scheduler(2, record=str(tmp_path / "jobs.jsonl"))
        run(scheduler, 3)
        scheduler.close()
    assert len({job.id for job in read_jobs(tmp_path / "jobs.jsonl")}) == 6


def test_a_job_that_ends_after_the_scheduler_was_closed(make_scheduler, tmp_path):
    """Its call was in a slot, and goes on."""
    scheduler = make_scheduler(1, record=tmp_path / "jobs.jsonl")
    job = start_run(scheduler, INFO)
    with inside(job), scheduler.slot(stage="ask"):
        scheduler.close()
    job.end(Outcome.FINISHED)
    scheduler.close()
    assert len(list(read_jobs(tmp_path / "jobs.jsonl"))) == 1


def test_nothing_is_written_on_an_event_loop(make_scheduler, tmp_path, monkeypatch):
    """Neither when a job ends nor when the scheduler is closed there."""
    writers = []
    append = Recorder._append
    monkeypatch.setattr(
        Recorder, "_append", lambda *args: writers.append(threading.current_thread().name) or append(*args)
    )

    async def main():
        with make_scheduler(1, record=tmp_path / "jobs.jsonl") as scheduler:
            for _ in range(3):
                job = start_run(scheduler, INFO)
                with inside(job):
                    async with scheduler.slot(stage="ask"):
                        pass
                job.end(Outcome.FINISHED)

    asyncio.run(main())
    for thread in threading.enumerate():
        if thread.name == "llmsched-recording" and not thread.daemon:
            thread.join(20)
    assert set(writers) == {"llmsched-recording"}
    assert len(list(read_jobs(tmp_path / "jobs.jsonl"))) == 3


@pytest.mark.parametrize("given", ["absolute", "relative"])
def test_no_file_is_touched_on_an_event_loop(tmp_path, monkeypatch, given):
    """Not even to look whether it is there: Agent Server stops whoever does."""
    ctx = pytest.importorskip("blockbuster").blockbuster_ctx
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "jobs.jsonl" if given == "absolute" else "jobs.jsonl"
    monkeypatch.setenv("LLMSCHED_RECORD", str(path))

    async def main():
        with ctx(scanned_modules=["llmsched_langgraph"]):
            scheduler = default_scheduler()
            job = start_run(scheduler, INFO)
            with inside(job):
                async with scheduler.slot(stage="ask"):
                    pass
            job.end(Outcome.FINISHED)
            scheduler.close()

    asyncio.run(main())
    default_scheduler().close()
    assert len(list(read_jobs(tmp_path / "jobs.jsonl"))) == 1


def test_a_slow_disk_holds_nobody_up(make_scheduler, tmp_path, monkeypatch):
    """Calls get their slots and jobs end while a line takes its time."""
    at_it, ready = threading.Event(), threading.Event()
    append = Recorder._append

    def slow(*args):
        at_it.set()
        assert ready.wait(20)
        append(*args)

    monkeypatch.setattr(Recorder, "_append", slow)
    scheduler = make_scheduler(1, record=tmp_path / "jobs.jsonl")
    run(scheduler)
    assert at_it.wait(20)
    run(scheduler, 50)
    assert scheduler.statistics().jobs_ended == 51
    assert not (tmp_path / "jobs.jsonl").exists()
    ready.set()
    scheduler.close()
    assert len(list(read_jobs(tmp_path / "jobs.jsonl"))) == 51


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("", 0),
        ("scheduler.close()", 0),
        ("sys.exit(3)", 3),
        ("raise RuntimeError('lost')", 1),
        ("while lines() < jobs: pass\nos.kill(os.getpid(), signal.SIGKILL)", -9),
        ("while lines() < jobs: pass\nos._exit(4)", 4),
    ],
)
def test_nothing_is_lost_however_the_process_ends(end, status, tmp_path):
    """A job is written as soon as it has ended; what is left, at the end."""
    process = program(end, tmp_path / "jobs.jsonl", 20)
    process.communicate(timeout=50)
    assert process.returncode == status
    assert len({job.id for job in read_jobs(tmp_path / "jobs.jsonl")}) == 20


def test_what_was_predicted_at_the_arrival_is_recorded(make_scheduler, tmp_path):
    """By the model of that time, whatever is learned later; nothing where there was no model."""
    path = tmp_path / "jobs.jsonl"
    before = [replace(record(number), arrival_s=100.0 * number) for number in range(20)]  # 1 slot-second each
    profile = Profile().observe(*before)
    known = profile.applications[APPLICATION.fingerprint]
    profile = profile.learned(APPLICATION.fingerprint, learn(known.template, known.outcomes), known.jobs)
    with make_scheduler(2, record=path, profile=profile) as scheduler:
        job = start_run(scheduler, INFO)
        with inside(job), scheduler.slot(stage="ask"):
            pass
        run(scheduler, 40)  # hardly any work each
        scheduler.learn()
        job.end(Outcome.FINISHED)
        run(scheduler)
    first, *_, last = foreseen(path)
    mean, low, high = first
    assert (mean, low <= 1.0 <= high) == (pytest.approx(1.0, rel=0.2), True)
    assert last[0] < 0.7 * mean
    with make_scheduler(2, record=tmp_path / "new.jsonl") as scheduler:
        run(scheduler)
    assert foreseen(tmp_path / "new.jsonl") == [None]


def test_arrivals_agree_with_each_other(make_scheduler, tmp_path, monkeypatch):
    """Two readings of the clocks differ by chance, and slots go from one call to the next: no two overlap."""
    path, late_s = tmp_path / "jobs.jsonl", itertools.cycle([0.0, 0.004, 0.001])
    set_s = 0.0
    wall = SimpleNamespace(time=lambda: time.time() + next(late_s) + set_s)
    monkeypatch.setattr(service, "time", wall)
    with make_scheduler(1, record=path) as scheduler:
        run(scheduler, 20)
        scheduler.learn()  # all jobs so far have been seen
        set_s = 3600.0
        run(scheduler)
    jobs = sorted(read_jobs(path), key=lambda job: int(job.id.rpartition("-")[2]))
    spans = [
        (job.arrival_s + call.granted_s, job.arrival_s + call.ended_s)
        for job in jobs
        for call in job.llm_calls()
    ]
    assert len(spans) == 21
    assert all(ended_s <= granted_s + 4e-6 for (_, ended_s), (granted_s, _) in pairwise(spans))
    assert spans[-1][0] - spans[-2][0] > 3599.0  # a clock that was set is believed


def test_workers_share_a_file(tmp_path):
    """All lines of all of them, none in the middle of another."""
    workers = [program("", tmp_path / "jobs.jsonl", 300) for _ in range(3)]
    for worker in workers:
        worker.communicate(timeout=50)
        assert worker.returncode == 0
    assert len({job.id for job in read_jobs(tmp_path / "jobs.jsonl")}) == 900


def test_a_fork_writes_what_is_its_own(tmp_path):
    """What waited to be written when it came about is its parent's to write."""
    recorder = Recorder(tmp_path / "jobs.jsonl", Nobody)
    recorder.note(Closed(record(1)))
    recorder._writing.acquire()  # by a thread that stayed in the parent
    recorder.forked()
    recorder.note(Closed(record(2)))
    recorder.flush()
    assert [job.id for job in read_jobs(tmp_path / "jobs.jsonl")] == ["j2"]


def test_a_write_that_was_interrupted_in_the_same_thread_is_no_end(tmp_path, monkeypatch):
    """A signal handler that closes the scheduler cannot wait for it."""
    monkeypatch.setattr(recording, "PATIENCE_S", 0.0)
    recorder = Recorder(tmp_path / "jobs.jsonl", Nobody)
    recorder._writing.acquire()
    recorder.note(Closed(record()))
    recorder.flush()
    assert len(list(read_jobs(tmp_path / "jobs.jsonl"))) == 1


def test_a_file_may_be_moved_away(tmp_path):
    """The next job begins another one."""
    recorder = Recorder(tmp_path / "jobs.jsonl", Nobody)
    for number in range(2):
        recorder.note(Closed(record(number)))
        recorder.flush()
        (tmp_path / "jobs.jsonl").rename(tmp_path / f"jobs.{number}")
    assert [next(read_jobs(tmp_path / f"jobs.{number}")).id for number in range(2)] == ["j0", "j1"]


def test_where_it_is_does_not_depend_on_where_the_program_goes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recorder = Recorder("jobs.jsonl", Nobody)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    recorder.note(Closed(record()))
    recorder.flush()
    assert (tmp_path / "jobs.jsonl").exists()


def test_a_disk_that_fails_is_told_once_and_costs_nothing_else(make_scheduler, tmp_path, caplog):
    """A folder that cannot be made, for one."""
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "jobs.jsonl"
    with caplog.at_level(logging.WARNING, "llmsched_langgraph"):
        scheduler = make_scheduler(2, record=path)
        for _ in range(3):
            run(scheduler)
            scheduler._driver._service.keep()
        scheduler.close()
    assert scheduler.statistics().jobs_ended == 3
    (message,) = [each.getMessage() for each in caplog.records]
    assert message.startswith(f"jobs could not be recorded to {path}; scheduling continues without them")


def test_a_line_that_could_not_be_finished_takes_no_other_with_it(tmp_path, monkeypatch, caplog):
    """A full disk, or a process that was killed while it wrote: the next job begins on a line of its own."""
    path = tmp_path / "jobs.jsonl"
    path.write_text('{"id":"cut of')
    recorder = Recorder(path, Nobody)
    recorder.note(Closed(record(1)))
    recorder.flush()
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:20]))
    recorder.note(Closed(record(2)))
    with caplog.at_level(logging.WARNING, "llmsched_langgraph"):
        recorder.flush()
    assert "bytes could be written" in caplog.text
    monkeypatch.setattr(os, "write", write)
    recorder.note(Closed(record(3)))
    recorder.flush()
    cut, one, two, three = [line for line in path.read_text().splitlines() if line]
    assert cut == '{"id":"cut of'
    assert two.startswith('{"id":"j2",')
    assert [json.loads(line)["id"] for line in (one, three)] == ["j1", "j3"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (
            "jobs.jsonl.gz",
            r"jobs.jsonl.gz cannot be compressed.*name it .*jobs.jsonl, and gzip it afterwards",
        ),
        (".", "is a folder; name a file in it"),
        ("", "record must be the path of a file"),
        (7, "record must be the path of a file"),
    ],
)
def test_what_cannot_be_recorded_to_is_refused(make_scheduler, path, words):
    """At once, with what to give instead."""
    with pytest.raises(ConfigurationError, match=words):
        make_scheduler(2, record=path)
