"""Runs LangGraph's own test suite bare and with every graph scheduled: not one test may be lost.

    python tests/conformance/run.py                              # the installed version, 1, 4 and 50 slots
    python tests/conformance/run.py --langgraph 1.2.0 --slots 4  # another version
    python tests/conformance/run.py --langgraph newest --json    # the newest one, for a machine
    python tests/conformance/run.py --slots 1 4 --busy           # each call of the suite has to wait
    python tests/conformance/run.py --slots 1 -- -k interrupt    # only some tests: arguments of pytest

LangGraph's source distribution ships its tests. They are fetched with pip, from whatever index pip is
set up to use, into a cache folder, where they get a virtual environment of their own: LangGraph from
its wheel and what its tests need. That is done once for each version of LangGraph and Python (about a
minute and 150 MB) and works without a network from then on. Nothing that is fetched enters the
repository, nothing of ours enters the environment, and what is tested is a copy of the package as it
was at the start.

The suite runs bare, then once for each number of slots with every compiled graph passed through
`schedule(graph, scheduler)`, with one scheduler in each worker process (see `wrap_every_graph.py`). A
test that passes bare and not wrapped is tried again without other tests beside it, several times both
ways, because upstream has tests that depend on timing. It counts as

- lost, if it passes each time bare and fails wrapped at least once;
- timing, if it passes each time both ways: it was missed once, beside other tests;
- upstream, if it fails bare as well.

Hardly any of the tests has two model calls in flight at once, so their calls take slots and do not
have to wait for them. With `--busy` other threads keep all slots taken, and nearly every call waits.

Exit status: 0 if no test was lost and every scheduler ended empty; 1 if a test was lost, if slots,
waiting calls or jobs were left over, or if more calls held slots than there are; 2 if the check itself
could not be made. Tests that need Docker or Postgres are off, as they are upstream without Docker.

`langchain` must not be installed beside the suite: it adds itself to metadata that tests compare.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fetch import Cache, CheckError, Suite, say
from suite_runs import Results, Settings, SuiteRunner

MOST_RETRIED = 50
"""If more tests than this are missed, something is broken altogether, and no retry would tell more."""

SHOWN = ("langgraph", "langchain-core", "langgraph-checkpoint", "langgraph-prebuilt", "pytest")
LEFT = {"holding": "slots held", "waiting": "calls waiting", "jobs_running": "jobs running"}
COLUMNS = {
    "calls": "calls",
    "waits": "waits",
    "waited_s": "waited s",
    "granted": "granted",
    "released": "released",
    "peak": "peak",
    "over_commitments": "forced",
    "holding": "holding",
    "waiting": "waiting",
    "jobs_running": "jobs left",
}
KINDS = ("StateGraph.compile", "entrypoint", "Pregel")


@dataclass
class Comparison:
    """One wrapped run beside the bare one.

    Attributes:
        slots: of each process's scheduler.
        results: of the wrapped run.
        lost: tests that pass bare only, with the reason why they failed wrapped.
        timing: tests that were missed once and pass alone.
        upstream: tests that fail bare as well.
        problems: what else is wrong.
    """

    slots: int
    results: Results
    lost: dict[str, str] = field(default_factory=dict)
    timing: dict[str, str] = field(default_factory=dict)
    upstream: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def totals(self) -> dict[str, Any]:
        """The schedulers' totals over all processes."""
        sums: dict[str, Any] = {
            "graphs": Counter(),
            "faults": [],
            "warnings": [],
            "peak": 0,
            "over_the_limit": False,
        }
        for part in self.results.totals:
            for key, value in part.items():
                if key == "peak":
                    sums["peak"] = max(sums["peak"], value)
                elif key == "graphs":
                    sums["graphs"].update(value)
                elif key in ("faults", "warnings"):
                    sums[key] += [line for line in value if line not in sums[key]]
                elif key != "slots":
                    sums[key] = round(value + sums.get(key, 0), 3)
            # A call that cannot wait goes ahead above the slots, and is counted.
            sums["over_the_limit"] |= part["peak"] > part["slots"] + part["over_commitments"]
        return {**sums, "graphs": dict(sums["graphs"])}


def compare(
    runner: SuiteRunner, slots: int, bare: Mapping[str, str], *, retries: int, whole: bool
) -> Comparison:
    """Run the suite with `slots` slots, and judge each test that passes bare and did not pass so.

    Args:
        runner: what runs the suite.
        slots: of each process's scheduler.
        bare: outcomes of the bare run; if there are none, every test that fails is looked at.
        retries: how often a test is tried again alone, both ways; never, if very many are missed.
        whole: whether this is the whole suite, in which every kind of graph is to be seen.
    """
    results = runner.whole(slots)
    compared = Comparison(slots, results, problems=list(results.problems))
    if bare:
        missed = [test for test, outcome in bare.items() if outcome == "passed"]
        missed = [test for test in missed if results.outcomes.get(test) != "passed"]
    else:
        missed = [test for test, outcome in results.outcomes.items() if outcome == "failed"]
    _retry(runner, compared, missed, retries if len(missed) <= MOST_RETRIED else 0)
    compared.problems += _leaks(compared.totals, whole=whole)
    return compared


def _retry(runner: SuiteRunner, compared: Comparison, missed: Sequence[str], retries: int) -> None:
    """Sort the missed tests into lost, timing and upstream."""
    outcomes, reasons = compared.results.outcomes, compared.results.reasons
    undecided = {test: reasons.get(test, outcomes.get(test, "was not run")) for test in missed}
    failed_alone = set[str]()
    for attempt in range(1, retries + 1):
        if not undecided:
            return
        say(f"{len(undecided)} tests passed bare only: attempt {attempt} of {retries} with them alone")
        name = f"{compared.results.name}, attempt {attempt}"
        bare = runner.alone(undecided, None, f"{name}, bare")
        for test in [test for test in undecided if bare.outcomes.get(test) != "passed"]:
            compared.upstream[test] = undecided.pop(test)
        # Once is enough to fail, and a test that hangs takes all its time.
        untried = [test for test in undecided if test not in failed_alone]
        if untried:
            wrapped = runner.alone(untried, compared.slots, f"{name}, wrapped")
            failed_alone |= {test for test in untried if wrapped.outcomes.get(test) != "passed"}
    for test, why in undecided.items():
        lost = test in failed_alone or not retries
        (compared.lost if lost else compared.timing)[test] = why


def _leaks(totals: dict[str, Any], *, whole: bool) -> list[str]:
    found = [f"{totals[key]} {what} at the end" for key, what in LEFT.items() if totals.get(key)]
    granted, released = totals.get("granted"), totals.get("released")
    if granted != released:
        found.append(f"{granted} calls were granted and {released} released")
    if totals["over_the_limit"]:
        found.append("more calls held slots than there are")
    found += [f"Scheduler.check(): {fault}" for fault in totals["faults"]]
    calls = totals.get("calls")
    if whole and not (calls and all(totals["graphs"].get(kind) for kind in KINDS)):
        # LangGraph makes or calls things in another way now, and the run proved nothing.
        found.append(f"graphs wrapped: {totals['graphs']}, calls: {calls}; there should be some of each")
    return found


# -- what is printed -------------------------------------------------------------------


def table(rows: Sequence[Sequence[object]]) -> str:
    """Rows in columns, the first column to the left and the others to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *others in cells:
        padded = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *padded]))
    return "\n".join(lines)


def head(suite: Suite) -> str:
    """What is tested with what."""
    return ", ".join(f"{name} {suite.versions[name]}" for name in SHOWN if name in suite.versions)


def report(suite: Suite, bare: Results | None, compared: Sequence[Comparison]) -> str:
    """The result, for a person."""
    rows: list[Sequence[object]] = [("run", "passed", "failed", "skipped", "other", "lost", "seconds")]
    for results, lost in [(bare, ""), *((one.results, len(one.lost)) for one in compared)]:
        if results is not None:
            counts = results.counts
            named = [counts[outcome] for outcome in ("passed", "failed", "skipped")]
            rows.append((results.name, *named, counts.total() - sum(named), lost, f"{results.seconds:.0f}"))
    parts = [head(suite), table(rows)]
    if bare is not None and bare.reasons:
        lines = [f"{len(bare.reasons)} tests fail bare:", *sorted(bare.reasons)]
        parts.append("\n  ".join(lines))
    if compared:
        rows = [("schedulers", "graphs", *COLUMNS.values())]
        for one in compared:
            totals = one.totals
            figures = [totals.get(key, "?") for key in COLUMNS]
            rows.append((one.results.name, sum(totals["graphs"].values()), *figures))
        parts.append(table(rows))
    for one in compared:
        for title, tests in (
            ("LOST: pass bare, fail wrapped, also alone", one.lost),
            ("timing: were missed once, pass alone both ways", one.timing),
            ("upstream: fail bare as well", one.upstream),
        ):
            if tests:
                lines = [f"  {test}\n      {why.splitlines()[0]}" for test, why in tests.items()]
                parts.append("\n".join([f"{one.results.name}, {len(tests)} {title}", *lines]))
        parts += [f"{one.results.name}, the package warns: {line}" for line in one.totals["warnings"]]
        parts += [f"{one.results.name}, PROBLEM: {problem}" for problem in one.problems]
    return "\n\n".join(parts)


def as_data(suite: Suite, bare: Results | None, compared: Sequence[Comparison]) -> dict[str, Any]:
    """The result, for a machine."""

    def brief(results: Results) -> dict[str, Any]:
        return {
            "counts": dict(results.counts),
            "seconds": results.seconds,
            "failed": results.reasons,
        }

    return {
        "langgraph": suite.version,
        "python": sys.version.split()[0],
        "versions": suite.versions,
        "ok": _ok(compared),
        "bare": None if bare is None else brief(bare),
        "wrapped": [
            {
                "slots": one.slots,
                **brief(one.results),
                "lost": one.lost,
                "timing": one.timing,
                "upstream": one.upstream,
                "schedulers": one.totals,
                "problems": one.problems,
            }
            for one in compared
        ],
    }


def _ok(compared: Sequence[Comparison]) -> bool:
    return not any(one.lost or one.problems for one in compared)


# -- the command -----------------------------------------------------------------------


def installed() -> str:
    """The version of LangGraph that this interpreter has, else `newest`."""
    try:
        return importlib.metadata.version("langgraph")
    except importlib.metadata.PackageNotFoundError:
        return "newest"


def command_line() -> argparse.ArgumentParser:
    """What can be said to it."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="tests/conformance/run.py",
        usage="%(prog)s [options] [-- arguments of pytest]",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "llmsched-langgraph" / "conformance"
    text = "whose tests to run, or `newest` (default: %(default)s)"
    parser.add_argument("--langgraph", metavar="VERSION", default=installed(), help=text)
    text = "slots of the scheduler: one wrapped run for each (default: 1 4 50)"
    parser.add_argument("--slots", type=_positive, nargs="+", metavar="N", default=[1, 4, 50], help=text)
    text = "processes that share the tests; with 1 there is only one (default: %(default)s)"
    parser.add_argument("--workers", type=_positive, metavar="N", default=2, help=text)
    text = "install this, too, e.g. langchain-core==1.4.7; can be given more than once"
    parser.add_argument(
        "--with", dest="requirements", action="append", metavar="REQUIREMENT", default=[], help=text
    )
    text = "where everything that is fetched stays (default: %(default)s)"
    parser.add_argument("--cache", type=Path, metavar="DIR", default=cache, help=text)
    text = "unpack the tests and make their environment again"
    parser.add_argument("--fresh", action="store_true", help=text)
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--bare-only", action="store_true", help="run the suite as it is, and no more")
    text = "compare with the latest bare run that is in the cache; without one, look at every failure"
    only.add_argument("--wrapped-only", action="store_true", help=text)
    text = "let rivals keep all slots taken, so that nearly every call of the suite has to wait"
    parser.add_argument("--busy", action="store_true", help=text)
    text = "how often a missed test is tried again alone, both ways (default: %(default)s); with 0 it is lost"
    parser.add_argument("--retries", type=int, metavar="N", default=5, help=text)
    text = "seconds after which a test fails (default: %(default)s)"
    parser.add_argument("--test-timeout", type=_positive, metavar="S", default=60, help=text)
    text = "seconds after which a run of the suite is ended (default: %(default)s)"
    parser.add_argument("--run-timeout", type=_positive, metavar="S", default=1800, help=text)
    text = "seconds between two lines of progress (default: %(default)s)"
    parser.add_argument("--progress", type=_positive, metavar="S", default=15, help=text)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text}")
    return number


def bare_outcomes(suite: Suite, bare: Results | None, pytest_args: Sequence[str]) -> dict[str, str]:
    """What each test did bare: in this run, else in an earlier one with the same arguments."""
    if bare is not None:
        kept = {"arguments": list(pytest_args), "outcomes": bare.outcomes}
        suite.baseline.write_text(json.dumps(kept), encoding="utf-8")
        return bare.outcomes
    if not suite.baseline.exists():
        return {}
    kept = json.loads(suite.baseline.read_text(encoding="utf-8"))
    outcomes: dict[str, str] = kept["outcomes"] if kept["arguments"] == list(pytest_args) else {}
    return outcomes


def check(options: argparse.Namespace, pytest_args: Sequence[str]) -> int:
    """Do what the command says; its exit status.

    Raises:
        CheckError: it could not be done.
    """
    cache = Cache(options.cache.expanduser().resolve(), fresh=options.fresh)
    suite = cache.suite(None if options.langgraph == "newest" else options.langgraph, options.requirements)
    say(head(suite))
    settings = Settings(
        workers=options.workers,
        test_timeout_s=options.test_timeout,
        run_timeout_s=options.run_timeout,
        progress_s=options.progress,
        busy=options.busy,
        pytest_args=tuple(pytest_args),
    )
    runner = SuiteRunner(suite, settings, cache.run_folder())
    bare = None if options.wrapped_only else runner.whole(None)
    if bare is not None and bare.problems:
        raise CheckError(f"the bare run did not work: {bare.problems[0]}")
    outcomes = bare_outcomes(suite, bare, pytest_args)
    compared = [
        compare(runner, slots, outcomes, retries=options.retries, whole=not pytest_args)
        for slots in ([] if options.bare_only else options.slots)
    ]
    if options.json:
        print(json.dumps(as_data(suite, bare, compared), indent=1))
    else:
        print(report(suite, bare, compared))
    return 0 if _ok(compared) else 1


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = command_line().parse_args(arguments[:end])
    try:
        return check(options, arguments[end + 1 :])
    except CheckError as error:
        print(f"tests/conformance/run.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
