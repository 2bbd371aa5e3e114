"""Defines `llmsched metrics`: serves the metrics of a shared ledger to Prometheus.

Does not read the ledger itself.
"""

from __future__ import annotations

import argparse
import os
import sys

from llmsched_langgraph.cli.shared_ledger import add_ledger
from llmsched_langgraph.errors import ConfigurationError

PORT = 9464
"""The port that OpenTelemetry's exporters for Prometheus use."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `llmsched metrics` to the parser."""
    parser = subparsers.add_parser(
        "metrics",
        help="serve the metrics of slots that several processes share, for Prometheus",
        description=(
            "Serves http://HOST:PORT/metrics: slots, calls that wait, pauses and workers of the ledger that "
            "schedulers of one name share. It reads the server at each scrape and changes nothing. While the "
            "server does not answer, llmsched_up is 0. The waits of calls are exported by each process, by "
            "llmsched_langgraph.observe."
        ),
    )
    add_ledger(parser)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to serve at; names of tenants are readable there (default: %(default)s)",
    )
    parser.add_argument("--port", type=int, default=PORT, help="0 takes any free port (default: %(default)s)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="leave out the numbers of each tenant, which take the longer to read the more calls wait",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve until an interrupt.

    Raises:
        ConfigurationError: there is no URL, it is invalid, the address cannot be served at, or the package
            redis or prometheus_client is not installed.
    """
    from llmsched_langgraph._observe.prometheus import needs_prometheus
    from llmsched_langgraph._runtime.shared.home import VARIABLE

    url = options.url or os.environ.get(VARIABLE)
    if not url:
        raise ConfigurationError(f"metrics: name the server by --url URL, or by {VARIABLE}")
    if not 0 <= options.port <= 65535:
        raise ConfigurationError(f"--port must be from 0 to 65535, not {options.port}")
    needs_prometheus()
    from prometheus_client import CollectorRegistry, start_http_server

    from llmsched_langgraph._runtime.shared.exporter import LedgerCollector

    collector = LedgerCollector(
        url, options.name, quick=options.quick, tell=lambda text: print(f"llmsched: {text}", file=sys.stderr)
    )
    registry = CollectorRegistry()
    registry.register(collector)
    try:
        server, thread = start_http_server(options.port, options.host, registry)
    except OSError as error:
        raise ConfigurationError(
            f"{options.host}:{options.port} cannot be served at: {error.strerror or error}; choose another "
            f"--port or --host"
        ) from None
    host = f"[{options.host}]" if ":" in options.host else options.host
    print(
        f"serving http://{host}:{server.server_port}/metrics of {collector.url} (stop with Ctrl-C)",
        flush=True,
    )
    try:
        thread.join()
    finally:
        server.shutdown()
        server.server_close()
    return 0
