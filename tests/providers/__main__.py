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

from .matrix import FAULTS, SLOTS, WAYS, cells
from .table import BY_NAME, ENVIRONMENT, PROVIDERS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.providers", description=__doc__)
    parser.add_argument("providers", nargs="*", metavar="PROVIDER", help=", ".join(BY_NAME))
    parser.add_argument("--way", action="append", choices=[way.name for way in WAYS])
    parser.add_argument("--fault", action="append", choices=FAULTS)
    parser.add_argument("--slots", action="append", type=int, choices=SLOTS)
    parser.add_argument("--patience", type=float, default=10.0, help="seconds until a scene gives up")
    parser.add_argument("-v", "--verbose", action="store_true", help="a line for each cell")
    args = parser.parse_args()
    unknown = [name for name in args.providers if name not in BY_NAME]
    if unknown:
        parser.error(f"no provider {', '.join(unknown)}; there are {', '.join(BY_NAME)}")
    os.environ.update(ENVIRONMENT)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    from .callers import running_bench
    from .scene import play

    played, failed, apart_s, begun_s = 0, 0, [], time.monotonic()
    with running_bench(args.patience) as bench:
        for provider in [BY_NAME[name] for name in args.providers] or PROVIDERS:
            if not provider.installed:
                print(f"{provider.name}: {provider.package} is not installed")
                continue
            row: dict[str, str] = defaultdict(str)
            for cell in cells([provider]):
                if (
                    (args.way and cell.way.name not in args.way)
                    or (args.fault and cell.fault not in args.fault)
                    or (args.slots and cell.slots not in args.slots)
                ):
                    continue
                report = play(bench, cell)
                played += 1
                failed += bool(report.wrong)
                apart_s.append(max(report.above_s, report.below_s))
                row[cell.way.name] += "x" if report.wrong else "."
                if args.verbose or report.wrong:
                    apart = f"apart {report.above_s:.3f} and {report.below_s:.3f} s"
                    print(f"{'FAILED' if report.wrong else 'passed'} {cell} {report.seconds:.2f} s, {apart}")
                for wrong in report.wrong:
                    print(f"    {wrong}")
                sys.stdout.flush()
            print(f"{provider.name}: " + ", ".join(f"{name} {marks}" for name, marks in row.items()))
    if apart_s:
        middle, most = statistics.median(apart_s), max(apart_s)
        print(f"slots held and requests in flight were apart for {middle:.3f} s at most in half of the cells, "
              f"for {most:.3f} s in one")
    print(f"{played} cells, {failed} failed, {time.monotonic() - begun_s:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
