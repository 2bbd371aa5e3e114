"""Defines `llmsched doctor`: examines a shared ledger and its server, and prints what it found.

Does not examine anything itself.
"""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING

from llmsched_langgraph.cli.shared_ledger import add_ledger
from llmsched_langgraph.errors import ConfigurationError

if TYPE_CHECKING:
    from llmsched_langgraph._runtime.shared.doctor import Report


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `llmsched doctor` to the parser."""
    parser = subparsers.add_parser(
        "doctor",
        help="check the Redis or Valkey server whose slots several processes share",
        description=(
            "Checks the server, and the ledger of slots that schedulers of one name share: one line for "
            "each check, with the cure. It only reads. The exit status is 1 if a line says error, else 0."
        ),
    )
    add_ledger(parser)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="do not read the calls that wait and the slots that are held, one by one: for frequent probes",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Examine the ledger, and print what was found.

    Returns:
        1 if there is an error, else 0.

    Raises:
        ConfigurationError: there is no URL, it is invalid, or the package redis is not installed.
    """
    from llmsched_langgraph._runtime.shared.doctor import examined
    from llmsched_langgraph._runtime.shared.home import VARIABLE

    url = options.url or os.environ.get(VARIABLE)
    if not url:
        raise ConfigurationError(f"doctor: name the server by --url URL, or by {VARIABLE}")
    report = examined(url, options.name, quick=options.quick)
    print(_json(report) if options.json else _text(report))
    return 1 if report.level == "error" else 0


def _text(report: Report) -> str:
    return "\n".join(
        f"{one.level:7}  {one.check:8}  {one.text}{one.cure and f'; cure: {one.cure}'}"
        for one in report.findings
    )


def _json(report: Report) -> str:
    checks = [
        {"check": one.check, "level": one.level, "text": one.text, "cure": one.cure or None}
        for one in report.findings
    ]
    return json.dumps(
        {"url": report.url, "name": report.name, "level": report.level, **report.facts, "checks": checks}
    )
