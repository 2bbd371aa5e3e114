"""Plays random programs, or one from a file, from the command line.

    python -m tests.programs                                  # 200 programs
    python -m tests.programs --count 20000 --seed 7 --jobs 2  # many, in two processes at a time
    python -m tests.programs --seed 7 --only 131              # one of them
    python -m tests.programs --with pumped                    # with an ingredient that is known to be wrong
    python -m tests.programs failed.py                        # a program that was printed
    python -m tests.programs --list                           # the ingredients

A program that fails is simplified, and printed as a Python file that can be played again. Exit status: 0 if
none failed, 1 if one did, 2 if the command is wrong.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from programs.batches import PATIENCE_S, Player
from programs.features import AVAILABLE, SOUND, WRONG, Feature
from programs.finding import SHRINKING_S, TRIES, Failure, played, reduced
from programs.grammar.drawing import Drawn, draw
from programs.judging import Verdict


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    given = _parser().parse_args(arguments)
    if given.list:
        for feature in Feature:
            wrong = f"  # {WRONG[feature]}" if feature in WRONG else ""
            print(f"{feature}{wrong}")
        return 0
    if given.file is not None:
        return _play_file(given.file, given.tries, given.patience)
    return _play_many(given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.programs", description="Play random LangGraph programs, bare and scheduled."
    )
    add = parser.add_argument
    named: dict[str, Any] = {
        "action": "append",
        "default": [],
        "choices": sorted(AVAILABLE),
        "metavar": "INGREDIENT",
        "type": Feature,
    }
    add("file", nargs="?", type=Path, help="a printed program, to play it alone")
    add("--count", type=int, default=200, help="how many programs (default: %(default)s)")
    add("--seed", type=int, default=0, help="the seed (default: %(default)s)")
    add("--first", type=int, default=0, help="the first number (default: %(default)s)")
    add("--only", type=int, help="this number alone")
    add("--jobs", type=int, default=1, help="how many processes at a time (default: %(default)s)")
    add("--with", dest="wanted", help="programs that have this, even if it is known to be wrong", **named)
    add("--without", help="programs that do not have this", **named)
    add("--all", action="store_true", help="allow all that is known to be wrong")
    add("--stop", type=int, default=3, help="stop after so many failures (default: %(default)s)")
    add("--shrink", type=float, default=SHRINKING_S, metavar="SECONDS", help="how long to simplify a failure")
    add("--tries", type=int, default=TRIES, help="how often to play a simpler program, or the file")
    add("--patience", type=float, default=PATIENCE_S, metavar="SECONDS", help="how long nothing may happen")
    add("--list", action="store_true", help="list the ingredients and end")
    return parser


def _play_file(file: Path, tries: int, patience_s: float) -> int:
    with Player(patience_s) as player:
        for _ in range(tries):
            verdict = player.play(file.name, file.read_text())
            print(f"{verdict.kind or 'right'}: {verdict.calls} calls\n{verdict.text}")
            if verdict.kind:
                return 1
    return 0


def _play_many(given: argparse.Namespace) -> int:
    wanted = frozenset(given.wanted)
    allowed = ((AVAILABLE if given.all else SOUND) | wanted) - frozenset(given.without)
    numbers = [given.only] if given.only is not None else range(given.first, given.first + given.count)
    began, failures, tally = time.monotonic(), 0, Tally()

    def one_part(part: Sequence[int]) -> None:
        nonlocal failures
        programs = (draw(given.seed, number, allowed, wanted) for number in part)
        for drawn, verdict in played(programs, given.patience):
            tally.add(drawn, verdict)
            if verdict.kind:
                failures += 1
                print(f"{drawn.name}: {verdict.kind}; simplifying", file=sys.stderr, flush=True)
                _tell(reduced(drawn, verdict, seconds=given.shrink, tries=given.tries))
            if failures >= given.stop:
                return

    with ThreadPoolExecutor(given.jobs) as threads:
        for part in [threads.submit(one_part, numbers[job :: given.jobs]) for job in range(given.jobs)]:
            part.result()
    print(f"{tally} in {time.monotonic() - began:.0f} s; {failures} failed", file=sys.stderr)
    return 1 if failures else 0


def _tell(failure: Failure) -> None:
    print(failure.told(), flush=True)


class Tally:
    """Counts what was played."""

    def __init__(self) -> None:
        self.programs = self.calls = self.waiting = self.went_ahead = 0
        self.features: Counter[Feature] = Counter()

    def add(self, drawn: Drawn, verdict: Verdict) -> None:
        """Count one program."""
        self.programs += 1
        self.calls += verdict.calls
        self.waiting += verdict.waited_s > 0
        self.went_ahead += verdict.went_ahead
        self.features.update(drawn.written.features)

    def __str__(self) -> str:
        return (
            f"{self.programs} programs, {self.calls} calls, {self.waiting} programs with waits, "
            f"{self.went_ahead} calls that went ahead"
        )


if __name__ == "__main__":
    sys.exit(main())
