"""`llmsched replay`: recorded jobs come as they came, under each policy; errors on one line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from llmsched_langgraph.cli.main import main
from llmsched_langgraph.lab.sim.workloads import Poisson, arrive, generate
from llmsched_langgraph.traces import write_jobs

FEW = ["--policies", "fcfs,srtf"]


def shown(capsys, *arguments):
    assert main(["replay", *map(str, arguments)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def night(jobs, *, seed=1, load=0.9, slots=4):
    """Jobs as a scheduler writes them down: with times of arrival, and in the order in which they ended."""
    timed = arrive(generate("chain", jobs, seed), Poisson(), load=load, slots=slots, seed=seed)
    jobs = [replace(each.job, arrival_s=1.7e9 + each.arrival_s, jct_s=60.0) for each in timed]
    return [*jobs[1::2], *jobs[::2]]


@pytest.fixture
def recorded(tmp_path):
    path = tmp_path / "night.jsonl"
    write_jobs(night(80), path)
    return path


def test_the_later_half_is_measured(capsys, recorded):
    """Learned from the earlier; the load is what it came to, and the table is that of `llmsched bench`."""
    out = shown(capsys, recorded, *FEW, "--slots", "4")
    about, policies, saved = out.split("\n\n")
    assert about.startswith("40 jobs that came within ")
    assert ": load " in about
    assert about.endswith(" on 4 slots, learned from 40 others; their mean JCT was 60.0 s then")
    assert [line.split()[0] for line in policies.splitlines()[2:]] == ["fcfs", "srtf", "clairvoyant"]
    assert saved.startswith("reduction of the mean JCT by srtf\nagainst")


def test_as_data(capsys, recorded, tmp_path):
    """The load is that of the very times, whatever the order in the file."""
    result = json.loads(shown(capsys, recorded, *FEW, "--slots", "4", "--json"))
    later = sorted(night(80), key=lambda job: job.arrival_s)[40:]
    span_s = later[-1].arrival_s - later[0].arrival_s
    load = sum(job.work_s for job in later) / (4 * span_s)
    meta = result["meta"]
    assert meta["loads"] == [pytest.approx(load)]
    assert (meta["jobs"], meta["learned"], meta["rate"], meta["seeds"]) == ([40], 40, 1.0, 1)
    assert (meta["span_s"], meta["recorded_mean_jct_s"]) == (pytest.approx(span_s), 60.0)
    assert [row["policy"] for row in result["rows"]] == ["fcfs", "srtf", "clairvoyant"]
    assert {row["workload"] for row in result["rows"]} == {"replay"}
    file = tmp_path / "out.json"
    shown(capsys, recorded, *FEW, "--slots", "4", "--json", file, "--deciles", "--focus", "fcfs")
    again = json.loads(file.read_text())
    assert again["meta"]["focus"] == "fcfs"
    assert [row["mean_jct_s"] for row in again["rows"]] == [row["mean_jct_s"] for row in result["rows"]]


def test_the_rate_makes_it_denser(capsys, recorded):
    """Twice as fast is twice the load, and nobody waits less."""
    once, twice = (json.loads(shown(capsys, recorded, *FEW, "--rate", rate, "--json")) for rate in ("1", "2"))
    assert twice["meta"]["loads"][0] == pytest.approx(2 * once["meta"]["loads"][0])
    assert twice["rows"][0]["mean_jct_s"] > once["rows"][0]["mean_jct_s"]
    assert ", and now come 2 times as fast: load" in shown(capsys, recorded, *FEW, "--rate", "2")


def test_what_was_learned_elsewhere(capsys, recorded, tmp_path):
    """With --train, every recorded job is measured; from a folder as from a file."""
    write_jobs(generate("chain", 30, 99), tmp_path / "other.jsonl.gz")
    result = json.loads(
        shown(capsys, recorded, "--train", tmp_path / "other.jsonl.gz", "--policies", "sjf", "--json")
    )
    assert (result["meta"]["learned"], result["meta"]["jobs"]) == (30, [80])
    folder = tmp_path / "nights"
    folder.mkdir()
    for seed in (1, 2):
        renamed = [replace(job, id=f"{seed}-{job.id}") for job in night(20, seed=seed)]
        write_jobs(renamed, folder / f"{seed}.jsonl")
    assert json.loads(shown(capsys, folder, *FEW, "--json"))["meta"]["jobs"] == [20]


def test_plots(capsys, recorded, tmp_path):
    """As those of `llmsched bench`."""
    out = shown(capsys, recorded, *FEW, "--plots", tmp_path / "plots")
    assert out.endswith(f" plots in {tmp_path / 'plots'}, each as .png and .svg\n")
    assert (tmp_path / "plots" / "mean-jct.svg").exists()


def test_without_times_of_arrival(capsys, tmp_path):
    """It says which command does without."""
    path = tmp_path / "jobs.jsonl"
    write_jobs(generate("chain", 4, 0), path)
    assert main(["replay", str(path)]) == 2
    (name,) = {job.id for job in generate("chain", 1, 0)}
    assert capsys.readouterr().err == (
        f"llmsched: job {name!r} has no arrival time, so it cannot be replayed; "
        "`llmsched bench --traces` draws arrivals for recorded jobs at a load of your choice\n"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--slots", "0"], "--slots must be at least 1, not 0"),
        (["--rate", "0"], "--rate must be above 0 and finite, not 0.0"),
        (["--rate", "nan"], "--rate must be above 0 and finite, not nan"),
        (["--rate", "inf"], "--rate must be above 0 and finite, not inf"),
        (["--policies", "magic"], "unknown policy 'magic'; choose one of: "),
        (["--focus", "sjf", *FEW], "--focus must be one of fcfs, srtf, not 'sjf'"),
        (["--plots", __file__], f"--plots {__file__}: File exists"),
        (["nowhere.jsonl"], "nowhere.jsonl"),
        (["--train", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--train", "SELF"], "is also among the jobs to replay; learn from other jobs"),
        (["SELF"], "occurs twice; name each file of recorded jobs once"),
    ],
)
def test_errors_are_one_line(refuses, recorded, arguments, words):
    """What is wrong and what to do, exit status 2."""
    given = [str(recorded) if word == "SELF" else word for word in arguments]
    refuses(["replay", str(recorded), *given], words)


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ([5.0], "1 recorded jobs are too few"),
        ([5.0, 6.0], "2 recorded jobs are too few"),
        ([5.0, 6.0, 7.0, 7.0], "4 recorded jobs are too few"),
    ],
)
def test_too_few_jobs(capsys, tmp_path, times, words):
    """At least one to learn from, and two that came at different times."""
    path = tmp_path / "jobs.jsonl"
    jobs = generate("chain", len(times), 0)
    write_jobs((replace(job, arrival_s=at) for job, at in zip(jobs, times, strict=True)), path)
    assert main(["replay", str(path)]) == 2
    assert words in capsys.readouterr().err
