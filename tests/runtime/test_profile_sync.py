"""Profiles that outlive the process: read, kept, shared with other workers, and never in the way."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import textwrap
import threading

import pytest
from langgraph.store.memory import InMemoryStore

from llmsched_langgraph import Application, ConfigurationError, Scheduler
from llmsched_langgraph._application.application import Node
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._learning.stores import DirectoryStore
from llmsched_langgraph._runtime.context import inside
from llmsched_langgraph._runtime.scheduler import start_run
from llmsched_langgraph.policies import JobInfo

APPLICATION = Application.of("app", (Node("ask", calls_llm=True),))
INFO = JobInfo(application=APPLICATION)


def run(scheduler, times=1):
    """Runs of one call each."""
    for _ in range(times):
        job = start_run(scheduler, INFO)
        with inside(job), scheduler.slot(stage="ask"):
            pass
        job.end(Outcome.FINISHED)


def jobs(scheduler):
    """How many runs it knows of."""
    return scheduler.profile.jobs(APPLICATION.fingerprint)


@pytest.mark.parametrize("kind", ["folder", "store"])
def test_what_one_scheduler_learned_the_next_one_knows(kind, tmp_path, make_scheduler):
    """From a folder of files or any LangGraph store."""
    profiles = tmp_path / "profiles" if kind == "folder" else InMemoryStore()
    first = make_scheduler(2, profiles=profiles)
    run(first, 5)
    first.learn()
    first.close()
    second = make_scheduler(2, profiles=profiles)
    second.learn()
    assert jobs(second) == 5
    own = second.profile.applications[APPLICATION.fingerprint]
    assert own == first.profile.applications[APPLICATION.fingerprint]
    assert own.model is not None
    assert second._driver._machine.profile.jobs(APPLICATION.fingerprint) == 5
    second.close()


def test_workers_learn_from_each_other(tmp_path, make_scheduler):
    """Each knows all jobs after its next save, and none counts twice."""
    one, other = (make_scheduler(2, profiles=tmp_path) for _ in range(2))
    run(one, 3)
    run(other, 4)
    for _ in range(2):
        one.learn()
        run(other)
        other.learn()
    one.learn()
    assert jobs(one) == jobs(other) == 9
    ids = one.profile.applications[APPLICATION.fingerprint].history.ids
    assert len(ids) == 9
    one.close()
    other.close()


def test_a_damaged_profile_is_told_left_alone_and_done_without(tmp_path, make_scheduler, caplog):
    """With file and field; the scheduler goes on, and the file stays as it is."""
    first = make_scheduler(2, profiles=tmp_path)
    run(first, 3)
    first.learn()
    first.close()
    (path,) = tmp_path.glob("*.json")
    data = json.loads(path.read_text())
    data["jobs"] = -7
    path.write_text(json.dumps(data))
    before = path.read_bytes()
    with caplog.at_level(logging.WARNING, "llmsched_langgraph"):
        second = make_scheduler(2, profiles=tmp_path)
        run(second, 2)
        second.learn()
        run(second, 2)
        second.learn()
    assert jobs(second) == 4
    assert path.read_bytes() == before
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2  # once for reading, once for saving
    assert all(str(path) in message and "jobs: must be" in message for message in messages)
    second.close()


def test_a_store_that_fails_costs_nothing_else(make_scheduler, caplog):
    """A database that is not there, for one."""

    class Gone:
        def load(self):
            raise ConnectionError("no database")

        load_one = load

        def save(self, profile):
            raise ConnectionError("no database")

    with caplog.at_level(logging.WARNING, "llmsched_langgraph"):
        scheduler = make_scheduler(2, profiles=Gone())
        run(scheduler, 3)
        scheduler.learn()
        scheduler.close()
    assert jobs(scheduler) == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"a profile could not be {what}; scheduling continues without it (logged once): "
        "ConnectionError('no database')"
        for what in ("read", "saved")
    ]


def test_what_could_not_be_kept_is_kept_the_next_time(tmp_path, make_scheduler):
    """A database that is away for a minute costs nothing once it is back."""
    profiles = DirectoryStore(tmp_path)
    away = [True]

    class Moody:
        load, load_one = profiles.load, profiles.load_one

        def save(self, profile):
            if away[0]:
                raise ConnectionError("no database")
            return profiles.save(profile)

    scheduler = make_scheduler(2, profiles=Moody())
    run(scheduler, 3)
    scheduler.learn()
    assert profiles.load().profile.applications == {}
    away[0] = False
    scheduler.learn()
    assert profiles.load().profile.jobs(APPLICATION.fingerprint) == 3
    scheduler.close()


def test_where_there_is_no_thread_to_be_had_it_is_kept_in_place(tmp_path, make_scheduler, monkeypatch):
    """An interpreter that goes down has none to give."""
    scheduler = make_scheduler(2, profiles=tmp_path)
    run(scheduler, 3)
    assert jobs(scheduler) == 3
    keeper = scheduler._driver._service.learner._keeper

    def refuse(self):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    keeper.stop()
    assert DirectoryStore(tmp_path).load().profile.jobs(APPLICATION.fingerprint) == 3
    monkeypatch.undo()
    scheduler.close()


@pytest.mark.parametrize("closes", [True, False])
def test_what_is_left_is_kept_at_the_end(closes, tmp_path):
    """Of the scheduler, or of the process, whichever comes first."""
    program = f"""
        from llmsched_langgraph import Scheduler
        from llmsched_langgraph._core.events import JobInfo
        from llmsched_langgraph._application.application import Application, Node
        from llmsched_langgraph._jobs.calls import Outcome
        from llmsched_langgraph._runtime.context import inside
        from llmsched_langgraph._runtime.scheduler import start_run

        info = JobInfo(application=Application.of("app", (Node("ask", calls_llm=True),)))
        scheduler = Scheduler(2, profiles={str(tmp_path)!r})
        for _ in range(3):
            job = start_run(scheduler, info)
            with inside(job), scheduler.slot(stage="ask"):
                pass
            job.end(Outcome.FINISHED)
        if {closes}:
            scheduler.close()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=60)
    with Scheduler(2, profiles=tmp_path) as scheduler:
        scheduler.learn()
        assert jobs(scheduler) == 3


def test_what_is_no_store_is_refused():
    """At once, with what to give instead."""
    with pytest.raises(ConfigurationError, match="profiles"):
        Scheduler(2, profiles=7)
