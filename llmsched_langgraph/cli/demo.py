"""Defines `llmsched demo`: its options, and its output as a table or one JSON object.

Does not run the graphs.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from llmsched_langgraph._extras import needs_extra
from llmsched_langgraph.errors import ConfigurationError

if TYPE_CHECKING:
    from llmsched_langgraph.lab.demo.compare import DemoComparison


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `llmsched demo` to the parser."""
    parser = subparsers.add_parser(
        "demo",
        help="run the same agents on the same small backend, stock and scheduled, and compare",
        description=(
            "Starts an embedded OpenAI-compatible backend on loopback and runs three real LangGraph "
            "graphs on it, first on the stock runner, then scheduled, with the same arrivals."
        ),
    )
    parser.add_argument("--runs", type=int, default=150, metavar="N", help="runs in each pass (default 150)")
    parser.add_argument("--slots", type=int, default=8, metavar="K", help="calls served at once (default 8)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="random seed (default 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run both passes and print the comparison; return 1 if the scheduled pass broke a promise."""
    if options.runs < 1:
        raise ConfigurationError(f"--runs must be at least 1, not {options.runs}")
    try:
        from llmsched_langgraph.lab.demo.compare import compare
        from llmsched_langgraph.lab.demo.progress import progress
    except ImportError as error:
        raise needs_extra("the demo", error.name, "demo") from None
    with progress(options.runs) as on_finish:
        comparison = compare(options.runs, options.slots, options.seed, on_finish)
    if options.json:
        print(json.dumps(comparison.as_json()))
    else:
        _print_table(comparison)
    broken = comparison.broken_promises()
    for promise in broken:
        print(f"llmsched: {promise}", file=sys.stderr)
    return 1 if broken else 0


def _print_table(comparison: DemoComparison) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"{comparison.runs} runs of three LangGraph graphs on {comparison.slots} slots, "
        f"seed {comparison.seed} (seconds)",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("")
    for column in ("mean JCT", "p50 JCT", "p95 JCT", "makespan", "backend peak", "reduction"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, part, reduction in (
        ("stock", comparison.stock, ""),
        ("scheduled", comparison.scheduled, f"{comparison.mean_jct_reduction:.0%}"),
    ):
        table.add_row(
            name,
            *(f"{x:.2f}" for x in (part.mean_jct_s, part.p50_jct_s, part.p95_jct_s, part.makespan_s)),
            str(part.backend_peak),
            reduction,
        )
    console = Console()
    console.print(table)
    equal = "identical" if comparison.outputs_equal else "DIFFERENT"
    console.print(
        f"JCT is job completion time, waiting included. Outputs of both passes: {equal}. "
        f"Slots still held: {comparison.held_after}, calls still waiting: {comparison.waiting_after}."
    )
