"""`python -m tests.providers`: the whole matrix, for every provider package that is installed."""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import time
import warnings
from collections import defaultdict

from . import bare, matrix
from .table import BY_NAME, ENVIRONMENT, PROVIDERS, Provider


def main() -> int:
    """Play the cells that the arguments choose; return 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.providers", description=__doc__)
    parser.add_argument("providers", nargs="*", metavar="PROVIDER", help=", ".join(BY_NAME))
    parser.add_argument("--bare", action="store_true", help="the packages alone, without a scheduler")
    parser.add_argument("--way", action="append", choices=[way.name for way in matrix.WAYS])
    parser.add_argument("--fault", action="append", choices=matrix.FAULTS)
    parser.add_argument("--slots", action="append", type=int, choices=matrix.SLOTS)
    parser.add_argument("--patience", type=float, default=10.0, help="seconds until a cell gives up")
    parser.add_argument("-v", "--verbose", action="store_true", help="a line for each cell")
    args = parser.parse_args()
    unknown = [name for name in args.providers if name not in BY_NAME]
    if unknown:
        parser.error(f"no provider {', '.join(unknown)}; there are {', '.join(BY_NAME)}")
    os.environ.update(ENVIRONMENT)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    providers = [BY_NAME[name] for name in args.providers] or PROVIDERS
    for provider in providers:
        if not provider.installed:
            print(f"{provider.name}: {provider.package} is not installed")
    installed = [provider for provider in providers if provider.installed]
    begun_s = time.monotonic()
    played, failed = (_bare if args.bare else _matrix)(installed, args)
    print(f"{played} cells, {failed} failed, {time.monotonic() - begun_s:.0f} s")
    return 1 if failed else 0


def _bare(providers: list[Provider], args: argparse.Namespace) -> tuple[int, int]:
    from .callers import running_bench

    table = _Table(args.verbose)
    with running_bench(args.patience) as bench:
        for provider, way, fault in bare.cells(providers):
            table.add(
                f"{provider.name}-{way}-{fault}", provider, way, bare.check(bench, provider, way, fault)
            )
    return table.end()


def _matrix(providers: list[Provider], args: argparse.Namespace) -> tuple[int, int]:
    from .callers import running_bench
    from .scene import play

    table, apart_s = _Table(args.verbose), [0.0]
    with running_bench(args.patience) as bench:
        for cell in matrix.cells(providers):
            chosen = ((args.way, cell.way.name), (args.fault, cell.fault), (args.slots, cell.slots))
            if all(not wanted or this in wanted for wanted, this in chosen):
                report = play(bench, cell)
                apart_s.append(report.apart_s)
                wrong = [*report.wrong, report.story] if report.wrong else []
                name = f"{cell} {report.seconds:.2f} s, apart {report.apart_s:.3f} s"
                table.add(name, cell.provider, cell.way.name, wrong)
    middle_s, most_s = statistics.median(apart_s), max(apart_s)
    print(f"slots held and requests in flight differed for {middle_s:.3f} s (median), {most_s:.3f} s (most)")
    return table.end()


class _Table:
    """Prints failures as they come, and a row for each provider: a dot for each cell that passed."""

    def __init__(self, verbose: bool) -> None:
        self._verbose = verbose
        self._provider: Provider | None = None
        self._row: dict[str, str] = defaultdict(str)
        self._played = self._failed = 0

    def add(self, name: str, provider: Provider, column: str, wrong: list[str]) -> None:
        """Tell of one cell."""
        if provider is not self._provider:
            self._end_row()
            self._provider = provider
        self._played += 1
        self._failed += bool(wrong)
        self._row[column] += "x" if wrong else "."
        if self._verbose or wrong:
            print("FAILED" if wrong else "passed", name)
        for line in wrong:
            print(f"    {line}")
        sys.stdout.flush()

    def _end_row(self) -> None:
        if self._provider is not None:
            cells = ", ".join(f"{column} {marks}" for column, marks in self._row.items())
            print(f"{self._provider.name}: {cells}", flush=True)
        self._row.clear()

    def end(self) -> tuple[int, int]:
        """Return how many cells there were, and how many failed."""
        self._end_row()
        return self._played, self._failed


if __name__ == "__main__":
    sys.exit(main())
