"""Comparisons as text and as pictures: what is in them follows from the data alone."""

from __future__ import annotations

import json

import pytest
from support.comparisons import result_of, row_of

pytest.importorskip("matplotlib")

from llmsched_langgraph.lab.bench_plots import figures, write_figures
from llmsched_langgraph.lab.bench_table import tables

POLICIES = {"fcfs": 40.0, "llmsched": 20.0, "llmsched(epsilon=0.2)": 25.0, "clairvoyant": 10.0}


def compared(seeds=2, loads=(0.7, 0.9), jobs=(3, 9), policies=POLICIES):
    rows = [
        row_of(policy, seed, mean * (1 + seed) * load, workload=workload, load=load, jobs=count)
        for workload in ("chain", "mixed")
        for load in loads
        for count in jobs
        for policy, mean in policies.items()
        for seed in range(seeds)
    ]
    return result_of(rows, "llmsched")


def test_text():
    """A block for each setting: policies, what is saved with its interval, and tenths when asked for."""
    blocks = tables(compared(jobs=(3,), loads=(0.5,)), deciles=True).split("\n\n")
    assert len(blocks) == 6
    about, head, fcfs, *rest = blocks[0].splitlines()
    assert (about, head.split()[0], len(rest)) == ("chain, load 0.5, 2 slots", "policy", 3)
    assert fcfs.split() == ["fcfs", "30.0", "s", "127.1", "30.0", "57.0", "59.4", "4.00", "6.00", "50"]
    assert [line.split() for line in blocks[1].splitlines()[2:]] == [
        ["fcfs", "50.0", "%", "50.0", "to", "50.0"],
        ["llmsched(epsilon=0.2)", "20.0", "%", "20.0", "to", "20.0"],
    ]
    assert blocks[2].splitlines()[2].split() == ["fcfs", "1.50", "2.50", "6.00", "8.00"]
    one_seed = tables(compared(seeds=1, jobs=(3,), loads=(0.5,)))
    assert ["fcfs", "50.0", "%", "-"] in [line.split() for line in one_seed.splitlines()]
    assert "reduction" not in tables(
        result_of([row_of("llmsched", 0, 1.0), row_of("clairvoyant", 0, 1.0)], "llmsched")
    )


def test_which_figures():
    """Those of each setting, and over what varies; data that went through a file gives the same."""
    names = [name for name, _ in figures(json.loads(json.dumps(compared())))]
    suffixes = [f"-load-{load}-jobs-{jobs}" for load in (0.7, 0.9) for jobs in (3, 9)]
    at_one = ("mean-jct", "reduction", "jct-quantiles", "slowdown-by-size", "decision-time")
    over = [
        "jct-over-load-jobs-3",
        "jct-over-load-jobs-9",
        "jct-over-jobs-load-0.7",
        "jct-over-jobs-load-0.9",
    ]
    assert names == [name + suffix for suffix in suffixes for name in at_one] + over
    assert [name for name, _ in figures(compared(jobs=(3,)))][-1] == "jct-over-load"


@pytest.mark.parametrize("seeds", [1, 2])
def test_what_is_drawn(seeds):
    """A panel for each workload, with a unit; every policy; confidence only where there is any."""
    drawn = dict(figures(compared(seeds, loads=(0.7, 0.9), jobs=(3,))))
    for figure in drawn.values():
        assert [axes.get_title(loc="left") for axes in figure.axes] == ["chain", "mixed"]
        assert all(axes.get_xlabel() for axes in figure.axes)
        assert ("confidence" in figure.get_suptitle()) <= (seeds > 1)
    bars = drawn["mean-jct-load-0.9"].axes[0]
    assert [tick.get_text() for tick in bars.get_yticklabels()] == list(POLICIES)
    assert [bar.get_width() for bar in bars.patches] == pytest.approx(
        [mean * 0.9 * (1 + seeds) / 2 for mean in POLICIES.values()]
    )
    assert ("95 % confidence" in drawn["mean-jct-load-0.9"].get_suptitle()) == (seeds > 1)
    (legend,) = drawn["jct-over-load"].legends
    assert [text.get_text() for text in legend.get_texts()] == list(POLICIES)
    lines = {line.get_label(): line for line in drawn["jct-over-load"].axes[0].get_lines()}
    assert lines["fcfs"].get_xdata().tolist() == [0.7, 0.9]


def test_policies_are_panels_by_policy():
    """However many there are, no two curves look alike."""
    many = {"llmsched": 1.0, "clairvoyant": 1.0, **{f"p{n}": 1.0 for n in range(20)}}
    drawn = dict(figures(compared(1, jobs=(3,), policies=many)))
    curves = drawn["jct-over-load"].axes[0].get_lines()
    assert len({(c.get_color(), c.get_linestyle(), c.get_marker()) for c in curves}) == len(many)


def test_values_of_no_size_are_drawn(tmp_path):
    """Decisions that nobody timed, and jobs that took no time, do no harm to a logarithmic axis."""
    rows = [row_of(policy, 0, 1e-9, decision_us_p50=0.0, decision_us_p99=0.0) for policy in POLICIES]
    assert len(write_figures(result_of(rows, "llmsched"), tmp_path)) == 5


def test_the_same_data_gives_the_same_files(tmp_path):
    """To the byte, so that pictures under version control change with the figures only."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_figures(compared(jobs=(3,), loads=(0.9,)), tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
