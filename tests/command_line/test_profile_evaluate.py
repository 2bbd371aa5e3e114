"""`llmsched profile evaluate`: the table, the data, and errors in one line."""

from __future__ import annotations

import json

import pytest
from support.beliefs import fan_job, loop_job

from llmsched_langgraph.cli.main import main
from llmsched_langgraph.traces import write_jobs


@pytest.fixture
def traces(tmp_path):
    jobs = [fan_job(n, (1, 2, 4)[n % 3]) for n in range(30)]
    folder = tmp_path / "traces"
    folder.mkdir()
    write_jobs(jobs, folder / "fan.jsonl.gz")
    write_jobs([loop_job(n, 1 + n % 3) for n in range(4)], folder / "few.jsonl")
    return folder


def test_json_is_one_list_of_applications(traces, capsys):
    assert main(["profile", "evaluate", str(traces), "--json", "--seed", "7"]) == 0
    out, err = capsys.readouterr()
    (row,) = json.loads(out)
    assert list(row) == [
        "app",
        "jobs",
        "stages",
        "logloss_network",
        "logloss_marginals",
        "used",
        "r2_log_remaining",
        "r2_log_remaining_marginals",
        "coverage80",
    ]
    assert (row["app"], row["jobs"], row["stages"], row["used"]) == ("fan", 30, 3, "network")
    assert len(row["r2_log_remaining"]) == len(row["r2_log_remaining_marginals"]) == 3
    assert "[1/2] fan: 30 jobs" in err
    assert "left out: loop: 4 jobs" in err


def test_the_table_is_for_people(traces, tmp_path, capsys):
    train = tmp_path / "train.jsonl"
    write_jobs([fan_job(n, (1, 2, 4)[n % 3]) for n in range(100, 140)], train)
    assert main(["profile", "evaluate", str(traces), "--train", str(train)]) == 0
    head, row, *_ = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["application", "jobs", "stages", "unit"]
    assert row.split()[:4] == ["fan", "30", "3", "seconds"]


def test_the_same_seed_gives_the_same_figures(traces, capsys):
    texts = []
    for _ in range(2):
        main(["profile", "evaluate", str(traces), "--json"])
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_errors_are_one_line(traces, tmp_path, capsys):
    for paths in ([str(tmp_path / "missing")], [str(traces / "few.jsonl")]):
        assert main(["profile", "evaluate", *paths]) == 2
        *_, last = capsys.readouterr().err.splitlines()
        assert last.startswith("llmsched: ")
    (tmp_path / "broken.jsonl").write_text('{"id": "x"\n')
    assert main(["profile", "evaluate", str(tmp_path / "broken.jsonl")]) == 2
    assert "broken.jsonl: line 1" in capsys.readouterr().err
    for bad in ("-1", "x"):
        with pytest.raises(SystemExit):
            main(["profile", "evaluate", str(traces), "--seed", bad])
        assert "is not a whole number of 0 or more" in capsys.readouterr().err
