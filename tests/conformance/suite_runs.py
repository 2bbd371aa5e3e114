"""Knows how to run LangGraph's tests, or some of them, bare or wrapped, and what came of it.

Does not know what a lost test is.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fetch import Suite, say

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parents[1] / "llmsched_langgraph"
PLUGIN = "wrap_every_graph"


@dataclass
class Results:
    """What one run of pytest gave.

    Attributes:
        name: of the run.
        seconds: that it took.
        outcomes: of each test.
        reasons: why those that failed did.
        totals: of each process's scheduler.
        problems: why the run as a whole is not to be trusted.
    """

    name: str
    seconds: float = 0.0
    outcomes: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    totals: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def counts(self) -> Counter[str]:
        """How many tests had each outcome."""
        return Counter(self.outcomes.values())

    def __str__(self) -> str:
        counts = self.counts
        return ", ".join(f"{counts[outcome]} {outcome}" for outcome in ("passed", "failed", "skipped"))


@dataclass(frozen=True)
class Settings:
    """How pytest is to be run.

    Attributes:
        workers: processes that share the tests; one runs them by itself.
        test_timeout_s: after which a test fails.
        run_timeout_s: after which a run is ended.
        progress_s: between two lines that say how far it is.
        busy: whether others keep the slots busy, so that every call has to wait.
        pytest_args: pytest's own, for runs of the whole suite.
    """

    workers: int
    test_timeout_s: int
    run_timeout_s: int
    progress_s: int
    busy: bool
    pytest_args: tuple[str, ...]


class SuiteRunner:
    """Runs a suite, against the package as it is when this is made.

    Args:
        suite: which one.
        settings: how.
        folder: for logs and reports; the code that is tested is copied there.
    """

    def __init__(self, suite: Suite, settings: Settings, folder: Path) -> None:
        self._suite = suite
        self._settings = settings
        self._folder = folder
        # The checkout may be edited meanwhile; all runs are to test the same code.
        self._code = folder / "code"
        shutil.copytree(PACKAGE, self._code / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(HERE / f"{PLUGIN}.py", self._code)

    def whole(self, slots: int | None) -> Results:
        """The suite, or what pytest's own arguments choose of it; bare if there are no slots."""
        workers, chosen = self._settings.workers, self._settings.pytest_args
        # A file stays with one worker, as fixtures of whole modules expect.
        parallel = ["-n", str(workers), "--dist", "loadfile"] if workers > 1 else []
        return self._run(self._name(slots), slots, [*parallel, *(chosen or ["tests"])], max(workers, 1))

    def alone(self, tests: Iterable[str], slots: int | None, name: str) -> Results:
        """Only these tests, one after the other in one process; `name` is what to call the run."""
        listed = self._folder / f"{_file(name)}.txt"
        listed.write_text("".join(f"{test}\n" for test in tests), encoding="utf-8")
        return self._run(name, slots, [f"@{listed}"], 1)

    def _run(self, name: str, slots: int | None, arguments: Sequence[str], processes: int) -> Results:
        report, log = self._folder / f"{_file(name)}.jsonl", self._folder / f"{_file(name)}.log"
        report.write_text("", encoding="utf-8")
        command = [str(self._suite.python), "-m", "pytest", "-p", PLUGIN, "-p", "no:cacheprovider"]
        # LangGraph's own options are for people, and ask for plugins that are not there.
        command += ["-o", "addopts=", "-q", "-rfE", "--tb=short", "--timeout-method=signal"]
        command += [f"--timeout={self._settings.test_timeout_s}", *arguments]
        begin = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self._suite.folder,
                env=self._environment(slots, report),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = self._watch(name, process, report, begin)
            finally:
                _end(process)
        results = _read(name, report)
        results.seconds = round(time.monotonic() - begin, 1)
        if code is None:
            results.problems.append(f"was ended after {self._settings.run_timeout_s} s")
        elif code not in (0, 1):  # 0: all passed; 1: some failed
            tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
            results.problems.append("\n".join([f"pytest ended with status {code}:", *tail]))
        elif slots and len(results.totals) != processes:
            results.problems.append(f"{len(results.totals)} of {processes} processes gave their totals")
        say(f"{name}: {results}, {results.seconds:.0f} s, log {log}")
        return results

    def _name(self, slots: int | None) -> str:
        if slots is None:
            return "bare"
        return f"{slots} slot{'s' * (slots > 1)}{', busy' * self._settings.busy}"

    def _environment(self, slots: int | None, report: Path) -> dict[str, str]:
        ours = ("PYTEST", "PYTHON", "LANGCHAIN", "LANGGRAPH", "LANGSMITH", "LLMSCHED")
        return {
            **{key: value for key, value in os.environ.items() if not key.startswith(ours)},
            "NO_DOCKER": "true",
            "PYTHONPATH": str(self._code),
            "LLMSCHED_CONFORMANCE_REPORT": str(report),
            "LLMSCHED_CONFORMANCE_SLOTS": str(slots or ""),
            "LLMSCHED_CONFORMANCE_BUSY": "1" if self._settings.busy else "",
        }

    def _watch(self, name: str, process: subprocess.Popen[bytes], report: Path, begin: float) -> int | None:
        """Say how far it is until it ends; its status, None if its time is over first."""
        said = begin
        while True:
            try:
                return process.wait(1)
            except subprocess.TimeoutExpired:
                now = time.monotonic()
            if now - begin > self._settings.run_timeout_s:
                return None
            if now - said > self._settings.progress_s:
                said = now
                expected = max((entry.get("tests", 0) for entry in _entries(report)), default=0)
                say(f"{name}: {_read(name, report)} of {expected}, {now - begin:.0f} s so far")


def _file(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End pytest and its workers, if they still run."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _entries(report: Path) -> list[dict[str, Any]]:
    lines = report.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]  # the last may be half written


def _read(name: str, report: Path) -> Results:
    results = Results(name)
    for entry in _entries(report):
        if "test" in entry:
            _note(results, entry)
        elif "process" in entry:
            if entry["error"]:
                results.problems.append(f"process {entry['process']} broke down: {entry['error']}")
            if entry["totals"]:
                results.totals.append(entry["totals"])
    return results


def _note(results: Results, entry: dict[str, Any]) -> None:
    """Take in one phase of a test: its set-up, call or tear-down. One that failed settles it."""
    test, outcome = entry["test"], entry["outcome"]
    if entry["xfail"]:
        outcome = "xpassed" if outcome == "passed" else "xfailed"
    if outcome == "failed":
        results.reasons.setdefault(test, f"{entry['when']}: {entry['why']}")
    if outcome == "failed" or results.outcomes.get(test, "passed") == "passed":
        results.outcomes[test] = outcome
