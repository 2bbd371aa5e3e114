"""The README says what is true: its code runs, its commands exist, and CI runs the same test command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmsched_langgraph import default_scheduler, reset_default_scheduler

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
PACKAGE = ROOT / "llmsched_langgraph"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_python_blocks_run(tmp_path):
    """The Python blocks run top to bottom as one program, and print what they should."""
    program = "\n".join(blocks("python"))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    scheduler = "<Scheduler llmsched | 0 jobs | gpu 0/16 +0 | api 0/50 +0>"
    door = "(200, 'Paris.')"
    searched = "['nothing about capital of France', 'Paris.'] 3"
    expected = ["100 Paris.", scheduler, "0", searched, "('calls',) 1", "3", door, "['answer'] [2]"]
    assert done.stdout.splitlines() == expected


def test_the_toml_block_is_a_configuration(tmp_path, monkeypatch):
    """The file of `LLMSCHED_CONFIG` is what the README shows."""
    (block,) = blocks("toml")
    (tmp_path / "llmsched.toml").write_text(block)
    for name in [name for name in os.environ if name.startswith("LLMSCHED_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LLMSCHED_CONFIG", str(tmp_path / "llmsched.toml"))
    reset_default_scheduler()
    try:
        assert repr(default_scheduler()) == "<Scheduler llmsched | 0 jobs | gpu 0/16 +0 | api 0/8 +0>"
    finally:
        reset_default_scheduler()


def test_the_variables_are_those_that_are_read():
    """The README names each of them, and no other."""
    from llmsched_langgraph._runtime.environment import KNOWN

    assert set(re.findall(r"`(LLMSCHED_\w+)`", README)) == set(KNOWN)


def test_ci_runs_the_same_test_command():
    """`.ci/run` contains the README's command for the tests, word for word."""
    (command,) = [block.strip() for block in blocks("console") if "pytest" in block]
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_commands_exist():
    """Every `llmsched` command that the README names is one, with the options it is given there."""
    from llmsched_langgraph.cli.main import main

    commands = set(
        re.findall(
            r"llmsched (demo|doctor|inspect|bench|metrics|record|replay|report|testbed|[a-z]+-[a-z]+)", README
        )
    )
    assert commands >= {"demo", "inspect", "bench", "record", "replay", "report", "testbed", "serve-sim"}
    for command in commands:
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0


def test_what_is_measured_is_there():
    """Between the marks of each script there is a table with figures in it."""
    marked = re.findall(
        r"^<!-- (\w+): written by .*? -->\n(.*?)^<!-- /\1 -->", README, re.MULTILINE | re.DOTALL
    )
    assert len(marked) == README.count(": written by ") >= 6
    for name, table in marked:
        assert len(table.splitlines()) > 2, name
        assert re.search(r"\| [*]*\d", table), name


def test_policies_are_all_in_the_table():
    """The README's table of policies has each policy once, and no other."""
    from llmsched_langgraph.policies import POLICIES

    table = README[README.index("### Policies") : README.index("### Limits")]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(POLICIES)


def test_the_architecture_names_what_is_there():
    """Every package has a row, and every path and state of the page exists."""
    rows = re.findall(r"^\| (`.*?`(?:, `.*?`)*(?: \(public\))?) \|", ARCHITECTURE, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([\w/]+)`", row)}
    there = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} | {
        path.stem for path in PACKAGE.glob("*.py")
    }
    there -= {"__init__", "__main__", "_version"}
    assert there == {name.split("/")[0] for name in named}
    for path in re.findall(r"`((?:_\w+|lab|cli)/[\w/]+(?:\.py)?)`", ARCHITECTURE):
        assert (PACKAGE / path).exists(), path
    for path in re.findall(r"`(tests/[\w/.]+)`", ARCHITECTURE):
        assert (ROOT / path).exists(), path


def test_the_architecture_names_the_entries_of_the_story():
    """The state tables know every kind of entry about tickets and jobs."""
    from llmsched_langgraph._core.events import Entry

    told = set(re.findall(r"\b(?:Call|Slot|Job)[A-Z]\w+", Entry.__doc__)) - {"JobInfo", "CallInfo"}
    assert told <= set(re.findall(r"`(\w+)`", ARCHITECTURE))
