"""Defines `llmsched serve-sim`: its options, and the line that it prints when the server is up.

Does not contain the server; its optional packages are imported when the command runs.
"""

from __future__ import annotations

import argparse
import json

from llmsched_langgraph.lab.serve_sim.server import DEFAULT_LATENCY, DEFAULT_MODEL, SimulatedBackend, serve
from llmsched_langgraph.lab.sim.latency import LATENCY_MODELS


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `llmsched serve-sim` to the parser."""
    parser = subparsers.add_parser(
        "serve-sim",
        help="run an OpenAI-compatible backend with the latency of a real one, without GPU or key",
        description="Run an OpenAI-compatible backend on loopback with the latency of a model server. "
        "Replies are generated from the seed, or scripted by the request: "
        '<sim>{"content": "...", "output_tokens": 200}</sim> in a message. Counts: GET /sim/statistics. '
        "Other slots: POST /sim/resize?slots=N.",
    )
    parser.add_argument(
        "--slots", type=int, default=8, help="requests that run at once (default: %(default)s)"
    )
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help=f"a model to serve, repeatable (default: {DEFAULT_MODEL})",
    )
    parser.add_argument(
        "--latency",
        default=DEFAULT_LATENCY,
        metavar="NAME",
        help=f"latency model: {', '.join(LATENCY_MODELS)} (default: %(default)s)",
    )
    parser.add_argument(
        "--time-scale",
        type=float,
        default=1.0,
        metavar="X",
        help="speed-up over the modelled hardware (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all replies (default: %(default)s)")
    parser.add_argument(
        "--queue-limit",
        type=int,
        metavar="N",
        help="answer 429 when N requests already wait (default: no limit)",
    )
    parser.add_argument("--no-retry-after", action="store_true", help="name no time in a 429")
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any free port (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the start line as one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; return the exit status.

    Raises:
        ConfigurationError: A setting is invalid, the port is taken, or the `sim` extra is not installed.
    """
    config = SimulatedBackend(
        slots=args.slots,
        models=tuple(args.model or (DEFAULT_MODEL,)),
        latency=args.latency,
        time_scale=args.time_scale,
        seed=args.seed,
        queue_limit=args.queue_limit,
        retry_after=not args.no_retry_after,
        host=args.host,
        port=args.port,
    )
    serve(config, lambda base_url: print(_start_line(config, base_url, args.json), flush=True))
    return 0


def _start_line(config: SimulatedBackend, base_url: str, as_json: bool) -> str:
    settings = {
        "slots": config.slots,
        "models": list(config.models),
        "latency": config.latency,
        "time_scale": config.time_scale,
        "seed": config.seed,
        "queue_limit": config.queue_limit,
    }
    if as_json:
        return json.dumps({"base_url": base_url, **settings})
    settings["models"] = ",".join(config.models)
    shown = " ".join(f"{name}={value}" for name, value in settings.items() if value is not None)
    return f"serving {base_url} {shown} (stop with Ctrl-C)"
