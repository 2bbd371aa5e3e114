"""`llmsched report`: which files it writes, what it prints, and errors on one line."""

from __future__ import annotations

import json

import pytest
from support.recordings import recording

from llmsched_langgraph import Application, Scheduler
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._runtime.context import inside
from llmsched_langgraph._runtime.scheduler import start_run
from llmsched_langgraph.cli.main import main
from llmsched_langgraph.policies import JobInfo
from llmsched_langgraph.reports import report
from llmsched_langgraph.traces import write_jobs


@pytest.fixture
def night(tmp_path, monkeypatch):
    """A recording in the working directory."""
    monkeypatch.chdir(tmp_path)
    write_jobs(recording(40), tmp_path / "night.jsonl")
    return tmp_path / "night.jsonl"


def shown(capsys, *arguments):
    assert main(["report", *map(str, arguments)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_the_page_is_written(night, capsys):
    """Beside the working directory's other files, or where `-o` says."""
    out = shown(capsys, night)
    assert out.startswith("40 jobs (37 done, 2 failed, 1 cancelled); mean JCT ")
    assert out.endswith("; written to report.html\n")
    assert out.count("\n") == 1
    page = (night.parent / "report.html").read_text(encoding="utf-8")
    assert page == report(night).html()
    shown(capsys, night, "-o", "other.html")
    assert (night.parent / "other.html").read_text(encoding="utf-8") == page


def test_the_figures_as_data(night, capsys):
    """Instead of the page; with `-o`, beside it."""
    figures = json.loads(shown(capsys, night, "--json"))
    assert figures == json.loads(json.dumps(report(night).figures))
    assert not (night.parent / "report.html").exists()
    assert json.loads(shown(capsys, night, "--json", "-o", "other.html")) == figures
    assert (night.parent / "other.html").exists()


def test_trace_events_are_written(night, capsys):
    """Instead of the page."""
    assert shown(capsys, night, "--perfetto", "events.json").endswith("; written to events.json\n")
    assert json.loads((night.parent / "events.json").read_text()) == report(night).trace_events()
    assert not (night.parent / "report.html").exists()


def test_a_live_scheduler_is_reported(tmp_path, capsys):
    """What it recorded has everything that the page shows."""
    path = tmp_path / "live.jsonl"
    info = JobInfo(application=Application.of("app", ["ask"]), tenant="gold")
    with Scheduler(1, record=path) as scheduler:
        jobs = [start_run(scheduler, info) for _ in range(3)]
        for job in jobs:
            with inside(job), scheduler.slot(stage="ask"):
                pass
            job.end(Outcome.FINISHED)
    figures = json.loads(shown(capsys, path, "--json"))
    recorded = figures["recorded"]
    assert (recorded["arrivals"], recorded["jcts"], recorded["times"]) == (3, 3, 3)
    assert [(row["name"], row["jobs"]) for row in figures["paid"]["tenant"]] == [("gold", 3)]
    assert [row["name"] for row in figures["grants"]] == ["free"]
    assert figures["backends"][0]["peak_held"] == 1
    assert figures["wait_s"] == 0.0


def test_what_could_not_be_read_is_told(night, capsys):
    """Once on the terminal, and in the report."""
    with night.open("a") as file:
        file.write('{"id": "torn')
    assert main(["report", str(night), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err.startswith(f"llmsched: {night}: line 41: ")
    assert err.count("\n") == 1
    (skipped,) = json.loads(out)["skipped"]
    assert (skipped["file"], skipped["lines"], skipped["first_line"]) == (str(night), 1, 41)


def test_errors(night, refuses):
    """Nothing is written, and no recording is replaced."""
    before = night.read_bytes()
    (night.parent / "empty.jsonl").touch()
    refuses(["report", "empty.jsonl"], "empty.jsonl: contains no jobs")
    refuses(["report", "none.jsonl"], "none.jsonl: cannot be read: No such file")
    refuses(["report", str(night), "-o", str(night)], "night.jsonl: is a recording; name another file")
    refuses(["report", ".", "--perfetto", "night.jsonl"], "night.jsonl: is a recording; name another file")
    refuses(["report", str(night), "-o", "."], "--out .: is a folder; name a file in it, e.g. report.html")
    refuses(["report", str(night), "-o", "no/page.html"], "--out no/page.html: No such file or directory")
    (night.parent / "bare.jsonl").write_text('{"id": "1", "app": "a", "jct": null, "stages": []}\n')
    refuses(["report", "bare.jsonl", "--perfetto", "x.json"], "no times of jobs")
    assert night.read_bytes() == before
    assert sorted(path.name for path in night.parent.iterdir()) == [
        "bare.jsonl",
        "empty.jsonl",
        "night.jsonl",
    ]
