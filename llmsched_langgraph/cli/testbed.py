"""Defines `llmsched testbed`: its options, and its output as tables or one JSON object.

Does not run the jobs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llmsched_langgraph._extras import needs_extra
from llmsched_langgraph.cli.complaints import SkippedLines
from llmsched_langgraph.errors import ConfigurationError

if TYPE_CHECKING:
    from llmsched_langgraph.lab.sim.latency import LatencyModel
    from llmsched_langgraph.lab.testbed.result import Comparison


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `llmsched testbed` to the parser."""
    parser = subparsers.add_parser(
        "testbed",
        help="run recorded or generated jobs as LangGraph graphs on a real endpoint, stock and scheduled",
        description=(
            "Replays jobs as LangGraph graphs whose model calls have the recorded lengths, on an "
            "OpenAI-compatible endpoint, on the stock runner and scheduled, with the same arrivals; and "
            "prints what the simulator predicts. Without --base-url it starts an embedded backend."
        ),
    )
    parser.add_argument("--base-url", metavar="URL", help="endpoint's URL (default: an embedded backend)")
    parser.add_argument("--model", metavar="M", help="model to request (default: the first it lists)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--mix", metavar="NAME", help="a mix or application to generate (default: mixed)")
    what.add_argument(
        "--traces", nargs="+", type=Path, metavar="PATH", help="recorded jobs: files or folders of them"
    )
    parser.add_argument("--apps", metavar="A,B", help="applications to generate, or to select in --traces")
    parser.add_argument("--runs", type=int, default=40, metavar="N", help="measured runs (default 40)")
    parser.add_argument(
        "--warmup",
        type=int,
        default=40,
        metavar="N",
        help="warm-up runs of both sides, for the profile and the simulator's fit (default 40)",
    )
    parser.add_argument("--slots", type=int, default=8, metavar="K", help="calls served at once (default 8)")
    parser.add_argument(
        "--ahead",
        type=int,
        default=0,
        metavar="N",
        help="calls beyond K that the scheduler sends, so that the server has the next call queued when one "
        "of its slots is free (default 0)",
    )
    parser.add_argument("--load", type=float, default=0.9, metavar="L", help="offered load (default 0.9)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="random seed (default 0)")
    parser.add_argument("--rounds", type=int, default=1, metavar="R", help="passes of each side (default 1)")
    parser.add_argument("--policy", default="llmsched", help="scheduled side's policy (default %(default)s)")
    parser.add_argument(
        "--time-scale",
        type=float,
        metavar="X",
        help="speed-up: the embedded backend decodes X times as fast; on an endpoint, calls have 1/X of the "
        "tokens; tools take 1/X of their time (default: chosen for the embedded backend; 1 on an endpoint)",
    )
    parser.add_argument(
        "--ignore-eos",
        action="store_true",
        help="request answers of the full length by ignore_eos and min_tokens (llama.cpp, vLLM)",
    )
    parser.add_argument(
        "--latency",
        metavar="NAME|FILE",
        help="latency model of the endpoint: a preset, or a file of --calibrate --json (default: measured)",
    )
    parser.add_argument(
        "--calibrate", action="store_true", help="only measure the endpoint's latency, and print it"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run both sides and print the comparison; return 1 if a pass broke a promise.

    Raises:
        ConfigurationError: an option is invalid.
        InvalidDataError: recorded jobs cannot be read or replayed.
        LLMSchedError: the endpoint cannot be reached, or refuses a call.
    """
    for name, least in (("runs", 1), ("warmup", 0), ("seed", 0)):
        if getattr(options, name) < least:
            raise ConfigurationError(f"--{name} must be at least {least}, not {getattr(options, name)}")
    if options.apps is not None and options.mix is not None:
        raise ConfigurationError("give either --apps or --mix, not both")
    try:
        from llmsched_langgraph.lab.demo.progress import progress
        from llmsched_langgraph.lab.testbed.compare import Settings, calibrate, compare, totals
    except ImportError as error:
        raise needs_extra("the testbed", error.name, "demo") from None
    from llmsched_langgraph.lab.testbed.jobs import workload

    settings = Settings(
        slots=options.slots,
        ahead=options.ahead,
        load=options.load,
        seed=options.seed,
        rounds=options.rounds,
        policy=options.policy,
        base_url=options.base_url,
        model=options.model,
        time_scale=options.time_scale,
        latency=options.latency,
        ignore_eos=options.ignore_eos,
    )
    skipped = SkippedLines()
    work = workload(
        runs=options.runs,
        warmup=options.warmup,
        seed=options.seed,
        mix=options.mix or "mixed",
        apps=None if options.apps is None else [app for app in options.apps.split(",") if app],
        traces=options.traces,
        skipped=skipped,
    )
    with progress(options.runs, totals(work, settings)) as on_finish:
        if options.calibrate:
            speed = calibrate(work, settings, on_finish)
        else:
            comparison = compare(work, settings, on_finish)
    # Printing waits for the end of the progress bars, which redraw the terminal.
    if options.calibrate:
        _print_speed(speed, as_data=options.json)
        return 0
    if options.json:
        print(json.dumps({**comparison.as_json(), "skipped": skipped.as_json()}))
    else:
        _print_tables(comparison)
    broken = comparison.broken_promises()
    for promise in broken:
        print(f"llmsched: {promise}", file=sys.stderr)
    return 1 if broken else 0


def _print_speed(latency: LatencyModel, *, as_data: bool) -> None:
    from llmsched_langgraph.lab.testbed.speed import as_json

    if as_data:
        print(json.dumps({"latency": as_json(latency)}))
        return
    print(f"{latency.source}, in seconds")
    stalls = ", one at a time, with decoding stopped" if latency.prefill_stalls else ""
    per_token_s = latency.prefill_s_per_token
    print(f"prefill {latency.prefill_base_s:.4f} + {per_token_s:.6f} for each prompt token{stalls}")
    for batch, step_s in latency.decode_step_s:
        print(f"a decode step with {batch} at once {step_s:.5f}, {batch / step_s:.0f} tokens/s in all")


def _print_tables(comparison: Comparison) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    meta, console = comparison.meta, Console()
    where = meta["base_url"] or "the embedded backend"
    table = Table(
        title=f"{meta['runs']} jobs on {comparison.slots} slots of {where}, load {meta['load']:g}, "
        f"{meta['rounds']} x each side (JCT in seconds)",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    for column in ("mean", "p50", "p95", "makespan", "peak", "reduction", "predicted"):
        table.add_column(column, justify="right", no_wrap=True)
    predicted = comparison.predicted
    for name, reduction, mean_s in (
        ("stock", "", predicted.stock_mean_jct_s),
        ("scheduled", f"{comparison.reduction():.0%}", predicted.scheduled_mean_jct_s),
    ):
        part = comparison.figures(name)
        table.add_row(
            name,
            *(f"{x:.2f}" for x in (part.mean_jct_s, part.p50_jct_s, part.p95_jct_s, part.makespan_s)),
            str(part.backend_peak),
            reduction,
            f"{mean_s:.2f}",
        )
    console.print(table)
    each = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    each.add_column("mean JCT by application")
    for column in ("runs", "stock", "scheduled", "reduction"):
        each.add_column(column, justify="right", no_wrap=True)
    for app, runs in comparison.apps.items():
        means = [comparison.figures(name, app).mean_jct_s for name in ("stock", "scheduled")]
        each.add_row(app, str(runs), *(f"{x:.2f}" for x in means), f"{comparison.reduction(app):.0%}")
    console.print(each)
    made = comparison.scheduled[0].lengths
    console.print(
        f"JCT is job completion time, waiting included; predicted is the mean JCT of the simulator "
        f"(reduction {predicted.mean_jct_reduction:.0%}). {made['calls']} calls in a pass: "
        f"{_share(made, 'prompt_tokens')} of the prompt tokens and {_share(made, 'output_tokens')} of the "
        f"output tokens that were requested. Time scale {meta['time_scale']:.3g}{_fitted(comparison)}."
    )


def _fitted(comparison: Comparison) -> str:
    fit = comparison.predicted.fit
    if not comparison.meta["warmup"]:
        return ""
    return (
        f"; the server was {fit.speed:.2f} times as fast in the warm-up as its latency model says, "
        f"a handover took {fit.handover_s * 1000:.0f} ms"
    )


def _share(made: dict[str, int], what: str) -> str:
    return f"{made[what] / max(made[f'{what}_asked'], 1):.0%}"
